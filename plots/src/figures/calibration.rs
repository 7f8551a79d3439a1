//! How well a fitted law gives back the steps it was fitted to.

use crate::axis::{Axis, Format};
use crate::canvas::Canvas;
use crate::colour::{self, Colour};
use crate::legend;
use crate::panel::{Panel, Series};

/// A fit and the steps it was made of. Plain data: a figure need not know how they were computed.
#[derive(Clone, Debug)]
pub struct CalibrationFigure {
    /// What was fitted.
    pub title: String,
    /// Where the steps come from.
    pub subtitle: String,
    /// The steps.
    pub points: Vec<CalibrationPoint>,
}

/// One step, as measured and as the law has it.
#[derive(Clone, Copy, Debug)]
pub struct CalibrationPoint {
    /// Tokens in the step.
    pub tokens: f64,
    /// How long it took, ms.
    pub measured_ms: f64,
    /// How long it takes by the law, ms.
    pub predicted_ms: f64,
    /// Whether it computed prefill.
    pub has_prefill: bool,
    /// Whether it decoded.
    pub has_decode: bool,
    /// Whether the fit set it aside.
    pub is_outlier: bool,
}

/// What a step computed, in the order of the legend.
const KINDS: [&str; 4] = ["prefill only", "decode only", "mixed", "set aside"];
/// Points of one kind that are drawn: more would hide each other and fill the file.
const MOST_POINTS: usize = 3000;
/// Errors beyond this lie at the edge, so that one wild row does not flatten the others.
const MOST_PERCENT: f64 = 50.0;

pub(crate) fn draw(figure: &CalibrationFigure) -> Canvas {
    let mut canvas = Canvas::new(1000.0, 520.0);
    let area = canvas.heading(canvas.area(), &figure.title, &figure.subtitle);
    let present = (0..KINDS.len()).filter(|kind| of_kind(figure, *kind).next().is_some());
    let present: Vec<usize> = present.collect();
    let entries = present.iter().map(|kind| (KINDS[*kind], colour_of(*kind)));
    let area = legend::draw(&mut canvas, area, entries);
    let cells = area.grid(1, 2, (36.0, 0.0));

    let residuals = residual_panel(figure);
    residuals.draw(&mut canvas, cells[0]);
    let fitted = fitted_panel(figure);
    fitted.draw(&mut canvas, cells[1]);
    for kind in present {
        let points = |value: fn(&CalibrationPoint) -> (f64, f64)| Series {
            points: thinned(of_kind(figure, kind).map(value).collect()),
            colour: colour_of(kind),
        };
        let percent = |p: &CalibrationPoint| (p.tokens, clamped_percent(p));
        residuals.draw_points(&mut canvas, cells[0], &points(percent));
        fitted.draw_points(&mut canvas, cells[1], &points(|p| (p.measured_ms, p.predicted_ms)));
    }
    canvas
}

fn residual_panel(figure: &CalibrationFigure) -> Panel {
    let tokens = figure.points.iter().map(|point| point.tokens);
    let largest = figure.points.iter().map(|p| clamped_percent(p).abs()).fold(1.0_f64, f64::max);
    Panel {
        title: "Residuals".to_owned(),
        x: Axis::log("tokens in the step (logarithmic)", tokens, Format::Short),
        y: Axis::linear("fitted over measured, %", -largest.ceil(), largest.ceil(), Format::Number),
        series: Vec::new(),
    }
}

fn fitted_panel(figure: &CalibrationFigure) -> Panel {
    let both = || figure.points.iter().flat_map(|point| [point.measured_ms, point.predicted_ms]);
    let low = both().fold(f64::INFINITY, f64::min);
    let high = both().fold(0.0_f64, f64::max);
    Panel {
        title: "Fitted against measured".to_owned(),
        x: Axis::log("measured duration (logarithmic)", both(), Format::Milliseconds),
        y: Axis::log("fitted duration (logarithmic)", both(), Format::Milliseconds),
        // Where both are equal.
        series: vec![Series { points: vec![(low, low), (high, high)], colour: Colour::AXIS }],
    }
}

fn of_kind(figure: &CalibrationFigure, kind: usize) -> impl Iterator<Item = &CalibrationPoint> {
    figure.points.iter().filter(move |point| kind_of(point) == kind)
}

fn kind_of(point: &CalibrationPoint) -> usize {
    match (point.is_outlier, point.has_prefill, point.has_decode) {
        (true, _, _) => 3,
        (false, true, true) => 2,
        (false, false, _) => 1,
        (false, true, false) => 0,
    }
}

fn colour_of(kind: usize) -> Colour {
    colour::series(kind)
}

fn clamped_percent(point: &CalibrationPoint) -> f64 {
    ((point.predicted_ms / point.measured_ms - 1.0) * 100.0).clamp(-MOST_PERCENT, MOST_PERCENT)
}

/// Evenly out of all, the same ones every time.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let step = points.len().div_ceil(MOST_POINTS).max(1);
    points.into_iter().step_by(step).collect()
}
