//! A cell over simulated time: TTFT, the queue, and what changed on the way.

use lodestar_scenarios::sweep::{CellIdentity, Mark, Series as RunSeries};

use super::{SweepView, WIDTH, describe, end_s, segments};
use crate::axis::{Axis, Format};
use crate::canvas::{Canvas, Point};
use crate::legend;
use crate::panel::{Panel, Series};

pub(crate) fn draw(view: &SweepView<'_>, cell: &CellIdentity) -> Canvas {
    let mut canvas = Canvas::new(WIDTH, 660.0);
    let title = "The course of one run, by arrival of the request";
    let area = canvas.heading(canvas.area(), title, &describe(cell));
    let area = legend::draw(&mut canvas, area, view.colours());
    let runs: Vec<_> = view
        .colours()
        .filter_map(|(policy, colour)| Some((view.series(cell.index, policy)?, colour)))
        .collect();
    let end_s = end_s(runs.iter().map(|(series, _)| *series));
    let lines = |of: fn(&RunSeries) -> Vec<Option<f64>>| -> Vec<Series> {
        let line = |(series, colour): &(&RunSeries, _)| {
            let parts = segments(series.bin_s, &of(series)).into_iter();
            parts.map(|points| Series { points, colour: *colour }).collect::<Vec<_>>()
        };
        runs.iter().flat_map(line).collect()
    };
    let values = |lines: &[Series]| -> Vec<f64> {
        lines.iter().flat_map(|line| line.points.iter().map(|point: &Point| point.1)).collect()
    };
    let cells = area.grid(2, 1, (0.0, 14.0));
    let ttft = lines(|series| series.ttft_mean_ms.clone());
    let ttft = Panel {
        title: "TTFT".to_owned(),
        x: Axis::time("simulated time", end_s),
        y: Axis::log("mean (logarithmic)", values(&ttft).into_iter(), Format::Milliseconds),
        series: ttft,
    };
    let queue = lines(queue);
    let longest = values(&queue).into_iter().fold(0.0_f64, f64::max);
    let queue = Panel {
        title: "Queue of the whole fleet".to_owned(),
        x: Axis::time("simulated time", end_s),
        y: Axis::linear("waiting requests", 0.0, longest, Format::Number),
        series: queue,
    };
    for (panel, cell_area) in [ttft, queue].iter().zip(cells) {
        panel.draw(&mut canvas, cell_area);
        let marks = marks(view, cell.index).iter().map(|mark| (mark.at_s, mark.label.as_str()));
        panel.draw_marks(&mut canvas, cell_area, marks);
    }
    canvas
}

/// What changed in a cell's runs: the same under every policy.
pub(crate) fn marks<'a>(view: &SweepView<'a>, cell: u32) -> &'a [Mark] {
    view.all_series(cell).next().map_or(&[], |(_, series)| &series.marks)
}

/// Waiting requests of all instances. An idle cluster records nothing, and then nobody waits.
fn queue(series: &RunSeries) -> Vec<Option<f64>> {
    let total = |bin: usize| {
        let waiting = series.instances.iter().filter_map(|instance| instance.waiting_requests[bin]);
        Some(waiting.sum())
    };
    (0..series.ttft_mean_ms.len()).map(total).collect()
}
