//! Policies against the baseline and against the best heuristic, cell by cell.
//!
//! A ratio is of runs with the same seed, which saw the same requests; that of a cell is the geometric mean of
//! its seeds'. Below 1 is faster.

use super::figures::{Figure, Figures};
use super::interval::{Ratio, Share, is_positive};
use super::item::{CellIdentity, Item};
use crate::scenario::Kind;
use crate::summary::Summary;

/// A policy in a cell. Figures are means over seeds; `None` where no seed has one.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparisonRow {
    /// The cell.
    pub cell: CellIdentity,
    /// The policy's label.
    pub policy: String,
    /// What sort of opponent it is.
    pub kind: Kind,
    /// Runs that ended.
    pub seeds: u64,
    /// Runs that failed.
    pub failed: u64,
    /// Mean of the mean TTFT, ms.
    pub ttft_mean_ms: Option<f64>,
    /// Of its median, ms.
    pub ttft_p50_ms: Option<f64>,
    /// Of its 99th percentile, ms.
    pub ttft_p99_ms: Option<f64>,
    /// Of the mean TPOT, ms.
    pub tpot_mean_ms: Option<f64>,
    /// Of the mean E2E latency, ms.
    pub e2e_mean_ms: Option<f64>,
    /// Of the hit ratio.
    pub hit_ratio: Option<f64>,
    /// Of preemptions.
    pub preemptions: Option<f64>,
    /// Of rejected requests.
    pub rejected: Option<f64>,
    /// Share of the requests that were rejected.
    pub lost_requests: Option<f64>,
    /// Whether that is more than the baseline's beyond luck. They have no TTFT, so ratios flatter it.
    pub loses_requests: bool,
    /// Mean TTFT against the baseline's.
    pub mean_ratio: Option<Ratio>,
    /// P99 of TTFT against the baseline's.
    pub p99_ratio: Option<Ratio>,
    /// The heuristic of the lowest mean TTFT in the cell.
    pub best_heuristic: Option<String>,
    /// Mean TTFT against that heuristic's.
    pub mean_ratio_to_best: Option<Ratio>,
    /// P99 of TTFT against that of the heuristic whose P99 is lowest, perhaps another.
    pub p99_ratio_to_best: Option<Ratio>,
    /// Share of the gap in mean TTFT between that heuristic and hindsight that it closes, of the seeds that all three have.
    pub gap_closed: Option<Share>,
}

/// Every policy in every cell; `items` by cell, policy and seed.
pub(super) fn compare_all(
    items: &[Item],
    figures: &Figures<'_>,
    baseline: &str,
) -> Vec<ComparisonRow> {
    let same = |a: &Item, b: &Item| a.cell.index == b.cell.index && a.policy == b.policy;
    items.chunk_by(same).map(|runs| row(runs, figures, baseline)).collect()
}

fn row(runs: &[Item], figures: &Figures<'_>, baseline: &str) -> ComparisonRow {
    let first = &runs[0];
    let summaries: Vec<&Summary> =
        runs.iter().filter_map(Item::measured).map(|measured| &measured.summary).collect();
    let mean = |value: fn(&Summary) -> Option<f64>| {
        let values: Vec<f64> = summaries.iter().filter_map(|summary| value(summary)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let cell = first.cell.index;
    let over = |figure, other: &str| {
        let logs = figures.log_ratios(cell, figure, &first.policy, other);
        Ratio::of_logs(&logs.into_values().collect::<Vec<_>>())
    };
    let (lost, baseline_lost) = (
        figures.by_seed(cell, Figure::Lost, &first.policy),
        figures.by_seed(cell, Figure::Lost, baseline),
    );
    let more = lost.iter().filter_map(|(seed, share)| Some(share - baseline_lost.get(seed)?));
    let over_best = |figure| over(figure, figures.best_heuristic(cell, figure)?);
    ComparisonRow {
        cell: first.cell.clone(),
        policy: first.policy.clone(),
        kind: first.kind,
        seeds: summaries.len() as u64,
        failed: (runs.len() - summaries.len()) as u64,
        ttft_mean_ms: mean(|s| s.ttft_ms.map(|d| d.mean)),
        ttft_p50_ms: mean(|s| s.ttft_ms.map(|d| d.p50)),
        ttft_p99_ms: mean(|s| s.ttft_ms.map(|d| d.p99)),
        tpot_mean_ms: mean(|s| s.tpot_ms.map(|d| d.mean)),
        e2e_mean_ms: mean(|s| s.e2e_ms.map(|d| d.mean)),
        hit_ratio: mean(|s| s.hit_ratio),
        preemptions: mean(|s| Some(s.preemptions as f64)),
        rejected: mean(|s| Some(s.rejected as f64)),
        lost_requests: mean(|s| (s.requests > 0).then(|| s.rejected as f64 / s.requests as f64)),
        loses_requests: is_positive(&more.collect::<Vec<_>>()),
        mean_ratio: over(Figure::Mean, baseline),
        p99_ratio: over(Figure::P99, baseline),
        best_heuristic: figures.best_heuristic(cell, Figure::Mean).map(str::to_owned),
        mean_ratio_to_best: over_best(Figure::Mean),
        p99_ratio_to_best: over_best(Figure::P99),
        gap_closed: figures.gap_closed(std::iter::once(cell), &first.policy),
    }
}
