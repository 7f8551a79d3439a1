//! What is believed of an instance that has shown nothing yet: what the others of its kind have shown, or all.
//!
//! An engine does not say which GPU it has, but those of one kind that serve one model have caches of one size. Of ten
//! slow instances only the first has to be tried to know that the others are slow, too; and what was known before a restart is
//! of another GPU if its cache had another size.

use serde::{Deserialize, Serialize};

use super::law::{Law, Work};

/// How much two caches of one kind may differ, as a part of the larger: engines measure what memory is left.
const TOLERANCE: f64 = 0.02;

/// Laws of times to first token and per output token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Laws {
    pub(super) ttft: Law,
    pub(super) tpot: Law,
}

impl Default for Laws {
    fn default() -> Self {
        Self { ttft: Law::of_ttft(), tpot: Law::of_tpot() }
    }
}

impl Laws {
    /// As they are believed after a restart.
    pub(super) fn recalled(&self) -> Self {
        Self { ttft: self.ttft.recalled(), tpot: self.tpot.recalled() }
    }

    /// The same, and tried like one of which little is known.
    pub(super) fn recalled_in_doubt(&self) -> Self {
        Self { ttft: self.ttft.recalled_in_doubt(), tpot: self.tpot.recalled_in_doubt() }
    }

    /// Whether all numbers are such as samples give.
    pub(super) fn are_sound(&self) -> bool {
        self.ttft.is_sound() && self.tpot.is_sound()
    }
}

/// What those with caches of so many tokens have shown together, or what one of them has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Known {
    pub(super) capacity_tokens: u64,
    pub(super) laws: Laws,
}

/// Whether such caches are of one kind.
pub(super) fn are_alike(capacity_tokens: u64, other_tokens: u64) -> bool {
    let difference = capacity_tokens.abs_diff(other_tokens) as f64;
    difference <= TOLERANCE * capacity_tokens.max(other_tokens) as f64
}

/// All instances together, and by kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fleet {
    pub(super) all: Laws,
    kinds: Vec<Known>,
}

impl Fleet {
    /// The number of the kind with such caches; none where engines do not say how large theirs are.
    pub(super) fn kind(&mut self, capacity_tokens: u64) -> Option<usize> {
        if capacity_tokens == 0 {
            return None;
        }
        let is_alike = |kind: &Known| are_alike(kind.capacity_tokens, capacity_tokens);
        Some(self.kinds.iter().position(is_alike).unwrap_or_else(|| {
            self.kinds.push(Known { capacity_tokens, laws: Laws::default() });
            self.kinds.len() - 1
        }))
    }

    fn laws(&self, kind: Option<usize>) -> Option<&Laws> {
        Some(&self.kinds.get(kind?)?.laws)
    }

    /// Of times to first token, what that kind has shown; if it has shown nothing, what all have.
    pub(super) fn ttft(&self, kind: Option<usize>) -> &Law {
        let known = self.laws(kind).map(|laws| &laws.ttft);
        known.filter(|law| law.samples() > 0).unwrap_or(&self.all.ttft)
    }

    /// The same for times per output token.
    pub(super) fn tpot(&self, kind: Option<usize>) -> &Law {
        let known = self.laws(kind).map(|laws| &laws.tpot);
        known.filter(|law| law.samples() > 0).unwrap_or(&self.all.tpot)
    }

    /// First tokens that those of that kind have shown.
    pub(super) fn samples(&self, kind: Option<usize>) -> u64 {
        self.laws(kind).map_or(0, |laws| laws.ttft.samples())
    }

    /// `work` has taken `secs` until the first token on an instance of that kind.
    pub(super) fn learn_ttft(&mut self, kind: Option<usize>, work: &Work, secs: f64) {
        if let Some(kind) = kind.and_then(|kind| self.kinds.get_mut(kind)) {
            kind.laws.ttft.learn(work, secs, Some(&self.all.ttft));
        }
        self.all.ttft.learn(work, secs, None);
    }

    /// The same for times per output token.
    pub(super) fn learn_tpot(&mut self, kind: Option<usize>, work: &Work, secs: f64) {
        if let Some(kind) = kind.and_then(|kind| self.kinds.get_mut(kind)) {
            kind.laws.tpot.learn(work, secs, Some(&self.all.tpot));
        }
        self.all.tpot.learn(work, secs, None);
    }

    /// As it is believed after a restart.
    pub(super) fn recalled(&self) -> Self {
        let recalled = |kind: &Known| Known {
            capacity_tokens: kind.capacity_tokens,
            laws: kind.laws.recalled_in_doubt(),
        };
        Self { all: self.all.recalled(), kinds: self.kinds.iter().map(recalled).collect() }
    }

    /// What was known before a restart of kinds was wrong.
    pub(super) fn forget_kinds(&mut self) {
        self.kinds.iter_mut().for_each(|kind| kind.laws = Laws::default());
    }

    /// Whether all numbers are such as samples give.
    pub(super) fn is_sound(&self) -> bool {
        self.all.are_sound() && self.kinds.iter().all(|kind| kind.laws.are_sound())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_shown_nothing_is_taken_for_what_others_with_such_a_cache_are() {
        let mut fleet = Fleet::default();
        let [fast, slow] = [400_000, 50_000].map(|tokens| fleet.kind(tokens));
        let work = Work::of_prefill(4000, 4000, 0.0);
        for _ in 0..20 {
            fleet.learn_ttft(fast, &work, 0.1);
            fleet.learn_ttft(slow, &work, 1.0);
        }
        let secs = |fleet: &Fleet, kind| fleet.ttft(kind).secs(&work);
        assert_eq!(fleet.kind(50_500), slow, "engines measure what is left");
        assert!((secs(&fleet, slow) - 1.0).abs() < 0.05, "{}", secs(&fleet, slow));
        assert!((secs(&fleet, fast) - 0.1).abs() < 0.01, "{}", secs(&fleet, fast));
        // Of a new kind only the others are known.
        let new = fleet.kind(52_000);
        assert!((secs(&fleet, new) - fleet.all.ttft.secs(&work)).abs() < 1e-12);
        assert!((0.1..1.0).contains(&secs(&fleet, new)), "{}", secs(&fleet, new));
    }

    #[test]
    fn times_per_token_are_a_kinds_too() {
        let mut fleet = Fleet::default();
        let [fast, slow] = [400_000, 50_000].map(|tokens| fleet.kind(tokens));
        let work = Work::of_decode(8.0, 16_000.0, 0.0);
        (0..40).for_each(|_| fleet.learn_tpot(slow, &work, 0.05));
        assert!((fleet.tpot(slow).secs(&work) - 0.05).abs() < 0.002);
        assert!((fleet.tpot(fast).secs(&work) - fleet.all.tpot.secs(&work)).abs() < 1e-12);
    }
}
