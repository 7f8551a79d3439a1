//! BurstGPT CSV: seconds, model, lengths; later releases add a session and a duration.
//!
//! The model is dropped: a trace says what users want, the fleet says which model serves it.

use super::Format;
use crate::error::RowError;
use crate::fields::{Fields, Schema};
use crate::number::Unit;
use crate::row::Row;

pub(crate) const SCHEMA: Schema = Schema {
    format: Format::BurstGpt,
    telling: &["Request tokens", "Response tokens"],
    required: &["Timestamp", "Request tokens", "Response tokens"],
    optional: &["Model", "Total tokens", "Log Type", "Session ID", "Elapsed time"],
};

/// `None` for a request that failed: those have no answer, often no prompt either.
pub(crate) fn row(fields: &Fields<'_>, id: u64) -> Result<Option<Row>, RowError> {
    let prompt_tokens = fields.tokens("Request tokens")?;
    let output_tokens = fields.tokens("Response tokens")?;
    if prompt_tokens == 0 || output_tokens == 0 {
        return Ok(None);
    }
    let session = match fields.text("Session ID") {
        Some(_) => Some(fields.id("Session ID")?),
        None => None,
    };
    Ok(Some(Row {
        at_ns: fields.time_ns("Timestamp", Unit::Seconds)?,
        prompt: Row::private_prompt(id, prompt_tokens),
        output_tokens,
        session,
    }))
}
