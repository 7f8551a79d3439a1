//! The block pool against a model that anyone can check: a `Vec` for the free queue, a sorted list of
//! blocks for each key.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What requests do to a pool. Numbers select among what exists, modulo its count.
#[derive(Clone, Debug)]
enum Op {
    /// A request takes blocks from the head of the queue.
    Take(u32),
    /// A request's next block becomes findable under one of a few keys.
    Register(usize, u64),
    /// A request's next block caches what nobody else has.
    RegisterUnlisted(usize),
    /// All blocks of a request become findable.
    List(usize),
    /// A new request hits the cached block of a key.
    Hit(u64),
    /// A request gives all its blocks back.
    Release(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0_u32..5).prop_map(Op::Take),
        (any::<usize>(), 1_u64..7).prop_map(|(request, key)| Op::Register(request, key)),
        any::<usize>().prop_map(Op::RegisterUnlisted),
        any::<usize>().prop_map(Op::List),
        (1_u64..7).prop_map(Op::Hit),
        any::<usize>().prop_map(Op::Release),
    ]
}

/// The naive model.
struct Model {
    free_queue: Vec<BlockId>,
    references: BTreeMap<BlockId, u32>,
    key_of: BTreeMap<BlockId, u64>,
    /// Blocks under each key, oldest first.
    index: BTreeMap<u64, Vec<BlockId>>,
}

impl Model {
    fn new(num_blocks: u32) -> Self {
        Self {
            free_queue: (1..num_blocks).collect(),
            references: BTreeMap::new(),
            key_of: BTreeMap::new(),
            index: BTreeMap::new(),
        }
    }

    fn take(&mut self) -> BlockId {
        let block = self.free_queue.remove(0);
        if let Some(key) = self.key_of.remove(&block) {
            let blocks = self.index.get_mut(&key).unwrap();
            blocks.retain(|&other| other != block);
            if blocks.is_empty() {
                self.index.remove(&key);
            }
        }
        self.references.insert(block, 1);
        block
    }

    fn touch(&mut self, block: BlockId) {
        self.free_queue.retain(|&other| other != block);
        *self.references.entry(block).or_insert(0) += 1;
    }

    fn release(&mut self, table: &[BlockId]) {
        let mut uncached = Vec::new();
        for &block in table.iter().rev() {
            let references = self.references.get_mut(&block).unwrap();
            *references -= 1;
            if *references == 0 {
                if self.key_of.contains_key(&block) {
                    self.free_queue.push(block);
                } else {
                    uncached.push(block);
                }
            }
        }
        self.free_queue.splice(0..0, uncached);
    }

    fn register(&mut self, block: BlockId, key: u64) {
        self.key_of.insert(block, key);
        self.index.entry(key).or_default().push(block);
    }
}

proptest! {
    #[test]
    fn the_pool_does_what_the_model_does(num_blocks in 2_u32..24, ops in prop::collection::vec(op(), 1..120)) {
        let mut pool = BlockPool::new(num_blocks);
        let mut model = Model::new(num_blocks);
        // Block tables of the live requests, with the numbers of listed and of registered blocks of each.
        let mut requests: Vec<(Vec<BlockId>, usize, usize)> = Vec::new();
        let mut unique_keys = 7..;
        for op in ops {
            match op {
                Op::Take(count) => {
                    let count = count.min(pool.free());
                    let table: Vec<BlockId> = (0..count).map(|_| pool.take()).collect();
                    let expected: Vec<BlockId> = (0..count).map(|_| model.take()).collect();
                    prop_assert_eq!(&table, &expected);
                    requests.push((table, 0, 0));
                }
                Op::Register(request, key) if !requests.is_empty() => {
                    let at = request % requests.len();
                    let (table, listed, registered) = &mut requests[at];
                    let block = table.get(*registered).filter(|_| listed == registered);
                    if let Some(&block) = block {
                        pool.register(block, BlockHash(key));
                        model.register(block, key);
                        *listed += 1;
                        *registered += 1;
                    }
                }
                Op::RegisterUnlisted(request) if !requests.is_empty() => {
                    let at = request % requests.len();
                    let (table, _, registered) = &mut requests[at];
                    if let Some(&block) = table.get(*registered) {
                        let key = unique_keys.next().unwrap();
                        pool.register_unlisted(1);
                        model.register(block, key);
                        prop_assert_eq!(pool.cached(BlockHash(key)), None);
                        *registered += 1;
                    }
                }
                Op::List(request) if !requests.is_empty() => {
                    let at = request % requests.len();
                    let (table, listed, registered) = &mut requests[at];
                    for block in &table[*listed..*registered] {
                        let key = model.key_of[block];
                        pool.list(*block, BlockHash(key));
                        prop_assert_eq!(pool.cached(BlockHash(key)), Some(model.index[&key][0]));
                    }
                    *listed = *registered;
                }
                Op::Hit(key) => {
                    let hit = pool.cached(BlockHash(key));
                    prop_assert_eq!(hit, model.index.get(&key).map(|blocks| blocks[0]));
                    if let Some(block) = hit {
                        pool.touch(block);
                        model.touch(block);
                        requests.push((vec![block], 1, 1));
                    }
                }
                Op::Release(request) if !requests.is_empty() => {
                    let (table, listed, registered) =
                        requests.swap_remove(request % requests.len());
                    pool.release(&table, listed, registered);
                    model.release(&table);
                }
                Op::Register(..) | Op::RegisterUnlisted(_) | Op::List(_) | Op::Release(_) => {}
            }
            prop_assert_eq!(pool.free_queue().collect::<Vec<_>>(), &model.free_queue[..]);
            prop_assert_eq!(pool.free() as usize, model.free_queue.len());
            prop_assert_eq!(pool.cached_keys(), model.index.len());
            for block in 1..num_blocks {
                let referenced = model.references.get(&block).is_some_and(|&count| count > 0);
                prop_assert!(referenced != model.free_queue.contains(&block), "free or held, never both");
                if referenced && model.key_of.contains_key(&block) && is_listed(&pool, &model, block) {
                    prop_assert!(pool.is_referenced(block));
                }
            }
        }
    }
}

fn is_listed(pool: &BlockPool, model: &Model, block: BlockId) -> bool {
    pool.cached(BlockHash(model.key_of[&block])).is_some()
}
