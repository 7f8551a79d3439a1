//! The summary of a sweep for a terminal.

use std::fmt::Write as _;

use super::interval::Ratio;
use super::over_cells::PolicySummary;

/// Policies below each other, the best first.
pub(super) fn summary(rows: &[PolicySummary], baseline: &str) -> String {
    let mut rows: Vec<_> = rows.iter().collect();
    let key = |row: &PolicySummary| row.mean_ratio.map_or(f64::INFINITY, |ratio| ratio.value);
    rows.sort_by(|a, b| key(a).total_cmp(&key(b)));
    let width = rows.iter().map(|row| row.policy.len()).max().unwrap_or(0).max("policy".len());
    let mut text = format!(
        "TTFT over that of {baseline} and of each cell's best heuristic, geometric means with 95 % intervals; below 1 is\n\
         faster; gap: share of the way from the best heuristic to hindsight, where hindsight ran; lost: cells in which its\n\
         mean is more than 2 % above the best heuristic's\n\
         {:width$} {:>5} {:>20} {:>6} {:>20} {:>8} {:>14} {:>4} {:>4} {:>6} {:>4}\n",
        "policy",
        "cells",
        "mean",
        "P99",
        "mean/best",
        "P99/best",
        "gap",
        "wins",
        "ties",
        "losses",
        "lost"
    );
    let show =
        |ratio: Option<Ratio>| ratio.map_or_else(|| "-".to_owned(), |r| format!("{:.3}", r.value));
    for row in &rows {
        writeln!(
            text,
            "{:width$} {:>5} {:>20} {:>6} {:>20} {:>8} {:>14} {:>4} {:>4} {:>6} {:>4}",
            row.policy,
            row.cells,
            with_interval(row.mean_ratio),
            show(row.p99_ratio),
            with_interval(row.mean_ratio_to_best),
            show(row.p99_ratio_to_best),
            row.gap_closed.map_or_else(|| "-".to_owned(), |share| share.to_string()),
            row.verdicts.wins,
            row.verdicts.ties,
            row.verdicts.losses,
            row.lost_to_best
        )
        .expect("a String takes what is written to it");
    }
    if rows.iter().all(|row| row.mean_ratio.is_none_or(|ratio| ratio.interval.is_none())) {
        text.push_str(
            "without two seeds that ran in every cell there are no intervals; --seeds 5 gives them\n",
        );
    }
    text
}

fn with_interval(ratio: Option<Ratio>) -> String {
    match ratio {
        Some(Ratio { value, interval: Some(interval) }) => {
            format!("{value:.3} [{:.2}, {:.2}]", interval.low, interval.high)
        }
        Some(Ratio { value, interval: None }) => format!("{value:.3}"),
        None => "-".to_owned(),
    }
}
