//! The proxy from outside: scripted servers behind it, clients that write bytes in front of it. Every port
//! is the system's choice and nothing depends on how long anything takes.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first surprise; clippy knows #[test] only"
)]

mod admin;
mod bench;
mod canary;
mod dashboard;
mod decision_log;
mod discovery;
mod engine_tokenizer;
mod failures;
mod mock;
mod passing;
mod queue;
mod resume;
mod script;
mod stalls;
mod streams;
mod telemetry;
