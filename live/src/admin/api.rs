//! What can be asked and changed, as JSON.

use std::path::Path;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use lodestar_router::{CheckpointError, Objective, PolicyConfig, RouterConfig};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tracing::info;

use super::{Admin, canary};
use crate::arms::{Arm, Stop};
use crate::checkpoint_file::{CheckpointFileError, parse, print};
use crate::config::{ConfigError, InstanceEntry};
use crate::membership::MembershipError;

/// One thing that can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    ListInstances,
    AddInstance,
    DrainInstance,
    RemoveInstance,
    GetPolicy,
    SetPolicy,
    SetObjective,
    GetCheckpoint,
    LoadCheckpoint,
    GetCanary,
    StopCanary,
    GetOverview,
}

/// Where each is found.
const CALLS: [(Method, &str, Call); 12] = [
    (Method::GET, "instances", Call::ListInstances),
    (Method::POST, "instances", Call::AddInstance),
    (Method::POST, "instances/drain", Call::DrainInstance),
    (Method::POST, "instances/remove", Call::RemoveInstance),
    (Method::GET, "policy", Call::GetPolicy),
    (Method::PUT, "policy", Call::SetPolicy),
    (Method::PUT, "objective", Call::SetObjective),
    (Method::GET, "checkpoint", Call::GetCheckpoint),
    (Method::PUT, "checkpoint", Call::LoadCheckpoint),
    (Method::GET, "canary", Call::GetCanary),
    (Method::POST, "canary/stop", Call::StopCanary),
    (Method::GET, "overview", Call::GetOverview),
];

impl Call {
    /// The call, or the methods that there are for this path.
    pub(super) fn find(method: &Method, name: &str) -> Result<Self, String> {
        let here = CALLS.iter().filter(|(_, known, _)| *known == name);
        let found = here.clone().find(|(known, ..)| known == method);
        let methods = || here.map(|(known, ..)| known.as_str()).collect::<Vec<_>>().join(", ");
        found.map(|(.., call)| *call).ok_or_else(methods)
    }

    pub(super) const fn changes(self) -> bool {
        !matches!(
            self,
            Self::ListInstances
                | Self::GetPolicy
                | Self::GetCheckpoint
                | Self::GetCanary
                | Self::GetOverview
        )
    }
}

/// A call that cannot be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiFailure {
    #[error("the body is not what belongs here: {0}; docs/live.md has examples")]
    Body(#[from] serde_json::Error),
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("policy `{0}` has no objective; switch to `lodestar`, which has")]
    NoObjective(String),
    #[error("policy `{0}` keeps nothing in a checkpoint; switch to `lodestar`, which does")]
    NoCheckpoint(String),
    #[error("there is no canary; name one as `canary` under `[router]`, and start again")]
    NoCanary,
    #[error(transparent)]
    File(#[from] CheckpointFileError),
    #[error(
        "the checkpoint cannot be loaded: {0}; send what GET answers or what `router.checkpoint` names"
    )]
    Checkpoint(String),
}

impl ApiFailure {
    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::Body(_) | Self::Config(_) | Self::Checkpoint(_) => StatusCode::BAD_REQUEST,
            Self::Membership(error) => error.status(),
            Self::NoObjective(_) | Self::NoCheckpoint(_) | Self::NoCanary | Self::File(_) => {
                StatusCode::CONFLICT
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    url: String,
}

impl Admin {
    /// Does it. The caller sees to it that changes happen one after another.
    pub(super) async fn act(&self, call: Call, body: &[u8]) -> Result<Bytes, ApiFailure> {
        let answer = match call {
            Call::ListInstances => self.instances().await,
            Call::AddInstance => {
                let entry: InstanceEntry = read(body)?;
                self.membership.add(&entry).await?;
                info!(url = entry.url, "added by an operator");
                self.instances().await
            }
            Call::DrainInstance => {
                let Named { url } = read(body)?;
                self.membership.drain(&url).await?;
                info!(url, "drained by an operator");
                self.instances().await
            }
            Call::RemoveInstance => {
                let Named { url } = read(body)?;
                self.membership.remove(&url).await?;
                info!(url, "removed by an operator");
                self.instances().await
            }
            Call::SetPolicy => {
                self.set_policy(read(body)?).await?;
                self.policy()
            }
            Call::SetObjective => {
                let objective: Objective = read(body)?;
                let set = self.dispatcher.set_objective(objective);
                set.map_err(ApiFailure::NoObjective)?;
                info!("the objective is {objective:?} by order of an operator");
                self.policy()
            }
            Call::LoadCheckpoint => {
                self.load(body)?;
                self.policy()
            }
            Call::StopCanary => {
                self.dispatcher.stop_canary(Stop::Operator, "an operator has said so");
                self.canary()?
            }
            Call::GetPolicy => self.policy(),
            Call::GetCheckpoint => {
                let checkpoint = self.dispatcher.checkpoint(Arm::Baseline);
                return Ok(print(&checkpoint.ok_or_else(|| self.no_checkpoint())?).into());
            }
            Call::GetCanary => self.canary()?,
            Call::GetOverview => self.overview().await,
        };
        Ok(line(&answer))
    }

    async fn instances(&self) -> Value {
        json!({"instances": self.membership.list().await})
    }

    fn policy(&self) -> Value {
        let RouterConfig { policy, information, .. } = self.dispatcher.router_config();
        let learning = self.dispatcher.learning();
        json!({"policy": policy, "information": information, "learning": learning})
    }

    fn canary(&self) -> Result<Value, ApiFailure> {
        let canary = self.dispatcher.canary().ok_or(ApiFailure::NoCanary)?;
        Ok(canary::describe(&canary, self.dispatcher.counters()))
    }

    /// What was learned is kept as over a restart: by the new policy if it can use it, else in the file.
    async fn set_policy(&self, policy: PolicyConfig) -> Result<(), ApiFailure> {
        let name = policy.name().into_owned();
        let mut learned = self.dispatcher.checkpoint(Arm::Baseline);
        if let Some(keeper) = &self.keeper {
            keeper.save(&self.dispatcher).await;
            if learned.is_none() {
                learned = keeper.read()?;
            }
        }
        let config = RouterConfig { policy: policy.clone(), ..self.dispatcher.router_config() };
        self.membership.check_policy(&config).await?;
        if self.dispatcher.switch(&policy, learned.as_ref()).is_err() {
            // It keeps nothing, or something else.
            self.dispatcher.switch(&policy, None).map_err(|error| wrong(&error))?;
        }
        info!("policy `{name}` decides by order of an operator");
        Ok(())
    }

    fn load(&self, body: &[u8]) -> Result<(), ApiFailure> {
        let policy = self.dispatcher.router_config().policy;
        if self.dispatcher.checkpoint(Arm::Baseline).is_none() {
            return Err(self.no_checkpoint());
        }
        let checkpoint = parse(Path::new("body"), body).map_err(refused)?;
        self.dispatcher.switch(&policy, Some(&checkpoint)).map_err(|error| wrong(&error))?;
        info!("goes on from a checkpoint by order of an operator");
        Ok(())
    }

    fn no_checkpoint(&self) -> ApiFailure {
        ApiFailure::NoCheckpoint(self.dispatcher.router_config().policy.name().into_owned())
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiFailure> {
    Ok(serde_json::from_slice(body)?)
}

fn line(value: &Value) -> Bytes {
    format!("{value}\n").into()
}

fn wrong(error: &CheckpointError) -> ApiFailure {
    ApiFailure::Checkpoint(error.to_string())
}

/// The advice for a start without is none here.
fn refused(error: CheckpointFileError) -> ApiFailure {
    ApiFailure::Checkpoint(match error {
        CheckpointFileError::Damaged { complaint, .. } => complaint,
        CheckpointFileError::Refused { error, .. } => error.to_string(),
        io @ CheckpointFileError::Io { .. } => io.to_string(),
    })
}
