//! From the content of a prompt to the keys under which its KV cache blocks are found.
//!
//! vLLM hashes the token ids of each full block together with its parent's hash
//! (`v1/core/kv_cache_utils.py`, `hash_block_tokens`). Only the identity of (parent, tokens, salt)
//! matters to a cache, so we hash the names of the tokens — source and position — instead of the
//! tokens: the same answers, at a few nanoseconds a block, without inventing a single token.

use lodestar_router::BlockHash;
use lodestar_traces::{Source, Span};

/// Hash state before the first token of a request without a salt.
const ROOT: u64 = 0x243F_6A88_85A3_08D3;
/// Odd constants from the digits of pi, one for each kind of source, then one for positions.
const HASH: u64 = 0x1319_8A2E_0370_7345;
const TOKEN: u64 = 0xA409_3822_299F_31D1;
const OUTPUT: u64 = 0x082E_FA98_EC4E_6C89;
const PRIVATE: u64 = 0x4528_21E6_38D0_1377;
const SALT: u64 = 0xBE54_66CF_34E9_0C6D;
const POSITION: u64 = 0xC0AC_29B7_C97C_50DD;
const OWN: u64 = 0x3F84_D5B5_B547_0917;

/// Longer runs get in each other's way in a table.
const RUN_BLOCKS_MAX: u32 = 8;

/// A hash that has consumed tokens up to some point and can consume more.
///
/// The upper half of a key is a hash of everything up to the block's end. The lower half is the block's
/// *place*: consecutive blocks of one source have consecutive places, so that a table which stores a key
/// by its lower bits keeps a run of text in neighbouring cells. Prefix caches spend most of their time
/// waiting for memory; this is worth a factor of three on long prompts (`docs/performance.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    hash: u64,
    /// Place of the last block.
    place: u32,
    /// Blocks with consecutive places up to the last block.
    run_blocks: u32,
    /// Where the next token must come from for the next block to continue the last block's run.
    run: Option<(Source, u32)>,
    /// Where it must come from for the block begun to be of one piece so far.
    piece: Piece,
}

/// The tokens since the last block border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Empty,
    /// All of one source, from the first position up to the second.
    One(Source, u32, u32),
    Several,
}

impl Chain {
    /// The state before the first token. The salt enters the first block and hence the whole chain.
    pub(crate) fn root(salt: Option<u64>) -> Self {
        let hash = salt.map_or(ROOT, |salt| fold(ROOT ^ salt, SALT));
        Self { hash, place: 0, run_blocks: 0, run: None, piece: Piece::Empty }
    }

    /// Consumes `tokens` tokens of `source`, the first of them at position `start`.
    ///
    /// Callers cut a stream only where its source changes or a block ends, and say so with
    /// [`Self::end_block`]; equal streams are then cut alike and hash alike.
    pub(crate) fn append(&mut self, source: Source, start: u32, tokens: u32) {
        let (id, kind) = match source {
            Source::Hash(id) => (id, HASH),
            Source::Token(token) => (u64::from(token), TOKEN),
            Source::Output(id) => (id, OUTPUT),
            Source::Private(id) => (id, PRIVATE),
        };
        let named = fold(self.hash ^ id, kind);
        self.hash = fold(named ^ (u64::from(start) << 32 | u64::from(tokens)), POSITION);
        self.piece = match self.piece {
            Piece::Empty => Piece::One(source, start, start + tokens),
            Piece::One(..) | Piece::Several => Piece::Several,
        };
    }

    /// Ends a block with the tokens consumed since the last one; returns its key.
    pub(crate) fn end_block(&mut self) -> BlockHash {
        let (begin, end) = match self.piece {
            Piece::One(source, start, end) => (Some((source, start)), Some((source, end))),
            Piece::Empty | Piece::Several => (None, None),
        };
        let continues = begin.is_some() && begin == self.run && self.run_blocks < RUN_BLOCKS_MAX;
        (self.place, self.run_blocks) = if continues {
            (self.place.wrapping_add(1), self.run_blocks + 1)
        } else {
            (self.hash as u32, 1)
        };
        self.run = end;
        self.piece = Piece::Empty;
        BlockHash(self.hash & 0xFFFF_FFFF_0000_0000 | u64::from(self.place))
    }
}

/// The keys of a prompt's full blocks, and the chain after its last token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptKeys {
    /// One key for each full block.
    pub keys: Vec<BlockHash>,
    /// Ready to be continued by the first output token.
    pub(crate) chain: Chain,
    /// Prompt length, tokens.
    pub tokens: u32,
}

impl PromptKeys {
    /// Keys of `spans` cut into blocks of `block_size` tokens.
    pub fn new(spans: &[Span], salt: Option<u64>, block_size: u32) -> Self {
        assert!(block_size > 0, "a block holds at least one token");
        let tokens = spans.iter().map(|span| span.tokens).sum::<u32>();
        let mut keys = Vec::with_capacity((tokens / block_size) as usize);
        let mut chain = Chain::root(salt);
        let mut room = block_size;
        for span in spans {
            let mut start = span.start;
            let mut left = span.tokens;
            while left > 0 {
                let take = left.min(room);
                chain.append(span.source, start, take);
                start += take;
                left -= take;
                room -= take;
                if room == 0 {
                    keys.push(chain.end_block());
                    room = block_size;
                }
            }
        }
        debug_assert_eq!(keys.len(), (tokens / block_size) as usize, "one key a full block");
        Self { keys, chain, tokens }
    }
}

/// The key of a block that only one request can look for: any that nobody else has. `stream` is the request's.
pub(crate) fn own_key(stream: u64, block: u32) -> BlockHash {
    let hash = fold(stream ^ ROOT, OWN);
    let key = fold(hash ^ u64::from(block), POSITION);
    let place = (hash as u32).wrapping_add(block);
    BlockHash(key & 0xFFFF_FFFF_0000_0000 | u64::from(place))
}

/// Multiply and fold the 128-bit product: every input bit reaches every output bit.
fn fold(x: u64, multiplier: u64) -> u64 {
    let product = u128::from(x ^ multiplier.rotate_left(32)) * u128::from(multiplier);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(source: Source, start: u32, tokens: u32) -> Span {
        Span { source, start, tokens }
    }

    #[test]
    fn equal_prefixes_have_equal_keys_and_a_difference_stays() {
        let a = PromptKeys::new(
            &[span(Source::Hash(1), 0, 64), span(Source::Hash(2), 0, 64)],
            None,
            16,
        );
        let b = PromptKeys::new(
            &[span(Source::Hash(1), 0, 64), span(Source::Hash(3), 0, 64)],
            None,
            16,
        );
        assert_eq!(a.keys[..4], b.keys[..4]);
        assert!(a.keys[4..].iter().all(|key| !b.keys.contains(key)));
    }

    #[test]
    fn the_salt_separates_everything() {
        let spans = [span(Source::Hash(1), 0, 64)];
        let plain = PromptKeys::new(&spans, None, 16);
        let salted = PromptKeys::new(&spans, Some(7), 16);
        assert!(plain.keys.iter().all(|key| !salted.keys.contains(key)));
    }

    #[test]
    fn an_answer_continues_the_prompt_as_the_next_turn_spells_it() {
        let first = PromptKeys::new(&[span(Source::Hash(1), 0, 20)], None, 16);
        let next = PromptKeys::new(
            &[span(Source::Hash(1), 0, 20), span(Source::Output(9), 0, 40)],
            None,
            16,
        );
        let mut chain = first.chain;
        chain.append(Source::Output(9), 0, 12);
        let second = chain.end_block();
        chain.append(Source::Output(9), 12, 16);
        let third = chain.end_block();
        assert_eq!(next.keys, [first.keys[0], second, third]);
    }

    #[test]
    fn a_run_of_one_source_has_consecutive_places() {
        let spans = [span(Source::Hash(1), 0, 50), span(Source::Hash(2), 0, 100)];
        let keys = PromptKeys::new(&spans, None, 16).keys;
        let places: Vec<u32> = keys.iter().map(|key| key.0 as u32).collect();
        let continues: Vec<bool> =
            places.windows(2).map(|pair| pair[1] == pair[0].wrapping_add(1)).collect();
        // Block 3 holds tokens of both sources; block 4 is the first that holds the second alone.
        assert_eq!(continues, [true, true, false, false, true, true, true, true]);
    }
}
