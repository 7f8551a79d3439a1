//! One list of blocks for the whole fleet, as AIBrix keeps it: who was sent a block, and when last.
//!
//! What it does not know is what makes it interesting: no instance has a capacity of its own, so an
//! instance that got many prompts is believed to hold all of them. Three more details are AIBrix's:
//!
//! * only routing refreshes a block, a lookup does not;
//! * the blocks of a prompt are refreshed from the first to the last, so that of the oldest prompt the
//!   *head* is evicted first, and with it everything behind it is out of reach;
//! * an instance that lacks a block is out of the search from there on, even if it holds a later one.
//!
//! AIBrix looks for expired blocks once a second; here a block expires on time.

use super::Match;
use crate::block_map::BlockMap;
use crate::event::InstanceId;
use crate::request::BlockHash;
use crate::time::{Duration, Time};

const NONE: u32 = u32::MAX;

/// Blocks by last routing.
#[derive(Debug)]
pub(crate) struct SharedIndex {
    capacity_blocks: u64,
    ttl: Duration,
    /// By id, ascending.
    members: Vec<Member>,
    /// What is found, by slot: scratch of [`lookup`](Self::lookup). `None` for those who left.
    found: Vec<Option<Match>>,
    entries: BlockMap<u32>,
    slab: Vec<Entry>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
}

/// One instance; its slot is its number among holders, never used again.
#[derive(Clone, Copy, Debug)]
struct Member {
    instance: InstanceId,
    slot: u32,
}

#[derive(Debug)]
struct Entry {
    block: BlockHash,
    last_routed: Time,
    newer: u32,
    older: u32,
    holders: Vec<Holder>,
}

/// Who was sent a block, and when last.
#[derive(Clone, Copy, Debug)]
struct Holder {
    slot: u32,
    routed_at: Time,
}

impl SharedIndex {
    pub(crate) fn new(capacity_blocks: u64, ttl: Duration) -> Self {
        Self {
            capacity_blocks,
            ttl,
            members: Vec::new(),
            found: Vec::new(),
            entries: BlockMap::default(),
            slab: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
        }
    }

    /// An instance joins with an empty cache.
    pub(crate) fn join(&mut self, instance: InstanceId) {
        let position = self.members.partition_point(|member| member.instance < instance);
        let slot = u32::try_from(self.found.len()).expect("fewer instances than 2^32");
        self.found.push(Some(Match::NONE));
        self.members.insert(position, Member { instance, slot });
    }

    /// The instance at `position` leaves. Its name stays with its blocks, where nobody asks for it.
    pub(crate) fn leave(&mut self, position: usize) {
        let member = self.members.remove(position);
        self.found[member.slot as usize] = None;
    }

    /// How much of `chain` each instance was sent, by id, ascending.
    pub(crate) fn lookup(&mut self, now: Time, chain: &[BlockHash], matches: &mut Vec<Match>) {
        self.found.iter_mut().flatten().for_each(|found| *found = Match::NONE);
        for (blocks, &block) in (1_u32..).zip(chain) {
            let Some(&at) = self.entries.get(block) else { break };
            let entry = &self.slab[at as usize];
            if now.saturating_since(entry.last_routed) > self.ttl {
                break;
            }
            let mut is_held = false;
            for &Holder { slot, routed_at } in &entry.holders {
                // Who lacked an earlier block is not looked at any more.
                if let Some(found) = &mut self.found[slot as usize]
                    && found.blocks == blocks - 1
                {
                    *found = Match { routed_at: Some(routed_at), ..Match::of(blocks) };
                    is_held = true;
                }
            }
            if !is_held {
                break;
            }
        }
        matches.clear();
        let found = |member: &Member| self.found[member.slot as usize].unwrap_or(Match::NONE);
        matches.extend(self.members.iter().map(found));
    }

    /// `chain` goes to the instance at `position`.
    pub(crate) fn record(&mut self, now: Time, position: usize, chain: &[BlockHash]) {
        let slot = self.members[position].slot;
        for &block in chain {
            let at = self.entry(block);
            self.unlink(at);
            self.link_newest(at);
            let entry = &mut self.slab[at as usize];
            entry.last_routed = now;
            match entry.holders.iter_mut().find(|holder| holder.slot == slot) {
                Some(holder) => holder.routed_at = now,
                None => entry.holders.push(Holder { slot, routed_at: now }),
            }
        }
        while self.oldest != NONE && self.must_go(now, self.oldest) {
            self.evict_oldest();
        }
    }

    fn must_go(&self, now: Time, at: u32) -> bool {
        self.entries.len() as u64 > self.capacity_blocks
            || now.saturating_since(self.slab[at as usize].last_routed) > self.ttl
    }

    /// The entry of a block, made if there is none.
    fn entry(&mut self, block: BlockHash) -> u32 {
        if let Some(&at) = self.entries.get(block) {
            return at;
        }
        let at = self.free.pop().unwrap_or_else(|| {
            let (newer, older, last_routed) = (NONE, NONE, Time::ZERO);
            self.slab.push(Entry { block, last_routed, newer, older, holders: Vec::new() });
            u32::try_from(self.slab.len() - 1).expect("fewer blocks than 2^32")
        });
        self.slab[at as usize].block = block;
        self.entries.get_or_insert(block, at);
        self.link_newest(at);
        at
    }

    fn evict_oldest(&mut self) {
        let at = self.oldest;
        self.unlink(at);
        let entry = &mut self.slab[at as usize];
        entry.holders.clear();
        self.entries.remove(entry.block);
        self.free.push(at);
    }

    fn link_newest(&mut self, at: u32) {
        let before = std::mem::replace(&mut self.newest, at);
        let entry = &mut self.slab[at as usize];
        (entry.newer, entry.older) = (NONE, before);
        if before == NONE {
            self.oldest = at;
        } else {
            self.slab[before as usize].newer = at;
        }
    }

    fn unlink(&mut self, at: u32) {
        let Entry { newer, older, .. } = self.slab[at as usize];
        if newer == NONE {
            self.newest = older;
        } else {
            self.slab[newer as usize].older = older;
        }
        if older == NONE {
            self.oldest = newer;
        } else {
            self.slab[older as usize].newer = newer;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(capacity_blocks: u64) -> SharedIndex {
        let mut index = SharedIndex::new(capacity_blocks, Duration::from_secs(10));
        [2, 0, 1].into_iter().for_each(|id| index.join(InstanceId(id)));
        index
    }

    fn chain(blocks: impl IntoIterator<Item = u64>) -> Vec<BlockHash> {
        blocks.into_iter().map(BlockHash).collect()
    }

    fn at(secs: u64) -> Time {
        Time::from_nanos(secs * 1_000_000_000)
    }

    fn found(index: &mut SharedIndex, now: Time, chain: &[BlockHash]) -> Vec<u32> {
        let mut matches = Vec::new();
        index.lookup(now, chain, &mut matches);
        matches.iter().map(|found| found.blocks).collect()
    }

    #[test]
    fn an_instance_holds_what_it_was_sent() {
        let mut index = index(100);
        index.record(at(0), 0, &chain(1..=4));
        index.record(at(0), 2, &chain([1, 2, 9]));
        assert_eq!(found(&mut index, at(0), &chain(1..=4)), [4, 0, 2]);
        index.leave(0);
        assert_eq!(found(&mut index, at(0), &chain(1..=4)), [0, 2]);
    }

    #[test]
    fn each_instance_has_its_own_time_of_the_last_block_that_matches() {
        let mut index = index(100);
        index.record(at(1), 0, &chain(1..=4));
        index.record(at(3), 1, &chain(1..=2));
        index.record(at(5), 0, &chain(1..=3));
        let mut matches = Vec::new();
        index.lookup(at(6), &chain(1..=4), &mut matches);
        let times: Vec<_> = matches.iter().map(|found| found.routed_at).collect();
        assert_eq!(times, [Some(at(1)), Some(at(3)), None]);
    }

    #[test]
    fn the_head_of_the_oldest_prompt_goes_first() {
        let mut index = index(6);
        index.record(at(0), 0, &chain(1..=4));
        index.record(at(0), 1, &chain(11..=13));
        // Seven blocks where six fit: 1 is gone, and 2, 3, 4 are out of reach.
        assert_eq!(found(&mut index, at(0), &chain(1..=4)), [0, 0, 0]);
        // Sent elsewhere, it is back, and 2 goes in its place.
        index.record(at(0), 2, &chain([1]));
        assert_eq!(found(&mut index, at(0), &chain(1..=4)), [0, 0, 1]);
        // With 2 back too, 4 goes; instance 0 still has its 3, but lacks 1.
        index.record(at(0), 2, &chain(1..=3));
        assert_eq!(found(&mut index, at(0), &chain(1..=4)), [0, 0, 3]);
    }

    #[test]
    fn a_block_expires_after_its_last_routing() {
        let mut index = index(100);
        index.record(at(0), 0, &chain(1..=4));
        // A lookup refreshes nothing, a routing does.
        assert_eq!(found(&mut index, at(9), &chain(1..=4)), [4, 0, 0]);
        index.record(at(9), 0, &chain(1..=2));
        assert_eq!(found(&mut index, at(12), &chain(1..=4)), [2, 0, 0]);
        index.record(at(12), 1, &chain([7]));
        assert_eq!(index.entries.len(), 3, "expired blocks are dropped");
    }
}
