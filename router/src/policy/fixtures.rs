//! A fleet made of numbers, for the tests of policies.

use super::{Choice, Eligible, Policy};
use crate::event::{InstanceId, InstanceMetrics, InstanceSpec, Scraped};
use crate::fleet::Instance;
use crate::information::{LoadSource, PrefixSource, Sources};
use crate::ledger::{Load, Reservation};
use crate::prefix_index::Match;
use crate::request::{BlockHash, Request, RequestId};
use crate::rng::Rng;
use crate::time::{Duration, Time};

pub(super) struct Fixture {
    pub(super) instances: Vec<Instance>,
    pub(super) positions: Option<Vec<usize>>,
    matches: Vec<Match>,
    pub(super) prompt_blocks: Vec<BlockHash>,
    pub(super) request: Request<'static>,
    pub(super) now: Time,
    pub(super) sources: Sources,
}

impl Fixture {
    /// Instances 0, 1, 2 and so on, with so many requests in flight each.
    pub(super) fn with_requests(requests: &[u32]) -> Self {
        let instance = |(id, &requests)| Instance {
            id: InstanceId(id),
            spec: InstanceSpec { kv_capacity_tokens: 1 << 20, max_model_len_tokens: 1 << 16 },
            load: Load { requests, decode_requests: requests, ..Load::default() },
            scraped: None,
        };
        let instances = (0..).zip(requests).map(instance).collect();
        Self {
            instances,
            positions: None,
            matches: Vec::new(),
            prompt_blocks: Vec::new(),
            request: Request {
                id: RequestId(0),
                prompt_tokens: 1,
                block_hashes: &[],
                session: None,
                priority: 0,
            },
            now: Time::ZERO,
            sources: Sources {
                load: LoadSource::InFlight,
                scrape_period: None,
                prefix: PrefixSource::CapacityAware,
            },
        }
    }

    /// A prompt of `blocks` blocks, of which each instance has so many.
    pub(super) fn with_matches(mut self, blocks: u64, matched_blocks: &[u32]) -> Self {
        self.matches = matched_blocks.iter().copied().map(Match::of).collect();
        self.prompt_blocks = (0..blocks).map(BlockHash).collect();
        self.request.prompt_tokens = 16 * blocks as u32 + 1;
        self
    }

    /// A prompt of `blocks` blocks, of which each instance was sent so many, then.
    pub(super) fn with_routing_times(self, blocks: u64, sent: &[(u32, Option<Time>)]) -> Self {
        let matched_blocks: Vec<u32> = sent.iter().map(|(blocks, _)| *blocks).collect();
        let mut fixture = self.with_matches(blocks, &matched_blocks);
        for (found, &(_, routed_at)) in fixture.matches.iter_mut().zip(sent) {
            found.routed_at = routed_at;
        }
        fixture
    }

    /// Looks at metrics, and counts by them.
    pub(super) fn scraping(mut self) -> Self {
        self.sources.load = LoadSource::Scraped;
        self.sources.scrape_period = Some(Duration::from_millis(100));
        self
    }

    /// The last scrape of each instance: running, waiting, KV usage.
    pub(super) fn with_metrics(mut self, metrics: &[(u32, u32, f64)]) -> Self {
        for (instance, &(running_requests, waiting_requests, kv_usage)) in
            self.instances.iter_mut().zip(metrics)
        {
            let metrics = InstanceMetrics {
                running_requests,
                waiting_requests,
                kv_usage,
                ..InstanceMetrics::default()
            };
            instance.scraped = Some(Scraped { at: Time::ZERO, metrics });
        }
        self
    }

    /// Prompt tokens without a first token on each instance, and tokens of all its requests.
    pub(super) fn with_tokens(mut self, tokens: &[(u64, u64)]) -> Self {
        for (instance, &(uncached, context)) in self.instances.iter_mut().zip(tokens) {
            instance.load.uncached_prefill_tokens = uncached;
            instance.load.context_tokens = context;
        }
        self
    }

    /// What each index holds of any prompt.
    pub(super) fn with_held_blocks(mut self, held_blocks: &[u64]) -> Self {
        for (found, &held_blocks) in self.matches.iter_mut().zip(held_blocks) {
            found.held_blocks = held_blocks;
        }
        self
    }

    /// The reservation of request `id` on an instance, made at time zero.
    pub(super) fn reservation(id: u64, instance: u32, uncached_tokens: u32) -> Reservation {
        Reservation {
            request: RequestId(id),
            policy_number: 0,
            instance: InstanceId(instance),
            session: None,
            routed_at: Time::ZERO,
            prompt_tokens: uncached_tokens,
            uncached_tokens,
            queued_tokens: u64::from(uncached_tokens),
            first_token_at: None,
            output_tokens: 0,
        }
    }

    /// Leaves only some of them eligible.
    pub(super) fn only(&mut self, positions: &[usize]) {
        self.positions = Some(positions.to_vec());
    }

    /// What the policy answers, and the id that this means.
    pub(super) fn choose(&self, policy: &mut dyn Policy) -> (Choice, u32) {
        self.choose_with(policy, &mut Rng::fork(0, "test"))
    }

    pub(super) fn choose_with(&self, policy: &mut dyn Policy, rng: &mut Rng) -> (Choice, u32) {
        let eligible = Eligible {
            instances: &self.instances,
            positions: self.positions.as_deref(),
            matches: &self.matches,
            match_block_tokens: 16,
            reusable_tokens: 16 * self.prompt_blocks.len() as u32,
            sources: self.sources,
        };
        let request = Request { block_hashes: &self.prompt_blocks, ..self.request };
        let choice = policy.choose(self.now, &request, &eligible, rng);
        let chosen = eligible.get(choice.index).id.0;
        (choice, chosen)
    }

    /// The scores of a choice.
    pub(super) fn scores(&self, policy: &mut dyn Policy) -> Vec<f64> {
        self.choose(policy).0.candidates.iter().map(|candidate| candidate.score).collect()
    }
}

/// How often each id is chosen, and the last choice.
pub(super) fn frequencies(
    policy: &mut dyn Policy,
    fixture: &Fixture,
    draws: u32,
) -> (Choice, Vec<u32>) {
    let mut rng = Rng::fork(0, "test");
    let mut counts = vec![0; fixture.instances.len()];
    let mut last = None;
    for _ in 0..draws {
        let (choice, chosen) = fixture.choose_with(policy, &mut rng);
        counts[chosen as usize] += 1;
        last = Some(choice);
    }
    (last.expect("at least one draw"), counts)
}
