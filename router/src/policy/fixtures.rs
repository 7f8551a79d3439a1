//! A fleet made of numbers, for the tests of policies.

use super::{Choice, Eligible, Policy};
use crate::event::{InstanceId, InstanceSpec};
use crate::fleet::Instance;
use crate::ledger::Load;
use crate::prefix_index::Match;
use crate::request::{BlockHash, Request, RequestId};
use crate::rng::Rng;
use crate::time::Time;

pub(super) struct Fixture {
    pub(super) instances: Vec<Instance>,
    pub(super) positions: Option<Vec<usize>>,
    matches: Vec<Match>,
    prompt_blocks: Vec<BlockHash>,
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
        Self { instances, positions: None, matches: Vec::new(), prompt_blocks: Vec::new() }
    }

    /// A prompt of `blocks` blocks, of which each instance has so many.
    pub(super) fn with_matches(mut self, blocks: u64, matched_blocks: &[u32]) -> Self {
        self.matches = matched_blocks.iter().copied().map(Match::of).collect();
        self.prompt_blocks = (0..blocks).map(BlockHash).collect();
        self
    }

    /// Leaves only some of them eligible.
    pub(super) fn only(&mut self, positions: &[usize]) {
        self.positions = Some(positions.to_vec());
    }

    /// What the policy answers, and the id that this means.
    pub(super) fn choose(&self, policy: &mut dyn Policy) -> (Choice, u32) {
        self.choose_with(policy, &mut Rng::fork(0, "test"))
    }

    fn choose_with(&self, policy: &mut dyn Policy, rng: &mut Rng) -> (Choice, u32) {
        let eligible = Eligible {
            instances: &self.instances,
            positions: self.positions.as_deref(),
            matches: &self.matches,
            block_tokens: 16,
            reusable_blocks: self.prompt_blocks.len() as u32,
        };
        let request = Request {
            id: RequestId(0),
            prompt_tokens: 16 * self.prompt_blocks.len() as u32 + 1,
            block_hashes: &self.prompt_blocks,
            session: None,
            priority: 0,
        };
        let choice = policy.choose(Time::ZERO, &request, &eligible, rng);
        let chosen = eligible.get(choice.index).id.0;
        (choice, chosen)
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
