//! `lodestar plot`: figures and a report of what is in a folder.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use lodestar_scenarios::load;
use lodestar_scenarios::sweep::Overview;

/// Draw the figures and the report of a sweep, finished or not, or of a replay
#[derive(Args, Debug)]
pub(crate) struct PlotArgs {
    /// The folder of `lodestar sweep`, `merge` or `replay`
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The policy with which the others are compared [default: the scenario's]
    #[arg(long, value_name = "POLICY")]
    baseline: Option<String>,
}

pub(crate) fn run(args: &PlotArgs) -> anyhow::Result<()> {
    let folder = &args.folder;
    anyhow::ensure!(folder.is_dir(), "{} is not a folder: check the path", folder.display());
    if !folder.join("manifest.json").exists() {
        draw_sweep(folder, args.baseline.as_deref())?;
        return announce(folder);
    }
    anyhow::ensure!(
        args.baseline.is_none(),
        "--baseline has no effect on a replay: its report compares with prefix-cache, or else its first policy"
    );
    let results = load(folder)?;
    lodestar_plots::sweep_report(&Overview::of_replay(&results), folder)?;
    announce(folder)
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
