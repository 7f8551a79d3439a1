//! SGLang's gateway, SMG 1.13: `least_load` over HTTP.
//!
//! `argmin 1024 · (w_i + s_i) / 2000 + 0.15 · u_i / (1 − u_i)` seconds, ties drawn: `w_i` waiting requests and
//! `u_i` KV usage as last polled, every 10 s; `s_i` requests sent since that poll; 1,024 tokens for each, since an HTTP worker does not
//! say how many wait and the gateway does not tokenize for it; 2,000 tokens/s for a worker that does not say
//! its throughput. Usage counts as at most 0.999.
//!
//! With ideal information the uncached tokens in flight stand for `1024 · (w_i + s_i)`, which estimates them.

use super::per_instance::PerInstance;
use super::{Choice, Eligible, Fact, Policy};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

const MEAN_PREFILL_TOKENS: u64 = 1024;
const TOKENS_PER_SEC: f64 = 2000.0;
const KV_PRESSURE_SECS: f64 = 0.15;
const KV_USAGE_MAX: f64 = 0.999;

#[derive(Debug, Default)]
pub(super) struct SglangLeastLoad {
    /// Requests.
    sent_since_poll: PerInstance<u64>,
}

impl SglangLeastLoad {
    fn queued_tokens(&self, eligible: &Eligible<'_>, index: usize) -> u64 {
        let instance = eligible.get(index);
        if eligible.sources.scrape_period.is_none() {
            return instance.load.uncached_prefill_tokens;
        }
        let sent = self.sent_since_poll.get(instance.id).copied().unwrap_or(0);
        MEAN_PREFILL_TOKENS * (u64::from(eligible.waiting(index)) + sent)
    }
}

impl Policy for SglangLeastLoad {
    fn choose(
        &mut self,
        _: Time,
        _: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        eligible.lowest(Reason::LeastCost, rng, |index| {
            let usage = eligible.kv_usage(index).min(KV_USAGE_MAX);
            let queued = self.queued_tokens(eligible, index) as f64;
            queued / TOKENS_PER_SEC + KV_PRESSURE_SECS * usage / (1.0 - usage)
        })
    }

    fn observe(&mut self, _: Time, fact: &Fact<'_>) {
        match *fact {
            Fact::Routed(reservation) => {
                *self.sent_since_poll.entry(reservation.instance) += 1;
            }
            Fact::Scraped(instance, _) => *self.sent_since_poll.entry(instance) = 0,
            Fact::Left(instance) => self.sent_since_poll.remove(instance),
            Fact::FirstToken(_) | Fact::Finished(..) | Fact::Failed(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{InstanceId, InstanceMetrics};
    use crate::policy::fixtures::Fixture;

    #[test]
    fn queued_tokens_and_kv_pressure_become_seconds() {
        let fixture =
            Fixture::with_requests(&[0, 0]).scraping().with_metrics(&[(0, 2, 0.0), (0, 0, 0.5)]);
        let mut policy = SglangLeastLoad::default();
        // 2 · 1024 / 2000; 0.15 · 0.5 / 0.5.
        assert_eq!(fixture.scores(&mut policy), [1.024, 0.15]);
        // Two requests sent, however long, are 1.024 s until the next poll.
        for (request, tokens) in [(1, 4000), (2, 10)] {
            policy.observe(Time::ZERO, &Fact::Routed(&Fixture::reservation(request, 1, tokens)));
        }
        assert_eq!(fixture.scores(&mut policy), [1.024, 1.174]);
        policy.observe(Time::ZERO, &Fact::Scraped(InstanceId(1), InstanceMetrics::default()));
        assert_eq!(fixture.scores(&mut policy), [1.024, 0.15]);
    }
}
