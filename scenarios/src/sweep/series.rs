//! A run over time at a coarse grain: small enough to keep of every run, and enough to draw.

use serde::{Deserialize, Serialize};

use super::marks::Mark;
use crate::tables::RunTables;

/// Most points of a time series.
pub(super) const MAX_POINTS: u64 = 120;

/// Most predictions of a run that are kept.
pub(super) const MAX_PREDICTIONS: usize = 300;

/// A run over simulated time, in bins of equal length from the start of the trace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// Length of a bin, s.
    pub bin_s: u64,
    /// Mean TTFT of the requests that arrived in each bin, ms; null if none did.
    pub ttft_mean_ms: Vec<Option<f64>>,
    /// In the order in which they first served.
    pub instances: Vec<InstanceSeries>,
    /// What changed during the run, by time.
    pub marks: Vec<Mark>,
    /// Of a policy that predicts TTFT: how well.
    pub predictions: Option<Predictions>,
}

/// One instance over time: means of what was recorded at the end of each second of a bin; null if the whole
/// cluster was idle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceSeries {
    /// Its name, such as `a100-0`.
    pub name: String,
    /// Its GPU.
    pub gpu: String,
    /// Requests in the running queue.
    pub running_requests: Vec<Option<f64>>,
    /// Requests in the waiting queue.
    pub waiting_requests: Vec<Option<f64>>,
    /// Share of KV cache blocks in use.
    pub kv_usage: Vec<Option<f64>>,
}

/// TTFT as the policy expected it of the instance it chose, and as it came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predictions {
    /// Predicted and actual TTFT, ms: of at most 300 requests, evenly out of all that have both.
    pub sample_ms: Vec<(f64, f64)>,
    /// By bin of arrival: mean of |predicted - actual| / actual; null if there is none.
    pub error: Vec<Option<f64>>,
}

impl Series {
    pub(super) fn of(run: &RunTables, marks: &[Mark]) -> Self {
        let requests = run.requests();
        let bins = Bins::until(requests.integers("ended_ns").into_iter().max().unwrap_or(0));
        let arrivals = requests.integers("arrival_ns");
        let mut ttft = Means::new(bins.count);
        for (arrival, value) in arrivals.iter().zip(requests.numbers("ttft_ms")) {
            if let Some(value) = value {
                ttft.add(bins.at(*arrival), value);
            }
        }
        Self {
            bin_s: bins.length_s,
            ttft_mean_ms: ttft.finish(),
            instances: instances(run, &bins),
            marks: marks.to_vec(),
            predictions: predictions(run, &bins),
        }
    }
}

/// By name: an instance that crashed and returned is another member of the cluster with the same name.
fn instances(run: &RunTables, bins: &Bins) -> Vec<InstanceSeries> {
    let table = run.instances();
    let (names, gpus) = (table.texts("instance"), table.texts("gpu"));
    let ends = table.integers("end_ns");
    let running = table.integers("running_requests");
    let waiting = table.integers("waiting_requests");
    let usage = table.numbers("kv_usage");
    let mut means: Vec<(&str, &str, [Means; 3])> = Vec::new();
    for (row, (name, gpu)) in names.into_iter().zip(gpus).enumerate() {
        let name = name.expect("an interval belongs to an instance");
        let at = means.iter().position(|(known, ..)| *known == name).unwrap_or_else(|| {
            let empty = [(); 3].map(|()| Means::new(bins.count));
            means.push((name, gpu.expect("an instance has a GPU"), empty));
            means.len() - 1
        });
        // The end of an interval belongs to it.
        let bin = bins.at(ends[row].saturating_sub(1));
        let values = [running[row] as f64, waiting[row] as f64, usage[row].unwrap_or(0.0)];
        for (means, value) in means[at].2.iter_mut().zip(values) {
            means.add(bin, value);
        }
    }
    let finish = |(name, gpu, means): (&str, &str, [Means; 3])| {
        let [running_requests, waiting_requests, kv_usage] = means.map(Means::finish);
        let (name, gpu) = (name.to_owned(), gpu.to_owned());
        InstanceSeries { name, gpu, running_requests, waiting_requests, kv_usage }
    };
    means.into_iter().map(finish).collect()
}

fn predictions(run: &RunTables, bins: &Bins) -> Option<Predictions> {
    let table = run.requests();
    let arrivals = table.integers("arrival_ns");
    let pairs = table.numbers("predicted_ttft_ms").into_iter().zip(table.numbers("ttft_ms"));
    let both: Vec<(u64, f64, f64)> = arrivals
        .into_iter()
        .zip(pairs)
        .filter_map(|(arrival, (predicted, actual))| Some((arrival, predicted?, actual?)))
        .collect();
    let mut error = Means::new(bins.count);
    for (arrival, predicted, actual) in &both {
        error.add(bins.at(*arrival), (predicted - actual).abs() / actual);
    }
    let step = both.len().div_ceil(MAX_PREDICTIONS).max(1);
    let sample = both.iter().step_by(step);
    (!both.is_empty()).then(|| Predictions {
        sample_ms: sample
            .map(|(_, predicted, actual)| (rounded(*predicted), rounded(*actual)))
            .collect(),
        error: error.finish(),
    })
}

/// Equal parts of a run.
struct Bins {
    length_s: u64,
    count: usize,
}

impl Bins {
    /// The shortest whole seconds with which [`MAX_POINTS`] suffice.
    fn until(end_ns: u64) -> Self {
        let seconds = end_ns.div_ceil(1_000_000_000).max(1);
        let length_s = seconds.div_ceil(MAX_POINTS);
        Self { length_s, count: seconds.div_ceil(length_s) as usize }
    }

    fn at(&self, ns: u64) -> usize {
        ((ns / (self.length_s * 1_000_000_000)) as usize).min(self.count - 1)
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
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bin_without_samples_has_no_mean() {
        let mut means = Means::new(3);
        means.add(0, 1.0);
        means.add(0, 2.0);
        means.add(2, 0.123_456);
        assert_eq!(means.finish(), [Some(1.5), None, Some(0.123)]);
    }
}
