//! Who holds a block: one map for the whole fleet, in shards.
//!
//! A hash table cleans up after removals by moving all that it contains, and this one has as many
//! removals as insertions: in one piece, at sixty-four instances, that stops a decision for
//! milliseconds. Each shard cleans up on its own, in microseconds.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use rustc_hash::FxBuildHasher;

use super::forest::NodeId;
use crate::request::BlockHash;

const SHARDS_LOG2: u32 = 8;

/// One instance that holds a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) slot: u32,
    pub(super) node: NodeId,
}

/// From a block to its holders.
#[derive(Clone, Debug)]
pub(super) struct HolderMap {
    shards: Vec<HashMap<BlockHash, Holders, FxBuildHasher>>,
}

/// Nearly always one instance, which then costs no allocation.
#[derive(Clone, Debug)]
enum Holders {
    One(Holder),
    Many(Vec<Holder>),
}

impl Default for HolderMap {
    fn default() -> Self {
        Self { shards: vec![HashMap::default(); 1 << SHARDS_LOG2] }
    }
}

impl HolderMap {
    /// The holders of a block, in no particular order.
    pub(super) fn get(&self, block: BlockHash) -> &[Holder] {
        match self.shards[shard_of(block)].get(&block) {
            None => &[],
            Some(Holders::One(holder)) => std::slice::from_ref(holder),
            Some(Holders::Many(holders)) => holders,
        }
    }

    /// Adds a holder.
    pub(super) fn add(&mut self, block: BlockHash, holder: Holder) {
        match self.shards[shard_of(block)].entry(block) {
            Entry::Vacant(entry) => drop(entry.insert(Holders::One(holder))),
            Entry::Occupied(mut entry) => match entry.get_mut() {
                Holders::Many(holders) => holders.push(holder),
                Holders::One(first) => {
                    let holders = vec![*first, holder];
                    entry.insert(Holders::Many(holders));
                }
            },
        }
    }

    /// Removes the holder that `node` stands for.
    pub(super) fn remove(&mut self, block: BlockHash, node: NodeId) {
        let Entry::Occupied(mut entry) = self.shards[shard_of(block)].entry(block) else {
            panic!("block {:x} is held by nobody", block.0);
        };
        match entry.get_mut() {
            Holders::One(_) => drop(entry.remove()),
            Holders::Many(holders) => {
                holders.retain(|holder| holder.node != node);
                if let [last] = holders[..] {
                    entry.insert(Holders::One(last));
                }
            }
        }
    }
}

/// Shuffled, because hashes in a trace may be small numbers.
const fn shard_of(block: BlockHash) -> usize {
    (block.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - SHARDS_LOG2)) as usize
}
