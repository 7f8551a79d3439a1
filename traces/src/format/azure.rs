//! Azure LLM inference CSV: UTC time, prompt and answer length. The 2023 files write 100 ns digits and
//! no zone, the 2024 files microseconds and `+00:00`.

use super::Format;
use crate::error::RowError;
use crate::fields::{Fields, Schema};
use crate::row::Row;

pub(crate) const SCHEMA: Schema = Schema {
    format: Format::Azure,
    telling: &["TIMESTAMP", "ContextTokens", "GeneratedTokens"],
    required: &["TIMESTAMP", "ContextTokens", "GeneratedTokens"],
    optional: &[],
};

pub(crate) fn row(fields: &Fields<'_>, id: u64) -> Result<Row, RowError> {
    Ok(Row {
        at_ns: fields.utc_ns("TIMESTAMP")?,
        prompt: Row::private_prompt(id, fields.tokens("ContextTokens")?),
        output_tokens: fields.tokens("GeneratedTokens")?,
        session: None,
    })
}
