//! A table from block hashes to small values, for prefix caches: millions of insertions and as many
//! removals, hundreds in a row for every prompt.
//!
//! Not a general hash map, for two reasons. Block hashes are hashes already, so mixing them again only
//! costs; worse, it scatters the blocks of one prompt, which the simulator numbers so that they lie side
//! by side, over the whole table, and every step of a walk along a prompt waits for memory. And a table
//! that marks removed cells must be cleaned up by moving everything it holds, again and again when there
//! are as many removals as insertions. Here cells are kept in the order of their home cells (Robin Hood
//! hashing with linear probing), and a removal moves its followers back: nothing is ever cleaned up.

use crate::request::BlockHash;

/// Most of the table that is filled before it doubles: runs of neighbours need room between them.
const LOAD_MAX_PERCENT: usize = 60;

/// A map from [`BlockHash`] to a small `V`.
#[derive(Clone, Debug)]
pub struct BlockMap<V> {
    /// A power of two of cells, or none.
    cells: Vec<Cell<V>>,
    /// Filled cells.
    len: usize,
    /// The value of the hash that marks an empty cell.
    zero: Option<V>,
}

/// `key` is zero in an empty cell.
#[derive(Clone, Copy, Debug)]
struct Cell<V> {
    key: u64,
    value: V,
}

impl<V> Default for BlockMap<V> {
    fn default() -> Self {
        Self { cells: Vec::new(), len: 0, zero: None }
    }
}

impl<V: Copy + Default> BlockMap<V> {
    /// Number of blocks in the map.
    pub fn len(&self) -> usize {
        self.len + usize::from(self.zero.is_some())
    }

    /// Whether the map holds no block.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a block.
    pub fn get(&self, block: BlockHash) -> Option<&V> {
        match self.find(block) {
            Some(at) => Some(&self.cells[at].value),
            None if block.0 == 0 => self.zero.as_ref(),
            None => None,
        }
    }

    /// The value of a block, to change it.
    pub fn get_mut(&mut self, block: BlockHash) -> Option<&mut V> {
        match self.find(block) {
            Some(at) => Some(&mut self.cells[at].value),
            None if block.0 == 0 => self.zero.as_mut(),
            None => None,
        }
    }

    /// The value of a block, which is set to `value` if there is none, and whether it was set.
    pub fn get_or_insert(&mut self, block: BlockHash, value: V) -> (&mut V, bool) {
        let key = block.0;
        if key == 0 {
            let is_new = self.zero.is_none();
            return (self.zero.get_or_insert(value), is_new);
        }
        if (self.len + 1) * 100 > self.cells.len() * LOAD_MAX_PERCENT {
            self.grow();
        }
        let mask = self.cells.len() - 1;
        let mut at = key as usize & mask;
        let mut distance = 0;
        loop {
            let cell = self.cells[at];
            if cell.key == key {
                return (&mut self.cells[at].value, false);
            }
            if cell.key == 0 || self.distance(at) < distance {
                self.insert_at(at, Cell { key, value });
                return (&mut self.cells[at].value, true);
            }
            at = (at + 1) & mask;
            distance += 1;
        }
    }

    /// Where the search for a block begins, read for no other purpose than to have it in the processor's cache.
    ///
    /// In a row before the searches, such reads wait for memory together, and searches one by one.
    pub fn fetch(&self, block: BlockHash) {
        let home = block.0 as usize & self.cells.len().wrapping_sub(1);
        std::hint::black_box(self.cells.get(home).map(|cell| cell.key));
    }

    /// Removes a block; returns its value.
    pub fn remove(&mut self, block: BlockHash) -> Option<V> {
        let Some(mut hole) = self.find(block) else {
            return if block.0 == 0 { self.zero.take() } else { None };
        };
        let removed = self.cells[hole].value;
        let mask = self.cells.len() - 1;
        loop {
            let next = (hole + 1) & mask;
            if self.cells[next].key == 0 || self.distance(next) == 0 {
                break;
            }
            self.cells[hole] = self.cells[next];
            hole = next;
        }
        self.cells[hole] = Cell { key: 0, value: V::default() };
        self.len -= 1;
        Some(removed)
    }

    /// The cell of a block.
    fn find(&self, block: BlockHash) -> Option<usize> {
        let key = block.0;
        if self.cells.is_empty() || key == 0 {
            return None;
        }
        let mask = self.cells.len() - 1;
        let mut at = key as usize & mask;
        let mut distance = 0;
        loop {
            let found = self.cells[at].key;
            if found == key {
                return Some(at);
            }
            if found == 0 || self.distance(at) < distance {
                return None;
            }
            at = (at + 1) & mask;
            distance += 1;
        }
    }

    /// How far a filled cell is from its home.
    fn distance(&self, at: usize) -> usize {
        let mask = self.cells.len() - 1;
        at.wrapping_sub(self.cells[at].key as usize) & mask
    }

    /// Puts a cell where it belongs and moves what stands there on by one.
    fn insert_at(&mut self, mut at: usize, mut cell: Cell<V>) {
        let mask = self.cells.len() - 1;
        while cell.key != 0 {
            std::mem::swap(&mut self.cells[at], &mut cell);
            at = (at + 1) & mask;
        }
        self.len += 1;
    }

    fn grow(&mut self) {
        let cells = (self.cells.len() * 2).max(16);
        let empty = Cell { key: 0, value: V::default() };
        let before = std::mem::replace(&mut self.cells, vec![empty; cells]);
        self.len = 0;
        for cell in before.into_iter().filter(|cell| cell.key != 0) {
            let (_, is_new) = self.get_or_insert(BlockHash(cell.key), cell.value);
            assert!(is_new, "no block was there twice");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Keys that collide, that are neighbours, and that wrap around the end of the table.
        #[test]
        fn it_is_a_map(ops in prop::collection::vec((0_u64..3, 0_u64..40, any::<bool>()), 1..400)) {
            let mut map = BlockMap::default();
            let mut model = BTreeMap::new();
            for (step, (high, low, insert)) in (0_u32..).zip(ops) {
                let key = BlockHash((high << 40 | low).wrapping_sub(20 * high));
                if insert {
                    let (value, is_new) = map.get_or_insert(key, step);
                    prop_assert_eq!(is_new, !model.contains_key(&key));
                    prop_assert_eq!(*value, *model.entry(key).or_insert(step));
                } else {
                    prop_assert_eq!(map.remove(key), model.remove(&key));
                }
                prop_assert_eq!(map.len(), model.len());
                for (key, value) in &model {
                    prop_assert_eq!(map.get(*key), Some(value));
                }
            }
        }
    }
}
