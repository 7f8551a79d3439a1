//! How TTFT is distributed under each policy.

use lodestar_scenarios::{Results, RunTables};

use super::{run_colours, subtitle};
use crate::axis::{Axis, Format};
use crate::canvas::Canvas;
use crate::legend;
use crate::panel::{Panel, Series};
use crate::samples::cumulative;

pub(crate) fn draw(results: &Results) -> Canvas {
    let mut canvas = Canvas::new(900.0, 540.0);
    let title = "Time to first token: the share of requests answered within a time";
    let area = canvas.heading(canvas.area(), title, &subtitle(results));
    let area = legend::draw(&mut canvas, area, run_colours(&results.runs));
    panel(&results.runs).draw(&mut canvas, area);
    canvas
}

/// The diagram, which the overview shows too.
pub(super) fn panel(runs: &[RunTables]) -> Panel {
    let ttfts = |run: &RunTables| {
        run.requests().numbers("ttft_ms").into_iter().flatten().collect::<Vec<_>>()
    };
    let series: Vec<_> = runs
        .iter()
        .zip(run_colours(runs))
        .map(|(run, (_, colour))| Series { points: cumulative(ttfts(run)), colour })
        .collect();
    let shown = series.iter().flat_map(|series| series.points.iter().map(|point| point.0));
    Panel {
        title: "TTFT distribution".to_owned(),
        x: Axis::log("TTFT (logarithmic)", shown, Format::Milliseconds),
        y: Axis::percent("share of requests"),
        series,
    }
}
