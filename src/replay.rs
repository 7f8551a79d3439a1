//! `lodestar replay`: one trace on one fleet under several policies, compared.

use std::io::{self, IsTerminal as _, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use lodestar_live::{read_checkpoint, write_checkpoint};
use lodestar_router::{
    Checkpoint, Information, InstanceNames, PolicyConfig, Router, RouterConfig, Time,
};
use lodestar_scenarios::{
    Fleet, Marks, OutputDir, Replay, Replayed, Results, Summary, Workload, compare, load,
};
use lodestar_traces::{ReadOptions, read_all};

use crate::progress::Progress;
use crate::read_options::ReadFlags;

/// Simulate a trace on a fleet under several policies and compare them
#[derive(Args, Debug)]
pub(crate) struct ReplayArgs {
    /// The trace: Azure, BurstGPT, Mooncake, ShareGPT, a router's log and others, plain or compressed
    /// (docs/formats.md)
    trace: PathBuf,
    /// Instances by GPU, such as a100:4,h100:2,l4:2; h100x4:2 is two instances of four GPUs each, and
    /// ./my-gpu.toml:4 four of a profile of your own
    #[arg(long)]
    fleet: String,
    /// The model that every instance serves
    #[arg(long, default_value = "llama-3.1-8b")]
    model: String,
    /// Policies to compare, as `lodestar policies` lists them, or `all` [default: six basic ones]
    #[arg(long, value_delimiter = ',')]
    policy: Vec<String>,
    /// What policies see: what their own implementations do, or Lodestar's ledger and index (docs/policies.md)
    #[arg(long, value_enum, default_value = "deployed")]
    information: InformationArg,
    /// Of everything that is drawn at random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Show the runs of these results beside: what `lodestar bench` measured with the same trace and flags
    #[arg(long, value_name = "DIR")]
    beside: Vec<PathBuf>,
    /// Folder for tables, summary and figures; earlier results in it are replaced
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Let the policy go on from what it had learned (docs/formats.md); it must be the only one
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Write what the policy has learned in the end; it must be the only one
    #[arg(long, value_name = "FILE")]
    save_checkpoint: Option<PathBuf>,
    /// Write down all that each router is told and decides, as decisions.jsonl in a folder for each policy (docs/decisions.md)
    #[arg(long)]
    log: bool,
    #[command(flatten)]
    threads: Threads,
    #[command(flatten)]
    read: ReadFlags,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum InformationArg {
    Deployed,
    Ideal,
}

impl InformationArg {
    /// As the router calls it.
    pub(crate) const fn get(self) -> Information {
        match self {
            Self::Deployed => Information::Deployed,
            Self::Ideal => Information::Ideal,
        }
    }
}

/// How much of the machine to use.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Threads {
    /// Runs at a time [default: one a core]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

impl Threads {
    /// What was asked for.
    pub(crate) const fn get(self) -> Option<NonZeroUsize> {
        self.threads
    }
}

pub(crate) fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    let fleet: Fleet = args.fleet.parse()?;
    let policies = policies(&args.policy)?;
    let checkpoint = checkpoint(args, &policies)?;
    let read_options = ReadOptions { seed: args.seed, ..args.read.options()? };
    let trace = read_all(&args.trace, &read_options)?;
    for note in &trace.notes {
        writeln!(io::stderr(), "note: {note}")?;
    }
    let name = args.trace.file_name().unwrap_or(args.trace.as_os_str()).to_string_lossy();
    let workload =
        Workload { name: &name, read_options: Some(read_options), requests: &trace.requests };
    let replay = Replay::new(workload, fleet, &args.model, policies, args.seed)?;
    let mut replay = replay.with_information(args.information.get());
    if let Some(checkpoint) = checkpoint {
        replay = replay.with_checkpoint(checkpoint);
    }
    let output = OutputDir::create(&args.out)?;
    if args.log {
        replay = replay.with_log(&output.path());
    }
    let learned = execute(&replay, &args.beside, output, &args.out, args.threads)?;
    if let (Some(path), [Some(learned)]) = (&args.save_checkpoint, &learned[..]) {
        write_checkpoint(path, learned)?;
    }
    Ok(())
}

/// The checkpoint to go on from, before time is spent on anything else; and whether one can be saved.
fn checkpoint(args: &ReplayArgs, policies: &[PolicyConfig]) -> anyhow::Result<Option<Checkpoint>> {
    if args.checkpoint.is_none() && args.save_checkpoint.is_none() {
        return Ok(None);
    }
    let [policy] = policies else {
        bail!("a checkpoint is of one policy; give --policy lodestar and no other");
    };
    let name = policy.name();
    let mut router = Router::new(RouterConfig::new(policy.clone()), args.seed);
    if router.checkpoint(&InstanceNames::new()).is_none() {
        bail!("policy `{name}` keeps nothing in a checkpoint; `lodestar` does");
    }
    let Some(path) = &args.checkpoint else { return Ok(None) };
    let Some(checkpoint) = read_checkpoint(path)? else {
        bail!("checkpoint {}: there is no such file; check the path", path.display());
    };
    router
        .restore(Time::ZERO, &checkpoint, &InstanceNames::new())
        .with_context(|| format!("checkpoint {}", path.display()))?;
    Ok(Some(checkpoint))
}

fn policies(names: &[String]) -> anyhow::Result<Vec<PolicyConfig>> {
    if names.is_empty() {
        return Ok(PolicyConfig::basic().into());
    }
    if names == ["all"] {
        return Ok(PolicyConfig::all().into());
    }
    Ok(names
        .iter()
        // As people write fleets, too.
        .map(|name| PolicyConfig::from_name(&name.trim().to_ascii_lowercase()))
        .collect::<Result<_, _>>()?)
}

/// Runs a replay, writes its results and prints the comparison. Answers what each policy has learned.
pub(crate) fn execute(
    replay: &Replay<'_>,
    beside: &[PathBuf],
    output: OutputDir,
    out: &Path,
    threads: Threads,
) -> anyhow::Result<Vec<Option<Checkpoint>>> {
    let others = beside.iter().map(|folder| load(folder)).collect::<Result<Vec<_>, _>>()?;
    let progress = Progress::new(replay.total_requests());
    let Replayed { mut results, mut wall, checkpoints } =
        replay.run(threads.threads, &|ended| progress.advance(ended))?;
    drop(progress);
    for (other, folder) in others.into_iter().zip(beside) {
        results.add(other).with_context(|| format!("--beside {}", folder.display()))?;
    }
    wall.resize(results.runs.len(), Duration::ZERO);
    keep(output, &results)?;

    print(out, &results, &wall).context("cannot write to stdout")?;
    Ok(checkpoints)
}

/// Writes a results folder, figures included.
pub(crate) fn keep(output: OutputDir, results: &Results) -> anyhow::Result<()> {
    output.write_tables(results)?;
    lodestar_plots::replay_figures(results, &output.path().join("figures"))?;
    Ok(output.finish(results)?)
}

/// Prints the comparison, and where everything is.
pub(crate) fn print(out: &Path, results: &Results, wall: &[Duration]) -> io::Result<()> {
    let summaries: Vec<_> = results.runs.iter().map(Summary::of).collect();
    let mut stdout = io::stdout().lock();
    let marks = if stdout.is_terminal() { Marks::Colour } else { Marks::Star };
    writeln!(stdout, "{}", compare(&summaries, wall, marks))?;
    for trust in &results.scenario.step_times {
        if let Some(caveat) = trust.caveat() {
            writeln!(stdout, "{caveat}")?;
        }
    }
    let out = out.display();
    writeln!(stdout, "tables   {out}/<policy>/requests.parquet, {out}/<policy>/instances.parquet")?;
    writeln!(stdout, "summary  {out}/summary.csv")?;
    writeln!(stdout, "figures  {out}/figures/overview.png, and more beside it, as SVG too")?;
    stdout.flush()
}
