//! A cluster of vLLM instances behind the production router, on one virtual clock.
//!
//! A request travels from its client over the network to the router, which decides through its public
//! contract; then to the instance's API server, which tokenises it; then into the engine's waiting
//! queue. Tokens travel back the same way. The router learns of them when they pass, and of an
//! instance's metrics only when it scrapes them. What happens at one instant happens in the order of
//! [`event_queue`]'s classes, so that nothing depends on the luck of a heap.
//!
//! Instances may join, leave, crash and slow down while requests are under way: [`plan`] says when,
//! [`membership`] does it.

mod ahead;
mod clairvoyant;
mod config;
mod event_queue;
mod front;
mod kv_feed;
mod members;
mod membership;
mod observers;
mod plan;
mod run;
mod stuck;
mod timeline;
mod way;

pub use self::clairvoyant::clairvoyant_greedy;
pub use self::config::{ApiServer, ClusterConfig, InstanceConfig};
pub(crate) use self::membership::step_time_at;
pub(crate) use self::plan::is_there_at_start;
pub use self::plan::{InvalidPlan, PlannedEvent, PlannedKind};
pub use self::run::{RunOutput, simulate, simulate_from, simulate_logged, simulate_placed};
pub use self::stuck::Stuck;
