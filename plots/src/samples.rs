//! From columns of a table to points of a figure.

use lodestar_scenarios::{RunTables, quantile};

use crate::canvas::Point;

/// Points of a curve that is drawn: more than there are pixels would only make the file larger.
const CURVE_POINTS: usize = 400;

/// The share of samples at or below each value, from the smallest to the largest sample.
pub(crate) fn cumulative(mut samples: Vec<f64>) -> Vec<Point> {
    if samples.is_empty() {
        return Vec::new();
    }
    samples.sort_by(f64::total_cmp);
    let share = |index: usize| index as f64 / CURVE_POINTS as f64;
    let mut points = vec![(samples[0], 0.0)];
    points.extend((0..=CURVE_POINTS).map(share).map(|share| (quantile(&samples, share), share)));
    points
}

/// Samples by the equal part of `0..end` that their time falls into.
pub(crate) fn by_time(samples: &[(f64, f64)], end: f64, parts: usize) -> Vec<Vec<f64>> {
    let mut binned = vec![Vec::new(); parts];
    for (time, value) in samples {
        let part = (time / end * parts as f64) as usize;
        binned[part.min(parts - 1)].push(*value);
    }
    binned
}

/// The middle of each part, in the unit of `end`.
pub(crate) fn middles(end: f64, parts: usize) -> impl Iterator<Item = f64> {
    (0..parts).map(move |part| (part as f64 + 0.5) / parts as f64 * end)
}

/// The mean of some values, `NaN` of none.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Arrival (s) and TTFT (ms) of every request that got a first token.
pub(crate) fn ttft_by_arrival(run: &RunTables) -> Vec<(f64, f64)> {
    let arrivals = run.requests().integers("arrival_ns");
    let ttfts = run.requests().numbers("ttft_ms");
    let pairs = arrivals.into_iter().zip(ttfts);
    pairs.filter_map(|(arrival, ttft)| Some((seconds(arrival), ttft?))).collect()
}

/// When the last request arrived, s.
pub(crate) fn last_arrival_s(runs: &[RunTables]) -> f64 {
    let arrivals = runs.iter().flat_map(|run| run.requests().integers("arrival_ns"));
    seconds(arrivals.max().unwrap_or(0)).max(1e-9)
}

/// When the last interval ended, s.
pub(crate) fn last_interval_s(runs: &[RunTables]) -> f64 {
    let ends = runs.iter().flat_map(|run| run.instances().integers("end_ns"));
    seconds(ends.max().unwrap_or(0)).max(1e-9)
}

pub(crate) fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cumulative_curve_rises_from_nothing_to_all() {
        let points = cumulative(vec![3.0, 1.0, 2.0]);
        assert_eq!(points[0], (1.0, 0.0));
        assert_eq!(points[points.len() - 1], (3.0, 1.0));
        assert!(points.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1));
        assert!(cumulative(Vec::new()).is_empty());
    }

    #[test]
    fn time_is_parted_equally() {
        let binned = by_time(&[(0.0, 1.0), (4.9, 2.0), (5.0, 3.0), (10.0, 4.0)], 10.0, 2);
        assert_eq!(binned, [vec![1.0, 2.0], vec![3.0, 4.0]]);
        assert_eq!(middles(10.0, 2).collect::<Vec<_>>(), [2.5, 7.5]);
    }
}
