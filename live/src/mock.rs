//! A vLLM server without a GPU: the HTTP that clients and routers see, around an engine that only keeps time.
//!
//! The engine is behind [`MockCore`], which the command line implements with the simulator's: the proxy must not
//! link a simulator.

mod clock;
mod completion;
mod driver;
mod request;
mod server;
mod stream;
mod text;
mod wire;

use lodestar_router::{InstanceMetrics, Time};
use lodestar_traces::{Source, Span};

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
    /// How it stands.
    fn metrics(&self) -> InstanceMetrics;
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
}
