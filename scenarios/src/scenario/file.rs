//! The keys of a scenario file. Unknown ones are refused: a misspelt option must not pass for a default.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lodestar_router::Information;
use lodestar_sim::catalog::MeasuredEngine;
use lodestar_traces::WorkloadConfig;
use serde::Deserialize;

use super::event::EventEntry;

/// Engine settings that differ from vLLM's defaults, by GPU.
pub(super) type Engines = BTreeMap<String, MeasuredEngine>;

/// A scenario file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScenarioFile {
    pub(super) name: String,
    pub(super) description: String,
    #[serde(default = "default_model")]
    pub(super) model: String,
    /// Fleets such as `a100:4,l4:2`.
    pub(super) fleets: Vec<String>,
    /// A name, or a table with `name`, `label` and the policy's parameters. All policies if left out.
    pub(super) policies: Option<Vec<toml::Value>>,
    /// Whether policies see what their own implementations do, or what Lodestar's ledger and index say.
    #[serde(default)]
    pub(super) information: Information,
    #[serde(default = "default_baseline")]
    pub(super) baseline: String,
    #[serde(default = "default_seeds")]
    pub(super) seeds: u64,
    /// A CSV file of measurements to compare with; relative to the scenario file.
    pub(super) measured: Option<String>,
    #[serde(default)]
    pub(super) engine: Engines,
    /// Every step of a GPU takes so many times as long as its profile says.
    #[serde(default)]
    pub(super) step_time_factor: BTreeMap<String, f64>,
    /// Routers in front of the fleet, a cell each.
    #[serde(default = "default_router_replicas")]
    pub(super) router_replicas: Vec<u32>,
    /// Seconds after a crash at which routers learn of it, instead of the simulator's.
    pub(super) detection_delay_s: Option<f64>,
    /// Seconds until a router sends a request again that an instance did not take, instead of the simulator's.
    pub(super) retry_delay_s: Option<f64>,
    /// What happens to instances, in the order of time.
    #[serde(rename = "event", default)]
    pub(super) events: Vec<EventEntry>,
    #[serde(rename = "workload")]
    pub(super) workloads: Vec<WorkloadEntry>,
}

/// One workload and the rates at which it arrives.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkloadEntry {
    pub(super) name: String,
    /// Exactly one of the next three: a named workload of the generator,
    pub(super) preset: Option<String>,
    /// a workload spelt out,
    pub(super) generate: Option<WorkloadConfig>,
    /// or a trace; relative to the scenario file.
    pub(super) trace: Option<PathBuf>,
    /// How many requests, instead of as many as the workload or the trace has.
    pub(super) requests: Option<u32>,
    /// Every answer exactly so long.
    pub(super) output_tokens: Option<u32>,
    /// Mean requests per second, a cell each. As the workload has it, if left out.
    pub(super) rates_rps: Option<Vec<f64>>,
    /// Rates as shares of the fleet's knee.
    pub(super) loads: Option<Vec<f64>>,
    /// Highest rate that each fleet keeps up with, as `lodestar scenario saturate` found it.
    #[serde(default)]
    pub(super) knee_rps: BTreeMap<String, f64>,
}

fn default_model() -> String {
    "llama-3.1-8b".to_owned()
}

fn default_baseline() -> String {
    "prefix-cache".to_owned()
}

fn default_router_replicas() -> Vec<u32> {
    vec![1]
}

const fn default_seeds() -> u64 {
    1
}
