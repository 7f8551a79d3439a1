//! What an answer says while it passes: its first token, how many there are, what it used.
//!
//! Fed with chunks as the network cuts them; borders fall anywhere. Nothing of the answer is held back or
//! kept but an unfinished line, and of a long one only its end, since `usage` stands at the end.

use lodestar_router::Usage;
use memchr::{memchr, memmem};
use serde::Deserialize;

/// Of an unfinished line, or of an answer that is not a stream, at most so many bytes are kept.
const KEPT_BYTES: usize = 16 * 1024;

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Server-sent events.
    Events,
    /// One JSON text.
    Json,
    /// Something that says nothing of tokens.
    Opaque,
}

impl Form {
    /// By the response's `content-type`.
    pub(crate) fn of(content_type: Option<&str>) -> Self {
        let content_type = content_type.unwrap_or_default();
        if content_type.starts_with("text/event-stream") {
            Self::Events
        } else if content_type.starts_with("application/json") {
            Self::Json
        } else {
            Self::Opaque
        }
    }
}

/// Reads an answer as it passes.
#[derive(Debug)]
pub(crate) struct AnswerReader {
    form: Form,
    /// The line that has begun, or of JSON the end of what came so far.
    line: Vec<u8>,
    /// Events that carry output; vLLM sends one a token, and for a chat one more with the role.
    output_events: u32,
    usage: Option<Usage>,
    /// Status code of an error inside the stream, if that was the first event.
    error: Option<u16>,
    events: u32,
    done: bool,
    /// The last line that came was empty: an event is complete.
    between_events: bool,
}

impl AnswerReader {
    pub(crate) const fn new(form: Form) -> Self {
        Self {
            form,
            line: Vec::new(),
            output_events: 0,
            usage: None,
            error: None,
            events: 0,
            done: false,
            between_events: true,
        }
    }

    pub(crate) const fn form(&self) -> Form {
        self.form
    }

    /// Takes the next chunk.
    pub(crate) fn feed(&mut self, chunk: &[u8]) {
        match self.form {
            Form::Events => self.feed_events(chunk),
            Form::Json => self.keep(chunk),
            Form::Opaque => {}
        }
    }

    /// Output tokens so far, as far as one can see.
    pub(crate) fn output_tokens(&self) -> u32 {
        self.usage.map_or(self.output_events, |usage| usage.output_tokens.max(self.output_events))
    }

    /// Whether the first event is complete, whatever it is.
    pub(crate) const fn has_event(&self) -> bool {
        self.events > 0
    }

    /// Status code of the error that came in place of the first token: vLLM has sent 200 by then.
    pub(crate) const fn error(&self) -> Option<u16> {
        self.error
    }

    /// Whether `data: [DONE]` came. Clients may hang up right after it.
    pub(crate) const fn is_done(&self) -> bool {
        self.done
    }

    /// Whether an event could begin here.
    pub(crate) const fn between_events(&self) -> bool {
        self.between_events && self.line.is_empty()
    }

    /// What the answer says it used.
    pub(crate) fn usage(&self) -> Option<Usage> {
        match self.form {
            Form::Json => usage_in(&self.line),
            Form::Events | Form::Opaque => self.usage,
        }
    }

    fn feed_events(&mut self, mut chunk: &[u8]) {
        while let Some(end) = memchr(b'\n', chunk) {
            let (line, rest) = (&chunk[..end], &chunk[end + 1..]);
            if self.line.is_empty() {
                self.end_of_line(line);
            } else {
                self.keep(line);
                let line = std::mem::take(&mut self.line);
                self.end_of_line(&line);
                self.line = line;
                self.line.clear();
            }
            chunk = rest;
        }
        self.keep(chunk);
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.line.extend_from_slice(bytes);
        if self.line.len() > 2 * KEPT_BYTES {
            // The beginning names the field; the end holds the usage.
            let from = self.line.len() - KEPT_BYTES;
            self.line.drain(b"data: ".len()..from);
        }
    }

    fn end_of_line(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.between_events = line.is_empty();
        let Some(data) = line.strip_prefix(b"data:") else { return };
        let data = data.trim_ascii_start();
        if data == b"[DONE]" {
            self.done = true;
            return;
        }
        self.events = self.events.saturating_add(1);
        if self.events == 1 {
            self.error = error_in(data);
        }
        if let Some(usage) = usage_in(data) {
            self.usage = Some(usage);
        }
        if self.error.is_none() && memmem::find(data, b"\"choices\":[]").is_none() {
            self.output_events = self.output_events.saturating_add(1);
        }
    }
}

/// The names of OpenAI's chat and completions, of its Responses, and of Anthropic's messages.
#[derive(Deserialize)]
struct WireUsage {
    #[serde(alias = "input_tokens", default)]
    prompt_tokens: u32,
    #[serde(alias = "output_tokens", default)]
    completion_tokens: u32,
    #[serde(alias = "input_tokens_details", default)]
    prompt_tokens_details: Option<WireDetails>,
    #[serde(default)]
    cache_read_input_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct WireDetails {
    #[serde(default)]
    cached_tokens: Option<u32>,
}

/// The last `usage` object in a piece of JSON. A quote inside a JSON string is escaped, so what is found is
/// never text of the answer.
pub(crate) fn usage_in(json: &[u8]) -> Option<Usage> {
    let key = memmem::rfind(json, b"\"usage\":")?;
    let value = json[key + b"\"usage\":".len()..].trim_ascii_start();
    let wire: WireUsage = serde_json::Deserializer::from_slice(value).into_iter().next()?.ok()?;
    let details = wire.prompt_tokens_details.and_then(|details| details.cached_tokens);
    Some(Usage {
        prompt_tokens: wire.prompt_tokens,
        cached_tokens: details.or(wire.cache_read_input_tokens),
        output_tokens: wire.completion_tokens,
    })
}

#[derive(Deserialize)]
struct WireError {
    error: WireErrorBody,
}

#[derive(Deserialize)]
struct WireErrorBody {
    code: u16,
}

fn error_in(data: &[u8]) -> Option<u16> {
    // Cheaper than to parse each first token.
    let is_error = data.starts_with(b"{\"error\"");
    is_error.then(|| serde_json::from_slice::<WireError>(data).ok()).flatten().map(|e| e.error.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        r#"data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#,
        "\n\n",
        r#"data: {"id":"c","choices":[{"index":0,"delta":{"content":"say \"usage\":{} ü"}}]}"#,
        "\n\n",
        r#"data: {"id":"c","choices":[],"usage":{"prompt_tokens":13,"total_tokens":15,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":8}}}"#,
        "\n\ndata: [DONE]\n\n",
    );
    const USAGE: Usage = Usage { prompt_tokens: 13, cached_tokens: Some(8), output_tokens: 2 };

    fn read(form: Form, chunks: &[&[u8]]) -> AnswerReader {
        let mut reader = AnswerReader::new(form);
        chunks.iter().for_each(|chunk| reader.feed(chunk));
        reader
    }

    #[test]
    fn borders_between_chunks_change_nothing() {
        for text in [STREAM.to_owned(), STREAM.replace('\n', "\r\n")] {
            let bytes = text.as_bytes();
            for cut in 0..bytes.len() {
                for second in [cut, (cut + 1).min(bytes.len()), bytes.len()] {
                    let chunks = [&bytes[..cut], &bytes[cut..second], &bytes[second..]];
                    let reader = read(Form::Events, &chunks);
                    assert_eq!(reader.usage(), Some(USAGE), "{cut}");
                    assert_eq!(reader.output_tokens(), 2, "{cut}");
                    assert!(reader.is_done() && reader.between_events());
                }
            }
        }
    }

    #[test]
    fn the_middle_of_an_event_is_noticed() {
        let reader = read(Form::Events, &[&STREAM.as_bytes()[..STREAM.len() - 30]]);
        assert!(!reader.between_events());
        assert!(!read(Form::Events, &[b"data: {}\n"]).between_events());
        assert!(read(Form::Events, &[b"data: {}\n\n"]).between_events());
    }

    #[test]
    fn an_error_in_place_of_the_first_token_has_a_code() {
        let event = br#"data: {"error": {"message": "The engine is currently busy", "type": "Service Unavailable", "param": null, "code": 503}}"#;
        let reader = read(Form::Events, &[&event[..20], &event[20..], b"\n\n"]);
        assert_eq!((reader.error(), reader.output_tokens()), (Some(503), 0));
        assert_eq!(read(Form::Events, &[STREAM.as_bytes()]).error(), None);
    }

    #[test]
    fn usage_is_found_in_an_answer_of_any_length() {
        let long = "x".repeat(5 * KEPT_BYTES);
        let json = format!(
            r#"{{"choices":[{{"message":{{"content":"{long}"}}}}],"usage":{{"prompt_tokens":13,"completion_tokens":2,"prompt_tokens_details":{{"cached_tokens":8}}}},"metrics":null}}"#
        );
        for size in [1, 7, 1000, json.len()] {
            let chunks: Vec<&[u8]> = json.as_bytes().chunks(size).collect();
            assert_eq!(read(Form::Json, &chunks).usage(), Some(USAGE), "{size}");
        }
        let event = format!("data: {json}\n\n");
        let chunks: Vec<&[u8]> = event.as_bytes().chunks(1000).collect();
        assert_eq!(read(Form::Events, &chunks).usage(), Some(USAGE));
    }

    #[test]
    fn other_apis_name_it_otherwise() {
        let responses = br#"{"output":[],"usage": {"input_tokens":13,"input_tokens_details":{"cached_tokens":8},"output_tokens":2}}"#;
        assert_eq!(read(Form::Json, &[responses]).usage(), Some(USAGE));
        let messages =
            br#"{"usage":{"input_tokens":13,"cache_read_input_tokens":8,"output_tokens":2}}"#;
        assert_eq!(read(Form::Json, &[messages]).usage(), Some(USAGE));
    }

    #[test]
    fn what_an_engine_does_not_say_is_not_0() {
        let usage = |details: &str| {
            let json =
                format!(r#"{{"usage":{{"prompt_tokens":13,"completion_tokens":2{details}}}}}"#);
            read(Form::Json, &[json.as_bytes()]).usage().unwrap().cached_tokens
        };
        assert_eq!(usage(""), None);
        assert_eq!(usage(r#","prompt_tokens_details":null"#), None);
        assert_eq!(usage(r#","prompt_tokens_details":{"cached_tokens":0}"#), Some(0));
    }

    #[test]
    fn without_usage_events_are_counted() {
        let reader =
            read(Form::Events, &[b"data: {\"choices\":[{}]}\n\n", b"data: {\"choices\":[{}]}\n\n"]);
        assert_eq!((reader.usage(), reader.output_tokens()), (None, 2));
    }
}
