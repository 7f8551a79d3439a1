//! The figures of a sweep: what to draw of it, and in which colours.

pub(crate) mod course;
pub(crate) mod distribution;
pub(crate) mod instances;
pub(crate) mod load_curve;
pub(crate) mod predictions;
pub(crate) mod ratio_map;
pub(crate) mod trade_off;

use std::collections::BTreeMap;

use lodestar_scenarios::StepTimeTrust;
use lodestar_scenarios::scenario::Kind;
use lodestar_scenarios::sweep::{CellIdentity, Item, Measured, Overview, Ratio, Series};

use crate::colour::{self, Colour};

/// Width of every figure of a report: what a page shows without scrolling.
pub(crate) const WIDTH: f64 = 760.0;

/// Most policies that share a diagram, which is as many as there are colours.
const MOST_POLICIES: usize = 7;

/// A sweep and those of its policies that diagrams show; tables have all of them.
#[derive(Debug)]
pub(crate) struct SweepView<'a> {
    pub(crate) overview: &'a Overview,
    /// By index.
    pub(crate) cells: Vec<&'a CellIdentity>,
    /// All of them, the best one over all cells first, yardsticks last.
    pub(crate) ranking: Vec<&'a str>,
    /// The baseline, then the best ones.
    pub(crate) policies: Vec<&'a str>,
}

impl<'a> SweepView<'a> {
    pub(crate) fn new(overview: &'a Overview) -> Self {
        let cells: BTreeMap<u32, &CellIdentity> =
            overview.items.iter().map(|item| (item.cell.index, &item.cell)).collect();
        let mut ranked: Vec<_> = overview.summary.iter().collect();
        let ratio = |ratio: Option<Ratio>| ratio.map_or(f64::INFINITY, |ratio| ratio.value);
        ranked.sort_by(|a, b| {
            let group = |kind| kind == Kind::Yardstick;
            let by_ratio = ratio(a.mean_ratio_to_best).total_cmp(&ratio(b.mean_ratio_to_best));
            group(a.kind).cmp(&group(b.kind)).then(by_ratio)
        });
        let ranking: Vec<&str> = ranked.iter().map(|row| row.policy.as_str()).collect();
        let mut policies = ranking.clone();
        policies.retain(|policy| *policy != overview.baseline);
        policies.insert(0, &overview.baseline);
        policies.truncate(MOST_POLICIES);
        Self { overview, cells: cells.into_values().collect(), ranking, policies }
    }

    /// Of the shown policies, in every diagram.
    pub(crate) fn colours(&self) -> impl Iterator<Item = (&'a str, Colour)> {
        self.policies.iter().enumerate().map(|(index, policy)| (*policy, colour::series(index)))
    }

    /// Of a policy in every diagram: one that has no colour of its own steps back.
    pub(crate) fn colour_of(&self, policy: &str) -> Colour {
        let own = self.colours().find(|(name, _)| *name == policy);
        own.map_or(Colour::AXIS, |(_, colour)| colour)
    }

    /// The runs of a policy in a cell that ended, by seed.
    fn runs(&self, cell: u32, policy: &str) -> impl Iterator<Item = &'a Measured> {
        let is_of = move |item: &&Item| item.cell.index == cell && item.policy == policy;
        self.overview.items.iter().filter(is_of).filter_map(Item::measured)
    }

    /// A policy's run with the lowest seed over time.
    pub(crate) fn series(&self, cell: u32, policy: &str) -> Option<&'a Series> {
        self.runs(cell, policy).map(|run| &run.series).find(|series| series.bin_s > 0)
    }

    /// All that was measured over time in a cell, of every policy, shown or not.
    pub(crate) fn all_series(&self, cell: u32) -> impl Iterator<Item = (&'a str, &'a Series)> {
        let of_cell = self.overview.items.iter().filter(move |item| item.cell.index == cell);
        of_cell
            .filter_map(|item| Some((item.policy.as_str(), &item.measured()?.series)))
            .filter(|(_, series)| series.bin_s > 0)
    }
}

/// The end of the longest of some series, s.
fn end_s<'a>(series: impl Iterator<Item = &'a Series>) -> f64 {
    let length = |series: &Series| series.bin_s * series.ttft_mean_ms.len() as u64;
    series.map(length).max().unwrap_or(1) as f64
}

/// Middles of bins and their values, parted where values are missing.
fn segments(bin_s: u64, values: &[Option<f64>]) -> Vec<Vec<(f64, f64)>> {
    let mut segments: Vec<Vec<(f64, f64)>> = vec![Vec::new()];
    for (bin, value) in values.iter().enumerate() {
        match value {
            Some(value) => {
                let middle = (bin as f64 + 0.5) * bin_s as f64;
                segments.last_mut().expect("there is one").push((middle, *value));
            }
            None => segments.push(Vec::new()),
        }
    }
    segments.retain(|segment| !segment.is_empty());
    segments
}

/// What a cell is, for the line below a title.
fn describe(cell: &CellIdentity) -> String {
    let rate = cell
        .rate_rps
        .map_or_else(|| "its own rate".to_owned(), |rate| format!("{rate} requests/s"));
    format!("{} at {rate} on {}", cell.workload, servers(cell))
}

/// Instances, routers if there are several, and what to know of the instances before a latency is believed.
fn servers(cell: &CellIdentity) -> String {
    let caveats = StepTimeTrust::short_caveats(&cell.step_times);
    match cell.router_replicas {
        1 => format!("{}{caveats}", cell.fleet),
        routers => format!("{}{caveats} behind {routers} routers", cell.fleet),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_shown_has_nobody_elses_colour() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"].map(str::to_owned);
        let overview = Overview {
            items: Vec::new(),
            comparison: Vec::new(),
            summary: Vec::new(),
            baseline: names[0].clone(),
            extent: lodestar_scenarios::sweep::Extent::default(),
            command: String::new(),
        };
        let policies = names[..MOST_POLICIES].iter().map(String::as_str).collect();
        let view =
            SweepView { overview: &overview, cells: Vec::new(), ranking: Vec::new(), policies };
        assert_eq!(view.colour_of("b"), colour::series(1));
        assert!(view.colours().all(|(_, colour)| colour != view.colour_of("h")));
        assert_eq!(view.colour_of("h"), Colour::AXIS);
    }

    #[test]
    fn a_line_is_parted_where_nothing_was_measured() {
        let parts = segments(2, &[None, Some(1.0), Some(2.0), None, None, Some(3.0)]);
        assert_eq!(parts, [vec![(3.0, 1.0), (5.0, 2.0)], vec![(11.0, 3.0)]]);
    }
}
