//! Lodestar JSON lines: a header line, then one request per line, every field of it.
//!
//! ```text
//! {"lodestar_trace":1}
//! {"id":0,"at_ns":0,"prompt":"h0-13:512 h14:102","output_tokens":500}
//! {"id":1,"after":0,"delay_ns":5000000000,"prompt":"h0-13:512 h14:102 o0:500 p1:40","output_tokens":80,"session":0}
//! ```
//!
//! Fields at their usual value (no session, priority 0, no salt) are left out.

use std::io::{self, Write};

use serde::Serialize;

use super::{Format, spans};
use crate::error::{Problem, RowError};
use crate::fields::{Fields, Schema};
use crate::number::Unit;
use crate::request::{Arrival, TraceRequest};

/// Version of both own formats, in the header line or the Parquet metadata under [`VERSION_KEY`].
pub(crate) const VERSION: u64 = 1;

pub(crate) const VERSION_KEY: &str = "lodestar_trace";

pub(crate) const HEADER: Schema = Schema {
    format: Format::LodestarJsonl,
    telling: &[VERSION_KEY],
    required: &[VERSION_KEY],
    optional: &[],
};

pub(crate) const SCHEMA: Schema = Schema {
    format: Format::LodestarJsonl,
    telling: &[],
    required: &["id", "prompt", "output_tokens"],
    optional: &["at_ns", "after", "delay_ns", "session", "priority", "cache_salt"],
};

/// Accepts the header line of a version that this build reads.
pub(crate) fn header(line: &str) -> Result<(), RowError> {
    version(Fields::from_json(line, &HEADER)?.id(VERSION_KEY)?)
}

pub(crate) fn version(found: u64) -> Result<(), RowError> {
    if found == VERSION {
        return Ok(());
    }
    Err(RowError::in_field(VERSION_KEY, Problem::Version { found, supported: VERSION }))
}

pub(crate) fn row(fields: &Fields<'_>) -> Result<TraceRequest, RowError> {
    let optional = |name| fields.text(name).map(|_| fields.id(name)).transpose();
    let delay_ns = fields.text("delay_ns").map(|_| fields.time_ns("delay_ns", Unit::Nanoseconds));
    let priority = fields.text("priority").map(|_| fields.json("priority", "a 32-bit integer"));
    let prompt: String = fields.json("prompt", "a text of spans")?;
    Ok(TraceRequest {
        id: fields.id("id")?,
        arrival: match (fields.text("at_ns"), optional("after")?, delay_ns.transpose()?) {
            (Some(_), None, None) => {
                Arrival::At { ns: fields.time_ns("at_ns", Unit::Nanoseconds)? }
            }
            (None, Some(request), Some(delay_ns)) => Arrival::After { request, delay_ns },
            _ => return Err(arrival_is_ambiguous()),
        },
        prompt: spans::parse(&prompt)?,
        output_tokens: fields.tokens("output_tokens")?,
        session: optional("session")?,
        priority: priority.transpose()?.unwrap_or(0),
        cache_salt: optional("cache_salt")?,
    })
}

pub(crate) fn arrival_is_ambiguous() -> RowError {
    let expected = "either at_ns, or after together with delay_ns";
    let problem = Problem::Malformed { found: "neither or both".to_owned(), expected };
    RowError::in_field("at_ns", problem)
}

pub(crate) fn write_header(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{{\"{VERSION_KEY}\":{VERSION}}}")
}

pub(crate) fn write_row(out: &mut dyn Write, request: &TraceRequest) -> io::Result<()> {
    let (at_ns, after, delay_ns) = match request.arrival {
        Arrival::At { ns } => (Some(ns), None, None),
        Arrival::After { request, delay_ns } => (None, Some(request), Some(delay_ns)),
    };
    let line = Line {
        id: request.id,
        at_ns,
        after,
        delay_ns,
        prompt: spans::format(&request.prompt),
        output_tokens: request.output_tokens,
        session: request.session,
        priority: (request.priority != 0).then_some(request.priority),
        cache_salt: request.cache_salt,
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

#[derive(Serialize)]
struct Line {
    id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ns: Option<u64>,
    prompt: String,
    output_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_salt: Option<u64>,
}
