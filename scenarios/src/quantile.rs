//! Quantiles of samples that are all at hand, by sorting them.
//!
//! No sketch: a run keeps every request anyway, and a tail that is itself an estimate cannot settle
//! which of two policies has the better one. Between two samples the value is interpolated linearly,
//! as numpy and `vllm bench serve` do, so that the same requests give the same P99 here and there.

use serde::{Deserialize, Serialize};

/// The figures by which latencies are compared, in the unit of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
}

impl Distribution {
    /// Of `samples`, which are left sorted. `None` if there are none.
    pub fn of(samples: &mut [f64]) -> Option<Self> {
        if samples.is_empty() {
            return None;
        }
        samples.sort_by(f64::total_cmp);
        Some(Self {
            mean: samples.iter().sum::<f64>() / samples.len() as f64,
            p50: quantile(samples, 0.5),
            p90: quantile(samples, 0.9),
            p99: quantile(samples, 0.99),
        })
    }
}

/// The `q`-quantile of samples in ascending order, which must not be empty.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    assert!((0.0..=1.0).contains(&q), "a quantile lies between 0 and 1, not at {q}");
    let last = sorted.len().checked_sub(1).expect("a quantile needs a sample");
    let position = q * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    let weight = position - below as f64;
    sorted[below] + (sorted[above] - sorted[below]) * weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_by_hand() {
        let sorted = [1.0, 2.0, 4.0, 8.0, 16.0];
        assert_eq!(quantile(&sorted, 0.0).to_bits(), 1.0_f64.to_bits());
        assert_eq!(quantile(&sorted, 0.5).to_bits(), 4.0_f64.to_bits());
        // Position 3.6: six tenths of the way from 8 to 16.
        assert!((quantile(&sorted, 0.9) - 12.8).abs() < 1e-12);
        assert_eq!(quantile(&sorted, 1.0).to_bits(), 16.0_f64.to_bits());
        assert_eq!(quantile(&[7.0], 0.99).to_bits(), 7.0_f64.to_bits());
    }

    #[test]
    fn a_distribution_by_hand() {
        let mut samples: Vec<f64> = (1..=101).rev().map(f64::from).collect();
        let distribution = Distribution::of(&mut samples).unwrap();
        assert_eq!(distribution, Distribution { mean: 51.0, p50: 51.0, p90: 91.0, p99: 100.0 });
        assert_eq!(Distribution::of(&mut []), None);
    }
}
