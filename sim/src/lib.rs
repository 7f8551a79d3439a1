//! A deterministic discrete-event simulator of a cluster of vLLM instances.
//!
//! `engine` reproduces the decisions of vLLM 0.32.0's scheduler and KV cache manager, step by step;
//! `golden` holds it to recordings of the real one. `cluster` puts engines, network, API servers and
//! the production router together on one virtual clock. Nothing here does I/O, reads a clock, takes a
//! lock or starts a thread; the same inputs give the same outputs, to the bit.

pub mod catalog;
mod cluster;
pub mod content;
pub mod engine;
pub mod golden;
mod random;
mod record;
mod sharing;
pub mod step_time;
pub mod yardstick;

pub use self::cluster::{
    ApiServer, ClusterConfig, InstanceConfig, InvalidPlan, PlannedEvent, PlannedKind, RunOutput,
    Stuck, simulate, simulate_from, simulate_logged, simulate_placed,
};
pub use self::record::{IntervalRecord, Outcome, RequestRecord};
