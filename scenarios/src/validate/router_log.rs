//! A router's log is a measured one: each request at the instance that answered it.
//!
//! A request that an instance failed and another one answered is a request to that other instance, which it reached
//! when it was routed there: times count from that decision on, because the replay asks how long the instance took.
//! What the failed attempt did to its instance until it failed is left out.

use std::collections::BTreeSet;

use lodestar_router::{BlockHash, Decision, InstanceId, Routing, Time};
use lodestar_traces::{Source, Span};

use super::content::Prompts;
use super::error::{LogError, MIN_ROWS};
use super::log::{CachedTokens, ClockAt, MeasuredLog, MeasuredRequest};
use crate::decisions::{Attempt, Ending, LogReader, attempts};

/// Later arrivals, about 73 years, and longer prompts and answers are damage: the limits of traces.
const LATEST_NS: u64 = 1 << 61;
const LONGEST_TOKENS: u32 = 1 << 24;

/// What is kept of a decision.
struct Decided {
    instance: InstanceId,
    prompt_tokens: u32,
    blocks: Vec<BlockHash>,
}

/// A decision that led to an answer.
struct Answered {
    routed_at: Time,
    instance: InstanceId,
    blocks: Vec<BlockHash>,
    /// Whether the engine said what was cached.
    says_cached: bool,
    /// But for the instance and the arrival.
    request: MeasuredRequest,
}

impl MeasuredLog {
    /// Reads a router's log to its end.
    ///
    /// # Errors
    /// When it is damaged, or says too little.
    pub fn of_router_log(log: LogReader) -> Result<Self, LogError> {
        let block_tokens = log.start().config.block_tokens;
        let decided = |routing: &Routing, decision: &Decision| Decided {
            instance: routing.placed.unwrap_or(decision.instance),
            prompt_tokens: routing.request.prompt_tokens,
            blocks: routing.request.block_hashes.to_vec(),
        };
        let attempts = attempts(log, decided).map_err(LogError::RouterLog)?;
        let decisions = attempts.len();
        let mut answered = Vec::new();
        for (attempt, row) in attempts.into_iter().zip(1..) {
            answered.extend(Answered::of(attempt, row, block_tokens)?);
        }
        if answered.len() < MIN_ROWS {
            return Err(LogError::TooFewRows { rows: answered.len() });
        }
        let left_out = decisions - answered.len();
        answered.sort_by_key(|answered| answered.routed_at);
        let start = answered[0].routed_at;
        let instances: BTreeSet<InstanceId> = answered.iter().map(|it| it.instance).collect();
        let instances = Vec::from_iter(instances);
        let is_recorded = answered.iter().any(|answered| answered.says_cached);
        let (mut requests, mut prompts) = (Vec::new(), Vec::new());
        for (Answered { routed_at, instance, blocks, request, .. }, index) in
            answered.into_iter().zip(0..)
        {
            prompts.push(prompt(&blocks, block_tokens, request.prompt_tokens, index));
            requests.push(MeasuredRequest {
                instance: instances.binary_search(&instance).expect("collected"),
                arrival_ns: routed_at.saturating_since(start).as_nanos(),
                ..request
            });
        }
        Ok(Self {
            requests,
            instances: instances.iter().map(|instance| instance.0.to_string()).collect(),
            cached: if is_recorded { CachedTokens::Recorded } else { CachedTokens::Unknown },
            clock_at: ClockAt::Gateway,
            prompts: Some(Prompts { prompts, primers: Vec::new() }),
            notes: notes(left_out, decisions),
            instance_column: "instance".to_owned(),
        })
    }
}

impl Answered {
    /// Nothing where there was no answer, or none whose first token the router saw.
    fn of(
        attempt: Attempt<Decided>,
        row: usize,
        block_tokens: u32,
    ) -> Result<Option<Self>, LogError> {
        let (Some(ttft_ms), Some(e2e_ms)) = (attempt.ttft_ms(), attempt.e2e_ms()) else {
            return Ok(None);
        };
        let Attempt { kept, routed_at, ended: Some((_, Ending::Finished(usage))), .. } = attempt
        else {
            return Ok(None);
        };
        // The engine has counted; the router may have estimated, its blocks too.
        let whole = kept.blocks.len() as u32 * block_tokens;
        let counted = Some(usage.prompt_tokens).filter(|counted| *counted >= whole);
        let prompt_tokens = counted.unwrap_or(kept.prompt_tokens);
        let output_tokens = usage.output_tokens;
        if ttft_ms <= 0.0 || prompt_tokens == 0 || output_tokens == 0 {
            return Ok(None);
        }
        let cached_tokens = usage.cached_tokens.unwrap_or(0);
        let at_ns = routed_at.as_nanos();
        for (column, value, limit, problem) in [
            ("now", at_ns, LATEST_NS, "is decades after the driver's origin"),
            (
                "cached_tokens",
                cached_tokens.into(),
                prompt_tokens.into(),
                "is more than the prompt has",
            ),
            (
                "prompt_tokens",
                prompt_tokens.into(),
                LONGEST_TOKENS.into(),
                "is more than any model takes",
            ),
            (
                "output_tokens",
                output_tokens.into(),
                LONGEST_TOKENS.into(),
                "is more than any model says",
            ),
        ] {
            if value > limit {
                let (column, value) = (column.to_owned(), value.to_string());
                let advice = "the log is damaged: write it again";
                return Err(LogError::Cell { row, column, value, problem, advice });
            }
        }
        Ok(Some(Self {
            routed_at,
            instance: kept.instance,
            blocks: kept.blocks,
            says_cached: usage.cached_tokens.is_some(),
            request: MeasuredRequest {
                row,
                instance: 0,
                arrival_ns: 0,
                prompt_tokens,
                cached_tokens,
                output_tokens,
                ttft_ms,
                e2e_ms: e2e_ms.max(ttft_ms),
            },
        }))
    }
}

/// A span a block, since equal hashes are equal prefixes, and text of its own for what is left.
fn prompt(blocks: &[BlockHash], block_tokens: u32, prompt_tokens: u32, index: u64) -> Vec<Span> {
    let block =
        |hash: &BlockHash| Span { source: Source::Hash(hash.0), start: 0, tokens: block_tokens };
    let mut spans: Vec<Span> = blocks.iter().map(block).collect();
    let tokens = prompt_tokens - blocks.len() as u32 * block_tokens;
    if tokens > 0 {
        spans.push(Span { source: Source::Private(index), start: 0, tokens });
    }
    spans
}

fn notes(left_out: usize, decisions: usize) -> Vec<String> {
    if left_out == 0 {
        return Vec::new();
    }
    vec![format!(
        "{left_out} of {decisions} decisions led to no answer, or to one whose first token the router did \
         not see, and were left out"
    )]
}
