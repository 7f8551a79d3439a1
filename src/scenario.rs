//! `lodestar scenario`: what can be swept.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use lodestar_scenarios::scenario::{
    Scenario, ScenarioError, catalog_text, read_axes, read_scenario, scenario_names,
};
use lodestar_scenarios::sweep::{Agreement, comparison_of, saturate};
use lodestar_sim::{PlannedEvent, PlannedKind};

/// Check, list and show scenarios
#[derive(Args, Debug)]
pub(crate) struct ScenarioArgs {
    #[command(subcommand)]
    command: ScenarioCommand,
}

#[derive(Subcommand, Debug)]
enum ScenarioCommand {
    /// Read a scenario file and say what a sweep of it would run
    Check(FileArgs),
    /// The scenarios that come with Lodestar
    List,
    /// Put a sweep beside what the scenario's authors measured on real machines
    Compare(CompareArgs),
    /// Find the highest rate that each fleet keeps up with, for `loads`
    Saturate(FileArgs),
    /// Print the file of a scenario that comes with Lodestar, to start one's own from
    Show(NameArgs),
}

#[derive(Args, Debug)]
struct FileArgs {
    /// A scenario file, or the name of one that comes with Lodestar
    scenario: String,
}

#[derive(Args, Debug)]
struct CompareArgs {
    /// A scenario with a `measured` file
    scenario: String,
    /// The folder of a sweep of it
    folder: PathBuf,
}

#[derive(Args, Debug)]
struct NameArgs {
    /// The name
    name: String,
}

pub(crate) fn run(args: &ScenarioArgs) -> anyhow::Result<()> {
    match &args.command {
        ScenarioCommand::Check(args) => check(&read_scenario(&args.scenario)?),
        ScenarioCommand::Compare(args) => compare(args),
        ScenarioCommand::List => list(),
        ScenarioCommand::Saturate(args) => find_knees(&args.scenario),
        ScenarioCommand::Show(args) => show(&args.name),
    }
}

fn check(scenario: &Scenario) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let Scenario { name, cells, contenders, seeds, .. } = scenario;
    crate::sweep::default_folder(name)?;
    for cell in cells {
        // A trace that cannot be read is found here, not after an hour.
        let requests = cell.content.requests(cell.rate_rps, 1)?.len();
        writeln!(out, "{:<44} {requests:>8} requests", cell.id)?;
    }
    for event in &scenario.plan {
        writeln!(out, "{}", describe(event, &names_of(scenario, event.instance)?))?;
    }
    let labels: Vec<_> = contenders.iter().map(|contender| contender.label.as_str()).collect();
    if !labels.contains(&scenario.baseline.as_str()) {
        let (baseline, policies) = (scenario.baseline.clone(), labels.join(", "));
        return Err(ScenarioError::NoBaseline { baseline, policies }.into());
    }
    writeln!(out, "policies {}; baseline {}", labels.join(", "), scenario.baseline)?;
    let runs = cells.len() as u64 * labels.len() as u64 * seeds;
    Ok(writeln!(
        out,
        "{name}: {} cells x {} policies x {seeds} seeds = {runs} runs",
        cells.len(),
        labels.len()
    )?)
}

/// What an instance is called in the scenario's fleets.
fn names_of(scenario: &Scenario, instance: usize) -> anyhow::Result<String> {
    let mut names = BTreeSet::new();
    for cell in &scenario.cells {
        names.insert(scenario.cluster(cell)?.instances[instance].name.clone());
    }
    Ok(Vec::from_iter(names).join(" or "))
}

/// An event in a line.
fn describe(event: &PlannedEvent, names: &str) -> String {
    let (what, until) = match event.kind {
        PlannedKind::Join => ("joins".to_owned(), None),
        PlannedKind::Drain => ("drains".to_owned(), None),
        PlannedKind::Crash => ("crashes".to_owned(), None),
        PlannedKind::Return => ("returns".to_owned(), None),
        PlannedKind::Slow { factor, until } => {
            (format!("takes {factor} times as long"), Some(until))
        }
        PlannedKind::StaleMetrics { delay, until } => {
            (format!("has metrics {} s late", delay.as_secs_f64()), Some(until))
        }
        PlannedKind::LostKvEvents { share, until } => {
            (format!("loses {} % of its KV events", 100.0 * share), Some(until))
        }
    };
    let until = until.map_or_else(String::new, |end| format!(" until {} s", end.as_secs_f64()));
    let (at_s, instance) = (event.at.as_secs_f64(), event.instance);
    format!("at {at_s} s instance {instance} ({names}) {what}{until}")
}

fn compare(args: &CompareArgs) -> anyhow::Result<()> {
    let scenario = read_scenario(&args.scenario)?;
    anyhow::ensure!(
        !scenario.published.is_empty(),
        "{} has nothing to compare with: its file has no `measured`",
        args.scenario
    );
    let comparison = comparison_of(&args.folder, &scenario)?;
    Ok(write!(io::stdout(), "{}", Agreement::of(&comparison, &scenario.published).text())?)
}

fn list() -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for name in scenario_names() {
        let scenario = read_scenario(name)?;
        let description = scenario.description.trim().replace('\n', " ");
        writeln!(out, "{name:<20} {:>3} cells  {description}", scenario.cells.len())?;
    }
    Ok(())
}

fn find_knees(path_or_name: &str) -> anyhow::Result<()> {
    let scenario = read_axes(path_or_name)?;
    let mut out = io::stdout().lock();
    writeln!(out, "# under {}; P99 of TTFT idle and at the knee", scenario.baseline)?;
    for cell in &scenario.cells {
        let knee = saturate(&scenario, cell)?;
        let (idle, loaded) = (knee.idle_p99_ms, knee.knee_p99_ms);
        writeln!(
            out,
            "{}: knee_rps = {{ \"{}\" = {} }}  # {idle:.0} and {loaded:.0} ms",
            knee.workload, knee.fleet, knee.knee_rps
        )?;
    }
    Ok(())
}

fn show(name: &str) -> anyhow::Result<()> {
    match catalog_text(name) {
        Some(text) => Ok(write!(io::stdout(), "{text}")?),
        // For its message, which has the nearest name.
        None => read_scenario(name).map(|_| ()).map_err(Into::into),
    }
}
