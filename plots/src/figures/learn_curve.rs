//! How predictions and choices change while a policy learns.

use crate::axis::{Axis, Format};
use crate::canvas::{Canvas, Point};
use crate::colour::{self, Colour};
use crate::legend;
use crate::panel::{Panel, Series};
use lodestar_scenarios::decisions::{LearnCurve, Window};

/// Width of a diagram of reasons, and height of every diagram.
const HEIGHT: f64 = 300.0;
/// The share that a predicted range should hold.
const NOMINAL: f64 = 0.9;

type Value = fn(&Window) -> Option<f64>;

/// Curves of several logs, by name.
pub(crate) fn draw(curves: &[(String, LearnCurve)]) -> Canvas {
    let rows = curves.len().div_ceil(2);
    let mut canvas = Canvas::new(1000.0, 190.0 + 2.0 * HEIGHT + (HEIGHT + 60.0) * rows as f64);
    let title = "Predictions and choices while the policy learns";
    let subtitle = "each point is a window of consecutive requests; TTFT as the router sees it";
    let area = canvas.heading(canvas.area(), title, subtitle);
    let colours = || curves.iter().enumerate().map(|(index, _)| colour::series(index));
    let names = curves.iter().map(|(name, _)| name.as_str());
    let area = legend::draw(&mut canvas, area, names.zip(colours()));
    let (diagrams, area) = area.split_top(2.0 * HEIGHT + 16.0);
    let cells = diagrams.grid(2, 2, (36.0, 16.0));
    for (panel, cell) in panels(curves).into_iter().zip(cells) {
        panel.draw(&mut canvas, cell);
    }
    let reasons = reasons(curves);
    let entries = || reasons.iter().enumerate().map(|(index, name)| (*name, colour::series(index)));
    let area = legend::draw(&mut canvas, area.inset(0.0, 16.0, 0.0, 0.0), entries());
    let end_s = end_s(curves);
    for ((name, curve), cell) in curves.iter().zip(area.grid(rows, 2, (36.0, 16.0))) {
        let series = entries().map(|(reason, colour)| {
            let share = |window: &Window| window.reasons.get(reason).copied().unwrap_or(0.0);
            let points = curve.windows.iter().map(|window| (middle_s(window), share(window)));
            Series { points: points.collect(), colour }
        });
        let panel = Panel {
            title: format!("Reasons, {name}"),
            x: Axis::time("time", end_s),
            y: Axis::percent("share of decisions"),
            series: series.collect(),
        };
        panel.draw(&mut canvas, cell);
    }
    canvas
}

fn panels(curves: &[(String, LearnCurve)]) -> [Panel; 4] {
    let end_s = end_s(curves);
    let x = || Axis::time("time", end_s);
    let range = |value: Value| {
        let windows = curves.iter().flat_map(|(_, curve)| &curve.windows);
        let values = windows.filter_map(value);
        values.fold((0.0_f64, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)))
    };
    let error_max = range(|window| window.error_factor).1;
    let (regret_min, regret_max) = range(|window| window.regret_ms);
    let explored = range(|window| Some(window.explored));
    let mut coverage = series(curves, |window| window.coverage);
    let line = vec![(0.0, NOMINAL), (end_s, NOMINAL)];
    coverage.insert(0, Series { points: line, colour: Colour::AXIS });
    [
        Panel {
            title: "Error of the predicted TTFT".to_owned(),
            x: x(),
            y: Axis::linear(
                "median factor, either way; 1 is exact",
                1.0,
                error_max,
                Format::Number,
            ),
            series: series(curves, |window| window.error_factor),
        },
        Panel {
            title: "TTFTs in the predicted range".to_owned(),
            x: x(),
            y: Axis::percent("share; the line is at nine in ten"),
            series: coverage,
        },
        Panel {
            title: "Regret".to_owned(),
            x: x(),
            y: Axis::linear(
                "actual less smallest predicted TTFT, ms",
                regret_min.floor(),
                regret_max.ceil(),
                Format::Number,
            ),
            series: series(curves, |window| window.regret_ms),
        },
        Panel {
            title: "Explored".to_owned(),
            x: x(),
            y: Axis::linear("percentage of decisions", 0.0, 100.0 * explored.1, Format::Number),
            series: series(curves, |window| Some(100.0 * window.explored)),
        },
    ]
}

fn series(curves: &[(String, LearnCurve)], value: Value) -> Vec<Series> {
    let points = |curve: &LearnCurve| -> Vec<Point> {
        let windows = curve.windows.iter();
        windows.filter_map(|window| Some((middle_s(window), value(window)?))).collect()
    };
    let curves = curves.iter().enumerate();
    curves
        .map(|(index, (_, curve))| Series { points: points(curve), colour: colour::series(index) })
        .collect()
}

/// Every reason, once.
fn reasons(curves: &[(String, LearnCurve)]) -> Vec<&'static str> {
    let windows = curves.iter().flat_map(|(_, curve)| &curve.windows);
    let mut reasons: Vec<_> = windows.flat_map(|window| window.reasons.keys().copied()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    reasons
}

fn middle_s(window: &Window) -> f64 {
    f64::midpoint(window.from_s, window.to_s)
}

fn end_s(curves: &[(String, LearnCurve)]) -> f64 {
    let windows = curves.iter().flat_map(|(_, curve)| &curve.windows);
    windows.map(|window| window.to_s).fold(1e-9, f64::max)
}
