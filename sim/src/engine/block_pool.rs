//! The KV cache blocks of one engine: who holds them, in which order they are reused, and which prefix
//! each one caches. Mirrors `vllm/v1/core/block_pool.py` and `FreeKVCacheBlockQueue`.
//!
//! The order of vLLM's free queue decides every eviction, so it is kept to the block. Not as the linked
//! list that it is in vLLM, though: a list is one wait for memory after the other. Blocks enter vLLM's
//! queue at its head when they cache nothing, at its tail when they do, and leave it from the middle when
//! they are hit. So the queue is, from its head, a stack of blocks that cache nothing, the range of blocks
//! that were never used (which costs no memory), and a ring of the others, in which a block that was hit
//! leaves a stale entry behind.
//!
//! Only blocks that somebody may look for are *listed*: they have a state, a key and a place in the index. All
//! others belong to one request or to nobody, and whoever holds them knows all about them; taking and
//! releasing those touches no memory but the queue's.

use std::collections::VecDeque;

use lodestar_router::{BlockHash, Time};

use super::block_index::BlockIndex;
use super::kv_events::{KvEvent, KvEventLog};

/// Block 0 is vLLM's null block and is never handed out.
pub(crate) type BlockId = u32;

/// The state of a listed block.
#[derive(Clone, Copy, Debug)]
struct Block {
    holder: Holder,
    /// The next younger block under the same key, or [`NONE`].
    younger: BlockId,
}

/// The null block is nobody's duplicate.
const NONE: BlockId = 0;

/// In an entry of the ring: the block caches what nobody can look for.
const UNLISTED: u32 = 1 << 31;

/// Either how many requests hold a block, or the number of its entry in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder(u32);

impl Holder {
    const HELD: u32 = 1 << 31;

    const fn requests(count: u32) -> Self {
        Self(Self::HELD | count)
    }

    /// Entries are told apart by fewer bits than they are counted with; far fewer exist at a time.
    const fn entry(number: u32) -> Self {
        Self(number & !Self::HELD)
    }

    const fn is_held(self) -> bool {
        self.0 & Self::HELD != 0
    }

    const fn held_by(self) -> u32 {
        if self.is_held() { self.0 & !Self::HELD } else { 0 }
    }
}

/// All KV cache blocks of one engine.
#[derive(Clone, Debug)]
pub(crate) struct BlockPool {
    num_blocks: u32,
    free: u32,
    /// Free blocks that cache nothing; the last one is the queue's head.
    blank: Vec<BlockId>,
    /// First block that was never used; `num_blocks` when all were.
    never_used: BlockId,
    /// Free blocks that cache something, with [`UNLISTED`] set for some, and stale entries of blocks that
    /// were hit.
    ring: VecDeque<BlockId>,
    /// Number of the ring's first entry.
    ring_begin: u32,
    /// By block, if listed; grows as blocks are.
    blocks: Vec<Block>,
    /// By block, if listed.
    keys: Vec<BlockHash>,
    /// Oldest block under each key; younger ones hang on it through [`Block::younger`].
    index: BlockIndex,
    /// Blocks with a key that are not in the index.
    unlisted: usize,
    /// Counts whatever can let a request in that did not fit before: blocks freed, keys registered.
    gains: u64,
    /// Only if somebody wants to know.
    events: Option<Box<KvEventLog>>,
}

impl BlockPool {
    pub(crate) fn new(num_blocks: u32) -> Self {
        assert!(num_blocks >= 2, "the null block and one usable block");
        assert!(num_blocks < UNLISTED.min(Holder::HELD), "entries of the ring can be told apart");
        Self {
            num_blocks,
            free: num_blocks - 1,
            blank: Vec::new(),
            never_used: 1,
            ring: VecDeque::new(),
            ring_begin: 0,
            blocks: Vec::new(),
            keys: Vec::new(),
            index: BlockIndex::default(),
            unlisted: 0,
            gains: 0,
            events: None,
        }
    }

    /// From now on it keeps a log of what becomes findable and what is evicted.
    pub(crate) fn log_events(&mut self) {
        self.events.get_or_insert_default();
    }

    pub(crate) fn logs_events(&self) -> bool {
        self.events.is_some()
    }

    /// Apart from the code that runs for every block.
    #[cold]
    pub(crate) fn log(&mut self, event: KvEvent) {
        if let Some(events) = &mut self.events {
            events.push(event);
        }
    }

    /// What was logged since the last time is published now.
    #[inline]
    pub(crate) fn publish_events(&mut self, at: Time) {
        if let Some(events) = &mut self.events {
            events.publish(at);
        }
    }

    pub(crate) fn take_event(&mut self, before: Time) -> Option<(Time, KvEvent)> {
        self.events.as_mut()?.take(before)
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

    /// Whether a listed block is held.
    pub(crate) fn is_referenced(&self, block: BlockId) -> bool {
        self.blocks[block as usize].holder.is_held()
    }

    /// The oldest block that caches `key`.
    pub(crate) fn cached(&self, key: BlockHash) -> Option<BlockId> {
        self.index.get(key, |block| self.keys[block as usize])
    }

    /// Takes the block at the head of the free queue, evicting what it caches.
    pub(crate) fn take(&mut self) -> BlockId {
        assert!(self.free > 0, "callers check free() first");
        self.free -= 1;
        if let Some(block) = self.blank.pop() {
            return block;
        }
        if self.never_used < self.num_blocks {
            self.never_used += 1;
            return self.never_used - 1;
        }
        loop {
            let entry = self.ring.pop_front().expect("a free block is in one of the three");
            let number = Holder::entry(self.ring_begin);
            self.ring_begin = self.ring_begin.wrapping_add(1);
            if entry & UNLISTED != 0 {
                self.unlisted -= 1;
                return entry & !UNLISTED;
            }
            let Block { holder, younger } = self.blocks[entry as usize];
            if holder == number {
                self.forget(entry, younger);
                if self.events.is_some() {
                    self.log(KvEvent::Removed { block: self.keys[entry as usize] });
                }
                return entry;
            }
        }
    }

    /// Adds a reference to a listed block; a free one leaves the queue, wherever it stands.
    pub(crate) fn touch(&mut self, block: BlockId) {
        let state = &mut self.blocks[block as usize];
        if !state.holder.is_held() {
            self.free -= 1;
        }
        state.holder = Holder::requests(state.holder.held_by() + 1);
    }

    /// Drops one reference on each block of a table, last block first, of which the first `listed` are listed
    /// and the first `cached` were registered.
    ///
    /// Cached blocks that nobody holds any more go to the tail of the queue in that order, so a chain
    /// loses its end before its beginning. Blocks that cache nothing go to the head, the first one
    /// released foremost: they are reused before anything is evicted.
    pub(crate) fn release(&mut self, table: &[BlockId], listed: usize, cached: usize) {
        assert!(
            listed <= cached && cached <= table.len(),
            "listed blocks come first, blank ones last"
        );
        self.gains += 1;
        let (cached, blank) = table.split_at(cached);
        let (listed, unlisted) = cached.split_at(listed);
        self.blank.extend(blank);
        self.ring.extend(unlisted.iter().rev().map(|block| block | UNLISTED));
        self.free += (blank.len() + unlisted.len()) as u32;
        for &block in listed.iter().rev() {
            let state = &mut self.blocks[block as usize];
            let left = state.holder.held_by().checked_sub(1);
            let left = left.expect("a released block is referenced");
            if left > 0 {
                state.holder = Holder::requests(left);
                continue;
            }
            let end = self.ring_begin.wrapping_add(self.ring.len() as u32);
            state.holder = Holder::entry(end);
            self.ring.push_back(block);
            self.free += 1;
        }
        assert!(self.free < self.num_blocks, "more blocks were freed than exist");
        if self.ring.len() > 2 * self.num_blocks as usize {
            self.drop_stale_entries();
        }
    }

    /// Records that so many blocks cache content that nobody will look for unless they are listed later. As
    /// long as they are not, no other block may have their keys.
    pub(crate) fn register_unlisted(&mut self, blocks: u32) {
        debug_assert!(
            blocks == 0 || self.events.is_none(),
            "a subscriber is told of every block's eviction"
        );
        self.unlisted += blocks as usize;
    }

    /// Lists a block that was registered unlisted.
    pub(crate) fn list(&mut self, block: BlockId, key: BlockHash) {
        self.unlisted -= 1;
        self.register(block, key);
    }

    /// Lists a block that one request holds under `key`. Equal content in two blocks stays in two blocks.
    pub(crate) fn register(&mut self, block: BlockId, key: BlockHash) {
        self.gains += 1;
        let at = block as usize;
        if self.blocks.len() <= at {
            self.blocks.resize(at + 1, Block { holder: Holder::requests(0), younger: NONE });
            self.keys.resize(at + 1, BlockHash(0));
        }
        self.blocks[at] = Block { holder: Holder::requests(1), younger: NONE };
        self.keys[at] = key;
        let Self { index, keys, blocks, .. } = self;
        if let Some(oldest) = index.insert(key, block, |block| keys[block as usize]) {
            let mut youngest = oldest;
            while blocks[youngest as usize].younger != NONE {
                youngest = blocks[youngest as usize].younger;
            }
            blocks[youngest as usize].younger = block;
        }
    }

    /// Ids in the free queue, head first.
    pub(crate) fn free_queue(&self) -> impl Iterator<Item = BlockId> + '_ {
        let in_ring = self.valid_entries().map(|entry| entry & !UNLISTED);
        self.blank.iter().rev().copied().chain(self.never_used..self.num_blocks).chain(in_ring)
    }

    /// Entries of the ring that are not stale.
    fn valid_entries(&self) -> impl Iterator<Item = u32> + '_ {
        let numbered = self.ring.iter().copied().zip(0_u32..);
        let valid = numbered.filter(|&(entry, at)| {
            let number = Holder::entry(self.ring_begin.wrapping_add(at));
            entry & UNLISTED != 0 || self.blocks[entry as usize].holder == number
        });
        valid.map(|(entry, _)| entry)
    }

    /// The ring grows by an entry whenever a block is hit and released; this takes it back to its blocks.
    fn drop_stale_entries(&mut self) {
        let valid: VecDeque<u32> = self.valid_entries().collect();
        for (&entry, at) in valid.iter().zip(0_u32..).filter(|(entry, _)| *entry & UNLISTED == 0) {
            self.blocks[entry as usize].holder = Holder::entry(self.ring_begin.wrapping_add(at));
        }
        self.ring = valid;
    }

    /// Removes `block`, followed by `younger`, from the blocks under its key.
    fn forget(&mut self, block: BlockId, younger: BlockId) {
        let key = self.keys[block as usize];
        if self.index.replace(key, block, younger) {
            return;
        }
        // Not the oldest one: it hangs on an older one.
        let mut older = self.cached(key).expect("a cached block is indexed");
        while self.blocks[older as usize].younger != block {
            older = self.blocks[older as usize].younger;
            assert!(older != NONE, "a cached block is linked under its key");
        }
        self.blocks[older as usize].younger = younger;
    }
}

#[cfg(test)]
mod tests;
