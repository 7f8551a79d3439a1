//! Lowest recent latency. Source: LiteLLM `latency-based-routing`.
//!
//! `argmin` of the mean, over the last ten responses of an instance, of the time from routing to the first token, or to the end
//! where there was no stream, divided by the tokens of the whole answer, as it does both; an instance without a response counts
//! as 0, so it is tried first. When an hour has gone by without any response, all are forgotten. Ties drawn. LiteLLM counts
//! 1,000 s for a request that timed out; no request here does. (AIBrix' `least-latency` reads means of vLLM's histograms instead.)

use std::collections::VecDeque;

use super::per_instance::PerInstance;
use super::{Choice, Eligible, Fact, Policy};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::{Duration, Time};

const RESPONSES: usize = 10;
const TTL: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, Default)]
pub(super) struct LeastLatency {
    /// Seconds per token of each response, oldest first.
    responses: PerInstance<VecDeque<f64>>,
    /// When the last response of any instance ended.
    last_end: Time,
}

impl Policy for LeastLatency {
    fn choose(
        &mut self,
        now: Time,
        _: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        if now.saturating_since(self.last_end) > TTL {
            self.responses = PerInstance::default();
        }
        eligible.lowest(Reason::LeastLatency, rng, |index| {
            let Some(responses) = self.responses.get(eligible.get(index).id) else { return 0.0 };
            responses.iter().sum::<f64>() / responses.len().max(1) as f64
        })
    }

    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        match *fact {
            Fact::Finished(reservation, usage) => {
                let measured_at = reservation.first_token_at.unwrap_or(now);
                let secs = measured_at.saturating_since(reservation.routed_at).as_secs_f64();
                self.last_end = now;
                let responses = self.responses.entry(reservation.instance);
                if responses.len() == RESPONSES {
                    responses.pop_front();
                }
                responses.push_back(secs / f64::from(usage.output_tokens.max(1)));
            }
            Fact::Left(instance) => self.responses.remove(instance),
            Fact::Scraped(..) | Fact::Routed(_) | Fact::FirstToken(_) | Fact::Failed(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{InstanceId, Usage};
    use crate::policy::fixtures::Fixture;

    fn at(secs: u64) -> Time {
        Time::from_nanos(secs * 1_000_000_000)
    }

    fn finished(policy: &mut LeastLatency, instance: u32, secs: u64, output_tokens: u32) {
        let usage = Usage { output_tokens, ..Usage::default() };
        policy.observe(at(secs), &Fact::Finished(&Fixture::reservation(1, instance, 1), usage));
    }

    #[test]
    fn of_a_stream_it_is_the_first_token_over_all_tokens() {
        let mut policy = LeastLatency::default();
        let reservation = Fixture::reservation(1, 0, 1);
        let reservation = crate::ledger::Reservation { first_token_at: Some(at(2)), ..reservation };
        let usage = Usage { output_tokens: 10, ..Usage::default() };
        policy.observe(at(50), &Fact::Finished(&reservation, usage));
        let fixture = Fixture::with_requests(&[0]);
        let scores = fixture.scores(&mut policy);
        assert!((scores[0] - 0.2).abs() < 1e-9, "{scores:?}");
    }

    #[test]
    fn the_mean_is_of_the_last_ten_seconds_per_token() {
        let mut policy = LeastLatency::default();
        finished(&mut policy, 0, 100, 1);
        (0..9).for_each(|_| finished(&mut policy, 0, 2, 10));
        finished(&mut policy, 1, 3, 10);
        let fixture = Fixture::with_requests(&[0, 0]);
        let scores = fixture.scores(&mut policy);
        // (100 + 9 · 0.2) / 10.
        assert!((scores[0] - 10.18).abs() < 1e-9 && (scores[1] - 0.3).abs() < 1e-9, "{scores:?}");
        // The eleventh pushes the first out.
        finished(&mut policy, 0, 2, 10);
        let scores = fixture.scores(&mut policy);
        assert!((scores[0] - 0.2).abs() < 1e-9, "{scores:?}");
    }

    #[test]
    fn any_response_keeps_all_of_them_for_an_hour() {
        let mut policy = LeastLatency::default();
        finished(&mut policy, 0, 1, 10);
        finished(&mut policy, 1, 2, 10);
        let mut fixture = Fixture::with_requests(&[0, 0]);
        assert_eq!(fixture.choose(&mut policy).1, 0);
        fixture.now = at(3_602);
        assert_eq!(fixture.scores(&mut policy), [0.1, 0.2]);
        policy.observe(fixture.now, &Fact::Left(InstanceId(1)));
        assert_eq!(fixture.scores(&mut policy), [0.1, 0.0]);
        fixture.now = at(3_603);
        assert_eq!(fixture.scores(&mut policy), [0.0, 0.0]);
    }
}
