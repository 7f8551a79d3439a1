//! Instances that crash, return, slow down, join and drain while requests are under way.

use std::sync::Arc;

use lodestar_router::{Duration, InstanceId, PolicyConfig, RouterConfig, Time};
use lodestar_sim::engine::EngineConfig;
use lodestar_sim::step_time::{GpuStepTime, StepTime};
use lodestar_sim::{
    ClusterConfig, InstanceConfig, Outcome, PlannedEvent, PlannedKind, RunOutput, Stuck, simulate,
    simulate_placed,
};
use lodestar_traces::{Arrival, Source, Span, TraceRequest};
use proptest::prelude::*;

use common::STEP_TIME;
use plans::{plan, plans};

mod common;
mod plans;

fn cluster(instances: usize, plan: Vec<PlannedEvent>) -> ClusterConfig {
    let engine = EngineConfig { max_num_batched_tokens: 256, ..EngineConfig::new(80, 512) };
    let instance = |id| InstanceConfig {
        name: format!("gpu-{id}"),
        gpu: "gpu".into(),
        engine: engine.clone(),
        step_time: StepTime::Gpu(Arc::new(GpuStepTime::new(&STEP_TIME, &[], 256))),
    };
    ClusterConfig {
        plan,
        detection_delay: Duration::from_millis(300),
        ..ClusterConfig::new((0..instances).map(instance).collect())
    }
}

/// Requests of 100 prompt tokens, of which 64 are shared by a group of three.
fn trace(shapes: &[(u64, u32)]) -> Vec<TraceRequest> {
    let mut ms = 0;
    (0..)
        .zip(shapes)
        .map(|(id, &(gap_ms, output_tokens))| {
            ms += gap_ms;
            TraceRequest {
                id,
                arrival: Arrival::At { ns: ms * 1_000_000 },
                prompt: vec![
                    Span { source: Source::Hash(id % 3), start: 0, tokens: 64 },
                    Span { source: Source::Private(id), start: 0, tokens: 36 },
                ],
                output_tokens,
                session: None,
                priority: 0,
                cache_salt: None,
            }
        })
        .collect()
}

fn event(at_ms: u64, instance: usize, kind: PlannedKind) -> PlannedEvent {
    PlannedEvent { at: Duration::from_millis(at_ms), instance, kind }
}

fn run(cluster: &ClusterConfig, requests: &[TraceRequest], policy: &str) -> RunOutput {
    let router = RouterConfig::new(PolicyConfig::from_name(policy).expect("a known policy"));
    simulate(cluster, requests, router, 1, &mut |_| {}).expect("the run ends")
}

fn at_ms(ms: u64) -> Time {
    Time::ZERO + Duration::from_millis(ms)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The run itself asserts that the clock never goes back, that every KV cache block comes back and that
    /// no reservation is left.
    #[test]
    fn every_request_ends_once_whatever_happens_to_the_instances(
        instances in 1_usize..5,
        happenings in plans(12, 2000),
        shapes in prop::collection::vec((0_u64..80, 1_u32..120), 1..60),
        policy in prop::sample::select(PolicyConfig::NAMES.to_vec()),
        replicas in prop::sample::select(vec![1_u32, 2, 4]),
        step_by_step in any::<bool>(),
    ) {
        let requests = trace(&shapes);
        let mut cluster =
            ClusterConfig { router_replicas: replicas, ..cluster(instances, vec![]) };
        plan(&mut cluster, happenings);
        let output = run(&cluster, &requests, policy);
        prop_assert_eq!(output.requests.len(), requests.len());
        let members = cluster.members().len() as u32;
        for (record, request) in output.requests.iter().zip(&requests) {
            prop_assert_eq!(record.request, request.id);
            prop_assert!(record.instance.is_none_or(|instance| instance.0 < members));
            prop_assert!(record.ended >= record.arrival);
            match record.outcome {
                Outcome::Finished => {
                    prop_assert_eq!(record.output_tokens, request.output_tokens);
                    let times = [record.queued, record.scheduled, record.first_token, Some(record.ended)];
                    prop_assert!(times.is_sorted() && times.iter().all(Option::is_some), "{times:?}");
                }
                Outcome::Failed => prop_assert!(record.first_token.is_some(), "others are tried again"),
                Outcome::RejectedByRouter => prop_assert!(record.first_token.is_none()),
                Outcome::RejectedByEngine => prop_assert!(false, "all prompts fit"),
            }
        }
        let other = ClusterConfig { step_by_step, ..cluster.clone() };
        prop_assert_eq!(run(&other, &requests, policy), output, "same inputs, same outputs");
    }
}

#[test]
fn a_crash_fails_what_has_begun_and_moves_what_has_not() {
    // Both on instance 0; when it dies the first one is in the middle of its answer.
    let requests = trace(&[(0, 200), (90, 50), (50, 50)]);
    let cluster = cluster(2, vec![event(100, 0, PlannedKind::Crash)]);
    let output = run(&cluster, &requests, "round-robin");
    let [begun, moved, after] = &output.requests[..] else { panic!("three requests") };
    // Round robin: 0, 1, 0.
    assert_eq!(begun.outcome, Outcome::Failed);
    assert_eq!(begun.ended, at_ms(400) + cluster.client_network);
    assert_eq!((moved.outcome, moved.instance), (Outcome::Finished, Some(InstanceId(1))));
    // The third was sent to the dead instance after 40 ms; its second attempt goes in turn, to 1.
    assert_eq!((after.outcome, after.instance), (Outcome::Finished, Some(InstanceId(1))));
    assert_eq!((begun.retries, moved.retries, after.retries), (0, 0, 1));
    assert!(after.queued.unwrap() > after.arrival + cluster.retry_delay);
}

#[test]
fn what_waits_for_its_first_token_is_routed_again_when_the_crash_is_known() {
    let requests = trace(&[(0, 5)]);
    let cluster = cluster(2, vec![event(4, 0, PlannedKind::Crash)]);
    let output = run(&cluster, &requests, "round-robin");
    let record = &output.requests[0];
    assert_eq!((record.outcome, record.instance), (Outcome::Finished, Some(InstanceId(1))));
    assert_eq!(record.retries, 1);
    assert!(record.queued.unwrap() > at_ms(304), "nobody knew before");
    assert!(record.queued.unwrap() < at_ms(309), "and then it went at once");
}

#[test]
fn an_instance_that_returns_has_a_new_id_and_an_empty_cache() {
    let mut requests = trace(&[(0, 2), (200, 2), (200, 2), (1000, 2)]);
    for request in &mut requests {
        request.prompt[0].source = Source::Hash(1);
    }
    let plan = vec![event(300, 0, PlannedKind::Crash), event(900, 0, PlannedKind::Return)];
    let cluster = cluster(1, plan);
    let output = run(&cluster, &requests, "least-request");
    let seen: Vec<_> = output.requests.iter().map(|r| (r.instance, r.cached_tokens)).collect();
    // The third is tried again until the crash is known; then there is nobody to take it.
    assert_eq!(output.requests[2].outcome, Outcome::RejectedByRouter);
    assert!(output.requests[2].retries > 0);
    let (old, new) = (Some(InstanceId(0)), Some(InstanceId(1)));
    assert_eq!(seen, [(old, 0), (old, 64), (None, 0), (new, 0)]);
    let names: Vec<&str> = cluster.members().iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, ["gpu-0", "gpu-0"]);
    let ids: Vec<u32> = output.intervals.iter().map(|interval| interval.instance.0).collect();
    assert_eq!(ids, [0, 1, 1], "an interval in which it crashed, none after it");
}

#[test]
fn an_instance_that_joins_at_the_end_of_an_interval_is_not_in_it() {
    let requests = trace(&[(0, 200), (1200, 200)]);
    let intervals_of_the_second = |join_ms| {
        let output =
            run(&cluster(2, vec![event(join_ms, 1, PlannedKind::Join)]), &requests, "random");
        let of_it = output.intervals.iter().filter(|interval| interval.instance == InstanceId(1));
        of_it.map(|interval| interval.end.as_nanos() / 1_000_000_000).collect::<Vec<_>>()
    };
    assert_eq!(intervals_of_the_second(999)[0], 1);
    assert_eq!(intervals_of_the_second(1000)[0], 2);
}

#[test]
fn a_slow_instance_takes_exactly_as_many_times_as_long() {
    let requests = trace(&[(0, 100)]);
    let e2e = |plan| {
        let output = run(&cluster(1, plan), &requests, "random");
        output.requests[0].e2e().unwrap().as_nanos()
    };
    let until = Duration::from_secs(100);
    let overhead = 1_000_000 + 3_000_000 + 280_000; // network, API server
    let (normal, slow) =
        (e2e(vec![]), e2e(vec![event(0, 0, PlannedKind::Slow { factor: 3.0, until })]));
    // Each of 100 steps is rounded down to nanoseconds.
    assert!((slow - overhead).abs_diff(3 * (normal - overhead)) < 300, "{normal} {slow}");
    let until = Duration::from_millis(500);
    let half = e2e(vec![event(0, 0, PlannedKind::Slow { factor: 3.0, until })]);
    assert!(normal < half && half < slow);
}

#[test]
fn a_drained_instance_finishes_what_it_has_and_comes_back_after_that() {
    let requests = trace(&[(0, 100), (200, 10), (1500, 10)]);
    let plan = vec![event(100, 0, PlannedKind::Drain), event(150, 0, PlannedKind::Return)];
    let output = run(&cluster(1, plan), &requests, "round-robin");
    let outcomes: Vec<_> = output.requests.iter().map(|r| (r.outcome, r.instance)).collect();
    assert_eq!(
        outcomes,
        [
            (Outcome::Finished, Some(InstanceId(0))),
            (Outcome::RejectedByRouter, None),
            (Outcome::Finished, Some(InstanceId(1))),
        ]
    );
}

#[test]
fn an_instance_that_joins_gets_requests_from_then_on() {
    let requests = trace(&[(0, 5), (100, 5), (100, 5), (100, 5)]);
    let cluster = cluster(2, vec![event(150, 0, PlannedKind::Join)]);
    let output = run(&cluster, &requests, "round-robin");
    let instances: Vec<u32> = output.requests.iter().map(|r| r.instance.unwrap().0).collect();
    assert_eq!(instances[..2], [1, 1]);
    assert!(instances[2..].contains(&0));
    let placed = vec![InstanceId(0); 4];
    let output = simulate_placed(&cluster, &requests, &placed, &mut |_| {}).unwrap();
    let finished: Vec<bool> =
        output.requests.iter().map(|r| r.outcome == Outcome::Finished).collect();
    assert_eq!(finished, [false, false, true, true], "a log cannot place on what is not there");
}

#[test]
fn stale_metrics_mislead_a_policy_that_believes_them() {
    let requests = trace(&[(0, 300); 8].map(|(_, tokens)| (40, tokens)));
    let stale = |instance| {
        let until = Duration::from_secs(100);
        event(0, instance, PlannedKind::StaleMetrics { delay: Duration::from_secs(50), until })
    };
    let fresh = run(&cluster(2, vec![]), &requests, "least-kv");
    let late = run(&cluster(2, vec![stale(0), stale(1)]), &requests, "least-kv");
    assert_ne!(fresh.requests, late.requests);
}

#[test]
fn replicas_do_not_see_each_other() {
    let requests = trace(&[(0, 20); 4]);
    let instances = |router_replicas| {
        let cluster = ClusterConfig { router_replicas, ..cluster(2, vec![]) };
        let output = run(&cluster, &requests, "round-robin");
        output.requests.iter().map(|r| r.instance.unwrap().0).collect::<Vec<_>>()
    };
    assert_eq!(instances(1), [0, 1, 0, 1]);
    // Each of two routers takes every second request, and begins with the same instance.
    assert_eq!(instances(2), [0, 0, 1, 1]);
}

#[test]
fn a_plan_that_cannot_happen_is_an_error() {
    let cluster = cluster(1, vec![event(0, 0, PlannedKind::Return)]);
    let router = RouterConfig::new(PolicyConfig::RoundRobin);
    let stuck = simulate(&cluster, &trace(&[(0, 1)]), router, 1, &mut |_| {}).unwrap_err();
    assert!(matches!(stuck, Stuck::InvalidPlan(_)), "{stuck}");
}
