//! The events of a streamed completion, as they arrive.

use std::time::{Duration, Instant};

use lodestar_router::Usage;
use memchr::memchr;
use serde::Deserialize;

use crate::answer::usage_in;

/// What is known of an answer so far.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The line that has begun.
    line: Vec<u8>,
    /// Tokens of events with output: one each, unless the event says which tokens it has.
    tokens: u32,
    /// Ids of the tokens, if the server sends them.
    pub(super) ids: Vec<u32>,
    usage: Option<Usage>,
    pub(super) first: Option<Instant>,
    last: Option<Instant>,
    pub(super) itl_max: Duration,
    /// What the server said of its failure.
    pub(super) error: Option<String>,
    /// `[DONE]` came.
    pub(super) done: bool,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    token_ids: Option<Vec<u32>>,
}

impl Answer {
    /// Takes what arrived at `now`; its borders fall anywhere.
    pub(super) fn feed(&mut self, now: Instant, mut bytes: &[u8]) {
        while let Some(end) = memchr(b'\n', bytes) {
            self.line.extend_from_slice(&bytes[..end]);
            let line = std::mem::take(&mut self.line);
            self.end_of_line(now, &line);
            bytes = &bytes[end + 1..];
        }
        self.line.extend_from_slice(bytes);
    }

    pub(super) fn output_tokens(&self) -> u32 {
        self.usage.map_or(self.tokens, |usage| usage.output_tokens)
    }

    pub(super) fn cached_tokens(&self) -> u32 {
        self.usage.and_then(|usage| usage.cached_tokens).unwrap_or(0)
    }

    fn end_of_line(&mut self, now: Instant, line: &[u8]) {
        let Some(data) = line.strip_prefix(b"data:") else { return };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            self.done = true;
            return;
        }
        let Ok(event) = serde_json::from_slice::<Event>(data) else { return };
        if let Some(error) = event.error {
            let message = error.get("message").and_then(serde_json::Value::as_str);
            self.error = Some(message.map_or_else(|| error.to_string(), str::to_owned));
            return;
        }
        self.usage = usage_in(data).or(self.usage);
        for choice in event.choices {
            let ids = choice.token_ids.unwrap_or_default();
            self.tokens = self.tokens.saturating_add((ids.len() as u32).max(1));
            self.ids.extend(ids);
            self.first.get_or_insert(now);
            if let Some(last) = self.last.replace(now) {
                self.itl_max = self.itl_max.max(now - last);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_wherever_they_are_cut() {
        let text = "data: {\"choices\":[{\"text\":\"a\",\"token_ids\":[5]}],\"usage\":null}\n\n\
            data: {\"choices\":[{\"text\":\"b\",\"token_ids\":[6,7]}]}\r\n\r\n: comment\n\n\
            data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3,\
            \"prompt_tokens_details\":{\"cached_tokens\":8}}}\n\ndata: [DONE]\n\n";
        let start = Instant::now();
        for size in 1..text.len() {
            let mut answer = Answer::default();
            for (index, piece) in text.as_bytes().chunks(size).enumerate() {
                answer.feed(start + Duration::from_millis(index as u64), piece);
            }
            assert_eq!(answer.ids, [5, 6, 7], "{size}");
            assert_eq!((answer.output_tokens(), answer.cached_tokens()), (3, 8));
            assert!(answer.done && answer.error.is_none() && answer.first.is_some());
        }
    }

    #[test]
    fn an_error_is_no_output() {
        let mut answer = Answer::default();
        let now = Instant::now();
        answer.feed(now, b"data: {\"choices\":[{\"text\":\"a\"}]}\n\n");
        answer.feed(
            now,
            b"data: {\"error\":{\"message\":\"dead\",\"code\":500}}\n\ndata: [DONE]\n\n",
        );
        assert_eq!((answer.error.as_deref(), answer.output_tokens()), (Some("dead"), 1));
    }
}
