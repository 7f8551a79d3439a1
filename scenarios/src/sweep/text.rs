//! The summary of a sweep for a terminal.

use std::fmt::Write as _;

use super::comparison::PolicySummary;

/// Policies below each other, the best first.
pub(super) fn summary(rows: &[PolicySummary], baseline: &str) -> String {
    let mut rows: Vec<_> = rows.iter().collect();
    let key = |row: &PolicySummary| row.mean_ratio.unwrap_or(f64::INFINITY);
    rows.sort_by(|a, b| key(a).total_cmp(&key(b)));
    let width = rows.iter().map(|row| row.policy.len()).max().unwrap_or(0).max("policy".len());
    let mut text = format!(
        "TTFT over that of {baseline} and of each cell's best heuristic, geometric means; below 1 is faster;\n\
         gap: share of the way from the best heuristic to hindsight, where hindsight ran\n\
         {:width$} {:>6} {:>8} {:>8} {:>10} {:>10} {:>8} {:>5} {:>5} {:>7}\n",
        "policy", "cells", "mean", "P99", "mean/best", "P99/best", "gap", "wins", "ties", "losses"
    );
    let show = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.3}"));
    for row in rows {
        writeln!(
            text,
            "{:width$} {:>6} {:>8} {:>8} {:>10} {:>10} {:>8} {:>5} {:>5} {:>7}",
            row.policy,
            row.cells,
            show(row.mean_ratio),
            show(row.p99_ratio),
            show(row.mean_ratio_to_best),
            show(row.p99_ratio_to_best),
            row.gap_closed.map_or_else(|| "-".to_owned(), |gap| format!("{:.0} %", 100.0 * gap)),
            row.wins,
            row.ties,
            row.losses
        )
        .expect("a String takes what is written to it");
    }
    text
}
