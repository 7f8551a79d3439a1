//! How TTFT is distributed in a cell: each quantile is the mean of that quantile over the seeds.

use lodestar_scenarios::sweep::CellIdentity;

use super::{SweepView, WIDTH, describe};
use crate::axis::{Axis, Format};
use crate::canvas::{Canvas, Point};
use crate::legend;
use crate::panel::{Panel, Series};

pub(crate) fn draw(view: &SweepView<'_>, cell: &CellIdentity) -> Canvas {
    let mut canvas = Canvas::new(WIDTH, 430.0);
    let title = "Share of requests answered within a time";
    let area = canvas.heading(canvas.area(), title, &describe(cell));
    let area = legend::draw(&mut canvas, area, view.colours());
    let series: Vec<Series> = view
        .colours()
        .map(|(policy, colour)| Series { points: curve(view, cell.index, policy), colour })
        .collect();
    let shown = series.iter().flat_map(|series| series.points.iter().map(|point| point.0));
    let panel = Panel {
        title: "TTFT distribution".to_owned(),
        x: Axis::log("TTFT (logarithmic)", shown, Format::Milliseconds),
        y: Axis::percent("share of requests"),
        series,
    };
    panel.draw(&mut canvas, area);
    canvas
}

fn curve(view: &SweepView<'_>, cell: u32, policy: &str) -> Vec<Point> {
    let curves: Vec<&[f64]> = view
        .runs(cell, policy)
        .map(|run| run.ttft_quantiles_ms.as_slice())
        .filter(|curve| !curve.is_empty())
        .collect();
    let points = curves.iter().map(|curve| curve.len()).min().unwrap_or(0);
    let mean =
        |point: usize| curves.iter().map(|curve| curve[point]).sum::<f64>() / curves.len() as f64;
    let share = |point: usize| point as f64 / (points - 1).max(1) as f64;
    (0..points).map(|point| (mean(point), share(point))).collect()
}
