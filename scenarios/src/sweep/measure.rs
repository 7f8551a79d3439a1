//! What is kept of a run: its figures, the TTFT distribution as a curve, and its course at a coarse grain.

use lodestar_sim::{ClusterConfig, InstanceConfig, RunOutput};
use serde::{Deserialize, Serialize};

use crate::quantile::quantile;
use crate::summary::Summary;
use crate::tables::RunTables;

/// Points of the TTFT quantile curve, the least and the greatest included.
const QUANTILE_POINTS: u32 = 200;

/// Most points of a time series.
const MAX_SERIES_POINTS: u64 = 120;

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

/// A run over simulated time, in bins of equal length from the start of the trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// Length of a bin, s.
    pub bin_s: u64,
    /// Mean TTFT of the requests that arrived in each bin, ms; null if none did.
    pub ttft_mean_ms: Vec<Option<f64>>,
    /// In the fleet's order.
    pub instances: Vec<InstanceSeries>,
}

/// One instance over time: means of what was recorded at the end of each second of a bin; null if the whole
/// cluster was idle or the instance was not there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceSeries {
    /// Its name, such as `a100-0`.
    pub name: String,
    /// Its GPU.
    pub gpu: String,
    /// Requests in the waiting queue.
    pub waiting_requests: Vec<Option<f64>>,
    /// Share of KV cache blocks in use.
    pub kv_usage: Vec<Option<f64>>,
}

impl Measured {
    /// Of a run that ended.
    pub(super) fn of(
        label: &str,
        trace_sha256: &str,
        cluster: &ClusterConfig,
        output: &RunOutput,
    ) -> Self {
        let tables = RunTables::new(label, cluster, output);
        let outcomes = tables.requests().texts("outcome");
        let by_router = lodestar_sim::Outcome::RejectedByRouter.as_str();
        let mut ttft_ms: Vec<f64> =
            tables.requests().numbers("ttft_ms").into_iter().flatten().collect();
        Self {
            trace_sha256: trace_sha256.to_owned(),
            summary: Summary::of(&tables),
            rejected_by_router: outcomes.iter().filter(|o| **o == Some(by_router)).count() as u64,
            ttft_quantiles_ms: quantile_curve(&mut ttft_ms),
            series: Series::of(cluster, output),
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

impl Series {
    fn of(cluster: &ClusterConfig, output: &RunOutput) -> Self {
        let end_ns = output.requests.iter().map(|request| request.ended.as_nanos()).max();
        let seconds = end_ns.unwrap_or(0).div_ceil(1_000_000_000).max(1);
        let bin_s = seconds.div_ceil(MAX_SERIES_POINTS);
        let bins = seconds.div_ceil(bin_s) as usize;
        let bin_of = |ns: u64| ((ns / (bin_s * 1_000_000_000)) as usize).min(bins - 1);

        let mut ttft = Means::new(bins);
        for request in &output.requests {
            if let Some(value) = request.ttft() {
                ttft.add(bin_of(request.arrival.as_nanos()), value.as_nanos() as f64 / 1e6);
            }
        }
        let mut load: Vec<(Means, Means)> =
            cluster.instances.iter().map(|_| (Means::new(bins), Means::new(bins))).collect();
        // One that returns is another member, and the same instance.
        let instance_of = |member: &InstanceConfig| {
            let mut instances = cluster.instances.iter();
            instances.position(|other| other.name == member.name).expect("members are instances")
        };
        let instances: Vec<usize> = cluster.members().into_iter().map(instance_of).collect();
        for interval in &output.intervals {
            // The end of an interval belongs to it.
            let bin = bin_of(interval.end.as_nanos().saturating_sub(1));
            let (waiting, kv) = &mut load[instances[interval.instance.0 as usize]];
            waiting.add(bin, f64::from(interval.waiting_requests));
            kv.add(bin, interval.kv_usage);
        }
        let instances = cluster.instances.iter().zip(load);
        let series =
            |(instance, (waiting, kv)): (&InstanceConfig, (Means, Means))| InstanceSeries {
                name: instance.name.clone(),
                gpu: instance.gpu.clone(),
                waiting_requests: waiting.finish(),
                kv_usage: kv.finish(),
            };
        Self { bin_s, ttft_mean_ms: ttft.finish(), instances: instances.map(series).collect() }
    }
}

/// A mean a bin.
struct Means {
    sums: Vec<(f64, u32)>,
}

impl Means {
    fn new(bins: usize) -> Self {
        Self { sums: vec![(0.0, 0); bins] }
    }

    fn add(&mut self, bin: usize, value: f64) {
        self.sums[bin].0 += value;
        self.sums[bin].1 += 1;
    }

    fn finish(self) -> Vec<Option<f64>> {
        let mean = |(sum, count)| (count > 0).then(|| rounded(sum / f64::from(count)));
        self.sums.into_iter().map(mean).collect()
    }
}

/// To three decimals, which is enough to draw and half as long to store.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
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

    #[test]
    fn a_bin_without_samples_has_no_mean() {
        let mut means = Means::new(3);
        means.add(0, 1.0);
        means.add(0, 2.0);
        means.add(2, 0.123_456);
        assert_eq!(means.finish(), [Some(1.5), None, Some(0.123)]);
    }
}
