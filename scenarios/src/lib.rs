//! Runs of the simulator and what remains of them: tables, summaries, results folders.
//!
//! The simulator answers one question, "what happens to this trace on this cluster under this policy";
//! here the question is asked several times in parallel and the answers are kept so that a reader, a
//! plot or another program can trust them. Polars enters the project here and nowhere below.

pub mod calibrate;
pub mod calibrate_requests;
mod comparison;
mod csv_header;
pub mod decisions;
mod digest;
mod fleet;
mod load;
mod manifest;
mod output;
mod quantile;
mod replay;
pub mod scenario;
mod summary;
pub mod sweep;
mod table;
mod tables;
pub mod validate;

pub use comparison::{Marks, compare};
pub use digest::trace_sha256;
pub use fleet::{Fleet, FleetError, Group, read_profile};
pub use load::{LoadError, load};
pub use manifest::{ManifestError, Scenario, StepTimeTrust, TraceIdentity};
pub use output::{OutputDir, OutputError};
pub use quantile::{Distribution, quantile};
pub use replay::{Replay, ReplayError, Replayed, Workload};
pub use summary::Summary;
pub use table::Table;
pub use tables::{Incomparable, Results, RunTables};
