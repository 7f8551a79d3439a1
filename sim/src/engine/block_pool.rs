//! The KV cache blocks of one engine: who holds them, in which order they are reused, and which prefix
//! each one caches. Mirrors `vllm/v1/core/block_pool.py` and `FreeKVCacheBlockQueue`.
//!
//! The order of vLLM's free queue decides every eviction, so it is kept to the block. Not as the linked
//! list that it is in vLLM, though: a list is one wait for memory after the other. Blocks enter vLLM's
//! queue at its head when they cache nothing, at its tail when they do, and leave it from the middle when
//! they are hit. So the queue is, from its head, a stack of blocks that cache nothing, the range of blocks
//! that were never used (which costs no memory), and a ring of the others, in which a block that was hit
//! leaves a stale entry behind.

use std::collections::VecDeque;

use lodestar_router::{BlockHash, Time};

use super::block_index::BlockIndex;
use super::kv_events::{KvEvent, KvEventLog};

/// Block 0 is vLLM's null block and is never handed out.
pub(crate) type BlockId = u32;

/// What is read and written whenever a block changes hands; keys lie elsewhere.
#[derive(Clone, Copy, Debug)]
struct Block {
    holder: Holder,
    /// What it caches: [`NOTHING`], [`UNLISTED`], or the next younger block under the same key, if there is
    /// one, else [`YOUNGEST`].
    content: u32,
}

/// The null block is nobody's duplicate.
const YOUNGEST: u32 = 0;
/// A key that is not in the index.
const UNLISTED: u32 = u32::MAX - 1;
const NOTHING: u32 = u32::MAX;

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
    /// Free blocks that cache something, and stale entries of blocks that were hit.
    ring: VecDeque<BlockId>,
    /// Number of the ring's first entry.
    ring_begin: u32,
    /// By block; grows as blocks are first used.
    blocks: Vec<Block>,
    /// By block, of those in the index.
    keys: Vec<BlockHash>,
    /// Oldest block under each key; younger ones hang on it through [`Block::content`].
    index: BlockIndex,
    /// Blocks with a key that are not in the index.
    unlisted: usize,
    /// Counts whatever can let a request in that did not fit before: blocks freed, keys registered.
    gains: u64,
    /// Scratch of [`Self::release`].
    released_blank: Vec<BlockId>,
    /// Only if somebody wants to know.
    events: Option<Box<KvEventLog>>,
}

impl BlockPool {
    pub(crate) fn new(num_blocks: u32) -> Self {
        assert!(num_blocks >= 2, "the null block and one usable block");
        assert!(num_blocks < Holder::HELD, "entries of the ring can be told apart");
        let null = Block { holder: Holder::requests(1), content: NOTHING };
        Self {
            num_blocks,
            free: num_blocks - 1,
            blank: Vec::new(),
            never_used: 1,
            ring: VecDeque::new(),
            ring_begin: 0,
            blocks: vec![null],
            keys: vec![BlockHash(0)],
            index: BlockIndex::default(),
            unlisted: 0,
            gains: 0,
            released_blank: Vec::new(),
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
            self.blocks[block as usize].holder = Holder::requests(1);
            return block;
        }
        if self.never_used < self.num_blocks {
            let block = self.never_used;
            self.never_used += 1;
            self.blocks.push(Block { holder: Holder::requests(1), content: NOTHING });
            self.keys.push(BlockHash(0));
            return block;
        }
        loop {
            let block = self.ring.pop_front().expect("a free block is in one of the three");
            let entry = Holder::entry(self.ring_begin);
            self.ring_begin = self.ring_begin.wrapping_add(1);
            let state = &mut self.blocks[block as usize];
            if state.holder == entry {
                let content = state.content;
                *state = Block { holder: Holder::requests(1), content: NOTHING };
                self.forget(block, content);
                if content != NOTHING && self.events.is_some() {
                    self.log(KvEvent::Removed { block: self.keys[block as usize] });
                }
                return block;
            }
        }
    }

    /// Adds a reference to a cached block; a free one leaves the queue, wherever it stands.
    pub(crate) fn touch(&mut self, block: BlockId) {
        let state = &mut self.blocks[block as usize];
        debug_assert!(state.content < UNLISTED, "only blocks in the index are hit");
        if !state.holder.is_held() {
            self.free -= 1;
        }
        state.holder = Holder::requests(state.holder.held_by() + 1);
    }

    /// Drops one reference on each block of a table, last block first.
    ///
    /// Cached blocks that nobody holds any more go to the tail of the queue in that order, so a chain
    /// loses its end before its beginning. Blocks that cache nothing go to the head, the first one
    /// released foremost: they are reused before anything is evicted.
    pub(crate) fn release(&mut self, table: &[BlockId]) {
        self.gains += 1;
        for &block in table.iter().rev() {
            let state = &mut self.blocks[block as usize];
            let left = state.holder.held_by().checked_sub(1);
            let left = left.expect("a released block is referenced");
            if left > 0 {
                state.holder = Holder::requests(left);
                continue;
            }
            self.free += 1;
            let end = self.ring_begin.wrapping_add(self.ring.len() as u32);
            state.holder = Holder::entry(end);
            if state.content == NOTHING {
                self.released_blank.push(block);
            } else {
                self.ring.push_back(block);
            }
        }
        self.blank.extend(self.released_blank.drain(..).rev());
        assert!(self.free < self.num_blocks, "more blocks were freed than exist");
        if self.ring.len() > 2 * self.num_blocks as usize {
            self.drop_stale_entries();
        }
    }

    /// Records that `block` caches `key`. Equal content in two blocks stays in two blocks.
    pub(crate) fn register(&mut self, block: BlockId, key: BlockHash) {
        self.register_unlisted(block);
        self.list(block, key);
    }

    /// The same for content that nobody will look for unless it is listed later. As long as it is not, no
    /// other block may have its key.
    pub(crate) fn register_unlisted(&mut self, block: BlockId) {
        debug_assert!(self.events.is_none(), "a subscriber is told of every block's eviction");
        let content = &mut self.blocks[block as usize].content;
        assert!(*content == NOTHING, "a block is registered once");
        *content = UNLISTED;
        self.unlisted += 1;
    }

    /// Makes a registered block findable under its key, if it is not.
    pub(crate) fn list(&mut self, block: BlockId, key: BlockHash) {
        if self.blocks[block as usize].content != UNLISTED {
            return;
        }
        self.gains += 1;
        self.unlisted -= 1;
        self.blocks[block as usize].content = YOUNGEST;
        self.keys[block as usize] = key;
        let Self { index, keys, blocks, .. } = self;
        if let Some(oldest) = index.insert(key, block, |block| keys[block as usize]) {
            let mut youngest = oldest;
            while blocks[youngest as usize].content != YOUNGEST {
                youngest = blocks[youngest as usize].content;
            }
            blocks[youngest as usize].content = block;
        }
    }

    /// Ids in the free queue, head first.
    pub(crate) fn free_queue(&self) -> impl Iterator<Item = BlockId> + '_ {
        let in_ring = self.valid_entries();
        self.blank.iter().rev().copied().chain(self.never_used..self.num_blocks).chain(in_ring)
    }

    /// Blocks of the ring, without stale entries.
    fn valid_entries(&self) -> impl Iterator<Item = BlockId> + '_ {
        let numbered = self.ring.iter().zip(0_u32..);
        let valid = numbered.filter(|&(&block, at)| {
            self.blocks[block as usize].holder == Holder::entry(self.ring_begin.wrapping_add(at))
        });
        valid.map(|(&block, _)| block)
    }

    /// The ring grows by an entry whenever a block is hit and released; this takes it back to its blocks.
    fn drop_stale_entries(&mut self) {
        let valid: VecDeque<BlockId> = self.valid_entries().collect();
        for (&block, at) in valid.iter().zip(0_u32..) {
            self.blocks[block as usize].holder = Holder::entry(self.ring_begin.wrapping_add(at));
        }
        self.ring = valid;
    }

    /// Removes `block`, whose content was `content`, from the blocks under its key.
    fn forget(&mut self, block: BlockId, content: u32) {
        match content {
            NOTHING => return,
            UNLISTED => {
                self.unlisted -= 1;
                return;
            }
            _ => {}
        }
        let (key, younger) = (self.keys[block as usize], content);
        if self.index.replace(key, block, younger) {
            return;
        }
        // Not the oldest one: it hangs on an older one.
        let mut older = self.cached(key).expect("a cached block is indexed");
        while self.blocks[older as usize].content != block {
            older = self.blocks[older as usize].content;
            assert!(older != YOUNGEST, "a cached block is linked under its key");
        }
        self.blocks[older as usize].content = younger;
    }
}

#[cfg(test)]
mod tests;
