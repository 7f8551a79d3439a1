//! How far down a block is in an LRU cache that is never full.

/// All blocks used so far in the order of last use, as a Fenwick tree over the times of use.
pub(super) struct LruStack {
    /// Partial sums of the blocks last used at each time; times start at 1.
    tree: Vec<u64>,
    /// Time of last use by block name, 0 if never.
    last_use: Vec<u32>,
    now: u32,
    /// How many there are.
    pub(super) distinct: u64,
}

impl LruStack {
    pub(super) fn new(uses: usize) -> Self {
        Self { tree: vec![0; uses + 1], last_use: Vec::new(), now: 0, distinct: 0 }
    }

    /// The smallest LRU cache, in blocks, that still holds it; `None` if it was never used.
    pub(super) fn distance(&self, block: u32) -> Option<u64> {
        let last_use = self.last_use.get(block as usize).copied().filter(|&time| time > 0)?;
        Some(self.distinct - self.used_before(last_use))
    }

    pub(super) fn touch(&mut self, block: u32) {
        let block = block as usize;
        if self.last_use.len() <= block {
            self.last_use.resize(block + 1, 0);
        }
        match self.last_use[block] {
            0 => self.distinct += 1,
            last_use => self.add(last_use, -1),
        }
        self.now += 1;
        self.add(self.now, 1);
        self.last_use[block] = self.now;
    }

    /// Uses blocks that were not used before and will not be again.
    pub(super) fn push(&mut self, blocks: u32) {
        self.distinct += u64::from(blocks);
        self.now += 1;
        self.add(self.now, i64::from(blocks));
    }

    fn add(&mut self, time: u32, blocks: i64) {
        let mut index = time as usize;
        while index < self.tree.len() {
            self.tree[index] = self.tree[index].wrapping_add_signed(blocks);
            index += index & index.wrapping_neg();
        }
    }

    fn used_before(&self, time: u32) -> u64 {
        let mut index = time as usize - 1;
        let mut sum = 0;
        while index > 0 {
            sum += self.tree[index];
            index &= index - 1;
        }
        sum
    }
}
