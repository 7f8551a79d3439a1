//! What learned policies share: the network and its training as a value.

pub(crate) mod network;
