//! How many requests wait, in the whole fleet, while the trace goes on.
//!
//! One diagram a policy on the same axes: queues of similar policies lie on top of each other.

use lodestar_scenarios::{Results, RunTables};

use super::{run_colours, subtitle};
use crate::axis::{Axis, Format};
use crate::canvas::{Canvas, Point};
use crate::panel::{Panel, Series};
use crate::samples::{by_time, last_interval_s, mean, middles, seconds};

/// Points of a curve.
const PARTS: usize = 150;

pub(crate) fn draw(results: &Results) -> Canvas {
    let runs = &results.runs;
    let columns = runs.len().min(2);
    let rows = runs.len().div_ceil(columns);
    let mut canvas = Canvas::new(1000.0, 90.0 + 250.0 * rows as f64);
    let title = "Requests waiting for an engine to start them, whole fleet";
    let area = canvas.heading(canvas.area(), title, &subtitle(results));
    let end_s = last_interval_s(runs);
    let curves: Vec<_> = runs.iter().map(|run| curve(run, end_s)).collect();
    let longest = curves.iter().flatten().map(|point| point.1).fold(0.0_f64, f64::max);
    for (((name, colour), points), cell) in
        run_colours(runs).zip(curves).zip(area.grid(rows, columns, (36.0, 14.0)))
    {
        let panel = Panel {
            title: name.to_owned(),
            x: Axis::time("simulated time", end_s),
            y: Axis::linear("waiting requests", 0.0, longest, Format::Number),
            series: vec![Series { points, colour }],
        };
        panel.draw(&mut canvas, cell);
    }
    canvas
}

/// The mean over each part of time of the sum over the instances.
fn curve(run: &RunTables, end_s: f64) -> Vec<Point> {
    let ends = run.instances().integers("end_ns");
    let waiting = run.instances().integers("waiting_requests");
    let mut totals: Vec<(f64, f64)> = Vec::new();
    for (end, waiting) in ends.into_iter().map(seconds).zip(waiting) {
        match totals.last_mut() {
            // Rows are ordered by interval.
            Some(last) if last.0.total_cmp(&end).is_eq() => last.1 += waiting as f64,
            _ => totals.push((end, waiting as f64)),
        }
    }
    let parts = PARTS.min(totals.len().max(1));
    let binned = by_time(&totals, end_s, parts);
    middles(end_s, parts)
        .zip(binned)
        .filter(|(_, totals)| !totals.is_empty())
        .map(|(middle, totals)| (middle, mean(&totals)))
        .collect()
}
