//! Alibaba Bailian (Qwen) JSON lines: seconds, lengths, chat and parent chat, ids of 16-token blocks.
//!
//! The arrivals stay at their recorded times. A follow-up was typed after the recorded answer, not
//! after ours, but when that answer ended is not in the file.

use rustc_hash::FxHashMap;

use super::{Format, mooncake};
use crate::error::RowError;
use crate::fields::{Fields, Schema};
use crate::number::Unit;
use crate::row::Row;

pub(crate) const BLOCK_TOKENS: u32 = 16;

pub(crate) const SCHEMA: Schema = Schema {
    format: Format::Bailian,
    telling: &["chat_id", "parent_chat_id"],
    required: &[
        "chat_id",
        "parent_chat_id",
        "timestamp",
        "input_length",
        "output_length",
        "type",
        "turn",
        "hash_ids",
    ],
    optional: &[],
};

/// The root chat of every chat so far: a session is a root with its descendants.
#[derive(Debug, Default)]
pub(crate) struct Chats {
    root_of: FxHashMap<u64, u64>,
}

impl Chats {
    pub(crate) fn row(&mut self, fields: &Fields<'_>) -> Result<Row, RowError> {
        let prompt_tokens = fields.tokens("input_length")?;
        let row = Row {
            at_ns: fields.time_ns("timestamp", Unit::Seconds)?,
            prompt: mooncake::blocks(fields, prompt_tokens, BLOCK_TOKENS)?,
            output_tokens: fields.tokens("output_length")?,
            session: Some(self.session(fields)?),
        };
        Ok(row)
    }

    fn session(&mut self, fields: &Fields<'_>) -> Result<u64, RowError> {
        let chat = fields.id("chat_id")?;
        let root = match fields.text("parent_chat_id") {
            Some("-1") => chat,
            // A parent from before the recording began is a root like any other.
            _ => {
                let parent = fields.id("parent_chat_id")?;
                self.root_of.get(&parent).copied().unwrap_or(parent)
            }
        };
        self.root_of.insert(chat, root);
        Ok(root)
    }
}
