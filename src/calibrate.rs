//! `lodestar calibrate`: GPU profiles from measurements.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use lodestar_plots::{CalibrationFigure, CalibrationPoint};
use lodestar_scenarios::calibrate::{
    Fit, FitOptions, OperatorFiles, Operators, ProfileHeader, Sharding, coefficient_table, compose,
    fit, profile_toml, read_step_log, write_atomically,
};
use lodestar_sim::catalog::{self, GpuProfile};

use crate::calibrate_requests::{self, RequestsArgs};

/// Fit a GPU profile to measurements: operator tables or step logs
#[derive(Args, Debug)]
pub(crate) struct CalibrateArgs {
    #[command(subcommand)]
    command: CalibrateCommand,
}

#[derive(Subcommand, Debug)]
enum CalibrateCommand {
    Operators(OperatorsArgs),
    Steps(StepsArgs),
    Requests(RequestsArgs),
}

/// Compose a model's steps from operator latencies by shape, and fit the law to them
#[derive(Args, Debug)]
struct OperatorsArgs {
    /// Matrix multiplications: m, n, k, latency (ms)
    #[arg(long, value_name = "CSV")]
    gemm: PathBuf,
    /// Prefill attention: batch_size, isl, num_heads, num_key_value_heads, head_dim, step, latency
    #[arg(long, value_name = "CSV")]
    context_attention: PathBuf,
    /// Decode attention, with the same columns
    #[arg(long, value_name = "CSV")]
    generation_attention: PathBuf,
    /// All-reduce within a node: num_workers, devices_per_node, size, time_stats.all_reduce.median
    #[arg(long, value_name = "CSV")]
    all_reduce: Option<PathBuf>,
    /// Memory bandwidth of one GPU by datasheet, for the small kernels that are in no table
    #[arg(long, value_name = "GB/S")]
    memory_bandwidth: f64,
    /// Time of the linear layers: a hinge, or a table of points where the hinge is too smooth
    #[arg(long, default_value = "hinge")]
    linear: LinearForm,
    /// Factor on decode attention beside prefill; operator tables do not have it
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    mixed_factor: f64,
    /// Host time per step, ms; operator tables do not have it
    #[arg(long, value_name = "MS", default_value_t = 1.0)]
    host_ms: f64,
    #[command(flatten)]
    profile: ProfileArgs,
}

/// Fit the law to a log of steps: what each computed, and how long it took (docs/formats.md)
#[derive(Args, Debug)]
struct StepsArgs {
    /// The log, CSV, plain or gzipped
    log: PathBuf,
    /// Factor on decode attention beside prefill [default: fitted]
    #[arg(long, value_name = "FACTOR")]
    mixed_factor: Option<f64>,
    /// Share of the durations that is host time, ms per step [default: left in t0_ms]
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    host_ms: f64,
    #[command(flatten)]
    profile: ProfileArgs,
}

/// A law that is off by more than this describes nothing. The worst that was fitted to any steps, a hinge to those
/// of a mixture of experts, is off by 21 % (docs/calibration.md).
const MAX_MEAN_ERROR_PERCENT: f64 = 50.0;

/// What the profile says besides its law.
#[derive(Args, Debug)]
#[command(next_help_heading = "Profile")]
struct ProfileArgs {
    /// GPU that was measured, by its name in a fleet
    #[arg(long)]
    gpu: String,
    /// Model that was measured
    #[arg(long, default_value = "llama-3.1-8b")]
    model: String,
    /// GPUs of one instance
    #[arg(long, value_name = "N", default_value_t = 1)]
    tensor_parallel: u32,
    /// How far the numbers can be trusted
    #[arg(long, default_value = "measured")]
    basis: BasisFlag,
    /// Where the measurements come from
    #[arg(long, value_name = "TEXT")]
    source: String,
    /// Memory of a GPU that Lodestar does not know, bytes
    #[arg(long, value_name = "BYTES")]
    memory_bytes: Option<u64>,
    /// Where to draw residuals, as STEM.svg and STEM.png
    #[arg(long, value_name = "STEM")]
    plot: Option<PathBuf>,
    /// The profile to write
    #[arg(long, value_name = "TOML")]
    out: PathBuf,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum LinearForm {
    /// `(w^p + (b T)^p)^(1/p)`: smooth, three numbers
    Hinge,
    /// Points by tokens in the step, with straight lines between them
    Table,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum BasisFlag {
    /// This model's operators or steps on this GPU
    Measured,
    /// Something else on this GPU
    Derived,
    /// Another GPU
    Scaled,
}

pub(crate) fn run(args: &CalibrateArgs) -> anyhow::Result<()> {
    match &args.command {
        CalibrateCommand::Operators(args) => operators(args),
        CalibrateCommand::Steps(args) => steps(args),
        CalibrateCommand::Requests(args) => calibrate_requests::run(args),
    }
}

fn operators(args: &OperatorsArgs) -> anyhow::Result<()> {
    require("--memory-bandwidth", args.memory_bandwidth, 1.0..1e6)?;
    require("--mixed-factor", args.mixed_factor, 0.1..100.0)?;
    require("--host-ms", args.host_ms, 0.0..1e3)?;
    let header = args.profile.header(
        "kernels only; host time is assumed",
        "assumed: attention of mixed steps was not measured",
    )?;
    let tables = Operators::read(&OperatorFiles {
        gemm: args.gemm.clone(),
        context_attention: args.context_attention.clone(),
        generation_attention: args.generation_attention.clone(),
        all_reduce: args.all_reduce.clone(),
    })?;
    let model = catalog::model(&args.profile.model)?;
    let sharding = Sharding {
        tensor_parallel: args.profile.tensor_parallel,
        memory_bandwidth_bytes_per_s: args.memory_bandwidth * 1e9,
        kv_tokens: args.profile.kv_tokens()?,
    };
    let composition = compose(&tables, &model, &sharding)?;
    // The composed steps have neither host time nor a factor on mixed ones: the law is fitted without,
    // and the profile gets both.
    let options = |linear| FitOptions {
        host_ms: 0.0,
        mixed_factor: Some(1.0),
        table: (linear == LinearForm::Table).then(|| composition.linear.clone()),
        robust: false,
    };
    let mut out = io::stdout().lock();
    let mut fit_form = |linear| -> anyhow::Result<Fit> {
        let fitted = fit(&composition.steps, &options(linear))?;
        let (name, error) = (format!("{linear:?}").to_lowercase(), fitted.error_percent);
        writeln!(
            out,
            "{name:<6} error mean {:.2} %, p95 {:.2} %, max {:.1} % of {} composed steps",
            error.mean,
            error.p95,
            error.max,
            composition.steps.len()
        )?;
        Ok(fitted)
    };
    let hinge = fit_form(LinearForm::Hinge)?;
    let table = fit_form(LinearForm::Table)?.with_hinge_of(&hinge);
    let chosen = match args.linear {
        LinearForm::Hinge => hinge,
        LinearForm::Table => table,
    };
    let profile = chosen.clone().with_assumptions(args.host_ms, args.mixed_factor);
    conclude(&mut out, &args.profile, &header, &chosen, &profile)
}

fn steps(args: &StepsArgs) -> anyhow::Result<()> {
    require("--host-ms", args.host_ms, 0.0..1e3)?;
    if let Some(factor) = args.mixed_factor {
        require("--mixed-factor", factor, 0.1..100.0)?;
    }
    let header = args
        .profile
        .header("a step log cannot tell host time from t0_ms", "given on the command line")?;
    let samples = read_step_log(&args.log)?;
    let shorter = samples.iter().filter(|step| step.duration_ms <= args.host_ms).count();
    if 2 * shorter > samples.len() {
        let (host_ms, rows) = (args.host_ms, samples.len());
        bail!(
            "--host-ms {host_ms}: {shorter} of the {rows} steps take no longer than that in all; give the time \
             that the host needs for a step"
        );
    }
    let options = FitOptions {
        host_ms: args.host_ms,
        mixed_factor: args.mixed_factor,
        table: None,
        robust: true,
    };
    let fitted = fit(&samples, &options)
        .with_context(|| format!("{} cannot be fitted", args.log.display()))?;
    let mut out = io::stdout().lock();
    let (rows, outliers, error) = (samples.len(), fitted.outliers(), fitted.error_percent);
    writeln!(out, "{rows} steps, {outliers} of them set aside as outliers by the fit")?;
    writeln!(
        out,
        "error of all of them: mean {:.2} %, p95 {:.2} %, max {:.1} %",
        error.mean, error.p95, error.max
    )?;
    conclude(&mut out, &args.profile, &header, &fitted, &fitted)
}

/// Prints and draws the fit, and writes the profile if it is one.
fn conclude(
    out: &mut impl io::Write,
    args: &ProfileArgs,
    header: &ProfileHeader,
    fitted: &Fit,
    profile: &Fit,
) -> anyhow::Result<()> {
    writeln!(out, "\n{}", coefficient_table(profile))?;
    if let Some(stem) = &args.plot {
        draw(args, fitted, stem)?;
        writeln!(out, "figure   {0}.svg, {0}.png", stem.display())?;
    }
    let missing: Vec<&str> =
        profile.missing().map(|estimate| estimate.coefficient.name()).collect();
    if !missing.is_empty() {
        bail!(
            "these steps do not determine {}: see the table for what to record; no profile was written",
            missing.join(", ")
        );
    }
    let error = fitted.error_percent.mean;
    if error > MAX_MEAN_ERROR_PERCENT {
        bail!(
            "these steps do not follow the law: its mean error is {error:.0} %; check the columns, their units, \
             and whether all steps are of one GPU and one model; no profile was written"
        );
    }
    write_atomically(&args.out, &profile_toml(header, profile))?;
    writeln!(out, "profile  {}", args.out.display())?;
    Ok(())
}

fn draw(args: &ProfileArgs, fitted: &Fit, stem: &Path) -> anyhow::Result<()> {
    let points = fitted.residuals.iter().map(|residual| CalibrationPoint {
        tokens: residual.step.tokens(),
        measured_ms: residual.step.duration_ms,
        predicted_ms: residual.predicted_ms,
        has_prefill: residual.step.prefill_tokens > 0.0,
        has_decode: residual.step.decode_requests > 0.0,
        is_outlier: residual.is_outlier,
    });
    let figure = CalibrationFigure {
        title: format!("Step times of {} on {}", args.model, args.gpu_name()),
        subtitle: args.source.clone(),
        points: points.collect(),
    };
    Ok(lodestar_plots::calibration_figure(&figure, stem)?)
}

impl ProfileArgs {
    fn gpu_name(&self) -> String {
        match self.tensor_parallel {
            1 => self.gpu.clone(),
            gpus => format!("{}x{gpus}", self.gpu),
        }
    }

    fn header(&self, host_note: &str, mixed_note: &str) -> anyhow::Result<ProfileHeader> {
        if self.tensor_parallel == 0 {
            bail!("--tensor-parallel is 0: an instance takes at least one GPU");
        }
        catalog::model(&self.model)?;
        let gpu = gpu_without_models(&self.gpu, self.memory_bytes)?;
        let basis = match self.basis {
            BasisFlag::Measured => "measured",
            BasisFlag::Derived => "derived",
            BasisFlag::Scaled => "scaled",
        };
        Ok(ProfileHeader {
            gpu: self.gpu.clone(),
            description: gpu.description,
            memory_bytes: gpu.memory_bytes,
            max_num_batched_tokens: gpu.max_num_batched_tokens,
            max_num_seqs: gpu.max_num_seqs,
            model: self.model.clone(),
            tensor_parallel: self.tensor_parallel,
            basis,
            source: self.source.clone(),
            host_note: host_note.to_owned(),
            mixed_note: Some(mixed_note.to_owned()),
        })
    }

    /// Context that fits beside the weights, so that no step is composed that no engine would run.
    fn kv_tokens(&self) -> anyhow::Result<f64> {
        let Ok(mut profile) = catalog::profile(&self.gpu) else { return Ok(1e6) };
        profile.memory_bytes = self.memory_bytes.unwrap_or(profile.memory_bytes);
        if self.tensor_parallel > 1 {
            profile = profile.with_gpus(self.tensor_parallel);
        }
        let engine = profile.default_engine(&self.model)?;
        Ok(f64::from(engine.num_blocks) * f64::from(engine.block_size))
    }
}

/// What is known of a GPU, or else what vLLM would make of its memory.
pub(crate) fn gpu_without_models(
    name: &str,
    memory_bytes: Option<u64>,
) -> anyhow::Result<GpuProfile> {
    let gpu = match (catalog::profile(name), memory_bytes) {
        (Ok(gpu), memory) => GpuProfile { memory_bytes: memory.unwrap_or(gpu.memory_bytes), ..gpu },
        (Err(_), Some(memory_bytes)) => GpuProfile {
            gpu: name.to_owned(),
            description: name.to_owned(),
            memory_bytes,
            // vLLM's defaults below 70 GiB.
            max_num_batched_tokens: 2048,
            max_num_seqs: 256,
            gpus: 1,
            models: Vec::new(),
        },
        (Err(error), None) => {
            return Err(error).context("a new GPU needs --memory-bytes, as CUDA reports it");
        }
    };
    Ok(GpuProfile { models: Vec::new(), ..gpu })
}

fn require(flag: &str, value: f64, range: std::ops::Range<f64>) -> anyhow::Result<()> {
    if range.contains(&value) {
        return Ok(());
    }
    bail!("{flag} is {value}: it must be at least {} and below {}", range.start, range.end)
}
