use lodestar_router::{InstanceSpec, Load, PolicyConfig, RequestId};

use super::*;

fn config(policy: &str) -> RouterConfig {
    RouterConfig::new(PolicyConfig::from_name(policy).unwrap())
}

fn router(policy: &str) -> Router {
    Router::new(config(policy), 1)
}

fn arms(policy: &str, rollout_percent: f64) -> Arms {
    let mut arms = Arms::new(router("round-robin")).with_canary(
        router(policy),
        config(policy),
        rollout_percent,
    );
    let spec = InstanceSpec { kv_capacity_tokens: 100_000, max_model_len_tokens: 4096 };
    for instance in (0..3).map(InstanceId) {
        arms.observe(Time::ZERO, &Event::InstanceJoined { instance, spec });
    }
    arms
}

fn request(id: u64, session: Option<u64>) -> Request<'static> {
    let id = RequestId(id);
    Request { id, prompt_tokens: 100, block_hashes: &[], session, priority: 0 }
}

fn why_stopped(arms: &Arms) -> Option<Stop> {
    arms.canary().unwrap().stopped().map(|stopped| stopped.why)
}

fn loads(arms: &Arms, arm: Arm) -> Vec<u32> {
    let instances = arms.fleet(arm).unwrap().instances();
    instances.iter().map(|instance| instance.load.requests).collect()
}

#[test]
fn both_books_say_the_same_whoever_decides() {
    let mut arms = arms("least-request", 50.0);
    let mut decided = [0, 0];
    for id in 0..60 {
        let (arm, _) = arms.route(Time::ZERO, &request(id, None), &[]).unwrap();
        decided[usize::from(arm == Arm::Canary)] += 1;
        assert_eq!(loads(&arms, Arm::Baseline), loads(&arms, Arm::Canary));
    }
    assert!(decided.iter().all(|&count| count > 10), "{decided:?}");
    let views = arms.canary().unwrap().views();
    assert_eq!(views.agreed + views.disagreed, 60);
    for request in (0..60).map(RequestId) {
        arms.observe(Time::ZERO, &Event::Aborted { request });
    }
    let fleets = Arm::BOTH.map(|arm| arms.fleet(arm).unwrap().instances());
    assert!(fleets.iter().all(|fleet| fleet.iter().all(|at| at.load == Load::default())));
}

#[test]
fn the_share_is_right_and_a_session_stays_on_its_side() {
    for percent in [0.0, 0.5, 25.0, 100.0] {
        let arms = arms("random", percent);
        let canary = arms.canary().unwrap();
        let sessions = 20_000;
        let acts = |session| canary.acts_on(&request(session, Some(session)));
        let share = (0..sessions).filter(|&session| acts(session)).count() as f64;
        let expected = percent / 100.0 * sessions as f64;
        assert!((share - expected).abs() <= 4.0 * expected.sqrt(), "{share}, {percent}");
        let moved = |session| acts(session) != canary.acts_on(&request(7, Some(session)));
        assert!(!(0..sessions).any(moved));
    }
}

#[test]
fn who_has_no_part_in_decisions_changes_none() {
    let mut alone = Arms { canary: None, ..arms("random", 0.0) };
    let mut shadowed = arms("lodestar", 0.0);
    for id in 0..200 {
        let request = request(id, None);
        let now = Time::from_nanos(id * 1_000_000);
        assert_eq!(alone.route(now, &request, &[]), shadowed.route(now, &request, &[]));
        let event = Event::FirstToken { request: request.id };
        for arms in [&mut alone, &mut shadowed] {
            arms.observe(now + Duration::from_millis(20), &event);
        }
    }
    let views = shadowed.canary().unwrap().views();
    assert_eq!((views.agreed + views.disagreed, views.predicted), (200, 200));
    assert!(views.disagreed > 0 && views.baseline_s > 0.0 && views.canary_s > 0.0);
    let learned = shadowed.get(Arm::Canary).unwrap().learning().unwrap();
    assert_eq!(learned.samples, 200, "it learns from what others decided");
}

#[test]
fn a_stopped_canary_decides_nothing_and_follows() {
    let mut arms = arms("random", 100.0);
    assert_eq!(arms.route(Time::ZERO, &request(0, None), &[]).unwrap().0, Arm::Canary);
    assert!(arms.stop_canary(Stop::Operator, "told so"));
    assert!(!arms.stop_canary(Stop::Ttft, "again"));
    assert_eq!(why_stopped(&arms), Some(Stop::Operator));
    assert_eq!(arms.route(Time::ZERO, &request(1, None), &[]).unwrap().0, Arm::Baseline);
    assert_eq!(loads(&arms, Arm::Canary).iter().sum::<u32>(), 2);
}

#[test]
fn a_canary_that_panics_takes_nobody_with_it() {
    let mut other = arms("lodestar", 0.0);
    other.route(Time::ZERO, &request(0, None), &[]).unwrap();
    let later = Time::from_nanos(2_000_000_000);
    other.observe(later, &Event::FirstToken { request: RequestId(0) });
    let (_, job) = other.training_jobs(later).pop().unwrap();
    let mut arms = arms("lodestar-paper", 100.0);
    // A model that it has not asked for breaks its contract.
    arms.trained(later, Arm::Canary, job.policy_number(), Some(job.run()));
    assert_eq!(why_stopped(&arms), Some(Stop::Panic));
    assert_eq!(arms.route(later, &request(1, None), &[]).unwrap().0, Arm::Baseline);
    assert!(arms.fleet(Arm::Canary).is_none());
}
