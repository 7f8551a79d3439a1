//! Decisions depend on configuration, seed and calls, and on nothing else.

use lodestar_router::{
    Decision, Event, InstanceId, InstanceMetrics, PolicyConfig, Rejected, RequestId, Router,
    RouterConfig, Scraped, Time,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{SPEC, blocks, join, leave, request, request_with};

type Decisions = Vec<Result<Decision, Rejected>>;

/// A day in the life of a router, made of numbers.
fn live(policy: &PolicyConfig, seed: u64, joins: &[u32], steps: &[(u8, u64, u64)]) -> Decisions {
    let mut router = Router::new(RouterConfig::new(policy.clone()), seed);
    joins.iter().for_each(|&instance| join(&mut router, instance, SPEC));
    let mut decisions = Vec::new();
    for (step, &(kind, a, b)) in (0..).zip(steps) {
        let now = Time::from_nanos(step);
        match kind {
            0..=5 => {
                let blocks = blocks(a % 4, b % 30);
                decisions.push(router.route(now, &request_with(step, &blocks)));
            }
            6 => router.observe(now, &Event::Aborted { request: RequestId(a % (step + 1)) }),
            7 => {
                let metrics = InstanceMetrics {
                    kv_usage: (b % 10) as f64 / 10.0,
                    ..InstanceMetrics::default()
                };
                let scraped = Scraped { at: now, metrics };
                router.observe(
                    now,
                    &Event::MetricsScraped { instance: InstanceId(a as u32 % 6), scraped },
                );
            }
            8 => leave(&mut router, a as u32 % 6),
            _ => join(&mut router, a as u32 % 6, SPEC),
        }
    }
    decisions
}

proptest! {
    #[test]
    fn equal_calls_and_seeds_give_equal_decisions_whatever_the_order_of_joining(
        seed in any::<u64>(),
        steps in vec((0..10_u8, 0..1000_u64, 0..1000_u64), 1..80),
    ) {
        for policy in PolicyConfig::all() {
            let decisions = live(&policy, seed, &[0, 1, 2, 3], &steps);
            prop_assert_eq!(&decisions, &live(&policy, seed, &[0, 1, 2, 3], &steps));
            prop_assert_eq!(&decisions, &live(&policy, seed, &[2, 0, 3, 1], &steps));
        }
    }

    #[test]
    fn a_decision_agrees_with_its_candidates(
        steps in vec((0..10_u8, 0..1000_u64, 0..1000_u64), 1..80),
    ) {
        for policy in PolicyConfig::all() {
            for decision in live(&policy, 1, &[0, 1, 2, 3], &steps).into_iter().flatten() {
                prop_assert!(decision.propensity > 0.0 && decision.propensity <= 1.0);
                prop_assert!(decision.candidates.is_sorted_by(|a, b| a.instance < b.instance));
                let chosen = decision.candidates.iter().find(|candidate| candidate.instance == decision.instance);
                prop_assert_eq!(chosen.is_none(), decision.candidates.is_empty());
                if let Some(chosen) = chosen {
                    prop_assert_eq!(chosen.prefix_hit_tokens, decision.prefix_hit_tokens);
                    prop_assert!(decision.candidates.iter().all(|other| chosen.score <= other.score));
                }
            }
        }
    }
}

#[test]
fn another_seed_draws_otherwise() {
    let steps: Vec<_> = (0..40).map(|step| (0, step, 0)).collect();
    let chosen = |seed| -> Vec<_> {
        let decisions = live(&PolicyConfig::Random, seed, &[0, 1, 2, 3], &steps);
        decisions.into_iter().map(|decision| decision.unwrap().instance).collect()
    };
    assert_eq!(chosen(1), chosen(1));
    assert_ne!(chosen(1), chosen(2));
}

/// The stream is part of every recorded run: a change of generator must not go unnoticed.
#[test]
fn the_first_draws_of_a_seed_never_change() {
    let steps: Vec<_> = (0..12).map(|step| (0, step, 0)).collect();
    let decisions = live(&PolicyConfig::Random, 42, &[0, 1, 2, 3, 4, 5, 6, 7], &steps);
    let chosen: Vec<_> =
        decisions.into_iter().map(|decision| decision.unwrap().instance.0).collect();
    assert_eq!(chosen, [0, 7, 6, 5, 6, 7, 4, 2, 6, 6, 1, 6]);
}

#[test]
fn policies_that_compare_nobody_report_no_candidates() {
    for policy in [PolicyConfig::Random, PolicyConfig::RoundRobin] {
        let mut router = Router::new(RouterConfig::new(policy), 1);
        (0..3).for_each(|instance| join(&mut router, instance, SPEC));
        assert_eq!(router.route(Time::ZERO, &request(1, 10)).unwrap().candidates, []);
    }
}
