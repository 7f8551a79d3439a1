//! What the router believes to be cached where.

use lodestar_router::{
    Event, Information, InstanceId, InstanceSpec, PolicyConfig, Reason, Request, RequestId, Router,
    RouterConfig, Time,
};

use crate::{SPEC, blocks, join, leave, load, request, request_with, route, router_with};

/// A router whose prefix index knows each instance's capacity and listens to KV events.
fn ideal(policy: &str, instances: u32) -> Router {
    router_with(policy, Information::Ideal, instances)
}

#[test]
fn a_conversation_returns_to_its_instance() {
    let mut router = ideal("prefix-cache", 2);
    let conversation = blocks(1, 20);
    let first = router.route(Time::ZERO, &request_with(1, &conversation[..10])).unwrap();
    assert_eq!((first.reason, first.prefix_hit_tokens), (Reason::NoPrefixHit, 0));

    let second = router.route(Time::ZERO, &request_with(2, &conversation)).unwrap();
    assert_eq!((second.instance, second.reason), (first.instance, Reason::PrefixHit));
    assert_eq!(second.prefix_hit_tokens, 160);
    // 163 tokens of the first, and 323 of the second of which 160 are cached.
    assert_eq!(load(&router, first.instance.0).uncached_prefill_tokens, 163 + 163);
}

#[test]
fn the_last_token_is_never_a_hit() {
    let mut router = ideal("prefix-cache", 1);
    let conversation = blocks(1, 10);
    route(&mut router, &request_with(1, &conversation));
    let mut hit_tokens = |id, prompt_tokens| {
        let request = Request { prompt_tokens, ..request_with(id, &conversation) };
        router.route(Time::ZERO, &request).unwrap().prefix_hit_tokens
    };
    assert_eq!([(2, 160), (3, 161)].map(|(id, tokens)| hit_tokens(id, tokens)), [144, 160]);
}

#[test]
fn only_policies_that_look_at_prefixes_expect_a_hit() {
    let conversation = blocks(1, 10);
    for policy in PolicyConfig::all() {
        for information in [Information::Deployed, Information::Ideal] {
            let config = RouterConfig { information, ..RouterConfig::new(policy.clone()) };
            let sources = config.describe_sources();
            let mut router = Router::new(config, 1);
            join(&mut router, 0, SPEC);
            route(&mut router, &request_with(1, &conversation));
            let decision = router.route(Time::ZERO, &request_with(2, &conversation)).unwrap();
            // Ten blocks of 16, of which two of 64.
            let expected = match sources.as_str() {
                _ if sources.contains("blocks of 64") => 128,
                _ if sources.contains("own routing") => 160,
                _ => 0,
            };
            assert_eq!(decision.prefix_hit_tokens, expected, "{} {sources}", policy.name());
        }
    }
}

#[test]
fn an_instance_remembers_no_more_than_its_cache_holds() {
    let mut router = ideal("prefix-cache", 0);
    join(&mut router, 0, InstanceSpec { kv_capacity_tokens: 16 * 12 + 15, ..SPEC });
    let (old, new) = (blocks(1, 10), blocks(2, 5));
    route(&mut router, &request_with(1, &old));
    route(&mut router, &request_with(2, &new));
    // Twelve blocks: all five of the new, and of the old the first seven.
    let decision = router.route(Time::ZERO, &request_with(3, &old)).unwrap();
    assert_eq!(decision.prefix_hit_tokens, 7 * 16);
}

#[test]
fn kv_events_correct_what_was_assumed() {
    let mut router = ideal("prefix-cache", 2);
    let conversation = blocks(1, 10);
    let instance = InstanceId(1);
    let hits = |router: &mut Router, id| {
        let decision = router.route(Time::ZERO, &request_with(id, &conversation)).unwrap();
        router.observe(Time::ZERO, &Event::Aborted { request: RequestId(id) });
        let hits = decision.candidates.iter().map(|candidate| candidate.prefix_hit_tokens / 16);
        (decision.instance.0, hits.collect::<Vec<_>>())
    };
    router.observe(
        Time::ZERO,
        &Event::BlocksStored { instance, parent: None, blocks: conversation[..4].into() },
    );
    let parent = Some(conversation[3]);
    router.observe(
        Time::ZERO,
        &Event::BlocksStored { instance, parent, blocks: conversation[4..6].into() },
    );
    assert_eq!(hits(&mut router, 1), (1, vec![0, 6]));
    // Routing has recorded all ten.
    router
        .observe(Time::ZERO, &Event::BlocksRemoved { instance, blocks: conversation[8..].into() });
    assert_eq!(hits(&mut router, 2), (1, vec![0, 8]));
    // A block takes along what follows it.
    router
        .observe(Time::ZERO, &Event::BlocksRemoved { instance, blocks: conversation[2..3].into() });
    assert_eq!(hits(&mut router, 3), (1, vec![0, 2]));
    router.observe(Time::ZERO, &Event::BlocksCleared { instance });
    assert_eq!(hits(&mut router, 4).1, [0, 0]);
}

#[test]
fn an_instance_that_leaves_is_forgotten() {
    let mut router = ideal("prefix-cache", 2);
    let conversation = blocks(1, 10);
    let first = route(&mut router, &request_with(1, &conversation));
    leave(&mut router, first);
    join(&mut router, 2, SPEC);
    let decision = router.route(Time::ZERO, &request_with(2, &conversation)).unwrap();
    assert_eq!((decision.reason, decision.prefix_hit_tokens), (Reason::NoPrefixHit, 0));
}

#[test]
#[should_panic(expected = "10 full blocks are more than a prompt of 159 tokens has")]
fn a_prompt_cannot_have_more_blocks_than_tokens() {
    let conversation = blocks(1, 10);
    let request = Request { block_hashes: &conversation, ..request(1, 159) };
    let _ = ideal("prefix-cache", 1).route(Time::ZERO, &request);
}
