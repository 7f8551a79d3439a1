//! `lodestar plot`: figures and a report of what is in a folder.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use lodestar_plots::SweepInFolder;
use lodestar_scenarios::load;
use lodestar_scenarios::sweep::Overview;

/// Draw the figures and the report of a sweep, finished or not, of several sweeps, or of a replay
#[derive(Args, Debug)]
pub(crate) struct PlotArgs {
    /// The folder of `lodestar sweep`, `merge` or `replay`, or one in which the folders of sweeps are
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The policy with which the others are compared [default: the scenario's]
    #[arg(long, value_name = "POLICY")]
    baseline: Option<String>,
}

pub(crate) fn run(args: &PlotArgs) -> anyhow::Result<()> {
    let folder = &args.folder;
    anyhow::ensure!(folder.is_dir(), "{} is not a folder: check the path", folder.display());
    let is_replay = folder.join("manifest.json").exists();
    let sweeps = if is_replay || is_sweep(folder) { Vec::new() } else { sweeps_below(folder)? };
    if !is_replay && sweeps.is_empty() {
        draw_sweep(folder, args.baseline.as_deref())?;
        return announce(folder);
    }
    anyhow::ensure!(
        args.baseline.is_none(),
        "--baseline has no effect on {}",
        if is_replay {
            "a replay: its report compares with prefix-cache, or else its first policy"
        } else {
            "several sweeps: their report compares with the best heuristic of each cell"
        }
    );
    if !is_replay {
        draw_scenarios(folder, &sweeps)?;
        return announce(folder);
    }
    let results = load(folder)?;
    lodestar_plots::sweep_report(&Overview::of_replay(&results), folder)?;
    announce(folder)
}

fn is_sweep(folder: &Path) -> bool {
    folder.join("runs").is_dir()
}

/// The names of subfolders that are sweeps, sorted.
fn sweeps_below(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let entry = entry?;
        if is_sweep(&entry.path()) {
            names.extend(entry.file_name().into_string());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Draws what several sweeps say together; their own reports stay as they are.
fn draw_scenarios(folder: &Path, names: &[String]) -> anyhow::Result<()> {
    let sweep = |name: &String| {
        let overview = Overview::read_without_baseline(&folder.join(name))?;
        Ok(SweepInFolder::new(name, &overview))
    };
    let sweeps = names.iter().map(sweep).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(lodestar_plots::scenarios_report(&sweeps, folder)?)
}

/// Draws a sweep's report. What is missing of the sweep is no error, since it may be still to come.
pub(crate) fn draw_sweep(folder: &Path, baseline: Option<&str>) -> anyhow::Result<()> {
    let overview = Overview::read(folder, baseline)?;
    lodestar_plots::sweep_report(&overview, folder)?;
    if let Some(note) = overview.extent.note() {
        writeln!(io::stderr(), "note: {note}")?;
    }
    Ok(())
}

/// Says where a report is.
pub(crate) fn announce(folder: &Path) -> anyhow::Result<()> {
    let folder = folder.display();
    Ok(writeln!(
        io::stdout(),
        "report   {folder}/report.html, and its figures in {folder}/figures"
    )?)
}
