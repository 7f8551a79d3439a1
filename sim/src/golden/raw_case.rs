//! A case as it stands in its file.

use serde::Deserialize;

use super::case::CaseError;
use crate::engine::{EngineConfig, SchedulingPolicy};

#[derive(Deserialize)]
pub(super) struct RawCase {
    pub(super) name: String,
    #[serde(default)]
    pub(super) config: RawConfig,
    #[serde(default = "default_hash_block")]
    pub(super) hash_block: u32,
    #[serde(default)]
    pub(super) step_time: RawStepTime,
    #[serde(default)]
    pub(super) trace: RawTrace,
    pub(super) requests: Vec<RawRequest>,
}

const fn default_hash_block() -> u32 {
    512
}

#[derive(Default, Deserialize)]
pub(super) struct RawTrace {
    #[serde(default)]
    pub(super) blocks: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStepTime {
    pub(super) a_ns: u64,
    pub(super) b_ns: u64,
    pub(super) c_ns: u64,
    pub(super) d_ns: u64,
    pub(super) empty_us: u64,
}

/// The recorder's defaults, as [`RawConfig`]'s below.
impl Default for RawStepTime {
    fn default() -> Self {
        Self { a_ns: 5_000_000, b_ns: 50_000, c_ns: 20_000, d_ns: 20, empty_us: 1000 }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    pub(super) num_blocks: Option<u32>,
    pub(super) block_size: Option<u32>,
    pub(super) max_num_batched_tokens: Option<u32>,
    pub(super) max_num_seqs: Option<u32>,
    pub(super) max_model_len: Option<u32>,
    pub(super) enable_prefix_caching: Option<bool>,
    pub(super) enable_chunked_prefill: Option<bool>,
    pub(super) long_prefill_token_threshold: u32,
    pub(super) long_prefill_token_threshold_adaptive: bool,
    pub(super) policy: SchedulingPolicy,
    pub(super) watermark: f64,
    pub(super) scheduler_reserve_full_isl: Option<bool>,
    pub(super) max_num_active_seqs: Option<u32>,
    pub(super) async_scheduling: bool,
}

impl RawConfig {
    pub(super) fn resolve(&self) -> EngineConfig {
        let base =
            EngineConfig::new(self.num_blocks.unwrap_or(1024), self.max_model_len.unwrap_or(8192));
        EngineConfig {
            block_size: self.block_size.unwrap_or(base.block_size),
            max_num_batched_tokens: self
                .max_num_batched_tokens
                .unwrap_or(base.max_num_batched_tokens),
            max_num_seqs: self.max_num_seqs.unwrap_or(base.max_num_seqs),
            enable_prefix_caching: self.enable_prefix_caching.unwrap_or(true),
            enable_chunked_prefill: self.enable_chunked_prefill.unwrap_or(true),
            long_prefill_token_threshold: self.long_prefill_token_threshold,
            long_prefill_token_threshold_adaptive: self.long_prefill_token_threshold_adaptive,
            policy: self.policy,
            watermark: self.watermark,
            scheduler_reserve_full_isl: self.scheduler_reserve_full_isl.unwrap_or(true),
            max_num_active_seqs: self.max_num_active_seqs,
            async_scheduling: self.async_scheduling,
            ..base
        }
    }
}

#[derive(Deserialize)]
pub(super) struct RawRequest {
    pub(super) id: String,
    pub(super) arrival_us: Option<u64>,
    pub(super) after: Option<String>,
    #[serde(default)]
    pub(super) delay_us: u64,
    pub(super) output_len: u32,
    #[serde(default)]
    pub(super) priority: i32,
    pub(super) salt: Option<String>,
    #[serde(default)]
    pub(super) skip_read: bool,
    pub(super) out_seed: Option<u64>,
    pub(super) abort_us: Option<u64>,
    pub(super) hash_ids: Option<Vec<u64>>,
    pub(super) prompt_len: Option<u32>,
    pub(super) segments: Option<Vec<RawSegment>>,
}

impl RawRequest {
    pub(super) fn fail(&self, problem: impl Into<String>) -> CaseError {
        CaseError::Request { request: self.id.clone(), problem: problem.into() }
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "not a segment: {h, n}, {p} or {p, n}, {o, n} with n below 2^32")]
pub(super) enum RawSegment {
    Hashed { h: Vec<u64>, n: u32 },
    Output { o: String, n: u32 },
    Prompt { p: String, n: Option<u32> },
}
