//! ShareGPT-style request JSON lines: lengths, arrival in nanoseconds, and the token ids themselves.
//!
//! The answer's ids are counted, not kept: what our model answers is not what theirs did.

use super::Format;
use crate::error::{Problem, RowError};
use crate::fields::{Fields, Schema};
use crate::number::Unit;
use crate::request::{Source, Span};
use crate::row::Row;

pub(crate) const SCHEMA: Schema = Schema {
    format: Format::ShareGpt,
    telling: &["input_tok_ids", "input_toks", "arrival_time_ns"],
    required: &["input_toks", "output_toks", "arrival_time_ns", "input_tok_ids"],
    optional: &["output_tok_ids"],
};

pub(crate) fn row(fields: &Fields<'_>) -> Result<Row, RowError> {
    let prompt_ids = token_ids(fields, "input_tok_ids", fields.tokens("input_toks")?)?;
    let output_tokens = fields.tokens("output_toks")?;
    if fields.text("output_tok_ids").is_some() {
        token_ids(fields, "output_tok_ids", output_tokens)?;
    }
    let span = |id| Span { source: Source::Token(id), start: 0, tokens: 1 };
    Ok(Row {
        at_ns: fields.time_ns("arrival_time_ns", Unit::Nanoseconds)?,
        prompt: prompt_ids.into_iter().map(span).collect(),
        output_tokens,
        session: None,
    })
}

fn token_ids(fields: &Fields<'_>, name: &'static str, length: u32) -> Result<Vec<u32>, RowError> {
    let ids: Vec<u32> = fields.json(name, "a list of non-negative token ids")?;
    if ids.len() != length as usize {
        let problem = Problem::TokenCount { ids: ids.len(), length };
        return Err(RowError::in_field(name, problem));
    }
    Ok(ids)
}
