//! Of policies that predict TTFT: predicted against actual, and the error while the run goes on.
//!
//! A row a policy on the same axes: thousands of points in one diagram would hide each other.

use lodestar_scenarios::sweep::{CellIdentity, Predictions};

use super::course::time_axis;
use super::{MOST_POLICIES, SweepView, WIDTH, describe, end_s, segments};
use crate::axis::{Axis, Format};
use crate::canvas::Canvas;
use crate::colour::Colour;
use crate::panel::{Panel, Series};

/// Errors beyond this lie at the edge, so that one wild prediction does not flatten the others.
const MOST_ERROR: f64 = 3.0;

/// Height of a row, without labels of marks.
const HEIGHT: f64 = 250.0;

/// Who predicts in a cell.
struct Predicting<'a> {
    policy: &'a str,
    /// The same as in every other diagram, and muted if it is in none.
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
    let runs = view.all_series(cell.index).map(|(_, series)| series);
    let end_s = end_s(runs.filter(|series| series.predictions.is_some()));
    let mut against: Vec<Panel> =
        predicting.iter().map(|one| against_panel(&predicting, one)).collect();
    let mut errors = error_panels(&predicting, &time_axis(view, cell.index, end_s));
    Panel::align(&mut against);
    Panel::align(&mut errors);
    let gap = (30.0, 14.0);
    let mut canvas = Canvas::new(WIDTH, 100.0);
    let width = (canvas.area().width() - gap.0) / 2.0;
    canvas.height += (HEIGHT + errors[0].extra_height(width) + gap.1) * predicting.len() as f64;
    let title = "TTFT as policies predicted it, and the error over time";
    let area = canvas.heading(canvas.area(), title, &describe(cell));
    let areas = area.grid(predicting.len(), 2, gap);
    for (row, one) in predicting.iter().enumerate() {
        let (left, right) = (areas[2 * row], areas[2 * row + 1]);
        against[row].draw(&mut canvas, left);
        let samples = one.predictions.sample_ms.iter();
        let points = samples.map(|(predicted, actual)| (*actual, *predicted)).collect();
        against[row].draw_points(&mut canvas, left, &Series { points, colour: one.colour });
        errors[row].draw(&mut canvas, right);
    }
    Some(canvas)
}

/// Those that diagrams show first, in their order.
fn predicting<'a>(view: &SweepView<'a>, cell: &CellIdentity) -> Vec<Predicting<'a>> {
    let of_run = |(policy, run): (&'a str, &'a lodestar_scenarios::sweep::Series)| {
        let (colour, bin_s) = (view.colour_of(policy), run.bin_s);
        Some(Predicting { policy, colour, bin_s, predictions: run.predictions.as_ref()? })
    };
    let mut all: Vec<_> = view.all_series(cell.index).filter_map(of_run).collect();
    let place =
        |one: &Predicting<'_>| view.policies.iter().position(|policy| *policy == one.policy);
    all.sort_by_key(|one| place(one).unwrap_or(usize::MAX));
    all.truncate(MOST_POLICIES);
    all
}

/// One policy, on axes for all of them.
fn against_panel(predicting: &[Predicting<'_>], one: &Predicting<'_>) -> Panel {
    let values = || {
        let samples = predicting.iter().flat_map(|one| &one.predictions.sample_ms);
        samples.flat_map(|(predicted, actual)| [*predicted, *actual]).filter(|ms| *ms > 0.0)
    };
    let low = values().fold(f64::INFINITY, f64::min);
    let high = values().fold(0.0_f64, f64::max);
    Panel {
        title: one.policy.to_owned(),
        x: Axis::log("actual TTFT (logarithmic)", values(), Format::Milliseconds),
        y: Axis::log("predicted TTFT (logarithmic)", values(), Format::Milliseconds),
        // Where both are equal.
        series: vec![Series { points: vec![(low, low), (high, high)], colour: Colour::AXIS }],
    }
}

/// The error of each policy over time, up to [`MOST_ERROR`].
fn error_panels(predicting: &[Predicting<'_>], time: &Axis) -> Vec<Panel> {
    let errors = predicting.iter().flat_map(|one| one.predictions.error.iter().flatten());
    let largest = errors.fold(0.1_f64, |largest, error| largest.max(*error));
    let title = if largest > MOST_ERROR {
        format!("mean error over actual TTFT, cut at {}", Format::Percent.write(MOST_ERROR))
    } else {
        "mean error over actual TTFT".to_owned()
    };
    let panel = |one: &Predicting<'_>| {
        let errors = one.predictions.error.iter();
        let cut: Vec<_> = errors.map(|error| error.map(|error| error.min(MOST_ERROR))).collect();
        let parts = segments(one.bin_s, &cut).into_iter();
        Panel {
            title: "Learning curve".to_owned(),
            x: time.clone(),
            y: Axis::linear(&title, 0.0, largest.min(MOST_ERROR), Format::Percent),
            series: parts.map(|points| Series { points, colour: one.colour }).collect(),
        }
    };
    predicting.iter().map(panel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_is_cut_is_said_to_be() {
        let panel = |error: f64| {
            let predictions =
                Predictions { sample_ms: Vec::new(), error: vec![Some(0.2), Some(error)] };
            let one = Predicting {
                policy: "a",
                colour: Colour::MUTED,
                bin_s: 1,
                predictions: &predictions,
            };
            error_panels(&[one], &Axis::time("", 2.0)).remove(0)
        };
        let cut = panel(7.0);
        assert!(cut.y.title.ends_with("cut at 300 %"), "{}", cut.y.title);
        assert_eq!(cut.series[0].points[1], (1.5, MOST_ERROR));
        assert_eq!(panel(0.3).y.title, "mean error over actual TTFT");
    }
}
