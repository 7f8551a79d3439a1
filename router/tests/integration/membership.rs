//! Instances join, leave, and accept only so much.

use lodestar_router::{
    Event, InstanceId, InstanceMetrics, InstanceSpec, Load, PolicyConfig, Rejected, RequestId,
    Router, Scraped, Time,
};

use crate::{SPEC, blocks, join, leave, load, request, request_with, route, router};

#[test]
fn an_empty_fleet_rejects() {
    for policy in PolicyConfig::NAMES {
        assert_eq!(
            router(policy, 0).route(Time::ZERO, &request(1, 10)),
            Err(Rejected::NoInstance),
            "{policy}"
        );
    }
}

#[test]
fn a_prompt_goes_only_where_it_fits() {
    for policy in PolicyConfig::NAMES {
        let mut router = router(policy, 0);
        for (instance, max_model_len_tokens) in [(0, 1000), (1, 4000), (2, 2000)] {
            join(&mut router, instance, InstanceSpec { max_model_len_tokens, ..SPEC });
        }
        for id in 0..20 {
            assert_ne!(route(&mut router, &request(id, 1000)), 0, "{policy}");
            assert_eq!(route(&mut router, &request(100 + id, 2000)), 1, "{policy}");
        }
        assert_eq!(route(&mut router, &request(200, 3999)), 1, "{policy}");
        let before = load(&router, 1);
        let too_long =
            Rejected::PromptTooLong { prompt_tokens: 4000, longest_accepted_tokens: 3999 };
        assert_eq!(router.route(Time::ZERO, &request(201, 4000)), Err(too_long), "{policy}");
        assert_eq!(load(&router, 1), before, "{policy}");
    }
}

#[test]
fn every_instance_is_reached_and_none_that_left() {
    for policy in PolicyConfig::NAMES {
        let mut router = router(policy, 4);
        let reached = |router: &mut Router, ids: std::ops::Range<u64>| {
            let mut reached: Vec<_> = ids.map(|id| route(router, &request(id, 100))).collect();
            reached.sort_unstable();
            reached.dedup();
            reached
        };
        assert_eq!(reached(&mut router, 0..100), [0, 1, 2, 3], "{policy}");
        leave(&mut router, 1);
        join(&mut router, 9, SPEC);
        assert_eq!(reached(&mut router, 100..200), [0, 2, 3, 9], "{policy}");
    }
}

#[test]
fn an_instance_that_leaves_takes_its_reservations_along() {
    let mut router = router("round-robin", 2);
    assert_eq!(route(&mut router, &request(1, 100)), 0);
    assert_eq!(route(&mut router, &request(2, 100)), 1);
    leave(&mut router, 0);
    // Late news of the dead.
    router.observe(Time::ZERO, &Event::FirstToken { request: RequestId(1) });
    router.observe(Time::ZERO, &Event::Aborted { request: RequestId(1) });
    assert_eq!(load(&router, 1).requests, 1);
    assert_eq!(route(&mut router, &request(1, 100)), 1);
    assert_eq!(load(&router, 1).requests, 2);
}

#[test]
fn a_second_join_changes_nothing() {
    let mut router = router("prefix-cache", 1);
    let conversation = blocks(1, 10);
    route(&mut router, &request_with(1, &conversation));
    join(&mut router, 0, InstanceSpec { max_model_len_tokens: 1, ..SPEC });
    assert_eq!(router.fleet().instances().len(), 1);
    assert_eq!(load(&router, 0).requests, 1);
    let decision = router.route(Time::ZERO, &request_with(2, &conversation)).unwrap();
    assert_eq!(decision.prefix_hit_tokens, 160);
}

#[test]
fn facts_about_strangers_are_ignored() {
    let mut router = router("prefix-cache", 1);
    let instance = InstanceId(7);
    let stored = blocks(1, 3);
    let scraped = Scraped { at: Time::ZERO, metrics: InstanceMetrics::default() };
    let facts = [
        Event::InstanceLeft { instance },
        Event::MetricsScraped { instance, scraped },
        Event::BlocksStored { instance, parent: None, blocks: stored.as_slice().into() },
        Event::BlocksRemoved { instance, blocks: stored.as_slice().into() },
        Event::BlocksCleared { instance },
        Event::Dispatched { request: RequestId(9) },
        Event::Timer,
    ];
    facts.iter().for_each(|fact| router.observe(Time::ZERO, fact));
    assert_eq!(router.fleet().instances().len(), 1);
    assert_eq!(load(&router, 0), Load::default());
    assert_eq!(router.fleet().get(InstanceId(0)).unwrap().scraped, None);
}

#[test]
fn an_older_scrape_that_arrives_later_is_dropped() {
    let mut router = router("least-kv", 2);
    let scrape = |router: &mut Router, instance, millis: u64, kv_usage| {
        let at = Time::from_nanos(millis * 1_000_000);
        let metrics = InstanceMetrics { kv_usage, ..InstanceMetrics::default() };
        router.observe(
            at,
            &Event::MetricsScraped {
                instance: InstanceId(instance),
                scraped: Scraped { at, metrics },
            },
        );
    };
    scrape(&mut router, 0, 20, 0.9);
    scrape(&mut router, 1, 20, 0.5);
    scrape(&mut router, 0, 10, 0.1);
    assert_eq!(route(&mut router, &request(1, 100)), 1);
    scrape(&mut router, 0, 30, 0.2);
    assert_eq!(route(&mut router, &request(2, 100)), 0);
}
