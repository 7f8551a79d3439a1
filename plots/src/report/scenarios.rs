//! Several sweeps on one page: who is how fast on which scenario, and the way to each sweep's own report.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use lodestar_scenarios::scenario::Kind;
use lodestar_scenarios::sweep::Overview;
use maud::{Markup, html};

use super::tables::{Column, Field, cells, table};
use super::{FigureWriter, PAGE, page, write_page};
use crate::canvas::Canvas;
use crate::figures::sweep::WIDTH;
use crate::ratio_grid::RatioGrid;
use crate::render::PlotError;

/// What a page over several sweeps needs of one of them.
#[derive(Clone, Debug)]
pub struct SweepInFolder {
    name: String,
    scenario: String,
    information: &'static str,
    cells: usize,
    seeds: u64,
    /// What is missing of it.
    note: Option<String>,
    policies: BTreeMap<String, OfPolicy>,
}

/// A policy in a sweep.
#[derive(Clone, Debug)]
struct OfPolicy {
    kind: Kind,
    /// Over all its cells.
    ratio: Option<f64>,
    /// By cell: mean and P99 of TTFT over those of the best heuristic.
    mean_ratios: Vec<f64>,
    p99_ratios: Vec<f64>,
    lost: u64,
}

impl SweepInFolder {
    /// Of the sweep in the subfolder `name`.
    pub fn new(name: &str, overview: &Overview) -> Self {
        let policy = |row: &lodestar_scenarios::sweep::PolicySummary| {
            let rows = overview.comparison.iter().filter(|cell| cell.policy == row.policy);
            let (means, p99s): (Vec<_>, Vec<_>) =
                rows.map(|cell| (cell.mean_ratio_to_best, cell.p99_ratio_to_best)).unzip();
            let values = |ratios: Vec<Option<lodestar_scenarios::sweep::Ratio>>| {
                ratios.into_iter().flatten().map(|ratio| ratio.value).collect()
            };
            let of = OfPolicy {
                kind: row.kind,
                ratio: row.mean_ratio_to_best.map(|ratio| ratio.value),
                mean_ratios: values(means),
                p99_ratios: values(p99s),
                lost: row.lost_to_best,
            };
            (row.policy.clone(), of)
        };
        let first = &overview.items[0];
        let cells: BTreeSet<u32> = overview.items.iter().map(|item| item.cell.index).collect();
        Self {
            name: name.to_owned(),
            scenario: first.scenario.clone(),
            information: first.information.as_str(),
            cells: cells.len(),
            seeds: overview.extent.seeds,
            note: overview.extent.note(),
            policies: overview.summary.iter().map(policy).collect(),
        }
    }
}

/// A policy over all cells of all sweeps.
struct Total<'a> {
    policy: &'a str,
    kind: Kind,
    mean: Option<f64>,
    p99: Option<f64>,
    lost: u64,
    cells: usize,
    sweeps: usize,
}

/// Writes `figures/ttft_ratio` and `report.html` into the folder in which these sweeps are; what is there of an earlier
/// time is replaced.
///
/// # Errors
/// The first file that cannot be written.
pub fn scenarios_report(sweeps: &[SweepInFolder], folder: &Path) -> Result<(), PlotError> {
    let totals = totals(sweeps);
    let mut writer = FigureWriter { folder: folder.join("figures"), inlined_bytes: 0 };
    let description = "Ratios of mean TTFT to the best heuristic, by scenario and policy; the table below has their means";
    let map = writer.add("ttft_ratio", description, &draw(sweeps, &totals))?;
    let main = html! {
        section #ratios { h2 { "Policies by scenario" } (page::figure(&map)) }
        section #policies { h2 { "Policies over all cells" } (policies(&totals)) }
        section #scenarios { h2 { "Scenarios" } (scenarios(sweeps)) }
    };
    write_page(&folder.join(PAGE), &page::document("Scenarios", &main))
}

/// The best one over all cells first, those that did not run everywhere and yardsticks after the others.
fn totals(sweeps: &[SweepInFolder]) -> Vec<Total<'_>> {
    let mut by_policy: BTreeMap<&str, Vec<&OfPolicy>> = BTreeMap::new();
    for (policy, of) in sweeps.iter().flat_map(|sweep| &sweep.policies) {
        by_policy.entry(policy).or_default().push(of);
    }
    let mut totals: Vec<Total<'_>> = by_policy
        .into_iter()
        .map(|(policy, of)| Total {
            policy,
            kind: of[0].kind,
            mean: geometric_mean(of.iter().flat_map(|of| &of.mean_ratios)),
            p99: geometric_mean(of.iter().flat_map(|of| &of.p99_ratios)),
            lost: of.iter().map(|of| of.lost).sum(),
            cells: of.iter().map(|of| of.mean_ratios.len()).sum(),
            sweeps: of.len(),
        })
        .collect();
    let group = |total: &Total<'_>| (total.kind == Kind::Yardstick, total.sweeps < sweeps.len());
    let ratio = |total: &Total<'_>| total.mean.unwrap_or(f64::INFINITY);
    totals.sort_by(|a, b| group(a).cmp(&group(b)).then(ratio(a).total_cmp(&ratio(b))));
    totals
}

fn geometric_mean<'a>(ratios: impl Iterator<Item = &'a f64>) -> Option<f64> {
    let (sum, count) =
        ratios.fold((0.0, 0_u64), |(sum, count), ratio| (sum + ratio.ln(), count + 1));
    (count > 0).then(|| (sum / count as f64).exp())
}

fn draw(sweeps: &[SweepInFolder], totals: &[Total<'_>]) -> Canvas {
    let mut ratios = BTreeMap::new();
    for (row, sweep) in sweeps.iter().enumerate() {
        for (policy, of) in &sweep.policies {
            ratios.extend(of.ratio.map(|ratio| ((policy.as_str(), row), ratio)));
        }
    }
    let policies: Vec<&str> = totals.iter().map(|total| total.policy).collect();
    let rows: Vec<&str> = sweeps.iter().map(|sweep| sweep.name.as_str()).collect();
    let grid = RatioGrid {
        title: "Mean TTFT over that of the best heuristic of each cell, by scenario",
        policies: &policies,
        rows: &rows,
        ratios: &ratios,
    };
    grid.draw(WIDTH)
}

fn policies(totals: &[Total<'_>]) -> Markup {
    const COLUMNS: [Column; 7] = [
        ("policy", ""),
        (
            "mean to best",
            "geometric mean over cells of mean TTFT over that of the cell's best heuristic",
        ),
        ("P99 to best", "the same of the P99 of TTFT"),
        ("lost to best", "cells in which its mean TTFT is over 2 % above the best heuristic's"),
        ("cells", "cells in which it has figures"),
        ("scenarios", "scenarios in which it ran"),
        ("kind", "yardsticks are no routers: they show what is left to win"),
    ];
    let row = |total: &Total<'_>| {
        let ratio = |value: Option<f64>| {
            Field::Number(value, value.map_or_else(String::new, |value| format!("{value:.3}")))
        };
        let count = |count: u64| Field::Number(Some(count as f64), count.to_string());
        let fields = vec![
            Field::Text(total.policy),
            ratio(total.mean),
            ratio(total.p99),
            count(total.lost),
            count(total.cells as u64),
            count(total.sweeps as u64),
            Field::Text(total.kind.as_str()),
        ];
        html! { tr { (cells(&fields)) } }
    };
    html! {
        p { "Every cell counts alike. The best heuristic is another one in each cell, and nobody has it; below 1 is faster." }
        (table("Policies over all cells", &COLUMNS, totals.iter().map(row)))
    }
}

fn scenarios(sweeps: &[SweepInFolder]) -> Markup {
    html! {
        ul { @for sweep in sweeps {
            li {
                a href={ (sweep.name) "/" (PAGE) } { (sweep.name) } ": " (sweep.scenario) ", " (sweep.cells) " cells, "
                (sweep.policies.len()) " policies, seeds 1 to " (sweep.seeds) ", " (sweep.information) " information"
                @if let Some(note) = &sweep.note { ": " strong { (note) } }
            }
        } }
    }
}
