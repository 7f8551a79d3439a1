//! However requests end and whoever decides, the books are right.

use lodestar_router::Usage;

use super::*;

const SPEC: InstanceSpec = InstanceSpec { kv_capacity_tokens: 100_000, max_model_len_tokens: 4096 };

fn dispatcher(instances: usize) -> Arc<Dispatcher> {
    with_canary(instances, 0.0)
}

/// With a canary that decides for so many requests in a hundred.
fn with_canary(instances: usize, percent: f64) -> Arc<Dispatcher> {
    let [config, canary] =
        [PolicyConfig::LeastRequest, PolicyConfig::RoundRobin].map(RouterConfig::new);
    let router = |config: &RouterConfig| Router::new(config.clone(), 1);
    let arms = Arms::new(router(&config)).with_canary(router(&canary), canary, percent);
    let dispatcher = Arc::new(Dispatcher::new(config, arms));
    for port in 0..instances {
        let backend = Backend::parse(&format!("http://127.0.0.1:{}", 1 + port)).unwrap();
        dispatcher.join(Arc::new(backend), SPEC);
    }
    dispatcher
}

fn owed(dispatcher: &Dispatcher) -> Vec<Load> {
    owed_of(dispatcher, Arm::Baseline)
}

fn owed_of(dispatcher: &Dispatcher, arm: Arm) -> Vec<Load> {
    dispatcher.loads_of(arm).into_iter().map(|(_, load)| load).collect()
}

/// Many threads, every way to end, an instance that leaves and others that come.
#[test]
fn however_requests_end_nothing_stays_reserved() {
    let dispatcher = with_canary(3, 30.0);
    let work = |thread: usize| {
        let dispatcher = &dispatcher;
        move || {
            for step in 0..2_000_usize {
                let prompt = Prompt { tokens: 1 + (step % 500) as u32, ..Prompt::default() };
                let mut ticket = dispatcher.route(&prompt, &[]).unwrap();
                ticket.progress((step % 3) as u32 * 20);
                match (step + thread) % 5 {
                    0 => ticket.finished(None, 3),
                    1 => ticket.failed(),
                    2 => drop(ticket),
                    3 => {
                        let other = dispatcher.route(&prompt, &[ticket.member().id]).unwrap();
                        assert_ne!(other.member().id, ticket.member().id);
                        ticket.failed();
                        other.finished(Some(Usage::default()), 3);
                    }
                    _ if step % 100 == 4 => {
                        let member = Arc::clone(ticket.member());
                        dispatcher.join(Arc::clone(&member.backend), SPEC);
                        dispatcher.leave(member.id, true);
                    }
                    _ => {}
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(work(thread))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    for arm in Arm::BOTH {
        assert_eq!(owed_of(&dispatcher, arm), [Load::default(); 3]);
    }
}

#[test]
fn requests_in_flight_are_seen_by_the_next_decision() {
    let dispatcher = dispatcher(4);
    let route = || dispatcher.route(&Prompt { tokens: 9, ..Prompt::default() }, &[]).unwrap();
    let tickets: Vec<_> = (0..4).map(|_| route()).collect();
    assert!(owed(&dispatcher).iter().all(|load| load.requests == 1));
    drop(tickets);
    assert_eq!(owed(&dispatcher), [Load::default(); 4]);
}

#[test]
fn a_prompt_that_seems_too_long_is_left_to_the_engine() {
    let dispatcher = dispatcher(1);
    let blocks = (0..10_000).map(lodestar_router::BlockHash).collect();
    let prompt = Prompt { tokens: 160_001, blocks, ..Prompt::default() };
    let ticket = dispatcher.route(&prompt, &[]).unwrap();
    assert_eq!(ticket.prompt_tokens, 4095);
    assert_eq!(dispatcher.route(&prompt, &[ticket.member().id]).unwrap_err(), Rejected::NoInstance);
}

/// It hung, and says that it is well again.
#[test]
fn an_instance_on_trial_gets_one_request_until_it_has_served_one() {
    [0.0, 50.0, 100.0].iter().for_each(|&percent| on_trial(&with_canary(2, percent)));
}

fn on_trial(dispatcher: &Arc<Dispatcher>) {
    let member = Arc::clone(&dispatcher.members()[1]);
    member.backend.hung();
    dispatcher.leave(member.id, true);
    let member = dispatcher.join(Arc::clone(&member.backend), SPEC);
    let route = || dispatcher.route(&Prompt { tokens: 9, ..Prompt::default() }, &[]).unwrap();
    let requests = || owed(dispatcher).iter().map(|load| load.requests).collect::<Vec<_>>();
    let tickets: Vec<_> = (0..10).map(|_| route()).collect();
    assert_eq!(requests(), [9, 1]);
    member.backend.succeeded();
    let more: Vec<_> = (0..8).map(|_| route()).collect();
    assert_eq!(requests(), [16, 2], "then it gets its share little by little");
    drop((tickets, more));
    // Alone, it is better than nobody.
    member.backend.hung();
    let others = dispatcher.members();
    dispatcher.leave(others[0].id, true);
    dispatcher.leave(member.id, true);
    dispatcher.join(Arc::clone(&member.backend), SPEC);
    let tickets: Vec<_> = (0..10).map(|_| route()).collect();
    assert!(tickets.iter().all(|ticket| ticket.member().backend.is_on_trial()));
}

/// Finishes, or fails if `is_bad` says so of the side; answers whose request it was.
fn serve(dispatcher: &Arc<Dispatcher>, is_bad: impl FnOnce(Arm) -> bool) -> Arm {
    let ticket = dispatcher.route(&Prompt { tokens: 9, ..Prompt::default() }, &[]).unwrap();
    let arm = ticket.arm;
    if is_bad(arm) {
        ticket.failed();
    } else {
        ticket.finished(None, 3);
    }
    arm
}

fn why_stopped(dispatcher: &Dispatcher) -> Option<Stop> {
    dispatcher.canary().unwrap().stopped.map(|stopped| stopped.why)
}

#[test]
fn a_canary_whose_requests_fail_is_stopped_and_one_whose_do_not_is_not() {
    let dispatcher = with_canary(3, 30.0);
    for number in 0..4_000 {
        // Both fail now and then.
        serve(&dispatcher, |_| number % 50 == 0);
    }
    assert_eq!(why_stopped(&dispatcher), None);
    for _ in 0..4_000 {
        serve(&dispatcher, |arm| arm == Arm::Canary);
    }
    assert_eq!(why_stopped(&dispatcher), Some(Stop::Errors));
    assert!(dispatcher.canary().unwrap().percent <= 0.0);
    let failed = dispatcher.counters().of(Arm::Canary).failed.get();
    assert!(failed < 400, "{failed} before it was stopped");
    assert!((0..100).all(|_| serve(&dispatcher, |_| false) == Arm::Baseline));
}

/// What the canary was worse than may have been better than what decides now.
#[test]
fn another_policy_is_compared_anew() {
    let all = |dispatcher: &Arc<Dispatcher>, requests| {
        for _ in 0..requests {
            serve(dispatcher, |arm| arm == Arm::Canary);
        }
    };
    // So many that one more of each arm would be enough.
    let enough = {
        let dispatcher = with_canary(2, 50.0);
        let stops = |_: &i32| {
            all(&dispatcher, 1);
            why_stopped(&dispatcher).is_some()
        };
        (1..).find(stops).unwrap()
    };
    let dispatcher = with_canary(2, 50.0);
    all(&dispatcher, enough - 1);
    let route = || dispatcher.route(&Prompt { tokens: 9, ..Prompt::default() }, &[]).unwrap();
    let under_way: Vec<_> = (0..2 * enough).map(|_| route()).collect();
    dispatcher.switch(&PolicyConfig::Random, None).unwrap();
    under_way.into_iter().filter(|ticket| ticket.arm == Arm::Canary).for_each(Ticket::failed);
    assert_eq!(why_stopped(&dispatcher), None, "these say nothing of the policy of now");
    all(&dispatcher, 100);
    assert_eq!(why_stopped(&dispatcher), None, "too few of each");
    all(&dispatcher, 2 * enough);
    assert_eq!(why_stopped(&dispatcher), Some(Stop::Errors));
    assert_eq!(dispatcher.router_config().policy, PolicyConfig::Random);
    assert_eq!(dispatcher.router_configs()[1].policy, PolicyConfig::RoundRobin);
}

#[tokio::test]
async fn a_death_is_announced() {
    let dispatcher = dispatcher(2);
    let members = dispatcher.members();
    assert!(dispatcher.leave(members[0].id, true));
    assert!(!dispatcher.leave(members[0].id, true));
    members[0].dead().await;
    members[0].left().await;
    assert_eq!(dispatcher.members().len(), 1);
    assert_eq!(dispatcher.in_turn().map(|member| member.id), Some(members[1].id));
}
