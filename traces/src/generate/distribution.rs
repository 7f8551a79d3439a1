//! Distributions of lengths, turns and pauses, given by numbers that one can read off a trace.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{WorkloadError, draw};
use crate::number::MAX_TOKENS;

/// Tries to draw inside the bounds before settling for the bound itself.
const MAX_TRIES: u32 = 1000;

/// A distribution of positive numbers. The unit is that of the field that uses it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "shape", rename_all = "snake_case", deny_unknown_fields)]
pub enum Distribution {
    /// Always the same.
    Fixed {
        /// The value.
        value: f64,
    },
    /// Exponential.
    Exponential {
        /// Mean.
        mean: f64,
    },
    /// Whole numbers from 1, each one more being as likely as the last: turns of a chat.
    Geometric {
        /// Mean, at least 1.
        mean: f64,
    },
    /// Lognormal by its mean and median.
    Lognormal {
        /// Mean before `max` cuts the tail; above the median.
        mean: f64,
        /// Median.
        p50: f64,
        /// Larger values are drawn again.
        max: Option<f64>,
    },
    /// Lognormal by its mean and the deviation of its logarithm.
    LognormalSigma {
        /// Mean before `max` cuts the tail.
        mean: f64,
        /// Deviation of the natural logarithm.
        sigma: f64,
        /// Larger values are drawn again.
        max: Option<f64>,
    },
    /// Normal; values outside the bounds are drawn again.
    Normal {
        /// Mean before the bounds cut.
        mean: f64,
        /// Standard deviation before the bounds cut.
        std: f64,
        /// Smallest value; 0 unless given.
        min: Option<f64>,
        /// Largest value.
        max: Option<f64>,
    },
    /// One of these, all alike.
    Empirical {
        /// The values seen.
        values: Vec<f64>,
    },
    /// One of these, by weight.
    Histogram {
        /// The bins.
        bins: Vec<Bin>,
    },
}

/// One value of a [`Distribution::Histogram`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bin {
    /// The value drawn.
    pub value: f64,
    /// How likely it is, relative to the others.
    pub weight: f64,
}

impl Distribution {
    /// Always this.
    pub fn fixed(value: u32) -> Self {
        Self::Fixed { value: value.into() }
    }

    pub(crate) fn check(&self, field: &str) -> Result<(), WorkloadError> {
        self.check_parameters().map_err(|error| error.within(field))
    }

    fn check_parameters(&self) -> Result<(), WorkloadError> {
        match self {
            Self::Fixed { value } => at_least(0.0, "value", *value),
            Self::Exponential { mean } => at_least(0.0, "mean", *mean),
            Self::Geometric { mean } => at_least(1.0, "mean", *mean),
            Self::Lognormal { mean, p50, max } => {
                positive("p50", *p50)?;
                at_least(*p50, "mean", *mean)?;
                max.map_or(Ok(()), |max| positive("max", max))
            }
            Self::LognormalSigma { mean, sigma, max } => {
                positive("mean", *mean)?;
                at_least(0.0, "sigma", *sigma)?;
                max.map_or(Ok(()), |max| positive("max", max))
            }
            Self::Normal { mean, std, min, max } => {
                at_least(0.0, "mean", *mean)?;
                at_least(0.0, "std", *std)?;
                let min = min.unwrap_or(0.0);
                at_least(0.0, "min", min)?;
                max.map_or(Ok(()), |max| at_least(min, "max", max))
            }
            Self::Empirical { values } => {
                if values.is_empty() {
                    return Err(WorkloadError::new("values", "is empty"));
                }
                values.iter().try_for_each(|&value| at_least(0.0, "values", value))
            }
            Self::Histogram { bins } => {
                bins.iter().try_for_each(|bin| {
                    at_least(0.0, "bins.value", bin.value)?;
                    at_least(0.0, "bins.weight", bin.weight)
                })?;
                let total = bins.iter().map(|bin| bin.weight).sum();
                positive("bins.weight (sum)", total)
            }
        }
    }

    /// A value, at least 0.
    pub(crate) fn sample(&self, rng: &mut ChaCha8Rng) -> f64 {
        match self {
            Self::Fixed { value } => *value,
            Self::Exponential { mean } => mean * draw::exponential(rng),
            Self::Geometric { mean } => geometric(rng, *mean),
            Self::Lognormal { mean, p50, max } => {
                let sigma = libm::sqrt(2.0 * libm::log(mean / p50));
                lognormal(rng, *p50, sigma, *max)
            }
            Self::LognormalSigma { mean, sigma, max } => {
                let p50 = mean / libm::exp(sigma * sigma / 2.0);
                lognormal(rng, p50, *sigma, *max)
            }
            Self::Normal { mean, std, min, max } => {
                let (min, max) = (min.unwrap_or(0.0), max.unwrap_or(f64::INFINITY));
                within(min, max, || mean + std * draw::normal(rng))
            }
            Self::Empirical { values } => values[rng.random_range(0..values.len())],
            Self::Histogram { bins } => histogram(rng, bins),
        }
    }

    /// A value as a number of tokens, at least `least`.
    pub(crate) fn tokens(&self, rng: &mut ChaCha8Rng, least: u32) -> u32 {
        // In range after the clamp; NaN cannot come from checked parameters.
        libm::round(self.sample(rng)).clamp(least.into(), MAX_TOKENS.into()) as u32
    }
}

fn lognormal(rng: &mut ChaCha8Rng, p50: f64, sigma: f64, max: Option<f64>) -> f64 {
    let max = max.unwrap_or(f64::INFINITY);
    within(0.0, max, || p50 * libm::exp(sigma * draw::normal(rng)))
}

fn geometric(rng: &mut ChaCha8Rng, mean: f64) -> f64 {
    if mean <= 1.0 {
        return 1.0;
    }
    // The number of trials until one succeeds with probability 1/mean.
    1.0 + libm::floor(draw::exponential(rng) / -libm::log1p(-1.0 / mean))
}

fn histogram(rng: &mut ChaCha8Rng, bins: &[Bin]) -> f64 {
    let total: f64 = bins.iter().map(|bin| bin.weight).sum();
    let mut left = rng.random::<f64>() * total;
    for bin in bins {
        left -= bin.weight;
        if left < 0.0 {
            return bin.value;
        }
    }
    // Rounding can leave a speck behind the last bin.
    bins.iter().rfind(|bin| bin.weight > 0.0).map_or(0.0, |bin| bin.value)
}

/// Draws until the value is inside the bounds; settles for a bound if they are hardly ever met.
fn within(min: f64, max: f64, mut draw: impl FnMut() -> f64) -> f64 {
    let mut value = draw();
    for _ in 0..MAX_TRIES {
        if (min..=max).contains(&value) {
            return value;
        }
        value = draw();
    }
    value.clamp(min, max)
}

/// Configured numbers stay below this, so that no sum or product of a few leaves the range of f64.
const LARGEST: f64 = 1e15;

pub(crate) fn at_least(least: f64, field: &str, value: f64) -> Result<(), WorkloadError> {
    if (least..=LARGEST).contains(&value) {
        return Ok(());
    }
    Err(WorkloadError::new(field, format!("is {value:?}, expected a number of at least {least}")))
}

pub(crate) fn positive(field: &str, value: f64) -> Result<(), WorkloadError> {
    if value > 0.0 && value <= LARGEST {
        return Ok(());
    }
    Err(WorkloadError::new(field, format!("is {value:?}, expected a number above 0")))
}

/// A number of things that are all held in memory.
pub(crate) fn count(field: &str, value: u32) -> Result<(), WorkloadError> {
    const MOST: u32 = 10_000_000;
    if (1..=MOST).contains(&value) {
        return Ok(());
    }
    Err(WorkloadError::new(field, format!("is {value:?}, expected 1 to {MOST}")))
}
