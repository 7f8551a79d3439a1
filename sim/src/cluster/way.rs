//! The way of a request: router, network, API server, engine, and its tokens' way back.

use lodestar_router::{Duration, Event as Fact, InstanceId, Request, RequestId, Time, Usage};
use lodestar_traces::{Arrival, Source, TraceRequest};

use super::clairvoyant::Foresight;
use super::event_queue::{Event, RequestIndex};
use super::members::Presence;
use super::run::Run;
use super::stuck::Stuck;
use crate::content::PromptKeys;
use crate::engine::{EngineEvent, NewRequest};
use crate::record::{Outcome, RequestRecord};

/// Steps of one engine without an output token after which a run is given up. A prompt of a million
/// tokens takes a thousand.
const STEPS_WITHOUT_OUTPUT_MAX: u32 = 100_000;

/// Who says where a request goes.
#[derive(Debug)]
pub(super) enum Placing<'a> {
    /// The routers.
    Router,
    /// A log: the instance of each request, by position in the cluster.
    Log(&'a [InstanceId]),
    /// Somebody who knows what no router knows.
    Foreseen(Box<Foresight>),
}

/// A request between router and engine.
#[derive(Debug)]
pub(super) struct Transit {
    /// When it is there, or when its router learns that it is not. An event at any other time belongs to an
    /// attempt that was given up.
    pub(super) due: Time,
    /// Cut into the engine's blocks.
    pub(super) prompt: PromptKeys,
}

/// The router's name for a request: its position in the trace.
pub(super) fn id_of(index: RequestIndex) -> RequestId {
    RequestId(u64::from(index))
}

impl Run<'_> {
    /// The client sends a closed-loop request at `at`.
    fn send(&mut self, index: RequestIndex, at: Time) {
        self.queue.push(at + self.config.client_network, Event::RequestAtRouter(index));
    }

    /// Tells the router of a request a fact and does what it then wants done.
    pub(super) fn tell(&mut self, index: RequestIndex, fact: &Fact<'_>) {
        self.tell_replica(self.front.replica_of(index), fact);
    }

    /// Tells every router a fact about an instance.
    pub(super) fn tell_all(&mut self, fact: &Fact<'_>) {
        for replica in self.front.numbers() {
            self.tell_replica(replica, fact);
        }
    }

    pub(super) fn tell_replica(&mut self, number: u32, fact: &Fact<'_>) {
        let replica = self.front.replica(number);
        replica.router.observe(self.now, fact);
        if let Some(job) = replica.router.training_job(self.now) {
            replica.trained.push_back(job.run());
            self.queue.push(self.now + self.config.training_delay, Event::ModelAtRouter(number));
        }
        if let Some(at) = replica.router.next_wakeup()
            && replica.timer.is_none_or(|pending| at < pending)
        {
            replica.timer = Some(at);
            self.queue.push(at, Event::RouterTimer(number));
        }
    }

    /// What a router gave out for training is back.
    pub(super) fn install(&mut self, number: u32) {
        let replica = self.front.replica(number);
        let model = replica.trained.pop_front().expect("an event for each model");
        replica.router.install(self.now, model);
    }

    pub(super) fn router_timer(&mut self, replica: u32) {
        self.deliver_kv_events();
        self.front.replica(replica).timer = None;
        self.tell_replica(replica, &Fact::Timer);
    }

    /// A request stands at the router's door: decide where it goes, and send it there.
    pub(super) fn route(&mut self, index: RequestIndex) {
        let request = &self.requests[index as usize];
        let prompt = PromptKeys::new(&request.prompt, request.cache_salt, self.block_tokens);
        let mut record = match self.records[index as usize].take() {
            None => self.unrouted(request, prompt.tokens),
            Some(earlier) => {
                RequestRecord { ended: self.now + self.config.client_network, ..earlier }
            }
        };
        match &self.placing {
            Placing::Router => self.ask_router(index, &prompt, &mut record),
            Placing::Log(placements) => {
                let member = self.member_at(placements[index as usize].0 as usize);
                record.instance = member.map(InstanceId);
            }
            Placing::Foreseen(_) => record.instance = self.foresee(index, &prompt),
        }
        let Some(instance) = record.instance else {
            self.records[index as usize] = Some(record);
            self.end(index);
            return;
        };
        self.dispatch(index, instance, prompt, &mut record);
        self.records[index as usize] = Some(record);
        self.tell(index, &Fact::Dispatched { request: id_of(index) });
    }

    /// The record of a request that has just arrived: if nothing better happens, nobody takes it.
    fn unrouted(&self, request: &TraceRequest, prompt_tokens: u32) -> RequestRecord {
        RequestRecord {
            request: request.id,
            outcome: Outcome::RejectedByRouter,
            instance: None,
            reason: None,
            arrival: Time::from_nanos(self.now.as_nanos() - self.config.client_network.as_nanos()),
            queued: None,
            scheduled: None,
            first_token_engine: None,
            first_token: None,
            ended: self.now + self.config.client_network,
            itl_max: Duration::ZERO,
            prompt_tokens,
            cached_tokens: 0,
            predicted_cached_tokens: 0,
            predicted_ttft: None,
            output_tokens: 0,
            preemptions: 0,
            retries: 0,
        }
    }

    fn ask_router(&mut self, index: RequestIndex, prompt: &PromptKeys, record: &mut RequestRecord) {
        self.deliver_kv_events();
        let request = &self.requests[index as usize];
        let replica = self.front.replica_of(index);
        let decision = self.front.replica(replica).router.route(
            self.now,
            &Request {
                id: id_of(index),
                prompt_tokens: prompt.tokens,
                block_hashes: &prompt.keys,
                session: request.session,
                priority: request.priority,
            },
        );
        let Ok(decision) = decision else { return };
        record.instance = Some(decision.instance);
        record.reason = Some(decision.reason);
        record.predicted_cached_tokens = decision.prefix_hit_tokens;
        record.predicted_ttft = decision
            .candidates
            .iter()
            .find(|candidate| candidate.instance == decision.instance)
            .and_then(|candidate| candidate.predicted_ttft);
    }

    /// Sends a request to a member, which may not be there any more, or whose API server may refuse it.
    fn dispatch(
        &mut self,
        index: RequestIndex,
        instance: InstanceId,
        prompt: PromptKeys,
        record: &mut RequestRecord,
    ) {
        let request = &self.requests[index as usize];
        let member = &mut self.members[instance.0 as usize];
        let network = self.config.instance_network;
        if !member.is_alive() {
            let due = self.now + network + network;
            self.in_transit.insert(index, Transit { due, prompt });
            self.queue.push(due, Event::DispatchFailedAtRouter(index));
            return;
        }
        let due = self.now + network + self.config.api_server.delay(prompt.tokens);
        if member.engine.accepts(prompt.tokens) {
            member.open_requests += 1;
            let block_size = member.engine.config().block_size;
            let prompt = if block_size == self.block_tokens {
                prompt
            } else {
                PromptKeys::new(&request.prompt, request.cache_salt, block_size)
            };
            self.in_transit.insert(index, Transit { due, prompt });
            self.queue.push(due, Event::RequestAtEngine(index));
        } else {
            record.outcome = Outcome::RejectedByEngine;
            self.queue.push(due + network, Event::EndAtRouter(index));
        }
    }

    /// The transit of a request that is due now; `None` if the event belongs to an earlier attempt.
    fn arrive(&mut self, index: RequestIndex) -> Option<Transit> {
        let due = self.in_transit.get(&index)?.due;
        if due == self.now { self.in_transit.remove(&index) } else { None }
    }

    /// A router hears that the member is not there.
    pub(super) fn dispatch_failed(&mut self, index: RequestIndex) {
        if self.arrive(index).is_some() {
            self.tell(index, &Fact::DispatchFailed { request: id_of(index) });
            self.route_again(index, self.now + self.config.retry_delay);
        }
    }

    /// Forgets an attempt that failed and makes the next one at `at`.
    pub(super) fn route_again(&mut self, index: RequestIndex, at: Time) {
        self.in_transit.remove(&index);
        let record = self.records[index as usize].as_mut().expect("routed before");
        assert!(record.first_token.is_none(), "its client has read nothing yet");
        *record = RequestRecord {
            instance: None,
            reason: None,
            queued: None,
            predicted_cached_tokens: 0,
            predicted_ttft: None,
            retries: record.retries + 1,
            ..*record
        };
        self.queue.push(at, Event::RequestAtRouter(index));
    }

    pub(super) fn enter_engine(&mut self, index: RequestIndex) {
        let Some(Transit { prompt, .. }) = self.arrive(index) else { return };
        let request = &self.requests[index as usize];
        let record = self.records[index as usize].as_mut().expect("a routed request has a record");
        let id = record.instance.expect("a routed request has an instance").0;
        let member = &mut self.members[id as usize];
        if !member.is_alive() {
            return; // it died on the way; its router is told with all others
        }
        record.queued = Some(self.now);
        member.engine.add(
            self.now,
            NewRequest {
                handle: index,
                prompt,
                shared_tokens: self.shared_tokens[index as usize],
                max_tokens: request.output_tokens,
                output: Source::Output(request.id),
                priority: request.priority,
                tie_break: index,
                skip_reading_prefix_cache: false,
            },
        );
        self.schedule_wakeup(id);
    }

    /// Puts the next wake-up of an engine into the queue, unless it is there.
    pub(super) fn schedule_wakeup(&mut self, id: u32) {
        let member = &mut self.members[id as usize];
        let at = member.engine.next_wakeup();
        if member.wakeup != at {
            member.wakeup = at;
            if let Some(at) = at {
                self.queue.push(at, Event::EngineWakeup(id));
            }
        }
    }

    /// Lets an engine do what is due, and goes on as long as it would be the next one anyway.
    pub(super) fn wake(&mut self, id: u32) -> Result<(), Stuck> {
        if self.members[id as usize].wakeup != Some(self.now) {
            return Ok(()); // superseded
        }
        self.members[id as usize].wakeup = None;
        let mut events = std::mem::take(&mut self.engine_events);
        loop {
            let engine = &mut self.members[id as usize].engine;
            engine.wake(self.now, &mut events);
            let again = engine.next_wakeup() == Some(self.now);
            if engine.steps_without_output() > STEPS_WITHOUT_OUTPUT_MAX {
                return Err(self.no_output(id));
            }
            for event in events.drain(..) {
                self.engine_says(id, event);
            }
            if !again || !self.queue.would_be_next(self.now, id) {
                break;
            }
        }
        self.engine_events = events;
        if self.members[id as usize].presence == Presence::Draining {
            self.leave_if_drained(id);
        }
        self.schedule_wakeup(id);
        Ok(())
    }

    fn engine_says(&mut self, id: u32, event: EngineEvent) {
        let at_router = self.now + self.config.instance_network;
        let at_client = at_router + self.config.client_network;
        match event {
            EngineEvent::FirstToken { handle, cached_tokens, scheduled_at } => {
                let record = self.records[handle as usize].as_mut().expect("routed");
                record.scheduled = Some(scheduled_at);
                record.first_token_engine = Some(self.now);
                record.first_token = Some(at_client);
                record.cached_tokens = cached_tokens;
                if !self.router_is_deaf || self.on_log.is_some() {
                    self.queue.push(at_router, Event::FirstTokenAtRouter(handle));
                }
            }
            EngineEvent::Finished { handle, output_tokens, preemptions, itl_max } => {
                let record = self.records[handle as usize].as_mut().expect("routed");
                record.outcome = Outcome::Finished;
                record.ended = at_client;
                record.output_tokens = output_tokens;
                record.preemptions = preemptions;
                record.itl_max = itl_max;
                self.members[id as usize].open_requests -= 1;
                self.queue.push(at_router, Event::EndAtRouter(handle));
            }
            EngineEvent::Aborted { .. } => unreachable!("no client of the simulation gives up"),
        }
    }

    pub(super) fn first_token_at_router(&mut self, index: RequestIndex) {
        self.tell(index, &Fact::FirstToken { request: id_of(index) });
    }

    pub(super) fn end_at_router(&mut self, index: RequestIndex) {
        let record = self.records[index as usize].as_mut().expect("routed");
        let request = id_of(index);
        let fact = if record.outcome == Outcome::Finished {
            let usage = Usage {
                prompt_tokens: record.prompt_tokens,
                cached_tokens: Some(record.cached_tokens),
                output_tokens: record.output_tokens,
            };
            Fact::Finished { request, usage }
        } else {
            record.ended = self.now + self.config.client_network;
            Fact::Aborted { request }
        };
        self.tell(index, &fact);
        self.end(index);
    }

    /// A request has ended; those that waited for it are sent after their delay.
    pub(super) fn end(&mut self, index: RequestIndex) {
        self.unfinished -= 1;
        let ended =
            self.records[index as usize].as_ref().expect("an ended request has a record").ended;
        for child in self.children.remove(&self.requests[index as usize].id).unwrap_or_default() {
            if let Arrival::After { delay_ns, .. } = self.requests[child as usize].arrival {
                self.send(child, ended + Duration::from_nanos(delay_ns));
            }
        }
    }

    fn no_output(&self, id: u32) -> Stuck {
        let member = &self.members[id as usize];
        let engine = &member.engine;
        let head = engine.head_of_queue().expect("an engine that turns has requests");
        Stuck::NoOutput {
            now: self.now,
            instance: self.config.instances[member.instance].name.clone(),
            steps: engine.steps_without_output(),
            request: self.requests[head as usize].id,
            free_blocks: engine.free_blocks(),
            num_blocks: engine.config().num_blocks,
            rule: "admission in queue order, preemption of the last admitted",
        }
    }
}
