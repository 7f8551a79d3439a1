//! Engine settings, with vLLM's names and vLLM's defaults.

use serde::{Deserialize, Serialize};

/// Order of the waiting queue and choice of the preemption victim (`SchedulerConfig.policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchedulingPolicy {
    /// First come, first served.
    #[default]
    Fcfs,
    /// Lower `priority` first, then earlier arrival.
    Priority,
}

/// The settings of vLLM 0.32.0 that decide what a step does. Defaults are `EngineArgs`' on a GPU, except
/// for the four that vLLM derives from the device: see [`crate::catalog`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "vLLM's settings, as vLLM has them")]
pub struct EngineConfig {
    /// KV cache blocks, the null block included (`num_gpu_blocks`).
    pub num_blocks: u32,
    /// Tokens per KV cache block.
    #[serde(default = "defaults::block_size")]
    pub block_size: u32,
    /// Token budget of a step.
    #[serde(default = "defaults::max_num_batched_tokens")]
    pub max_num_batched_tokens: u32,
    /// Most requests in the running queue.
    #[serde(default = "defaults::max_num_seqs")]
    pub max_num_seqs: u32,
    /// Longest prompt plus output, tokens.
    pub max_model_len: u32,
    /// Reuse KV cache blocks between requests.
    #[serde(default = "defaults::on")]
    pub enable_prefix_caching: bool,
    /// Let a step compute a part of a prompt.
    #[serde(default = "defaults::on")]
    pub enable_chunked_prefill: bool,
    /// Most prompt tokens of one request in one step while others wait; 0 is no limit.
    #[serde(default)]
    pub long_prefill_token_threshold: u32,
    /// Raise that threshold to an equal share of the budget.
    #[serde(default)]
    pub long_prefill_token_threshold_adaptive: bool,
    /// Queue order.
    #[serde(default)]
    pub policy: SchedulingPolicy,
    /// Share of all blocks kept free when admitting beside running requests.
    #[serde(default)]
    pub watermark: f64,
    /// Admit only when the whole known sequence would fit now.
    #[serde(default = "defaults::on")]
    pub scheduler_reserve_full_isl: bool,
    /// Tighter bound on the running queue than `max_num_seqs`.
    #[serde(default)]
    pub max_num_active_seqs: Option<u32>,
    /// Schedule step k+1 while step k runs.
    #[serde(default = "defaults::on")]
    pub async_scheduling: bool,
}

mod defaults {
    pub(super) const fn block_size() -> u32 {
        16
    }
    pub(super) const fn max_num_batched_tokens() -> u32 {
        2048
    }
    pub(super) const fn max_num_seqs() -> u32 {
        256
    }
    pub(super) const fn on() -> bool {
        true
    }
}

impl EngineConfig {
    /// Settings for a cache of `num_blocks` and a model length of `max_model_len`, the rest by default.
    pub const fn new(num_blocks: u32, max_model_len: u32) -> Self {
        Self {
            num_blocks,
            block_size: defaults::block_size(),
            max_num_batched_tokens: defaults::max_num_batched_tokens(),
            max_num_seqs: defaults::max_num_seqs(),
            max_model_len,
            enable_prefix_caching: true,
            enable_chunked_prefill: true,
            long_prefill_token_threshold: 0,
            long_prefill_token_threshold_adaptive: false,
            policy: SchedulingPolicy::Fcfs,
            watermark: 0.0,
            scheduler_reserve_full_isl: true,
            max_num_active_seqs: None,
            async_scheduling: true,
        }
    }

    /// What vLLM checks before it starts. A configuration that passes cannot starve a lone request.
    ///
    /// # Errors
    /// The first setting that is wrong, and what would be right.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let nonzero =
            |name, value| if value == 0 { Err(InvalidConfig::Zero(name)) } else { Ok(()) };
        nonzero("block_size", self.block_size)?;
        nonzero("max_num_batched_tokens", self.max_num_batched_tokens)?;
        nonzero("max_num_seqs", self.max_num_seqs)?;
        if self.num_blocks < 2 {
            return Err(InvalidConfig::NoBlocks(self.num_blocks));
        }
        nonzero("max_model_len", self.max_model_len)?;
        if self.max_num_active_seqs == Some(0) {
            return Err(InvalidConfig::Zero("max_num_active_seqs"));
        }
        if !(0.0..1.0).contains(&self.watermark) {
            return Err(InvalidConfig::Watermark(self.watermark));
        }
        let needed = u64::from(self.max_model_len.div_ceil(self.block_size)) + 1;
        if needed > u64::from(self.num_blocks) {
            return Err(InvalidConfig::CacheTooSmall {
                max_model_len: self.max_model_len,
                needed,
                num_blocks: self.num_blocks,
            });
        }
        if !self.enable_chunked_prefill && self.max_num_batched_tokens < self.max_model_len {
            return Err(InvalidConfig::BudgetTooSmall {
                max_num_batched_tokens: self.max_num_batched_tokens,
                max_model_len: self.max_model_len,
            });
        }
        Ok(())
    }
}

/// Settings with which vLLM would not start.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InvalidConfig {
    /// A setting that must be positive is zero.
    #[error("{0} is 0; it must be at least 1")]
    Zero(&'static str),
    /// Nothing can be kept.
    #[error("num_blocks is {0}; it must be at least 2, of which one is the null block")]
    NoBlocks(u32),
    /// Not a share.
    #[error("watermark is {0}; it must be at least 0 and less than 1")]
    Watermark(f64),
    /// vLLM refuses to start when one request of the full length would not fit.
    #[error(
        "max_model_len {max_model_len} needs {needed} KV blocks (the null block included) and there are \
         {num_blocks}; lower max_model_len or give more memory"
    )]
    CacheTooSmall {
        /// Model length, tokens.
        max_model_len: u32,
        /// Blocks that length needs.
        needed: u64,
        /// Blocks there are.
        num_blocks: u32,
    },
    /// Without chunking a prompt must fit into one step.
    #[error(
        "chunked prefill is off, so max_num_batched_tokens {max_num_batched_tokens} must be at least \
         max_model_len {max_model_len}"
    )]
    BudgetTooSmall {
        /// Token budget.
        max_num_batched_tokens: u32,
        /// Model length, tokens.
        max_model_len: u32,
    },
}
