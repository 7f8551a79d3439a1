//! What must hold of every trace, whoever wrote it; checked on the way in and on the way out.

use std::collections::BTreeMap;

use crate::error::{Problem, RowError, excerpt};
use crate::format::{CoreFields, Format};
use crate::number::{MAX_TIME_NS, MAX_TOKENS};
use crate::request::{Arrival, Source, TraceRequest};

/// Checks requests one after the other, in trace order.
#[derive(Debug)]
pub(crate) struct Checker {
    fields: CoreFields,
    previous_ns: u64,
    ids: IdSet,
}

impl Checker {
    /// Complains in the terms of `format`.
    pub(crate) fn new(format: Format) -> Self {
        Self { fields: format.fields(), previous_ns: 0, ids: IdSet::default() }
    }

    pub(crate) fn check(&mut self, request: &TraceRequest) -> Result<(), RowError> {
        check_lengths(request, self.fields)?;
        self.check_quotes(request)?;
        match request.arrival {
            Arrival::At { ns } => {
                check_time(self.fields.arrival, ns)?;
                if ns < self.previous_ns {
                    let problem = Problem::Backwards { this_ns: ns, previous_ns: self.previous_ns };
                    return Err(RowError::in_field(self.fields.arrival, problem));
                }
                self.previous_ns = ns;
            }
            Arrival::After { request: id, delay_ns } => {
                check_time("delay_ns", delay_ns)?;
                if !self.ids.contains(id) {
                    return Err(RowError::in_field("after", Problem::UnknownRequest { id }));
                }
            }
        }
        if !self.ids.insert(request.id) {
            return Err(RowError::in_field("id", Problem::DuplicateId { id: request.id }));
        }
        Ok(())
    }

    /// An answer exists only once its request is made.
    fn check_quotes(&self, request: &TraceRequest) -> Result<(), RowError> {
        for span in &request.prompt {
            if let Source::Output(id) = span.source
                && !self.ids.contains(id)
            {
                return Err(RowError::in_field(self.fields.prompt, Problem::UnknownAnswer { id }));
            }
        }
        Ok(())
    }
}

fn check_lengths(request: &TraceRequest, fields: CoreFields) -> Result<(), RowError> {
    let mut prompt_tokens = 0u64;
    for span in &request.prompt {
        if span.tokens == 0 {
            return Err(RowError::in_field(fields.prompt, Problem::ZeroLength));
        }
        prompt_tokens += u64::from(span.tokens);
        if span.start.checked_add(span.tokens).is_none() {
            return Err(too_large(fields.prompt, &span.start, u64::from(u32::MAX - span.tokens)));
        }
    }
    for (field, tokens) in
        [(fields.prompt, prompt_tokens), (fields.output, request.output_tokens.into())]
    {
        if tokens == 0 {
            return Err(RowError::in_field(field, Problem::ZeroLength));
        }
        if tokens > u64::from(MAX_TOKENS) {
            return Err(too_large(field, &tokens, MAX_TOKENS.into()));
        }
    }
    Ok(())
}

fn check_time(field: &'static str, ns: u64) -> Result<(), RowError> {
    if ns > MAX_TIME_NS { Err(too_large(field, &ns, MAX_TIME_NS)) } else { Ok(()) }
}

fn too_large(field: &'static str, found: &dyn ToString, limit: u64) -> RowError {
    RowError::in_field(field, Problem::TooLarge { found: excerpt(&found.to_string()), limit })
}

/// A set of ids that is small when they count up, as they do in almost every trace: a million
/// consecutive ids are one interval, so that a reader's memory does not grow with the file.
#[derive(Debug, Default)]
pub(crate) struct IdSet {
    /// First and last id of each interval; neighbours are merged.
    intervals: BTreeMap<u64, u64>,
}

impl IdSet {
    pub(crate) fn contains(&self, id: u64) -> bool {
        self.intervals.range(..=id).next_back().is_some_and(|(_, &last)| id <= last)
    }

    /// False if it was there already.
    pub(crate) fn insert(&mut self, id: u64) -> bool {
        let below = self.intervals.range(..=id).next_back().map(|(&first, &last)| (first, last));
        if below.is_some_and(|(_, last)| id <= last) {
            return false;
        }
        let above = id.checked_add(1).and_then(|next| self.intervals.remove(&next));
        let first = match below {
            Some((first, last)) if last + 1 == id => first,
            _ => id,
        };
        self.intervals.insert(first, above.unwrap_or(id));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_merge() {
        let mut ids = IdSet::default();
        for id in [5, 3, 4, 0, u64::MAX, u64::MAX - 1, 2, 1] {
            assert!(ids.insert(id));
            assert!(!ids.insert(id));
        }
        assert_eq!(ids.intervals, BTreeMap::from([(0, 5), (u64::MAX - 1, u64::MAX)]));
        assert!(ids.contains(4) && !ids.contains(6));
    }
}
