//! What is kept of this policy when the process ends, and how much of it is believed afterwards.
//!
//! A checkpoint may be of another day, another workload, even of other GPUs under the same names. So what it says is where
//! learning starts, and counts as few samples only: what is right is confirmed by the first ones, what is wrong is gone after them.
//!
//! Not kept: requests in flight, what is in caches and how far that is believed, and the heuristic's lines, which tens of samples give.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Lodestar;
use super::caution::Caution;
use super::fleet::{Fleet, Known};
use super::residual;
use super::reuse::ReuseCounts;
use super::server::Server;
use crate::checkpoint::{CheckpointError, InstanceNames};
use crate::time::Time;

/// Answers that their mean length counts for afterwards.
const ANSWERS_RECALLED: u64 = 10;

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LodestarLearned {
    fleet: Fleet,
    instances: BTreeMap<String, Known>,
    residual: residual::Learned,
    reuse: ReuseCounts,
    caution: Caution,
    tail_s: f64,
    rate: f64,
    mean_answer_tokens: f64,
}

impl LodestarLearned {
    /// Of the instances that have a name and at least a sample.
    pub(super) fn of(policy: &Lodestar, names: &InstanceNames) -> Self {
        let of_instance = |(id, name): (_, &String)| {
            let server = policy.servers.get(id)?;
            let known = server.known();
            (known.laws.ttft.samples() > 0).then(|| (name.clone(), known))
        };
        Self {
            fleet: policy.fleet.clone(),
            instances: names.iter().filter_map(|(&id, name)| of_instance((id, name))).collect(),
            residual: policy.residual.learned(),
            reuse: policy.reuse.counts(),
            caution: policy.caution.clone(),
            tail_s: policy.tail_s,
            rate: policy.rate,
            mean_answer_tokens: policy.mean_answer_tokens,
        }
    }

    /// Puts it in the place of what `policy` knows. An instance of which nothing is kept starts from what is known
    /// of the fleet.
    ///
    /// # Errors
    /// When something in it cannot be; then nothing has changed.
    pub(super) fn restore(
        &self,
        policy: &mut Lodestar,
        now: Time,
        names: &InstanceNames,
    ) -> Result<(), CheckpointError> {
        self.check()?;
        policy.fleet = self.fleet.recalled();
        // Kinds have other numbers now.
        for server in policy.servers.iter_mut() {
            server.kind = policy.fleet.kind(server.capacity_tokens);
        }
        for (&id, name) in names {
            if let Some(known) = self.instances.get(name) {
                *policy.servers.entry(id) = Server::recalled(now, known);
            }
        }
        policy.residual.restore(&self.residual);
        policy.reuse.restore(now, self.reuse);
        policy.caution = self.caution.recalled();
        (policy.tail_s, policy.rate, policy.arrived_at) = (self.tail_s, self.rate, now);
        (policy.mean_answer_tokens, policy.answers) = (self.mean_answer_tokens, ANSWERS_RECALLED);
        Ok(())
    }

    fn check(&self) -> Result<(), CheckpointError> {
        let mut instances = self.instances.values();
        let numbers = [self.tail_s, self.rate, self.mean_answer_tokens];
        for (part, is_sound) in [
            (
                "a coefficient",
                self.fleet.is_sound() && instances.all(|known| known.laws.are_sound()),
            ),
            ("the network or a sample", self.residual.is_sound()),
            ("`reuse`", self.reuse.is_sound()),
            ("`caution`", self.caution.is_sound()),
            ("a mean", numbers.iter().all(|number| number.is_finite() && *number >= 0.0)),
        ] {
            if !is_sound {
                return Err(CheckpointError::Unsound(part));
            }
        }
        Ok(())
    }
}
