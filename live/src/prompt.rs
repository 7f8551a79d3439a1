//! What the router may know of a request, read from its body without changing a byte of it.
//!
//! Not parsed into a schema: a router that re-serialises drops the fields it does not know, and one that
//! validates answers differently from the engine. Whatever cannot be read here is left to the engine.
//!
//! Without the model's tokenizer, blocks are chunks of prompt bytes, each hash chained to the one before. The
//! next turn of a conversation repeats the bytes of the last one, so its blocks are found again. A prompt
//! that is given as token ids is cut exactly, and so is the text of a completion where the tokenizer is at hand, and a
//! chat with its template, or both where an engine is asked for their tokens: such blocks are those of the engines' KV
//! events.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use lodestar_router::BlockHash;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use tokenizers::Tokenizer;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::chat_template::{self, Chat, ChatTemplate};

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
    kind: Kind,
    /// Whether its tokens depend on nothing else than what is below.
    is_plain: bool,
    add_generation_prompt: Option<&'a RawValue>,
    template_kwargs: Option<&'a RawValue>,
    salt: Option<&'a RawValue>,
    special: Option<&'a RawValue>,
    user: Option<&'a RawValue>,
    priority: Option<&'a RawValue>,
    stream: Option<&'a RawValue>,
}

/// What the content of a prompt is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    /// `messages`.
    Chat,
    /// `prompt`: a text, token ids, or several of these.
    #[default]
    Completion,
    /// `input`: a text to embed, or what the Responses API makes a chat of.
    Input,
}

/// Reads prompts.
#[derive(Debug)]
pub(crate) struct PromptReader {
    block_tokens: u32,
    tokenizer: Option<Tokenizer>,
    template: Option<ChatTemplate>,
}

impl PromptReader {
    pub(crate) const fn new(block_tokens: u32, tokenizer: Option<Tokenizer>) -> Self {
        Self { block_tokens, tokenizer, template: None }
    }

    /// Reads chats too.
    pub(crate) fn with_template(self, template: Option<ChatTemplate>) -> Self {
        Self { template, ..self }
    }

    /// Whether reading may take milliseconds.
    pub(crate) const fn is_slow(&self) -> bool {
        self.tokenizer.is_some()
    }

    /// Reads a body; one that is not a JSON object has a length and no content.
    pub(crate) fn read(&self, body: &[u8]) -> Prompt {
        match fields_of(body) {
            Some(fields) => self.prompt(&fields, self.token_ids(&fields)),
            None => Prompt { tokens: estimate(body.len()), ..Prompt::default() },
        }
    }

    /// Reads a body whose prompt has these tokens, as an engine says that was asked [`question`].
    pub(crate) fn read_with_ids(&self, body: &[u8], ids: Vec<u32>) -> Prompt {
        fields_of(body).map_or_else(Prompt::default, |fields| self.prompt(&fields, Some(ids)))
    }

    fn prompt(&self, fields: &Fields<'_>, ids: Option<Vec<u32>>) -> Prompt {
        let (tokens, blocks) = self.blocks(fields, ids);
        Prompt {
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

    /// Length and blocks of the prompt.
    fn blocks(&self, fields: &Fields<'_>, ids: Option<Vec<u32>>) -> (u32, Vec<BlockHash>) {
        let Some(content) = fields.content.map(RawValue::get) else { return (1, Vec::new()) };
        let root = root(fields.model.map(RawValue::get), fields.salt.map(RawValue::get));
        if let Some(ids) = ids {
            return (token_count(ids.len()), chain_tokens(root, &ids, self.block_tokens));
        }
        // What ends the text is not part of its prefix: the next turn goes on there.
        let content = content.strip_suffix([']', '"']).unwrap_or(content).as_bytes();
        let tools = fields.tools.map_or("", RawValue::get).as_bytes();
        let text = if tools.is_empty() {
            Cow::from(content)
        } else {
            Cow::from([tools, content].concat())
        };
        (
            estimate(text.len()),
            chain(root, &text, self.block_tokens as usize * BYTES_PER_TOKEN).collect(),
        )
    }

    /// The prompt as the engine sees it, if that can be known.
    fn token_ids(&self, fields: &Fields<'_>) -> Option<Vec<u32>> {
        let content = fields.content?.get();
        if !fields.is_plain {
            return None;
        }
        if content.starts_with('[') && fields.kind != Kind::Chat {
            return serde_json::from_str(content).ok();
        }
        let tokenizer = self.tokenizer.as_ref()?;
        let special = fields.special.map(RawValue::get);
        let (text, special) = match fields.kind {
            // The template has put them in.
            Kind::Chat => (self.chat_text(fields, content)?, special == Some("true")),
            Kind::Completion => (serde_json::from_str(content).ok()?, special != Some("false")),
            Kind::Input => return None,
        };
        let encoding = tokenizer.encode_fast(text, special).ok()?;
        Some(encoding.get_ids().to_vec())
    }
}

impl PromptReader {
    fn chat_text(&self, fields: &Fields<'_>, messages: &str) -> Option<String> {
        self.template.as_ref()?.render(&Chat {
            messages,
            tools: fields.tools.map(RawValue::get).filter(|tools| *tools != "null"),
            add_generation_prompt: fields.add_generation_prompt.map(RawValue::get),
            template_kwargs: fields.template_kwargs.map(RawValue::get),
        })
    }
}

/// The body of a question to an engine's `/tokenize` for the tokens of a prompt. `None` where the answer would not be
/// all that tells prompts apart, or is there already.
pub(crate) fn question(body: &[u8]) -> Option<Vec<u8>> {
    let fields = fields_of(body)?;
    let content = fields.content.filter(|_| fields.is_plain)?;
    let name = match fields.kind {
        // Of an image only a placeholder is a token.
        Kind::Chat if chat_template::is_text(content.get()) => "messages",
        Kind::Completion if content.get().starts_with('"') => "prompt",
        Kind::Chat | Kind::Completion | Kind::Input => return None,
    };
    let question: BTreeMap<&str, &RawValue> = [
        (name, Some(content)),
        ("model", fields.model),
        ("add_special_tokens", fields.special),
        ("tools", fields.tools),
        ("add_generation_prompt", fields.add_generation_prompt),
        ("chat_template_kwargs", fields.template_kwargs),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect();
    serde_json::to_vec(&question).ok()
}

fn fields_of(body: &[u8]) -> Option<Fields<'_>> {
    let mut json = serde_json::Deserializer::from_slice(body);
    serde::de::Deserializer::deserialize_map(&mut json, FieldsVisitor).ok()
}

/// Reads a `tokenizer.json`. What it says of padding and truncation does not concern vLLM.
pub(crate) fn read_tokenizer(path: &Path) -> Result<Tokenizer, String> {
    let mut tokenizer = Tokenizer::from_file(path).map_err(|error| error.to_string())?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
    Ok(tokenizer)
}

/// What stands before the first block, from the JSON texts of a model's name and a salt: another model, adapter or
/// salt shares no block.
pub(crate) fn root(model: Option<&str>, salt: Option<&str>) -> u64 {
    let values = [model, salt].into_iter().flatten();
    values.fold(0, |root, value| xxh3_64_with_seed(value.as_bytes(), root))
}

/// The full blocks of a prompt, or of what follows a block whose hash is `parent`.
pub(crate) fn chain_tokens(parent: u64, ids: &[u32], block_tokens: u32) -> Vec<BlockHash> {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    chain(parent, &bytes, block_tokens as usize * size_of::<u32>()).collect()
}

fn chain(root: u64, bytes: &[u8], block_bytes: usize) -> impl Iterator<Item = BlockHash> {
    bytes.chunks_exact(block_bytes).scan(root, |parent, block| {
        *parent = xxh3_64_with_seed(block, *parent);
        Some(BlockHash(*parent))
    })
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
        let mut fields = Fields { is_plain: true, ..Fields::default() };
        while let Some(Key(key)) = map.next_key()? {
            let key = key.as_ref();
            let field = match key {
                "model" => &mut fields.model,
                "tools" => &mut fields.tools,
                // Chat, completions, Responses API and embeddings.
                "messages" | "prompt" | "input" => {
                    fields.kind = match key {
                        "messages" => Kind::Chat,
                        "prompt" => Kind::Completion,
                        _ => Kind::Input,
                    };
                    &mut fields.content
                }
                "add_generation_prompt" => &mut fields.add_generation_prompt,
                "chat_template_kwargs" => &mut fields.template_kwargs,
                "chat_template"
                | "continue_final_message"
                | "documents"
                | "reasoning_effort"
                | "system"
                | "truncate_prompt_tokens"
                | "truncation_side" => {
                    fields.is_plain = false;
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                "cache_salt" => &mut fields.salt,
                "add_special_tokens" => &mut fields.special,
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
mod tests;
