//! A request inside the engine. Mirrors `vllm/v1/request.py`.

use lodestar_router::{BlockHash, Time};
use lodestar_traces::Source;

use super::block_pool::BlockId;
use super::config::EngineConfig;
use crate::content::{Chain, PromptKeys};

/// What the front end hands to the engine core.
#[derive(Clone, Debug)]
pub struct NewRequest {
    /// The caller's name for it, unique among the requests of this engine that have not ended.
    pub handle: u32,
    /// The prompt, cut into this engine's blocks.
    pub prompt: PromptKeys,
    /// Leading tokens, of prompt and answer together, that another request of this engine may have as
    /// well, now or later; `u32::MAX` when nobody knows.
    pub shared_tokens: u32,
    /// Output tokens it will generate; clipped to what the model length leaves.
    pub max_tokens: u32,
    /// The name of its answer, by which a later prompt can contain it.
    pub output: Source,
    /// Lower is more urgent; only the priority policy looks.
    pub priority: i32,
    /// Orders requests of equal priority and arrival, as vLLM compares their ids.
    pub tie_break: u32,
    /// `skip_reading_prefix_cache`: writes the cache but takes no hit.
    pub skip_reading_prefix_cache: bool,
}

/// `RequestStatus`, as far as the scheduler can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Waiting,
    Running,
    Preempted,
    Ended,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) handle: u32,
    pub(crate) status: Status,
    pub(crate) arrival: Time,
    pub(crate) priority: i32,
    pub(crate) tie_break: u32,
    pub(crate) skip_reading_prefix_cache: bool,
    pub(crate) prompt_tokens: u32,
    pub(crate) max_tokens: u32,
    /// Output tokens that have arrived.
    pub(crate) output_tokens: u32,
    /// `num_computed_tokens`: tokens whose KV exists or is scheduled.
    pub(crate) computed_tokens: u32,
    /// `num_output_placeholders`: sampled in a scheduled step, not arrived (async).
    pub(crate) placeholders: u32,
    /// Tokens in scheduled steps that were not updated yet.
    pub(crate) in_flight_tokens: u32,
    /// Of those, the ones scheduled before a preemption (async).
    pub(crate) stale_tokens: u32,
    pub(crate) preemptions: u32,
    pub(crate) blocks: Vec<BlockId>,
    /// Leading blocks that another request, or this one after a preemption, may look for.
    pub(crate) shared_blocks: u32,
    /// Leading blocks that are registered or were hit.
    pub(crate) cached_blocks: u32,
    /// Key of each full block of prompt and output.
    pub(crate) keys: Vec<BlockHash>,
    chain: Chain,
    output: Source,
    /// Prefix hit of the last admission before the first preemption, tokens.
    pub(crate) prefix_hit_tokens: u32,
    pub(crate) scheduled_at: Option<Time>,
    pub(crate) first_token_at: Option<Time>,
    pub(crate) last_token_at: Time,
    pub(crate) itl_max_ns: u64,
}

impl Request {
    pub(crate) fn new(new: NewRequest, arrival: Time, config: &EngineConfig) -> Self {
        let NewRequest { prompt, .. } = new;
        let max_model_len = config.max_model_len;
        assert!(
            0 < prompt.tokens && prompt.tokens < max_model_len,
            "the front end rejects prompts that are empty or not shorter than the model length"
        );
        Self {
            handle: new.handle,
            status: Status::Waiting,
            arrival,
            priority: new.priority,
            tie_break: new.tie_break,
            skip_reading_prefix_cache: new.skip_reading_prefix_cache,
            prompt_tokens: prompt.tokens,
            max_tokens: new.max_tokens.min(max_model_len - prompt.tokens),
            output_tokens: 0,
            computed_tokens: 0,
            placeholders: 0,
            in_flight_tokens: 0,
            stale_tokens: 0,
            preemptions: 0,
            blocks: Vec::new(),
            shared_blocks: match new.shared_tokens {
                u32::MAX => u32::MAX,
                tokens => tokens / config.block_size,
            },
            cached_blocks: 0,
            keys: prompt.keys,
            chain: prompt.chain,
            output: new.output,
            prefix_hit_tokens: 0,
            scheduled_at: None,
            first_token_at: None,
            last_token_at: arrival,
            itl_max_ns: 0,
        }
    }

    /// `num_tokens`: prompt plus output so far.
    pub(crate) const fn tokens(&self) -> u32 {
        self.prompt_tokens + self.output_tokens
    }

    /// Takes one output token that arrived at `now`.
    pub(crate) fn append_output_token(&mut self, now: Time, block_size: u32) {
        self.append_output_tokens(1, block_size);
        if self.first_token_at.is_none() {
            self.first_token_at = Some(now);
        } else {
            self.itl_max_ns = self.itl_max_ns.max((now - self.last_token_at).as_nanos());
        }
        self.last_token_at = now;
    }

    /// Takes output tokens without looking at the clock; each block they complete gets its key.
    pub(crate) fn append_output_tokens(&mut self, tokens: u32, block_size: u32) {
        let mut left = tokens;
        while left > 0 {
            let room = block_size - self.tokens() % block_size;
            let take = left.min(room);
            self.output_tokens += take;
            left -= take;
            if take == room {
                // The tokens since the last block border, or since the prompt's end if that came later.
                let in_block = block_size.min(self.output_tokens);
                self.chain.append(self.output, self.output_tokens - in_block, in_block);
                self.keys.push(self.chain.end_block());
            }
        }
    }

    /// `true` when the answer is complete: at its length, or at the model's.
    pub(crate) const fn is_complete(&self, max_model_len: u32) -> bool {
        self.tokens() >= max_model_len || self.output_tokens >= self.max_tokens
    }
}
