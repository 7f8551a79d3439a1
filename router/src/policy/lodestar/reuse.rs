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
const SAMPLING: u32 = 32;
/// Blocks that are followed at a time, of those used last: 500 million tokens' in blocks of 16, as 500 H200 hold.
const FOLLOWED: usize = 1 << 20;
/// Ages are counted by powers of two, from a millisecond: all that are younger count as one.
const AGES: usize = 32;
const YOUNGEST_POWER: u32 = 20;
/// Time constant of the counts, s. Sessions pause for minutes, and where few of them fill the caches, a few of their
/// pauses are all there is to count.
const AVERAGE_S: f64 = 1800.0;
/// Uses that count after a restart.
const RECALLED_USES: f64 = 1000.0;

/// When blocks are used again, in the whole fleet.
#[derive(Clone, Debug, Default)]
pub(super) struct Reuse {
    last_use: HashMap<BlockHash, Time, FxBuildHasher>,
    /// Uses in their order, with those that are not the last of their block.
    order: VecDeque<(BlockHash, Time)>,
    /// Uses of blocks that are followed: all, and by age since the use before.
    uses: f64,
    reuses: [f64; AGES],
    /// Of blocks that get as old, the part used again at each age, over the width of its interval; every instance asks for it.
    densities: [f64; AGES],
    counted_at: Time,
    /// Of the last prompt, the blocks that are followed, tokens that each stands for, and whether blocks have names at all.
    followed: Vec<BlockHash>,
    followed_tokens: u32,
    is_named: bool,
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

fn age_index(age: Duration) -> usize {
    let power = (age.as_nanos() >> YOUNGEST_POWER).checked_ilog2();
    power.map_or(0, |power| power as usize + 1).min(AGES - 1)
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
        let mut left = self.uses;
        for (density, count) in self.densities.iter_mut().zip(self.reuses) {
            // An interval is a factor of two of ages wide. At most ages nobody asks, and divisions are not cheap.
            *density =
                if count > 0.0 { count / std::f64::consts::LN_2 / left.max(1.0) } else { 0.0 };
            left -= count;
        }
    }

    /// A prompt is used, in blocks of `block_tokens`.
    pub(super) fn used(&mut self, now: Time, chain: &[BlockHash], block_tokens: u32) {
        let secs = now.saturating_since(self.counted_at).as_secs_f64();
        self.counted_at = now;
        let kept = libm::exp(-secs / AVERAGE_S);
        self.uses *= kept;
        self.reuses.iter_mut().for_each(|count| *count *= kept);
        self.is_named = !chain.is_empty();
        self.followed.clear();
        let is_followed = |block: &&BlockHash| (block.0 >> 32).is_multiple_of(u64::from(SAMPLING));
        self.followed.extend(chain.iter().filter(is_followed));
        self.followed_tokens = SAMPLING.saturating_mul(block_tokens);
        for &block in &self.followed {
            self.uses += 1.0;
            if let Some(before) = self.last_use.insert(block, now) {
                self.reuses[age_index(now.saturating_since(before))] += 1.0;
            }
            self.order.push_back((block, now));
        }
        self.forget_the_oldest();
        self.sum_up();
    }

    fn forget_the_oldest(&mut self) {
        while self.last_use.len() > FOLLOWED {
            let (block, at) = self.order.pop_front().expect("each block has its last use in it");
            if self.last_use.get(&block) == Some(&at) {
                self.last_use.remove(&block);
            }
        }
        // Twice as long before the next time: a use costs the same, however often.
        if self.order.len() > 2 * self.last_use.len() + FOLLOWED / 16 {
            self.order.retain(|(block, at)| self.last_use.get(block) == Some(at));
        }
    }

    /// Of the prompt used last, the blocks that are followed, and tokens that each stands for; `None` if its content is unknown.
    pub(super) fn last_prompt(&self) -> Option<(&[BlockHash], u32)> {
        self.is_named.then_some((&self.followed, self.followed_tokens))
    }

    /// Tokens that must be computed again for each that a cache takes in whose blocks leave at that age, 0 to 1.
    pub(super) fn price(&self, residence: Option<Duration>) -> f64 {
        let Some(residence) = residence else { return 0.0 };
        // On a line between the middles of intervals: without, caches a second apart could differ by the whole price.
        let youngest = (1_u64 << YOUNGEST_POWER) as f64;
        let octaves = libm::log2((residence.as_nanos() as f64 / youngest).max(1.0)) + 0.5;
        let below = (octaves as usize).min(AGES - 2);
        let part = (octaves - below as f64).min(1.0);
        let [low, high] = [self.densities[below], self.densities[below + 1]];
        (low + part * (high - low)).min(1.0)
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
        (0..100)
            .map(|block| BlockHash(((prompt * 100 + block) * u64::from(SAMPLING)) << 32))
            .collect()
    }

    #[test]
    fn a_place_costs_what_is_asked_for_at_the_age_at_which_it_is_lost() {
        let mut reuse = Reuse::default();
        // Each prompt comes twice, 10 s apart, and never again.
        for second in 0..200 {
            reuse.used(at(second), &chain(second), 16);
            if second >= 10 {
                reuse.used(at(second), &chain(second - 10), 16);
            }
        }
        // Half of all uses are followed by another, all of them at 8.6 to 17.2 s: 1/2 / ln 2 by logarithm of age.
        let price = reuse.price(Some(Duration::from_secs(12)));
        assert!((price - 0.72).abs() < 0.03, "{price}");
        // Half way to the middle of the next interval, where nobody asks.
        let price = reuse.price(Some(Duration::from_nanos(1 << 34)));
        assert!((price - 0.36).abs() < 0.015, "{price}");
        // Younger blocks are not asked for yet, older ones no more.
        assert!(reuse.price(Some(Duration::from_secs(4))) < 1e-9);
        assert!(reuse.price(Some(Duration::from_secs(40))) < 1e-9);
        assert!(reuse.price(None) < 1e-9, "there is room");
    }

    #[test]
    fn what_was_used_last_is_remembered() {
        let mut reuse = Reuse::default();
        let prompts = FOLLOWED as u64 / 50;
        for prompt in 0..prompts {
            reuse.used(at(prompt), &chain(prompt), 16);
            // The first prompt is used all the time.
            reuse.used(at(prompt), &chain(0), 16);
            assert!(reuse.order.len() <= 2 * reuse.last_use.len() + FOLLOWED / 16);
        }
        assert_eq!(reuse.last_use.len(), FOLLOWED);
        let is_known = |prompt: u64| reuse.last_use.contains_key(&chain(prompt)[0]);
        assert!(is_known(0) && is_known(prompts - 1) && !is_known(1));
    }
}
