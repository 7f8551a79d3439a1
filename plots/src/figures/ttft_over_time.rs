//! How TTFT changes while the trace goes on: a policy that drifts looks fine in any distribution.

use lodestar_scenarios::{Results, RunTables, quantile};

use super::{run_colours, subtitle};
use crate::axis::{Axis, Format};
use crate::canvas::{Canvas, Point};
use crate::legend;
use crate::panel::{Panel, Series};
use crate::samples::{by_time, last_arrival_s, middles, ttft_by_arrival};

/// Requests a point should stand for, so that its P99 is more than its slowest request.
const REQUESTS_PER_POINT: usize = 150;

pub(crate) fn draw(results: &Results) -> Canvas {
    let mut canvas = Canvas::new(900.0, 800.0);
    let title = "Time to first token over time, by arrival of the request";
    let area = canvas.heading(canvas.area(), title, &subtitle(results));
    let area = legend::draw(&mut canvas, area, run_colours(&results.runs));
    let cells = area.grid(2, 1, (0.0, 16.0));
    panel(&results.runs, "Median (p50)", 0.5).draw(&mut canvas, cells[0]);
    panel(&results.runs, "99th percentile (p99)", 0.99).draw(&mut canvas, cells[1]);
    canvas
}

/// One quantile over time, which the overview shows too.
pub(super) fn panel(runs: &[RunTables], title: &str, q: f64) -> Panel {
    let end_s = last_arrival_s(runs);
    let series: Vec<_> = runs
        .iter()
        .zip(run_colours(runs))
        .map(|(run, (_, colour))| Series { points: curve(run, end_s, q), colour })
        .collect();
    let shown = series.iter().flat_map(|series| series.points.iter().map(|point| point.1));
    Panel {
        title: title.to_owned(),
        x: Axis::time("simulated time", end_s),
        y: Axis::log("TTFT (logarithmic)", shown, Format::Milliseconds),
        series,
    }
}

fn curve(run: &RunTables, end_s: f64, q: f64) -> Vec<Point> {
    let samples = ttft_by_arrival(run);
    let parts = (samples.len() / REQUESTS_PER_POINT).clamp(8, 60);
    // A trace that trails off leaves parts in which a quantile would be the luck of a few requests.
    let enough = samples.len() / parts / 5;
    middles(end_s, parts)
        .zip(by_time(&samples, end_s, parts))
        .filter(|(_, ttfts)| ttfts.len() > enough)
        .map(|(middle, mut ttfts)| {
            ttfts.sort_by(f64::total_cmp);
            (middle, quantile(&ttfts, q))
        })
        .collect()
}
