//! One request of a trace: when it arrives, what its prompt is made of, how long its answer will be.
//!
//! Content is identity, not text. A prompt is a list of [`Span`]s, each a run of consecutive tokens of
//! one [`Source`]; two tokens are equal when source and position are. That is all a prefix cache can
//! see of a prompt, works for any block size, and needs no token to be stored or invented.

use serde::{Deserialize, Serialize};

/// One request. Lengths are in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceRequest {
    /// Unique within the trace.
    pub id: u64,
    /// When it is sent.
    pub arrival: Arrival,
    /// The prompt; its length is the sum over the spans.
    pub prompt: Vec<Span>,
    /// Tokens that the model will generate. At least 1.
    pub output_tokens: u32,
    /// Conversation it belongs to.
    pub session: Option<u64>,
    /// vLLM's meaning: lower is more urgent.
    pub priority: i32,
    /// vLLM's `cache_salt`: requests with different salts never share a block.
    pub cache_salt: Option<u64>,
}

impl TraceRequest {
    /// Prompt length, tokens.
    pub fn prompt_tokens(&self) -> u32 {
        self.prompt.iter().map(|span| span.tokens).sum()
    }
}

/// When a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrival {
    /// At a fixed time, nanoseconds from the start of the trace (open loop).
    At {
        /// Nanoseconds from the start of the trace.
        ns: u64,
    },
    /// Some time after another request of the trace ended, however it ended (closed loop: think time).
    After {
        /// [`TraceRequest::id`] of the request that must end first; it precedes this one in the trace.
        request: u64,
        /// Nanoseconds from that end.
        delay_ns: u64,
    },
}

/// Consecutive tokens `start..start + tokens` of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// Where the tokens come from.
    pub source: Source,
    /// Position of the first one within the source.
    pub start: u32,
    /// How many.
    pub tokens: u32,
}

/// Names a stream of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The block of text that a trace calls by this hash id.
    Hash(u64),
    /// A literal token of the vocabulary: position 0 is the token itself.
    Token(u32),
    /// What the model answers to the request with this [`TraceRequest::id`].
    Output(u64),
    /// Text that occurs nowhere but in the request with this [`TraceRequest::id`].
    Private(u64),
}
