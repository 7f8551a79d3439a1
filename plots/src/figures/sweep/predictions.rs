//! Of policies that predict TTFT: predicted against actual, and the error while the run goes on.

use lodestar_scenarios::sweep::{CellIdentity, Predictions};

use super::course::time_axis;
use super::{MOST_POLICIES, SweepView, WIDTH, describe, end_s, segments};
use crate::axis::{Axis, Format};
use crate::canvas::Canvas;
use crate::colour::{self, Colour};
use crate::legend;
use crate::panel::{Panel, Series};

/// Errors beyond this lie at the edge, so that one wild prediction does not flatten the others.
const MOST_ERROR: f64 = 3.0;

/// Who predicts in a cell.
struct Predicting<'a> {
    policy: &'a str,
    /// The same as in every other diagram.
    colour: Colour,
    bin_s: u64,
    predictions: &'a Predictions,
}

/// None if nobody predicts in this cell.
pub(crate) fn draw(view: &SweepView<'_>, cell: &CellIdentity) -> Option<Canvas> {
    let predicting = predicting(view, cell);
    if predicting.is_empty() {
        return None;
    }
    let mut canvas = Canvas::new(WIDTH, 470.0);
    let title = "TTFT as policies predicted it";
    let area = canvas.heading(canvas.area(), title, &describe(cell));
    let entries = predicting.iter().map(|one| (one.policy, one.colour));
    let area = legend::draw(&mut canvas, area, entries);
    let areas = area.grid(1, 2, (30.0, 0.0));

    let against = against_panel(&predicting);
    against.draw(&mut canvas, areas[0]);
    for Predicting { predictions, colour, .. } in &predicting {
        let points = predictions.sample_ms.iter().map(|(predicted, actual)| (*actual, *predicted));
        let series = Series { points: points.collect(), colour: *colour };
        against.draw_points(&mut canvas, areas[0], &series);
    }
    let runs = view.all_series(cell.index).map(|(_, series)| series);
    let end_s = end_s(runs.filter(|series| series.predictions.is_some()));
    let learning = error_panel(&predicting, time_axis(view, cell.index, end_s));
    learning.draw(&mut canvas, areas[1]);
    Some(canvas)
}

/// Who predicts, and is not among those that all diagrams show, has a colour of one that does not.
fn predicting<'a>(view: &SweepView<'a>, cell: &CellIdentity) -> Vec<Predicting<'a>> {
    let runs: Vec<_> = view
        .all_series(cell.index)
        .filter_map(|(policy, run)| Some((policy, run.bin_s, run.predictions.as_ref()?)))
        .take(MOST_POLICIES)
        .collect();
    let predicts = |policy: &str| runs.iter().any(|(one, ..)| *one == policy);
    let shown: Vec<(&str, Colour)> =
        view.colours().filter(|(policy, _)| predicts(policy)).collect();
    let is_taken = |colour: &Colour| shown.iter().any(|(_, taken)| taken == colour);
    let mut free = (0..MOST_POLICIES).map(colour::series).filter(|colour| !is_taken(colour));
    let of_run = |(policy, bin_s, predictions)| {
        let known = shown.iter().find(|(known, _)| *known == policy).map(|(_, colour)| *colour);
        let colour = known.unwrap_or_else(|| free.next().expect("as many as there are policies"));
        Predicting { policy, colour, bin_s, predictions }
    };
    runs.iter().copied().map(of_run).collect()
}

fn against_panel(predicting: &[Predicting<'_>]) -> Panel {
    let values = || {
        let samples = predicting.iter().flat_map(|one| &one.predictions.sample_ms);
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

fn error_panel(predicting: &[Predicting<'_>], time: Axis) -> Panel {
    let mut series = Vec::new();
    for Predicting { predictions, colour, bin_s, .. } in predicting {
        let clamped: Vec<_> =
            predictions.error.iter().map(|error| error.map(|e| e.min(MOST_ERROR))).collect();
        let parts = segments(*bin_s, &clamped).into_iter();
        series.extend(parts.map(|points| Series { points, colour: *colour }));
    }
    let points = series.iter().flat_map(|series| series.points.iter());
    let largest = points.map(|point| point.1).fold(0.1_f64, f64::max);
    Panel {
        title: "Learning curve".to_owned(),
        x: time,
        y: Axis::linear("mean error over actual TTFT", 0.0, largest, Format::Percent),
        series,
    }
}
