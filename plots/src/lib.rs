//! Figures, as SVG and PNG, drawn from the tables of a replay or a sweep, and a sweep's report.
//!
//! A figure is a function from results to shapes (`figures/`, one file each), put together from a small
//! vocabulary: axes, panels of lines, heat maps, legends. Plotters draws the charts, and the shapes into files.
//! What it lacks is ours: titles that read without turning the head, labels that do not overlap, legends beside the data,
//! keys of colours. The same results give the same bytes on every machine: the font is compiled in, and
//! nothing is asked of the system.

mod axis;
mod canvas;
mod chart;
mod colour;
mod figures;
mod font;
mod heat;
mod legend;
mod marks;
mod panel;
mod ratio_grid;
mod render;
mod report;
mod samples;

use std::fs;
use std::path::Path;

use lodestar_scenarios::Results;
use lodestar_scenarios::decisions::LearnCurve;

use crate::canvas::Canvas;
pub use crate::figures::calibration::{CalibrationFigure, CalibrationPoint};
pub use crate::figures::trace::TraceInfoFigure;
pub use crate::figures::validation::{ValidationFigure, ValidationPoint};
pub use crate::render::PlotError;
pub use crate::report::scenarios::{SweepInFolder, scenarios_report};
pub use crate::report::sweep_report;

type DrawFigure = fn(&Results) -> Canvas;

/// Every figure that shows a replay, by the name of its files.
const REPLAY_FIGURES: [(&str, DrawFigure); 5] = [
    ("overview", figures::overview::draw),
    ("ttft_cdf", figures::ttft_cdf::draw),
    ("ttft_over_time", figures::ttft_over_time::draw),
    ("queue_over_time", figures::queue_over_time::draw),
    ("load", figures::load::draw),
];

/// Draws every figure of a replay into `folder`, which is created where needed: `<figure>.svg` and
/// `<figure>.png`.
pub fn replay_figures(results: &Results, folder: &Path) -> Result<(), PlotError> {
    fs::create_dir_all(folder).map_err(|error| PlotError::new(folder, &error))?;
    for (name, draw) in REPLAY_FIGURES {
        render::save(&draw(results), &folder.join(name))?;
    }
    Ok(())
}

/// Draws the figure of a trace as `<stem>.svg` and `<stem>.png`.
pub fn trace_figure(info: &TraceInfoFigure, stem: &Path) -> Result<(), PlotError> {
    render::save(&figures::trace::draw(info), stem)
}

/// Draws the figure of a fit as `<stem>.svg` and `<stem>.png`.
pub fn calibration_figure(figure: &CalibrationFigure, stem: &Path) -> Result<(), PlotError> {
    render::save(&figures::calibration::draw(figure), stem)
}

/// Draws how policies learned, by name, as `<stem>.svg` and `<stem>.png`.
pub fn learn_curve_figure(curves: &[(String, LearnCurve)], stem: &Path) -> Result<(), PlotError> {
    render::save(&figures::learn_curve::draw(curves), stem)
}

/// Draws measured against simulated latencies as `<stem>.svg` and `<stem>.png`.
pub fn validation_figure(figure: &ValidationFigure, stem: &Path) -> Result<(), PlotError> {
    render::save(&figures::validation::draw(figure), stem)
}
