//! The engines of a run. Each has an id that no other one ever has: an instance that comes back after a
//! crash is a new member.

use lodestar_router::{InstanceSpec, Time};

use super::config::{ClusterConfig, InstanceConfig};
use super::plan;
use super::stuck::Stuck;
use crate::engine::Engine;

/// Whether a member is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// It has not joined.
    Absent,
    /// It takes requests.
    Up,
    /// It finishes the requests it has.
    Draining,
    /// It has crashed or left.
    Gone,
}

/// One engine from its start to its end.
#[derive(Debug)]
pub(super) struct Member {
    /// Position in [`ClusterConfig::instances`].
    pub(super) instance: usize,
    pub(super) presence: Presence,
    /// When it came; the start of the run if it was there, or has not come.
    pub(super) joined: Time,
    pub(super) engine: Engine,
    /// Its wake-up that is in the queue. An engine that is interrupted asks for an earlier one; the later
    /// one is then ignored when it comes.
    pub(super) wakeup: Option<Time>,
    /// Requests sent to it that it has not ended.
    pub(super) open_requests: u32,
    /// To be joined as soon as this one has drained.
    pub(super) successor: Option<u32>,
}

impl Member {
    /// Whether there is a process that takes messages and answers scrapes.
    pub(super) fn is_alive(&self) -> bool {
        matches!(self.presence, Presence::Up | Presence::Draining)
    }

    /// What it tells a router when it joins.
    pub(super) fn spec(&self) -> InstanceSpec {
        let engine = self.engine.config();
        let usable_blocks = u64::from(engine.num_blocks - 1);
        InstanceSpec {
            kv_capacity_tokens: usable_blocks * u64::from(engine.block_size),
            max_model_len_tokens: engine.max_model_len,
        }
    }
}

/// All members that a run will ever have, by id.
pub(super) fn start_all(config: &ClusterConfig) -> Result<Vec<Member>, Stuck> {
    let start_one = |(id, instance): (usize, usize)| {
        let there = id == instance && plan::is_there_at_start(&config.plan, instance);
        Ok(Member {
            instance,
            presence: if there { Presence::Up } else { Presence::Absent },
            joined: Time::ZERO,
            engine: start(&config.instances[instance], config.step_by_step)?,
            wakeup: None,
            open_requests: 0,
            successor: None,
        })
    };
    plan::members(&config.plan, &config.instances).enumerate().map(start_one).collect()
}

fn start(instance: &InstanceConfig, step_by_step: bool) -> Result<Engine, Stuck> {
    let engine = Engine::new(instance.engine.clone(), instance.step_time.clone())
        .map_err(|error| Stuck::CannotStart { instance: instance.name.clone(), error })?;
    Ok(if step_by_step { engine.step_by_step() } else { engine })
}
