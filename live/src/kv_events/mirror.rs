//! From an engine's names of blocks to the router's.
//!
//! An engine's hashes are its own. The router's are made of the tokens, which an event brings along, and of the
//! block before, which an earlier event named: so each block's name here is remembered under its name there.
//! What cannot be named, such as a block with an image in it, is left out, and with it all that follows it.

use std::collections::HashMap;

use lodestar_router::BlockHash;

use super::wire::{EngineHash, ExtraKey, Stored, WireEvent};
use crate::prompt::{chain_tokens, root};

/// What one engine caches.
#[derive(Debug)]
pub(super) struct Mirror {
    block_tokens: u32,
    /// JSON text of the model's name, as requests bring it.
    model: Option<String>,
    known: HashMap<EngineHash, Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    block: BlockHash,
    /// vLLM computes a block again when two requests need it at once, and tells of each copy.
    copies: u32,
}

/// A change in the router's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Stored { parent: Option<BlockHash>, blocks: Vec<BlockHash> },
    Removed { blocks: Vec<BlockHash> },
    Cleared,
}

/// The engine's blocks are not of the router's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OtherBlockSize(pub(super) u32);

impl Mirror {
    /// Of an engine that has cached nothing and serves `model` where an event names no adapter.
    pub(super) fn new(block_tokens: u32, model: Option<&str>) -> Self {
        let model = model.map(json_text);
        Self { block_tokens, model, known: HashMap::new() }
    }

    /// Nothing is cached any more.
    pub(super) fn clear(&mut self) {
        self.known.clear();
    }

    /// Translates an event; `None` if it changes nothing that can be named.
    pub(super) fn apply(&mut self, event: &WireEvent) -> Result<Option<Change>, OtherBlockSize> {
        Ok(match event {
            WireEvent::Stored(stored) if stored.place.counts() => {
                if stored.block_tokens != self.block_tokens {
                    return Err(OtherBlockSize(stored.block_tokens));
                }
                self.stored(stored)
            }
            WireEvent::Removed { hashes, place } if place.counts() => self.removed(hashes),
            WireEvent::Cleared => {
                self.clear();
                Some(Change::Cleared)
            }
            WireEvent::Stored(_) | WireEvent::Removed { .. } | WireEvent::Other => None,
        })
    }

    fn stored(&mut self, stored: &Stored) -> Option<Change> {
        let adapter = stored.adapter.as_deref();
        let mut keys = stored.extra_keys.iter();
        let parent = match stored.parent {
            Some(parent) => Some(self.known.get(&parent)?.block),
            None => None,
        };
        let start = match parent {
            Some(parent) => parent.0,
            None => {
                let salt = salt_of(keys.next(), adapter)?.map(json_text);
                let adapter = adapter.map(json_text);
                root(adapter.as_deref().or(self.model.as_deref()), salt.as_deref())
            }
        };
        let plain = keys.take_while(|keys| salt_of(Some(keys), adapter) == Some(None)).count();
        let plain = plain + usize::from(parent.is_none());
        let nameable = if stored.extra_keys.is_empty() { usize::MAX } else { plain };
        let mut blocks = chain_tokens(start, &stored.token_ids, self.block_tokens);
        blocks.truncate(nameable);
        blocks.truncate(stored.hashes.len());
        for (hash, &block) in stored.hashes.iter().zip(&blocks) {
            self.known.entry(*hash).or_insert(Known { block, copies: 0 }).copies += 1;
        }
        (!blocks.is_empty()).then_some(Change::Stored { parent, blocks })
    }

    fn removed(&mut self, hashes: &[EngineHash]) -> Option<Change> {
        let gone = |hash: &EngineHash| {
            let known = self.known.get_mut(hash)?;
            known.copies -= 1;
            let block = known.block;
            (known.copies == 0).then(|| self.known.remove(hash)).map(|_| block)
        };
        let blocks: Vec<BlockHash> = hashes.iter().filter_map(gone).collect();
        (!blocks.is_empty()).then_some(Change::Removed { blocks })
    }
}

/// The salt among a block's keys; `None` if there is a key that the router cannot know of.
fn salt_of<'a>(
    keys: Option<&'a Option<Vec<ExtraKey>>>,
    adapter: Option<&str>,
) -> Option<Option<&'a str>> {
    let keys = keys.and_then(Option::as_deref).unwrap_or_default();
    let keys = match (keys, adapter) {
        ([ExtraKey::Text(name), rest @ ..], Some(adapter)) if name == adapter => rest,
        _ => keys,
    };
    match keys {
        [] => Some(None),
        [ExtraKey::Text(salt)] => Some(Some(salt)),
        _ => None,
    }
}

fn json_text(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::wire::Place;
    use super::*;
    use crate::prompt::PromptReader;

    /// Blocks of two tokens each, the first of them called `first`, and so on.
    fn stored(first: u64, parent: Option<u64>, token_ids: &[u32]) -> Stored {
        let count = token_ids.len() as u64 / 2;
        Stored {
            hashes: (first..first + count).map(EngineHash).collect(),
            parent: parent.map(EngineHash),
            token_ids: token_ids.to_vec(),
            block_tokens: 2,
            extra_keys: vec![None; count as usize],
            ..Stored::default()
        }
    }

    fn removed(hash: u64) -> WireEvent {
        WireEvent::Removed { hashes: vec![EngineHash(hash)], place: Place::default() }
    }

    fn prompt(fields: &str) -> Vec<BlockHash> {
        let body = format!(r#"{{"model":"m",{fields}}}"#);
        PromptReader::new(2, None).read(body.as_bytes()).blocks
    }

    #[test]
    fn blocks_are_called_as_prompts_call_them() {
        let mut mirror = Mirror::new(2, Some("m"));
        let blocks = prompt(r#""prompt":[1,2,3,4,5,6,7]"#);
        let first = mirror.apply(&WireEvent::Stored(stored(70, None, &[1, 2, 3, 4])));
        assert_eq!(first, Ok(Some(Change::Stored { parent: None, blocks: blocks[..2].to_vec() })));
        let next = mirror.apply(&WireEvent::Stored(stored(80, Some(71), &[5, 6])));
        let change = Change::Stored { parent: Some(blocks[1]), blocks: blocks[2..].to_vec() };
        assert_eq!(next, Ok(Some(change)));
        // Of a parent that was never heard of.
        let other = mirror.apply(&WireEvent::Stored(stored(90, Some(5), &[5, 6])));
        assert_eq!(other, Ok(None));
        assert_eq!(
            mirror.apply(&removed(71)),
            Ok(Some(Change::Removed { blocks: vec![blocks[1]] }))
        );
        assert_eq!(mirror.apply(&WireEvent::Cleared), Ok(Some(Change::Cleared)));
        assert_eq!(mirror.apply(&removed(70)), Ok(None));
    }

    #[test]
    fn a_block_is_gone_with_its_last_copy() {
        let mut mirror = Mirror::new(2, Some("m"));
        let event = WireEvent::Stored(stored(7, None, &[1, 2]));
        assert_eq!(mirror.apply(&event), mirror.apply(&event));
        assert_eq!(mirror.apply(&removed(7)), Ok(None));
        assert!(mirror.apply(&removed(7)).is_ok_and(|change| change.is_some()));
        assert_eq!(mirror.apply(&removed(7)), Ok(None));
    }

    #[test]
    fn salts_and_adapters_are_roots_and_images_end_the_chain() {
        let text = |text: &str| ExtraKey::Text(text.to_owned());
        let blocks_of = |change: Result<Option<Change>, OtherBlockSize>| match change.unwrap() {
            Some(Change::Stored { blocks, .. }) => blocks,
            other => panic!("{other:?}"),
        };
        let mut salted = stored(1, None, &[1, 2, 3, 4]);
        salted.extra_keys[0] = Some(vec![text("s")]);
        let mut mirror = Mirror::new(2, Some("m"));
        let blocks = blocks_of(mirror.apply(&WireEvent::Stored(salted.clone())));
        assert_eq!(blocks, prompt(r#""cache_salt":"s","prompt":[1,2,3,4]"#));
        salted.adapter = Some("a".to_owned());
        salted.extra_keys = vec![Some(vec![text("a"), text("s")]), Some(vec![text("a")])];
        let blocks = blocks_of(mirror.apply(&WireEvent::Stored(salted.clone())));
        assert_eq!(blocks, prompt(r#""model":"a","cache_salt":"s","prompt":[1,2,3,4]"#));
        salted.extra_keys[1] = Some(vec![text("a"), ExtraKey::Other]);
        assert_eq!(blocks_of(mirror.apply(&WireEvent::Stored(salted.clone()))), blocks[..1]);
        salted.extra_keys[0] = Some(vec![ExtraKey::Other]);
        assert_eq!(mirror.apply(&WireEvent::Stored(salted)), Ok(None));
    }

    #[test]
    fn blocks_of_another_size_are_refused() {
        let mut mirror = Mirror::new(3, None);
        let event = WireEvent::Stored(stored(7, None, &[1, 2]));
        assert_eq!(mirror.apply(&event), Err(OtherBlockSize(2)));
    }
}
