//! Samples from the standard distributions, in the units and parameters that the generators use.

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Exp1, Gamma, StandardNormal, Weibull};

/// Exponential with mean 1.
pub(crate) fn exponential(rng: &mut ChaCha8Rng) -> f64 {
    Exp1.sample(rng)
}

/// Normal with mean 0 and deviation 1.
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(rng)
}

/// Gamma with this shape and scale 1.
pub(crate) fn gamma(rng: &mut ChaCha8Rng, shape: f64) -> f64 {
    Gamma::new(shape, 1.0).expect("shapes were checked with the configuration").sample(rng)
}

/// Weibull with this shape and scale 1.
pub(crate) fn weibull(rng: &mut ChaCha8Rng, shape: f64) -> f64 {
    Weibull::new(1.0, shape).expect("shapes were checked with the configuration").sample(rng)
}

/// Popularity by rank, falling as `rank^-skew`: which of `count` things a request picks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zipf {
    ranks: rand_distr::Zipf<f64>,
}

impl Zipf {
    pub(crate) fn new(count: u32, skew: f64) -> Self {
        let ranks = rand_distr::Zipf::new(f64::from(count), skew);
        Self { ranks: ranks.expect("count and skew were checked with the configuration") }
    }

    /// An index below the count.
    pub(crate) fn pick(&self, rng: &mut ChaCha8Rng) -> usize {
        self.ranks.sample(rng) as usize - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    fn mean_and_variance(draw: impl Fn(&mut ChaCha8Rng) -> f64) -> (f64, f64) {
        const DRAWS: u32 = 200_000;
        let mut rng = random::stream(1, "test");
        let values: Vec<f64> = (0..DRAWS).map(|_| draw(&mut rng)).collect();
        let mean = values.iter().sum::<f64>() / f64::from(DRAWS);
        let square = |value: &f64| (value - mean) * (value - mean);
        (mean, values.iter().map(square).sum::<f64>() / f64::from(DRAWS))
    }

    #[track_caller]
    fn check(found: (f64, f64), mean: f64, variance: f64) {
        assert!((found.0 - mean).abs() < 0.015 * (1.0 + mean.abs()), "mean {}", found.0);
        assert!((found.1 / variance - 1.0).abs() < 0.04, "variance {}", found.1);
    }

    #[test]
    fn moments() {
        check(mean_and_variance(exponential), 1.0, 1.0);
        check(mean_and_variance(normal), 0.0, 1.0);
        for shape in [0.2, 1.0, 4.5] {
            check(mean_and_variance(|rng| gamma(rng, shape)), shape, shape);
        }
        check(mean_and_variance(|rng| weibull(rng, 1.0)), 1.0, 1.0);
    }

    #[test]
    fn zipf_prefers_the_first() {
        let zipf = Zipf::new(3, 1.0);
        let mut rng = random::stream(1, "test");
        let mut counts = [0u32; 3];
        for _ in 0..11_000 {
            counts[zipf.pick(&mut rng)] += 1;
        }
        // Weights 6 : 3 : 2.
        assert!(counts[0].abs_diff(6000) < 200 && counts[2].abs_diff(2000) < 200, "{counts:?}");
    }
}
