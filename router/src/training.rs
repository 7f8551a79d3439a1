//! Training as a value: the router hands out a job, the driver runs it wherever it likes, and gives the
//! model back. A simulator runs it inline and delays the result; a live driver uses another thread, or another
//! process, since both can be written down.
//!
//! A job holds everything it needs and nothing that changes meanwhile, so where and when it runs makes no
//! difference to its result.

use serde::{Deserialize, Serialize};

use crate::learned::network::{Adam, Network, Recipe, Rows, train};
use crate::rng::Rng;

/// Work that can leave the router's thread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingJob {
    /// Of the policy that it came from, filled in by the router: after a switch nobody wants its result.
    pub(crate) policy_number: u32,
    pub(crate) network: Network,
    pub(crate) adam: Adam,
    pub(crate) rows: Rows,
    pub(crate) recipe: Recipe,
    /// Times that every row is looked at.
    pub(crate) passes: u32,
    pub(crate) seed: u64,
}

/// The result of a [`TrainingJob`], for [`Router::install`](crate::Router::install).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// As its job's.
    pub(crate) policy_number: u32,
    pub(crate) network: Network,
    pub(crate) adam: Adam,
    /// Mean loss of the last pass.
    pub(crate) loss: f32,
}

impl TrainingJob {
    /// Which of a router's policies it is for: each [`set_policy`](crate::Router::set_policy) counts one further.
    pub const fn policy_number(&self) -> u32 {
        self.policy_number
    }

    /// Does the work. The same job gives the same model, to the last bit, on any number of threads.
    pub fn run(self) -> Model {
        let Self { policy_number, mut network, mut adam, rows, recipe, passes, seed } = self;
        let mut rng = Rng::fork(seed, "training");
        let loss = train(&mut network, &mut adam, &rows, &recipe, passes, &mut rng)
            .expect("the shapes of a job made by a router fit each other");
        Model { policy_number, network, adam, loss }
    }
}

/// How the learning of a policy goes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learning {
    /// First tokens it has learned from.
    pub samples: u64,
    /// Part of the last hundred or so requests whose TTFT lay in the predicted range; nine in ten should.
    pub coverage: f64,
    /// Factor by which predictions of TTFT are off, either way; 1 is exact.
    pub error_factor: f64,
    /// Whether the network's correction is in use.
    pub trusts_network: bool,
    /// Whether a heuristic has taken over.
    pub has_stepped_back: bool,
}
