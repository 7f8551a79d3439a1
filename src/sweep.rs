//! `lodestar sweep` and `lodestar merge`: many runs, and the tables of them.

use std::io::{self, Write as _};
use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use lodestar_scenarios::scenario::{MAX_SEEDS, read_scenario};
use lodestar_scenarios::sweep::{Merged, Shard, Sweep, SweepOptions, merge, write_tables};

use crate::progress::SweepProgress;
use crate::replay::{InformationArg, Threads};

/// Run every cell of a scenario under every policy with every seed
#[derive(Args, Debug)]
pub(crate) struct SweepArgs {
    /// A scenario file, or the name of one that comes with Lodestar (`lodestar scenario list`)
    scenario: String,
    /// Policies to compare: labels of the scenario, or any policy's name [default: the scenario's]
    #[arg(long, value_delimiter = ',')]
    policies: Vec<String>,
    /// Runs of each cell and policy, with the seeds 1 to N [default: the scenario's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_SEEDS))]
    seeds: Option<u64>,
    /// Run the K-th of N parts, such as 3/16; `lodestar merge` puts them together
    #[arg(long, value_name = "K/N", default_value = "1/1")]
    shard: Shard,
    /// Keep the runs that are in the folder and make those that are missing
    #[arg(long)]
    resume: bool,
    /// The policy with which the others are compared [default: the scenario's]
    #[arg(long, value_name = "POLICY")]
    baseline: Option<String>,
    /// What policies see: what their own implementations do, or Lodestar's ledger and index
    /// (docs/policies.md) [default: the scenario's]
    #[arg(long)]
    information: Option<InformationArg>,
    /// Folder for the runs and the tables [default: out/ and the scenario's name]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    threads: Threads,
}

/// Put the folders of shards together: the same files as from one sweep
#[derive(Args, Debug)]
pub(crate) struct MergeArgs {
    /// Folders of `lodestar sweep`
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// The policy with which the others are compared [default: the scenario's]
    #[arg(long, value_name = "POLICY")]
    baseline: Option<String>,
    /// Folder for all runs and their tables; may be one of them
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Whether all runs ended; if not, the exit code says so.
pub(crate) fn run(args: &SweepArgs) -> anyhow::Result<bool> {
    let options = SweepOptions {
        policies: args.policies.clone(),
        seeds: args.seeds,
        baseline: args.baseline.clone(),
        information: args.information.map(InformationArg::get),
        shard: args.shard,
        resume: args.resume,
    };
    let scenario = read_scenario(&args.scenario)?;
    let out = args.out.clone().map_or_else(|| default_folder(&scenario.name), Ok)?;
    let sweep = Sweep::new(scenario, &options, &out)?;
    if sweep.is_empty() {
        writeln!(
            io::stderr(),
            "note: there are fewer cells and seeds than shards; none is left for this one"
        )?;
        return Ok(true);
    }
    let progress = SweepProgress::new(sweep.total());
    let outcome = sweep.run(args.threads.get(), &|standing| progress.show(standing));
    drop(progress);
    outcome?;
    let baseline = args.baseline.as_deref();
    finish(&out, baseline, &write_tables(&out, baseline)?)
}

pub(crate) fn default_folder(name: &str) -> anyhow::Result<PathBuf> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(part)), None) if part == name => Ok(Path::new("out").join(name)),
        _ => anyhow::bail!(
            "the scenario's name {name:?} is not that of a folder: give it another, or say where with --out"
        ),
    }
}

pub(crate) fn run_merge(args: &MergeArgs) -> anyhow::Result<bool> {
    let baseline = args.baseline.as_deref();
    let merged = merge(&args.folders, &args.out, baseline)?;
    finish(&args.out, baseline, &merged)
}

fn finish(out: &Path, baseline: Option<&str>, merged: &Merged) -> anyhow::Result<bool> {
    // Before anything is printed: whoever reads only the first lines has the report, too. But whoever has none has at
    // least the lines.
    let drawn = crate::plot::draw_sweep(out, baseline);
    let mut stdout = io::stdout().lock();
    write!(stdout, "{}", merged.text())?;
    let folder = out.display();
    writeln!(
        stdout,
        "tables   {folder}/summary.csv, comparison.csv, results.csv, results.parquet"
    )?;
    drop(stdout);
    for (path, problem) in &merged.failed {
        writeln!(io::stderr(), "failed: {}: {problem}", path.display())?;
    }
    drawn.with_context(|| {
        format!("runs and tables are kept, and `lodestar plot {folder}` draws them again")
    })?;
    crate::plot::announce(out)?;
    Ok(merged.failed.is_empty())
}
