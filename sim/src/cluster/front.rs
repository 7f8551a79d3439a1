//! The router replicas at the front of a cluster. Each is a router of its own: it sees the facts of its
//! own requests, and what all of them are told of the instances.

use std::collections::VecDeque;

use lodestar_router::{
    Checkpoint, CheckpointError, InstanceNames, Model, Router, RouterConfig, Time,
};

use super::event_queue::RequestIndex;
use crate::random;

/// One router process.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) router: Router,
    /// Its wake-up that is in the queue.
    pub(super) timer: Option<Time>,
    /// Models on their way back to it, oldest first.
    pub(super) trained: VecDeque<Model>,
}

/// The router replicas, by number.
#[derive(Debug)]
pub(super) struct Front {
    replicas: Vec<Replica>,
}

impl Front {
    /// The first replica has the run's seed, so that one replica is a router as it always was.
    pub(super) fn new(
        config: RouterConfig,
        replicas: u32,
        seed: u64,
        new_router: fn(RouterConfig, u64) -> Router,
    ) -> Self {
        assert!(replicas > 0, "somebody has to route");
        let start = |config, seed| Replica {
            router: new_router(config, seed),
            timer: None,
            trained: VecDeque::new(),
        };
        let others = (1..replicas).map(|number| {
            let seed = random::fork_seed(seed, &format!("router replica {number}"));
            start(config.clone(), seed)
        });
        let others: Vec<Replica> = others.collect();
        Self { replicas: std::iter::once(start(config, seed)).chain(others).collect() }
    }

    /// Every router goes on from `checkpoint`.
    pub(super) fn restore(
        &mut self,
        checkpoint: &Checkpoint,
        names: &InstanceNames,
    ) -> Result<(), CheckpointError> {
        let mut replicas = self.replicas.iter_mut();
        replicas.try_for_each(|replica| replica.router.restore(Time::ZERO, checkpoint, names))
    }

    /// What the first router has learned, if it learns.
    pub(super) fn checkpoint(&self, names: &InstanceNames) -> Option<Checkpoint> {
        self.replicas[0].router.checkpoint(names)
    }

    /// Who gets a request: they take turns in the order of the trace.
    pub(super) fn replica_of(&self, index: RequestIndex) -> u32 {
        if self.replicas.len() == 1 { 0 } else { index % self.replicas.len() as u32 }
    }

    pub(super) fn numbers(&self) -> std::ops::Range<u32> {
        0..self.replicas.len() as u32
    }

    pub(super) fn replica(&mut self, number: u32) -> &mut Replica {
        &mut self.replicas[number as usize]
    }

    /// Whether no router has a reservation left.
    pub(super) fn owes_nothing(&self) -> bool {
        let mut instances =
            self.replicas.iter().flat_map(|replica| replica.router.fleet().instances());
        instances.all(|instance| instance.load.requests == 0)
    }
}
