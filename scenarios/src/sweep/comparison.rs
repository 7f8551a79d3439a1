//! Policies against the baseline and against the best heuristic, cell by cell and over all cells.
//!
//! Ratios are policy over baseline: below 1 is faster. A policy's ratio in a cell is of its means over the
//! seeds that both have.

use std::collections::BTreeMap;

use super::bootstrap::{Interval, ratio, ratio_interval};
use super::item::{CellIdentity, Item};
use super::measure::Measured;
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
    /// Mean TTFT against the baseline's.
    pub mean_ratio: Option<Ratio>,
    /// P99 of TTFT against the baseline's.
    pub p99_ratio: Option<Ratio>,
}

/// A policy's figure over the baseline's, over the same seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// Policy over baseline.
    pub value: f64,
    /// With 95 % confidence; none with a single seed.
    pub interval: Option<Interval>,
}

/// Whether a policy is faster than the baseline in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Win,
    /// Nobody knows.
    Tie,
    /// It is slower.
    Loss,
}

impl Ratio {
    /// By the interval; without one, by the ratio itself.
    pub fn verdict(self) -> Verdict {
        let Interval { low, high } =
            self.interval.unwrap_or(Interval { low: self.value, high: self.value });
        match (low, high) {
            (_, high) if high < 1.0 => Verdict::Win,
            (low, _) if low > 1.0 => Verdict::Loss,
            _ => Verdict::Tie,
        }
    }
}

/// What a policy has to beat in a cell. Infinite where no heuristic has a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BestHeuristic {
    /// The lowest mean TTFT, ms.
    pub ttft_mean_ms: f64,
    /// The lowest P99 of TTFT, ms; it may be another heuristic's.
    pub ttft_p99_ms: f64,
}

/// The best heuristic of each cell, by the cell's index.
pub fn best_heuristics(rows: &[ComparisonRow]) -> BTreeMap<u32, BestHeuristic> {
    const NONE: BestHeuristic =
        BestHeuristic { ttft_mean_ms: f64::INFINITY, ttft_p99_ms: f64::INFINITY };
    let mut best = BTreeMap::new();
    for row in rows.iter().filter(|row| row.kind == Kind::Heuristic) {
        let best = best.entry(row.cell.index).or_insert(NONE);
        best.ttft_mean_ms = best.ttft_mean_ms.min(row.ttft_mean_ms.unwrap_or(f64::INFINITY));
        best.ttft_p99_ms = best.ttft_p99_ms.min(row.ttft_p99_ms.unwrap_or(f64::INFINITY));
    }
    best
}

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
    pub mean_ratio: Option<f64>,
    /// The same of the P99.
    pub p99_ratio: Option<f64>,
    /// Geometric mean over cells of the ratio of mean TTFT to that of the cell's best heuristic.
    pub mean_ratio_to_best: Option<f64>,
    /// The same of the P99, with the heuristic whose P99 is best.
    pub p99_ratio_to_best: Option<f64>,
    /// Share of the gap in mean TTFT between each cell's best heuristic and hindsight that it closes: both
    /// summed over the cells in which hindsight ran. Negative when it is worse than the best heuristics.
    pub gap_closed: Option<f64>,
    /// Cells in which its mean TTFT is below the baseline's with confidence.
    pub wins: u64,
    /// Cells in which neither is.
    pub ties: u64,
    /// Cells in which it is above.
    pub losses: u64,
}

/// Every policy in every cell; `items` by cell, policy and seed.
pub(super) fn compare_all(items: &[Item], baseline: &str) -> Vec<ComparisonRow> {
    let same = |a: &Item, b: &Item| a.cell.index == b.cell.index && a.policy == b.policy;
    let of_cell = |cell: u32| -> Vec<&Item> {
        items.iter().filter(|i| i.cell.index == cell && i.policy == baseline).collect()
    };
    let mut baselines: BTreeMap<u32, Vec<&Item>> = BTreeMap::new();
    let rows = items.chunk_by(same).map(|runs| {
        let cell = runs[0].cell.index;
        row(runs, baselines.entry(cell).or_insert_with(|| of_cell(cell)))
    });
    rows.collect()
}

fn row(runs: &[Item], baseline: &[&Item]) -> ComparisonRow {
    let first = &runs[0];
    let summaries: Vec<&Summary> =
        runs.iter().filter_map(Item::measured).map(|measured| &measured.summary).collect();
    let mean = |value: fn(&Summary) -> Option<f64>| {
        let values: Vec<f64> = summaries.iter().filter_map(|summary| value(summary)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
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
        mean_ratio: paired(runs, baseline, |m| m.summary.ttft_ms.map(|d| d.mean)),
        p99_ratio: paired(runs, baseline, |m| m.summary.ttft_ms.map(|d| d.p99)),
    }
}

fn paired(runs: &[Item], baseline: &[&Item], value: fn(&Measured) -> Option<f64>) -> Option<Ratio> {
    let pair = |run: &Item| {
        let other = baseline.iter().find(|other| other.seed == run.seed)?;
        Some((value(run.measured()?)?, value(other.measured()?)?))
    };
    let pairs: Vec<_> = runs.iter().filter_map(pair).collect();
    (!pairs.is_empty())
        .then(|| Ratio { value: ratio(pairs.iter().copied()), interval: ratio_interval(&pairs) })
}

/// Every policy over all cells, by label.
pub(super) fn summarise(rows: &[ComparisonRow]) -> Vec<PolicySummary> {
    let best = best_heuristics(rows);
    let is_hindsight =
        |row: &&ComparisonRow| row.kind == Kind::Yardstick && row.policy == "hindsight";
    let hindsight: BTreeMap<u32, f64> = rows
        .iter()
        .filter(is_hindsight)
        .filter_map(|row| Some((row.cell.index, row.ttft_mean_ms?)))
        .collect();
    let mut by_policy: BTreeMap<&str, Vec<&ComparisonRow>> = BTreeMap::new();
    for row in rows {
        by_policy.entry(&row.policy).or_default().push(row);
    }
    let of_policy = |(policy, rows): (&str, Vec<&ComparisonRow>)| {
        let verdicts: Vec<_> =
            rows.iter().filter_map(|row| row.mean_ratio).map(Ratio::verdict).collect();
        let count = |verdict| verdicts.iter().filter(|v| **v == verdict).count() as u64;
        let to_best = |row: &&ComparisonRow| {
            Some(row.ttft_mean_ms? / best.get(&row.cell.index)?.ttft_mean_ms)
        };
        let p99_to_best =
            |row: &&ComparisonRow| Some(row.ttft_p99_ms? / best.get(&row.cell.index)?.ttft_p99_ms);
        PolicySummary {
            policy: policy.to_owned(),
            kind: rows[0].kind,
            cells: verdicts.len() as u64,
            mean_ratio: geometric_mean(rows.iter().map(|row| row.mean_ratio.map(|r| r.value))),
            p99_ratio: geometric_mean(rows.iter().map(|row| row.p99_ratio.map(|r| r.value))),
            mean_ratio_to_best: geometric_mean(rows.iter().map(to_best)),
            p99_ratio_to_best: geometric_mean(rows.iter().map(p99_to_best)),
            gap_closed: gap_closed(&rows, &best, &hindsight),
            wins: count(Verdict::Win),
            ties: count(Verdict::Tie),
            losses: count(Verdict::Loss),
        }
    };
    by_policy.into_iter().map(of_policy).collect()
}

/// `best` and `hindsight` by cell.
fn gap_closed(
    rows: &[&ComparisonRow],
    best: &BTreeMap<u32, BestHeuristic>,
    hindsight: &BTreeMap<u32, f64>,
) -> Option<f64> {
    let (mut closed, mut gap) = (0.0, 0.0);
    for row in rows {
        let cell = row.cell.index;
        if let (Some(ms), Some(best), Some(hindsight)) =
            (row.ttft_mean_ms, best.get(&cell), hindsight.get(&cell))
        {
            closed += best.ttft_mean_ms - ms;
            gap += best.ttft_mean_ms - hindsight;
        }
    }
    (gap > 0.0 && gap.is_finite()).then(|| closed / gap)
}

fn geometric_mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let logs: Vec<f64> = values.flatten().map(f64::ln).collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
}
