//! The KV cache blocks of one engine: who holds them, in which order they are reused, and which prefix
//! each one caches. Mirrors `vllm/v1/core/block_pool.py` and `FreeKVCacheBlockQueue`.
//!
//! Not a plain LRU map: the order of vLLM's free queue decides every eviction, so the queue is kept as
//! vLLM keeps it, node by node. Blocks that were never used stand in the queue as one range, so that an
//! idle engine costs no memory.

use std::num::NonZeroU64;

use lodestar_router::BlockHash;

use super::block_index::BlockIndex;

/// Block 0 is vLLM's null block and is never handed out.
pub(crate) type BlockId = u32;

/// Links are slots: block id + 1. Slot 0 is the queue's sentinel; slot 1, the null block's, stands in
/// the queue for all blocks that were never used.
type Slot = u32;
const SENTINEL: Slot = 0;
const NEVER_USED: Slot = 1;
const NO_SLOT: Slot = 0;
/// In [`Block::duplicate`] of a block that has a key and is not in the index.
const UNLISTED: Slot = Slot::MAX;

/// A block hash as it is stored: never zero, so that an optional one takes no more room.
type Key = NonZeroU64;

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    key: Option<Key>,
    references: u32,
    /// Neighbours in the free queue, while in it.
    previous: Slot,
    next: Slot,
    /// Next younger block under the same key, or [`UNLISTED`].
    duplicate: Slot,
}

/// All KV cache blocks of one engine.
#[derive(Clone, Debug)]
pub(crate) struct BlockPool {
    num_blocks: u32,
    free: u32,
    /// First block that was never used; `num_blocks` when all were.
    never_used: BlockId,
    /// By slot; grows as blocks are first used.
    blocks: Vec<Block>,
    /// Oldest block under each key; younger ones hang on it through [`Block::duplicate`].
    index: BlockIndex,
    /// Blocks with a key that are not in the index.
    unlisted: usize,
    /// Counts whatever can let a request in that did not fit before: blocks freed, keys registered.
    gains: u64,
}

impl BlockPool {
    pub(crate) fn new(num_blocks: u32) -> Self {
        assert!(num_blocks >= 2, "the null block and one usable block");
        let sentinel = Block { previous: NEVER_USED, next: NEVER_USED, ..Block::default() };
        let never_used = Block { previous: SENTINEL, next: SENTINEL, ..Block::default() };
        Self {
            num_blocks,
            free: num_blocks - 1,
            never_used: 1,
            blocks: vec![sentinel, never_used],
            index: BlockIndex::default(),
            unlisted: 0,
            gains: 0,
        }
    }

    /// Blocks in the free queue.
    pub(crate) fn free(&self) -> u32 {
        self.free
    }

    /// A number that changes when an admission that failed might succeed.
    pub(crate) fn gains(&self) -> u64 {
        self.gains
    }

    /// Blocks that can be handed out at all.
    pub(crate) fn usable(&self) -> u32 {
        self.num_blocks - 1
    }

    /// Distinct keys of all blocks.
    pub(crate) fn cached_keys(&self) -> usize {
        self.index.len() + self.unlisted
    }

    pub(crate) fn is_referenced(&self, block: BlockId) -> bool {
        self.blocks[slot(block) as usize].references > 0
    }

    /// The oldest block that caches `key`.
    pub(crate) fn cached(&self, key: BlockHash) -> Option<BlockId> {
        let key = stored(key);
        self.index.get(hash_of(key), |slot| self.key_of(slot)).map(block_id)
    }

    /// The key of a cached block.
    fn key_of(&self, slot: Slot) -> BlockHash {
        hash_of(self.blocks[slot as usize].key.expect("blocks in the index are cached"))
    }

    /// Takes the block at the head of the free queue, evicting what it caches.
    pub(crate) fn take(&mut self) -> BlockId {
        assert!(self.free > 0, "callers check free() first");
        self.free -= 1;
        let head = self.blocks[SENTINEL as usize].next;
        if head == NEVER_USED {
            let block = self.never_used;
            self.never_used += 1;
            if self.never_used == self.num_blocks {
                self.unlink(NEVER_USED);
            }
            self.blocks.push(Block { references: 1, ..Block::default() });
            debug_assert_eq!(
                self.blocks.len() - 1,
                slot(block) as usize,
                "slots are used in order"
            );
            return block;
        }
        self.unlink(head);
        if let Some(key) = self.blocks[head as usize].key.take() {
            self.forget(key, head);
        }
        self.blocks[head as usize].references = 1;
        block_id(head)
    }

    /// Adds a reference to a cached block; a free one leaves the queue, wherever it stands.
    pub(crate) fn touch(&mut self, block: BlockId) {
        let slot = slot(block);
        debug_assert!(self.blocks[slot as usize].key.is_some(), "only cached blocks are touched");
        if self.blocks[slot as usize].references == 0 {
            self.unlink(slot);
            self.free -= 1;
        }
        self.blocks[slot as usize].references += 1;
    }

    /// Drops one reference on each block of a table, last block first.
    ///
    /// Cached blocks that nobody holds any more go to the tail of the queue in that order, so a chain
    /// loses its end before its beginning. Blocks that cache nothing go to the head, the first one
    /// released foremost: they are reused before anything is evicted.
    pub(crate) fn release(&mut self, table: &[BlockId]) {
        self.gains += 1;
        let mut head = SENTINEL;
        for &block in table.iter().rev() {
            let slot = slot(block);
            let references = &mut self.blocks[slot as usize].references;
            *references = references.checked_sub(1).expect("a released block is referenced");
            if *references > 0 {
                continue;
            }
            self.free += 1;
            if self.blocks[slot as usize].key.is_some() {
                let tail = self.blocks[SENTINEL as usize].previous;
                self.link_after(tail, slot);
            } else {
                self.link_after(head, slot);
                head = slot;
            }
        }
        assert!(self.free < self.num_blocks, "more blocks were freed than exist");
    }

    /// Records that `block` caches `key`. Equal content in two blocks stays in two blocks.
    pub(crate) fn register(&mut self, block: BlockId, key: BlockHash) {
        self.register_unlisted(block, key);
        self.list(block);
    }

    /// The same for content that nobody will look for unless it is listed later. As long as it is not, no
    /// other block may have this key.
    pub(crate) fn register_unlisted(&mut self, block: BlockId, key: BlockHash) {
        let block = &mut self.blocks[slot(block) as usize];
        assert!(block.key.is_none(), "a block is registered once");
        block.key = Some(stored(key));
        block.duplicate = UNLISTED;
        self.unlisted += 1;
    }

    /// Makes a registered block findable, if it is not.
    pub(crate) fn list(&mut self, block: BlockId) {
        let slot = slot(block);
        let Block { key: Some(key), duplicate: UNLISTED, .. } = self.blocks[slot as usize] else {
            return;
        };
        self.gains += 1;
        self.unlisted -= 1;
        self.blocks[slot as usize].duplicate = NO_SLOT;
        let Self { index, blocks, .. } = self;
        let key_of = |slot: Slot| {
            hash_of(blocks[slot as usize].key.expect("blocks in the index are cached"))
        };
        if let Some(oldest) = index.insert(hash_of(key), slot, key_of) {
            let mut youngest = oldest;
            while blocks[youngest as usize].duplicate != NO_SLOT {
                youngest = blocks[youngest as usize].duplicate;
            }
            blocks[youngest as usize].duplicate = slot;
        }
    }

    /// Ids in the free queue, head first.
    pub(crate) fn free_queue(&self) -> impl Iterator<Item = BlockId> + '_ {
        let mut slots = Vec::new();
        let mut at = self.blocks[SENTINEL as usize].next;
        while at != SENTINEL {
            slots.push(at);
            at = self.blocks[at as usize].next;
        }
        slots.into_iter().flat_map(|slot| {
            if slot == NEVER_USED {
                self.never_used..self.num_blocks
            } else {
                block_id(slot)..block_id(slot) + 1
            }
        })
    }

    /// Removes `slot`, whose key was `key`, from the blocks under that key.
    fn forget(&mut self, key: Key, slot: Slot) {
        let younger = self.blocks[slot as usize].duplicate;
        if younger == UNLISTED {
            self.unlisted -= 1;
            return;
        }
        if self.index.replace(hash_of(key), slot, younger) {
            return;
        }
        // Not the oldest one: it hangs on an older one.
        let oldest = self.index.get(hash_of(key), |slot| self.key_of(slot));
        let mut older = oldest.expect("a cached block is indexed");
        while self.blocks[older as usize].duplicate != slot {
            older = self.blocks[older as usize].duplicate;
            assert!(older != NO_SLOT, "a cached block is linked under its key");
        }
        self.blocks[older as usize].duplicate = younger;
    }

    fn unlink(&mut self, slot: Slot) {
        let Block { previous, next, .. } = self.blocks[slot as usize];
        self.blocks[previous as usize].next = next;
        self.blocks[next as usize].previous = previous;
    }

    fn link_after(&mut self, previous: Slot, slot: Slot) {
        let next = self.blocks[previous as usize].next;
        self.blocks[slot as usize].previous = previous;
        self.blocks[slot as usize].next = next;
        self.blocks[previous as usize].next = slot;
        self.blocks[next as usize].previous = slot;
    }
}

const fn hash_of(key: Key) -> BlockHash {
    BlockHash(key.get())
}

/// Zero is stored as one: one pair of equals out of 2^64 hashes.
fn stored(key: BlockHash) -> Key {
    Key::new(key.0).unwrap_or(Key::MIN)
}

const fn slot(block: BlockId) -> Slot {
    block + 1
}

const fn block_id(slot: Slot) -> BlockId {
    slot - 1
}

#[cfg(test)]
mod tests;
