//! The page: what was run, the tables, the figures.

use std::collections::BTreeSet;

use lodestar_scenarios::StepTimeTrust;
use lodestar_scenarios::sweep::{CellIdentity, Mark};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{CellFigures, Figure, Figures, tables};
use crate::colour;
use crate::figures::sweep::{SweepView, course};

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// Nothing from elsewhere is loaded, whatever a name in the results says.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// The page of a sweep as a file.
pub(super) fn render(view: &SweepView<'_>, figures: &Figures) -> String {
    document(&view.overview.items[0].scenario, &sections(view, figures))
}

/// A page as a file.
pub(super) fn document(name: &str, main: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (name) " · Lodestar report" }
                style { (PreEscaped(STYLE)) (PreEscaped(colour::style_sheet())) }
            }
            body {
                header {
                    h1 { (name) }
                    button #theme type="button" hidden { "Theme: system" }
                }
                main { (main) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string() + "\n"
}

fn sections(view: &SweepView<'_>, figures: &Figures) -> Markup {
    let has_predictions = figures.cells.iter().any(|cell| cell.predictions.is_some());
    html! {
        nav aria-label="Sections" {
            a href="#run" { "What was run" }
            a href="#policies" { "Policies" }
            a href="#ratios" { "Ratios" }
            @if figures.load.is_some() { a href="#load" { "Load" } }
            @if figures.trade_off.is_some() { a href="#trade-off" { "Trade-off" } }
            a href="#comparison" { "All cells" }
            a href="#cells" { "Cell by cell" }
            @if has_predictions { a href="#predictions" { "Predictions" } }
        }
        section #run { h2 { "What was run" } (what_was_run(view)) }
        section #policies { h2 { "Policies over all cells" } (tables::policies(view.overview)) }
        section #ratios { h2 { "Policies by cell" } (figure(&figures.ratios)) }
        @if let Some(load) = &figures.load {
            section #load {
                h2 { "P99 of TTFT against load" }
                p { "The knee is the scenario's, or else the highest rate up to which the P99 under "
                    code { (view.overview.baseline) }
                    " stays below four times what it is at the lowest rate; without a line, it always does." }
                (figure(load))
            }
        }
        @if let Some(trade_off) = &figures.trade_off {
            section #trade-off { h2 { "TPOT against TTFT" } (figure(trade_off)) }
        }
        section #comparison { h2 { "Every policy in every cell" } (tables::comparison(view.overview)) }
        section #cells {
            h2 { "Cell by cell" }
            @if view.policies.len() < view.overview.summary.len() {
                p { "Diagrams show the baseline and the best policies over all cells, as many as there are colours; "
                    "the tables above have all " (view.overview.summary.len()) "." }
            }
            @for (cell, figures) in view.cells.iter().zip(&figures.cells) { (cell_figures(view, cell, figures)) }
        }
        @if has_predictions { (predictions(view, figures)) }
    }
}

fn what_was_run(view: &SweepView<'_>) -> Markup {
    let overview = view.overview;
    let first = &overview.items[0];
    let mut seeds: Vec<u64> = overview.items.iter().map(|item| item.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    let extent = &overview.extent;
    let failed = overview.items.iter().filter(|item| item.measured().is_none()).count();
    let step_times = view.cells.iter().flat_map(|cell| &cell.step_times);
    let caveats: BTreeSet<String> = step_times.filter_map(StepTimeTrust::caveat).collect();
    let caveats: Vec<String> = caveats.into_iter().collect();
    let mut policies: Vec<&str> = overview.summary.iter().map(|row| row.policy.as_str()).collect();
    policies.sort_unstable();
    html! {
        dl {
            dt { "Scenario" }
            dd { (first.scenario) " " span.muted { "(digest " code { (short(&first.scenario_sha256)) } ")" } }
            dt { "Runs" }
            dd {
                (overview.items.len() - failed) " finished"
                @if failed > 0 { ", " strong { (failed) " failed" } }
                @if let Some(note) = extent.note() { ": " strong { (note) } }
            }
            dt { "Cells" } dd {
                (view.cells.len())
                @if view.cells.len() < extent.cells { " of " (extent.cells) }
            }
            dt { "Policies" } dd { (policies.join(", ")) }
            dt { "Baseline" } dd { (overview.baseline) }
            dt { "Information" } dd { (first.information.as_str()) }
            dt { "Seeds" } dd {
                (seeds.join(", "))
                @if (seeds.len() as u64) < extent.seeds { " of 1 to " (extent.seeds) }
            }
            @if !caveats.is_empty() {
                dt { "Step times" } dd { (caveats.join("; ")) }
            }
            dt { "Version" } dd {
                "Lodestar " (first.lodestar_version)
                @if !first.executable_sha256.is_empty() {
                    " " span.muted { "(executable " code { (short(&first.executable_sha256)) } ")" }
                }
            }
            dt { "Command" } dd { code.command { (overview.command) } }
        }
        details {
            summary { "The cells" }
            ul { @for cell in &view.cells {
                li { a href={ "#cell-" (cell.index) } { (cell.id) } " " span.muted { (cell.workload) " on " (cell.fleet) } }
            } }
        }
    }
}

/// Enough of a digest to tell two apart.
fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

fn cell_figures(view: &SweepView<'_>, cell: &CellIdentity, figures: &CellFigures) -> Markup {
    let is_first = view.cells.first().is_some_and(|first| first.index == cell.index);
    html! {
        details.cell id={ "cell-" (cell.index) } open[is_first] {
            summary { h3 { (cell.id) } }
            (figure(&figures.distribution))
            (figure(&figures.course))
            (marks(course::marks(view, cell.index)))
            (figure(&figures.instances))
        }
    }
}

fn marks(marks: &[Mark]) -> Markup {
    html! {
        @if !marks.is_empty() {
            p { "What changed on the way:" }
            ul { @for mark in marks { li { (format!("{:.1} s: ", mark.at_s)) (mark.label) } } }
        }
    }
}

fn predictions(view: &SweepView<'_>, figures: &Figures) -> Markup {
    html! {
        section #predictions {
            h2 { "Predicted against actual TTFT, and learning curves" }
            p { "Of the instance that was chosen, in the run with the lowest seed; the error is the mean of "
                "|predicted − actual| / actual of the requests that arrived in a bin." }
            @for (cell, figures) in view.cells.iter().zip(&figures.cells) {
                @if let Some(predictions) = &figures.predictions {
                    details.cell { summary { h3 { (cell.id) } } (figure(predictions)) }
                }
            }
        }
    }
}

pub(super) fn figure(of: &Figure) -> Markup {
    html! {
        @match &of.svg {
            Some(svg) => figure role="img" aria-label=(of.description) {
                div.chart.scroll tabindex="0" { (PreEscaped(svg)) }
            },
            None => p.muted { "This page is full: see " code { "figures/" (of.stem) ".svg" } "." },
        }
    }
}
