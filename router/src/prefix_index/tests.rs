//! The index against a model that is obviously right and slow: a list of blocks with their last use.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// The blocks along a path in a tree of prompts: equal paths, equal blocks.
fn chain(path: &[u8]) -> Vec<BlockHash> {
    let mut hash = 0;
    let extend = |&step: &u8| {
        hash = (hash ^ (u64::from(step) + 1)).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(31);
        BlockHash(hash)
    };
    path.iter().map(extend).collect()
}

/// A path with few ways to go, so that prompts share prefixes.
fn path() -> impl Strategy<Value = Vec<u8>> {
    vec(0..3_u8, 0..12)
}

/// What one instance holds.
#[derive(Debug, Default)]
struct Model {
    capacity: usize,
    blocks: Vec<ModelBlock>,
}

#[derive(Clone, Copy, Debug)]
struct ModelBlock {
    hash: BlockHash,
    parent: Option<BlockHash>,
    depth: usize,
    last_use: usize,
}

impl Model {
    fn holds(&self, hash: BlockHash) -> bool {
        self.blocks.iter().any(|block| block.hash == hash)
    }

    fn matched(&self, chain: &[BlockHash]) -> usize {
        chain.iter().take_while(|&&hash| self.holds(hash)).count()
    }

    /// Uses every block of a chain, and forgets what is too much: the oldest, of a chain its last.
    fn record(&mut self, chain: &[BlockHash], now: usize) {
        for (depth, &hash) in chain.iter().enumerate() {
            let parent = depth.checked_sub(1).map(|parent| chain[parent]);
            self.blocks.retain(|block| block.hash != hash);
            self.blocks.push(ModelBlock { hash, parent, depth, last_use: now });
        }
        self.blocks.sort_by_key(|block| (std::cmp::Reverse(block.last_use), block.depth));
        self.blocks.truncate(self.capacity);
    }

    fn remove(&mut self, hash: BlockHash) {
        self.blocks.retain(|block| block.hash != hash);
        let orphans: Vec<_> =
            self.blocks.iter().filter(|block| block.parent == Some(hash)).copied().collect();
        orphans.iter().for_each(|orphan| self.remove(orphan.hash));
    }
}

/// The index and one model for each instance.
#[derive(Debug, Default)]
struct Pair {
    index: PrefixIndex,
    models: Vec<Model>,
    joined: u32,
    uses: usize,
}

impl Pair {
    fn with_capacities(capacities: &[usize]) -> Self {
        let mut pair = Self::default();
        capacities.iter().for_each(|&capacity| pair.join(capacity));
        pair
    }

    fn join(&mut self, capacity: usize) {
        self.index.join(InstanceId(self.joined), capacity as u64);
        self.models.push(Model { capacity, blocks: Vec::new() });
        self.joined += 1;
    }

    fn leave(&mut self, position: usize) {
        self.index.leave(position);
        self.models.remove(position);
    }

    fn record(&mut self, position: usize, path: &[u8]) {
        let chain = chain(path);
        let mut matches = Vec::new();
        self.index.lookup(&chain, &mut matches);
        self.index.record(position, &chain, matches[position]);
        self.uses += 1;
        self.models[position].record(&chain, self.uses);
    }

    fn check(&mut self, path: &[u8]) {
        let chain = chain(path);
        let mut matches = Vec::new();
        self.index.lookup(&chain, &mut matches);
        let found: Vec<_> = matches.iter().map(|found| found.blocks as usize).collect();
        let expected: Vec<_> = self.models.iter().map(|model| model.matched(&chain)).collect();
        assert_eq!(found, expected, "{self:#?}");
        for (member, model) in self.index.members.iter().zip(&self.models) {
            assert_eq!(member.held_blocks, model.blocks.len() as u64);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Record(usize, Vec<u8>),
    Clear(usize),
    Replace(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0..3_usize, path()).prop_map(|(position, path)| Step::Record(position, path)),
        1 => (0..3_usize).prop_map(Step::Clear),
        1 => (0..3_usize, 0..20_usize).prop_map(|(position, capacity)| Step::Replace(position, capacity)),
    ]
}

proptest! {
    #[test]
    fn it_forgets_exactly_what_was_used_longest_ago(
        capacities in vec(0..20_usize, 3),
        steps in vec(step(), 1..60),
        probes in vec(path(), 4),
    ) {
        let mut pair = Pair::with_capacities(&capacities);
        for step in steps {
            match step {
                Step::Record(position, path) => pair.record(position, &path),
                Step::Clear(position) => {
                    pair.index.clear(position);
                    pair.models[position].blocks.clear();
                }
                Step::Replace(position, capacity) => {
                    pair.leave(position);
                    pair.join(capacity);
                }
            }
            probes.iter().for_each(|path| pair.check(path));
        }
    }

    #[test]
    fn events_add_chains_behind_known_blocks_and_remove_whole_branches(
        steps in vec((any::<bool>(), 0..2_usize, path(), 0..12_usize), 1..60),
        probes in vec(path(), 4),
    ) {
        let mut pair = Pair::with_capacities(&[1000, 1000]);
        for (is_stored, position, path, depth) in steps {
            let chain = chain(&path);
            let depth = depth.min(chain.len());
            if is_stored {
                let parent = depth.checked_sub(1).map(|parent| chain[parent]);
                pair.index.stored(position, parent, &chain[depth..]);
                let model = &mut pair.models[position];
                if parent.is_none_or(|parent| model.holds(parent)) {
                    model.record(&chain, 0);
                }
            } else {
                pair.index.removed(position, &chain[depth..]);
                chain[depth..].iter().for_each(|&block| pair.models[position].remove(block));
            }
            probes.iter().for_each(|path| pair.check(path));
        }
    }

    /// After a removal the order of use is no longer exact, but what is found must still be there.
    #[test]
    fn eviction_events_and_awaited_prompts_together_keep_the_bounds(
        capacity in 0..20_u64,
        steps in vec((0..5_u8, path()), 1..60),
    ) {
        let mut index = PrefixIndex::default();
        index.join(InstanceId(0), capacity);
        let mut matches = Vec::new();
        for ((kind, path), request) in steps.into_iter().zip((0..).map(RequestId)) {
            let chain = chain(&path);
            let (head, tail) = chain.split_at(chain.len() / 2);
            match kind {
                0 | 3 => {
                    index.lookup(&chain, &mut matches);
                    index.record(0, &chain, matches[0]);
                    if kind == 3 {
                        index.await_prompt(0, request, &chain);
                    }
                }
                4 => {
                    // The oldest but one, to have some that overtake.
                    let settled = index.members[0].queue.get(1).copied();
                    settled.iter().for_each(|&(request, _)| index.settle_prompt(request));
                }
                1 => index.stored(0, head.last().copied(), tail),
                _ => index.removed(0, tail),
            }
            index.lookup(&chain, &mut matches);
            let held = chain.iter().take_while(|&&block| index.node_of(0, block).is_some()).count();
            prop_assert_eq!(matches[0].blocks as usize, held);
            prop_assert!(index.members[0].held_blocks <= capacity);
        }
        index.leave(0);
        prop_assert!(chain(&[0, 1, 2]).iter().all(|&block| index.holders.get(block).is_empty()));
    }

    /// Only a broken driver or a collision does this. The answers may be off, but there must be some.
    #[test]
    fn hashes_that_are_no_chains_do_no_harm(steps in vec((0..2_usize, vec((0..6_u64).prop_map(BlockHash), 0..8)), 1..40)) {
        let mut index = PrefixIndex::default();
        index.join(InstanceId(0), 5);
        index.join(InstanceId(1), 9);
        let mut matches = Vec::new();
        for (position, blocks) in steps {
            index.lookup(&blocks, &mut matches);
            index.record(position, &blocks, matches[position]);
            prop_assert!(index.members.iter().all(|member| member.held_blocks <= member.capacity_blocks));
        }
        index.leave(1);
        index.leave(0);
        prop_assert!((0..6).all(|block| index.holders.get(BlockHash(block)).is_empty()));
    }
}

#[test]
fn a_prompt_longer_than_the_cache_leaves_its_head() {
    let mut pair = Pair::with_capacities(&[4]);
    pair.record(0, &[2, 2]);
    pair.record(0, &[0, 1, 0, 1, 0, 1]);
    pair.check(&[0, 1, 0, 1, 0, 1]);
    pair.check(&[2, 2]);
    assert_eq!(pair.models[0].matched(&chain(&[0, 1, 0, 1, 0, 1])), 4);
}

#[test]
fn each_instance_is_found_at_its_own_depth() {
    let mut pair = Pair::with_capacities(&[1000; 9]);
    let path = [0, 1, 2].repeat(100);
    let depths = [300, 0, 1, 77, 77, 300, 64, 299, 200];
    for (position, &depth) in depths.iter().enumerate() {
        pair.record(position, &path[..depth]);
    }
    let mut matches = Vec::new();
    pair.index.lookup(&chain(&path), &mut matches);
    assert_eq!(matches.iter().map(|found| found.blocks as usize).collect::<Vec<_>>(), depths);
}

/// Routes `path` to the only instance, and awaits it.
fn await_path(pair: &mut Pair, request: u64, path: &[u8]) {
    let chain = chain(path);
    let mut matches = Vec::new();
    pair.index.lookup(&chain, &mut matches);
    pair.index.record(0, &chain, matches[0]);
    pair.index.await_prompt(0, RequestId(request), &chain);
}

fn matched(pair: &mut Pair, path: &[u8]) -> u32 {
    let mut matches = Vec::new();
    pair.index.lookup(&chain(path), &mut matches);
    matches[0].blocks
}

#[test]
fn what_is_to_be_computed_is_not_taken_away_by_news_of_what_was() {
    let mut pair = Pair::with_capacities(&[1000]);
    await_path(&mut pair, 1, &[0, 1, 2]);
    await_path(&mut pair, 2, &[0, 1, 1]);
    pair.index.removed(0, &chain(&[0, 1, 2]));
    assert_eq!(matched(&mut pair, &[0, 1, 2]), 3);
    pair.index.settle_prompt(RequestId(1));
    pair.index.removed(0, &chain(&[0, 1, 2]));
    // The first two are of the other prompt too.
    assert_eq!((matched(&mut pair, &[0, 1, 2]), matched(&mut pair, &[0, 1, 1])), (2, 3));
    pair.index.settle_prompt(RequestId(2));
    pair.index.removed(0, &chain(&[0, 1, 2]));
    assert_eq!(matched(&mut pair, &[0, 1, 1]), 0);
}

#[test]
fn what_is_to_be_computed_is_not_pushed_out_by_what_is_there() {
    let mut pair = Pair::with_capacities(&[6]);
    pair.record(0, &[0, 0]);
    await_path(&mut pair, 1, &[1, 1]);
    await_path(&mut pair, 2, &[2, 2]);
    // Four blocks of another router: two of them are more than may go.
    pair.index.stored(0, None, &chain(&[2, 1, 1, 1])[..]);
    // Of `2` there is one already; two more replace what was used before anything that is awaited.
    assert_eq!((matched(&mut pair, &[2, 1, 1, 1]), matched(&mut pair, &[0, 0])), (3, 0));
    assert_eq!((matched(&mut pair, &[1, 1]), matched(&mut pair, &[2, 2])), (2, 2));
    // They were used before the two prompts, and go before them.
    await_path(&mut pair, 3, &[1, 2, 0]);
    assert_eq!((matched(&mut pair, &[2, 1]), matched(&mut pair, &[2, 2])), (1, 2));
}

#[test]
fn who_leaves_awaits_nothing() {
    let mut pair = Pair::with_capacities(&[1000]);
    await_path(&mut pair, 1, &[0, 1]);
    pair.leave(0);
    pair.join(1000);
    assert!(pair.index.awaited.is_empty() && pair.index.awaiting.is_empty());
    // The request goes elsewhere, and its end is news of that.
    await_path(&mut pair, 1, &[0, 1]);
    pair.index.settle_prompt(RequestId(1));
    pair.index.settle_prompt(RequestId(1));
    assert!(pair.index.awaiting.is_empty() && pair.index.members[0].queue.is_empty());
}
