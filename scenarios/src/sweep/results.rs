//! The tables of a sweep as files.

use serde::Serialize;

use super::comparison::ComparisonRow;
use super::interval::{Interval, Ratio, Share};
use super::item::{Item, ItemOutcome};
use super::over_cells::PolicySummary;
use crate::quantile::Distribution;
use crate::summary::Summary;
use crate::table::{Table, column};

/// A row an item, flat: the csv crate writes no header for a struct within a struct.
#[derive(Serialize)]
struct ResultRow<'a> {
    cell: &'a str,
    fleet: &'a str,
    workload: &'a str,
    rate_rps: Option<f64>,
    router_replicas: u32,
    policy: &'a str,
    kind: &'static str,
    seed: u64,
    information: &'static str,
    error: Option<&'a str>,
    requests: Option<u64>,
    finished: Option<u64>,
    rejected: Option<u64>,
    ttft_mean_ms: Option<f64>,
    ttft_p50_ms: Option<f64>,
    ttft_p90_ms: Option<f64>,
    ttft_p99_ms: Option<f64>,
    tpot_mean_ms: Option<f64>,
    tpot_p50_ms: Option<f64>,
    tpot_p90_ms: Option<f64>,
    tpot_p99_ms: Option<f64>,
    e2e_mean_ms: Option<f64>,
    e2e_p50_ms: Option<f64>,
    e2e_p90_ms: Option<f64>,
    e2e_p99_ms: Option<f64>,
    hit_ratio: Option<f64>,
    preemptions: Option<u64>,
    requests_per_s: Option<f64>,
}

impl<'a> From<&'a Item> for ResultRow<'a> {
    fn from(item: &'a Item) -> Self {
        let summary: Option<&Summary> = item.measured().map(|measured| &measured.summary);
        let error = match &item.outcome {
            ItemOutcome::Done(_) => None,
            ItemOutcome::Failed(problem) => Some(problem.as_str()),
        };
        let ttft = |value: fn(Distribution) -> f64| summary.and_then(|s| s.ttft_ms).map(value);
        let tpot = |value: fn(Distribution) -> f64| summary.and_then(|s| s.tpot_ms).map(value);
        let e2e = |value: fn(Distribution) -> f64| summary.and_then(|s| s.e2e_ms).map(value);
        Self {
            cell: &item.cell.id,
            fleet: &item.cell.fleet,
            workload: &item.cell.workload,
            rate_rps: item.cell.rate_rps,
            router_replicas: item.cell.router_replicas,
            policy: &item.policy,
            kind: item.kind.as_str(),
            seed: item.seed,
            information: item.information.as_str(),
            error,
            requests: summary.map(|s| s.requests),
            finished: summary.map(|s| s.finished),
            rejected: summary.map(|s| s.rejected),
            ttft_mean_ms: ttft(|d| d.mean),
            ttft_p50_ms: ttft(|d| d.p50),
            ttft_p90_ms: ttft(|d| d.p90),
            ttft_p99_ms: ttft(|d| d.p99),
            tpot_mean_ms: tpot(|d| d.mean),
            tpot_p50_ms: tpot(|d| d.p50),
            tpot_p90_ms: tpot(|d| d.p90),
            tpot_p99_ms: tpot(|d| d.p99),
            e2e_mean_ms: e2e(|d| d.mean),
            e2e_p50_ms: e2e(|d| d.p50),
            e2e_p90_ms: e2e(|d| d.p90),
            e2e_p99_ms: e2e(|d| d.p99),
            hit_ratio: summary.and_then(|s| s.hit_ratio),
            preemptions: summary.map(|s| s.preemptions),
            requests_per_s: summary.and_then(|s| s.requests_per_s),
        }
    }
}

/// `results.csv`.
pub(super) fn csv(items: &[Item]) -> Vec<u8> {
    to_csv(items.iter().map(ResultRow::from))
}

/// `results.parquet`: the same columns.
pub(super) fn parquet(items: &[Item]) -> Vec<u8> {
    let rows: Vec<ResultRow<'_>> = items.iter().map(ResultRow::from).collect();
    let columns = vec![
        column("cell", &rows, |r| r.cell),
        column("fleet", &rows, |r| r.fleet),
        column("workload", &rows, |r| r.workload),
        column("rate_rps", &rows, |r| r.rate_rps),
        column("router_replicas", &rows, |r| r.router_replicas),
        column("policy", &rows, |r| r.policy),
        column("kind", &rows, |r| r.kind),
        column("seed", &rows, |r| r.seed),
        column("information", &rows, |r| r.information),
        column("error", &rows, |r| r.error),
        column("requests", &rows, |r| r.requests),
        column("finished", &rows, |r| r.finished),
        column("rejected", &rows, |r| r.rejected),
        column("ttft_mean_ms", &rows, |r| r.ttft_mean_ms),
        column("ttft_p50_ms", &rows, |r| r.ttft_p50_ms),
        column("ttft_p90_ms", &rows, |r| r.ttft_p90_ms),
        column("ttft_p99_ms", &rows, |r| r.ttft_p99_ms),
        column("tpot_mean_ms", &rows, |r| r.tpot_mean_ms),
        column("tpot_p50_ms", &rows, |r| r.tpot_p50_ms),
        column("tpot_p90_ms", &rows, |r| r.tpot_p90_ms),
        column("tpot_p99_ms", &rows, |r| r.tpot_p99_ms),
        column("e2e_mean_ms", &rows, |r| r.e2e_mean_ms),
        column("e2e_p50_ms", &rows, |r| r.e2e_p50_ms),
        column("e2e_p90_ms", &rows, |r| r.e2e_p90_ms),
        column("e2e_p99_ms", &rows, |r| r.e2e_p99_ms),
        column("hit_ratio", &rows, |r| r.hit_ratio),
        column("preemptions", &rows, |r| r.preemptions),
        column("requests_per_s", &rows, |r| r.requests_per_s),
    ];
    let mut bytes = Vec::new();
    Table::new(rows.len(), columns)
        .write_parquet(&mut bytes)
        .expect("memory takes what is written");
    bytes
}

#[derive(Serialize)]
struct ComparisonLine<'a> {
    cell: &'a str,
    fleet: &'a str,
    workload: &'a str,
    rate_rps: Option<f64>,
    router_replicas: u32,
    policy: &'a str,
    kind: &'static str,
    seeds: u64,
    failed: u64,
    ttft_mean_ms: Option<f64>,
    ttft_p50_ms: Option<f64>,
    ttft_p99_ms: Option<f64>,
    tpot_mean_ms: Option<f64>,
    e2e_mean_ms: Option<f64>,
    hit_ratio: Option<f64>,
    preemptions: Option<f64>,
    rejected: Option<f64>,
    ttft_mean_ratio: Option<f64>,
    ttft_mean_ratio_low: Option<f64>,
    ttft_mean_ratio_high: Option<f64>,
    ttft_p99_ratio: Option<f64>,
    ttft_p99_ratio_low: Option<f64>,
    ttft_p99_ratio_high: Option<f64>,
    best_heuristic: Option<&'a str>,
    ttft_mean_ratio_to_best: Option<f64>,
    ttft_mean_ratio_to_best_low: Option<f64>,
    ttft_mean_ratio_to_best_high: Option<f64>,
    ttft_p99_ratio_to_best: Option<f64>,
    ttft_p99_ratio_to_best_low: Option<f64>,
    ttft_p99_ratio_to_best_high: Option<f64>,
    gap_closed: Option<f64>,
    gap_closed_low: Option<f64>,
    gap_closed_high: Option<f64>,
    lost_requests_percent: Option<f64>,
    loses_requests: bool,
}

/// `comparison.csv`.
pub(super) fn comparison_csv(rows: &[ComparisonRow]) -> Vec<u8> {
    to_csv(rows.iter().map(|row| ComparisonLine {
        cell: &row.cell.id,
        fleet: &row.cell.fleet,
        workload: &row.cell.workload,
        rate_rps: row.cell.rate_rps,
        router_replicas: row.cell.router_replicas,
        policy: &row.policy,
        kind: row.kind.as_str(),
        seeds: row.seeds,
        failed: row.failed,
        ttft_mean_ms: row.ttft_mean_ms,
        ttft_p50_ms: row.ttft_p50_ms,
        ttft_p99_ms: row.ttft_p99_ms,
        tpot_mean_ms: row.tpot_mean_ms,
        e2e_mean_ms: row.e2e_mean_ms,
        hit_ratio: row.hit_ratio,
        preemptions: row.preemptions,
        rejected: row.rejected,
        ttft_mean_ratio: value(row.mean_ratio),
        ttft_mean_ratio_low: low(row.mean_ratio),
        ttft_mean_ratio_high: high(row.mean_ratio),
        ttft_p99_ratio: value(row.p99_ratio),
        ttft_p99_ratio_low: low(row.p99_ratio),
        ttft_p99_ratio_high: high(row.p99_ratio),
        best_heuristic: row.best_heuristic.as_deref(),
        ttft_mean_ratio_to_best: value(row.mean_ratio_to_best),
        ttft_mean_ratio_to_best_low: low(row.mean_ratio_to_best),
        ttft_mean_ratio_to_best_high: high(row.mean_ratio_to_best),
        ttft_p99_ratio_to_best: value(row.p99_ratio_to_best),
        ttft_p99_ratio_to_best_low: low(row.p99_ratio_to_best),
        ttft_p99_ratio_to_best_high: high(row.p99_ratio_to_best),
        gap_closed: row.gap_closed.map(|share| share.value),
        gap_closed_low: bound(row.gap_closed, |interval| interval.low),
        gap_closed_high: bound(row.gap_closed, |interval| interval.high),
        lost_requests_percent: row.lost_requests.map(|share| 100.0 * share),
        loses_requests: row.loses_requests,
    }))
}

fn value(ratio: Option<Ratio>) -> Option<f64> {
    ratio.map(|ratio| ratio.value)
}

fn low(ratio: Option<Ratio>) -> Option<f64> {
    ratio.and_then(|ratio| ratio.interval).map(|Interval { low, .. }| low)
}

fn high(ratio: Option<Ratio>) -> Option<f64> {
    ratio.and_then(|ratio| ratio.interval).map(|Interval { high, .. }| high)
}

fn bound(share: Option<Share>, of: fn(Interval) -> f64) -> Option<f64> {
    share.and_then(|share| share.interval).map(of)
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    policy: &'a str,
    kind: &'static str,
    cells: u64,
    ttft_mean_ratio: Option<f64>,
    ttft_p99_ratio: Option<f64>,
    ttft_mean_ratio_to_best: Option<f64>,
    ttft_p99_ratio_to_best: Option<f64>,
    gap_closed: Option<f64>,
    wins: u64,
    ties: u64,
    losses: u64,
    ttft_mean_ratio_low: Option<f64>,
    ttft_mean_ratio_high: Option<f64>,
    ttft_p99_ratio_low: Option<f64>,
    ttft_p99_ratio_high: Option<f64>,
    ttft_mean_ratio_to_best_low: Option<f64>,
    ttft_mean_ratio_to_best_high: Option<f64>,
    ttft_p99_ratio_to_best_low: Option<f64>,
    ttft_p99_ratio_to_best_high: Option<f64>,
    wins_to_best: u64,
    ties_to_best: u64,
    losses_to_best: u64,
    lost_to_best: u64,
    gap_closed_low: Option<f64>,
    gap_closed_high: Option<f64>,
    rejected: Option<f64>,
    loses_requests: u64,
}

/// `summary.csv`.
pub(super) fn summary_csv(rows: &[PolicySummary]) -> Vec<u8> {
    to_csv(rows.iter().map(|row| SummaryLine {
        policy: &row.policy,
        kind: row.kind.as_str(),
        cells: row.cells,
        ttft_mean_ratio: value(row.mean_ratio),
        ttft_p99_ratio: value(row.p99_ratio),
        ttft_mean_ratio_to_best: value(row.mean_ratio_to_best),
        ttft_p99_ratio_to_best: value(row.p99_ratio_to_best),
        gap_closed: row.gap_closed.map(|share| share.value),
        wins: row.verdicts.wins,
        ties: row.verdicts.ties,
        losses: row.verdicts.losses,
        ttft_mean_ratio_low: low(row.mean_ratio),
        ttft_mean_ratio_high: high(row.mean_ratio),
        ttft_p99_ratio_low: low(row.p99_ratio),
        ttft_p99_ratio_high: high(row.p99_ratio),
        ttft_mean_ratio_to_best_low: low(row.mean_ratio_to_best),
        ttft_mean_ratio_to_best_high: high(row.mean_ratio_to_best),
        ttft_p99_ratio_to_best_low: low(row.p99_ratio_to_best),
        ttft_p99_ratio_to_best_high: high(row.p99_ratio_to_best),
        wins_to_best: row.verdicts_to_best.wins,
        ties_to_best: row.verdicts_to_best.ties,
        losses_to_best: row.verdicts_to_best.losses,
        lost_to_best: row.lost_to_best,
        gap_closed_low: bound(row.gap_closed, |interval| interval.low),
        gap_closed_high: bound(row.gap_closed, |interval| interval.high),
        rejected: row.rejected,
        loses_requests: row.loses_requests,
    }))
}

fn to_csv(rows: impl Iterator<Item = impl Serialize>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(row).expect("memory takes what is written");
    }
    writer.into_inner().expect("memory takes what is written")
}
