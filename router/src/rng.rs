//! Random streams that cannot disturb each other: each is a function of the seed and a label alone.
//!
//! Splitting one generator would be shorter, but then every stream depends on how many were split, or
//! drawn from, before it. Bounded integers are made here, because `rand` may change how it makes
//! them, and with that every recorded run.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// One stream.
#[derive(Clone, Debug)]
pub(crate) struct Rng(ChaCha8Rng);

impl Rng {
    /// The stream of `seed` called `label`. ChaCha is keyed by both, so two streams that differ in
    /// either are independent.
    pub(crate) fn fork(seed: u64, label: &str) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&fnv1a(label.as_bytes()).to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    /// A number below `bound`, each equally likely up to `bound` parts in 2^64.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "nothing to draw from");
        let product = u128::from(self.0.next_u64()) * bound as u128;
        (product >> 64) as usize
    }

    /// 64 random bits, such as another stream can be seeded with.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `[0, 1)`: 53 random bits.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(seed: u64, label: &str) -> Vec<usize> {
        let mut rng = Rng::fork(seed, label);
        (0..8).map(|_| rng.below(1000)).collect()
    }

    #[test]
    fn fnv1a_agrees_with_the_published_vectors() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_stream_depends_on_the_seed_and_on_the_label() {
        assert_eq!(draws(1, "policy"), draws(1, "policy"));
        assert_ne!(draws(1, "policy"), draws(2, "policy"));
        assert_ne!(draws(1, "policy"), draws(1, "other"));
    }

    #[test]
    fn every_number_below_the_bound_comes_up_equally_often() {
        let mut rng = Rng::fork(7, "test");
        let mut counts = [0_u32; 5];
        for _ in 0..50_000 {
            counts[rng.below(5)] += 1;
        }
        // Five standard deviations of a binomial with n = 50,000 and p = 1/5 are 447.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 450), "{counts:?}");
    }
}
