//! Ratios of two policies over the same seeds, with an interval that says how much luck is in them.
//!
//! Paired: a resample draws seeds, and with a seed the runs of both policies, which saw the same requests.
//! What makes a seed hard for both therefore does not widen the interval.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::quantile::quantile;

/// Resamples; the bounds of an interval then move by about a hundredth of its width with the stream.
const RESAMPLES: usize = 2000;

/// Of the stream that every interval is drawn from, anew: an interval depends on nothing but its samples.
const SEED: u64 = 1;

/// A range that contains the true value with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// 2.5 % quantile of the resampled values.
    pub low: f64,
    /// 97.5 % quantile.
    pub high: f64,
}

/// The interval of `Σ a / Σ b` over pairs `(a, b)`. A single pair says nothing about luck.
pub(super) fn ratio_interval(pairs: &[(f64, f64)]) -> Option<Interval> {
    if pairs.len() < 2 {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let resample = |_| ratio((0..pairs.len()).map(|_| pairs[rng.random_range(0..pairs.len())]));
    let mut ratios: Vec<f64> = (0..RESAMPLES).map(resample).collect();
    ratios.sort_by(f64::total_cmp);
    Some(Interval { low: quantile(&ratios, 0.025), high: quantile(&ratios, 0.975) })
}

/// `Σ a / Σ b`.
pub(super) fn ratio(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (a, b) = pairs.fold((0.0, 0.0), |(a, b), pair| (a + pair.0, b + pair.1));
    a / b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_one_ratio_have_an_interval_of_no_width() {
        // However unequal the seeds are: this is what pairing is for.
        let interval = ratio_interval(&[(1.0, 2.0), (10.0, 20.0), (400.0, 800.0)]).unwrap();
        assert!((interval.low - 0.5).abs() < 1e-12 && (interval.high - 0.5).abs() < 1e-12);
    }

    #[test]
    fn an_interval_holds_its_ratio_and_widens_with_the_noise() {
        let noisy = |spread: f64| {
            let pairs = [-2.0, -1.0, 0.0, 1.0, 2.0].map(|step| (80.0 + spread * step, 100.0));
            ratio_interval(&pairs).unwrap()
        };
        let (narrow, wide) = (noisy(1.0), noisy(10.0));
        assert!(narrow.low < 0.8 && 0.8 < narrow.high, "{narrow:?}");
        assert!(wide.low < narrow.low && narrow.high < wide.high, "{narrow:?} {wide:?}");
        assert!(wide.high < 1.0 && narrow.high < 0.815, "{narrow:?} {wide:?}");
        assert_eq!(noisy(1.0), narrow, "the stream is seeded");
        assert_eq!(ratio_interval(&[(1.0, 2.0)]), None);
    }
}
