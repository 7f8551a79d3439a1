//! What a place in a cache is worth: the chance that somebody asks for what must leave it.
//!
//! A full cache takes in a token by dropping another, the one that was used longest ago, and everything else moves one
//! place closer to the end. How much is lost by that depends on how old blocks are when they leave, and how
//! often blocks of that age are still asked for. With `h(a)` the rate at which a block that has not been used for `a` is
//! used again, and `a` the time a block stays, a token taken in costs `a · h(a)` tokens of others: each of the
//! `C` tokens held is one token closer to the end for as long as it stays. With room to spare it costs nothing.
//!
//! `a · h(a)` is the density of reuse over the logarithm of age, among blocks that got that old. It is measured by following one block in
//! [`SAMPLING`], chosen by its hash, as in SHARDS (Waldspurger et al., FAST '15): the same blocks each time, so
//! that their reuse is seen in full.

use std::collections::VecDeque;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use serde::{Deserialize, Serialize};

use crate::request::BlockHash;
use crate::time::{Duration, Time};

/// One block of so many is followed.
const SAMPLING: u64 = 32;
/// Blocks that are followed at a time.
const FOLLOWED: usize = 1 << 16;
/// Ages are counted by powers of two, from a millisecond.
const AGES: usize = 32;
/// Time constant of the counts, s.
const AVERAGE_S: f64 = 300.0;
/// Uses that count after a restart.
const RECALLED_USES: f64 = 1000.0;
/// Part of a capacity after which its turnover is written down.
const MARKS: u64 = 16;

/// When blocks are used again, in the whole fleet.
#[derive(Clone, Debug, Default)]
pub(super) struct Reuse {
    last_use: HashMap<BlockHash, Time, FxBuildHasher>,
    order: VecDeque<BlockHash>,
    /// Uses of blocks that are followed: all, and by age since the use before.
    uses: f64,
    reuses: [f64; AGES],
    /// Sums of `reuses` up to each age, which every instance asks for.
    younger: [f64; AGES],
    counted_at: Time,
}

/// How often blocks were used again, without which blocks those were.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReuseCounts {
    uses: f64,
    reuses: [f64; AGES],
}

impl ReuseCounts {
    pub(super) fn is_sound(&self) -> bool {
        self.reuses.iter().chain([&self.uses]).all(|count| count.is_finite() && *count >= 0.0)
    }
}

/// How fast one cache turns over.
#[derive(Clone, Debug, Default)]
pub(super) struct Turnover {
    taken_in_tokens: u64,
    /// How much it had taken in, and when.
    marks: VecDeque<(u64, Time)>,
}

fn age_index(age: Duration) -> usize {
    (age.as_nanos() >> 20).checked_ilog2().map_or(0, |power| power as usize + 1).min(AGES - 1)
}

impl Reuse {
    pub(super) const fn counts(&self) -> ReuseCounts {
        ReuseCounts { uses: self.uses, reuses: self.reuses }
    }

    /// Goes on from earlier counts.
    pub(super) fn restore(&mut self, now: Time, counts: ReuseCounts) {
        let part = (RECALLED_USES / counts.uses.max(1.0)).min(1.0);
        self.uses = counts.uses * part;
        self.reuses = counts.reuses.map(|count| count * part);
        self.sum_up();
        self.counted_at = now;
    }

    fn sum_up(&mut self) {
        let mut sum = 0.0;
        for (younger, count) in self.younger.iter_mut().zip(self.reuses) {
            *younger = sum;
            sum += count;
        }
    }

    /// A prompt is used.
    pub(super) fn used(&mut self, now: Time, chain: &[BlockHash]) {
        let secs = now.saturating_since(self.counted_at).as_secs_f64();
        self.counted_at = now;
        let kept = libm::exp(-secs / AVERAGE_S);
        self.uses *= kept;
        self.reuses.iter_mut().for_each(|count| *count *= kept);
        for &block in chain.iter().filter(|block| (block.0 >> 32).is_multiple_of(SAMPLING)) {
            self.uses += 1.0;
            match self.last_use.insert(block, now) {
                Some(before) => self.reuses[age_index(now.saturating_since(before))] += 1.0,
                None => self.order.push_back(block),
            }
        }
        while self.order.len() > FOLLOWED {
            let oldest = self.order.pop_front().expect("more than none");
            self.last_use.remove(&oldest);
        }
        self.sum_up();
    }

    /// Tokens that must be computed again for each that a cache takes in whose blocks leave at that age, 0 to 1.
    pub(super) fn price(&self, residence: Option<Duration>) -> f64 {
        let Some(residence) = residence else { return 0.0 };
        let age = age_index(residence);
        let left = (self.uses - self.younger[age]).max(1.0);
        // An interval is a factor of two of ages wide.
        (self.reuses[age] / std::f64::consts::LN_2 / left).min(1.0)
    }
}

impl Turnover {
    /// The cache keeps so many tokens that it did not have.
    pub(super) fn take_in(&mut self, now: Time, tokens: u32, capacity_tokens: u64) {
        let mark_tokens = (capacity_tokens / MARKS).max(1);
        if self.marks.back().is_none_or(|&(mark, _)| self.taken_in_tokens >= mark + mark_tokens) {
            self.marks.push_back((self.taken_in_tokens, now));
        }
        self.taken_in_tokens += u64::from(tokens);
        let is_past = |mark: u64| self.taken_in_tokens - mark >= capacity_tokens;
        while self.marks.get(1).is_some_and(|&(mark, _)| is_past(mark)) {
            self.marks.pop_front();
        }
    }

    /// How long a block stays that nobody uses; `None` as long as the cache has room.
    pub(super) fn residence(&self, now: Time, capacity_tokens: u64) -> Option<Duration> {
        let &(mark, since) = self.marks.front()?;
        let is_full = self.taken_in_tokens - mark >= capacity_tokens;
        is_full.then(|| now.saturating_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Time {
        Time::from_nanos(secs * 1_000_000_000)
    }

    /// Blocks of which all are followed.
    fn chain(prompt: u64) -> Vec<BlockHash> {
        (0..100).map(|block| BlockHash(((prompt * 100 + block) * SAMPLING) << 32)).collect()
    }

    #[test]
    fn a_block_stays_for_as_long_as_a_capacity_takes() {
        let mut turnover = Turnover::default();
        for second in 0..40 {
            assert_eq!(turnover.residence(at(second), 1600).is_some(), second >= 16, "{second}");
            turnover.take_in(at(second), 100, 1600);
        }
        assert_eq!(turnover.residence(at(40), 1600), Some(Duration::from_secs(16)));
    }

    #[test]
    fn a_place_costs_what_is_asked_for_at_the_age_at_which_it_is_lost() {
        let mut reuse = Reuse::default();
        // Each prompt comes twice, 10 s apart, and never again.
        for second in 0..200 {
            reuse.used(at(second), &chain(second));
            if second >= 10 {
                reuse.used(at(second), &chain(second - 10));
            }
        }
        // Half of all uses are followed by another, all of them at 8.6 to 17.2 s: 1/2 / ln 2 by logarithm of age.
        let price = reuse.price(Some(Duration::from_secs(12)));
        assert!((price - 0.72).abs() < 0.03, "{price}");
        // Younger blocks are not asked for yet, older ones no more.
        assert!(reuse.price(Some(Duration::from_secs(4))) < 1e-9);
        assert!(reuse.price(Some(Duration::from_secs(40))) < 1e-9);
        assert!(reuse.price(None) < 1e-9, "there is room");
    }

    #[test]
    fn no_more_is_remembered_than_is_followed() {
        let mut reuse = Reuse::default();
        (0..FOLLOWED as u64 / 50).for_each(|prompt| reuse.used(at(prompt), &chain(prompt)));
        assert_eq!((reuse.last_use.len(), reuse.order.len()), (FOLLOWED, FOLLOWED));
    }
}
