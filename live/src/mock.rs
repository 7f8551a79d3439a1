//! A vLLM server without a GPU: the HTTP that clients and routers see, around an engine that only keeps time.
//!
//! The engine is behind [`MockCore`], which the command line implements with the simulator's: the proxy must not
//! link a simulator.

mod clock;
mod completion;
mod driver;
mod kv;
mod request;
mod server;
mod stream;
mod text;
mod wire;

use std::net::SocketAddr;

use lodestar_router::{InstanceMetrics, Time};
use lodestar_traces::{Source, Span};

pub use self::kv::MockKvEndpoints;
pub use self::server::{MockServer, serve_mock};

/// What works inside: an engine on a virtual clock. Calls come in the order of time.
pub trait MockCore: Send + 'static {
    /// Sizes that it states of itself.
    fn limits(&self) -> MockLimits;
    /// A request arrives. Its prompt is shorter than the model length.
    fn submit(&mut self, now: Time, request: MockRequest);
    /// A client has hung up. Unknown and ended requests are ignored.
    fn abort(&mut self, now: Time, handle: u32);
    /// When to call [`Self::wake`], if ever.
    fn next_wakeup(&self) -> Option<Time>;
    /// Does what is due at `now`, which is [`Self::next_wakeup`], and appends the tokens that were made.
    fn wake(&mut self, now: Time, tokens: &mut Vec<MockToken>);
    /// What has become of its prefix cache since the last call, if it tells.
    fn take_kv_events(&mut self) -> Vec<MockKvEvent> {
        Vec::new()
    }
    /// How it stands.
    fn metrics(&self) -> InstanceMetrics;
}

/// A change of the prefix cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MockKvEvent {
    /// Blocks can be found from now on.
    Stored {
        /// The engine's name of the block before the first of them; none at the beginning of a prompt.
        parent: Option<u64>,
        /// Its names of the blocks, each the child of the one before.
        hashes: Vec<u64>,
        /// Of all these blocks.
        token_ids: Vec<u32>,
        /// Hash of the prompt's `cache_salt`. Published as text, which no client's salt is.
        salt: Option<u64>,
    },
    /// A block was evicted.
    Removed {
        /// Its name.
        hash: u64,
    },
    /// All were.
    Cleared,
}

impl MockRequest {
    /// Prompt and answer as token ids: four bytes of text each.
    pub fn token_ids(&self) -> Vec<u32> {
        let answer = Span { source: self.output, start: 0, tokens: self.output_tokens };
        let spans = self.prompt.iter().chain([&answer]);
        spans.flat_map(|span| (0..span.tokens).map(|at| text::token_id(span, at))).collect()
    }
}

/// Sizes of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MockLimits {
    /// Longest prompt plus output, tokens.
    pub max_model_len: u32,
    /// Tokens of a KV block.
    pub block_size: u32,
    /// KV blocks, the null block included.
    pub num_blocks: u32,
}

/// A request as the engine gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MockRequest {
    /// Its name until it ends.
    pub handle: u32,
    /// When it reached the server. It comes here later, since reading it takes time.
    pub arrived: Time,
    /// The prompt.
    pub prompt: Vec<Span>,
    /// Hash of vLLM's `cache_salt`.
    pub cache_salt: Option<u64>,
    /// Tokens of the answer. At least 1, and within the model length.
    pub output_tokens: u32,
    /// The answer, as later prompts quote it.
    pub output: Source,
    /// vLLM's: lower is more urgent.
    pub priority: i32,
}

/// One token of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MockToken {
    /// Of which request.
    pub handle: u32,
    /// Prompt tokens that were found in the prefix cache; with the first token.
    pub cached_tokens: Option<u32>,
}

/// What a mock says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct MockConfig {
    /// Name of the model that it serves.
    pub model: String,
    /// Virtual seconds in a real one.
    pub time_scale: f64,
    /// Where it publishes KV events; it repeats them on the next port. Port 0 is any.
    pub kv_events: Option<SocketAddr>,
}
