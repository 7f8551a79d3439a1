//! What is believed of an instance that has shown nothing yet: what the others of its kind have shown, or all.
//!
//! An engine does not say which GPU it has, but those of one kind that serve one model have caches of one size. Of ten
//! slow instances only the first has to be tried to know that the others are slow, too. Kinds whose caches are of one size share what is known.

use super::law::{Law, Work};

/// How much two caches of one kind may differ, as a part of the larger: engines measure what memory is left.
const TOLERANCE: f64 = 0.02;

/// Laws of times to first token and per output token.
#[derive(Clone, Debug)]
pub(super) struct Laws {
    pub(super) ttft: Law,
    pub(super) tpot: Law,
}

impl Default for Laws {
    fn default() -> Self {
        Self { ttft: Law::of_ttft(), tpot: Law::of_tpot() }
    }
}

/// All instances together, and by kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Fleet {
    pub(super) all: Laws,
    /// With the size of its first instance's cache, in tokens.
    kinds: Vec<(u64, Laws)>,
}

impl Fleet {
    /// The number of the kind with caches of this size.
    pub(super) fn kind(&mut self, capacity_tokens: u64) -> usize {
        let is_alike = |&(known, _): &(u64, Laws)| {
            let difference = known.abs_diff(capacity_tokens) as f64;
            difference <= TOLERANCE * known.max(capacity_tokens) as f64
        };
        self.kinds.iter().position(is_alike).unwrap_or_else(|| {
            self.kinds.push((capacity_tokens, Laws::default()));
            self.kinds.len() - 1
        })
    }

    /// Of times to first token, what that kind has shown; if it has shown nothing, what all have.
    pub(super) fn ttft(&self, kind: usize) -> &Law {
        let known = self.kinds.get(kind).map(|(_, laws)| &laws.ttft);
        known.filter(|law| law.samples() > 0).unwrap_or(&self.all.ttft)
    }

    /// The same for times per output token.
    pub(super) fn tpot(&self, kind: usize) -> &Law {
        let known = self.kinds.get(kind).map(|(_, laws)| &laws.tpot);
        known.filter(|law| law.samples() > 0).unwrap_or(&self.all.tpot)
    }

    /// `work` has taken `secs` until the first token on an instance of that kind.
    pub(super) fn learn_ttft(&mut self, kind: usize, work: &Work, secs: f64) {
        if let Some((_, laws)) = self.kinds.get_mut(kind) {
            laws.ttft.learn(work, secs, Some(&self.all.ttft));
        }
        self.all.ttft.learn(work, secs, None);
    }

    /// The same for times per output token.
    pub(super) fn learn_tpot(&mut self, kind: usize, work: &Work, secs: f64) {
        if let Some((_, laws)) = self.kinds.get_mut(kind) {
            laws.tpot.learn(work, secs, Some(&self.all.tpot));
        }
        self.all.tpot.learn(work, secs, None);
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
        assert_eq!(fleet.tpot(fast).secs(&work), fleet.all.tpot.secs(&work));
    }
}
