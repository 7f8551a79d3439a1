//! What a router has learned, taken out and put into another one.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first surprise; clippy knows #[test] only"
)]

use lodestar_router::{
    Checkpoint, CheckpointError, Event, InstanceId, InstanceNames, InstanceSpec, LogEntry,
    LogReplay, PolicyConfig, Request, RequestId, Router, RouterConfig, Time, Usage,
};
use serde_json::{Value, json};

const SPEC: InstanceSpec =
    InstanceSpec { kv_capacity_tokens: 400_000, max_model_len_tokens: 32_768 };

fn router(policy: &str, instances: impl IntoIterator<Item = u32>) -> Router {
    let capacity = SPEC.kv_capacity_tokens;
    router_of(policy, instances.into_iter().map(|instance| (instance, capacity)))
}

/// In front of instances with caches of so many tokens.
fn router_of(policy: &str, instances: impl IntoIterator<Item = (u32, u64)>) -> Router {
    let policy = PolicyConfig::from_name(policy).unwrap();
    let mut router = Router::new(RouterConfig::new(policy), 7);
    for (instance, kv_capacity_tokens) in instances {
        let (instance, spec) = (InstanceId(instance), InstanceSpec { kv_capacity_tokens, ..SPEC });
        router.observe(Time::ZERO, &Event::InstanceJoined { instance, spec });
    }
    router
}

fn names(names: &[(u32, &str)]) -> InstanceNames {
    names.iter().map(|&(id, name)| (InstanceId(id), name.to_owned())).collect()
}

fn request(id: u64, prompt_tokens: u32) -> Request<'static> {
    Request { id: RequestId(id), prompt_tokens, block_hashes: &[], session: None, priority: 0 }
}

/// Routes requests to two instances of which the second takes ten times as long, and trains.
fn taught() -> Router {
    teach(router("lodestar", [0, 1]))
}

fn teach(mut router: Router) -> Router {
    for id in 0..200 {
        let millis = |offset: u64| Time::from_nanos((id * 2_000 + offset) * 1_000_000);
        let prompt_tokens = 500 + 37 * (id as u32 % 40);
        let chosen = router.route(millis(0), &request(id, prompt_tokens)).unwrap().instance;
        let took = u64::from(prompt_tokens) / if chosen == InstanceId(0) { 20 } else { 2 };
        router.observe(millis(took), &Event::FirstToken { request: RequestId(id) });
        let usage = Usage { output_tokens: 9, ..Usage::default() };
        router.observe(millis(took + 90), &Event::Finished { request: RequestId(id), usage });
        if let Some(job) = router.training_job(millis(took + 90)) {
            router.install(millis(took + 100), job.run());
        }
    }
    router
}

#[test]
fn a_log_repeats_what_was_decided_from_a_checkpoint() {
    let policy = PolicyConfig::from_name("lodestar").unwrap();
    let mut router = Router::recording(RouterConfig::new(policy), 7);
    router.restore(Time::ZERO, &checkpoint(), &names(&[(0, "slow"), (1, "fast")])).unwrap();
    for instance in [0, 1].map(InstanceId) {
        router.observe(Time::ZERO, &Event::InstanceJoined { instance, spec: SPEC });
    }
    let chosen = router.route(Time::ZERO, &request(1, 1_000)).unwrap().instance;
    assert_eq!(chosen, InstanceId(1), "it knows who is fast");
    let lines: Vec<String> =
        router.take_log().iter().map(|entry| serde_json::to_string(entry).unwrap()).collect();
    let entries: Vec<LogEntry> =
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [LogEntry::Start(start), rest @ ..] = &entries[..] else { panic!("{lines:?}") };
    let mut replay = LogReplay::new(start);
    assert!(rest.iter().all(|entry| replay.apply(entry)) && rest.len() == 4);
}

fn checkpoint() -> Checkpoint {
    taught().checkpoint(&names(&[(0, "fast"), (1, "slow")])).unwrap()
}

/// TTFT expected of a prompt of 1,000 tokens on each instance, s.
fn expected_s(router: &mut Router) -> Vec<f64> {
    let decision = router.route(Time::ZERO, &request(1_000, 1_000)).unwrap();
    let ttfts = decision.candidates.iter().map(|candidate| candidate.predicted_ttft);
    ttfts.map(|ttft| ttft.unwrap().as_secs_f64()).collect()
}

#[test]
fn instances_are_known_again_by_name() {
    let written = serde_json::to_string(&checkpoint()).unwrap();
    let read: Checkpoint = serde_json::from_str(&written).unwrap();
    assert_eq!(read, checkpoint(), "to the last bit");

    // Other numbers than before, and a third instance.
    let mut other = router("lodestar-tail-ttft", [4, 5, 6]);
    other.restore(Time::ZERO, &read, &names(&[(4, "new"), (5, "slow"), (6, "fast")])).unwrap();
    let expected = expected_s(&mut other);
    let [new, slow, fast] = expected[..] else { panic!("{expected:?}") };
    assert!(fast < 0.08 && slow > 0.2, "{expected:?}");
    assert!(new < 0.08, "as the fleet, which was fast on the whole: {expected:?}");
}

#[test]
fn an_instance_whose_cache_has_another_size_is_another() {
    let expected = |kv_capacity_tokens| {
        let mut other = router_of("lodestar", [(0, kv_capacity_tokens)]);
        other.restore(Time::ZERO, &checkpoint(), &names(&[(0, "slow")])).unwrap();
        expected_s(&mut other)[0]
    };
    let (alike, other) = (expected(405_000), expected(100_000));
    assert!(alike > 0.2, "engines measure what memory is left: {alike}");
    assert!(other < 0.15, "as the fleet: {other}");
}

#[test]
fn who_is_new_is_of_a_kind_in_whatever_order_kinds_were_met() {
    let taught = teach(router_of("lodestar", [(0, 400_000), (1, 50_000)]));
    let checkpoint = taught.checkpoint(&names(&[(0, "fast"), (1, "slow")])).unwrap();
    let mut other = router_of("lodestar", [(0, 50_000), (1, 400_000)]);
    let before = expected_s(&mut other);
    assert!((before[0] - before[1]).abs() < 1e-9, "nothing is known of either: {before:?}");
    other.restore(Time::ZERO, &checkpoint, &names(&[])).unwrap();
    let decision = other.route(Time::ZERO, &request(1_001, 1_000)).unwrap();
    let [slow, fast] = &decision.candidates[..] else { panic!("two candidates") };
    let secs = |ttft: Option<lodestar_router::Duration>| ttft.unwrap().as_secs_f64();
    let (slow, fast) = (secs(slow.predicted_ttft), secs(fast.predicted_ttft));
    assert!(slow > 3.0 * fast, "{slow} and {fast}");
}

#[test]
fn nothing_of_requests_in_flight_is_kept() {
    let mut busy = taught();
    let idle = busy.checkpoint(&names(&[(0, "fast")])).unwrap();
    busy.route(Time::from_nanos(400_000_000_000), &request(1_000, 30_000)).unwrap();
    let restored = |checkpoint: &Checkpoint| {
        let mut router = router("lodestar", [0]);
        router.restore(Time::ZERO, checkpoint, &names(&[(0, "fast")])).unwrap();
        expected_s(&mut router)
    };
    assert_eq!(restored(&busy.checkpoint(&names(&[(0, "fast")])).unwrap()), restored(&idle));
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let value = serde_json::to_value(checkpoint()).unwrap();
    let learned = "/learned/lodestar";
    let network = "/learned/lodestar/residual/network/layers/0";
    for (path, with, error) in [
        ("/version".to_owned(), json!(99), CheckpointError::Version { found: 99 }),
        (format!("{learned}/tail_s"), json!(-1.0), CheckpointError::Unsound("a mean")),
        (
            format!("{learned}/fleet/all/ttft/coefficients/3"),
            json!(-0.1),
            CheckpointError::Unsound("a coefficient"),
        ),
        // Infinite as a single.
        (
            format!("{network}/bias/0"),
            json!(1e200),
            CheckpointError::Unsound("the network or a sample"),
        ),
        (
            format!("{network}/weights"),
            json!([1.0]),
            CheckpointError::Unsound("the network or a sample"),
        ),
        (
            format!("{learned}/residual/adam/mean"),
            json!([]),
            CheckpointError::Unsound("the network or a sample"),
        ),
    ] {
        let mut damaged = value.clone();
        *damaged.pointer_mut(&path).unwrap() = with;
        let damaged: Checkpoint = serde_json::from_value(damaged).unwrap();
        let mut router = router("lodestar", [0, 1]);
        let names = names(&[(0, "fast"), (1, "slow")]);
        assert_eq!(router.restore(Time::ZERO, &damaged, &names), Err(error), "{path}");
        assert_eq!(router.learning().unwrap().samples, 0);
    }
    // NaN is null in JSON.
    let mut damaged = value;
    *damaged.pointer_mut(&format!("{network}/bias/0")).unwrap() = Value::Null;
    assert!(serde_json::from_value::<Checkpoint>(damaged).is_err());
}

#[test]
fn a_policy_without_memory_keeps_and_takes_none() {
    let mut other = router("round-robin", [0]);
    assert!(other.checkpoint(&names(&[(0, "fast")])).is_none());
    let refused = other.restore(Time::ZERO, &checkpoint(), &InstanceNames::new());
    assert_eq!(refused, Err(CheckpointError::OtherPolicy));
}

#[test]
fn a_job_that_is_lost_is_followed_by_another() {
    let mut router = taught();
    let learn = |router: &mut Router, id: u64| {
        let now = Time::from_nanos(id * 2_000_000_000);
        router.route(now, &request(id, 900)).unwrap();
        router.observe(now, &Event::FirstToken { request: RequestId(id) });
        router.training_job(now)
    };
    let lost = learn(&mut router, 1_000).unwrap().policy_number();
    assert!(learn(&mut router, 1_001).is_none(), "one at a time");
    router.abandon_training(lost);
    assert!(learn(&mut router, 1_002).is_some());
    router.set_policy(&PolicyConfig::from_name("lodestar").unwrap());
    assert!((1_003..1_100).any(|id| learn(&mut router, id).is_some()));
    router.abandon_training(lost);
    assert!(learn(&mut router, 1_100).is_none(), "what is lost was another policy's");
}
