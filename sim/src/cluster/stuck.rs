//! Why a run cannot start or cannot end. A simulation that hangs is worse than one that fails: every way
//! to stand still is found by a watchdog and named, with the request, the resource and the rule.

use lodestar_router::{CheckpointError, Time};

use super::plan::InvalidPlan;
use crate::engine::InvalidConfig;

/// A run that cannot end, or not start: which request, which resource, which rule.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Stuck {
    /// vLLM would not start with these settings.
    #[error("instance {instance}: {error}")]
    CannotStart {
        /// Name of the instance.
        instance: String,
        /// Why.
        error: InvalidConfig,
    },
    /// There is nowhere to route to.
    #[error("the cluster has no instances; give at least one")]
    NoInstances,
    /// The routers cannot go on from what was to be known.
    #[error("the checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The plan of faults and joins contradicts itself.
    #[error(transparent)]
    InvalidPlan(#[from] InvalidPlan),
    /// A closed-loop request waits for one that never ends.
    #[error(
        "the run stopped at {now}: request {request} is sent only after request {parent} has ended, \
         which is not in the trace or waits itself; rule: closed-loop arrival"
    )]
    NeverSent {
        /// When nothing moved any more.
        now: Time,
        /// The request that was never sent, by its id in the trace.
        request: u64,
        /// The one it waits for.
        parent: u64,
    },
    /// An engine turns without producing anything.
    #[error(
        "the run stopped at {now}: instance {instance} made {steps} steps without an output token while \
         request {request} waits for KV cache blocks ({free_blocks} of {num_blocks} are free); rule: \
         {rule}"
    )]
    NoOutput {
        /// When the run was given up.
        now: Time,
        /// Name of the instance.
        instance: String,
        /// Steps since its last output token.
        steps: u32,
        /// The request at the head of its queue, by its id in the trace.
        request: u64,
        /// Free KV cache blocks.
        free_blocks: u32,
        /// All KV cache blocks.
        num_blocks: u32,
        /// What keeps the request waiting.
        rule: &'static str,
    },
}
