//! The right and the duty to say how an attempt ended. A value and not a call, so that whatever drops it, a client that hangs
//! up above all, has said so.

use std::sync::Arc;
use std::time::Instant;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use lodestar_router::{Event, Reason, RequestId, Usage};

use super::{Dispatcher, Member};
use crate::arms::Arm;
use crate::telemetry::Span;
use crate::verdict::Evidence;

const X_LODESTAR_INSTANCE: HeaderName = HeaderName::from_static("x-lodestar-instance");
const X_LODESTAR_REASON: HeaderName = HeaderName::from_static("x-lodestar-reason");
/// Output tokens between two reports of progress: the load of an instance is counted in KV blocks, and one
/// lock a token would be many.
const PROGRESS_TOKENS: u32 = 16;

/// One attempt to serve a request: the right and the duty to say how it ended. Dropped without a word, the
/// request was aborted.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) member: Arc<Member>,
    pub(super) request: RequestId,
    /// Who decided.
    pub(super) arm: Arm,
    /// As the router counts them.
    pub(super) prompt_tokens: u32,
    pub(super) predicted_cached_tokens: u32,
    pub(super) reason: Reason,
    /// From a policy that predicts it.
    pub(super) predicted_ttft: Option<lodestar_router::Duration>,
    pub(super) span: Span,
    pub(super) routed_at: Instant,
    /// Output tokens that the router knows of.
    pub(super) reported: u32,
    pub(super) open: bool,
}

impl Ticket {
    /// Where it goes.
    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// From now on the span is told how the attempt goes.
    pub(crate) fn with_span(mut self, span: Span) -> Self {
        self.span = span;
        self
    }

    /// Tells a span how it was decided.
    pub(crate) fn explain(&self, span: &Span) {
        if !span.is_traced() {
            return;
        }
        span.set_text("lodestar.policy", &self.dispatcher.policy_name(self.arm));
        span.set("lodestar.arm", self.arm.as_str());
        span.set("lodestar.reason", self.reason.as_str());
        span.set_text("lodestar.instance", &self.member.backend.url);
        span.set("lodestar.predicted_cached_tokens", i64::from(self.predicted_cached_tokens));
        if let Some(ttft) = self.predicted_ttft {
            span.set("lodestar.predicted_ttft_s", ttft.as_secs_f64());
        }
    }

    /// Says in an answer who gives it, and why that one.
    pub(crate) fn sign(&self, headers: &mut HeaderMap) {
        if let Ok(url) = HeaderValue::from_str(&self.member.backend.url) {
            headers.insert(X_LODESTAR_INSTANCE, url);
        }
        headers.insert(X_LODESTAR_REASON, HeaderValue::from_static(self.reason.as_str()));
    }

    #[cfg(test)]
    pub(crate) const fn predicted_cached_tokens(&self) -> u32 {
        self.predicted_cached_tokens
    }

    /// The answer has grown to so many tokens.
    pub(crate) fn progress(&mut self, output_tokens: u32) {
        self.member.progress.moved();
        let first = self.reported == 0 && output_tokens > 0;
        if first {
            let ttft = self.routed_at.elapsed();
            self.dispatcher.counters.first_token(self.arm, ttft);
            self.dispatcher.recent.first_token(self.request, ttft);
            self.span.event("first token");
            let secs = ttft.as_secs_f64();
            self.judge(|evidence| evidence.first_token(self.arm, secs));
            self.dispatcher.observe(&Event::FirstToken { request: self.request });
            self.reported = 1;
        }
        if output_tokens >= self.reported.saturating_add(PROGRESS_TOKENS) {
            let request = self.request;
            self.dispatcher.observe(&Event::Progress { request, output_tokens });
            self.reported = output_tokens;
        }
    }

    /// The answer is complete. `said` is what it says it used; `output_tokens` could be counted.
    pub(crate) fn finished(mut self, said: Option<Usage>, output_tokens: u32) {
        self.member.progress.moved();
        let counters = &self.dispatcher.counters;
        if let Some(usage) = said {
            self.span.set("gen_ai.usage.input_tokens", i64::from(usage.prompt_tokens));
            self.span.set("gen_ai.usage.output_tokens", i64::from(usage.output_tokens));
            counters.prompt_tokens.add(u64::from(usage.prompt_tokens));
            if let Some(cached) = usage.cached_tokens {
                self.span.set("gen_ai.usage.cache_read.input_tokens", i64::from(cached));
                counters.cached_tokens.add(u64::from(cached));
                counters.predicted_cached_tokens.add(u64::from(self.predicted_cached_tokens));
            }
        }
        let prompt_tokens = self.prompt_tokens;
        let usage = said.unwrap_or(Usage { prompt_tokens, cached_tokens: None, output_tokens });
        counters.output_tokens.add(u64::from(usage.output_tokens));
        self.end(&Event::Finished { request: self.request, usage });
        self.judge(|evidence| evidence.ended(self.arm, false));
    }

    /// The instance did not take the request.
    pub(crate) fn failed(mut self) {
        self.end(&Event::DispatchFailed { request: self.request });
        self.judge(|evidence| evidence.ended(self.arm, true));
    }

    /// The instance has failed in the middle of the answer.
    pub(crate) fn broke_off(mut self) {
        self.span.fail(&"the instance failed in the middle of the answer");
        self.end(&Event::Aborted { request: self.request });
        self.judge(|evidence| evidence.ended(self.arm, true));
    }

    fn judge(&self, add: impl FnOnce(&mut Evidence)) {
        self.dispatcher.judge(self.routed_at, add);
    }

    fn end(&mut self, event: &Event<'_>) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        self.member.backend.ended();
        let counters = &self.dispatcher.counters;
        let arm = counters.of(self.arm);
        let (outcome, both) = if matches!(event, Event::Finished { .. }) {
            ("finished", [&counters.finished, &arm.finished])
        } else if matches!(event, Event::DispatchFailed { .. }) {
            ("failed", [&counters.failed, &arm.failed])
        } else {
            ("aborted", [&counters.aborted, &arm.aborted])
        };
        self.span.set("lodestar.outcome", outcome);
        both.iter().for_each(|counter| counter.add(1));
        self.dispatcher.recent.ended(self.request, event);
        self.dispatcher.observe(event);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.end(&Event::Aborted { request: self.request });
    }
}
