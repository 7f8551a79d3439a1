//! How long a block stays in one cache that nobody asks for.
//!
//! Until as many tokens have been used since as the cache holds, each counted once. Counting what is new would be simpler, but what
//! is used again and again stays: where sessions of an hour share a cache, the rest of it turns over three times
//! as fast as all of it would. So this is the cache in small, with the blocks that [`Reuse`](super::reuse::Reuse) follows, each for all
//! that are not, and the last use of each.

use std::collections::VecDeque;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::request::BlockHash;
use crate::time::{Duration, Time};

/// Tokens without a name are kept together, up to one part in so many of a cache.
const GRAINS: u64 = 256;
/// Stale uses that are worth a pass over all.
const STALE_MIN: usize = 1024;

/// One cache.
#[derive(Clone, Debug, Default)]
pub(super) struct Turnover {
    /// Oldest first; of a block the last one counts, the others are stale.
    uses: VecDeque<Use>,
    stale: usize,
    /// [`Use::number`] of the last use of each block.
    last_uses: HashMap<BlockHash, u64, FxBuildHasher>,
    numbers: u64,
    held_tokens: u64,
    has_evicted: bool,
}

#[derive(Clone, Copy, Debug)]
struct Use {
    number: u64,
    at: Time,
    /// `None` for what is never used again under a name: an answer, or a prompt whose content is unknown.
    block: Option<BlockHash>,
    tokens: u64,
}

impl Turnover {
    /// A prompt is used; of its blocks those that are followed, which stand for `tokens` each.
    pub(super) fn use_blocks(
        &mut self,
        now: Time,
        blocks: &[BlockHash],
        tokens: u32,
        capacity_tokens: u64,
    ) {
        for &block in blocks {
            self.push(now, Some(block), tokens);
        }
        self.evict(capacity_tokens);
        if self.stale > STALE_MIN.max(self.uses.len() / 2) {
            let last_uses = &self.last_uses;
            self.uses.retain(|one| one.is_last(last_uses));
            self.stale = 0;
        }
    }

    /// The cache takes in tokens for which nobody will ask by name.
    pub(super) fn take_in(&mut self, now: Time, tokens: u32, capacity_tokens: u64) {
        match self.uses.back_mut() {
            // As one: short answers are too many to be kept one by one.
            Some(last) if last.block.is_none() && last.tokens < capacity_tokens / GRAINS => {
                last.tokens += u64::from(tokens);
                self.held_tokens += u64::from(tokens);
            }
            _ => self.push(now, None, tokens),
        }
        self.evict(capacity_tokens);
    }

    /// How long a block stays that nobody uses; `None` as long as the cache has had room for all.
    pub(super) fn residence(&self, now: Time) -> Option<Duration> {
        let oldest = self.uses.front()?;
        self.has_evicted.then(|| now.saturating_since(oldest.at))
    }

    fn push(&mut self, now: Time, block: Option<BlockHash>, tokens: u32) {
        self.numbers += 1;
        let before = block.and_then(|block| self.last_uses.insert(block, self.numbers));
        if before.is_some() {
            self.stale += 1;
        } else {
            self.held_tokens += u64::from(tokens);
        }
        self.uses.push_back(Use {
            number: self.numbers,
            at: now,
            block,
            tokens: u64::from(tokens),
        });
    }

    /// Until it holds no more than it can. What is left begins with the last use of something.
    fn evict(&mut self, capacity_tokens: u64) {
        while let Some(&oldest) = self.uses.front() {
            let is_stale = !oldest.is_last(&self.last_uses);
            if !is_stale && self.held_tokens <= capacity_tokens {
                break;
            }
            self.uses.pop_front();
            if is_stale {
                self.stale -= 1;
                continue;
            }
            self.held_tokens -= oldest.tokens;
            self.has_evicted = true;
            if let Some(block) = oldest.block {
                self.last_uses.remove(&block);
            }
        }
        assert!(self.held_tokens <= capacity_tokens, "what is held has been used");
    }
}

impl Use {
    fn is_last(&self, last_uses: &HashMap<BlockHash, u64, FxBuildHasher>) -> bool {
        self.block.is_none_or(|block| last_uses.get(&block) == Some(&self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY_TOKENS: u64 = 1600;

    fn at(secs: u64) -> Time {
        Time::from_nanos(secs * 1_000_000_000)
    }

    fn residence_s(turnover: &Turnover, secs: u64) -> Option<f64> {
        turnover.residence(at(secs)).map(Duration::as_secs_f64)
    }

    #[test]
    fn a_block_stays_for_as_long_as_a_capacity_takes() {
        let mut turnover = Turnover::default();
        for second in 0..40 {
            assert_eq!(residence_s(&turnover, second).is_some(), second > 16, "{second}");
            turnover.take_in(at(second), 100, CAPACITY_TOKENS);
        }
        assert_eq!(residence_s(&turnover, 40), Some(16.0));
        // Short answers are not kept one by one.
        (0..10_000).for_each(|answer| turnover.take_in(at(50 + answer), 1, CAPACITY_TOKENS));
        assert!(turnover.uses.len() as u64 <= 2 * GRAINS, "{}", turnover.uses.len());
        assert_eq!(residence_s(&turnover, 10_050).map(|age| (age / 100.0) as u64), Some(16));
    }

    #[test]
    fn what_is_used_again_and_again_leaves_less_room_to_the_rest() {
        let mut turnover = Turnover::default();
        let hot: Vec<_> = (0..8).map(BlockHash).collect();
        for second in 0..2000 {
            turnover.use_blocks(at(second), &hot, 100, CAPACITY_TOKENS);
            turnover.use_blocks(at(second), &[BlockHash(100 + second)], 100, CAPACITY_TOKENS);
        }
        // 800 of 1600 tokens are hot: what is used once is followed by seven like it.
        assert_eq!(residence_s(&turnover, 1999), Some(7.0));
        assert!(turnover.uses.len() <= 16 + STALE_MIN && turnover.last_uses.len() == 16);
    }

    #[test]
    fn nothing_is_known_of_a_cache_whose_size_is_not() {
        let mut turnover = Turnover::default();
        // Nor does anything overflow of what is said to be huge.
        (0..3).for_each(|_| turnover.take_in(at(0), u32::MAX, u64::MAX));
        assert_eq!((turnover.residence(at(3)), turnover.uses.len()), (None, 1));
        let mut turnover = Turnover::default();
        turnover.use_blocks(at(1), &[BlockHash(1)], 512, 0);
        turnover.take_in(at(2), 100, 0);
        assert_eq!(turnover.residence(at(3)), None);
    }
}
