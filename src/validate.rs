//! `lodestar validate`: a measured log beside its simulation.

use std::fs;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{ArgAction, Args};
use flate2::read::MultiGzDecoder;
use lodestar_plots::{ValidationFigure, ValidationPoint};
use lodestar_scenarios::decisions::{LogReader, find_log};
use lodestar_scenarios::validate::{
    Assessment, CachedTokens, ErrorStatistics, FEW_IN, LogError, LogFleet, MeasuredLog, Overhead,
    Pair, Prompts, Validation, assess,
};
use lodestar_scenarios::{Fleet, StepTimeTrust, read_profile};
use lodestar_sim::catalog::MeasuredEngine;
use lodestar_traces::{ReadOptions, read_all};

/// Replay a measured log through the simulator, request by request where it was served, and compare
#[derive(Args, Debug)]
pub(crate) struct ValidateArgs {
    /// The log: CSV, JSON lines or a router's log, plain or gzipped (docs/formats.md)
    #[arg(long, value_name = "FILE")]
    log: PathBuf,
    /// GPU of every instance: a name in the catalog, or a profile's file (docs/profiles.md)
    #[arg(long, value_name = "P", required_unless_present = "fleet", conflicts_with = "fleet")]
    profile: Option<String>,
    /// Instances by GPU, such as a100:4,l20:2; the log names them by number or as a100-0
    #[arg(long)]
    fleet: Option<String>,
    /// The model that every instance served
    #[arg(long, default_value = "llama-3.1-8b")]
    model: String,
    /// Time outside engine and API server, ms a request [default: estimated from the log]
    #[arg(long, value_name = "MS")]
    overhead_ms: Option<f64>,
    /// A trace with the same requests in the same order, for what their prompts say [default: as the
    /// block hashes of a router's log say, or else inferred from the log's cached tokens]
    #[arg(long, value_name = "TRACE")]
    prompts: Option<PathBuf>,
    /// Where to draw measured against simulated, as STEM.svg and STEM.png
    #[arg(long, value_name = "STEM", default_value = "validation")]
    plot: PathBuf,
    /// Draw nothing
    #[arg(long, conflicts_with = "plot")]
    no_plot: bool,
    #[command(flatten)]
    engine: EngineFlags,
}

/// What to assume of the engines that served the log, where the profile does not say.
#[derive(Args, Clone, Copy, Debug)]
#[command(
    next_help_heading = "Engine settings [default: those that the profile was measured with]"
)]
pub(crate) struct EngineFlags {
    /// KV cache blocks of an instance
    #[arg(long, value_name = "N")]
    num_blocks: Option<u32>,
    /// Token budget of a step
    #[arg(long, value_name = "N")]
    max_num_batched_tokens: Option<u32>,
    /// Most running requests
    #[arg(long, value_name = "N")]
    max_num_seqs: Option<u32>,
    /// Whether step k+1 is scheduled while step k runs
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    async_scheduling: Option<bool>,
}

pub(crate) fn run(args: &ValidateArgs) -> anyhow::Result<()> {
    let overhead = match args.overhead_ms {
        Some(ms) if !(0.0..1e9).contains(&ms) => {
            bail!("--overhead-ms {ms} is not a time; give milliseconds, 0 or more")
        }
        Some(ms) => Overhead::Given(ms),
        None => Overhead::Estimated,
    };
    let log = read_log(&args.log)?;
    let (fleet, step_times) = fleet(args, &log).with_context(|| args.log.display().to_string())?;
    let prompts = args.prompts.as_ref().map(|trace| read_prompts(trace, &log)).transpose()?;
    let assessment = assess(&log, prompts.as_ref(), &fleet, overhead)?;
    if !args.no_plot {
        let figure = ValidationFigure {
            title: "Measured against simulated latency".to_owned(),
            subtitle: subtitle(args, &log) + &StepTimeTrust::short_caveats(&step_times),
            points: points(&assessment.best().pairs),
        };
        lodestar_plots::validation_figure(&figure, &args.plot)?;
    }
    print(args, &log, &assessment, &step_times).context("cannot write to stdout")
}

/// A log, with its notes told. A folder is that of a run with a router's log.
pub(crate) fn read_log(path: &Path) -> anyhow::Result<MeasuredLog> {
    let path = &find_log(path)?;
    let mut bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        MultiGzDecoder::new(&bytes[..])
            .read_to_end(&mut plain)
            .with_context(|| format!("{}: damaged gzip", path.display()))?;
        bytes = plain;
    }
    let log = if LogReader::is_begun_by(&bytes) {
        MeasuredLog::of_router_log(LogReader::of_bytes(path, bytes)?)
    } else {
        MeasuredLog::parse(&bytes)
    };
    let log = log.map_err(|error| {
        if let LogError::RouterLog(error) = error {
            // It says itself where.
            return anyhow::Error::new(error);
        }
        anyhow::Error::new(error).context(path.display().to_string())
    })?;
    for note in &log.notes {
        writeln!(io::stderr(), "note: {}: {note}", path.display())?;
    }
    Ok(log)
}

/// What a figure shows of requests.
pub(crate) fn points(pairs: &[Pair]) -> Vec<ValidationPoint> {
    let point = |pair: &Pair| ValidationPoint {
        prompt_tokens: pair.prompt_tokens,
        ttft_ms: pair.ttft_ms,
        e2e_ms: pair.e2e_ms,
    };
    pairs.iter().map(point).collect()
}

impl EngineFlags {
    pub(crate) fn settings(self) -> MeasuredEngine {
        MeasuredEngine {
            num_blocks: self.num_blocks,
            max_num_batched_tokens: self.max_num_batched_tokens,
            max_num_seqs: self.max_num_seqs,
            async_scheduling: self.async_scheduling,
            ..MeasuredEngine::default()
        }
    }
}

/// The instances, and how far the step times of their GPUs can be trusted.
fn fleet(args: &ValidateArgs, log: &MeasuredLog) -> anyhow::Result<(LogFleet, Vec<StepTimeTrust>)> {
    let settings = args.engine.settings();
    match (&args.fleet, &args.profile) {
        (Some(fleet), _) => {
            let fleet: Fleet = fleet.parse()?;
            let (ours, theirs) = (fleet.instance_count() as usize, log.instances.len());
            if ours > theirs {
                let idle = ours - theirs;
                writeln!(
                    io::stderr(),
                    "note: {idle} of the {ours} instances of {fleet} are not in the log"
                )?;
            }
            let step_times = fleet.step_times(&args.model)?;
            Ok((LogFleet::of_fleet(log, &fleet, &args.model, settings)?, step_times))
        }
        (None, Some(profile)) => {
            let profile = read_profile(profile)?;
            let step_times = vec![StepTimeTrust::of(&profile.gpu, profile.on(&args.model)?)];
            Ok((LogFleet::of_profile(log, &profile, &args.model, settings)?, step_times))
        }
        (None, None) => unreachable!("clap requires one of the two"),
    }
}

fn read_prompts(path: &Path, log: &MeasuredLog) -> anyhow::Result<Prompts> {
    let trace = read_all(path, &ReadOptions::default())?.requests;
    let shown = path.display();
    if trace.len() != log.requests.len() {
        let (ours, theirs) = (trace.len(), log.requests.len());
        bail!("{shown} has {ours} requests and the log {theirs}; give the trace that was replayed");
    }
    for (request, measured) in trace.iter().zip(&log.requests) {
        let (ours, theirs) = (request.prompt_tokens(), measured.prompt_tokens);
        if ours != theirs {
            let row = measured.row;
            bail!(
                "row {row}: the prompt has {theirs} tokens in the log and {ours} in {shown}; give the trace \
                 that was replayed"
            );
        }
    }
    let prompts = trace.into_iter().map(|request| request.prompt).collect();
    Ok(Prompts { prompts, primers: Vec::new() })
}

fn subtitle(args: &ValidateArgs, log: &MeasuredLog) -> String {
    let name = args.log.file_name().unwrap_or(args.log.as_os_str()).to_string_lossy();
    let served_by = args.profile.as_ref().or(args.fleet.as_ref()).map_or("", String::as_str);
    let (requests, instances) = (log.requests.len(), log.instances.len());
    format!("{name}: {requests} requests on {instances} instances, simulated as {served_by}")
}

fn print(
    args: &ValidateArgs,
    log: &MeasuredLog,
    assessment: &Assessment,
    step_times: &[StepTimeTrust],
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", subtitle(args, log))?;
    match &assessment.corrected {
        None => write_errors(&mut out, &assessment.as_logged)?,
        Some(corrected) => {
            writeln!(out, "\nwith the cached tokens that the log claims")?;
            write_errors(&mut out, &assessment.as_logged)?;
            let rows = corrected.rows.len();
            writeln!(
                out,
                "\n{rows} rows were answered sooner than an idle instance could with what the log says \
                 was\ncached; with the least cached tokens that explain them, each row predicted without its own TTFT"
            )?;
            write_errors(&mut out, &corrected.validation)?;
            if rows * FEW_IN > log.requests.len() {
                writeln!(
                    out,
                    "these rows are many: if the profile or the engine settings are slower than what served the \
                     log, it\nis they that cannot be true"
                )?;
            }
            let unseen = corrected.unseen();
            if !unseen.pairs.is_empty() {
                writeln!(out, "\nthe same, without these rows")?;
                write_errors(&mut out, &unseen)?;
            }
        }
    }
    let best = assessment.best();
    let how = if args.overhead_ms.is_some() { "as given" } else { "estimated from the log" };
    writeln!(
        out,
        "\noverhead     {:.1} ms a request outside the engines, {how}",
        best.overhead_ms
    )?;
    let (ours, theirs) = (100.0 * best.hit_ratio, 100.0 * assessment.as_logged.logged_hit_ratio);
    write!(out, "prefix hits  {ours:.1} % of prompt tokens simulated, ")?;
    match log.cached {
        CachedTokens::Unknown => writeln!(out, "unknown in the log")?,
        CachedTokens::Recorded | CachedTokens::Estimated => {
            writeln!(out, "{theirs:.1} % in the log")?;
        }
    }
    writeln!(out, "preemptions  {} simulated", best.preemptions)?;
    if best.refused > 0 {
        writeln!(out, "refused      {} prompts do not fit the simulated engines", best.refused)?;
    }
    for caveat in step_times.iter().filter_map(StepTimeTrust::caveat) {
        writeln!(out, "{caveat}")?;
    }
    if !args.no_plot {
        let stem = args.plot.display();
        writeln!(out, "figure       {stem}.svg, {stem}.png")?;
    }
    Ok(())
}

/// The table of errors of each latency.
pub(crate) fn write_errors(out: &mut impl Write, validation: &Validation) -> io::Result<()> {
    let header =
        ["measured", "simulated", "bias", "R2", "corr", "median err", "mean", "p95", "max"];
    write!(out, "{:<6}", "")?;
    for name in header {
        write!(out, "{name:>13}")?;
    }
    writeln!(out)?;
    write_row(out, "TTFT", &validation.ttft())?;
    if let Some(tpot) = validation.tpot() {
        write_row(out, "TPOT", &tpot)?;
    }
    write_row(out, "E2E", &validation.e2e())
}

fn write_row(out: &mut impl Write, name: &str, errors: &ErrorStatistics) -> io::Result<()> {
    writeln!(
        out,
        "{name:<6}{:>10.1} ms{:>10.1} ms{:>11.1} %{:>13}{:>13}{:>11.1} %{:>11.1} %{:>11.1} %{:>11.1} %",
        errors.measured_mean_ms,
        errors.simulated_mean_ms,
        100.0 * errors.mean_bias(),
        share(errors.r2),
        share(errors.correlation),
        100.0 * errors.median_error,
        100.0 * errors.mean_error,
        100.0 * errors.p95_error,
        100.0 * errors.max_error
    )
}

/// Three digits; a log in which all latencies are equal has no variance to explain.
fn share(value: f64) -> String {
    if value.is_finite() { format!("{value:.3}") } else { "-".to_owned() }
}
