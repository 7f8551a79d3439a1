//! What one step computes. Mirrors `SchedulerOutput` (`vllm/v1/core/sched/output.py`).

use std::iter::Sum;

use lodestar_router::Time;

use super::request::Request;
use super::request_queue::Slot;

/// How a request came into the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// It was running.
    Running,
    /// Admitted for the first time.
    New,
    /// Admitted again after a preemption.
    Resumed,
}

/// One request's part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where the engine keeps the request.
    pub(crate) slot: Slot,
    /// The caller's name for it.
    pub handle: u32,
    /// Tokens computed.
    pub tokens: u32,
    /// Tokens computed before; for [`RowKind::New`] and [`RowKind::Resumed`] this is the prefix hit.
    pub computed_before: u32,
    /// How it came here.
    pub kind: RowKind,
    /// The step computes its last known token, and so samples the next one.
    pub samples: bool,
    /// Prompt length.
    prompt_tokens: u32,
}

impl Row {
    pub(crate) const fn new(
        slot: Slot,
        request: &Request,
        tokens: u32,
        start: u32,
        kind: RowKind,
    ) -> Self {
        let Request { handle, prompt_tokens, .. } = *request;
        Self { slot, handle, tokens, computed_before: start, kind, samples: false, prompt_tokens }
    }

    /// Whether the row generates one token from a known answer.
    pub(crate) const fn is_decode(&self) -> bool {
        self.tokens == 1 && self.samples && self.computed_before >= self.prompt_tokens
    }

    /// What this row contributes to the cost of the step.
    pub(crate) fn shape(&self) -> StepShape {
        let (tokens, before) = (u64::from(self.tokens), u64::from(self.computed_before));
        if self.is_decode() {
            StepShape {
                decode_requests: 1,
                decode_context_tokens: before + 1,
                ..StepShape::default()
            }
        } else {
            StepShape {
                prefill_tokens: tokens,
                prefill_context_tokens: before + tokens,
                prefill_half_pairs: tokens * (2 * before + tokens),
                ..StepShape::default()
            }
        }
    }
}

/// The sums over a step's rows that a cost model may use. A row that generates one token from a known
/// answer is a decode; every other row is prefill, recomputation after a preemption included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepShape {
    /// Tokens computed by prefill rows.
    pub prefill_tokens: u64,
    /// Sum over prefill rows of the context length at the step's end, tokens.
    pub prefill_context_tokens: u64,
    /// Twice the number of (query, key) pairs of prefill attention: the sum of `q * (2 * c0 + q)` for `q`
    /// new tokens after `c0` computed ones.
    pub prefill_half_pairs: u64,
    /// Decode rows.
    pub decode_requests: u64,
    /// Sum over decode rows of the context length at the step's end, tokens.
    pub decode_context_tokens: u64,
}

impl Sum for StepShape {
    fn sum<I: Iterator<Item = Self>>(shapes: I) -> Self {
        shapes.fold(Self::default(), |a, b| Self {
            prefill_tokens: a.prefill_tokens + b.prefill_tokens,
            prefill_context_tokens: a.prefill_context_tokens + b.prefill_context_tokens,
            prefill_half_pairs: a.prefill_half_pairs + b.prefill_half_pairs,
            decode_requests: a.decode_requests + b.decode_requests,
            decode_context_tokens: a.decode_context_tokens + b.decode_context_tokens,
        })
    }
}

/// One step: what was decided when it was scheduled and, after its update, who finished.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// When it was scheduled.
    pub scheduled_at: Time,
    /// When the device is done with it.
    pub ends_at: Time,
    /// In vLLM's order: running requests, then admissions.
    pub rows: Vec<Row>,
    /// Handle and computed tokens lost, in order of preemption.
    pub preempted: Vec<(u32, u32)>,
    /// Handles of requests aborted before it was scheduled or while it ran, in order.
    pub aborted: Vec<u32>,
    /// Slot, and whether it was still running, in row order. Valid after the update.
    pub(crate) finished: Vec<(Slot, bool)>,
    /// Sums over the rows.
    pub shape: StepShape,
    /// Requests that had not ended when it was scheduled.
    pub unfinished: u32,
    /// Running queue after scheduling.
    pub running: u32,
    /// Waiting queue after scheduling.
    pub waiting: u32,
    /// Free KV cache blocks after scheduling.
    pub free_blocks: u32,
}

impl Batch {
    pub(crate) fn begin(&mut self, now: Time, unfinished: u32) {
        self.scheduled_at = now;
        self.rows.clear();
        self.preempted.clear();
        self.finished.clear();
        self.unfinished = unfinished;
    }

    /// Tokens the step computes.
    pub(crate) fn tokens(&self) -> u32 {
        self.rows.iter().map(|row| row.tokens).sum()
    }
}
