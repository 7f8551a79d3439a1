//! What the router may know of a request, read from its body without changing a byte of it.
//!
//! Not parsed into a schema: a router that re-serialises drops the fields it does not know, and one that
//! validates answers differently from the engine. Whatever cannot be read here is left to the engine.
//!
//! Without the model's tokenizer, blocks are chunks of prompt bytes, each hash chained to the one before. The
//! next turn of a conversation repeats the bytes of the last one, so its blocks are found again. A prompt
//! that is given as token ids is cut exactly.

use std::borrow::Cow;
use std::fmt;

use lodestar_router::BlockHash;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// English text and code have about four bytes a token; only the estimate of a prompt's length depends on it.
const BYTES_PER_TOKEN: usize = 4;

/// What of a request concerns the router.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prompt {
    /// Length, estimated unless the prompt is given as token ids. At least 1.
    pub(crate) tokens: u32,
    /// One hash a full block.
    pub(crate) blocks: Vec<BlockHash>,
    /// Hash of the name of the user or conversation, if the body has one.
    pub(crate) session: Option<u64>,
    /// vLLM's: lower is more urgent.
    pub(crate) priority: i32,
    /// Whether the answer is to be streamed.
    pub(crate) stream: bool,
}

/// The fields that are looked at. All raw: a field of the wrong type is the engine's to refuse.
#[derive(Default)]
struct Fields<'a> {
    model: Option<&'a RawValue>,
    tools: Option<&'a RawValue>,
    content: Option<&'a RawValue>,
    salt: Option<&'a RawValue>,
    user: Option<&'a RawValue>,
    priority: Option<&'a RawValue>,
    stream: Option<&'a RawValue>,
}

impl Prompt {
    /// Reads a body; one that is not a JSON object has a length and no content.
    pub(crate) fn read(body: &[u8], block_tokens: u32) -> Self {
        let mut json = serde_json::Deserializer::from_slice(body);
        let Ok(fields) = serde::de::Deserializer::deserialize_map(&mut json, FieldsVisitor) else {
            return Self { tokens: estimate(body.len()), ..Self::default() };
        };
        let (tokens, blocks) = fields.blocks(block_tokens as usize);
        Self {
            tokens,
            blocks,
            session: fields
                .user
                .map(RawValue::get)
                .filter(|user| *user != "null")
                .map(|user| xxh3_64(user.as_bytes())),
            priority: fields
                .priority
                .map(RawValue::get)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
            stream: fields.stream.map(RawValue::get) == Some("true"),
        }
    }
}

impl Fields<'_> {
    /// Length and blocks of the prompt.
    fn blocks(&self, block_tokens: usize) -> (u32, Vec<BlockHash>) {
        let Some(content) = self.content.map(RawValue::get) else { return (1, Vec::new()) };
        // Another model, adapter or salt shares no block; tools stand before the messages.
        let roots = [self.model, self.salt].into_iter().flatten();
        let root = roots.fold(0, |root, value| xxh3_64_with_seed(value.get().as_bytes(), root));
        if let Ok(ids) = serde_json::from_str::<Vec<u32>>(content) {
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            return (token_count(ids.len()), chain(root, &bytes, block_tokens * size_of::<u32>()));
        }
        // What ends the text is not part of its prefix: the next turn goes on there.
        let content = content.strip_suffix([']', '"']).unwrap_or(content).as_bytes();
        let tools = self.tools.map_or("", RawValue::get).as_bytes();
        let text = if tools.is_empty() {
            Cow::from(content)
        } else {
            Cow::from([tools, content].concat())
        };
        (estimate(text.len()), chain(root, &text, block_tokens * BYTES_PER_TOKEN))
    }
}

fn chain(root: u64, bytes: &[u8], block_bytes: usize) -> Vec<BlockHash> {
    let blocks = bytes.chunks_exact(block_bytes).scan(root, |parent, block| {
        *parent = xxh3_64_with_seed(block, *parent);
        Some(BlockHash(*parent))
    });
    blocks.collect()
}

fn estimate(bytes: usize) -> u32 {
    token_count(bytes.div_ceil(BYTES_PER_TOKEN))
}

fn token_count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX).max(1)
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(Key(key)) = map.next_key()? {
            let field = match key.as_ref() {
                "model" => &mut fields.model,
                "tools" => &mut fields.tools,
                // Chat, completions, Responses API and embeddings.
                "messages" | "prompt" | "input" => &mut fields.content,
                "cache_salt" => &mut fields.salt,
                "user" => &mut fields.user,
                "priority" => &mut fields.priority,
                "stream" => &mut fields.stream,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *field = Some(map.next_value()?);
        }
        Ok(fields)
    }
}

/// A key, copied only if it has escapes in it.
struct Key<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(key)))
            }
            fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Prompt {
        Prompt::read(body.as_bytes(), 2)
    }

    #[test]
    fn the_next_turn_begins_with_the_blocks_of_the_last_one() {
        let first = read(r#"{"model":"m","messages":[{"role":"user","content":"Hello there"}]}"#);
        let next = read(
            r#"{"temperature":0.5,"messages":[{"role":"user","content":"Hello there"},{"role":"assistant","content":"Hi."}],"model":"m"}"#,
        );
        assert_eq!(first.blocks.len(), 40 / 8);
        assert_eq!(next.blocks[..first.blocks.len()], first.blocks);
        assert!(next.blocks.len() > first.blocks.len());
        assert_eq!((first.tokens, first.stream), (10, false));
    }

    #[test]
    fn other_models_salts_and_tools_share_nothing() {
        let body = |extra: &str| read(&format!(r#"{{{extra}"prompt":"One two three four five"}}"#));
        let plain = body("");
        for extra in [r#""model":"b","#, r#""cache_salt":"s","#, r#""tools":[{"type":"x"}],"#] {
            let other = body(extra);
            assert!(other.blocks.iter().all(|block| !plain.blocks.contains(block)), "{extra}");
        }
    }

    #[test]
    fn token_ids_are_cut_exactly() {
        let first = read(r#"{"prompt":[1,20,300,4000,5]}"#);
        let next = read(r#"{"prompt": [1, 20, 300, 4000, 50000, 6]}"#);
        assert_eq!((first.tokens, first.blocks.len()), (5, 2));
        assert_eq!(first.blocks, next.blocks[..2]);
    }

    #[test]
    fn fields_are_found_whatever_stands_around_them() {
        let prompt = read(
            r#"{"logit_bias":{"stream":false},"str\u0065am":true,"user":"u","priority":-3,"max_tokens":"abc","prompt":"x","prompt":"xyz"}"#,
        );
        assert!(prompt.stream);
        assert_eq!((prompt.priority, prompt.tokens), (-3, 1));
        assert_eq!(prompt.session, read(r#"{"user":"u","input":1}"#).session);
        assert_eq!(read(r#"{"user":null}"#).session, None);
    }

    #[test]
    fn what_is_no_json_object_has_a_length_only() {
        for body in ["", "[1]", "{\"prompt\":\"abc", "\u{FEFF}{}"] {
            let prompt = read(body);
            assert_eq!((prompt.blocks.len(), prompt.tokens >= 1), (0, true), "{body}");
        }
        assert!(
            Prompt::read(b"{\"prompt\":\"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\"}", 1).tokens >= 1
        );
    }

    #[test]
    fn blocks_never_outgrow_the_length() {
        for length in 0..100 {
            let prompt = read(&format!(r#"{{"prompt":"{}"}}"#, "x".repeat(length)));
            assert!(prompt.blocks.len() * 2 <= prompt.tokens as usize, "{length}");
        }
    }
}
