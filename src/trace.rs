//! `lodestar trace`: describes traces, converts them, invents them.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand, ValueEnum};
use lodestar_plots::TraceInfoFigure;
use lodestar_traces::{
    Format, ReadOptions, TraceStats, TraceWriter, WorkloadConfig, generate, read, read_all, write,
};

use crate::read_options::ReadFlags;

/// Describe, convert and generate request traces
#[derive(Args, Debug)]
pub(crate) struct TraceArgs {
    #[command(subcommand)]
    command: TraceCommand,
}

#[derive(Subcommand, Debug)]
enum TraceCommand {
    Info(InfoArgs),
    Convert(ConvertArgs),
    Generate(GenerateArgs),
}

/// Say what a trace looks like: rates, lengths, prefix sharing
#[derive(Args, Debug)]
struct InfoArgs {
    /// The trace, in any known format, plain or compressed (docs/formats.md)
    trace: PathBuf,
    /// Where to draw it, as STEM.svg and STEM.png
    #[arg(long, value_name = "STEM", default_value = "trace-info")]
    plot: PathBuf,
    /// Draw nothing
    #[arg(long, conflicts_with = "plot")]
    no_plot: bool,
    #[command(flatten)]
    read: ReadFlags,
}

/// Write a trace in another format, changed on the way if asked
#[derive(Args, Debug)]
struct ConvertArgs {
    /// The trace, in any known format, plain or compressed (docs/formats.md)
    trace: PathBuf,
    /// The new file; .gz and .zst compress text
    out: PathBuf,
    /// Format of the new file [default: as it is named, .jsonl[.gz|.zst] or .parquet]
    #[arg(long)]
    format: Option<OutputFormat>,
    /// Of what is drawn at random while reading
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    read: ReadFlags,
}

/// Invent a trace
#[derive(Args, Debug)]
struct GenerateArgs {
    /// The new file, named .parquet, .jsonl, .jsonl.gz or .jsonl.zst
    out: PathBuf,
    /// What kind of requests (docs/formats.md)
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(WorkloadConfig::preset_names()))]
    workload: String,
    /// How many requests [default: as the workload has it]
    #[arg(long, value_name = "N")]
    requests: Option<u32>,
    /// Mean requests per second [default: as the workload has it]
    #[arg(long, value_name = "RATE")]
    rate: Option<f64>,
    /// Of everything that is drawn at random
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum OutputFormat {
    /// Lodestar JSONL: lossless and readable
    Jsonl,
    /// Lodestar Parquet: lossless and small
    Parquet,
    /// Mooncake JSONL, for other tools, if it can express the trace
    Mooncake,
}

pub(crate) fn run(args: &TraceArgs) -> anyhow::Result<()> {
    match &args.command {
        TraceCommand::Info(args) => info(args),
        TraceCommand::Convert(args) => convert(args),
        TraceCommand::Generate(args) => invent(args),
    }
}

fn info(args: &InfoArgs) -> anyhow::Result<()> {
    let trace = read_all(&args.trace, &args.read.options()?)?;
    let stats = TraceStats::of(&trace.requests);
    let mut out = io::stdout().lock();
    writeln!(out, "{:<22}{}", "format", trace.format)?;
    writeln!(out, "{stats}")?;
    for note in &trace.notes {
        writeln!(out, "note: {note}")?;
    }
    if !args.no_plot {
        draw_info(&args.trace, stats, &args.plot)?;
        let stem = args.plot.display();
        writeln!(out, "figure {stem}.svg, {stem}.png")?;
    }
    Ok(())
}

fn draw_info(trace: &Path, stats: TraceStats, stem: &Path) -> anyhow::Result<()> {
    let name = trace.file_name().unwrap_or(trace.as_os_str()).to_string_lossy();
    let figure = TraceInfoFigure {
        name: name.into_owned(),
        requests_per_minute: stats.arrivals.per_minute.iter().copied().map(u64::from).collect(),
        prompt_tokens: stats.prompt_tokens.into_sorted(),
        output_tokens: stats.output_tokens.into_sorted(),
        hit_ratio_by_capacity: stats.reuse.curve(),
    };
    Ok(lodestar_plots::trace_figure(&figure, stem)?)
}

fn convert(args: &ConvertArgs) -> anyhow::Result<()> {
    let options = ReadOptions { seed: args.seed, ..args.read.options()? };
    let format = match args.format {
        Some(format) => format.format(),
        None => Format::for_output(&args.out)?,
    };
    let mut trace = read(&args.trace, &options)?;
    let mut writer = TraceWriter::create(&args.out, format)?;
    for request in &mut trace {
        writer.push(&request?)?;
    }
    let requests = writer.finish()?;
    let mut out = io::stdout().lock();
    for note in trace.notes() {
        writeln!(out, "note: {note}")?;
    }
    let (from, to) = (trace.format(), args.out.display());
    Ok(writeln!(out, "{requests} requests from {from} to {format}: {to}")?)
}

fn invent(args: &GenerateArgs) -> anyhow::Result<()> {
    let mut config = WorkloadConfig::preset(&args.workload)?;
    if let Some(rate_rps) = args.rate {
        config.arrivals = config.arrivals.with_rate_rps(rate_rps);
        config.check().with_context(|| format!("--rate {rate_rps:?}"))?;
    }
    config.requests = args.requests.unwrap_or(config.requests);
    let format = Format::for_output(&args.out)?;
    let requests = generate(&config, args.seed)?;
    write(&args.out, format, &requests)?;
    let (count, out) = (requests.len(), args.out.display());
    Ok(writeln!(io::stdout(), "{count} requests of {} (seed {}): {out}", args.workload, args.seed)?)
}

impl OutputFormat {
    fn format(self) -> Format {
        match self {
            Self::Jsonl => Format::LodestarJsonl,
            Self::Parquet => Format::LodestarParquet,
            Self::Mooncake => Format::Mooncake,
        }
    }
}
