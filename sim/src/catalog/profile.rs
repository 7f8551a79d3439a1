//! A GPU's profile: its memory, vLLM's defaults on it, and how fast it runs which models.
//!
//! What a file in `sim/profiles/` says, and a file of somebody's own. `docs/profiles.md` explains the fields.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{CatalogError, engine_config};
use crate::cluster::InstanceConfig;
use crate::engine::EngineConfig;
use crate::step_time::{GpuStepTime, HingeCoefficients, StepTime};

/// One GPU: its memory, vLLM's defaults on it, and how fast it runs which models.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuProfile {
    /// Name in a fleet; `h100x4` if one instance takes four of them.
    pub gpu: String,
    /// GPUs that one instance takes.
    #[serde(skip, default = "one")]
    pub gpus: u32,
    /// Name on the box.
    pub description: String,
    /// Total memory as CUDA reports it, bytes.
    pub memory_bytes: u64,
    /// vLLM's default token budget on this device.
    pub max_num_batched_tokens: u32,
    /// vLLM's default bound on running requests on this device.
    pub max_num_seqs: u32,
    /// Models with known step times.
    pub models: Vec<ModelOnGpu>,
}

/// How fast one model runs on one GPU.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelOnGpu {
    /// Name of the model.
    pub model: String,
    /// GPUs that one instance spreads the model over.
    #[serde(default = "one")]
    pub tensor_parallel: u32,
    /// How far the numbers can be trusted.
    pub basis: Basis,
    /// Where the numbers come from.
    pub source: String,
    /// Error of the law against what it was fitted to or checked with.
    pub fit_error_percent: Option<FitError>,
    /// The error is only that of the law against what it was computed from: the step times themselves were
    /// compared with no measurement.
    #[serde(default)]
    pub unchecked: bool,
    /// The law.
    pub step_time: HingeCoefficients,
    /// Time of the linear layers as (tokens in the step, ms), in place of the law's hinge.
    #[serde(default)]
    pub linear_ms_by_tokens: Vec<(u32, f64)>,
    /// The engine settings under which per-request logs of this pair were measured. A validation starts
    /// from them; a fleet has the defaults of vLLM 0.32.0.
    pub measured_engine: Option<MeasuredEngine>,
}

fn one() -> u32 {
    1
}

/// Engine settings of a measurement that differ from what vLLM 0.32.0 would choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasuredEngine {
    /// KV cache blocks that the engine reported.
    pub num_blocks: Option<u32>,
    /// Token budget of a step.
    pub max_num_batched_tokens: Option<u32>,
    /// Most running requests.
    pub max_num_seqs: Option<u32>,
    /// Whether step k+1 was scheduled while step k ran.
    pub async_scheduling: Option<bool>,
    /// Longest prompt plus output, tokens.
    pub max_model_len: Option<u32>,
    /// Whether KV cache blocks were reused between requests.
    pub prefix_caching: Option<bool>,
    /// Whether a step could compute a part of a prompt. Without, the token budget of a step is at least the
    /// model length unless it is given, as in vLLM.
    pub chunked_prefill: Option<bool>,
}

/// How far a profile's numbers can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// Fitted to measurements of this model's operators on this GPU.
    Measured,
    /// Computed from measurements of other models on this GPU.
    Derived,
    /// Scaled from another GPU by datasheet.
    Scaled,
}

/// Absolute relative errors, percent.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FitError {
    /// Mean.
    pub mean: f64,
    /// 95th percentile.
    pub p95: f64,
    /// Worst.
    pub max: f64,
}

/// A text that is not a profile.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProfileError {
    /// Not TOML, or not of this shape.
    #[error(transparent)]
    Toml(#[from] toml::de::Error),
    /// A law that gives no times.
    #[error("{name} = {value} of {model} is not a coefficient: it must be finite and not negative")]
    Coefficient {
        /// The model.
        model: String,
        /// The coefficient.
        name: &'static str,
        /// Its value.
        value: f64,
    },
}

impl GpuProfile {
    /// A profile that is not in the catalog: the text of a file like those in `sim/profiles/`.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text)?;
        for on_gpu in &profile.models {
            on_gpu.check().map_err(|(name, value)| {
                let model = on_gpu.model.clone();
                ProfileError::Coefficient { model, name, value }
            })?;
        }
        Ok(profile)
    }

    /// Of an instance on several of these GPUs, tensor parallel.
    #[must_use]
    pub fn with_gpus(mut self, gpus: u32) -> Self {
        self.gpu = instance_name(&self.gpu, gpus);
        self.gpus = gpus;
        self
    }

    /// What it knows of a model on this number of GPUs.
    ///
    /// # Errors
    /// When it knows nothing of it.
    pub fn on(&self, model: &str) -> Result<&ModelOnGpu, CatalogError> {
        let is_it =
            |known: &&ModelOnGpu| known.model == model && known.tensor_parallel == self.gpus;
        self.models.iter().find(is_it).ok_or_else(|| {
            let suffix = format!("x{}", self.gpus);
            let one = self.gpu.strip_suffix(&suffix).unwrap_or(&self.gpu);
            let name = |known: &ModelOnGpu| {
                format!("{} on {}", known.model, instance_name(one, known.tensor_parallel))
            };
            let known: Vec<String> = self.models.iter().map(name).collect();
            CatalogError::NoStepTimes {
                gpu: self.gpu.clone(),
                model: model.to_owned(),
                known: known.join(", "),
            }
        })
    }

    /// The engine that vLLM 0.32.0 would start with default settings.
    ///
    /// # Errors
    /// When the model is unknown or does not fit.
    pub fn default_engine(&self, model: &str) -> Result<EngineConfig, CatalogError> {
        engine_config(self, &super::model(model)?)
    }
}

/// `h100`, or `h100x4` for four of them.
pub(super) fn instance_name(gpu: &str, gpus: u32) -> String {
    if gpus == 1 { gpu.to_owned() } else { format!("{gpu}x{gpus}") }
}

impl ModelOnGpu {
    /// Checks that the law is a time.
    ///
    /// # Errors
    /// The name of the first number that is wrong, and its value.
    pub fn check(&self) -> Result<(), (&'static str, f64)> {
        self.step_time.check()?;
        if self.tensor_parallel == 0 {
            return Err(("tensor_parallel", 0.0));
        }
        let points = &self.linear_ms_by_tokens;
        if let Some(pair) = points.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            return Err(("linear_ms_by_tokens", f64::from(pair[1].0)));
        }
        let is_time = |ms: f64| (1e-6..1e6).contains(&ms);
        let wrong = points.iter().find(|(_, ms)| !is_time(*ms));
        wrong.map_or(Ok(()), |(_, ms)| Err(("linear_ms_by_tokens", *ms)))
    }

    /// An instance with these engine settings.
    pub fn instance(
        &self,
        profile: &GpuProfile,
        engine: EngineConfig,
        name: String,
    ) -> InstanceConfig {
        let tokens = engine.max_num_batched_tokens;
        let law = GpuStepTime::new(&self.step_time, &self.linear_ms_by_tokens, tokens);
        let step_time = StepTime::Gpu(Arc::new(law));
        InstanceConfig { name, gpu: profile.gpu.clone(), engine, step_time }
    }
}

impl MeasuredEngine {
    /// These settings, and where there are none those of `other`.
    #[must_use]
    pub fn over(self, other: Self) -> Self {
        Self {
            num_blocks: self.num_blocks.or(other.num_blocks),
            max_num_batched_tokens: self.max_num_batched_tokens.or(other.max_num_batched_tokens),
            max_num_seqs: self.max_num_seqs.or(other.max_num_seqs),
            async_scheduling: self.async_scheduling.or(other.async_scheduling),
            max_model_len: self.max_model_len.or(other.max_model_len),
            prefix_caching: self.prefix_caching.or(other.prefix_caching),
            chunked_prefill: self.chunked_prefill.or(other.chunked_prefill),
        }
    }

    /// `engine` with these settings in place of its own. A smaller cache shortens the model length to
    /// what fits, as `--max-model-len auto` does.
    pub fn apply(self, mut engine: EngineConfig) -> EngineConfig {
        engine.num_blocks = self.num_blocks.unwrap_or(engine.num_blocks);
        let longest = engine.num_blocks.saturating_sub(1).saturating_mul(engine.block_size);
        let longest = engine.max_model_len.min(longest);
        engine.max_model_len = self.max_model_len.unwrap_or(longest);
        engine.enable_prefix_caching = self.prefix_caching.unwrap_or(engine.enable_prefix_caching);
        engine.enable_chunked_prefill =
            self.chunked_prefill.unwrap_or(engine.enable_chunked_prefill);
        let whole_prompt = if engine.enable_chunked_prefill { 0 } else { engine.max_model_len };
        let default_tokens = engine.max_num_batched_tokens.max(whole_prompt);
        engine.max_num_batched_tokens = self.max_num_batched_tokens.unwrap_or(default_tokens);
        engine.max_num_seqs = self.max_num_seqs.unwrap_or(engine.max_num_seqs);
        engine.async_scheduling = self.async_scheduling.unwrap_or(engine.async_scheduling);
        engine
    }
}
