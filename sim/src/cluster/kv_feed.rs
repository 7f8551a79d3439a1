//! KV events on their way from the engines to the routers.
//!
//! Not an event of the simulation each: a router reads those that have arrived when it is about to decide or its timer
//! goes off. An engine may then go on skipping over steps.
//!
//! An engine whose blocks are not of the routers' size publishes nothing, since its hashes mean nothing to them.
//! `BlocksCleared` is never told: nothing here resets a cache but a restart, and that is a new member.

use lodestar_router::{Event as Fact, InstanceId, Time};

use super::plan::{self, PlannedKind};
use super::run::Run;
use crate::engine::KvEvent;
use crate::random::Stream;

/// Published and not delivered.
#[derive(Debug)]
pub(super) struct KvFeed {
    /// Arrival at the routers, member, event.
    under_way: Vec<(Time, u32, KvEvent)>,
    /// Decides what is lost.
    losses: Stream,
    /// Everything delivered, with the time of its arrival.
    #[cfg(test)]
    pub(super) delivered: Vec<(Time, u32, KvEvent)>,
}

impl Run<'_> {
    /// From now on the engines publish KV events and the routers hear of them.
    pub(super) fn publish_kv_events(&mut self, seed: u64) {
        // Routers are told of blocks that nobody will look for, too.
        self.shared_tokens.fill(u32::MAX);
        for member in &mut self.members {
            if member.engine.config().block_size == self.block_tokens {
                member.engine.publish_kv_events();
            }
        }
        self.kv_feed = Some(Box::new(KvFeed {
            under_way: Vec::new(),
            losses: Stream::fork(seed, "lost KV events"),
            #[cfg(test)]
            delivered: Vec::new(),
        }));
    }

    /// Tells the routers every KV event that has reached them by now.
    #[inline]
    pub(super) fn deliver_kv_events(&mut self) {
        if self.kv_feed.is_some() {
            self.deliver_what_arrived();
        }
    }

    fn deliver_what_arrived(&mut self) {
        // What is published at this very instant has not happened yet, whatever the network.
        let network_ns = self.config.instance_network.as_nanos().max(1);
        let before = Time::from_nanos((self.now.as_nanos() + 1).saturating_sub(network_ns));
        for id in 0..self.members.len() as u32 {
            self.fetch_kv_events(id, before);
        }
        let mut feed = self.kv_feed.take().expect("just seen");
        // Stable: events of one member stay in order.
        feed.under_way.sort_by_key(|&(at, id, _)| (at, id));
        let arrived = feed.under_way.partition_point(|&(at, ..)| at <= self.now);
        #[cfg(test)]
        feed.delivered.extend_from_slice(&feed.under_way[..arrived]);
        for (_, id, event) in feed.under_way.drain(..arrived) {
            let instance = InstanceId(id);
            let fact = match &event {
                KvEvent::Stored { parent, blocks } => {
                    Fact::BlocksStored { instance, parent: *parent, blocks: blocks.into() }
                }
                KvEvent::Removed { block } => {
                    Fact::BlocksRemoved { instance, blocks: std::slice::from_ref(block).into() }
                }
            };
            for replica in self.front.numbers() {
                self.tell_replica(replica, &fact);
            }
        }
        self.kv_feed = Some(feed);
    }

    /// Takes what a member published before this time, and loses some of it.
    pub(super) fn fetch_kv_events(&mut self, id: u32, before: Time) {
        let Some(feed) = &mut self.kv_feed else { return };
        let member = &mut self.members[id as usize];
        if !member.is_alive() {
            return;
        }
        let network = self.config.instance_network;
        member.engine.settle_before(before);
        while let Some((at, event)) = member.engine.take_kv_event(before) {
            let share = plan::open_window(&self.config.plan, member.instance, at, |kind| {
                if let PlannedKind::LostKvEvents { share, .. } = kind { Some(*share) } else { None }
            });
            if !share.is_some_and(|share| feed.losses.chance(share)) {
                feed.under_way.push((at + network, id, event));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lodestar_router::{BlockHash, Duration, PolicyConfig, Router, RouterConfig};
    use lodestar_traces::{Arrival, Source, Span, TraceRequest};
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::{ClusterConfig, InstanceConfig, PlannedEvent};
    use crate::content::PromptKeys;
    use crate::engine::EngineConfig;
    use crate::record::{Outcome, RequestRecord};
    use crate::step_time::{RecordedStepTime, StepTime};

    /// Group, private tokens, output tokens, gap before it in milliseconds.
    type Shape = (u64, u32, u32, u64);

    /// Every third request continues the one before with its answer.
    fn trace(shapes: &[Shape]) -> Vec<TraceRequest> {
        let mut ms = 0;
        let mut requests: Vec<TraceRequest> = Vec::new();
        for (id, &(group, private, output_tokens, gap_ms)) in (0..).zip(shapes) {
            ms += gap_ms;
            let mut prompt = vec![Span { source: Source::Hash(group), start: 0, tokens: 40 }];
            if let Some(before) = requests.last().filter(|_| id % 3 == 2) {
                prompt.clone_from(&before.prompt);
                let answer = Source::Output(before.id);
                prompt.push(Span { source: answer, start: 0, tokens: before.output_tokens });
            }
            prompt.push(Span { source: Source::Private(id), start: 0, tokens: private });
            requests.push(TraceRequest {
                id,
                arrival: Arrival::At { ns: ms * 1_000_000 },
                prompt,
                output_tokens,
                session: None,
                priority: 0,
                cache_salt: None,
            });
        }
        requests
    }

    fn cluster(asynchronous: bool, num_blocks: u32, plan: Vec<PlannedEvent>) -> ClusterConfig {
        let engine =
            EngineConfig { async_scheduling: asynchronous, ..EngineConfig::new(num_blocks, 496) };
        let law = RecordedStepTime { a_ns: 9_000_000, b_ns: 50_000, c_ns: 9_100, d_ns: 77 };
        let instance = |block_size| InstanceConfig {
            name: format!("gpu-{block_size}"),
            gpu: "gpu".into(),
            engine: EngineConfig { block_size, ..engine.clone() },
            step_time: StepTime::Recorded(law),
        };
        // The last one's blocks are of another size: it publishes nothing.
        let instances = vec![instance(16), instance(16), instance(32)];
        ClusterConfig { plan, ..ClusterConfig::new(instances) }
    }

    type Delivered = Vec<(Time, u32, KvEvent)>;

    /// Everything delivered in a run, what was still under way included; keys cached at the end.
    fn deliver(
        cluster: &ClusterConfig,
        requests: &[TraceRequest],
    ) -> (Delivered, Vec<usize>, Vec<RequestRecord>) {
        let policy = PolicyConfig::from_name("prefix-cache").expect("a known policy");
        let mut run = Run::new(cluster, requests, (RouterConfig::new(policy), 3), Router::new)
            .expect("valid");
        run.publish_kv_events(3);
        run.until_the_end(&mut |_| {}).expect("it ends");
        run.now += Duration::from_secs(1);
        run.deliver_kv_events();
        let cached = run.members.iter().map(|member| member.engine.cached_keys()).collect();
        let feed = run.kv_feed.take().expect("switched on");
        (feed.delivered, cached, run.finish().requests)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn the_events_are_the_cache_and_do_not_depend_on_the_pace(
            shapes in prop::collection::vec((0_u64..4, 1_u32..60, 1_u32..90, 0_u64..300), 1..40),
            asynchronous in any::<bool>(),
            num_blocks in 32_u32..90,
            crash_ms in prop::option::of(0_u64..3000),
        ) {
            let requests = trace(&shapes);
            // The first instance may crash and come back as member 3.
            let crash = crash_ms.map(Duration::from_millis).into_iter().flat_map(|at| {
                let event = |kind| PlannedEvent { at, instance: 0, kind };
                [event(PlannedKind::Crash), event(PlannedKind::Return)]
            });
            let cluster = cluster(asynchronous, num_blocks, crash.collect());
            let (delivered, cached, records) = deliver(&cluster, &requests);
            let slowly = ClusterConfig { step_by_step: true, ..cluster };
            prop_assert_eq!(&deliver(&slowly, &requests).0, &delivered, "fast is as slow");
            prop_assert!(delivered.is_sorted_by_key(|(at, ..)| *at));

            let mut held: Vec<BTreeMap<BlockHash, u32>> = vec![BTreeMap::new(); 4];
            let mut stored = held.clone();
            for (_, member, event) in delivered {
                let held = &mut held[member as usize];
                match event {
                    KvEvent::Stored { blocks, .. } => for block in blocks {
                        *held.entry(block).or_default() += 1;
                        *stored[member as usize].entry(block).or_default() += 1;
                    },
                    KvEvent::Removed { block } => {
                        let count = held.get_mut(&block).expect("stored before");
                        *count -= 1;
                        if *count == 0 {
                            held.remove(&block);
                        }
                    }
                }
            }
            for member in (0..cached.len()).filter(|&m| m != 2 && (m != 0 || crash_ms.is_none())) {
                prop_assert_eq!(held[member].len(), cached[member], "member {}", member);
            }
            prop_assert!(held[2].is_empty(), "it publishes nothing");
            for (record, request) in records.iter().zip(&requests) {
                let member = record.instance.unwrap().0 as usize;
                if record.outcome == Outcome::Finished && member != 2 {
                    let prompt = PromptKeys::new(&request.prompt, None, 16);
                    let told = |key| stored[member].contains_key(key);
                    prop_assert!(prompt.keys.iter().all(told), "in the words of the router");
                }
            }
        }
    }

    #[test]
    fn events_published_in_a_window_can_be_lost() {
        let requests = trace(&[(0, 30, 60, 0), (1, 30, 60, 2000), (2, 30, 60, 2000)]);
        let lost = |share| {
            let until = Duration::from_secs(3);
            let kind = PlannedKind::LostKvEvents { share, until };
            [0, 1]
                .map(|instance| PlannedEvent { at: Duration::from_secs(1), instance, kind })
                .to_vec()
        };
        let times = |plan| -> Vec<u64> {
            let mut cluster = cluster(true, 90, plan);
            cluster.instances.truncate(2);
            let (delivered, ..) = deliver(&cluster, &requests);
            delivered.iter().map(|(at, ..)| at.as_nanos() / 1_000_000_000).collect()
        };
        let all = times(vec![]);
        assert!(all.contains(&0) && all.contains(&2) && all.contains(&4));
        let outside: Vec<u64> = all.iter().copied().filter(|second| *second != 2).collect();
        assert_eq!(times(lost(1.0)), outside);
        let some = times(lost(0.5)).len();
        assert!(outside.len() < some && some < all.len());
    }
}
