//! Which instance does how much, and when: requests and KV cache, a row an instance, for each policy.

use std::collections::BTreeMap;

use lodestar_scenarios::{Results, RunTables};

use super::subtitle;
use crate::axis::Axis;
use crate::canvas::{Align, Canvas, Rect, TextStyle};
use crate::heat::{self, HeatMap, Shades};
use crate::samples::{by_time, last_interval_s, mean, seconds};

/// Columns of a heat map.
const PARTS: usize = 120;

/// The height of a map of so many instances, with its title and labels.
pub(super) fn map_height(instances: usize) -> f64 {
    (instances as f64 * 15.0).clamp(70.0, 320.0) + 48.0
}

pub(crate) fn draw(results: &Results) -> Canvas {
    let runs = &results.runs;
    let requests = requests_maps(runs);
    let names = name_width(&requests);
    let height = map_height(requests.first().map_or(0, |map| map.rows.len()));
    let mut canvas = Canvas::new(1000.0, 190.0 + height * runs.len() as f64);
    let title = "Load of each instance over time";
    let area = canvas.heading(canvas.area(), title, &subtitle(results)).inset(0.0, 12.0, 0.0, 0.0);

    // All maps are equally wide, and only those on the left have names before them.
    let gap = 30.0;
    let width = (area.width() - names - gap) / 2.0;
    let left = Rect { right: area.left + names + width, ..area };
    let right = Rect { left: left.right + gap, ..area };
    draw_column(&mut canvas, left, names, "Requests, running and waiting", &requests);
    draw_column(&mut canvas, right, 0.0, "KV cache in use", &usage_maps(runs));
    canvas
}

fn draw_column(canvas: &mut Canvas, area: Rect, names: f64, heading: &str, maps: &[HeatMap]) {
    let at = (area.left + names, area.top + 13.0);
    canvas.text(heading, at, Align::Left, TextStyle::HEADING);
    let (key, area) = area.inset(0.0, 24.0, 0.0, 0.0).split_top(heat::KEY_HEIGHT + 6.0);
    heat::draw_key(maps, canvas, key);
    let cells = area.inset(0.0, 0.0, 0.0, 24.0).grid(maps.len(), 1, (0.0, 0.0));
    for (map, cell) in maps.iter().zip(cells) {
        map.draw(canvas, cell, names);
    }
    draw_time_title(canvas, area.inset(names, 0.0, 0.0, 0.0), maps);
}

/// The title that all maps above it share.
pub(super) fn draw_time_title(canvas: &mut Canvas, area: Rect, maps: &[HeatMap]) {
    let title = maps.first().map_or("", |map| map.x.title.as_str());
    canvas.text(title, (area.middle(), area.bottom - 3.0), Align::Centre, TextStyle::SMALL);
}

/// Room for the names before a column of maps.
pub(super) fn name_width(maps: &[HeatMap]) -> f64 {
    heat::name_width(maps.iter().flat_map(|map| map.rows.iter().map(|(name, _)| name.as_str())))
}

/// Requests on each instance, one map a policy, all in the same shades.
pub(super) fn requests_maps(runs: &[RunTables]) -> Vec<HeatMap> {
    let mut maps = maps(runs, |run| {
        let running = run.instances().integers("running_requests");
        let waiting = run.instances().integers("waiting_requests");
        running
            .into_iter()
            .zip(waiting)
            .map(|(running, waiting)| (running + waiting) as f64)
            .collect()
    });
    let values = maps.iter().flat_map(|map| map.rows.iter().flat_map(|(_, values)| values.iter()));
    let largest = values.copied().fold(1.0_f64, f64::max).ceil();
    for map in &mut maps {
        map.shades = Shades::LogCount { largest };
    }
    maps
}

/// Share of the KV cache in use on each instance, one map a policy.
fn usage_maps(runs: &[RunTables]) -> Vec<HeatMap> {
    maps(runs, |run| {
        run.instances()
            .numbers("kv_usage")
            .into_iter()
            .map(|usage| usage.unwrap_or(f64::NAN))
            .collect()
    })
}

fn maps(runs: &[RunTables], values: impl Fn(&RunTables) -> Vec<f64>) -> Vec<HeatMap> {
    let end_s = last_interval_s(runs);
    let map = |run: &RunTables| HeatMap {
        title: run.policy().to_owned(),
        rows: rows(run, &values(run), end_s),
        shades: Shades::Share,
        x: Axis::time("simulated time", end_s),
    };
    runs.iter().map(map).collect()
}

/// Means over parts of time, a row an instance, in the order of the fleet.
fn rows(run: &RunTables, values: &[f64], end_s: f64) -> Vec<(String, Vec<f64>)> {
    let ends = run.instances().integers("end_ns");
    let names = run.instances().texts("instance");
    let mut order = Vec::new();
    let mut samples: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for ((end, name), value) in ends.iter().zip(names).zip(values) {
        let name = name.expect("an interval belongs to an instance");
        let samples = samples.entry(name).or_default();
        if samples.is_empty() {
            order.push(name);
        }
        samples.push((seconds(*end), *value));
    }
    let row = |name: &str| {
        let samples = &samples[name];
        // Fewer columns than intervals, or there would be holes between them.
        let parts = PARTS.min(samples.len());
        let mut means: Vec<f64> =
            by_time(samples, end_s, parts).iter().map(|values| mean(values)).collect();
        fill_idle(&mut means);
        (name.to_owned(), means)
    };
    order.into_iter().map(row).collect()
}

/// An idle cluster records nothing: between two records, none is nothing.
fn fill_idle(means: &mut [f64]) {
    let is_known = |mean: &f64| !mean.is_nan();
    let (Some(first), Some(last)) =
        (means.iter().position(is_known), means.iter().rposition(is_known))
    else {
        return;
    };
    for mean in &mut means[first..last] {
        if mean.is_nan() {
            *mean = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_between_records_is_idle() {
        let mut means = [f64::NAN, 2.0, f64::NAN, 0.0, f64::NAN];
        fill_idle(&mut means);
        assert!(means[0].is_nan() && means[4].is_nan());
        assert_eq!(means[1..4], [2.0, 0.0, 0.0]);
    }
}
