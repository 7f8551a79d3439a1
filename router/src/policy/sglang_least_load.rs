//! SGLang's gateway, SMG 1.13: `least_load` over HTTP, the lowest [expected wait](super::sglang_wait).

use super::sglang_wait::ExpectedWait;
use super::{Choice, Eligible, Fact, Policy};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

#[derive(Debug, Default)]
pub(super) struct SglangLeastLoad {
    wait: ExpectedWait,
}

impl Policy for SglangLeastLoad {
    fn choose(
        &mut self,
        _: Time,
        _: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        let open = ExpectedWait::open(eligible);
        if open.is_empty() {
            return ExpectedWait::least_loaded(eligible, rng);
        }
        self.wait.lowest(Reason::LeastCost, eligible, &open, rng)
    }

    fn observe(&mut self, _: Time, fact: &Fact<'_>) {
        self.wait.observe(fact);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{InstanceId, InstanceMetrics};
    use crate::policy::OUT_OF_QUESTION;
    use crate::policy::fixtures::Fixture;

    fn polled(requests: &[u32], metrics: &[(u32, u32, f64)]) -> Fixture {
        Fixture::with_requests(requests).scraping().with_metrics(metrics)
    }

    #[test]
    fn requests_and_kv_pressure_become_seconds() {
        let fixture = polled(&[0, 0], &[(1, 2, 0.0), (0, 0, 0.5)]);
        let mut policy = SglangLeastLoad::default();
        // 3 · 1024 / 2000; 0.15 · 0.5 / 0.5.
        assert_eq!(fixture.scores(&mut policy), [1.536, 0.15]);
        // Two requests sent, however long, are 1.024 s until the next poll.
        for (request, tokens) in [(1, 4000), (2, 10)] {
            policy.observe(Time::ZERO, &Fact::Routed(&Fixture::reservation(request, 1, tokens)));
        }
        assert_eq!(fixture.scores(&mut policy), [1.536, 1.174]);
        policy.observe(Time::ZERO, &Fact::Scraped(InstanceId(1), InstanceMetrics::default()));
        assert_eq!(fixture.scores(&mut policy), [1.536, 0.15]);
    }

    #[test]
    fn a_poll_cannot_claim_fewer_requests_than_the_gateway_holds() {
        let fixture = polled(&[5, 1], &[(1, 1, 0.0), (1, 1, 0.0)]);
        assert_eq!(fixture.scores(&mut SglangLeastLoad::default()), [2.56, 1.024]);
    }

    #[test]
    fn until_a_poll_requests_in_flight_decide() {
        let fixture = Fixture::with_requests(&[2, 1]).scraping();
        assert_eq!(fixture.scores(&mut SglangLeastLoad::default()), [2.0, 1.0]);
        // Only the first was polled: the second costs as much, and its own request.
        let fixture = polled(&[2, 1], &[(2, 0, 0.0)]);
        assert_eq!(fixture.scores(&mut SglangLeastLoad::default()), [1.024, 1.536]);
    }

    #[test]
    fn who_is_overloaded_is_left_out_unless_all_are() {
        let chosen = |metrics: &[(u32, u32, f64)]| {
            let (choice, chosen) =
                polled(&[3, 0, 2], metrics).choose(&mut SglangLeastLoad::default());
            (choice.reason, chosen)
        };
        let busy = (40, 0, 0.79);
        assert_eq!(chosen(&[busy, (0, 7, 0.1), busy]), (Reason::LeastCost, 1));
        assert_eq!(chosen(&[busy, (0, 8, 0.1), busy]).0, Reason::LeastCost);
        assert_ne!(chosen(&[busy, (0, 8, 0.1), busy]).1, 1);
        assert_ne!(chosen(&[busy, (0, 0, 0.8), busy]).1, 1);
        assert_eq!(chosen(&[(0, 8, 0.1), (0, 9, 0.1), (9, 0, 0.9)]), (Reason::LeastRequests, 1));
    }

    #[test]
    fn a_full_cache_costs_as_one_of_999_in_1000() {
        let fixture = polled(&[0, 0], &[(0, 0, 1.0), (0, 0, 0.0)]);
        // 0.15 · 0.999 / 0.001, behind all that have room.
        let scores = fixture.scores(&mut SglangLeastLoad::default());
        assert!((scores[0] - OUT_OF_QUESTION - 149.85).abs() < 1e-3, "{scores:?}");
    }

    #[test]
    fn told_all_uncached_tokens_stand_for_those_without_a_first_token() {
        let fixture = Fixture::with_requests(&[1, 2]).with_tokens(&[(4000, 0), (0, 0)]);
        // 4,000 / 2,000 + 0.512; 2 · 0.512.
        assert_eq!(fixture.scores(&mut SglangLeastLoad::default()), [2.512, 1.024]);
    }
}
