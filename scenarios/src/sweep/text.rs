//! The summary of a sweep for a terminal.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::comparison::ComparisonRow;
use super::interval::Ratio;
use super::over_cells::PolicySummary;
use crate::manifest::StepTimeTrust;

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
            format!("{}{}", row.verdicts.wins, if row.loses_requests > 0 { "*" } else { "" }),
            row.verdicts.ties,
            row.verdicts.losses,
            row.lost_to_best
        )
        .expect("a String takes what is written to it");
    }
    text.push_str(&rejected(&rows));
    text.push_str(&loses_requests(&rows, baseline));
    if rows.iter().all(|row| row.mean_ratio.is_none_or(|ratio| ratio.interval.is_none())) {
        text.push_str(
            "without two seeds that ran in every cell there are no intervals; --seeds 5 gives them\n",
        );
    }
    text
}

/// A line a GPU whose step times were not measured.
pub(super) fn caveats(rows: &[ComparisonRow]) -> String {
    let all = rows.iter().flat_map(|row| &row.cell.step_times).filter_map(StepTimeTrust::caveat);
    all.collect::<BTreeSet<String>>()
        .into_iter()
        .fold(String::new(), |text, line| text + &line + "\n")
}

/// A line that says who left how many requests without an answer, if anybody did.
fn rejected(rows: &[&PolicySummary]) -> String {
    let of_row = |row: &&PolicySummary| {
        let rejected = row.rejected.filter(|rejected| *rejected > 0.0)?;
        Some(format!("{} {rejected:.1}", row.policy))
    };
    let who: Vec<String> = rows.iter().filter_map(of_row).collect();
    if who.is_empty() {
        return String::new();
    }
    let who = who.join(", ");
    format!("requests of a run without an answer, which count in no ratio: {who}\n")
}

/// A line that says whom ratios flatter, if anybody.
fn loses_requests(rows: &[&PolicySummary], baseline: &str) -> String {
    let losing = rows.iter().filter(|row| row.loses_requests > 0);
    let who: Vec<String> =
        losing.map(|row| format!("{} in {}", row.policy, row.loses_requests)).collect();
    if who.is_empty() {
        return String::new();
    }
    let who = who.join(", ");
    format!(
        "* more of them than {baseline}, so that its ratios look better than it is; cells: {who}\n"
    )
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

#[cfg(test)]
mod tests {
    use super::super::over_cells::Verdicts;
    use super::*;
    use crate::scenario::Kind;

    #[test]
    fn who_leaves_requests_without_an_answer_is_named() {
        let row = |policy: &str, rejected| PolicySummary {
            policy: policy.to_owned(),
            kind: Kind::Heuristic,
            cells: 1,
            mean_ratio: None,
            p99_ratio: None,
            mean_ratio_to_best: None,
            p99_ratio_to_best: None,
            gap_closed: None,
            verdicts: Verdicts::default(),
            verdicts_to_best: Verdicts::default(),
            lost_to_best: 0,
            rejected,
            loses_requests: u64::from(policy == "c"),
        };
        let rows =
            [row("a", Some(6.33)), row("b", Some(0.0)), row("c", Some(19.0)), row("d", None)];
        let text = summary(&rows, "a");
        assert!(text.contains("which count in no ratio: a 6.3, c 19.0\n"), "{text}");
        assert!(text.contains("* more of them than a, so that its ratios look better"), "{text}");
        assert!(text.contains("; cells: c in 1\n") && text.matches(" 0*").count() == 1, "{text}");
        let text = summary(&rows[1..2], "b");
        assert!(!text.contains("without an answer") && !text.contains('*'), "{text}");
    }
}
