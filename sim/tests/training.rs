//! A policy that trains a network in the middle of a run.

use std::sync::Arc;

use lodestar_router::{PolicyConfig, Reason, RouterConfig};
use lodestar_sim::engine::EngineConfig;
use lodestar_sim::step_time::{GpuStepTime, HingeCoefficients, StepTime};
use lodestar_sim::{ClusterConfig, InstanceConfig, RequestRecord, RunOutput, simulate};
use lodestar_traces::{Arrival, Source, Span, TraceRequest};

mod common;

/// Slow at prompts.
const STEP_TIME: HingeCoefficients =
    HingeCoefficients { b_us_per_token: 1500.0, ..common::STEP_TIME };

/// A request every 125 ms, on three equal instances: the first poll after 5,000 samples is at 630 s, after 5,040 requests.
fn run(policy: &str, seed: u64) -> RunOutput {
    let engine = EngineConfig { max_num_batched_tokens: 256, ..EngineConfig::new(80, 512) };
    let instance = |id| InstanceConfig {
        name: format!("gpu-{id}"),
        gpu: "gpu".into(),
        engine: engine.clone(),
        step_time: StepTime::Gpu(Arc::new(GpuStepTime::new(&STEP_TIME, &[], 256))),
    };
    let cluster = ClusterConfig::new((0..3).map(instance).collect());
    let request = |id| TraceRequest {
        id,
        arrival: Arrival::At { ns: id * 125_000_000 },
        prompt: vec![
            Span { source: Source::Hash(id % 7), start: 0, tokens: 64 },
            Span { source: Source::Private(id), start: 0, tokens: 36 + id as u32 * 37 % 200 },
        ],
        output_tokens: 1,
        session: None,
        priority: 0,
        cache_salt: None,
    };
    let requests: Vec<_> = (0..7_000).map(request).collect();
    let router = RouterConfig::new(PolicyConfig::from_name(policy).expect("a known policy"));
    simulate(&cluster, &requests, router, seed, &mut |_| {}).expect("the run ends")
}

#[test]
fn a_run_with_training_is_the_same_every_time_and_another_with_another_seed() {
    for policy in ["lodestar", "lodestar-paper"] {
        let first = run(policy, 1);
        assert_eq!(first.requests, run(policy, 1).requests);
        assert_ne!(first.requests, run(policy, 2).requests);
    }
}

#[test]
fn what_the_learned_policy_expects_is_what_happens_within_a_minute() {
    let records = run("lodestar", 1).requests;
    // A minute of traffic.
    let mut errors: Vec<f64> = records[480..]
        .iter()
        .map(|record| {
            let first_token = record.first_token.expect("all have one");
            let ttft = first_token.saturating_since(record.arrival).as_secs_f64();
            let predicted = record.predicted_ttft.expect("it predicts").as_secs_f64();
            (predicted / ttft - 1.0).abs()
        })
        .collect();
    errors.sort_by(f64::total_cmp);
    let median = errors[errors.len() / 2];
    assert!(median < 0.15, "{median}");
    let doubtful = |reason| matches!(reason, Some(Reason::Holdout | Reason::Explore));
    let tried = records.iter().filter(|record| doubtful(record.reason)).count();
    assert!((1..70).contains(&tried), "less than one in a hundred: {tried}");
    assert!(records.iter().all(|record| record.reason != Some(Reason::Guardrail)));
}

#[test]
fn predictions_follow_the_first_model_and_are_near_what_happens() {
    let records = run("lodestar-paper-as-shipped", 1).requests;
    let (cold, warm): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| record.reason == Some(Reason::ColdStart));
    // The model is there a little after 630 s.
    assert!((5_040..5_045).contains(&cold.len()), "{}", cold.len());
    assert_eq!(cold.len() + warm.len(), 7_000);
    let (mut errors, mut deviations) = (0.0, 0.0);
    let ttft = |record: &RequestRecord| {
        let first_token = record.first_token.expect("all have one");
        first_token.saturating_since(record.arrival).as_secs_f64()
    };
    let mean_ttft = warm.iter().map(|record| ttft(record)).sum::<f64>() / warm.len() as f64;
    for record in warm {
        assert_eq!(record.reason, Some(Reason::LeastLatency));
        let predicted = record.predicted_ttft.expect("by the network").as_secs_f64();
        let (error, deviation) = (predicted - ttft(record), mean_ttft - ttft(record));
        errors += error * error;
        deviations += deviation * deviation;
    }
    let unexplained = errors / deviations;
    assert!(unexplained < 0.5, "{unexplained}");
}
