//! What a foreign format says about one request, before it has an id and a place in the trace.

use crate::error::{Problem, RowError};
use crate::format::Format;
use crate::request::{Arrival, Source, Span, TraceRequest};

#[derive(Debug)]
pub(crate) struct Row {
    /// On the file's own clock.
    pub(crate) at_ns: u64,
    pub(crate) prompt: Vec<Span>,
    pub(crate) output_tokens: u32,
    pub(crate) session: Option<u64>,
}

impl Row {
    /// A prompt of which only the length is known. No sharing is invented for it.
    pub(crate) fn private_prompt(id: u64, tokens: u32) -> Vec<Span> {
        vec![Span { source: Source::Private(id), start: 0, tokens }]
    }

    pub(crate) fn into_request(
        self,
        id: u64,
        format: Format,
        origin_ns: u64,
    ) -> Result<TraceRequest, RowError> {
        let Some(ns) = self.at_ns.checked_sub(origin_ns) else {
            let problem = Problem::Backwards { this_ns: self.at_ns, previous_ns: origin_ns };
            return Err(RowError::in_field(format.fields().arrival, problem));
        };
        Ok(TraceRequest {
            id,
            arrival: Arrival::At { ns },
            prompt: self.prompt,
            output_tokens: self.output_tokens,
            session: self.session,
            priority: 0,
            cache_salt: None,
        })
    }
}
