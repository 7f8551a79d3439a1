//! How far simulated latencies are from measured ones.

use crate::quantile::quantile;

/// Error of one latency over all requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ErrorStatistics {
    /// Requests compared.
    pub requests: usize,
    /// Mean of the measured values, ms.
    pub measured_mean_ms: f64,
    /// Mean of the simulated values, ms.
    pub simulated_mean_ms: f64,
    /// Share of the measured variance that the simulation explains: `1 - SSE / SST`. Negative when the
    /// measured mean would have been a better answer.
    pub r2: f64,
    /// Pearson's correlation coefficient.
    pub correlation: f64,
    /// Mean of `|simulated / measured - 1|`.
    pub mean_error: f64,
    /// Median of the same.
    pub median_error: f64,
    /// 95th percentile of the same.
    pub p95_error: f64,
    /// The largest of them.
    pub max_error: f64,
}

impl ErrorStatistics {
    /// Of `(measured, simulated)` pairs in ms, measured ones positive. `None` if there are none.
    pub fn of(pairs: &[(f64, f64)]) -> Option<Self> {
        if pairs.is_empty() {
            return None;
        }
        let count = pairs.len() as f64;
        let measured_mean_ms = pairs.iter().map(|pair| pair.0).sum::<f64>() / count;
        let simulated_mean_ms = pairs.iter().map(|pair| pair.1).sum::<f64>() / count;
        let (mut sst, mut sse, mut ssx, mut covariance) = (0.0, 0.0, 0.0, 0.0);
        for (measured, simulated) in pairs {
            let (dm, ds) = (measured - measured_mean_ms, simulated - simulated_mean_ms);
            sst += dm * dm;
            ssx += ds * ds;
            covariance += dm * ds;
            sse += (simulated - measured) * (simulated - measured);
        }
        let mut errors: Vec<f64> =
            pairs.iter().map(|(measured, simulated)| (simulated / measured - 1.0).abs()).collect();
        errors.sort_by(f64::total_cmp);
        Some(Self {
            requests: pairs.len(),
            measured_mean_ms,
            simulated_mean_ms,
            r2: 1.0 - sse / sst,
            correlation: covariance / (sst * ssx).sqrt(),
            mean_error: errors.iter().sum::<f64>() / count,
            median_error: quantile(&errors, 0.5),
            p95_error: quantile(&errors, 0.95),
            max_error: quantile(&errors, 1.0),
        })
    }

    /// How much larger the simulated mean is than the measured one, as a share of it.
    pub fn mean_bias(&self) -> f64 {
        self.simulated_mean_ms / self.measured_mean_ms - 1.0
    }
}

/// The median of some values. `None` if there are none.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    (!values.is_empty()).then(|| quantile(&values, 0.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_by_hand() {
        let pairs = [(100.0, 110.0), (200.0, 190.0), (400.0, 400.0)];
        let errors = ErrorStatistics::of(&pairs).unwrap();
        // SST = 46,666.7 about the mean of 233.3; SSE = 200.
        assert!((errors.r2 - (1.0 - 200.0 / 46_666.666_667)).abs() < 1e-9);
        assert!((errors.correlation - 0.998_008).abs() < 1e-5, "{}", errors.correlation);
        assert!((errors.mean_error - 0.05).abs() < 1e-12);
        assert!((errors.median_error - 0.05).abs() < 1e-12);
        assert!((errors.p95_error - 0.095).abs() < 1e-12);
        assert!((errors.max_error - 0.1).abs() < 1e-12);
        assert!(errors.mean_bias().abs() < 1e-12);
        assert_eq!(ErrorStatistics::of(&[]), None);
    }

    #[test]
    fn a_mean_explains_nothing() {
        let errors = ErrorStatistics::of(&[(1.0, 2.0), (3.0, 2.0)]).unwrap();
        assert!(errors.r2.abs() < 1e-12);
    }
}
