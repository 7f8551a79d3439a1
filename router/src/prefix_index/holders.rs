//! Who holds a block: one map for the whole fleet, in shards.
//!
//! A table that grows moves all that it contains: in one piece, at sixty-four instances, that would stop
//! a decision for milliseconds. Each shard grows on its own, in microseconds.

use super::forest::NodeId;
use crate::block_map::BlockMap;
use crate::request::BlockHash;

const SHARDS_LOG2: u32 = 8;
/// Above the bits by which a shard's table finds a cell, so that neighbouring blocks share a shard.
const SHARD_SHIFT: u32 = 24;

/// One instance that holds a block.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holder {
    pub(super) slot: u32,
    pub(super) node: NodeId,
}

/// From a block to its holders.
#[derive(Clone, Debug)]
pub(super) struct HolderMap {
    shards: Vec<BlockMap<Holders>>,
    /// Holders of the blocks that several instances hold, by [`Holders::crowd`].
    crowds: Vec<Vec<Holder>>,
    free_crowds: Vec<u32>,
}

/// Nearly always one instance, which then costs nothing beside the table's cell.
#[derive(Clone, Copy, Debug, Default)]
struct Holders {
    first: Holder,
    /// Where all of them stand if there are several.
    crowd: Option<Crowd>,
}

/// An index into [`HolderMap::crowds`], plus one.
type Crowd = std::num::NonZeroU32;

impl Default for HolderMap {
    fn default() -> Self {
        Self {
            shards: vec![BlockMap::default(); 1 << SHARDS_LOG2],
            crowds: Vec::new(),
            free_crowds: Vec::new(),
        }
    }
}

impl HolderMap {
    /// The holders of a block, in no particular order.
    pub(super) fn get(&self, block: BlockHash) -> &[Holder] {
        match self.shards[shard_of(block)].get(block) {
            None => &[],
            Some(Holders { first, crowd: None }) => std::slice::from_ref(first),
            Some(Holders { crowd: Some(crowd), .. }) => &self.crowds[index_of(*crowd)],
        }
    }

    /// Has memory bring what the next calls for these blocks look at.
    pub(super) fn fetch(&self, blocks: impl Iterator<Item = BlockHash>) {
        blocks.for_each(|block| self.shards[shard_of(block)].fetch(block));
    }

    /// Adds a holder.
    pub(super) fn add(&mut self, block: BlockHash, holder: Holder) {
        let one = Holders { first: holder, crowd: None };
        let (holders, is_new) = self.shards[shard_of(block)].get_or_insert(block, one);
        if is_new {
            return;
        }
        if let Some(crowd) = holders.crowd {
            self.crowds[index_of(crowd)].push(holder);
            return;
        }
        let both = [holders.first, holder];
        let at = self.free_crowds.pop().unwrap_or_else(|| {
            self.crowds.push(Vec::new());
            u32::try_from(self.crowds.len() - 1).expect("fewer blocks than 2^32")
        });
        self.crowds[at as usize].extend(both);
        holders.crowd = Crowd::new(at + 1);
    }

    /// Removes the holder that `node` stands for.
    pub(super) fn remove(&mut self, block: BlockHash, node: NodeId) {
        let shard = &mut self.shards[shard_of(block)];
        let Some(holders) = shard.get_mut(block) else {
            panic!("block {:x} is held by nobody", block.0)
        };
        let Some(crowd) = holders.crowd else {
            assert!(holders.first.node == node, "the only holder is the one to go");
            shard.remove(block);
            return;
        };
        let crowd_holders = &mut self.crowds[index_of(crowd)];
        crowd_holders.retain(|holder| holder.node != node);
        if let [last] = crowd_holders[..] {
            *holders = Holders { first: last, crowd: None };
            crowd_holders.clear();
            self.free_crowds.push(crowd.get() - 1);
        }
    }
}

const fn shard_of(block: BlockHash) -> usize {
    (block.0 >> SHARD_SHIFT) as usize & ((1 << SHARDS_LOG2) - 1)
}

const fn index_of(crowd: Crowd) -> usize {
    crowd.get() as usize - 1
}
