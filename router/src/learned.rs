//! What learned policies share: the network and its training as a value.

#[expect(dead_code, reason = "the policies that train come next")]
pub(crate) mod network;
