//! One instance with the requests that are placed on it and nobody else: as much of a cluster as decides their
//! TTFT, when requests are open-loop.
//!
//! The engine is kept as it was now and then. A lane whose requests change is simulated from the last such moment before
//! the change on.

use std::collections::BTreeMap;

use lodestar_router::{InstanceId, Time};
use lodestar_traces::{Arrival, Source, TraceRequest};

use super::fate::{Fate, Turn};
use crate::cluster::{ClusterConfig, Stuck, step_time_at};
use crate::content::PromptKeys;
use crate::engine::{Engine, EngineEvent, NewRequest};
use crate::sharing::shared_tokens;

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
    /// How much content of each may be that of another one, wherever they are.
    shared_tokens: Vec<u32>,
    /// When each request enters the waiting queue of its engine, wherever that is.
    due: Vec<Time>,
    /// What happens to each instance.
    fates: Vec<Fate>,
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
    instance: InstanceId,
    engine: Engine,
    /// Messages it has got.
    next: usize,
    /// Messages of which the first token is there, or will never be.
    served: usize,
    /// Things that have happened to it.
    turns: usize,
    /// Requests that it would lose in a crash, and what they cost if it does not.
    open: BTreeMap<u32, u64>,
}

impl Moment {
    /// Messages it has got.
    pub(super) fn messages(&self) -> usize {
        self.next
    }
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
        let fates = (0..config.instances.len()).map(|instance| Fate::of(config, instance));
        let fates = fates.collect::<Option<Vec<Fate>>>()?;
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
        let content =
            requests.iter().map(|request| (request.prompt.as_slice(), Source::Output(request.id)));
        let shared_tokens = shared_tokens(content);
        Some(Self { config, requests, prompts, shared_tokens, due, fates })
    }

    /// The requests placed on an instance, in the order in which they reach its engine.
    pub(super) fn messages(&self, placements: &[InstanceId], instance: InstanceId) -> Vec<usize> {
        let config = &self.config.instances[instance.0 as usize].engine;
        let prompts = &self.prompts[&config.block_size];
        let fate = &self.fates[instance.0 as usize];
        let accepts = |&request: &usize| {
            let tokens = prompts[request].tokens;
            let routed = Time::from_nanos(self.sent(request)) + self.config.client_network;
            placements[request] == instance
                && 0 < tokens
                && tokens < config.max_model_len
                && fate.takes(routed, self.due[request])
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
        let engine = self.engine(instance)?;
        let open = BTreeMap::new();
        let kept = vec![Moment { instance, engine, next: 0, served: 0, turns: 0, open }];
        let mut lane = Lane { messages: Vec::new(), kept };
        self.adopt(&mut lane, self.messages(placements, instance), costs);
        Ok(lane)
    }

    fn engine(&self, instance: InstanceId) -> Result<Engine, Stuck> {
        let config = &self.config.instances[instance.0 as usize];
        Engine::new(config.engine.clone(), config.step_time.clone())
            .map_err(|error| Stuck::CannotStart { instance: config.name.clone(), error })
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
        let turns = &self.fates[moment.instance.0 as usize].turns;
        let mut events = Vec::new();
        let mut served = moment.served.min(awaited);
        while served < awaited || horizon == Time::MAX {
            let wakeup = moment.engine.next_wakeup();
            let message = messages.get(moment.next).copied();
            let due = message.map(|request| self.due[request]);
            if let Some(&(at, turn)) = turns.get(moment.turns)
                && [due, wakeup].into_iter().flatten().all(|other| at <= other)
            {
                self.turn(moment, at, turn, costs);
                served = served.max(moment.served.min(awaited));
                continue;
            }
            if let (Some(request), Some(due)) = (message, due)
                && wakeup.is_none_or(|wakeup| due <= wakeup)
            {
                if moment.next == last {
                    return;
                }
                self.add(&mut moment.engine, request);
                moment.open.insert(request as u32, UNFINISHED_NS);
                moment.next += 1;
                continue;
            }
            let Some(now) = wakeup else { return };
            moment.engine.wake(now, &mut events);
            for event in events.drain(..) {
                match event {
                    EngineEvent::FirstToken { handle, .. } => {
                        let request = handle as usize;
                        costs[request] = self.cost(request, now);
                        moment.open.insert(handle, costs[request]);
                        moment.served += 1;
                        served += usize::from(self.due[request] <= horizon);
                    }
                    EngineEvent::Finished { handle, .. } => {
                        // With the requests that it had before, it might not have ended in time.
                        costs[handle as usize] = moment.open.remove(&handle).expect("it was open");
                    }
                    EngineEvent::Aborted { .. } => unreachable!("nobody gives up"),
                }
            }
        }
    }

    /// Something happens to the instance.
    fn turn(&self, moment: &mut Moment, at: Time, turn: Turn, costs: &mut [u64]) {
        if turn == Turn::Crash {
            for request in std::mem::take(&mut moment.open).into_keys() {
                costs[request as usize] = UNFINISHED_NS;
            }
            moment.served = moment.next;
            moment.engine = self.engine(moment.instance).expect("it has started before");
        }
        let step_time = step_time_at(self.config, moment.instance.0 as usize, at);
        moment.engine.set_step_time(at, step_time);
        moment.turns += 1;
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
                shared_tokens: self.shared_tokens[request],
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
