//! Of policies that predict TTFT: predicted against actual, and the error while the run goes on.

use lodestar_scenarios::sweep::{CellIdentity, Predictions};

use super::{MOST_POLICIES, SweepView, WIDTH, describe, end_s, segments};
use crate::axis::{Axis, Format};
use crate::canvas::Canvas;
use crate::colour::{self, Colour};
use crate::legend;
use crate::panel::{Panel, Series};

/// Errors beyond this lie at the edge, so that one wild prediction does not flatten the others.
const MOST_ERROR: f64 = 3.0;

/// None if nobody predicts in this cell.
pub(crate) fn draw(view: &SweepView<'_>, cell: &CellIdentity) -> Option<Canvas> {
    let predicting: Vec<(&str, u64, &Predictions)> = view
        .all_series(cell.index)
        .filter_map(|(policy, run)| Some((policy, run.bin_s, run.predictions.as_ref()?)))
        .take(MOST_POLICIES)
        .collect();
    if predicting.is_empty() {
        return None;
    }
    let mut canvas = Canvas::new(WIDTH, 470.0);
    let title = "TTFT as policies predicted it";
    let area = canvas.heading(canvas.area(), title, &describe(cell));
    let names = predicting.iter().map(|(policy, ..)| *policy);
    let entries = names.enumerate().map(|(index, policy)| (policy, colour::series(index)));
    let area = legend::draw(&mut canvas, area, entries);
    let areas = area.grid(1, 2, (30.0, 0.0));

    let against = against_panel(&predicting);
    against.draw(&mut canvas, areas[0]);
    for (index, (.., predictions)) in predicting.iter().enumerate() {
        let points = predictions.sample_ms.iter().map(|(predicted, actual)| (*actual, *predicted));
        let series = Series { points: points.collect(), colour: colour::series(index) };
        against.draw_points(&mut canvas, areas[0], &series);
    }
    let runs = view.all_series(cell.index).map(|(_, series)| series);
    let end_s = end_s(runs.filter(|series| series.predictions.is_some()));
    let learning = error_panel(&predicting, end_s);
    learning.draw(&mut canvas, areas[1]);
    let marks = super::course::marks(view, cell.index).iter();
    let marks = marks.map(|mark| (mark.at_s, mark.label.as_str()));
    learning.draw_marks(&mut canvas, areas[1], marks);
    Some(canvas)
}

fn against_panel(predicting: &[(&str, u64, &Predictions)]) -> Panel {
    let values = || {
        let samples = predicting.iter().flat_map(|(.., predictions)| &predictions.sample_ms);
        samples.flat_map(|(predicted, actual)| [*predicted, *actual]).filter(|ms| *ms > 0.0)
    };
    let low = values().fold(f64::INFINITY, f64::min);
    let high = values().fold(0.0_f64, f64::max);
    Panel {
        title: "Predicted against actual".to_owned(),
        x: Axis::log("actual TTFT (logarithmic)", values(), Format::Milliseconds),
        y: Axis::log("predicted TTFT (logarithmic)", values(), Format::Milliseconds),
        // Where both are equal.
        series: vec![Series { points: vec![(low, low), (high, high)], colour: Colour::AXIS }],
    }
}

fn error_panel(predicting: &[(&str, u64, &Predictions)], end_s: f64) -> Panel {
    let mut series = Vec::new();
    for (index, (_, bin_s, predictions)) in predicting.iter().enumerate() {
        let clamped: Vec<_> =
            predictions.error.iter().map(|error| error.map(|e| e.min(MOST_ERROR))).collect();
        let parts = segments(*bin_s, &clamped).into_iter();
        series.extend(parts.map(|points| Series { points, colour: colour::series(index) }));
    }
    let points = series.iter().flat_map(|series| series.points.iter());
    let largest = points.map(|point| point.1).fold(0.1_f64, f64::max);
    Panel {
        title: "Learning curve".to_owned(),
        x: Axis::time("simulated time", end_s),
        y: Axis::linear("mean error over actual TTFT", 0.0, largest, Format::Percent),
        series,
    }
}
