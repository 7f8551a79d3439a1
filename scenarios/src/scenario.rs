//! A scenario: which requests, at which rates, on which fleets, under which policies, how often.
//!
//! It is a TOML file (`file.rs`) that a person can read and change; `docs/scenarios.md`
//! describes the keys. Read and checked it is a [`Scenario`], whose cells (fleet by workload by rate by number
//! of routers) have a fixed order, so that shards on different machines agree on what the n-th is.

mod cells;
mod contender;
mod content;
mod error;
mod event;
mod file;
mod find;

pub use cells::{Cell, MAX_SEEDS};
pub use contender::{Contender, Kind, Runner, Yardstick, contenders};
pub use content::{Content, Origin};
pub use error::ScenarioError;
pub use find::{catalog_text, read_axes, read_scenario, scenario_names};

use std::collections::BTreeMap;

use lodestar_router::{Duration, Information};
use lodestar_sim::catalog::ModelOnGpu;
use lodestar_sim::step_time::HingeCoefficients;
use lodestar_sim::{ClusterConfig, InstanceConfig, PlannedEvent};

use crate::fleet::{FleetError, read_profile};

/// A checked scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is called in results.
    pub name: String,
    /// What it asks, in a line or two.
    pub description: String,
    /// The model that every instance serves.
    pub model: String,
    /// Fleet by workload by rate by number of routers, in the file's order.
    pub cells: Vec<Cell>,
    /// Who competes, if nobody else is named.
    pub contenders: Vec<Contender>,
    /// What happens to the instances of every cell during a run, in the order of time.
    pub plan: Vec<PlannedEvent>,
    /// From a crash until routers learn of it; the simulator's, if none.
    pub detection_delay: Option<Duration>,
    /// Until a router sends a request again that an instance did not take; the simulator's, if none.
    pub retry_delay: Option<Duration>,
    /// What policies see.
    pub information: Information,
    /// Runs of each cell and policy, with the seeds 1 to this.
    pub seeds: u64,
    /// The label of the policy with which the others are compared.
    pub baseline: String,
    /// Digest of everything in the file that decides what a run of one of its cells gives.
    pub sha256: String,
    /// Measurements of the same policies on real machines.
    pub published: Vec<crate::sweep::Published>,
    engine: file::Engines,
    step_time_factor: BTreeMap<String, f64>,
}

impl Scenario {
    /// The cluster of a cell.
    ///
    /// # Errors
    /// When a GPU or the model is not known, or the model does not fit.
    pub fn cluster(&self, cell: &Cell) -> Result<ClusterConfig, FleetError> {
        let mut instances = cell.fleet.instances(&self.model)?;
        let mut rest = instances.as_mut_slice();
        for group in cell.fleet.groups() {
            let settings = self.engine.get(&group.gpu).copied().unwrap_or_default();
            let factor = self.step_time_factor.get(&group.gpu).copied().unwrap_or(1.0);
            let profile = read_profile(&group.gpu)?;
            let on_gpu = slower(profile.on(&self.model)?, factor);
            let (members, others) = rest.split_at_mut(group.count as usize);
            let engine = settings.apply(members[0].engine.clone());
            // Made anew: the law is a table as long as the token budget.
            let made = on_gpu.instance(&profile, engine, String::new());
            for member in members {
                let name = std::mem::take(&mut member.name);
                *member = InstanceConfig { name, ..made.clone() };
            }
            rest = others;
        }
        let defaults = ClusterConfig::new(instances);
        Ok(ClusterConfig {
            plan: self.plan.clone(),
            router_replicas: cell.router_replicas,
            detection_delay: self.detection_delay.unwrap_or(defaults.detection_delay),
            retry_delay: self.retry_delay.unwrap_or(defaults.retry_delay),
            ..defaults
        })
    }
}

/// The same law with every time multiplied.
fn slower(on_gpu: &ModelOnGpu, factor: f64) -> ModelOnGpu {
    let law = on_gpu.step_time;
    ModelOnGpu {
        step_time: HingeCoefficients {
            host_ms: law.host_ms * factor,
            t0_ms: law.t0_ms * factor,
            w_ms: law.w_ms * factor,
            b_us_per_token: law.b_us_per_token * factor,
            c_ns_per_pair: law.c_ns_per_pair * factor,
            d_us_per_decode_request: law.d_us_per_decode_request * factor,
            e_ns_per_context_token: law.e_ns_per_context_token * factor,
            p: law.p,
            mixed_factor: law.mixed_factor,
        },
        linear_ms_by_tokens: on_gpu
            .linear_ms_by_tokens
            .iter()
            .map(|(tokens, ms)| (*tokens, ms * factor))
            .collect(),
        ..on_gpu.clone()
    }
}
