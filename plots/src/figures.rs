//! The figures, one file each: a function from results to a canvas.

pub(crate) mod calibration;
pub(crate) mod learn_curve;
pub(crate) mod load;
pub(crate) mod overview;
pub(crate) mod queue_over_time;
pub(crate) mod sweep;
pub(crate) mod trace;
pub(crate) mod ttft_cdf;
pub(crate) mod ttft_over_time;
pub(crate) mod validation;

use lodestar_scenarios::{Results, RunTables, StepTimeTrust};

use crate::axis::number;
use crate::colour::{self, Colour};

/// Of the run at this place of the results, in every figure.
fn run_colours(runs: &[RunTables]) -> impl Iterator<Item = (&str, Colour)> {
    runs.iter().enumerate().map(|(index, run)| (run.policy(), colour::series(index)))
}

/// What was simulated, for the line below a title.
fn subtitle(results: &Results) -> String {
    let scenario = &results.scenario;
    let groups = scenario.fleet.groups().iter();
    let fleet: Vec<_> = groups.map(|group| format!("{} × {}", group.count, group.gpu)).collect();
    let requests = number(scenario.trace.requests as f64);
    let on = if fleet.is_empty() { "servers".to_owned() } else { fleet.join(" + ") };
    format!(
        "{} ({requests} requests), {} on {on}{}, seed {}",
        scenario.trace.name,
        scenario.model,
        StepTimeTrust::short_caveats(&scenario.step_times),
        scenario.seed
    )
}
