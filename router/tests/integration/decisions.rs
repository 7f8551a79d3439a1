//! Decisions depend on configuration, seed and calls, and on nothing else.

use lodestar_router::{
    Decision, Duration, Event, Information, InstanceId, InstanceMetrics, Load, PolicyConfig,
    Reason, Rejected, Request, RequestId, Router, RouterConfig, Scraped, Time, Usage,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{SPEC, blocks, join, leave, request, request_with};

type Decisions = Vec<Result<Decision, Rejected>>;

/// A day in the life of a router, made of numbers; at its end nothing is in flight.
fn live(
    config: &RouterConfig,
    seed: u64,
    joins: &[u32],
    steps: &[(u8, u64, u64)],
) -> (Decisions, Router) {
    live_and_dispatch(config, seed, joins, steps, |_, _, _| {})
}

/// [`live`]; what is routed is then dispatched.
fn live_and_dispatch(
    config: &RouterConfig,
    seed: u64,
    joins: &[u32],
    steps: &[(u8, u64, u64)],
    dispatch: impl Fn(&mut Router, Time, RequestId),
) -> (Decisions, Router) {
    let mut router = Router::new(config.clone(), seed);
    joins.iter().for_each(|&instance| join(&mut router, instance, SPEC));
    let mut decisions = Vec::new();
    let mut now = Time::ZERO;
    for (step, &(kind, a, b)) in (0..).zip(steps) {
        now += Duration::from_millis(a * b % 20_000);
        let request = RequestId(a % (step + 1));
        let instance = InstanceId(a as u32 % 6);
        match kind {
            0..=5 => {
                let blocks = blocks(a % 4, b % 30);
                let request =
                    Request { session: b.checked_sub(500), ..request_with(step, &blocks) };
                let avoid: &[InstanceId] = if kind == 5 { &[instance] } else { &[] };
                let decision = router.route_avoiding(now, &request, avoid);
                if let Ok(decision) = &decision {
                    assert!(!avoid.contains(&decision.instance), "{decision:?}");
                    let chosen = router.fleet().get(decision.instance).expect("it is there");
                    assert!(request.prompt_tokens < chosen.spec.max_model_len_tokens);
                }
                decisions.push(decision);
                dispatch(&mut router, now, RequestId(step));
            }
            6 => router.observe(now, &Event::Aborted { request }),
            7 => router.observe(now, &scrape(now, instance, b)),
            8 => leave(&mut router, a as u32 % 6),
            9 => join(&mut router, a as u32 % 6, SPEC),
            10..=12 => router.observe(now, &Event::FirstToken { request }),
            13 => router.observe(now, &Event::Progress { request, output_tokens: b as u32 % 50 }),
            14..=15 => {
                let usage = Usage { output_tokens: b as u32 % 50, ..Usage::default() };
                router.observe(now, &Event::Finished { request, usage });
            }
            16 => {
                let blocks = &blocks(a % 4, b % 30);
                router.observe(
                    now,
                    &Event::BlocksStored { instance, parent: None, blocks: blocks.into() },
                );
            }
            _ => {
                let blocks = &blocks(a % 4, b % 30);
                router.observe(now, &Event::BlocksRemoved { instance, blocks: blocks.into() });
            }
        }
    }
    for step in 0..steps.len() as u64 {
        router.observe(now, &Event::DispatchFailed { request: RequestId(step) });
    }
    (decisions, router)
}

fn scrape(at: Time, instance: InstanceId, number: u64) -> Event<'static> {
    let metrics = InstanceMetrics {
        kv_usage: (number % 11) as f64 / 10.0,
        running_requests: number as u32 % 7,
        waiting_requests: number as u32 % 13,
        ..InstanceMetrics::default()
    };
    Event::MetricsScraped { instance, scraped: Scraped { at, metrics } }
}

/// Every policy with both kinds of information.
fn configs() -> impl Iterator<Item = RouterConfig> {
    PolicyConfig::all().into_iter().flat_map(|policy| {
        [Information::Deployed, Information::Ideal]
            .map(|information| RouterConfig { information, ..RouterConfig::new(policy.clone()) })
    })
}

fn steps(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<(u8, u64, u64)>> {
    vec((0..18_u8, 0..1000_u64, 0..1000_u64), count)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn equal_calls_and_seeds_give_equal_decisions_whatever_the_order_of_joining(
        seed in any::<u64>(),
        steps in steps(1..100),
    ) {
        for config in configs() {
            let (decisions, _) = live(&config, seed, &[0, 1, 2, 3], &steps);
            prop_assert_eq!(&decisions, &live(&config, seed, &[0, 1, 2, 3], &steps).0);
            prop_assert_eq!(&decisions, &live(&config, seed, &[2, 0, 3, 1], &steps).0);
        }
    }

    #[test]
    fn a_router_that_is_given_no_time_after_a_decision_makes_the_same_ones(
        steps in steps(1..100),
    ) {
        for config in configs() {
            let told = live_and_dispatch(&config, 1, &[0, 1, 2, 3], &steps, |router, now, request| {
                router.observe(now, &Event::Dispatched { request });
            });
            prop_assert_eq!(told.0, live(&config, 1, &[0, 1, 2, 3], &steps).0);
        }
    }

    #[test]
    fn a_decision_agrees_with_its_candidates_and_nothing_stays_reserved(
        steps in steps(1..100),
    ) {
        for config in configs() {
            let (decisions, router) = live(&config, 1, &[0, 1, 2, 3], &steps);
            for decision in decisions.into_iter().flatten() {
                prop_assert!(decision.propensity > 0.0 && decision.propensity <= 1.0);
                prop_assert!(decision.candidates.is_sorted_by(|a, b| a.instance < b.instance));
                prop_assert!(decision.candidates.iter().all(|candidate| candidate.score.is_finite()));
                let chosen = decision.candidates.iter().find(|candidate| candidate.instance == decision.instance);
                prop_assert_eq!(chosen.is_none(), decision.candidates.is_empty());
                if let Some(chosen) = chosen {
                    prop_assert_eq!(chosen.prefix_hit_tokens, decision.prefix_hit_tokens);
                    let is_lowest = decision.candidates.iter().all(|other| chosen.score <= other.score);
                    // Lodestar's second thoughts say so.
                    let has_doubts = matches!(decision.reason, Reason::ColdStart | Reason::Holdout);
                    prop_assert!(is_lowest || decision.explored || has_doubts);
                }
            }
            for instance in router.fleet().instances() {
                prop_assert_eq!(instance.load, Load::default());
            }
        }
    }
}

#[test]
fn another_seed_draws_otherwise() {
    let steps: Vec<_> = (0..40).map(|step| (0, step, 0)).collect();
    let chosen = |seed| -> Vec<_> {
        let decisions =
            live(&RouterConfig::new(PolicyConfig::Random), seed, &[0, 1, 2, 3], &steps).0;
        decisions.into_iter().map(|decision| decision.unwrap().instance).collect()
    };
    assert_eq!(chosen(1), chosen(1));
    assert_ne!(chosen(1), chosen(2));
}

/// The stream is part of every recorded run: a change of generator must not go unnoticed.
#[test]
fn the_first_draws_of_a_seed_never_change() {
    let steps: Vec<_> = (0..12).map(|step| (0, step, 0)).collect();
    let decisions =
        live(&RouterConfig::new(PolicyConfig::Random), 42, &[0, 1, 2, 3, 4, 5, 6, 7], &steps).0;
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
