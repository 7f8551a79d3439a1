//! Reservations: made once, released once, and at every moment the sum of what is outstanding.

use std::collections::BTreeMap;

use lodestar_router::{Event, Load, Rejected, RequestId, Router, Time, Usage};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{SPEC, blocks, join, leave, load, request, request_with, route, router};

/// What one request in flight should take up.
#[derive(Debug)]
struct Reserved {
    instance: u32,
    prompt_tokens: u32,
    uncached_tokens: u32,
    output_tokens: u32,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Route { id: u64, conversation: u64, blocks: u64 },
    Grow { id: u64, output_tokens: u32 },
    FirstToken { id: u64 },
    End { id: u64, how: u8 },
    Dispatched { id: u64 },
    Leave { instance: u32 },
    Join { instance: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..10_u64;
    let instance = 0..4_u32;
    prop_oneof![
        6 => (id.clone(), 0..3_u64, 0..20_u64)
            .prop_map(|(id, conversation, blocks)| Step::Route { id, conversation, blocks }),
        3 => (id.clone(), 0..50_u32).prop_map(|(id, output_tokens)| Step::Grow { id, output_tokens }),
        2 => id.clone().prop_map(|id| Step::FirstToken { id }),
        4 => (id.clone(), 0..3_u8).prop_map(|(id, how)| Step::End { id, how }),
        1 => id.prop_map(|id| Step::Dispatched { id }),
        1 => instance.clone().prop_map(|instance| Step::Leave { instance }),
        1 => instance.prop_map(|instance| Step::Join { instance }),
    ]
}

fn apply(step: Step, router: &mut Router, expected: &mut BTreeMap<u64, Reserved>) {
    let now = Time::ZERO;
    match step {
        Step::Route { id, conversation, blocks: count } => {
            let blocks = blocks(conversation, count);
            let request = request_with(id, &blocks);
            match router.route(now, &request) {
                Ok(decision) => {
                    let instance = decision.instance.0;
                    let prompt_tokens = request.prompt_tokens;
                    let uncached_tokens = prompt_tokens - decision.prefix_hit_tokens;
                    let reserved =
                        Reserved { instance, prompt_tokens, uncached_tokens, output_tokens: 0 };
                    assert!(expected.insert(id, reserved).is_none(), "reserved twice");
                }
                Err(Rejected::DuplicateRequest { .. }) => assert!(expected.contains_key(&id)),
                Err(Rejected::NoInstance) => assert!(router.fleet().instances().is_empty()),
                Err(rejected @ Rejected::PromptTooLong { .. }) => panic!("{rejected}"),
            }
        }
        Step::Grow { id, output_tokens } => {
            router.observe(now, &Event::Progress { request: RequestId(id), output_tokens });
            expected.entry(id).and_modify(|reserved| {
                reserved.output_tokens = reserved.output_tokens.max(output_tokens);
            });
        }
        Step::FirstToken { id } => {
            router.observe(now, &Event::FirstToken { request: RequestId(id) });
            expected
                .entry(id)
                .and_modify(|reserved| reserved.output_tokens = reserved.output_tokens.max(1));
        }
        Step::End { id, how } => {
            let request = RequestId(id);
            let end = match how {
                0 => Event::DispatchFailed { request },
                1 => Event::Finished { request, usage: Usage::default() },
                _ => Event::Aborted { request },
            };
            router.observe(now, &end);
            expected.remove(&id);
        }
        Step::Dispatched { id } => {
            router.observe(now, &Event::Dispatched { request: RequestId(id) });
        }
        Step::Leave { instance } => {
            leave(router, instance);
            expected.retain(|_, reserved| reserved.instance != instance);
        }
        Step::Join { instance } => join(router, instance, SPEC),
    }
}

/// The sums, from scratch.
fn sum_of(expected: &BTreeMap<u64, Reserved>, instance: u32) -> Load {
    let mut load = Load::default();
    for reserved in expected.values().filter(|reserved| reserved.instance == instance) {
        load.requests += 1;
        load.context_tokens += u64::from(reserved.prompt_tokens + reserved.output_tokens);
        if reserved.output_tokens == 0 {
            load.prefill_requests += 1;
            load.uncached_prefill_tokens += u64::from(reserved.uncached_tokens);
        } else {
            load.decode_requests += 1;
        }
    }
    load
}

proptest! {
    #[test]
    fn loads_are_the_sums_of_what_is_outstanding(
        policy in prop_oneof![Just("prefix-cache"), Just("random"), Just("least-request")],
        steps in vec(step(), 1..120),
    ) {
        let mut router = router(policy, 3);
        let mut expected = BTreeMap::new();
        for step in steps {
            apply(step, &mut router, &mut expected);
            for instance in router.fleet().instances() {
                prop_assert_eq!(instance.load, sum_of(&expected, instance.id.0));
            }
        }
        for id in 0..10 {
            router.observe(Time::ZERO, &Event::Aborted { request: RequestId(id) });
        }
        for instance in router.fleet().instances() {
            prop_assert_eq!(instance.load, Load::default());
        }
    }
}

#[test]
fn requests_at_the_same_instant_see_each_other() {
    let mut router = router("least-request", 4);
    let mut chosen: Vec<_> = (0..4).map(|id| route(&mut router, &request(id, 100))).collect();
    chosen.sort_unstable();
    assert_eq!(chosen, [0, 1, 2, 3]);
}

#[test]
fn a_request_passes_from_prefill_to_decode_to_nothing() {
    let mut router = router("random", 1);
    let id = RequestId(5);
    route(&mut router, &request(5, 100));
    let prefill = Load {
        requests: 1,
        prefill_requests: 1,
        uncached_prefill_tokens: 100,
        decode_requests: 0,
        context_tokens: 100,
    };
    assert_eq!(load(&router, 0), prefill);

    router.observe(Time::ZERO, &Event::FirstToken { request: id });
    let decode = Load {
        requests: 1,
        prefill_requests: 0,
        uncached_prefill_tokens: 0,
        decode_requests: 1,
        context_tokens: 101,
    };
    assert_eq!(load(&router, 0), decode);

    router.observe(Time::ZERO, &Event::Progress { request: id, output_tokens: 30 });
    assert_eq!(load(&router, 0), Load { context_tokens: 130, ..decode });
    // Late news of an earlier token.
    router.observe(Time::ZERO, &Event::Progress { request: id, output_tokens: 20 });
    assert_eq!(load(&router, 0), Load { context_tokens: 130, ..decode });

    router.observe(Time::ZERO, &Event::Finished { request: id, usage: Usage::default() });
    assert_eq!(load(&router, 0), Load::default());
}

#[test]
fn a_request_that_was_not_dispatched_may_be_routed_again() {
    let mut router = router("least-request", 2);
    let first = route(&mut router, &request(1, 100));
    let duplicate = Err(Rejected::DuplicateRequest { request: RequestId(1) });
    assert_eq!(router.route(Time::ZERO, &request(1, 100)), duplicate);
    assert_eq!(load(&router, first).requests, 1);

    router.observe(Time::ZERO, &Event::DispatchFailed { request: RequestId(1) });
    assert_eq!(load(&router, first).requests, 0);
    let second = route(&mut router, &request(1, 100));
    assert_eq!(load(&router, second).requests, 1);
}
