//! Traces from the outside: files in, requests out, and back.
#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first surprise; clippy knows #[test] only"
)]

mod damage;
mod destinations;
mod errors;
mod formats;
mod generators;
mod options;
mod published;
mod round_trip;
mod router_log;
mod support;
