//! One instance with the requests that are placed on it and nobody else: as much of a cluster as decides their
//! TTFT, when requests are open-loop and nothing happens to the instance.
//!
//! The engine is kept as it was now and then. A lane whose requests change is simulated from the last such moment before
//! the change on.

use std::collections::BTreeMap;

use lodestar_router::{InstanceId, Time};
use lodestar_traces::{Arrival, Source, TraceRequest};

use crate::cluster::{ClusterConfig, Stuck};
use crate::content::PromptKeys;
use crate::engine::{Engine, EngineEvent, NewRequest};

/// What a request costs that does not finish, ns: more than any TTFT worth having.
pub(super) const UNFINISHED_NS: u64 = 3_600_000_000_000;
/// Engines kept of all lanes together, and of one lane, at most.
const KEPT_MAX: usize = 256;
const KEPT_OF_A_LANE_MAX: usize = 16;
/// How many later requests of an instance are looked at before a move is given up.
const MESSAGES_TO_SHOW: usize = 24;

/// What all lanes share.
pub(super) struct Lanes<'a> {
    config: &'a ClusterConfig,
    requests: &'a [TraceRequest],
    /// By block size, then by request.
    prompts: BTreeMap<u32, Vec<PromptKeys>>,
    /// When each request enters the waiting queue of its engine, wherever that is.
    due: Vec<Time>,
}

/// One instance and its requests.
pub(super) struct Lane {
    /// In the order in which they reach the engine.
    messages: Vec<usize>,
    /// Moments to start from, by number of messages; the first is the beginning.
    kept: Vec<Moment>,
}

/// An instance in the middle of its requests: it is about to get the next one.
#[derive(Clone)]
pub(super) struct Moment {
    engine: Engine,
    /// Messages it has got.
    next: usize,
    /// First tokens it has made.
    first_tokens: usize,
}

/// Where a simulation stops.
#[derive(Clone, Copy)]
pub(super) enum Stop {
    /// At the end.
    Never,
    /// Before the engine gets this message.
    Before(usize),
    /// When every request due by then has its first token.
    Served(Time),
}

impl<'a> Lanes<'a> {
    /// `None` when instances cannot be simulated one by one.
    pub(super) fn new(config: &'a ClusterConfig, requests: &'a [TraceRequest]) -> Option<Self> {
        if !config.plan.is_empty() {
            return None;
        }
        let to_engine = config.client_network + config.instance_network;
        let due = requests.iter().map(|request| match request.arrival {
            Arrival::At { ns } => {
                let tokens = request.prompt.iter().map(|span| span.tokens).sum();
                Some(Time::from_nanos(ns) + to_engine + config.api_server.delay(tokens))
            }
            Arrival::After { .. } => None,
        });
        let due = due.collect::<Option<Vec<Time>>>()?;
        let mut prompts = BTreeMap::new();
        for instance in &config.instances {
            let block_size = instance.engine.block_size;
            let keys = |request: &TraceRequest| {
                PromptKeys::new(&request.prompt, request.cache_salt, block_size)
            };
            prompts.entry(block_size).or_insert_with(|| requests.iter().map(keys).collect());
        }
        Some(Self { config, requests, prompts, due })
    }

    /// The requests placed on an instance, in the order in which they reach its engine.
    pub(super) fn messages(&self, placements: &[InstanceId], instance: InstanceId) -> Vec<usize> {
        let config = &self.config.instances[instance.0 as usize].engine;
        let prompts = &self.prompts[&config.block_size];
        let accepts = |&request: &usize| {
            let tokens = prompts[request].tokens;
            placements[request] == instance && 0 < tokens && tokens < config.max_model_len
        };
        let mut messages: Vec<usize> = (0..placements.len()).filter(accepts).collect();
        // Of two that arrive at one instant, the one that was sent first goes first.
        messages.sort_by_key(|&request| (self.due[request], self.sent(request), request));
        messages
    }

    fn sent(&self, request: usize) -> u64 {
        match self.requests[request].arrival {
            Arrival::At { ns } => ns,
            Arrival::After { .. } => unreachable!("lanes have open-loop requests only"),
        }
    }

    /// An instance with the requests placed on it; adds their costs.
    pub(super) fn start(
        &self,
        placements: &[InstanceId],
        instance: InstanceId,
        costs: &mut [u64],
    ) -> Result<Lane, Stuck> {
        let config = &self.config.instances[instance.0 as usize];
        let engine = Engine::new(config.engine.clone(), config.step_time.clone())
            .map_err(|error| Stuck::CannotStart { instance: config.name.clone(), error })?;
        let kept = vec![Moment { engine, next: 0, first_tokens: 0 }];
        let mut lane = Lane { messages: Vec::new(), kept };
        self.adopt(&mut lane, self.messages(placements, instance), costs);
        Ok(lane)
    }

    /// The last moment at which a lane is what it would be with these messages.
    pub(super) fn resume(&self, lane: &Lane, messages: &[usize]) -> Moment {
        let same = lane.messages.iter().zip(messages).take_while(|(old, new)| old == new).count();
        let is_early = |moment: &&Moment| {
            // What the engine did before it got its next message must not depend on the new one.
            let due = |messages: &[usize]| messages.get(same).map(|&request| self.due[request]);
            moment.next < same
                || moment.next == 0
                || (moment.next == same
                    && due(messages)
                        .is_none_or(|new| due(&lane.messages).is_some_and(|old| old <= new)))
        };
        let moment = lane.kept.iter().rev().find(is_early);
        moment.expect("the beginning is always early enough").clone()
    }

    /// Goes on from a moment and notes the costs of requests that get their first tokens.
    pub(super) fn advance(
        &self,
        messages: &[usize],
        moment: &mut Moment,
        stop: Stop,
        costs: &mut [u64],
    ) {
        let last = if let Stop::Before(message) = stop { message } else { usize::MAX };
        let horizon = if let Stop::Served(horizon) = stop { horizon } else { Time::MAX };
        let awaited = messages.partition_point(|&request| self.due[request] <= horizon);
        let mut events = Vec::new();
        let Moment { engine, next, first_tokens } = moment;
        let mut served = *first_tokens;
        while served < awaited || horizon == Time::MAX {
            let wakeup = engine.next_wakeup();
            if let Some(&request) = messages.get(*next)
                && wakeup.is_none_or(|wakeup| self.due[request] <= wakeup)
            {
                if *next == last {
                    return;
                }
                self.add(engine, request);
                *next += 1;
                continue;
            }
            let Some(now) = wakeup else { return };
            engine.wake(now, &mut events);
            for event in events.drain(..) {
                if let EngineEvent::FirstToken { handle, .. } = event {
                    let request = handle as usize;
                    costs[request] = self.cost(request, now);
                    *first_tokens += 1;
                    served += usize::from(self.due[request] <= horizon);
                }
            }
        }
    }

    /// Gives a lane other messages for good and simulates them to the end.
    pub(super) fn adopt(&self, lane: &mut Lane, messages: Vec<usize>, costs: &mut [u64]) {
        let mut moment = self.resume(lane, &messages);
        lane.kept.retain(|kept| kept.next <= moment.next);
        let kept_max = (KEPT_MAX / self.config.instances.len()).clamp(1, KEPT_OF_A_LANE_MAX);
        let every = messages.len().div_ceil(kept_max).max(1);
        loop {
            let stop = (moment.next + 1).next_multiple_of(every);
            if stop >= messages.len() {
                break;
            }
            self.advance(&messages, &mut moment, Stop::Before(stop), costs);
            lane.kept.push(moment.clone());
        }
        self.advance(&messages, &mut moment, Stop::Never, costs);
        lane.messages = messages;
    }

    /// A time by which a change up to `changed` should have shown its effect on these messages.
    pub(super) fn horizon(&self, messages: &[usize], changed: Time) -> Time {
        let after = messages.partition_point(|&request| self.due[request] <= changed);
        messages.get(after + MESSAGES_TO_SHOW).map_or(Time::MAX, |&request| self.due[request])
    }

    /// When a request reaches its engine.
    pub(super) fn due(&self, request: usize) -> Time {
        self.due[request]
    }

    fn add(&self, engine: &mut Engine, request: usize) {
        let block_size = engine.config().block_size;
        let TraceRequest { id, output_tokens, priority, .. } = self.requests[request];
        engine.add(
            self.due[request],
            NewRequest {
                handle: request as u32,
                prompt: self.prompts[&block_size][request].clone(),
                // Lanes are simulated once each: it would not pay to know.
                shared_tokens: u32::MAX,
                max_tokens: output_tokens,
                output: Source::Output(id),
                priority,
                tie_break: request as u32,
                skip_reading_prefix_cache: false,
            },
        );
    }

    /// TTFT at the client of a request whose first token the engine made at `at`, ns.
    fn cost(&self, request: usize, at: Time) -> u64 {
        let back = self.config.instance_network + self.config.client_network;
        ((at + back).as_nanos() - self.sent(request)).min(UNFINISHED_NS)
    }
}
