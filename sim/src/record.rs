//! What a run leaves behind: one record a request, one record an instance and interval.
//!
//! Times are absolute; the latencies everybody quotes are methods, so that they cannot disagree with
//! the times. Definitions and the vLLM metric of each: `docs/metrics.md`.

use lodestar_router::{Duration, InstanceId, Reason, Time};

/// How a request ended. Every request of a trace ends exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// All output tokens were generated.
    Finished,
    /// The router found no instance that could take it.
    RejectedByRouter,
    /// The engine refused it: the prompt is empty or not shorter than `max_model_len`.
    RejectedByEngine,
    /// Its instance died after the first token. One that dies before it is routed again instead.
    Failed,
}

impl Outcome {
    /// The name in result files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::RejectedByRouter => "rejected-by-router",
            Self::RejectedByEngine => "rejected-by-engine",
            Self::Failed => "failed",
        }
    }
}

/// The life of one request. Times at the client unless the name says otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestRecord {
    /// Id in the trace.
    pub request: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Where it was served.
    pub instance: Option<InstanceId>,
    /// Why there.
    pub reason: Option<Reason>,
    /// The client sent it.
    pub arrival: Time,
    /// It entered the engine's waiting queue.
    pub queued: Option<Time>,
    /// Start of the first step it was scheduled in.
    pub scheduled: Option<Time>,
    /// End of the step that made the first token.
    pub first_token_engine: Option<Time>,
    /// The first token reached the client.
    pub first_token: Option<Time>,
    /// The client saw the end, or the refusal.
    pub ended: Time,
    /// Longest gap between two output tokens at the engine.
    pub itl_max: Duration,
    /// Prompt length, tokens.
    pub prompt_tokens: u32,
    /// Prompt tokens found in the prefix cache when first scheduled.
    pub cached_tokens: u32,
    /// Prefix hit that the router predicted for the chosen instance, tokens.
    pub predicted_cached_tokens: u32,
    /// TTFT that the policy predicted, if it predicts.
    pub predicted_ttft: Option<Duration>,
    /// Output tokens generated.
    pub output_tokens: u32,
    /// Times it was preempted.
    pub preemptions: u32,
    /// Times it was routed again, because its instance died or was not there. Everything else here is of the
    /// last attempt, except for the arrival.
    pub retries: u32,
}

impl RequestRecord {
    /// Time to first token, as the client sees it.
    pub fn ttft(&self) -> Option<Duration> {
        self.first_token.map(|t| t - self.arrival)
    }

    /// End-to-end latency, as the client sees it. Only finished requests have one.
    pub fn e2e(&self) -> Option<Duration> {
        (self.outcome == Outcome::Finished).then(|| self.ended - self.arrival)
    }

    /// Mean time per output token after the first. A single token has none.
    pub fn tpot(&self) -> Option<Duration> {
        let first = self
            .first_token
            .filter(|_| self.output_tokens > 1 && self.outcome == Outcome::Finished)?;
        let gaps = u64::from(self.output_tokens - 1);
        Some(Duration::from_nanos((self.ended - first).as_nanos() / gaps))
    }

    /// Time in the engine's waiting queue before the first step.
    pub fn queue_time(&self) -> Option<Duration> {
        Some(self.scheduled? - self.queued?)
    }

    /// Time from the first step's start to the end of the step that made the first token.
    pub fn prefill_time(&self) -> Option<Duration> {
        Some(self.first_token_engine? - self.scheduled?)
    }
}

/// What one instance did in one interval, and how it stood at the end of it.
#[derive(Clone, Debug, PartialEq)]
pub struct IntervalRecord {
    /// Which instance.
    pub instance: InstanceId,
    /// End of the interval. Intervals follow each other, except that an idle cluster records only the last
    /// one before it is not.
    pub end: Time,
    /// Requests in the running queue at the end.
    pub running_requests: u32,
    /// Requests in the waiting queue at the end.
    pub waiting_requests: u32,
    /// Share of KV blocks in use at the end, 0 to 1.
    pub kv_usage: f64,
    /// Steps that ended in the interval.
    pub steps: u64,
    /// Prompt tokens computed (prefix hits excluded).
    pub prefill_tokens: u64,
    /// Output tokens generated.
    pub output_tokens: u64,
    /// Preemptions.
    pub preemptions: u64,
}
