//! A request inside the engine. Mirrors `vllm/v1/request.py`.

use lodestar_router::{BlockHash, Time};
use lodestar_traces::Source;

use super::block_pool::BlockId;
use super::config::EngineConfig;
use crate::content::{Chain, PromptKeys, own_key};

/// What the front end hands to the engine core.
#[derive(Clone, Debug)]
pub struct NewRequest {
    /// The caller's name for it, unique among the requests of this engine that have not ended.
    pub handle: u32,
    /// The prompt, cut into this engine's blocks.
    pub prompt: PromptKeys,
    /// Leading tokens of the prompt that another request of this engine may have as well, now or later (also
    /// this one, sent again after an abort); `u32::MAX` when nobody knows, or the answer is shared, too.
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

/// What every step looks at, in one cache line, and a box for the rest: a step goes through all running requests,
/// and in a large fleet it waits for the memory of each.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(crate) struct Request {
    pub(crate) handle: u32,
    pub(crate) status: Status,
    /// `num_output_placeholders`: sampled in a scheduled step, not arrived (async).
    pub(crate) placeholders: u16,
    pub(crate) prompt_tokens: u32,
    pub(crate) max_tokens: u32,
    /// Output tokens that have arrived.
    pub(crate) output_tokens: u32,
    /// `num_computed_tokens`: tokens whose KV exists or is scheduled.
    pub(crate) computed_tokens: u32,
    /// Tokens in scheduled steps that were not updated yet.
    pub(crate) in_flight_tokens: u32,
    /// Of those, the ones scheduled before a preemption (async).
    pub(crate) stale_tokens: u32,
    /// Leading blocks that another request, or this one after a preemption, may look for.
    pub(crate) shared_blocks: u32,
    /// Leading blocks that are registered or were hit.
    pub(crate) cached_blocks: u32,
    pub(crate) last_token_at: Time,
    pub(crate) itl_max_ns: u64,
    pub(crate) ticket: Box<Ticket>,
}

const _: () = assert!(size_of::<Request>() == 64);

/// What is looked at when a request comes, fills a block, is preempted or leaves.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    pub(crate) arrival: Time,
    pub(crate) priority: i32,
    pub(crate) tie_break: u32,
    pub(crate) skip_reading_prefix_cache: bool,
    pub(crate) preemptions: u32,
    /// Prefix hit of the last admission before the first preemption, tokens.
    pub(crate) prefix_hit_tokens: u32,
    pub(crate) scheduled_at: Option<Time>,
    pub(crate) blocks: Vec<BlockId>,
    /// Keys of the full blocks of prompt and output that somebody may look for.
    pub(crate) keys: Vec<BlockHash>,
    next_keys: NextKeys,
}

/// Where the keys of blocks that are yet to be filled come from.
#[derive(Clone, Copy, Debug)]
enum NextKeys {
    /// Others may spell what this request spells: they continue the chain with its answer.
    Spelled(Chain, Source),
    /// Nobody can look for any more blocks.
    Unneeded,
    /// Nobody but this request, which was preempted, can: any keys will do that no other request has.
    Own(u64),
}

impl Request {
    pub(crate) fn new(new: NewRequest, arrival: Time, config: &EngineConfig) -> Self {
        let NewRequest { prompt, .. } = new;
        let max_model_len = config.max_model_len;
        assert!(
            0 < prompt.tokens && prompt.tokens < max_model_len,
            "the front end rejects prompts that are empty or not shorter than the model length"
        );
        let (mut keys, mut shared_blocks) = (prompt.keys, u32::MAX);
        let mut next_keys = NextKeys::Spelled(prompt.chain, new.output);
        if new.shared_tokens < u32::MAX {
            shared_blocks = new.shared_tokens / config.block_size;
            assert!(
                shared_blocks as usize <= keys.len(),
                "an answer is shared whole or not at all"
            );
            keys.truncate(shared_blocks as usize);
            keys.shrink_to_fit();
            next_keys = NextKeys::Unneeded;
        }
        Self {
            handle: new.handle,
            status: Status::Waiting,
            prompt_tokens: prompt.tokens,
            max_tokens: new.max_tokens.min(max_model_len - prompt.tokens),
            output_tokens: 0,
            computed_tokens: 0,
            placeholders: 0,
            in_flight_tokens: 0,
            stale_tokens: 0,
            shared_blocks,
            cached_blocks: 0,
            last_token_at: arrival,
            itl_max_ns: 0,
            ticket: Box::new(Ticket {
                arrival,
                priority: new.priority,
                tie_break: new.tie_break,
                skip_reading_prefix_cache: new.skip_reading_prefix_cache,
                preemptions: 0,
                prefix_hit_tokens: 0,
                scheduled_at: None,
                blocks: Vec::new(),
                keys,
                next_keys,
            }),
        }
    }

    /// `num_tokens`: prompt plus output so far.
    pub(crate) const fn tokens(&self) -> u32 {
        self.prompt_tokens + self.output_tokens
    }

    /// Those and the output tokens that are on their way (async).
    pub(crate) const fn tokens_scheduled(&self) -> u32 {
        self.tokens() + self.placeholders as u32
    }

    /// Takes one output token that arrived at `now`.
    pub(crate) fn append_output_token(&mut self, now: Time, block_size: u32) {
        if self.output_tokens > 0 {
            self.itl_max_ns = self.itl_max_ns.max((now - self.last_token_at).as_nanos());
        }
        self.last_token_at = now;
        self.append_output_tokens(1, block_size);
    }

    /// Takes output tokens without looking at the clock; each block they complete gets its key, if it can be
    /// looked for.
    pub(crate) fn append_output_tokens(&mut self, tokens: u32, block_size: u32) {
        let before = self.tokens();
        self.output_tokens += tokens;
        let fills_a_block = before % block_size + tokens >= block_size;
        if fills_a_block && self.shared_blocks == u32::MAX {
            self.name_full_blocks(block_size);
        }
    }

    /// From now on this request may look for all of its blocks. `stream` is a number that no other request of
    /// the engine gets.
    pub(crate) fn share_with_itself(&mut self, stream: u64, block_size: u32) {
        if self.shared_blocks < u32::MAX {
            self.shared_blocks = u32::MAX;
            self.ticket.next_keys = NextKeys::Own(stream);
            self.name_full_blocks(block_size);
        }
    }

    /// Whether blocks that it fills from now on may be what others look for.
    pub(crate) fn spells_on(&self) -> bool {
        matches!(self.ticket.next_keys, NextKeys::Spelled(..))
    }

    /// Gives a key to every full block that has none.
    fn name_full_blocks(&mut self, block_size: u32) {
        let full = self.tokens() / block_size;
        let Self { ticket, prompt_tokens, .. } = self;
        let Ticket { keys, next_keys, .. } = &mut **ticket;
        for block in keys.len() as u32..full {
            keys.push(match next_keys {
                NextKeys::Spelled(chain, output) => {
                    // The answer's tokens since the last block border, or since the prompt's end if that came later.
                    let end = (block + 1) * block_size - *prompt_tokens;
                    let in_block = block_size.min(end);
                    chain.append(*output, end - in_block, in_block);
                    chain.end_block()
                }
                NextKeys::Own(stream) => own_key(*stream, block),
                NextKeys::Unneeded => unreachable!("only of requests that may look for all blocks"),
            });
        }
    }

    /// `true` when the answer is complete: at its length, or at the model's.
    pub(crate) const fn is_complete(&self, max_model_len: u32) -> bool {
        self.tokens() >= max_model_len || self.output_tokens >= self.max_tokens
    }
}
