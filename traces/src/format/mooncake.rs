//! Mooncake JSON lines: `timestamp` in milliseconds, lengths, and chained ids of 512-token blocks.

use std::io::Write;

use super::Format;
use crate::error::{Problem, RowError};
use crate::fields::{Fields, Schema};
use crate::number::Unit;
use crate::request::{Arrival, Source, Span, TraceRequest};
use crate::row::Row;

pub(crate) const BLOCK_TOKENS: u32 = 512;

pub(crate) const SCHEMA: Schema = Schema {
    format: Format::Mooncake,
    telling: &["hash_ids", "input_length"],
    required: &["timestamp", "input_length", "output_length"],
    // Tools that imitate the format leave the ids out when they know nothing of the content.
    optional: &["hash_ids"],
};

pub(crate) fn row(fields: &Fields<'_>, id: u64) -> Result<Row, RowError> {
    let prompt_tokens = fields.tokens("input_length")?;
    let prompt = match fields.text("hash_ids") {
        Some(_) => blocks(fields, prompt_tokens, BLOCK_TOKENS)?,
        None => Row::private_prompt(id, prompt_tokens),
    };
    Ok(Row {
        at_ns: fields.time_ns("timestamp", Unit::Milliseconds)?,
        prompt,
        output_tokens: fields.tokens("output_length")?,
        session: None,
    })
}

/// One span per id in `hash_ids`, full blocks but for the last.
pub(crate) fn blocks(
    fields: &Fields<'_>,
    prompt_tokens: u32,
    block_tokens: u32,
) -> Result<Vec<Span>, RowError> {
    let ids: Vec<u64> = fields.json("hash_ids", "a list of non-negative block ids")?;
    let needed = prompt_tokens.div_ceil(block_tokens) as usize;
    if ids.len() != needed {
        let blocks = ids.len();
        let problem = Problem::HashCoverage { blocks, block_tokens, prompt_tokens, needed };
        return Err(RowError::in_field("hash_ids", problem));
    }
    let mut left = prompt_tokens;
    let span = |id| {
        let tokens = left.min(block_tokens);
        left -= tokens;
        Span { source: Source::Hash(id), start: 0, tokens }
    };
    Ok(ids.into_iter().map(span).collect())
}

/// Writes one line if Mooncake can say all of it, but for the arrival's fraction of a millisecond.
pub(crate) fn write_row(out: &mut dyn Write, request: &TraceRequest) -> Result<(), RowError> {
    let cannot = |what: &str| Problem::NotRepresentable {
        format: Format::Mooncake.name(),
        what: what.to_owned(),
    };
    let Arrival::At { ns } = request.arrival else {
        return Err(cannot("a request that waits for another").into());
    };
    for (set, what) in [
        (request.session.is_some(), "a session"),
        (request.priority != 0, "a priority"),
        (request.cache_salt.is_some(), "a cache salt"),
    ] {
        if set {
            return Err(cannot(what).into());
        }
    }
    let timestamp_ms = ns / Unit::Milliseconds.ns();
    let (input, output) = (request.prompt_tokens(), request.output_tokens);
    let written = match hash_ids(&request.prompt) {
        Some(ids) => writeln!(
            out,
            "{{\"timestamp\": {timestamp_ms}, \"input_length\": {input}, \"output_length\": {output}, \
             \"hash_ids\": {ids:?}}}"
        ),
        None if matches!(
            request.prompt[..],
            [Span { source: Source::Private(_), start: 0, .. }]
        ) =>
        {
            writeln!(
                out,
                "{{\"timestamp\": {timestamp_ms}, \"input_length\": {input}, \"output_length\": {output}}}"
            )
        }
        None => return Err(cannot("a prompt that is not made of hashed 512-token blocks").into()),
    };
    written.map_err(|error| Problem::Io(error).into())
}

/// The ids of a prompt that consists of full blocks but for the last.
fn hash_ids(prompt: &[Span]) -> Option<Vec<u64>> {
    let last = prompt.len() - 1;
    let id = |(index, span): (usize, &Span)| {
        let full = span.tokens == BLOCK_TOKENS || index == last && span.tokens < BLOCK_TOKENS;
        match span.source {
            Source::Hash(id) if full && span.start == 0 => Some(id),
            Source::Hash(_) | Source::Token(_) | Source::Output(_) | Source::Private(_) => None,
        }
    };
    prompt.iter().enumerate().map(id).collect()
}
