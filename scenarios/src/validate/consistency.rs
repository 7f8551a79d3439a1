//! Rows that cannot be true: answered sooner than an idle instance could have.
//!
//! A gateway guesses what is cached from what it routed since it was started. The engines may have been up
//! for longer, and then a prompt that "cannot" be cached comes back in the time of a cached one. Whatever
//! else happened on the instance could only have made it slower, so the time proves that at least so many
//! tokens were cached. Only that least number is assumed, only where it exceeds the log's, and only of logs
//! that guess. The rows are named, because their own TTFT was used: errors are also counted without them.

use lodestar_sim::InstanceConfig;
use lodestar_sim::engine::StepShape;

use super::fleet::LogFleet;
use super::log::{CachedTokens, MeasuredLog};

/// By how much a TTFT must undercut the least possible one: steps vary by a few percent.
const MARGIN: f64 = 0.9;

/// One row in so many may have been guessed wrong. Where there are more, it is the law that cannot be true.
pub const FEW_IN: usize = 5;

/// The log with cached tokens that its times allow, and the rows that were changed.
pub fn correct_impossible(
    log: &MeasuredLog,
    fleet: &LogFleet,
    overhead_ms: f64,
) -> (MeasuredLog, Vec<usize>) {
    let api_server = fleet.cluster(log.clock_at).api_server;
    let mut log = log.clone();
    let mut changed = Vec::new();
    if log.cached != CachedTokens::Estimated {
        return (log, changed);
    }
    for request in &mut log.requests {
        let instance = &fleet.instances[request.instance];
        if request.prompt_tokens >= instance.engine.max_model_len {
            continue; // it is refused, whatever is cached
        }
        let outside_ms = overhead_ms + millis(api_server.delay(request.prompt_tokens).as_nanos());
        let least_ms = |cached| outside_ms + idle_ms(instance, request.prompt_tokens, cached);
        if request.ttft_ms >= MARGIN * least_ms(request.cached_tokens) {
            continue;
        }
        // Whole blocks, and the last token is always computed.
        let block = instance.engine.block_size;
        let most = (request.prompt_tokens - 1) / block;
        let blocks = (request.cached_tokens / block..=most)
            .find(|blocks| least_ms(blocks * block) <= request.ttft_ms)
            .unwrap_or(most);
        request.cached_tokens = request.cached_tokens.max(blocks * block);
        changed.push(request.row);
    }
    (log, changed)
}

/// Time to compute a prompt, and its first token, on an instance that does nothing else.
fn idle_ms(instance: &InstanceConfig, prompt_tokens: u32, cached_tokens: u32) -> f64 {
    let (mut at, mut nanos) = (u64::from(cached_tokens), 0);
    let end = u64::from(prompt_tokens);
    while at < end {
        let chunk = (end - at).min(u64::from(instance.engine.max_num_batched_tokens));
        let shape = StepShape {
            prefill_tokens: chunk,
            prefill_context_tokens: at + chunk,
            prefill_half_pairs: chunk * (2 * at + chunk),
            decode_requests: 0,
            decode_context_tokens: 0,
        };
        nanos += instance.step_time.duration(&shape).as_nanos();
        at += chunk;
    }
    millis(nanos)
}

fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}
