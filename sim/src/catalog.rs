//! The GPUs and models that Lodestar knows, and the instance that vLLM would start on one with the
//! other: KV blocks from memory, batch limits from the device, step times from the GPU's profile.
//!
//! The catalog is a set of TOML files in `sim/profiles/`, compiled in. They state where each number
//! comes from; `docs/profiles.md` explains the fields.

use std::sync::Arc;

use serde::Deserialize;

use crate::cluster::InstanceConfig;
use crate::engine::EngineConfig;
use crate::step_time::{GpuStepTime, HingeCoefficients, StepTime};

/// vLLM 0.32.0's default share of GPU memory.
const GPU_MEMORY_UTILIZATION: f64 = 0.92;
/// Memory that is neither weights nor KV cache: context, activations, CUDA graphs. An RTX 4090 serving
/// Llama-3.1-8B reports 41,408 KV tokens, which implies 1.3 GB (LLMServingSim's engine log, vLLM 0.19).
const OVERHEAD_BYTES: u64 = 1_300_000_000;

const PROFILES: [&str; 9] = [
    include_str!("../profiles/a100.toml"),
    include_str!("../profiles/h100.toml"),
    include_str!("../profiles/h200.toml"),
    include_str!("../profiles/l40s.toml"),
    include_str!("../profiles/l4.toml"),
    include_str!("../profiles/a30.toml"),
    include_str!("../profiles/l20.toml"),
    include_str!("../profiles/rtx4090.toml"),
    include_str!("../profiles/rtx-pro-6000.toml"),
];
const MODELS: &str = include_str!("../profiles/models.toml");

/// One GPU: its memory, vLLM's defaults on it, and how fast it runs which models.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuProfile {
    /// Name in a fleet.
    pub gpu: String,
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
    /// How far the numbers can be trusted.
    pub basis: Basis,
    /// Where the numbers come from.
    pub source: String,
    /// Error of the law against what it was fitted to or checked with.
    pub fit_error_percent: Option<FitError>,
    /// The law.
    pub step_time: HingeCoefficients,
    /// The engine settings under which per-request logs of this pair were measured. A validation starts
    /// from them; a fleet has the defaults of vLLM 0.32.0.
    pub measured_engine: Option<MeasuredEngine>,
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
}

/// How far a profile's numbers can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitError {
    /// Mean.
    pub mean: f64,
    /// 95th percentile.
    pub p95: f64,
    /// Worst.
    pub max: f64,
}

/// What of a model decides its memory.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    model: String,
    weights_bytes: u64,
    layers: u64,
    kv_heads: u64,
    head_dim: u64,
    kv_bytes_per_value: u64,
    max_model_len: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Models {
    models: Vec<Model>,
}

/// A combination of GPU and model that cannot be simulated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CatalogError {
    /// No such GPU.
    #[error("unknown GPU `{gpu}`{}; known are {}", suggestion(gpu, &gpus()), gpus().join(", "))]
    UnknownGpu {
        /// The name that was asked for.
        gpu: String,
    },
    /// No such model.
    #[error("unknown model `{model}`{}; known are {}", suggestion(model, &models()), models().join(", "))]
    UnknownModel {
        /// The name that was asked for.
        model: String,
    },
    /// The weights leave no room for a KV cache.
    #[error(
        "{model} does not fit on one {gpu}: weights and overhead take {needed_gb:.1} GB of {usable_gb:.1} GB \
         (92 % of memory); choose a larger GPU or a smaller model"
    )]
    DoesNotFit {
        /// The GPU.
        gpu: String,
        /// The model.
        model: String,
        /// Weights and overhead.
        needed_gb: f64,
        /// What vLLM may use.
        usable_gb: f64,
    },
    /// The GPU is known, the model is known, but nobody measured the two together.
    #[error("no step times for {model} on {gpu}; the profile has {known}")]
    NoStepTimes {
        /// The GPU.
        gpu: String,
        /// The model.
        model: String,
        /// Models it has.
        known: String,
    },
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

/// Names of the GPUs.
pub fn gpus() -> Vec<String> {
    profiles().into_iter().map(|profile| profile.gpu).collect()
}

/// Names of the models.
pub fn models() -> Vec<String> {
    model_table().into_iter().map(|model| model.model).collect()
}

/// All GPU profiles.
pub fn profiles() -> Vec<GpuProfile> {
    PROFILES
        .iter()
        .map(|text| toml::from_str(text).expect("the compiled-in profiles are read by a test"))
        .collect()
}

fn model_table() -> Vec<Model> {
    toml::from_str::<Models>(MODELS).expect("the compiled-in models are read by a test").models
}

/// The instance that vLLM 0.32.0 would start with default settings. The model length is the model's own,
/// or what fits into the KV cache if that is less (`--max-model-len auto`).
///
/// # Errors
/// When the GPU or model is unknown, does not fit, or has no measured step times.
pub fn instance(gpu: &str, model: &str, name: String) -> Result<InstanceConfig, CatalogError> {
    let profile = profile(gpu)?;
    let engine = profile.default_engine(model)?;
    Ok(profile.on(model)?.instance(&profile, engine, name))
}

/// The profile of a GPU.
///
/// # Errors
/// When there is none.
pub fn profile(gpu: &str) -> Result<GpuProfile, CatalogError> {
    profiles()
        .into_iter()
        .find(|profile| profile.gpu == gpu)
        .ok_or_else(|| CatalogError::UnknownGpu { gpu: gpu.to_owned() })
}

impl GpuProfile {
    /// A profile that is not in the catalog: the text of a file like those in `sim/profiles/`.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text)?;
        for on_gpu in &profile.models {
            on_gpu.step_time.check().map_err(|(name, value)| {
                let model = on_gpu.model.clone();
                ProfileError::Coefficient { model, name, value }
            })?;
        }
        Ok(profile)
    }

    /// What it knows of a model.
    ///
    /// # Errors
    /// When it knows nothing of it.
    pub fn on(&self, model: &str) -> Result<&ModelOnGpu, CatalogError> {
        self.models.iter().find(|known| known.model == model).ok_or_else(|| {
            let known: Vec<&str> = self.models.iter().map(|known| known.model.as_str()).collect();
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
        let model = model_table()
            .into_iter()
            .find(|known| known.model == model)
            .ok_or_else(|| CatalogError::UnknownModel { model: model.to_owned() })?;
        engine_config(self, &model)
    }
}

impl ModelOnGpu {
    /// An instance with these engine settings.
    pub fn instance(
        &self,
        profile: &GpuProfile,
        engine: EngineConfig,
        name: String,
    ) -> InstanceConfig {
        let law = GpuStepTime::new(&self.step_time, engine.max_num_batched_tokens);
        let step_time = StepTime::Gpu(Arc::new(law));
        InstanceConfig { name, gpu: profile.gpu.clone(), engine, step_time }
    }
}

impl MeasuredEngine {
    /// `engine` with these settings in place of its own. A smaller cache shortens the model length to
    /// what fits, as `--max-model-len auto` does.
    #[expect(clippy::needless_pass_by_value, reason = "the caller's settings become the result")]
    pub fn apply(self, engine: EngineConfig) -> EngineConfig {
        let num_blocks = self.num_blocks.unwrap_or(engine.num_blocks);
        let longest = num_blocks.saturating_sub(1).saturating_mul(engine.block_size);
        EngineConfig {
            num_blocks,
            max_model_len: engine.max_model_len.min(longest),
            max_num_batched_tokens: self
                .max_num_batched_tokens
                .unwrap_or(engine.max_num_batched_tokens),
            max_num_seqs: self.max_num_seqs.unwrap_or(engine.max_num_seqs),
            async_scheduling: self.async_scheduling.unwrap_or(engine.async_scheduling),
            ..engine
        }
    }
}

/// vLLM's defaults: `determine_available_memory`, `get_kv_cache_configs` and `get_batch_defaults`.
fn engine_config(profile: &GpuProfile, model: &Model) -> Result<EngineConfig, CatalogError> {
    let usable_bytes = (profile.memory_bytes as f64 * GPU_MEMORY_UTILIZATION).ceil() as u64;
    let needed_bytes = model.weights_bytes + OVERHEAD_BYTES;
    let block_size = EngineConfig::new(2, 1).block_size;
    let values_per_token = 2 * model.layers * model.kv_heads * model.head_dim;
    let block_bytes = values_per_token * model.kv_bytes_per_value * u64::from(block_size);
    let num_blocks = usable_bytes.saturating_sub(needed_bytes) / block_bytes;
    // The null block and one to work with.
    if num_blocks < 2 {
        return Err(CatalogError::DoesNotFit {
            gpu: profile.gpu.clone(),
            model: model.model.clone(),
            needed_gb: needed_bytes as f64 / 1e9,
            usable_gb: usable_bytes as f64 / 1e9,
        });
    }
    let num_blocks = u32::try_from(num_blocks).expect("no GPU holds 2^32 KV blocks");
    let max_model_len = model.max_model_len.min((num_blocks - 1) * block_size);
    let max_num_batched_tokens =
        profile.max_num_batched_tokens.min(profile.max_num_seqs.saturating_mul(max_model_len));
    Ok(EngineConfig {
        max_num_batched_tokens,
        max_num_seqs: profile.max_num_seqs.min(max_num_batched_tokens),
        ..EngineConfig::new(num_blocks, max_model_len)
    })
}

fn suggestion(name: &str, known: &[String]) -> String {
    known
        .iter()
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| format!(" (did you mean `{known}`?)"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_starts_an_engine_that_vllm_would_start() {
        for profile in profiles() {
            for on_gpu in &profile.models {
                on_gpu.step_time.check().unwrap();
                let instance = instance(&profile.gpu, &on_gpu.model, "x".to_owned()).unwrap();
                instance.engine.validate().unwrap();
            }
        }
    }

    #[test]
    fn kv_blocks_follow_from_memory() {
        // (0.92 * 85.00e9 - 16.06e9 - 1.3e9) / 2 MiB a block.
        let a100 = instance("a100", "llama-3.1-8b", "a".to_owned()).unwrap().engine;
        assert_eq!((a100.num_blocks, a100.max_model_len), (29_010, 131_072));
        assert_eq!((a100.max_num_batched_tokens, a100.max_num_seqs), (2048, 256));
        let l4 = instance("l4", "llama-3.1-8b", "l".to_owned()).unwrap().engine;
        assert_eq!((l4.num_blocks, l4.max_model_len), (2_101, 33_600));
        let h100 = instance("h100", "llama-3.1-8b", "h".to_owned()).unwrap().engine;
        assert_eq!((h100.max_num_batched_tokens, h100.max_num_seqs), (8192, 1024));
    }

    #[test]
    fn errors_say_what_to_do() {
        let message = |gpu, model| instance(gpu, model, "x".to_owned()).unwrap_err().to_string();
        assert_eq!(
            message("a10", "llama-3.1-8b"),
            "unknown GPU `a10` (did you mean `a100`?); known are a100, h100, h200, l40s, l4, a30, \
             l20, rtx4090, rtx-pro-6000"
        );
        assert_eq!(
            message("l4", "llama-3.1-70b"),
            "llama-3.1-70b does not fit on one l4: weights and overhead take 142.4 GB of 21.8 GB \
             (92 % of memory); choose a larger GPU or a smaller model"
        );
        assert!(
            message("l4", "gpt-5").starts_with("unknown model `gpt-5`; known are llama-3.1-8b")
        );
    }
}
