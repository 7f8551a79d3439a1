//! How much of the prompts one shared prefix cache could save, for every cache size at once.
//!
//! Not one simulated cache per size: an LRU cache of size C holds exactly the blocks whose *stack
//! distance*, the number of different blocks used since, is at most C. One pass that counts distances
//! gives the whole curve, exactly.

use std::fmt;

use rustc_hash::FxHashMap;

use super::CACHE_SIZES_TOKENS;
use super::lru::LruStack;
use crate::request::{Source, Span, TraceRequest};

/// vLLM's default; what prompts are cut into unless the trace itself consists of larger blocks.
const DEFAULT_BLOCK_TOKENS: u32 = 16;
/// Blocks get larger until prompts have at most so many that could hit, to bound memory and time.
const MOST_BLOCKS: u64 = 16_000_000;

/// Prefix sharing of a trace, as one cache in front of everything would see it.
///
/// A prompt is cut into blocks; a block is the same as an earlier one if everything up to its end is. A
/// prompt hits from its start to the first block that is not there. The last block may be partial, and is
/// matched by an equal one.
#[derive(Clone, Debug, PartialEq)]
pub struct ReuseStats {
    /// Tokens per block.
    pub block_tokens: u32,
    /// Different blocks in the trace.
    pub distinct_blocks: u64,
    /// Blocks that hit over all blocks, for an infinite cache.
    pub block_hit_ratio: f64,
    /// Share of the requests of which more than half the blocks hit, for an infinite cache.
    pub requests_over_half: f64,
    /// Share of the requests of which more than 90% of the blocks hit, for an infinite cache.
    pub requests_over_nine_tenths: f64,
    /// Tokens in all prompts.
    prompt_tokens: u64,
    /// Cache size in blocks, and the tokens that hit at that size or any larger; both ascending.
    hit_tokens: Vec<(u64, u64)>,
}

impl ReuseStats {
    /// Describes a trace; its order counts, its times do not.
    pub fn of(requests: &[TraceRequest]) -> Self {
        let shareable = shareable_tokens(requests);
        let block_tokens = block_tokens(requests, shareable.iter().sum());
        // Each prompt uses its blocks that could hit, one by one, and all others at once.
        let uses = |tokens: &u64| tokens.div_ceil(block_tokens.into()) as usize + 1;
        let uses = shareable.iter().map(uses).sum();
        let mut trie = Trie::default();
        let mut stack = LruStack::new(uses);
        let mut hits = FxHashMap::default();
        let (mut all_blocks, mut hit_blocks) = (0u64, 0u64);
        let (mut over_half, mut over_nine_tenths) = (0u64, 0u64);
        for (request, &shareable) in requests.iter().zip(&shareable) {
            let path = trie.path(request, shareable, block_tokens);
            // Look all up, then use all: a prompt does not push out its own blocks while it is matched.
            let mut cache_blocks = 0;
            let mut hit = 0;
            for (block, tokens) in &path {
                let Some(distance) = stack.distance(*block) else { break };
                cache_blocks = cache_blocks.max(distance);
                *hits.entry(cache_blocks).or_insert(0) += u64::from(*tokens);
                hit += 1;
            }
            let blocks = request.prompt_tokens().div_ceil(block_tokens);
            all_blocks += u64::from(blocks);
            hit_blocks += u64::from(hit);
            over_half += u64::from(hit * 2 > blocks);
            over_nine_tenths += u64::from(u64::from(hit) * 10 > u64::from(blocks) * 9);
            let own_blocks = blocks - path.len() as u32;
            for (block, _) in path {
                stack.touch(block);
            }
            stack.push(own_blocks);
        }
        let ratio = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let count = requests.len() as u64;
        Self {
            block_tokens,
            distinct_blocks: stack.distinct,
            block_hit_ratio: ratio(hit_blocks, all_blocks),
            requests_over_half: ratio(over_half, count),
            requests_over_nine_tenths: ratio(over_nine_tenths, count),
            prompt_tokens: requests.iter().map(|request| u64::from(request.prompt_tokens())).sum(),
            hit_tokens: cumulate(hits),
        }
    }

    /// Prompt tokens that hit over all prompt tokens, for an LRU cache of this size.
    pub fn token_hit_ratio(&self, cache_tokens: u64) -> f64 {
        let cache_blocks = cache_tokens / u64::from(self.block_tokens);
        let fit = self.hit_tokens.partition_point(|&(size, _)| size <= cache_blocks);
        let hit = fit.checked_sub(1).map_or(0, |last| self.hit_tokens[last].1);
        hit as f64 / self.prompt_tokens.max(1) as f64
    }

    /// [`Self::token_hit_ratio`] by cache size, for sizes from 10,000 tokens on, each half as much again, up
    /// to one that holds everything: a curve to draw.
    pub fn curve(&self) -> Vec<(u64, f64)> {
        let everything_tokens = self.distinct_blocks * u64::from(self.block_tokens);
        let mut sizes = vec![10_000];
        while let Some(&last) = sizes.last()
            && last < everything_tokens
        {
            sizes.push(last / 2 * 3);
        }
        sizes.into_iter().map(|size| (size, self.token_hit_ratio(size))).collect()
    }

    /// [`Self::token_hit_ratio`] of an infinite cache.
    pub fn infinite_token_hit_ratio(&self) -> f64 {
        self.token_hit_ratio(u64::MAX)
    }
}

impl fmt::Display for ReuseStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |ratio: f64| format!("{:.1}%", ratio * 100.0);
        writeln!(f, "prefix hits of one shared LRU cache, in prompt tokens")?;
        for size in CACHE_SIZES_TOKENS {
            let name = match size {
                0..1_000_000 => format!("  {}k tokens", size / 1000),
                _ => format!("  {}M tokens", size / 1_000_000),
            };
            writeln!(f, "{name:<22}{:>10}", percent(self.token_hit_ratio(size)))?;
        }
        writeln!(f, "{:<22}{:>10}", "  infinite", percent(self.infinite_token_hit_ratio()))?;
        let (half, most) =
            (percent(self.requests_over_half), percent(self.requests_over_nine_tenths));
        writeln!(f, "{:<22}{half:>10} of the requests (infinite cache)", "  over half a prompt")?;
        writeln!(f, "{:<22}{most:>10} of the requests (infinite cache)", "  over 90% of a prompt")?;
        write!(
            f,
            "{:<22}{:>10} of {} tokens, {} of all blocks hit",
            "  distinct blocks",
            self.distinct_blocks,
            self.block_tokens,
            percent(self.block_hit_ratio)
        )
    }
}

/// How many leading tokens of each prompt could be those of another: all before the first span of a
/// source that no other request uses. What follows needs no looking up, which is most of most traces.
fn shareable_tokens(requests: &[TraceRequest]) -> Vec<u64> {
    let mut users: FxHashMap<Source, (u64, bool)> = FxHashMap::default();
    for request in requests {
        for span in &request.prompt {
            let (first, others) = users.entry(span.source).or_insert((request.id, false));
            *others |= *first != request.id;
        }
    }
    let is_shared = |span: &&Span| users.get(&span.source).is_some_and(|(_, others)| *others);
    let tokens = |request: &TraceRequest| {
        request.prompt.iter().take_while(is_shared).map(|span| u64::from(span.tokens)).sum()
    };
    requests.iter().map(tokens).collect()
}

/// The block size that the trace was recorded with, if it shows one, else vLLM's; larger for huge traces.
fn block_tokens(requests: &[TraceRequest], shareable_tokens: u64) -> u32 {
    let mut tokens = recorded_block_tokens(requests).unwrap_or(DEFAULT_BLOCK_TOKENS);
    while shareable_tokens / u64::from(tokens) > MOST_BLOCKS {
        tokens *= 2;
    }
    tokens
}

/// The common length of all hashed blocks, of which only the last of a prompt may be shorter.
fn recorded_block_tokens(requests: &[TraceRequest]) -> Option<u32> {
    let mut longest = None;
    for request in requests {
        for (index, span) in request.prompt.iter().enumerate() {
            if !matches!(span, Span { source: Source::Hash(_), start: 0, .. }) {
                return None;
            }
            let is_last = index + 1 == request.prompt.len();
            if !is_last && *longest.get_or_insert(span.tokens) != span.tokens {
                return None;
            }
        }
    }
    let fits = |tokens: &u32| {
        requests
            .iter()
            .filter_map(|request| request.prompt.last())
            .all(|span| span.tokens <= *tokens)
    };
    longest.filter(fits)
}

fn cumulate(hits: FxHashMap<u64, u64>) -> Vec<(u64, u64)> {
    let mut hits: Vec<(u64, u64)> = hits.into_iter().collect();
    hits.sort_unstable();
    let mut sum = 0;
    for (_, tokens) in &mut hits {
        sum += *tokens;
        *tokens = sum;
    }
    hits
}

/// Names every prompt prefix that occurs, exactly: equal content, equal name.
#[derive(Default)]
struct Trie {
    nodes: FxHashMap<(u32, Span), u32>,
    /// Where prompts with this salt begin.
    roots: FxHashMap<Option<u64>, u32>,
    next: u32,
}

impl Trie {
    /// The blocks of a prompt that could hit: the name of the prefix that ends with each, and its tokens.
    fn path(
        &mut self,
        request: &TraceRequest,
        shareable_tokens: u64,
        block_tokens: u32,
    ) -> Vec<(u32, u32)> {
        // The last block counts in full only if the prompt ends with it.
        let whole = shareable_tokens == u64::from(request.prompt_tokens());
        let mut left = match whole {
            true => shareable_tokens,
            false => shareable_tokens / u64::from(block_tokens) * u64::from(block_tokens),
        };
        let Self { nodes, roots, next } = self;
        let mut fresh = || {
            *next += 1;
            *next - 1
        };
        let mut node = *roots.entry(request.cache_salt).or_insert_with(&mut fresh);
        let mut path = Vec::new();
        let mut filled = 0;
        for mut span in merged(&request.prompt) {
            while span.tokens > 0 && left > 0 {
                // Ends with the block, with the span, or where sharing does.
                let room = u64::from(block_tokens - filled).min(left) as u32;
                let piece = Span { tokens: span.tokens.min(room), ..span };
                left -= u64::from(piece.tokens);
                node = *nodes.entry((node, piece)).or_insert_with(&mut fresh);
                span.start += piece.tokens;
                span.tokens -= piece.tokens;
                filled += piece.tokens;
                if filled == block_tokens {
                    path.push((node, filled));
                    filled = 0;
                }
            }
        }
        if filled > 0 {
            path.push((node, filled));
        }
        path
    }
}

/// The spans with those joined that continue each other, so that equal content is cut equally.
fn merged(prompt: &[Span]) -> Vec<Span> {
    let mut merged: Vec<Span> = Vec::with_capacity(prompt.len());
    for span in prompt {
        match merged.last_mut() {
            Some(last) if last.source == span.source && last.start + last.tokens == span.start => {
                last.tokens += span.tokens;
            }
            _ => merged.push(*span),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Arrival;

    fn request(id: u64, prompt: Vec<Span>) -> TraceRequest {
        let arrival = Arrival::At { ns: id };
        TraceRequest {
            id,
            arrival,
            prompt,
            output_tokens: 1,
            session: None,
            priority: 0,
            cache_salt: None,
        }
    }

    fn blocks(ids: &[u64]) -> Vec<Span> {
        ids.iter().map(|&id| Span { source: Source::Hash(id), start: 0, tokens: 100 }).collect()
    }

    #[test]
    fn hits_end_at_the_first_new_block() {
        let requests = [blocks(&[1, 2, 3]), blocks(&[1, 9, 3]), blocks(&[1, 2, 3])];
        let requests: Vec<_> =
            (0..).zip(requests).map(|(id, prompt)| request(id, prompt)).collect();
        let reuse = ReuseStats::of(&requests);
        assert_eq!((reuse.block_tokens, reuse.distinct_blocks), (100, 5));
        assert!((reuse.block_hit_ratio - 4.0 / 9.0).abs() < 1e-12);
        assert!((reuse.infinite_token_hit_ratio() - 4.0 / 9.0).abs() < 1e-12);
        // Blocks 2 and 3 of the first prompt are behind all five when the third comes.
        assert!((reuse.token_hit_ratio(500) - 4.0 / 9.0).abs() < 1e-12);
        assert!((reuse.token_hit_ratio(499) - 2.0 / 9.0).abs() < 1e-12);
        assert!(reuse.token_hit_ratio(0).abs() < 1e-12);
    }

    #[test]
    fn salts_separate_and_split_spans_do_not() {
        let whole = Span { source: Source::Hash(7), start: 0, tokens: 64 };
        let halves = [Span { tokens: 24, ..whole }, Span { start: 24, tokens: 40, ..whole }];
        let mut requests = vec![request(0, vec![whole]), request(1, halves.to_vec())];
        assert!((ReuseStats::of(&requests).infinite_token_hit_ratio() - 0.5).abs() < 1e-12);
        requests[1].cache_salt = Some(1);
        assert!(ReuseStats::of(&requests).infinite_token_hit_ratio().abs() < 1e-12);
    }

    /// The curve against a cache that is really simulated.
    #[test]
    fn the_curve_is_that_of_an_lru_cache() {
        use rand::RngExt;
        let mut rng = crate::random::stream(1, "test");
        let prompts: Vec<Vec<u64>> = (0..400)
            .map(|_| (0..rng.random_range(1..6)).map(|_| rng.random_range(0..4)).collect())
            .collect();
        let requests: Vec<_> =
            (0..).zip(&prompts).map(|(id, ids)| request(id, blocks(ids))).collect();
        let reuse = ReuseStats::of(&requests);
        for cache_blocks in [1, 2, 5, 20, 100, 10_000] {
            // Least recently used first; blocks are named by the prefix they end.
            let mut cache: Vec<&[u64]> = Vec::new();
            let (mut hit, mut all) = (0, 0);
            for ids in &prompts {
                let prefixes = || (1..=ids.len()).map(|end| &ids[..end]);
                hit += prefixes().take_while(|prefix| cache.contains(prefix)).count();
                all += ids.len();
                for prefix in prefixes() {
                    cache.retain(|cached| *cached != prefix);
                    cache.push(prefix);
                }
                cache.drain(..cache.len().saturating_sub(cache_blocks));
            }
            let ratio = reuse.token_hit_ratio(cache_blocks as u64 * 100);
            assert!((ratio - hit as f64 / all as f64).abs() < 1e-12, "{cache_blocks} blocks");
        }
    }
}
