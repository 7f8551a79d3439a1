//! Every policy over all cells of a sweep.
//!
//! Cells are not drawn from anything: they are those that were asked for, and what is random are the seeds.
//! So the geometric mean over cells is taken seed by seed, and its interval comes from the spread over seeds:
//! it is about these cells with other seeds, not about other cells.

use std::collections::{BTreeMap, BTreeSet};

use super::comparison::ComparisonRow;
use super::figures::{Figure, Figures};
use super::interval::{Ratio, Share, Verdict};
use crate::scenario::Kind;

/// A mean TTFT so many times that of a cell's best heuristic is lost to it.
const LOST: f64 = 1.02;

/// A policy over all cells.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySummary {
    /// The policy's label.
    pub policy: String,
    /// What sort of opponent it is.
    pub kind: Kind,
    /// Cells in which it and the baseline have figures.
    pub cells: u64,
    /// Geometric mean over cells of the ratio of mean TTFT to the baseline's.
    pub mean_ratio: Option<Ratio>,
    /// The same of the P99.
    pub p99_ratio: Option<Ratio>,
    /// Geometric mean over cells of the ratio of mean TTFT to that of the cell's best heuristic. The best is
    /// chosen after the fact, with the same seeds: whatever luck there is, is the heuristic's.
    pub mean_ratio_to_best: Option<Ratio>,
    /// The same of the P99, with the heuristic whose P99 is best.
    pub p99_ratio_to_best: Option<Ratio>,
    /// Share of the gap in mean TTFT between each cell's best heuristic and hindsight that it closes, over
    /// the cells and seeds in which all three ran (docs/metrics.md). Negative when it is worse than the best
    /// heuristics; none where hindsight is less than 1 % faster.
    pub gap_closed: Option<Share>,
    /// Cells by their verdict against the baseline, by mean TTFT.
    pub verdicts: Verdicts,
    /// Cells by their verdict against the cell's best heuristic.
    pub verdicts_to_best: Verdicts,
    /// Cells in which its mean TTFT is more than 2 % above that of the best heuristic, luck or not.
    pub lost_to_best: u64,
    /// Requests of a run that were rejected or failed, mean over seeds and cells: they have no TTFT, and count in no ratio.
    pub rejected: Option<f64>,
    /// Cells in which those are more than the baseline's beyond luck, so that its ratios flatter it.
    pub loses_requests: u64,
}

/// How many cells have which verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// [`Verdict::Win`].
    pub wins: u64,
    /// [`Verdict::Tie`].
    pub ties: u64,
    /// [`Verdict::Loss`].
    pub losses: u64,
}

impl Verdicts {
    fn of(ratios: impl Iterator<Item = Option<Ratio>>) -> Self {
        let mut counts = Self::default();
        for ratio in ratios.flatten() {
            match ratio.verdict() {
                Verdict::Win => counts.wins += 1,
                Verdict::Tie => counts.ties += 1,
                Verdict::Loss => counts.losses += 1,
            }
        }
        counts
    }
}

/// Every policy over all cells, by label.
pub(super) fn summarise(
    rows: &[ComparisonRow],
    figures: &Figures<'_>,
    baseline: &str,
) -> Vec<PolicySummary> {
    let mut by_policy: BTreeMap<&str, Vec<&ComparisonRow>> = BTreeMap::new();
    for row in rows {
        by_policy.entry(&row.policy).or_default().push(row);
    }
    let of_policy = |(policy, rows): (&str, Vec<&ComparisonRow>)| {
        let to_baseline = |figure| over_cells(figures, figure, policy, |_| Some(baseline));
        let to_best = |figure| {
            over_cells(figures, figure, policy, |cell| figures.best_heuristic(cell, figure))
        };
        let is_lost =
            |row: &&&ComparisonRow| row.mean_ratio_to_best.is_some_and(|ratio| ratio.value > LOST);
        let rejected: Vec<f64> = rows.iter().filter_map(|row| row.rejected).collect();
        PolicySummary {
            policy: policy.to_owned(),
            kind: rows[0].kind,
            cells: rows.iter().filter(|row| row.mean_ratio.is_some()).count() as u64,
            mean_ratio: to_baseline(Figure::Mean),
            p99_ratio: to_baseline(Figure::P99),
            mean_ratio_to_best: to_best(Figure::Mean),
            p99_ratio_to_best: to_best(Figure::P99),
            gap_closed: figures.gap_closed(figures.cells(), policy),
            verdicts: Verdicts::of(rows.iter().map(|row| row.mean_ratio)),
            verdicts_to_best: Verdicts::of(rows.iter().map(|row| row.mean_ratio_to_best)),
            lost_to_best: rows.iter().filter(is_lost).count() as u64,
            loses_requests: rows.iter().filter(|row| row.loses_requests).count() as u64,
            rejected: (!rejected.is_empty()).then(|| mean(rejected.into_iter())),
        }
    };
    by_policy.into_iter().map(of_policy).collect()
}

/// The geometric mean over cells, with an interval from the seeds that ran in all of them. Where runs are
/// missing, so that fewer than two seeds did, it is of all runs and has no interval.
fn over_cells<'a>(
    figures: &Figures<'_>,
    figure: Figure,
    policy: &str,
    other: impl Fn(u32) -> Option<&'a str>,
) -> Option<Ratio> {
    let of_cell = |cell| {
        let logs = figures.log_ratios(cell, figure, policy, other(cell)?);
        (!logs.is_empty()).then_some(logs)
    };
    let cells: Vec<BTreeMap<u64, f64>> = figures.cells().filter_map(of_cell).collect();
    let mut seeds: BTreeSet<u64> = cells.first()?.keys().copied().collect();
    seeds.retain(|seed| cells.iter().all(|logs| logs.contains_key(seed)));
    if seeds.len() < 2 {
        let means = cells.iter().map(|logs| mean(logs.values().copied()));
        return Ratio::of_logs(&[mean(means)]);
    }
    let of_seed = |seed: &u64| mean(cells.iter().map(|logs| logs[seed]));
    Ratio::of_logs(&seeds.iter().map(of_seed).collect::<Vec<_>>())
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_u64), |(sum, count), value| (sum + value, count + 1));
    sum / count as f64
}
