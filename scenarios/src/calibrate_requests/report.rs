//! What a fit leaves behind.

use lodestar_sim::catalog::{CatalogError, GpuProfile, MeasuredEngine};
use lodestar_sim::step_time::HingeCoefficients;

use crate::validate::Validation;

/// A fitted law, and how far to trust it.
#[derive(Clone, Debug)]
pub struct RequestFit {
    /// The law.
    pub law: HingeCoefficients,
    /// Each coefficient, in the order of the law.
    pub estimates: Vec<Estimate>,
    /// What it makes of each log.
    pub logs: Vec<FittedLog>,
    /// Median absolute error of the logarithms, before and after.
    pub median_error: (f64, f64),
}

/// A log as the fitted law has it.
#[derive(Clone, Debug)]
pub struct FittedLog {
    /// What it is called.
    pub name: String,
    /// Time outside its engines, ms a request.
    pub overhead: Estimate,
    /// Rows whose cached tokens were raised because their TTFT cannot be explained without.
    pub corrected_rows: usize,
    /// Its requests as measured and as simulated.
    pub validation: Validation,
}

/// A number and its confidence interval.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// The coefficient, with its unit.
    pub name: &'static str,
    /// Its value.
    pub value: f64,
    /// 95 % confidence interval, or why there is none.
    pub interval: Result<(f64, f64), Held>,
}

/// Why a coefficient kept the value it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Latencies hardly change with it, or change as they do with another one.
    NotDetermined,
}

impl Held {
    /// What it means.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::NotDetermined => {
                "not determined by the logs: kept from the start; log more varied traffic"
            }
        }
    }
}

/// The profile's file: the start with the fitted law in place of its own, and the engine settings that
/// the fit assumed.
///
/// # Errors
/// When the profile does not have the model.
pub fn request_profile_toml(
    start: &GpuProfile,
    gpu: &str,
    model: &str,
    settings: MeasuredEngine,
    fit: &RequestFit,
) -> Result<String, CatalogError> {
    let on_gpu = start.on(model)?;
    let requests: usize = fit.logs.iter().map(|log| log.validation.pairs.len()).sum();
    let names: Vec<&str> = fit.logs.iter().map(|log| log.name.as_str()).collect();
    let source = format!(
        "lodestar calibrate requests: {requests} requests of {}, starting from {}",
        names.join(", "),
        start.gpu
    );
    let mut text = format!(
        "gpu = {}\ndescription = {}\nmemory_bytes = {}\nmax_num_batched_tokens = {}\nmax_num_seqs = {}\n\n\
         [[models]]\nmodel = {}\ntensor_parallel = {}\nbasis = \"measured\"\nsource = {}\n\n\
         [models.step_time]\nt0_ms = {}\n",
        quoted(gpu),
        quoted(&start.description),
        start.memory_bytes,
        start.max_num_batched_tokens,
        start.max_num_seqs,
        quoted(model),
        on_gpu.tensor_parallel,
        quoted(&source),
        float(fit.law.t0_ms),
    );
    for estimate in &fit.estimates {
        let note = match estimate.interval {
            Ok((low, high)) => format!("95 % interval {} .. {}", float(low), float(high)),
            Err(held) => held.advice().to_owned(),
        };
        text.push_str(&format!("# {note}\n{} = {}\n", estimate.name, float(estimate.value)));
    }
    let engine = settings.over(on_gpu.measured_engine.unwrap_or_default());
    let numbers = [
        ("num_blocks", engine.num_blocks.map(|n| n.to_string())),
        ("max_num_batched_tokens", engine.max_num_batched_tokens.map(|n| n.to_string())),
        ("max_num_seqs", engine.max_num_seqs.map(|n| n.to_string())),
        ("async_scheduling", engine.async_scheduling.map(|on| on.to_string())),
    ];
    text.push_str("\n[models.measured_engine]\n");
    for (name, value) in numbers {
        if let Some(value) = value {
            text.push_str(&format!("{name} = {value}\n"));
        }
    }
    Ok(text)
}

/// Enough digits, and a point: TOML tells floats from integers.
fn float(value: f64) -> String {
    let text = format!("{value:.4}");
    let trimmed = text.trim_end_matches('0');
    if trimmed.ends_with('.') { format!("{trimmed}0") } else { trimmed.to_owned() }
}

fn quoted(text: &str) -> String {
    // JSON's strings are TOML's.
    serde_json::to_string(text).expect("text is always JSON")
}
