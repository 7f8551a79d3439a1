//! Lowest recent latency. Source: LiteLLM `latency-based-routing`.
//!
//! `argmin` of the mean, over the last ten responses of an instance within an hour, of the time from routing
//! to the end divided by the answer's tokens; an instance without such a response counts as 0, so it is tried
//! first. Ties drawn. LiteLLM counts 1,000 s for a request that timed out; no request here does. (AIBrix'
//! `least-latency` reads means of vLLM's histograms instead.)

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
    /// When each response came, and its seconds per token; oldest first.
    responses: PerInstance<VecDeque<(Time, f64)>>,
}

impl Policy for LeastLatency {
    fn choose(
        &mut self,
        now: Time,
        _: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        eligible.lowest(Reason::LeastLatency, rng, |index| {
            let responses = self.responses.get(eligible.get(index).id);
            let recent = responses.into_iter().flatten();
            let recent = recent.filter(|(at, _)| now.saturating_since(*at) <= TTL);
            let (sum, count) =
                recent.fold((0.0, 0_u32), |(sum, count), (_, secs)| (sum + secs, count + 1));
            sum / f64::from(count.max(1))
        })
    }

    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        match *fact {
            Fact::Finished(reservation, usage) => {
                let secs = now.saturating_since(reservation.routed_at).as_secs_f64();
                let responses = self.responses.entry(reservation.instance);
                if responses.len() == RESPONSES {
                    responses.pop_front();
                }
                responses.push_back((now, secs / f64::from(usage.output_tokens.max(1))));
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

    fn finished(policy: &mut LeastLatency, instance: u32, secs: u64, output_tokens: u32) {
        let usage = Usage { output_tokens, ..Usage::default() };
        let now = Time::from_nanos(secs * 1_000_000_000);
        policy.observe(now, &Fact::Finished(&Fixture::reservation(1, instance, 1), usage));
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
    fn who_has_not_answered_within_the_hour_is_tried_first() {
        let mut policy = LeastLatency::default();
        finished(&mut policy, 0, 1, 10);
        finished(&mut policy, 1, 2, 10);
        let mut fixture = Fixture::with_requests(&[0, 0]);
        assert_eq!(fixture.choose(&mut policy).1, 0);
        fixture.now = Time::from_nanos(3_602_000_000_000);
        assert_eq!(fixture.scores(&mut policy), [0.0, 0.2]);
        policy.observe(fixture.now, &Fact::Left(InstanceId(1)));
        assert_eq!(fixture.scores(&mut policy), [0.0, 0.0]);
    }
}
