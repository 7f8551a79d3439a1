//! What a policy's prefix source believes to be where: the right index, fed with what that source hears.

use crate::event::{InstanceId, InstanceSpec};
use crate::information::{Capacity, PrefixSource};
use crate::prefix_index::{Match, PrefixIndex, SharedIndex};
use crate::request::{BlockHash, RequestId};
use crate::time::Time;

/// vLLM's default, for [`Capacity::PerEngineBlock`]: a router knows an engine's capacity in tokens.
const ENGINE_BLOCK_TOKENS: u64 = 16;

/// An index, and what it listens to.
#[derive(Debug)]
pub(crate) struct PrefixKnowledge {
    source: PrefixSource,
    store: Store,
    /// Every so many hashes of a request make one block of the index.
    stride: usize,
    /// Tokens of one block of the index.
    block_tokens: u32,
    /// Every `stride`-th hash of the last [`lookup`](Self::lookup), if that is not every one.
    thinned: Vec<BlockHash>,
}

#[derive(Debug)]
enum Store {
    Nothing,
    PerInstance(PrefixIndex),
    Shared(SharedIndex),
}

impl PrefixKnowledge {
    /// Empty knowledge; a request's hashes stand for blocks of `request_block_tokens`.
    pub(crate) fn new(source: PrefixSource, request_block_tokens: u32) -> Self {
        let stride = match source {
            PrefixSource::OwnRouting { block_tokens, .. } => {
                (block_tokens / request_block_tokens).max(1)
            }
            PrefixSource::None
            | PrefixSource::CapacityAware
            | PrefixSource::RoutingAndEvents
            | PrefixSource::KvEvents => 1,
        };
        let block_tokens = stride * request_block_tokens;
        let store = match source {
            PrefixSource::None => Store::Nothing,
            PrefixSource::OwnRouting { capacity: Capacity::Shared { tokens, ttl }, .. } => {
                Store::Shared(SharedIndex::new(tokens / u64::from(block_tokens), ttl))
            }
            PrefixSource::CapacityAware
            | PrefixSource::RoutingAndEvents
            | PrefixSource::OwnRouting { .. }
            | PrefixSource::KvEvents => Store::PerInstance(PrefixIndex::default()),
        };
        Self { source, store, stride: stride as usize, block_tokens, thinned: Vec::new() }
    }

    /// Tokens behind each of [`Match::blocks`].
    pub(crate) const fn block_tokens(&self) -> u32 {
        self.block_tokens
    }

    /// An instance joins with an empty cache.
    pub(crate) fn join(&mut self, instance: InstanceId, spec: InstanceSpec) {
        let capacity_tokens = match self.source {
            PrefixSource::None | PrefixSource::CapacityAware | PrefixSource::RoutingAndEvents => {
                spec.kv_capacity_tokens
            }
            PrefixSource::OwnRouting { capacity: Capacity::PerInstance { tokens }, .. } => tokens,
            PrefixSource::OwnRouting {
                capacity: Capacity::PerEngineBlock { unknown_blocks },
                ..
            } => {
                let blocks = match spec.kv_capacity_tokens {
                    0 => unknown_blocks,
                    tokens => tokens / ENGINE_BLOCK_TOKENS,
                };
                blocks.saturating_mul(u64::from(self.block_tokens))
            }
            PrefixSource::OwnRouting { .. } | PrefixSource::KvEvents => u64::MAX,
        };
        match &mut self.store {
            Store::Nothing => {}
            Store::PerInstance(index) => {
                index.join(instance, capacity_tokens / u64::from(self.block_tokens));
            }
            Store::Shared(index) => index.join(instance),
        }
    }

    /// The instance at `position` leaves with all it holds.
    pub(crate) fn leave(&mut self, position: usize) {
        match &mut self.store {
            Store::Nothing => {}
            Store::PerInstance(index) => index.leave(position),
            Store::Shared(index) => index.leave(position),
        }
    }

    /// How much of `chain` each instance holds, by id, ascending. Empty if nothing is known of prefixes.
    pub(crate) fn lookup(&mut self, now: Time, chain: &[BlockHash], matches: &mut Vec<Match>) {
        let thinned = thin(chain, self.stride, &mut self.thinned);
        match &mut self.store {
            Store::Nothing => {}
            Store::PerInstance(index) => index.lookup(thinned, matches),
            Store::Shared(index) => index.lookup(now, thinned, matches),
        }
    }

    /// `request` with `chain`, of which [`lookup`](Self::lookup) has just said `matches`, goes to the instance at `position`.
    pub(crate) fn routed(
        &mut self,
        now: Time,
        position: usize,
        request: RequestId,
        chain: &[BlockHash],
        matches: &[Match],
    ) {
        if self.source == PrefixSource::KvEvents {
            return;
        }
        let thinned = if self.stride == 1 { chain } else { &self.thinned };
        match &mut self.store {
            Store::Nothing => {}
            Store::PerInstance(index) => {
                index.record(position, thinned, matches[position]);
                if is_corrected(self.source) {
                    index.await_prompt(position, request, thinned);
                }
            }
            Store::Shared(index) => index.record(now, position, thinned),
        }
    }

    /// The prompt of `request` is computed, or never will be.
    pub(crate) fn settled(&mut self, request: RequestId) {
        if is_corrected(self.source)
            && let Store::PerInstance(index) = &mut self.store
        {
            index.settle_prompt(request);
        }
    }

    /// The index that KV events go to, if any does.
    pub(crate) fn listener(&mut self) -> Option<&mut PrefixIndex> {
        match (&mut self.store, self.source) {
            (
                Store::PerInstance(index),
                PrefixSource::CapacityAware
                | PrefixSource::RoutingAndEvents
                | PrefixSource::KvEvents,
            ) => Some(index),
            _ => None,
        }
    }
}

/// Whether routing fills an index that KV events correct.
const fn is_corrected(source: PrefixSource) -> bool {
    matches!(source, PrefixSource::CapacityAware | PrefixSource::RoutingAndEvents)
}

/// Every `stride`-th hash, from the `stride`-th on: the last of each larger block.
fn thin<'a>(
    chain: &'a [BlockHash],
    stride: usize,
    thinned: &'a mut Vec<BlockHash>,
) -> &'a [BlockHash] {
    if stride == 1 {
        return chain;
    }
    thinned.clear();
    thinned.extend(chain.iter().skip(stride - 1).step_by(stride));
    thinned
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: InstanceSpec =
        InstanceSpec { kv_capacity_tokens: 32, max_model_len_tokens: 1 << 16 };

    fn chain(blocks: u64) -> Vec<BlockHash> {
        (1..=blocks).map(BlockHash).collect()
    }

    /// Routes `chain` to the first of two instances and says what is then known of it.
    fn matched_after_routing(source: PrefixSource, blocks: u64) -> (u32, Option<u32>) {
        let mut knowledge = PrefixKnowledge::new(source, 16);
        (0..2).for_each(|id| knowledge.join(InstanceId(id), SPEC));
        let mut matches = Vec::new();
        knowledge.lookup(Time::ZERO, &chain(blocks), &mut matches);
        knowledge.routed(Time::ZERO, 0, RequestId(0), &chain(blocks), &matches);
        knowledge.lookup(Time::ZERO, &chain(blocks), &mut matches);
        (knowledge.block_tokens(), matches.first().map(|found| found.blocks))
    }

    #[test]
    fn each_source_remembers_what_it_should() {
        let per_instance = PrefixSource::OwnRouting {
            block_tokens: 64,
            capacity: Capacity::PerInstance { tokens: 128 },
        };
        let unbounded =
            PrefixSource::OwnRouting { block_tokens: 32, capacity: Capacity::Unbounded };
        assert_eq!(matched_after_routing(PrefixSource::None, 9), (16, None));
        // 32 tokens of KV cache.
        assert_eq!(matched_after_routing(PrefixSource::CapacityAware, 9), (16, Some(2)));
        // No event was sent.
        assert_eq!(matched_after_routing(PrefixSource::KvEvents, 9), (16, Some(0)));
        // Nine blocks of 16 are two of 64 or four of 32.
        assert_eq!(matched_after_routing(per_instance, 9), (64, Some(2)));
        assert_eq!(matched_after_routing(per_instance, 13), (64, Some(2)));
        assert_eq!(matched_after_routing(unbounded, 9), (32, Some(4)));
        // 32 tokens of KV cache are two of the engine's blocks, so two of 64 tokens.
        let capacity = Capacity::PerEngineBlock { unknown_blocks: 9 };
        let per_engine_block = PrefixSource::OwnRouting { block_tokens: 64, capacity };
        assert_eq!(matched_after_routing(per_engine_block, 17), (64, Some(2)));
    }

    #[test]
    fn a_larger_block_is_named_by_its_last_hash() {
        let mut thinned = Vec::new();
        assert_eq!(thin(&chain(9), 4, &mut thinned), [BlockHash(4), BlockHash(8)]);
        assert_eq!(thin(&chain(3), 4, &mut thinned), []);
    }

    #[test]
    fn events_reach_only_those_who_listen() {
        let listens = |source| PrefixKnowledge::new(source, 16).listener().is_some();
        assert!(listens(PrefixSource::CapacityAware) && listens(PrefixSource::KvEvents));
        let own = PrefixSource::OwnRouting { block_tokens: 16, capacity: Capacity::Unbounded };
        assert!(!listens(PrefixSource::None) && !listens(own));
    }
}
