//! From the content of a trace's prompt to token ids: equal content, equal ids.
//!
//! A trace names text, it does not have any. Ids that a hash draws share what the trace says is shared, are as
//! many as the trace says whatever the tokenizer, and are cut into blocks exactly by servers and routers.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use lodestar_traces::{Source, Span, TraceRequest};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Ids that every vocabulary of the last years has, and that are words in it: 1,000 to 31,999.
const FIRST_ID: u64 = 1_000;
const IDS: u64 = 31_000;

/// Token ids of answers that later prompts quote, by request.
pub(super) type Answers = BTreeMap<u64, Vec<u32>>;

/// Token ids of a prompt. What it quotes of an answer that is unknown, or was shorter, is invented.
pub(super) fn token_ids(prompt: &[Span], answers: &Answers, seed: u64) -> Vec<u32> {
    let mut ids = Vec::with_capacity(prompt.iter().map(|span| span.tokens as usize).sum());
    for Span { source, start, tokens } in prompt {
        let positions = *start..*start + *tokens;
        match *source {
            Source::Token(id) => ids.extend(positions.map(|_| id)),
            Source::Hash(id) => ids.extend(positions.map(|at| drawn(b'h', id, at, seed))),
            Source::Private(id) => ids.extend(positions.map(|at| drawn(b'p', id, at, seed))),
            Source::Output(id) => {
                let known = answers.get(&id).map_or(&[][..], Vec::as_slice);
                ids.extend(positions.map(|at| {
                    let known = known.get(at as usize).copied();
                    known.unwrap_or_else(|| drawn(b'o', id, at, seed))
                }));
            }
        }
    }
    ids
}

fn drawn(kind: u8, id: u64, position: u32, seed: u64) -> u32 {
    let mut name = [kind; 13];
    name[1..9].copy_from_slice(&id.to_le_bytes());
    name[9..].copy_from_slice(&position.to_le_bytes());
    (FIRST_ID + xxh3_64_with_seed(&name, seed) % IDS) as u32
}

/// The body for `/v1/completions`. Answers are as long as the trace says (vLLM's `ignore_eos`).
pub(super) fn body(request: &TraceRequest, model: &str, ids: &[u32], is_quoted: bool) -> String {
    let model = serde_json::Value::from(model);
    let mut body = String::with_capacity(ids.len() * 6 + 256);
    let _ = write!(body, "{{\"model\":{model},\"prompt\":[");
    for (index, id) in ids.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(body, "{comma}{id}");
    }
    let _ = write!(
        body,
        "],\"max_tokens\":{},\"ignore_eos\":true,\"stream\":true,\"stream_options\":{{\"include_usage\":true}}",
        request.output_tokens
    );
    if let Some(session) = request.session {
        let _ = write!(body, ",\"user\":\"{session}\"");
    }
    if request.priority != 0 {
        // Servers without priority scheduling refuse the field.
        let _ = write!(body, ",\"priority\":{}", request.priority);
    }
    if let Some(salt) = request.cache_salt {
        let _ = write!(body, ",\"cache_salt\":\"{salt}\"");
    }
    if is_quoted {
        body.push_str(",\"return_token_ids\":true");
    }
    body.push('}');
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    use lodestar_traces::Arrival;
    use serde_json::Value;

    fn span(source: Source, start: u32, tokens: u32) -> Span {
        Span { source, start, tokens }
    }

    #[test]
    fn equal_content_has_equal_ids_and_other_content_other_ones() {
        let ids = |spans: &[Span]| token_ids(spans, &Answers::new(), 1);
        let text = ids(&[span(Source::Hash(7), 0, 40)]);
        assert_eq!(ids(&[span(Source::Hash(7), 0, 20), span(Source::Hash(7), 20, 20)]), text);
        assert_eq!(
            ids(&[span(Source::Token(9), 0, 1), span(Source::Hash(7), 5, 2)])[1..],
            text[5..7]
        );
        for other in [Source::Hash(8), Source::Private(7), Source::Output(7)] {
            assert_ne!(ids(&[span(other, 0, 40)]), text);
        }
        assert_ne!(token_ids(&[span(Source::Hash(7), 0, 40)], &Answers::new(), 2), text);
        assert!(text.iter().all(|id| (1_000..32_000).contains(id)));
    }

    #[test]
    fn an_answer_is_quoted_as_it_was() {
        let answers = Answers::from([(4, vec![11, 12, 13])]);
        let ids = token_ids(&[span(Source::Output(4), 1, 4)], &answers, 1);
        assert_eq!(ids[..2], [12, 13]);
        assert_eq!(ids.len(), 4, "as long as the trace says");
    }

    #[test]
    fn a_body_says_what_the_trace_says() {
        let mut request = TraceRequest {
            id: 0,
            arrival: Arrival::At { ns: 0 },
            prompt: Vec::new(),
            output_tokens: 5,
            session: None,
            priority: 0,
            cache_salt: None,
        };
        let read = |request: &TraceRequest, quoted| -> Value {
            serde_json::from_str(&body(request, "a \"b\"", &[3, 4], quoted)).unwrap()
        };
        let plain = read(&request, false);
        assert_eq!((&plain["model"], &plain["prompt"]), (&"a \"b\"".into(), &vec![3, 4].into()));
        assert_eq!((&plain["max_tokens"], &plain["stream"]), (&5.into(), &true.into()));
        assert!(plain.get("priority").is_none() && plain.get("return_token_ids").is_none());
        request = TraceRequest { session: Some(2), priority: -1, cache_salt: Some(3), ..request };
        let full = read(&request, true);
        assert_eq!((&full["user"], &full["priority"]), (&"2".into(), &(-1).into()));
        assert_eq!((&full["cache_salt"], &full["return_token_ids"]), (&"3".into(), &true.into()));
    }
}
