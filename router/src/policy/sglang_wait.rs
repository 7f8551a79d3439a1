//! What SMG 1.13 expects a request to wait: the cost of its `least_load`, by which its `cache_aware` chooses too wherever the
//! cache does not.
//!
//! `0.512 · max(running_i + w_i + s_i, r_i) + 0.15 · u_i / (1 − u_i)` seconds (`model_gateway/src/policies/least_load.rs`,
//! `worker/expected_wait.rs`): running and waiting requests and KV usage as last polled, every 10 s; `s_i` requests sent since
//! that poll, `r_i` own requests in flight. Each counts 1,024 tokens, running ones too, since over HTTP nobody says how
//! many tokens wait and the gateway does not tokenize; a worker that does not say its throughput has 2,000 tokens/s. Usage
//! counts as at most 0.999. Costs are equal to the microsecond; of equals one is drawn.
//!
//! Until anybody was polled the fewest in flight are lowest; who alone was not polled costs as the best that was, and
//! `0.512 · r_i` more. Workers with `w_i ≥ 8` or `u_i ≥ 0.8` are left out (`--worker-overload-*`); where all are, the fewest in
//! flight, drawn.
//!
//! With ideal information the uncached tokens in flight stand for the requests without a first token.

use super::per_instance::PerInstance;
use super::{Choice, Eligible, Fact, OUT_OF_QUESTION};
use crate::decision::Reason;
use crate::rng::Rng;

const MEAN_PREFILL_TOKENS: u64 = 1024;
const TOKENS_PER_SEC: f64 = 2000.0;
const KV_PRESSURE_SECS: f64 = 0.15;
const KV_USAGE_MAX: f64 = 0.999;
const OVERLOAD_WAITING_REQUESTS: u32 = 8;
const OVERLOAD_KV_USAGE: f64 = 0.8;
/// SMG calls two costs equal that are less than a microsecond apart.
const STEPS_PER_SEC: f64 = 1e6;

/// Counts what was sent since the last poll.
#[derive(Debug, Default)]
pub(super) struct ExpectedWait {
    /// Requests.
    sent_since_poll: PerInstance<u32>,
}

impl ExpectedWait {
    /// Those that the gateway does not leave out; none if it would leave out all.
    pub(super) fn open(eligible: &Eligible<'_>) -> Vec<usize> {
        let has_room = |index: &usize| {
            eligible.waiting(*index) < OVERLOAD_WAITING_REQUESTS
                && eligible.kv_usage(*index) < OVERLOAD_KV_USAGE
        };
        (0..eligible.len()).filter(has_room).collect()
    }

    /// Whom the gateway takes when it would leave out all.
    pub(super) fn least_loaded(eligible: &Eligible<'_>, rng: &mut Rng) -> Choice {
        let requests = |index: usize| f64::from(eligible.get(index).load.requests);
        eligible.lowest(Reason::LeastRequests, rng, requests)
    }

    /// The lowest of those at `indices`, which are in order and at least one.
    pub(super) fn lowest(
        &self,
        reason: Reason,
        eligible: &Eligible<'_>,
        indices: &[usize],
        rng: &mut Rng,
    ) -> Choice {
        let known = indices.iter().filter_map(|&index| self.secs(eligible, index));
        let best_known = known.min_by(f64::total_cmp);
        eligible.lowest(reason, rng, |index| {
            let own = f64::from(eligible.get(index).load.requests);
            let cost = match (self.secs(eligible, index), best_known) {
                (Some(secs), _) => secs,
                (None, Some(best)) => best + Self::secs_of_requests(own),
                (None, None) => own,
            };
            let cost = (cost * STEPS_PER_SEC).round() / STEPS_PER_SEC;
            if indices.binary_search(&index).is_ok() { cost } else { OUT_OF_QUESTION + cost }
        })
    }

    /// `None` before the first poll.
    fn secs(&self, eligible: &Eligible<'_>, index: usize) -> Option<f64> {
        let instance = eligible.get(index);
        let usage = eligible.kv_usage(index).min(KV_USAGE_MAX);
        let pressure = KV_PRESSURE_SECS * usage / (1.0 - usage);
        if eligible.sources.scrape_period.is_none() {
            let decode = Self::secs_of_requests(f64::from(instance.load.decode_requests));
            let prefill = instance.load.uncached_prefill_tokens as f64 / TOKENS_PER_SEC;
            return Some(prefill + decode + pressure);
        }
        instance.scraped?;
        let sent = self.sent_since_poll.get(instance.id).copied().unwrap_or(0);
        let known = eligible.running(index).saturating_add(eligible.waiting(index));
        let requests = known.saturating_add(sent).max(instance.load.requests);
        Some(Self::secs_of_requests(f64::from(requests)) + pressure)
    }

    fn secs_of_requests(requests: f64) -> f64 {
        requests * MEAN_PREFILL_TOKENS as f64 / TOKENS_PER_SEC
    }

    /// What the policies hear.
    pub(super) fn observe(&mut self, fact: &Fact<'_>) {
        match *fact {
            Fact::Routed(reservation) => {
                let sent = self.sent_since_poll.entry(reservation.instance);
                *sent = sent.saturating_add(1);
            }
            Fact::Scraped(instance, _) => *self.sent_since_poll.entry(instance) = 0,
            Fact::Left(instance) => self.sent_since_poll.remove(instance),
            Fact::FirstToken(_) | Fact::Finished(..) | Fact::Failed(_) => {}
        }
    }
}
