//! What a fit leaves behind.

use lodestar_sim::catalog::{CatalogError, GpuProfile, MeasuredEngine};
use lodestar_sim::step_time::HingeCoefficients;

use crate::validate::{FEW_IN, Validation};

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

impl RequestFit {
    /// Why the law is none of the GPU that served the logs.
    pub fn objection(&self) -> Option<String> {
        self.logs.iter().find_map(FittedLog::objection)
    }
}

impl FittedLog {
    fn objection(&self) -> Option<String> {
        let (name, rows) = (&self.name, self.validation.pairs.len());
        let what_to_do = "give the engines' settings (--num-blocks above all) or another --start";
        if self.corrected_rows * FEW_IN > rows {
            let corrected = self.corrected_rows;
            return Some(format!(
                "{corrected} of the {rows} requests of {name} were answered sooner than the fitted law allows; \
                 {what_to_do}"
            ));
        }
        // The sum of squares of equal latencies is no yardstick.
        let r2 = self.validation.e2e().r2;
        (r2 <= 0.0).then(|| {
            format!(
                "the fitted law explains nothing of {name}: R2 of its end-to-end latencies is {r2:.2}; {what_to_do}"
            )
        })
    }
}

/// The profile's file: the start with the fitted law in place of its own, and the engine settings that
/// the fit assumed. The law is said to be `started_from`.
///
/// # Errors
/// When the profile does not have the model.
pub fn request_profile_toml(
    start: &GpuProfile,
    started_from: &str,
    model: &str,
    settings: MeasuredEngine,
    fit: &RequestFit,
) -> Result<String, CatalogError> {
    let on_gpu = start.on(model)?;
    let errors: Vec<_> = fit.logs.iter().map(|log| log.validation.e2e()).collect();
    let worst = errors.iter().max_by(|a, b| a.mean_error.total_cmp(&b.mean_error));
    let worst = worst.expect("a fit is to some log");
    let requests: usize = fit.logs.iter().map(|log| log.validation.pairs.len()).sum();
    let names: Vec<&str> = fit.logs.iter().map(|log| log.name.as_str()).collect();
    let source = format!(
        "lodestar calibrate requests: {requests} requests of {}, starting from {}",
        names.join(", "),
        started_from
    );
    let mut text = format!(
        "gpu = {}\ndescription = {}\nmemory_bytes = {}\nmax_num_batched_tokens = {}\nmax_num_seqs = {}\n\n\
         [[models]]\nmodel = {}\ntensor_parallel = {}\nbasis = \"measured\"\nsource = {}\n\
         # Of end-to-end latencies of requests, not of steps, of the worst log.\n\
         fit_error_percent = {{ mean = {:.2}, p95 = {:.2}, max = {:.1} }}\n\n\
         [models.step_time]\nt0_ms = {}\n",
        quoted(&start.gpu),
        quoted(&start.description),
        start.memory_bytes,
        start.max_num_batched_tokens,
        start.max_num_seqs,
        quoted(model),
        on_gpu.tensor_parallel,
        quoted(&source),
        100.0 * worst.mean_error,
        100.0 * worst.p95_error,
        100.0 * worst.max_error,
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
