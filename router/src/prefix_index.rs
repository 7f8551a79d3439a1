//! Which instance should hold which blocks: predicted from what was routed, corrected by KV events.
//!
//! One map for the whole fleet, from a block to those who hold it. A map for each instance would be
//! simpler, but then a decision asks each of them; here a lookup finds where along the prompt the set
//! of holders shrinks, in a few dozen probes however large the fleet. Two facts make that a binary
//! search:
//!
//! * what an instance holds is closed under prefixes: a block goes when its parent goes. vLLM evicts a
//!   chain from its tail too, and a block behind a gap cannot be hit;
//! * hashes are chained, so the holders of a block are among the holders of the block before it.
//!
//! Each instance holds at most what its KV cache can, least recently used first out. Memory is
//! proportional to the most that was held at once, not to what instances could hold.
//!
//! A prompt is recorded when it is routed, and may wait in a queue for longer than a cache lasts. So where KV events are heard too,
//! prompts that are not computed yet are awaited: the index says what will be there when the next request has its
//! turn, and an event, which says what is there now, can neither remove them nor push them out.

mod forest;
mod holders;
mod shared;

use std::collections::VecDeque;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::event::InstanceId;
use crate::request::{BlockHash, RequestId};
use crate::time::Time;
use forest::{Forest, NodeId};
use holders::{Holder, HolderMap};
pub(crate) use shared::SharedIndex;

/// How much of a prompt one instance holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Match {
    /// Blocks, from the first on.
    pub(crate) blocks: u32,
    /// The last of them.
    tip: NodeId,
    /// Blocks that it holds of any prompt.
    pub(crate) held_blocks: u64,
    /// When the last of [`blocks`](Self::blocks) was last routed there; `None` from an index without times.
    pub(crate) routed_at: Option<Time>,
}

/// Blocks whose places in memory are fetched together: as many as a processor waits for at a time.
const FETCHED: usize = 16;

impl Match {
    pub(crate) const NONE: Self = Self::of(0);

    /// A match that can be ranked but not recorded.
    pub(crate) const fn of(blocks: u32) -> Self {
        Self { blocks, tip: NodeId::NONE, held_blocks: 0, routed_at: None }
    }
}

/// Blocks and their holders.
#[derive(Clone, Debug, Default)]
pub(crate) struct PrefixIndex {
    holders: HolderMap,
    forest: Forest,
    /// By id, ascending.
    members: Vec<Member>,
    /// By [`Member::slot`]; scratch of [`lookup`](Self::lookup), and the count of slots ever used.
    found: Vec<Match>,
    free_slots: Vec<u32>,
    /// Where requests were routed that are not computed yet, and the last block of each.
    awaited: HashMap<RequestId, Awaited, FxBuildHasher>,
    /// How many requests are to compute a prompt with this last block.
    awaiting: HashMap<Awaited, u32, FxBuildHasher>,
}

/// The end of a prompt that an instance, by its slot, is to compute.
type Awaited = (u32, BlockHash);

/// One instance and its cache.
#[derive(Clone, Debug)]
struct Member {
    instance: InstanceId,
    /// Its number among holders: small and reused, unlike its id.
    slot: u32,
    root: NodeId,
    held_blocks: u64,
    capacity_blocks: u64,
    /// Awaited prompts in the order in which they were routed, the first of them not settled; its last block.
    queue: VecDeque<(RequestId, BlockHash)>,
}

impl PrefixIndex {
    /// An instance joins with an empty cache.
    pub(crate) fn join(&mut self, instance: InstanceId, capacity_blocks: u64) {
        let Err(position) = self.members.binary_search_by_key(&instance, |member| member.instance)
        else {
            panic!("instance {} joins twice", instance.0);
        };
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.found.push(Match::NONE);
            u32::try_from(self.found.len() - 1).expect("fewer instances than 2^32")
        });
        let root = self.forest.plant();
        let queue = VecDeque::new();
        let member = Member { instance, slot, root, held_blocks: 0, capacity_blocks, queue };
        self.members.insert(position, member);
    }

    /// The instance at `position` leaves with all it holds.
    pub(crate) fn leave(&mut self, position: usize) {
        self.clear(position);
        let member = self.members.remove(position);
        self.forest.uproot(member.root);
        self.awaited.retain(|_, &mut (slot, _)| slot != member.slot);
        self.awaiting.retain(|&(slot, _), _| slot != member.slot);
        self.free_slots.push(member.slot);
    }

    /// How much of `chain` each instance holds, by id, ascending.
    pub(crate) fn lookup(&mut self, chain: &[BlockHash], matches: &mut Vec<Match>) {
        self.found.fill(Match::NONE);
        let mut first = 0;
        while first < chain.len() {
            let holders = self.holders.get(chain[first]).len();
            if holders == 0 {
                break;
            }
            let last = last_held_by_as_many(&self.holders, chain, first, holders);
            let blocks = u32::try_from(last + 1).expect("fewer blocks in a prompt than 2^32");
            // Those who hold more are overwritten in a later round.
            for holder in self.holders.get(chain[last]) {
                self.found[holder.slot as usize] =
                    Match { blocks, tip: holder.node, ..Match::NONE };
            }
            first = last + 1;
        }
        matches.clear();
        matches.extend(self.members.iter().map(|member| Match {
            held_blocks: member.held_blocks,
            ..self.found[member.slot as usize]
        }));
    }

    /// The instance at `position` is about to hold all of `chain`; `found` is what
    /// [`lookup`](Self::lookup) has just said of the two.
    pub(crate) fn record(&mut self, position: usize, chain: &[BlockHash], found: Match) {
        let (held, new) = chain.split_at(found.blocks as usize);
        let tip = match held.last() {
            None => self.members[position].root,
            Some(last) => {
                assert!(self.forest.block(found.tip) == last.0, "the match is of another chain");
                found.tip
            }
        };
        let root = self.members[position].root;
        self.extend(position, tip, new, root);
    }

    /// The prompt of `request`, which [`record`](Self::record) was just told of, is not computed yet: until it is, news of
    /// the removal of its blocks is older than their return.
    pub(crate) fn await_prompt(
        &mut self,
        position: usize,
        request: RequestId,
        chain: &[BlockHash],
    ) {
        let Some(&last) = chain.last() else { return };
        let member = &mut self.members[position];
        member.queue.push_back((request, last));
        let awaited = (member.slot, last);
        *self.awaiting.entry(awaited).or_default() += 1;
        let before = self.awaited.insert(request, awaited);
        assert!(before.is_none(), "a request is routed to one instance at a time");
    }

    /// The prompt of `request` is computed, or never will be.
    pub(crate) fn settle_prompt(&mut self, request: RequestId) {
        let Some(awaited) = self.awaited.remove(&request) else { return };
        let is_its = |member: &&mut Member| member.slot == awaited.0;
        let member = self.members.iter_mut().find(is_its).expect("forgotten when it left");
        while member.queue.front().is_some_and(|(request, _)| !self.awaited.contains_key(request)) {
            member.queue.pop_front();
        }
        let requests = self.awaiting.get_mut(&awaited).expect("counted when it was routed");
        *requests -= 1;
        if *requests == 0 {
            self.awaiting.remove(&awaited);
        }
    }

    /// The instance at `position` says that it holds `blocks`, each the child of the one before and the
    /// first the child of `parent`. What follows a block that is not known to be there is not recorded.
    pub(crate) fn stored(
        &mut self,
        position: usize,
        parent: Option<BlockHash>,
        blocks: &[BlockHash],
    ) {
        let mut tip = self.members[position].root;
        if let Some(parent) = parent {
            let Some(node) = self.node_of(position, parent) else { return };
            tip = node;
        }
        let mut new = blocks;
        while let [block, rest @ ..] = new
            && let Some(node) = self.node_of(position, *block)
        {
            (tip, new) = (node, rest);
        }
        if let Some(newer) = self.first_awaited(position)
            && !new.is_empty()
        {
            self.extend(position, tip, new, newer);
        }
    }

    /// Where the prompt ends that the instance at `position` is to compute first; the root if there is none, and `None` if it
    /// is not held: then all that is held is newer.
    fn first_awaited(&self, position: usize) -> Option<NodeId> {
        let member = &self.members[position];
        let Some(&(_, last)) = member.queue.front() else { return Some(member.root) };
        let end = self.node_of(position, last)?;
        self.forest.descendants(end).find(|&node| self.forest.is_in_ring(node))
    }

    /// The instance at `position` no longer holds `blocks`, nor what follows them. Blocks of awaited prompts are left: they come
    /// back.
    pub(crate) fn removed(&mut self, position: usize, blocks: &[BlockHash]) {
        for &block in blocks {
            let Some(top) = self.node_of(position, block) else { continue };
            if self.has_awaited(position, top) {
                continue;
            }
            let mut node = top;
            loop {
                let child = self.forest.first_child(node);
                if !child.is_none() {
                    node = child;
                    continue;
                }
                let parent = self.forest.parent(node);
                self.remove_leaf(position, node);
                if node == top {
                    break;
                }
                node = parent;
            }
        }
    }

    /// Whether an awaited prompt ends at `top` or behind it.
    fn has_awaited(&self, position: usize, top: NodeId) -> bool {
        let slot = self.members[position].slot;
        let ends_at =
            |node| self.awaiting.contains_key(&(slot, BlockHash(self.forest.block(node))));
        !self.awaiting.is_empty() && self.forest.descendants(top).any(ends_at)
    }

    /// The instance at `position` holds nothing any more.
    pub(crate) fn clear(&mut self, position: usize) {
        let root = self.members[position].root;
        while self.evict(position, root) {}
        assert!(self.members[position].held_blocks == 0, "every leaf can be evicted");
    }

    /// Adds `blocks` behind `tip`, as many as there is room for, used right before `newer`: the root stands for now.
    fn extend(&mut self, position: usize, mut tip: NodeId, blocks: &[BlockHash], newer: NodeId) {
        let Member { slot, root, .. } = self.members[position];
        if tip != root {
            // Not to be evicted to make room for its own children.
            self.forest.leave_ring(tip);
        }
        for (index, &block) in blocks.iter().enumerate() {
            if index % FETCHED == 0 {
                let next = &blocks[index..blocks.len().min(index + FETCHED)];
                self.fetch(position, next);
            }
            if !self.make_room(position, newer) {
                break;
            }
            let node = self.forest.add(tip, block.0);
            self.holders.add(block, Holder { slot, node });
            self.members[position].held_blocks += 1;
            tip = node;
        }
        if tip != root {
            // It may have been the tip, or have turned out to be used again since.
            self.forest.use_before(if self.forest.is_in_ring(newer) { newer } else { root }, tip);
        }
    }

    /// Has memory bring what it takes to record `blocks`, and to forget as many.
    fn fetch(&mut self, position: usize, blocks: &[BlockHash]) {
        self.holders.fetch(blocks.iter().copied());
        let Member { root, held_blocks, capacity_blocks, .. } = self.members[position];
        if held_blocks + blocks.len() as u64 <= capacity_blocks {
            return;
        }
        let oldest = self.forest.oldest_leaf(root);
        let ancestors = std::iter::successors(oldest, |&node| Some(self.forest.parent(node)));
        let to_go = ancestors.take_while(|&node| node != root).take(blocks.len());
        self.holders.fetch(to_go.map(|node| BlockHash(self.forest.block(node))));
    }

    /// Makes room for a block used before `newer`. False if all that is held was used later, or may not be forgotten.
    fn make_room(&mut self, position: usize, newer: NodeId) -> bool {
        let member = &self.members[position];
        member.held_blocks < member.capacity_blocks || self.evict(position, newer)
    }

    /// Forgets the block used longest ago, if that was before `newer`; the root stands for now. False if none is forgotten.
    fn evict(&mut self, position: usize, newer: NodeId) -> bool {
        let oldest = self.forest.oldest_leaf(self.members[position].root);
        let is_older = |&leaf: &NodeId| leaf != newer && self.forest.is_in_ring(newer);
        let Some(leaf) = oldest.filter(is_older) else { return false };
        self.remove_leaf(position, leaf);
        true
    }

    fn remove_leaf(&mut self, position: usize, leaf: NodeId) {
        self.holders.remove(BlockHash(self.forest.block(leaf)), leaf);
        self.forest.remove_leaf(leaf);
        self.members[position].held_blocks -= 1;
    }

    fn node_of(&self, position: usize, block: BlockHash) -> Option<NodeId> {
        let slot = self.members[position].slot;
        self.holders.get(block).iter().find(|holder| holder.slot == slot).map(|holder| holder.node)
    }
}

/// The last block of `chain`, from `first` on, that `count` instances hold, as `first` is. Often that is the very last; otherwise
/// it gallops, then halves.
fn last_held_by_as_many(
    holders: &HolderMap,
    chain: &[BlockHash],
    first: usize,
    count: usize,
) -> usize {
    let is_held = |index: usize| holders.get(chain[index]).len() == count;
    if is_held(chain.len() - 1) {
        return chain.len() - 1;
    }
    let mut low = first;
    let mut step = 1;
    while low + step < chain.len() && is_held(low + step) {
        low += step;
        step *= 2;
    }
    let mut high = chain.len().min(low + step);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if is_held(middle) { low = middle } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests;
