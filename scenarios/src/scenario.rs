//! A scenario: which requests, at which rates, on which fleets, under which policies, how often.
//!
//! It is a TOML file ([`file::ScenarioFile`]) that a person can read and change; `docs/scenarios.md`
//! describes the keys. Read and checked it is a [`Scenario`], whose cells (fleet by workload by rate) have a
//! fixed order, so that shards on different machines agree on what the n-th is.

mod cells;
mod contender;
mod content;
mod error;
mod file;
mod find;

pub use cells::Cell;
pub use contender::{Contender, Kind, Runner, contenders};
pub use content::Content;
pub use error::ScenarioError;
pub use find::{catalog_text, read_scenario, scenario_names};

use lodestar_sim::ClusterConfig;

/// A checked scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is called in results.
    pub name: String,
    /// What it asks, in a line or two.
    pub description: String,
    /// The model that every instance serves.
    pub model: String,
    /// Fleet by workload by rate, in the file's order.
    pub cells: Vec<Cell>,
    /// Who competes, if nobody else is named.
    pub contenders: Vec<Contender>,
    /// Runs of each cell and policy, with the seeds 1 to this.
    pub seeds: u64,
    /// The label of the policy with which the others are compared.
    pub baseline: String,
    /// Digest of everything in the file that decides what a run of one of its cells gives.
    pub sha256: String,
    engine: file::Engines,
}

impl Scenario {
    /// The cluster of a cell.
    pub fn cluster(&self, cell: &Cell) -> Result<ClusterConfig, crate::FleetError> {
        let mut instances = cell.fleet.instances(&self.model)?;
        for instance in &mut instances {
            if let Some(settings) = self.engine.get(&instance.gpu) {
                instance.engine = settings.apply(instance.engine.clone());
            }
        }
        Ok(ClusterConfig::new(instances))
    }
}
