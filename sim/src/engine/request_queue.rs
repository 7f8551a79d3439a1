//! The waiting queue. Mirrors `vllm/v1/core/sched/request_queue.py`.

use std::collections::{BTreeSet, VecDeque};

use lodestar_router::Time;

use super::config::SchedulingPolicy;
use super::request::Request;

/// Index of a request in the scheduler's table.
pub(crate) type Slot = u32;

/// Order of the priority queue: `(priority, arrival_time, request_id)`.
type Rank = (i32, Time, u32, Slot);

#[derive(Clone, Debug)]
pub(crate) enum RequestQueue {
    Fcfs(VecDeque<Slot>),
    /// A sorted set: vLLM's heap pops in the same order, since no two ranks are equal.
    Priority(BTreeSet<Rank>),
}

impl RequestQueue {
    pub(crate) const fn new(policy: SchedulingPolicy) -> Self {
        match policy {
            SchedulingPolicy::Fcfs => Self::Fcfs(VecDeque::new()),
            SchedulingPolicy::Priority => Self::Priority(BTreeSet::new()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Fcfs(queue) => queue.len(),
            Self::Priority(queue) => queue.len(),
        }
    }

    pub(crate) fn peek(&self) -> Option<Slot> {
        match self {
            Self::Fcfs(queue) => queue.front().copied(),
            Self::Priority(queue) => queue.first().map(|rank| rank.3),
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Slot> {
        match self {
            Self::Fcfs(queue) => queue.pop_front(),
            Self::Priority(queue) => queue.pop_first().map(|rank| rank.3),
        }
    }

    /// A new request: behind all others, or where its rank says.
    pub(crate) fn push(&mut self, slot: Slot, request: &Request) {
        match self {
            Self::Fcfs(queue) => queue.push_back(slot),
            Self::Priority(queue) => assert!(queue.insert(rank(slot, request)), "queued once"),
        }
    }

    /// A preempted or set-aside request: before all others, or where its rank says.
    pub(crate) fn push_front(&mut self, slot: Slot, request: &Request) {
        match self {
            Self::Fcfs(queue) => queue.push_front(slot),
            Self::Priority(queue) => assert!(queue.insert(rank(slot, request)), "queued once"),
        }
    }

    pub(crate) fn remove(&mut self, slot: Slot, request: &Request) {
        let found = match self {
            Self::Fcfs(queue) => queue
                .iter()
                .position(|&other| other == slot)
                .and_then(|at| queue.remove(at))
                .is_some(),
            Self::Priority(queue) => queue.remove(&rank(slot, request)),
        };
        assert!(found, "only queued requests are removed");
    }
}

const fn rank(slot: Slot, request: &Request) -> Rank {
    (request.ticket.priority, request.ticket.arrival, request.ticket.tie_break, slot)
}
