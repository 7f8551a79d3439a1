//! Tables that can be sorted: each field carries the value that it is sorted by.

use lodestar_scenarios::sweep::{ComparisonRow, Overview, PolicySummary, Ratio, Share, Verdict};
use maud::{Markup, html};

/// A field: what is read, and what it is sorted by.
pub(super) enum Field<'a> {
    Text(&'a str),
    Number(Option<f64>, String),
}

/// What the star says.
const FLATTERED: &str =
    "* It left more requests without an answer than the baseline, which count in no ratio.";

/// A column's name, and what it means.
pub(super) type Column = (&'static str, &'static str);

/// A row a policy.
pub(super) fn policies(overview: &Overview) -> Markup {
    const COLUMNS: [Column; 13] = [
        ("policy", ""),
        ("mean", "geometric mean over cells of mean TTFT over the baseline's"),
        ("P99", "the same of the P99 of TTFT"),
        (
            "mean to best",
            "geometric mean over cells of mean TTFT over that of the cell's best heuristic",
        ),
        ("P99 to best", "the same of the P99 of TTFT"),
        ("gap closed", "share of the way from the best heuristics to hindsight"),
        ("wins", "cells in which its mean TTFT is below the baseline's with confidence"),
        ("ties", "cells in which neither is"),
        ("losses", "cells in which it is above"),
        ("lost to best", "cells in which its mean TTFT is over 2 % above the best heuristic's"),
        (
            "rejected",
            "requests of a run without an answer, which count in no ratio; mean over cells",
        ),
        ("cells", "cells in which it and the baseline have figures"),
        ("kind", "yardsticks are no routers: they show what is left to win"),
    ];
    let row = |row: &PolicySummary| {
        let count = |count: u64| Field::Number(Some(count as f64), count.to_string());
        let fields = vec![
            Field::Text(&row.policy),
            ratio(row.mean_ratio),
            ratio(row.p99_ratio),
            ratio(row.mean_ratio_to_best),
            ratio(row.p99_ratio_to_best),
            share(row.gap_closed),
            Field::Number(
                Some(row.verdicts.wins as f64),
                format!("{}{}", row.verdicts.wins, if row.loses_requests > 0 { "*" } else { "" }),
            ),
            count(row.verdicts.ties),
            count(row.verdicts.losses),
            count(row.lost_to_best),
            Field::Number(row.rejected, written(row.rejected, 1)),
            count(row.cells),
            Field::Text(row.kind.as_str()),
        ];
        html! { tr.baseline[row.policy == overview.baseline] { (cells(&fields)) } }
    };
    let mut rows: Vec<&PolicySummary> = overview.summary.iter().collect();
    let place = |row: &PolicySummary| row.mean_ratio.map_or(f64::INFINITY, |ratio| ratio.value);
    rows.sort_by(|a, b| place(a).total_cmp(&place(b)));
    html! {
        p { "Ratios are to " code { (overview.baseline) } " (the marked row) or to the best heuristic of each cell; "
            "below 1 is faster; with two seeds or more each has its 95 % interval. A win is an interval below 1. "
            (FLATTERED) }
        (table("Policies over all cells", &COLUMNS, rows.into_iter().map(row)))
    }
}

/// A row a cell and policy.
pub(super) fn comparison(overview: &Overview) -> Markup {
    const COLUMNS: [Column; 14] = [
        ("cell", ""),
        ("policy", ""),
        ("seeds", "runs that ended"),
        ("mean TTFT, ms", "mean over seeds"),
        ("P99 TTFT, ms", "mean over seeds"),
        ("mean ratio", "over the baseline's, with its 95 % interval"),
        ("P99 ratio", "over the baseline's, with its 95 % interval"),
        ("mean to best", "over the mean of the cell's best heuristic, with its 95 % interval"),
        ("P99 to best", "over the lowest P99 of a heuristic in the cell, with its 95 % interval"),
        ("gap closed", "share of the way from the cell's best heuristic to hindsight"),
        ("verdict", "against the baseline, by the interval of the mean ratio"),
        ("TPOT, ms", "mean"),
        ("hit ratio", "share of prompt tokens from the prefix cache"),
        ("rejected", "requests without an answer, which count in no ratio; mean over seeds"),
    ];
    let row = |row: &ComparisonRow| {
        let number = |value: Option<f64>, decimals| Field::Number(value, written(value, decimals));
        let seeds = match row.failed {
            0 => row.seeds.to_string(),
            failed => format!("{} ({failed} failed)", row.seeds),
        };
        let fields = vec![
            Field::Text(&row.cell.id),
            Field::Text(&row.policy),
            Field::Number(Some(row.seeds as f64), seeds),
            number(row.ttft_mean_ms, 1),
            number(row.ttft_p99_ms, 1),
            ratio(row.mean_ratio),
            ratio(row.p99_ratio),
            ratio(row.mean_ratio_to_best),
            ratio(row.p99_ratio_to_best),
            share(row.gap_closed),
            Field::Text(row.mean_ratio.map_or("", |ratio| verdict(ratio, row.loses_requests))),
            number(row.tpot_mean_ms, 2),
            number(row.hit_ratio, 3),
            number(row.rejected, 1),
        ];
        html! { tr.baseline[row.policy == overview.baseline] { (cells(&fields)) } }
    };
    html! {
        p { "Ratios are to " code { (overview.baseline) } " with the same requests; the interval comes from the "
            "spread over seeds. With a single seed there is none, and no verdict. " (FLATTERED) }
        (table("Every policy in every cell", &COLUMNS, overview.comparison.iter().map(row)))
    }
}

pub(super) fn table(name: &str, columns: &[Column], rows: impl Iterator<Item = Markup>) -> Markup {
    html! {
        div.scroll.tall role="region" aria-label=(name) tabindex="0" {
            table {
                thead { tr { @for (column, meaning) in columns {
                    th scope="col" { button type="button" title=(meaning) { (column) } }
                } } }
                tbody { @for row in rows { (row) } }
            }
        }
    }
}

pub(super) fn cells(fields: &[Field<'_>]) -> Markup {
    html! {
        @for field in fields {
            @match field {
                Field::Text(text) => td { (text) },
                Field::Number(Some(value), text) => td.number data-value=(value) { (text) },
                Field::Number(None, text) => td.number data-value="" { (text) },
            }
        }
    }
}

fn ratio(ratio: Option<Ratio>) -> Field<'static> {
    let text = ratio.map_or_else(String::new, |Ratio { value, interval }| match interval {
        Some(interval) => format!("{value:.3} [{:.3}, {:.3}]", interval.low, interval.high),
        None => format!("{value:.3}"),
    });
    Field::Number(ratio.map(|ratio| ratio.value), text)
}

fn share(share: Option<Share>) -> Field<'static> {
    let text = share.map_or_else(String::new, |share| share.to_string());
    Field::Number(share.map(|share| share.value * 100.0), text)
}

fn written(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(String::new, |value| format!("{value:.decimals$}"))
}

fn verdict(ratio: Ratio, loses_requests: bool) -> &'static str {
    match (ratio.verdict(), loses_requests) {
        (Verdict::Tie, _) if ratio.interval.is_none() => "",
        (Verdict::Win, false) => "win",
        (Verdict::Win, true) => "win*",
        (Verdict::Tie, false) => "tie",
        (Verdict::Tie, true) => "tie*",
        (Verdict::Loss, false) => "loss",
        (Verdict::Loss, true) => "loss*",
    }
}
