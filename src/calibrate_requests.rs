//! `lodestar calibrate requests`: a GPU profile from the logs of a running cluster.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use lodestar_plots::ValidationFigure;
use lodestar_scenarios::calibrate::write_atomically;
use lodestar_scenarios::calibrate_requests::{
    Estimate, LogToFit, RequestFit, calibrate_requests, request_profile_toml,
};
use lodestar_scenarios::read_profile;
use lodestar_sim::catalog::GpuProfile;

use crate::calibrate::gpu_without_models;
use crate::validate::{EngineFlags, points, read_log, write_errors};

/// Fit a GPU's step times to per-request logs of instances that ran on it, with the simulator in the loop
#[derive(Args, Debug)]
pub(crate) struct RequestsArgs {
    /// A log, a router's too; several are fitted together (docs/formats.md)
    #[arg(long, value_name = "FILE", required = true)]
    log: Vec<PathBuf>,
    /// Where to start, and what coefficients keep that the logs do not determine: a GPU of the catalog
    /// or a profile's file
    #[arg(long, value_name = "P")]
    start: String,
    /// Name of the fitted GPU, whose memory it has [default: that of the start]
    #[arg(long, value_name = "NAME")]
    gpu: Option<String>,
    /// Memory of a GPU that Lodestar does not know, bytes
    #[arg(long, value_name = "BYTES", requires = "gpu")]
    memory_bytes: Option<u64>,
    /// The model that every instance served
    #[arg(long, default_value = "llama-3.1-8b")]
    model: String,
    /// The new profile
    #[arg(long, value_name = "TOML")]
    out: PathBuf,
    /// Where to draw residuals, as STEM.svg and STEM.png, with several logs as STEM-1 and so on [default:
    /// beside the profile]
    #[arg(long, value_name = "STEM")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineFlags,
}

pub(crate) fn run(args: &RequestsArgs) -> anyhow::Result<()> {
    if args.out.extension().is_none_or(|extension| extension != "toml") {
        bail!("--out {}: a profile's file is named .toml", args.out.display());
    }
    let profile = start(args)?;
    let logs: Vec<LogToFit> = args
        .log
        .iter()
        .map(|path| Ok(LogToFit::new(file_name(path), read_log(path)?)))
        .collect::<anyhow::Result<_>>()?;
    let settings = args.engine.settings();
    let fit = calibrate_requests(&logs, &profile, &args.model, settings)?;
    let stem = args.plot.clone().unwrap_or_else(|| args.out.with_extension(""));
    draw(&stem, &fit)?;
    print(&stem, &fit).context("cannot write to stdout")?;
    if let Some(objection) = fit.objection() {
        bail!("{objection}; no profile was written");
    }
    let toml = request_profile_toml(&profile, &args.start, &args.model, settings, &fit)?;
    write_atomically(&args.out, &toml)?;
    writeln!(io::stdout(), "profile  {}", args.out.display()).context("cannot write to stdout")
}

/// The law to start from, on the GPU to fit.
fn start(args: &RequestsArgs) -> anyhow::Result<GpuProfile> {
    let start = read_profile(&args.start)?;
    let Some(name) = args.gpu.as_ref().filter(|name| **name != start.gpu) else {
        return Ok(start);
    };
    let mut models = start.models;
    for on_gpu in &mut models {
        // Of the start's GPU.
        on_gpu.measured_engine = None;
    }
    Ok(GpuProfile { models, ..gpu_without_models(name, args.memory_bytes)? })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// A figure's stem, numbered if there are several.
fn numbered(stem: &Path, index: usize, count: usize) -> PathBuf {
    let mut name = stem.as_os_str().to_owned();
    if count > 1 {
        name.push(format!("-{}", index + 1));
    }
    PathBuf::from(name)
}

fn draw(stem: &Path, fit: &RequestFit) -> anyhow::Result<()> {
    for (index, log) in fit.logs.iter().enumerate() {
        let figure = ValidationFigure {
            title: "Measured latency against that of the fitted profile".to_owned(),
            subtitle: format!("{}: {} requests", log.name, log.validation.pairs.len()),
            points: points(&log.validation.pairs),
        };
        lodestar_plots::validation_figure(&figure, &numbered(stem, index, fit.logs.len()))?;
    }
    Ok(())
}

fn print(stem: &Path, fit: &RequestFit) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{:<26}{:>12}   95 % interval", "coefficient", "value")?;
    for estimate in &fit.estimates {
        write_estimate(&mut out, estimate)?;
    }
    for log in &fit.logs {
        writeln!(out, "\n{}", log.name)?;
        write_estimate(&mut out, &log.overhead)?;
        if log.corrected_rows > 0 {
            writeln!(
                out,
                "{} rows were answered sooner than what the log says was cached allows; raised to the \
                 least that does",
                log.corrected_rows
            )?;
        }
        write_errors(&mut out, &log.validation)?;
    }
    let (before, after) = (100.0 * fit.median_error.0, 100.0 * fit.median_error.1);
    writeln!(out, "\nmedian error of TTFT and E2E {before:.1} % before, {after:.1} % after")?;
    for index in 0..fit.logs.len() {
        let stem = numbered(stem, index, fit.logs.len());
        writeln!(out, "figure   {}.svg, {0}.png", stem.display())?;
    }
    Ok(())
}

fn write_estimate(out: &mut impl io::Write, estimate: &Estimate) -> io::Result<()> {
    let note = match estimate.interval {
        Ok((low, high)) => format!("{low:.3} .. {high:.3}"),
        Err(held) => held.advice().to_owned(),
    };
    writeln!(out, "{:<26}{:>12.3}   {note}", estimate.name, estimate.value)
}
