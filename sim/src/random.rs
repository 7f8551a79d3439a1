//! Random streams forked by label: a draw in one part of a run cannot shift another.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// A stream of numbers that depends on a seed and a label, and on nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Stream(ChaCha8Rng);

impl Stream {
    pub(crate) fn fork(seed: u64, label: &str) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(fnv1a(label));
        Self(rng)
    }

    /// A number below `bound`, each equally likely up to `bound` parts in 2^64.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "nothing to draw from");
        ((u128::from(self.0.next_u64()) * bound as u128) >> 64) as usize
    }

    /// `true` with this probability.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        // 53 random bits, as many as a double has.
        let uniform = (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        uniform < probability
    }
}

/// The seed of a part that has a seed of its own.
pub(crate) fn fork_seed(seed: u64, label: &str) -> u64 {
    Stream::fork(seed, label).0.next_u64()
}

fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_and_label_and_draw_evenly() {
        assert_eq!(fork_seed(1, "a"), fork_seed(1, "a"));
        assert_ne!(fork_seed(1, "a"), fork_seed(2, "a"));
        assert_ne!(fork_seed(1, "a"), fork_seed(1, "b"));
        let mut stream = Stream::fork(7, "test");
        let heads = (0..10_000).filter(|_| stream.chance(0.25)).count();
        assert!(heads.abs_diff(2500) < 220, "{heads}"); // five standard deviations
        assert!((0..1000).all(|_| stream.below(3) < 3));
    }
}
