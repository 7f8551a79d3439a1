//! The GPUs and models that Lodestar knows, and the instance that vLLM would start on one with the
//! other: KV blocks from memory, batch limits from the device, step times from the GPU's profile.
//!
//! The catalog is a set of TOML files in `sim/profiles/`, compiled in. They state where each number
//! comes from; `docs/profiles.md` explains the fields.

mod profile;

use serde::Deserialize;

use crate::cluster::InstanceConfig;
use crate::engine::EngineConfig;

pub use profile::{Basis, FitError, GpuProfile, MeasuredEngine, ModelOnGpu, ProfileError};

/// vLLM 0.32.0's default share of GPU memory.
const GPU_MEMORY_UTILIZATION: f64 = 0.92;
/// Memory that is neither weights nor KV cache: context, activations, CUDA graphs. An RTX 4090 serving
/// Llama-3.1-8B reports 41,408 KV tokens, which implies 1.3 GB (LLMServingSim's engine log, vLLM 0.19).
const OVERHEAD_BYTES: u64 = 1_300_000_000;

const PROFILES: [&str; 10] = [
    include_str!("../profiles/a100.toml"),
    include_str!("../profiles/h100.toml"),
    include_str!("../profiles/h200.toml"),
    include_str!("../profiles/l40s.toml"),
    include_str!("../profiles/l4.toml"),
    include_str!("../profiles/a30.toml"),
    include_str!("../profiles/v100.toml"),
    include_str!("../profiles/l20.toml"),
    include_str!("../profiles/rtx4090.toml"),
    include_str!("../profiles/rtx-pro-6000.toml"),
];
const MODELS: &str = include_str!("../profiles/models.toml");

/// What of a model decides its memory and the shapes of its matrices.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Name of the model.
    pub model: String,
    /// All weights, whatever the number of GPUs.
    pub weights_bytes: u64,
    /// Transformer layers.
    pub layers: u64,
    /// Width of the residual stream.
    pub hidden_size: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Width of the feed-forward layer, or of one expert's.
    pub intermediate_size: u64,
    /// Rows of the output matrix.
    pub vocab_size: u64,
    /// Experts of a layer; 0 of a dense model.
    #[serde(default)]
    pub experts: u64,
    /// Experts that a token passes through.
    #[serde(default)]
    pub experts_per_token: u64,
    /// Bytes of a value in the KV cache.
    pub kv_bytes_per_value: u64,
    /// Longest context.
    pub max_model_len: u32,
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
        "{model} does not fit on {gpu}: weights and overhead take {needed_gb:.1} GB a GPU of {usable_gb:.1} GB \
         (92 % of memory); choose larger GPUs, more of them (h100x4 is four), or a smaller model"
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
    #[error("no step times for {model} on {gpu}; known are {known}")]
    NoStepTimes {
        /// The GPU.
        gpu: String,
        /// The model.
        model: String,
        /// What the GPU has step times for.
        known: String,
    },
    /// Heads cannot be cut.
    #[error("{model} cannot be spread over {gpus} GPUs: it has {heads} heads; choose a divisor")]
    CannotSplit {
        /// The model.
        model: String,
        /// How many GPUs.
        gpus: u32,
        /// Its query heads.
        heads: u64,
    },
}

/// Names of the GPUs.
pub fn gpus() -> Vec<String> {
    profiles().into_iter().map(|profile| profile.gpu).collect()
}

/// A model's shape.
///
/// # Errors
/// When the model is unknown.
pub fn model(name: &str) -> Result<Model, CatalogError> {
    let known = model_table().into_iter().find(|known| known.model == name);
    known.ok_or_else(|| CatalogError::UnknownModel { model: name.to_owned() })
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

/// The profile of one instance's GPUs as people write them: `h100`, or `h100x4` for four of them.
///
/// # Errors
/// When there is no such GPU.
pub fn profile(gpu: &str) -> Result<GpuProfile, CatalogError> {
    let find = |name: &str| profiles().into_iter().find(|profile| profile.gpu == name);
    // A whole name first: `rtx4090` is not 4090 of a GPU called `rt`.
    if let Some(profile) = find(gpu) {
        return Ok(profile);
    }
    let several = gpu.rsplit_once('x').and_then(|(name, gpus)| {
        let gpus = gpus.parse().ok().filter(|gpus| (2..=64).contains(gpus))?;
        Some(find(name)?.with_gpus(gpus))
    });
    several.ok_or_else(|| CatalogError::UnknownGpu { gpu: gpu.to_owned() })
}

/// vLLM's defaults: `determine_available_memory`, `get_kv_cache_configs` and `get_batch_defaults`. Every
/// GPU holds its part of the weights and of the KV heads, so one of them stands for all.
fn engine_config(profile: &GpuProfile, model: &Model) -> Result<EngineConfig, CatalogError> {
    let gpus = u64::from(profile.gpus);
    if !model.heads.is_multiple_of(gpus) {
        return Err(CatalogError::CannotSplit {
            model: model.model.clone(),
            gpus: profile.gpus,
            heads: model.heads,
        });
    }
    let usable_bytes = (profile.memory_bytes as f64 * GPU_MEMORY_UTILIZATION).ceil() as u64;
    let needed_bytes = model.weights_bytes.div_ceil(gpus) + OVERHEAD_BYTES;
    let block_size = EngineConfig::new(2, 1).block_size;
    // With more GPUs than KV heads, heads are copied.
    let kv_heads = model.kv_heads.div_ceil(gpus);
    let values_per_token = 2 * model.layers * kv_heads * model.head_dim;
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
    use super::profile::instance_name;
    use super::*;

    #[test]
    fn every_profile_starts_an_engine_that_vllm_would_start() {
        for profile in profiles() {
            for on_gpu in &profile.models {
                on_gpu.check().unwrap();
                let gpu = instance_name(&profile.gpu, on_gpu.tensor_parallel);
                let instance = instance(&gpu, &on_gpu.model, "x".to_owned()).unwrap();
                assert_eq!(instance.gpu, gpu);
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
    fn whole_prompts_take_a_budget_of_the_model_length() {
        let engine = instance("v100", "llama-3.1-8b", "v".to_owned()).unwrap().engine;
        let settings = MeasuredEngine {
            max_model_len: Some(30_000),
            prefix_caching: Some(false),
            chunked_prefill: Some(false),
            ..MeasuredEngine::default()
        };
        let whole = settings.apply(engine.clone());
        whole.validate().unwrap();
        assert_eq!((whole.max_model_len, whole.max_num_batched_tokens), (30_000, 30_000));
        assert!(!whole.enable_prefix_caching && !whole.enable_chunked_prefill);
        let given = MeasuredEngine { max_num_batched_tokens: Some(2048), ..settings };
        given.apply(engine.clone()).validate().unwrap_err();
        let chunked = MeasuredEngine { chunked_prefill: None, ..settings }.apply(engine);
        assert_eq!(chunked.max_num_batched_tokens, 2048);
    }

    #[test]
    fn errors_say_what_to_do() {
        let message = |gpu, model| instance(gpu, model, "x".to_owned()).unwrap_err().to_string();
        assert_eq!(
            message("a10", "llama-3.1-8b"),
            "unknown GPU `a10` (did you mean `a100`?); known are a100, h100, h200, l40s, l4, a30, \
             v100, l20, rtx4090, rtx-pro-6000"
        );
        assert_eq!(
            message("l4", "llama-3.1-70b"),
            "llama-3.1-70b does not fit on l4: weights and overhead take 142.4 GB a GPU of 21.8 GB \
             (92 % of memory); choose larger GPUs, more of them (h100x4 is four), or a smaller model"
        );
        assert!(
            message("l4", "gpt-5").starts_with("unknown model `gpt-5`; known are llama-3.1-8b")
        );
    }
}
