//! From block keys to blocks: the part of the block pool that waits for memory.
//!
//! Not a hash map, because a prompt's blocks are inserted, found and removed by the hundred, in order.
//! Their keys have consecutive *places* (see [`content`](crate::content)), so here they lie in
//! consecutive cells, eight to a cache line; a cell holds no more than half a key and a block, since the
//! block knows its whole key. Cells are kept in the order of their homes (Robin Hood hashing with linear
//! probing) and a removal moves its followers back, so nothing ever needs cleaning up.

use lodestar_router::BlockHash;

/// Most of the table that is filled before it doubles: runs of neighbours need room between them.
const LOAD_MAX_PERCENT: usize = 40;

/// A table of blocks by key. Blocks are numbers above zero; the caller knows their keys.
#[derive(Clone, Debug, Default)]
pub(super) struct BlockIndex {
    /// A power of two of cells, or none.
    cells: Vec<Cell>,
    len: usize,
}

/// `block` is zero in an empty cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cell {
    /// The lower half of the key.
    place: u32,
    block: u32,
}

impl BlockIndex {
    /// Keys in the index.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The block under `key`; `key_of` tells a block's key.
    pub(super) fn get(&self, key: BlockHash, key_of: impl Fn(u32) -> BlockHash) -> Option<u32> {
        self.find(key.0 as u32, |block| key_of(block) == key).ok().map(|at| self.cells[at].block)
    }

    /// Puts `block` under `key`, unless there is one already, which is then returned.
    pub(super) fn insert(
        &mut self,
        key: BlockHash,
        block: u32,
        key_of: impl Fn(u32) -> BlockHash,
    ) -> Option<u32> {
        assert!(block > 0, "zero marks empty cells");
        if (self.len + 1) * 100 > self.cells.len() * LOAD_MAX_PERCENT {
            self.grow();
        }
        let place = key.0 as u32;
        match self.find(place, |block| key_of(block) == key) {
            Ok(at) => Some(self.cells[at].block),
            Err(at) => {
                self.insert_at(at, Cell { place, block });
                None
            }
        }
    }

    /// Puts `after` in the place of `before` under `key`; zero removes the key. `false` when `before` is not
    /// the block under it.
    pub(super) fn replace(&mut self, key: BlockHash, before: u32, after: u32) -> bool {
        let Ok(at) = self.find(key.0 as u32, |block| block == before) else { return false };
        if after > 0 {
            self.cells[at].block = after;
        } else {
            self.remove_at(at);
        }
        true
    }

    /// The cell with this place whose block is the one, or where it would belong.
    fn find(&self, place: u32, is_it: impl Fn(u32) -> bool) -> Result<usize, usize> {
        if self.cells.is_empty() {
            return Err(0);
        }
        let mask = self.cells.len() - 1;
        let mut at = place as usize & mask;
        let mut distance = 0;
        loop {
            let cell = self.cells[at];
            if cell.block == 0 {
                return Err(at);
            }
            if cell.place == place {
                if is_it(cell.block) {
                    return Ok(at);
                }
            } else if at.wrapping_sub(cell.place as usize) & mask < distance {
                return Err(at);
            }
            at = (at + 1) & mask;
            distance += 1;
        }
    }

    /// Puts a cell where it belongs and moves what stands there on by one.
    fn insert_at(&mut self, mut at: usize, mut cell: Cell) {
        let mask = self.cells.len() - 1;
        while cell.block != 0 {
            std::mem::swap(&mut self.cells[at], &mut cell);
            at = (at + 1) & mask;
        }
        self.len += 1;
    }

    /// Empties a cell; those after it that are not at home move back by one.
    fn remove_at(&mut self, mut hole: usize) {
        let mask = self.cells.len() - 1;
        loop {
            let next = (hole + 1) & mask;
            let Cell { place, block } = self.cells[next];
            if block == 0 || place as usize & mask == next {
                break;
            }
            self.cells[hole] = self.cells[next];
            hole = next;
        }
        self.cells[hole] = Cell::default();
        self.len -= 1;
    }

    fn grow(&mut self) {
        let cells = (self.cells.len() * 2).max(16);
        let before = std::mem::replace(&mut self.cells, vec![Cell::default(); cells]);
        self.len = 0;
        for cell in before.into_iter().filter(|cell| cell.block != 0) {
            let Err(at) = self.find(cell.place, |_| false) else {
                unreachable!("no cell is the one")
            };
            self.insert_at(at, cell);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Keys with equal places, neighbouring places and places that wrap around the table's end.
        #[test]
        fn it_is_a_map(ops in prop::collection::vec((0_u64..3, 0_u64..40, any::<bool>()), 1..400)) {
            let mut index = BlockIndex::default();
            let mut model = BTreeMap::new();
            let mut keys = vec![BlockHash(0)];
            for (high, low, insert) in ops {
                let key = BlockHash(high << 32 | u64::from((low as u32).wrapping_sub(20)));
                if insert {
                    keys.push(key);
                    let block = (keys.len() - 1) as u32;
                    let there = index.insert(key, block, |block| keys[block as usize]);
                    prop_assert_eq!(there, model.get(&key).copied());
                    model.entry(key).or_insert(block);
                } else if let Some(block) = model.remove(&key) {
                    prop_assert!(index.replace(key, block, 0));
                }
                prop_assert_eq!(index.len(), model.len());
                for (key, block) in &model {
                    prop_assert_eq!(index.get(*key, |block| keys[block as usize]), Some(*block));
                }
            }
        }
    }
}
