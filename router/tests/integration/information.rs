//! What each policy's own implementation does not see.

use lodestar_router::{
    Duration, Event, Information, InstanceId, InstanceMetrics, PolicyConfig, RequestId, Router,
    RouterConfig, Scraped, Time,
};

use crate::{blocks, request, request_with, route, router_with};

fn config(name: &str, information: Information) -> RouterConfig {
    let policy = PolicyConfig::from_name(name).expect("the name of a policy");
    RouterConfig { information, ..RouterConfig::new(policy) }
}

fn scrape(router: &mut Router, instance: u32, millis: u64, waiting_requests: u32) {
    let at = Time::ZERO + Duration::from_millis(millis);
    let metrics = InstanceMetrics { waiting_requests, ..InstanceMetrics::default() };
    let instance = InstanceId(instance);
    router.observe(at, &Event::MetricsScraped { instance, scraped: Scraped { at, metrics } });
}

#[test]
fn a_driver_learns_what_to_send() {
    let period = |name| config(name, Information::Deployed).scrape_period();
    assert_eq!(period("least-request"), None);
    assert_eq!(period("llm-d-weighted"), Some(Duration::from_millis(50)));
    assert_eq!(period("sglang-cache-aware"), Some(Duration::from_secs(10)));
    const BLIND: [&str; 12] = [
        "random",
        "round-robin",
        "least-request",
        "power-of-two",
        "least-kv",
        "mooncake-simple",
        "sglang-least-load",
        "bounded-hash",
        "session-affinity",
        "least-tokens",
        "least-latency",
        "vtc",
    ];
    for policy in PolicyConfig::all() {
        let name = policy.name();
        let deployed = config(&name, Information::Deployed);
        let needs = matches!(&*name, "dynamo" | "mooncake");
        assert_eq!(deployed.needs_kv_events(), needs, "{name}");
        assert_eq!(deployed.uses_kv_events(), needs || name == "lodestar", "{name}");
        // Lodestar's index hears of other routers' requests; who looks at no prefix has none.
        let ideal = config(&name, Information::Ideal);
        assert!(!ideal.needs_kv_events(), "{name}");
        assert_eq!(ideal.uses_kv_events(), !BLIND.contains(&&*name), "{name}");
        let period = deployed.scrape_period().filter(|_| name == "lodestar");
        assert_eq!(ideal.scrape_period(), period, "{name}");
    }
}

#[test]
fn decisions_between_two_scrapes_do_not_see_each_other() {
    let chosen = |information| -> Vec<u32> {
        let mut router = router_with("llm-d-weighted", information, 2);
        scrape(&mut router, 0, 0, 1);
        scrape(&mut router, 1, 0, 0);
        (0..4).map(|id| route(&mut router, &request(id, 100))).collect()
    };
    assert_eq!(chosen(Information::Deployed), [1, 1, 1, 1]);
    let ideal = chosen(Information::Ideal);
    assert_eq!(ideal.iter().sum::<u32>(), 2, "{ideal:?}");
}

#[test]
fn a_listener_to_events_believes_nothing_else() {
    let conversation = blocks(1, 10);
    let mut router = router_with("dynamo", Information::Deployed, 2);
    let hits = |router: &mut Router, id| -> Vec<u32> {
        let decision = router.route(Time::ZERO, &request_with(id, &conversation)).unwrap();
        router.observe(Time::ZERO, &Event::Aborted { request: RequestId(id) });
        decision.candidates.iter().map(|candidate| candidate.prefix_hit_tokens).collect()
    };
    assert_eq!(hits(&mut router, 1), [0, 0]);
    assert_eq!(hits(&mut router, 2), [0, 0]);
    let instance = InstanceId(1);
    let stored = blocks(1, 6);
    router.observe(
        Time::ZERO,
        &Event::BlocksStored { instance, parent: None, blocks: stored.as_slice().into() },
    );
    assert_eq!(hits(&mut router, 3), [0, 96]);
    router.observe(Time::ZERO, &Event::BlocksRemoved { instance, blocks: stored[5..].into() });
    assert_eq!(hits(&mut router, 4), [0, 80]);
}

#[test]
fn an_index_without_capacities_believes_in_caches_that_are_full() {
    // 100,000 tokens of KV cache, and fourteen conversations of 8,000.
    let hit_of_the_first = |information| {
        let mut router = router_with("prefix-cache", information, 1);
        for conversation in 0..14 {
            let blocks = blocks(conversation, 500);
            route(&mut router, &request_with(conversation, &blocks));
        }
        let blocks = blocks(0, 500);
        router.route(Time::ZERO, &request_with(99, &blocks)).unwrap().prefix_hit_tokens
    };
    assert_eq!(hit_of_the_first(Information::Deployed), 8000);
    assert_eq!(hit_of_the_first(Information::Ideal), 0);
}
