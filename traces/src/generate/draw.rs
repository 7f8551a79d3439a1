//! Samples from the standard distributions.
//!
//! Not `rand_distr`: it takes its logarithms through `num-traits`, which uses the platform's or libm's
//! depending on what else is compiled, and a trace must not change with either. These three are short
//! and always use libm.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Uniform in the open interval (0, 1), so that a logarithm is finite.
fn open_unit(rng: &mut ChaCha8Rng) -> f64 {
    loop {
        let value = rng.random::<f64>();
        if value > 0.0 {
            return value;
        }
    }
}

/// Exponential with mean 1.
pub(crate) fn exponential(rng: &mut ChaCha8Rng) -> f64 {
    -libm::log(open_unit(rng))
}

/// Normal with mean 0 and deviation 1 (Marsaglia's polar method; its second value is not kept, so that
/// a draw depends on nothing before it).
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    loop {
        let (x, y) = (2.0 * rng.random::<f64>() - 1.0, 2.0 * rng.random::<f64>() - 1.0);
        let square = x * x + y * y;
        if square > 0.0 && square < 1.0 {
            return x * libm::sqrt(-2.0 * libm::log(square) / square);
        }
    }
}

/// Gamma with this shape and scale 1 (Marsaglia and Tsang, 2000).
pub(crate) fn gamma(rng: &mut ChaCha8Rng, shape: f64) -> f64 {
    if shape < 1.0 {
        // Their boost for small shapes.
        let boost = libm::pow(open_unit(rng), 1.0 / shape);
        return gamma(rng, shape + 1.0) * boost;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / libm::sqrt(9.0 * d);
    loop {
        let x = normal(rng);
        let v = 1.0 + c * x;
        if v <= 0.0 {
            continue;
        }
        let v = v * v * v;
        if libm::log(open_unit(rng)) < 0.5 * x * x + d - d * v + d * libm::log(v) {
            return d * v;
        }
    }
}

/// Weibull with this shape and scale 1.
pub(crate) fn weibull(rng: &mut ChaCha8Rng, shape: f64) -> f64 {
    libm::pow(exponential(rng), 1.0 / shape)
}

/// Popularity by rank, falling as `rank^-skew`: which of `count` things a request picks.
pub(crate) struct Zipf {
    /// Cumulative, unnormalised.
    cumulative: Vec<f64>,
}

impl Zipf {
    pub(crate) fn new(count: u32, skew: f64) -> Self {
        let weight = |rank: u32| libm::pow(f64::from(rank), -skew);
        let sum = |sum: &mut f64, rank| {
            *sum += weight(rank);
            Some(*sum)
        };
        Self { cumulative: (1..=count).scan(0.0, sum).collect() }
    }

    /// An index below the count.
    pub(crate) fn pick(&self, rng: &mut ChaCha8Rng) -> usize {
        let total = self.cumulative.last().expect("Zipf has at least one rank");
        let at = rng.random::<f64>() * total;
        self.cumulative.partition_point(|&sum| sum <= at).min(self.cumulative.len() - 1)
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
