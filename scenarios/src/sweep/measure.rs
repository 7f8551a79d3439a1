//! What is kept of a run: its figures, the TTFT distribution as a curve, and its course at a coarse grain.

use serde::{Deserialize, Serialize};

use super::marks::Mark;
use super::series::{Series, rounded};
use crate::quantile::quantile;
use crate::summary::Summary;
use crate::tables::RunTables;

/// Points of the TTFT quantile curve, the least and the greatest included.
pub(super) const QUANTILE_POINTS: u32 = 200;

/// The measurements of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// [`crate::trace_sha256`] of the requests.
    pub trace_sha256: String,
    /// The figures by which policies are compared.
    pub summary: Summary,
    /// Refused by the router; the others of `summary.rejected` were refused by an engine, or failed when their
    /// instance died.
    pub rejected_by_router: u64,
    /// TTFT at the quantiles `i / (n - 1)`, ms, to the microsecond. Empty if no request has one.
    pub ttft_quantiles_ms: Vec<f64>,
    /// The run over time.
    pub series: Series,
}

impl Measured {
    /// Of a run that ended.
    pub(super) fn of(tables: &RunTables, trace_sha256: &str, marks: &[Mark]) -> Self {
        let outcomes = tables.requests().texts("outcome");
        let by_router = lodestar_sim::Outcome::RejectedByRouter.as_str();
        let mut ttft_ms: Vec<f64> =
            tables.requests().numbers("ttft_ms").into_iter().flatten().collect();
        Self {
            trace_sha256: trace_sha256.to_owned(),
            summary: Summary::of(tables),
            rejected_by_router: outcomes.iter().filter(|o| **o == Some(by_router)).count() as u64,
            ttft_quantiles_ms: quantile_curve(&mut ttft_ms),
            series: Series::of(tables, marks),
        }
    }
}

fn quantile_curve(samples: &mut [f64]) -> Vec<f64> {
    if samples.is_empty() {
        return Vec::new();
    }
    samples.sort_by(f64::total_cmp);
    let at = |point| quantile(samples, f64::from(point) / f64::from(QUANTILE_POINTS - 1));
    (0..QUANTILE_POINTS).map(|point| rounded(at(point))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_curve_goes_from_the_least_to_the_greatest() {
        let mut samples: Vec<f64> = (0..=398).rev().map(f64::from).collect();
        let curve = quantile_curve(&mut samples);
        assert_eq!(curve.len(), 200);
        assert!(curve.iter().zip(0..).all(|(value, i)| (value - f64::from(2 * i)).abs() < 1e-9));
        assert!(quantile_curve(&mut []).is_empty());
    }
}
