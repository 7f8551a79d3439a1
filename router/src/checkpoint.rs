//! What a learned policy knows, as a value that outlives its process. The driver stores it; requests in flight and
//! what is in caches are not in it, since a restart ends the ones and hides the others.
//!
//! Instances stand in it by name: ids are given anew by each process. The driver says who is called what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::InstanceId;
use crate::policy::LodestarLearned;

/// What the driver calls its instances, so that one is known again after a restart: a URL, or a name in a file.
pub type InstanceNames = BTreeMap<InstanceId, String>;

/// What a learned policy knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    version: u32,
    learned: Learned,
}

/// By policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Learned {
    /// The same for every objective.
    Lodestar(Box<LodestarLearned>),
}

/// Why a router cannot start from a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Made by another version.
    #[error("it has version {found}, this router reads version {}", Checkpoint::VERSION)]
    Version {
        /// The checkpoint's.
        found: u32,
    },
    /// The policy knows nothing that could be kept, or not this.
    #[error("it holds what the policy `lodestar` has learned, and another policy is to run")]
    OtherPolicy,
    /// A number that no router writes, or a shape that is not this version's.
    #[error("{0} in it cannot be right")]
    Unsound(&'static str),
}

impl Checkpoint {
    /// Of what the fields mean. Raised when a feature, a coefficient or a unit changes, even if all names stay.
    pub const VERSION: u32 = 4;

    pub(crate) const fn new(learned: Learned) -> Self {
        Self { version: Self::VERSION, learned }
    }

    pub(crate) const fn learned(&self) -> Result<&Learned, CheckpointError> {
        if self.version == Self::VERSION {
            Ok(&self.learned)
        } else {
            Err(CheckpointError::Version { found: self.version })
        }
    }
}
