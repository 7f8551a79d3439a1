//! The yardsticks on cases small enough to check by hand or by trying everything.

use std::sync::Arc;

use lodestar_router::{Duration, InstanceId, PolicyConfig, RouterConfig};
use lodestar_sim::engine::EngineConfig;
use lodestar_sim::step_time::{GpuStepTime, HingeCoefficients, StepTime};
use lodestar_sim::yardstick::{clairvoyant_greedy, hindsight, physical_bound, placements_of};
use lodestar_sim::{
    ClusterConfig, InstanceConfig, Outcome, PlannedEvent, PlannedKind, RunOutput, Stuck, simulate,
    simulate_placed,
};
use lodestar_traces::{Arrival, Source, Span, TraceRequest};
use proptest::prelude::*;

mod common;
mod plans;

use plans::{plan, plans};

/// Decodes beside a prompt cost less than alone: another dip.
const STEP_TIME: HingeCoefficients = HingeCoefficients { mixed_factor: 0.8, ..common::STEP_TIME };

/// Instances that are so many times as slow as the first, with so many blocks.
fn cluster(speeds: &[f64], engine: &EngineConfig) -> ClusterConfig {
    // A dip: more tokens take less time, as in measured tables.
    let linear_ms = [(1, 9.0), (10, 9.5), (20, 9.2), (300, 20.0)];
    let law = StepTime::Gpu(Arc::new(GpuStepTime::new(&STEP_TIME, &linear_ms, 256)));
    let instance = |(id, &speed): (usize, &f64)| InstanceConfig {
        name: format!("gpu-{id}"),
        gpu: "gpu".into(),
        engine: engine.clone(),
        step_time: law.scaled(speed),
    };
    ClusterConfig::new(speeds.iter().enumerate().map(instance).collect())
}

fn engine(num_blocks: u32) -> EngineConfig {
    EngineConfig { max_num_batched_tokens: 256, ..EngineConfig::new(num_blocks, 496) }
}

/// Group of which the prompt has 160 tokens, tokens of its own, output tokens, gap before it in ms.
type Shape = (u64, u32, u32, u64);

fn trace(shapes: &[Shape]) -> Vec<TraceRequest> {
    let mut ms = 0;
    (0..)
        .zip(shapes)
        .map(|(id, &(group, own, output_tokens, gap_ms))| {
            ms += gap_ms;
            TraceRequest {
                id,
                arrival: Arrival::At { ns: ms * 1_000_000 },
                prompt: vec![
                    Span { source: Source::Hash(group), start: 0, tokens: 160 },
                    Span { source: Source::Private(id), start: 0, tokens: own },
                ],
                output_tokens,
                session: None,
                priority: 0,
                cache_salt: None,
            }
        })
        .collect()
}

fn run(cluster: &ClusterConfig, requests: &[TraceRequest], policy: &str) -> RunOutput {
    let router = RouterConfig::new(PolicyConfig::from_name(policy).expect("a known policy"));
    simulate(cluster, requests, router, 1, &mut |_| {}).expect("the run ends")
}

fn total_ttft(output: &RunOutput) -> u64 {
    output
        .requests
        .iter()
        .filter_map(lodestar_sim::RequestRecord::ttft)
        .map(Duration::as_nanos)
        .sum()
}

#[test]
fn the_bound_is_what_a_lone_cached_request_takes() {
    for (asynchronous, budget, caching) in
        [(true, 256, true), (false, 256, true), (true, 10, true), (false, 64, false)]
    {
        let engine = EngineConfig {
            async_scheduling: asynchronous,
            max_num_batched_tokens: budget,
            enable_prefix_caching: caching,
            ..engine(80)
        };
        let mut cluster = cluster(&[1.0], &engine);
        let coefficients = HingeCoefficients { mixed_factor: 2.1, ..STEP_TIME };
        let law = StepTime::Gpu(Arc::new(GpuStepTime::new(&coefficients, &[], 256)));
        cluster.instances[0].step_time = law;
        let mut requests = trace(&[(1, 45, 30, 0), (1, 45, 30, 9000)]);
        requests[1].prompt = requests[0].prompt.clone();
        let output = run(&cluster, &requests, "round-robin");
        let bound = physical_bound(&cluster, &requests).unwrap();
        let (warm, best) = (&output.requests[1], &bound.requests[1]);
        assert_eq!((warm.ttft(), warm.e2e()), (best.ttft(), best.e2e()));
        assert_eq!((warm.cached_tokens, warm.queued), (best.cached_tokens, best.queued));
    }
}

#[test]
fn the_bound_takes_the_fastest_instance_and_knows_closed_loops() {
    let mut requests = trace(&[(1, 45, 30, 0), (1, 600, 30, 0), (1, 45, 30, 0)]);
    requests[2].arrival = Arrival::After { request: 0, delay_ns: 5 };
    let cluster = cluster(&[2.0, 1.0, 3.0], &engine(80));
    let bound = physical_bound(&cluster, &requests).unwrap();
    assert_eq!(bound.requests[0].instance, Some(InstanceId(1)));
    assert_eq!(bound.requests[1].outcome, Outcome::RejectedByRouter);
    let gap = bound.requests[2].arrival - bound.requests[0].ended;
    assert_eq!(gap, Duration::from_nanos(5));
    requests[2].arrival = Arrival::After { request: 9, delay_ns: 5 };
    let stuck = physical_bound(&cluster, &requests).unwrap_err();
    assert!(matches!(stuck, Stuck::NeverSent { request: 2, parent: 9, .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_run_is_below_the_bound_and_hindsight_is_never_worse_than_its_start(
        shapes in prop::collection::vec((0_u64..3, 1_u32..90, 1_u32..60, 0_u64..60), 1..25),
        speeds in prop::collection::vec(prop::sample::select(vec![0.7, 1.0, 2.5]), 1..4),
        policy in prop::sample::select(PolicyConfig::NAMES.to_vec()),
        num_blocks in 32_u32..80,
        closed_loop in any::<bool>(),
        speed_up in any::<bool>(),
    ) {
        let mut requests = trace(&shapes);
        if closed_loop && requests.len() > 2 {
            requests[2].arrival = Arrival::After { request: 0, delay_ns: 1_000_000 };
        }
        let mut cluster = cluster(&speeds, &engine(num_blocks));
        if speed_up {
            let kind = PlannedKind::Slow { factor: 0.5, until: Duration::from_millis(400) };
            cluster.plan = vec![PlannedEvent { at: Duration::from_millis(100), instance: 0, kind }];
        }
        let output = run(&cluster, &requests, policy);
        let greedy = clairvoyant_greedy(&cluster, &requests, &mut |_| {}).unwrap();
        let starts = [placements_of(&cluster, &output), placements_of(&cluster, &greedy)];
        let search = || hindsight(&cluster, &requests, &starts, 40, 7).unwrap();
        let found = search();
        prop_assert_eq!(&search().placements, &found.placements, "deterministic");
        let best_start = starts.iter().map(|start| {
            total_ttft(&simulate_placed(&cluster, &requests, start, &mut |_| {}).unwrap())
        });
        prop_assert!(total_ttft(&found.output) <= best_start.min().unwrap());

        let bound = physical_bound(&cluster, &requests).unwrap();
        for output in [&output, &greedy, &found.output] {
            for (record, bound) in output.requests.iter().zip(&bound.requests) {
                prop_assert_eq!(record.outcome, bound.outcome);
                prop_assert!(record.ttft() >= bound.ttft(), "{record:?} {bound:?}");
                prop_assert!(record.e2e() >= bound.e2e(), "{record:?} {bound:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The search ends with a run of the whole cluster, and asserts that its instances by themselves had the same costs.
    #[test]
    fn instances_by_themselves_fail_and_return_as_in_the_cluster(
        shapes in prop::collection::vec((0_u64..3, 1_u32..90, 1_u32..60, 0_u64..60), 1..40),
        speeds in prop::collection::vec(prop::sample::select(vec![0.7, 1.0, 2.5]), 2..4),
        happenings in plans(6, 1200),
        detection_ms in 1_u64..100,
    ) {
        let requests = trace(&shapes);
        let mut cluster = cluster(&speeds, &engine(50));
        cluster.detection_delay = Duration::from_millis(detection_ms);
        plan(&mut cluster, happenings);
        let start: Vec<InstanceId> =
            (0..requests.len()).map(|request| InstanceId(request as u32 % 2)).collect();
        let hour_ns = 3_600_000_000_000;
        let cost = |output: &RunOutput| -> u64 {
            let cost = |record: &lodestar_sim::RequestRecord| match record.outcome {
                Outcome::Finished => record.ttft().expect("it has one").as_nanos(),
                Outcome::RejectedByRouter | Outcome::RejectedByEngine | Outcome::Failed => hour_ns,
            };
            output.requests.iter().map(cost).sum()
        };
        let at_start = cost(&simulate_placed(&cluster, &requests, &start, &mut |_| {}).unwrap());
        let found = hindsight(&cluster, &requests, &[start], 60, 7).unwrap();
        prop_assert!(cost(&found.output) <= at_start);
    }
}

/// Each instance holds one such request at a time. The third fits where the shorter answer is.
#[test]
fn the_clairvoyant_knows_which_answer_is_the_shorter() {
    let requests = trace(&[(0, 240, 90, 0), (1, 240, 20, 1), (2, 240, 5, 100)]);
    let cluster = cluster(&[1.0, 1.0], &engine(34));
    let instances = |output: &RunOutput| -> Vec<u32> {
        output.requests.iter().map(|record| record.instance.unwrap().0).collect()
    };
    let least_request = run(&cluster, &requests, "least-request");
    assert_eq!(instances(&least_request), [0, 1, 0]);
    let greedy = clairvoyant_greedy(&cluster, &requests, &mut |_| {}).unwrap();
    assert_eq!(instances(&greedy), [0, 1, 1]);
    assert!(total_ttft(&greedy) < total_ttft(&least_request));
}

#[test]
fn the_clairvoyant_prefers_a_cached_prefix_and_an_idle_instance() {
    // The second shares its prefix with the first; the third comes while the second is computed.
    let requests = trace(&[(0, 40, 5, 0), (0, 40, 5, 1000), (1, 90, 5, 2)]);
    let greedy = clairvoyant_greedy(&cluster(&[1.0, 1.0], &engine(80)), &requests, &mut |_| {});
    let greedy = greedy.unwrap();
    let seen: Vec<_> =
        greedy.requests.iter().map(|r| (r.instance.unwrap().0, r.cached_tokens)).collect();
    assert_eq!(seen, [(0, 0), (0, 160), (1, 0)]);
    // A slow idle instance is worse than a fast one with a short queue.
    let greedy = clairvoyant_greedy(&cluster(&[1.0, 9.0], &engine(80)), &requests, &mut |_| {});
    assert_eq!(greedy.unwrap().requests[2].instance, Some(InstanceId(0)));
}

#[test]
fn the_clairvoyant_routes_again_what_a_crash_has_lost() {
    let requests = trace(&[(0, 40, 90, 0), (0, 40, 5, 50), (1, 90, 5, 2)]);
    let mut cluster = cluster(&[1.0, 2.0], &engine(80));
    cluster.plan = [PlannedKind::Crash, PlannedKind::Return]
        .map(|kind| PlannedEvent { at: Duration::from_millis(60), instance: 0, kind })
        .to_vec();
    let greedy = clairvoyant_greedy(&cluster, &requests, &mut |_| {}).unwrap();
    let outcomes: Vec<_> = greedy.requests.iter().map(|r| (r.outcome, r.instance)).collect();
    assert_eq!(outcomes[0], (Outcome::Failed, Some(InstanceId(0))));
    assert!(outcomes[1..].iter().all(|outcome| outcome.0 == Outcome::Finished));
}

/// All 64 assignments of six requests: none is better than what the search finds.
#[test]
fn hindsight_finds_the_best_of_all_assignments_of_a_small_trace() {
    let requests = trace(&[
        (0, 90, 3, 0),
        (1, 80, 4, 5),
        (0, 70, 3, 5),
        (1, 60, 2, 15),
        (2, 90, 5, 5),
        (0, 20, 5, 5),
    ]);
    let cluster = cluster(&[1.0, 1.5], &engine(80));
    let assignment = |bits: u32| -> Vec<InstanceId> {
        (0..6).map(|request| InstanceId(bits >> request & 1)).collect()
    };
    let total = |placements: &[InstanceId]| {
        total_ttft(&simulate_placed(&cluster, &requests, placements, &mut |_| {}).unwrap())
    };
    let best = (0..64).map(|bits| total(&assignment(bits))).min().unwrap();
    let worst_start = assignment(0b11_1111);
    assert!(best < total(&worst_start));
    let found = hindsight(&cluster, &requests, &[worst_start], 400, 1).unwrap();
    assert_eq!(total_ttft(&found.output), best);
    assert_eq!(total(&found.placements), best);
}
