//! SHA-256 of files and of traces.
//!
//! A trace is identified by its requests, not by its file: the same requests compressed differently,
//! converted to another format or cut by another route are the same input and give the same results.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs, io};

use lodestar_traces::{Arrival, Source, TraceRequest};
use sha2::{Digest as _, Sha256};

/// Digest of the requests as they will be simulated, in hexadecimal.
pub fn trace_sha256(requests: &[TraceRequest]) -> String {
    let mut hasher = Sha256::new();
    for request in requests {
        hash_request(&mut hasher, request);
    }
    hex(&hasher.finalize())
}

/// Every field, numbers in little-endian order, lists and options behind their length.
fn hash_request(hasher: &mut Sha256, request: &TraceRequest) {
    let TraceRequest { id, arrival, prompt, output_tokens, session, priority, cache_salt } =
        request;
    hasher.update(id.to_le_bytes());
    match arrival {
        Arrival::At { ns } => {
            hasher.update([0]);
            hasher.update(ns.to_le_bytes());
        }
        Arrival::After { request, delay_ns } => {
            hasher.update([1]);
            hasher.update(request.to_le_bytes());
            hasher.update(delay_ns.to_le_bytes());
        }
    }
    hasher.update((prompt.len() as u64).to_le_bytes());
    for span in prompt {
        let (kind, source) = match span.source {
            Source::Hash(id) => (0, id),
            Source::Token(id) => (1, u64::from(id)),
            Source::Output(id) => (2, id),
            Source::Private(id) => (3, id),
        };
        hasher.update([kind]);
        hasher.update(source.to_le_bytes());
        hasher.update(span.start.to_le_bytes());
        hasher.update(span.tokens.to_le_bytes());
    }
    hasher.update(output_tokens.to_le_bytes());
    hasher.update(priority.to_le_bytes());
    for optional in [session, cache_salt] {
        hasher.update([u8::from(optional.is_some())]);
        hasher.update(optional.unwrap_or(0).to_le_bytes());
    }
}

/// Digest of the program that is running: a version's number does not change with every change of its code.
///
/// # Errors
/// When the program's own file cannot be read, and the file.
pub(crate) fn executable_sha256() -> Result<String, (PathBuf, io::Error)> {
    let path = env::current_exe().map_err(|error| (PathBuf::from("this program"), error))?;
    fs::read(&path).map(|bytes| sha256(&bytes)).map_err(|error| (path, error))
}

/// Digest of a file's bytes, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes what is written to it");
        text
    })
}

#[cfg(test)]
mod tests {
    use lodestar_traces::Span;

    use super::*;

    fn request() -> TraceRequest {
        TraceRequest {
            id: 7,
            arrival: Arrival::At { ns: 1_000 },
            prompt: vec![Span { source: Source::Hash(3), start: 0, tokens: 512 }],
            output_tokens: 20,
            session: None,
            priority: 0,
            cache_salt: None,
        }
    }

    #[test]
    fn the_digest_is_the_standard_one() {
        assert_eq!(
            sha256(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(trace_sha256(&[]), sha256(b""));
    }

    #[test]
    fn every_field_of_a_request_counts() {
        let base = trace_sha256(&[request()]);
        let span = request().prompt[0];
        let variants = [
            TraceRequest { id: 8, ..request() },
            TraceRequest { arrival: Arrival::At { ns: 1_001 }, ..request() },
            TraceRequest { arrival: Arrival::After { request: 1_000, delay_ns: 0 }, ..request() },
            TraceRequest { prompt: vec![Span { source: Source::Private(3), ..span }], ..request() },
            TraceRequest { prompt: vec![Span { tokens: 511, ..span }], ..request() },
            TraceRequest { prompt: vec![span, span], ..request() },
            TraceRequest { output_tokens: 21, ..request() },
            TraceRequest { session: Some(0), ..request() },
            TraceRequest { priority: 1, ..request() },
            TraceRequest { cache_salt: Some(0), ..request() },
        ];
        let mut digests: Vec<_> = variants.map(|variant| trace_sha256(&[variant])).into();
        digests.push(base);
        let count = digests.len();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), count, "two different requests share a digest");
    }
}
