//! Measured against simulated latencies: on the diagonal they agree.

use crate::axis::{Axis, Format};
use crate::canvas::{Canvas, Point};
use crate::colour::{self, Colour};
use crate::panel::{Panel, Series};

/// Requests as they were measured and as they were simulated. Plain data: a figure need not know how.
#[derive(Clone, Debug)]
pub struct ValidationFigure {
    /// What is shown.
    pub title: String,
    /// Of which log.
    pub subtitle: String,
    /// The requests.
    pub points: Vec<ValidationPoint>,
}

/// One request; latencies are (measured, simulated).
#[derive(Clone, Copy, Debug)]
pub struct ValidationPoint {
    /// Prompt length, tokens.
    pub prompt_tokens: u32,
    /// Time to first token.
    pub ttft_ms: (f64, f64),
    /// End-to-end latency.
    pub e2e_ms: (f64, f64),
}

/// More points would hide each other and fill the file.
const MOST_POINTS: usize = 4000;
/// Errors beyond this lie at the edge, so that one outlier does not flatten the others.
const MOST_PERCENT: f64 = 100.0;

type Latency = fn(&ValidationPoint) -> (f64, f64);

pub(crate) fn draw(figure: &ValidationFigure) -> Canvas {
    let mut canvas = Canvas::new(1000.0, 900.0);
    let area = canvas.heading(canvas.area(), &figure.title, &figure.subtitle);
    let cells = area.grid(2, 2, (36.0, 16.0));
    let step = figure.points.len().div_ceil(MOST_POINTS).max(1);
    let points: Vec<_> = figure.points.iter().step_by(step).copied().collect();
    let latencies: [(&str, Latency); 2] = [("TTFT", |p| p.ttft_ms), ("E2E", |p| p.e2e_ms)];
    for (index, (name, latency)) in latencies.into_iter().enumerate() {
        let colour = colour::series(index);
        let against: Vec<Point> = points.iter().map(latency).collect();
        let panel = against_panel(name, &against);
        panel.draw(&mut canvas, cells[index]);
        panel.draw_points(&mut canvas, cells[index], &Series { points: against, colour });

        let errors: Vec<Point> = points
            .iter()
            .map(|point| (f64::from(point.prompt_tokens), percent(latency(point))))
            .collect();
        let panel = error_panel(name, &errors);
        panel.draw(&mut canvas, cells[2 + index]);
        panel.draw_points(&mut canvas, cells[2 + index], &Series { points: errors, colour });
    }
    canvas
}

fn against_panel(name: &str, points: &[Point]) -> Panel {
    let both = || points.iter().flat_map(|(measured, simulated)| [*measured, *simulated]);
    let low = both().fold(f64::INFINITY, f64::min);
    let high = both().fold(0.0_f64, f64::max);
    let axis = |what: &str| {
        Axis::log(&format!("{what} {name} (logarithmic)"), both(), Format::Milliseconds)
    };
    Panel {
        title: name.to_owned(),
        x: axis("measured"),
        y: axis("simulated"),
        // Where both are equal.
        series: vec![Series { points: vec![(low, low), (high, high)], colour: Colour::AXIS }],
    }
}

fn error_panel(name: &str, errors: &[Point]) -> Panel {
    let largest = errors.iter().map(|(_, percent)| percent.abs()).fold(1.0_f64, f64::max).ceil();
    let tokens = || errors.iter().map(|(tokens, _)| *tokens);
    let (low, high) = (tokens().fold(f64::INFINITY, f64::min), tokens().fold(0.0_f64, f64::max));
    Panel {
        title: format!("Error of {name}"),
        x: Axis::log("prompt tokens (logarithmic)", tokens(), Format::Short),
        y: Axis::linear("simulated over measured, %", -largest, largest, Format::Number),
        series: vec![Series { points: vec![(low, 0.0), (high, 0.0)], colour: Colour::AXIS }],
    }
}

fn percent((measured, simulated): (f64, f64)) -> f64 {
    ((simulated / measured - 1.0) * 100.0).clamp(-MOST_PERCENT, MOST_PERCENT)
}
