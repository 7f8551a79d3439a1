//! What a router writes down is enough to have another one decide the same.

use std::sync::Arc;

use lodestar_router::{
    Information, LogEntry, LogReplay, PolicyConfig, Router, RouterConfig, Routing,
};
use lodestar_sim::engine::EngineConfig;
use lodestar_sim::step_time::{GpuStepTime, HingeCoefficients, StepTime};
use lodestar_sim::{ClusterConfig, InstanceConfig, simulate, simulate_logged};
use lodestar_traces::{Arrival, Source, Span, TraceRequest};

mod common;

/// Slow at prompts.
const STEP_TIME: HingeCoefficients =
    HingeCoefficients { b_us_per_token: 1500.0, ..common::STEP_TIME };

fn cluster() -> ClusterConfig {
    let engine = EngineConfig { max_num_batched_tokens: 256, ..EngineConfig::new(80, 512) };
    let instance = |id| InstanceConfig {
        name: format!("gpu-{id}"),
        gpu: "gpu".into(),
        engine: engine.clone(),
        step_time: StepTime::Gpu(Arc::new(GpuStepTime::new(&STEP_TIME, &[], 256))),
    };
    ClusterConfig::new((0..3).map(instance).collect())
}

/// A request every 125 ms.
fn requests(count: u64) -> Vec<TraceRequest> {
    let request = |id| TraceRequest {
        id,
        arrival: Arrival::At { ns: id * 125_000_000 },
        prompt: vec![
            Span { source: Source::Hash(id % 7), start: 0, tokens: 64 },
            Span { source: Source::Private(id), start: 0, tokens: 36 + id as u32 * 37 % 200 },
        ],
        output_tokens: 1 + id as u32 % 5,
        session: Some(id % 11),
        priority: 0,
        cache_salt: None,
    };
    (0..count).map(request).collect()
}

/// The log of a run, as it is after it was written and read, entry by entry.
fn log(policy: PolicyConfig, information: Information, count: u64) -> Vec<LogEntry> {
    let config = RouterConfig { information, ..RouterConfig::new(policy) };
    let mut lines = Vec::new();
    let mut on_log = |replica, entries: Vec<LogEntry>| {
        assert_eq!(replica, 0);
        lines.extend(entries.iter().map(|entry| serde_json::to_string(entry).expect("JSON")));
    };
    let (cluster, requests) = (cluster(), requests(count));
    let logged = simulate_logged(&cluster, &requests, config.clone(), 7, &mut |_| {}, &mut on_log);
    let plain = simulate(&cluster, &requests, config, 7, &mut |_| {});
    assert_eq!(logged.expect("the run ends"), plain.expect("the run ends"));
    lines.iter().map(|line| serde_json::from_str(line).expect("what was written")).collect()
}

/// Of the decisions, how many there are and how many are made again; and how many models are installed.
fn replay(log: &[LogEntry]) -> (u64, u64, usize) {
    let Some(LogEntry::Start(start)) = log.first() else { panic!("it starts with a start") };
    let mut replay = LogReplay::new(start);
    let (mut decisions, mut equal) = (0, 0);
    for entry in &log[1..] {
        let is_equal = replay.apply(entry);
        if matches!(entry, LogEntry::Route(_)) {
            decisions += 1;
            equal += u64::from(is_equal);
        } else {
            assert!(is_equal, "{entry:?}");
        }
    }
    let is_install = |entry: &&LogEntry| matches!(entry, LogEntry::Install { .. });
    (decisions, equal, log.iter().filter(is_install).count())
}

#[test]
fn every_policy_decides_the_same_again() {
    for information in [Information::Deployed, Information::Ideal] {
        for policy in PolicyConfig::all() {
            let name = policy.name().into_owned();
            let (decisions, equal, _) = replay(&log(policy, information, 300));
            assert_eq!((decisions, equal), (300, 300), "{name}");
        }
    }
}

#[test]
fn models_are_trained_again_on_the_way() {
    for (policy, count) in [("lodestar", 2_000), ("lodestar-paper-as-shipped", 5_200)] {
        let policy = PolicyConfig::from_name(policy).expect("a known policy");
        let log = log(policy, Information::Deployed, count);
        let (decisions, equal, installed) = replay(&log);
        assert_eq!((decisions, equal), (count, count));
        assert!(installed > 0);
        // Without its models it decides otherwise: they are in the decisions that were compared.
        let is_model = |entry: &LogEntry| matches!(entry, LogEntry::Install { .. });
        let Some(LogEntry::Start(start)) = log.first() else { panic!("it starts with a start") };
        let mut untrained = LogReplay::new(start);
        let others = log[1..].iter().filter(|entry| !is_model(entry));
        let differ = others.filter(|entry| !untrained.apply(entry)).count();
        assert!(differ > 0);
    }
}

#[test]
fn a_router_that_follows_another_books_what_happens_there() {
    let followed = log(PolicyConfig::Random, Information::Ideal, 300);
    for policy in PolicyConfig::all() {
        let name = policy.name().into_owned();
        let config = RouterConfig { information: Information::Ideal, ..RouterConfig::new(policy) };
        let mut shadow = Router::recording(config, 1);
        let mut agreed = 0;
        for entry in &followed {
            match entry {
                LogEntry::Route(Routing { now, request, answer: Ok(made), .. }) => {
                    let load = |router: &Router| router.fleet().get(made.instance).unwrap().load;
                    let before = load(&shadow).requests;
                    let request = request.as_request();
                    let wanted = shadow.route_as(*now, &request, &[], made.instance).unwrap();
                    assert_eq!(load(&shadow).requests, before + 1, "{name}");
                    agreed += u64::from(wanted.instance == made.instance);
                }
                LogEntry::Observe { now, event } => shadow.observe(*now, event),
                LogEntry::Start(_)
                | LogEntry::Route(_)
                | LogEntry::TrainingJob { .. }
                | LogEntry::Install { .. }
                | LogEntry::AbandonTraining
                | LogEntry::Restore { .. }
                | LogEntry::SetObjective { .. }
                | LogEntry::SetPolicy { .. } => {}
            }
        }
        assert!((1..300).contains(&agreed), "{name} has a mind of its own: {agreed}");
        let owed = |instance: &lodestar_router::Instance| instance.load.requests;
        assert_eq!(shadow.fleet().instances().iter().map(owed).sum::<u32>(), 0, "{name}");
        let (decisions, equal, _) = replay(&shadow.take_log());
        assert_eq!((decisions, equal), (300, 300), "{name}");
    }
}
