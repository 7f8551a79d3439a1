//! What a router may know of a request. There is no output length here: nobody knows it on arrival.

use serde::{Deserialize, Serialize};

/// The driver's name for a request. Unique among the requests that have not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

/// Chained hash of a prefix that ends at a block border: equal hashes mean equal prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockHash(pub u64);

/// One request, as it stands at the router's door.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its name in every later [`Event`](crate::Event).
    pub id: RequestId,
    /// Prompt length, tokens.
    pub prompt_tokens: u32,
    /// One hash for each full block of the prompt, [`RouterConfig::block_tokens`](crate::RouterConfig::block_tokens)
    /// tokens each. Empty when the content is unknown.
    pub block_hashes: &'a [BlockHash],
    /// Conversation this request belongs to, if the client says.
    pub session: Option<u64>,
    /// vLLM's meaning: lower is more urgent.
    pub priority: i32,
}
