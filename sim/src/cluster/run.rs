//! The simulation loop: pop an event, advance the clock, one match.

use hashbrown::HashMap;
use lodestar_router::{
    Duration, Event as Fact, InstanceId, InstanceMetrics, InstanceSpec, PolicyConfig, Request,
    RequestId, Router, RouterConfig, Scraped, Time, Usage,
};
use lodestar_traces::{Arrival, Source, TraceRequest};
use rustc_hash::FxBuildHasher;

use super::config::{ClusterConfig, InstanceConfig};
use super::event_queue::{Event, EventQueue, RequestIndex};
use super::stuck::Stuck;
use super::timeline::Timeline;
use crate::content::PromptKeys;
use crate::engine::{Engine, EngineEvent, NewRequest};
use crate::record::{IntervalRecord, Outcome, RequestRecord};
use crate::sharing::shared_tokens;

/// Steps of one engine without an output token after which a run is given up. A prompt of a million
/// tokens takes a thousand.
const STEPS_WITHOUT_OUTPUT_MAX: u32 = 100_000;
/// How often progress is reported, in requests ended.
const PROGRESS_EVERY: u64 = 64;

/// Everything a run leaves behind.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOutput {
    /// One record a request, in the order of the trace.
    pub requests: Vec<RequestRecord>,
    /// One record an instance and interval, by time, then by instance.
    pub intervals: Vec<IntervalRecord>,
    /// When the last request ended.
    pub end: Time,
    /// Steps of all engines.
    pub steps: u64,
}

/// Simulates `requests` on a cluster behind a router with this configuration and seed.
///
/// `on_progress` hears now and then how many requests have ended.
///
/// # Errors
/// When an instance cannot start or the run cannot end. There is no partial result.
pub fn simulate(
    config: &ClusterConfig,
    requests: &[TraceRequest],
    router: RouterConfig,
    seed: u64,
    on_progress: &mut dyn FnMut(u64),
) -> Result<RunOutput, Stuck> {
    run(Run::new(config, requests, router, seed)?, on_progress)
}

/// Simulates `requests` on a cluster without a router: each request goes where a log says that it went.
///
/// # Errors
/// As [`simulate`].
///
/// # Panics
/// When `placements` is not one instance of the cluster for each request.
pub fn simulate_placed(
    config: &ClusterConfig,
    requests: &[TraceRequest],
    placements: &[InstanceId],
    on_progress: &mut dyn FnMut(u64),
) -> Result<RunOutput, Stuck> {
    assert_eq!(placements.len(), requests.len(), "one placement a request");
    assert!(placements.iter().all(|placement| (placement.0 as usize) < config.instances.len()));
    // The router is told everything and asked nothing.
    let unasked = RouterConfig::new(PolicyConfig::RoundRobin);
    run(
        Run { placements: Some(placements), ..Run::new(config, requests, unasked, 0)? },
        on_progress,
    )
}

fn run(mut run: Run<'_>, on_progress: &mut dyn FnMut(u64)) -> Result<RunOutput, Stuck> {
    let requests = run.requests;
    let mut reported = 0;
    while run.unfinished > 0 {
        if !run.queue.is_moving() {
            return Err(run.never_sent());
        }
        let Some((at, event)) = run.queue.pop() else { return Err(run.never_sent()) };
        assert!(at >= run.now, "the clock never goes back");
        run.now = at;
        run.handle(event)?;
        let ended = requests.len() as u64 - run.unfinished;
        if ended >= reported + PROGRESS_EVERY {
            reported = ended;
            on_progress(ended);
        }
    }
    on_progress(requests.len() as u64);
    Ok(run.finish())
}

struct Run<'a> {
    config: &'a ClusterConfig,
    requests: &'a [TraceRequest],
    router: Router,
    /// Where each request goes, if that is not for the router to decide.
    placements: Option<&'a [InstanceId]>,
    block_tokens: u32,
    engines: Vec<Engine>,
    /// The wake-up of each engine that is in the queue. An engine that is interrupted asks for an earlier
    /// one; the later one is then ignored when it comes.
    wakeups: Vec<Option<Time>>,
    queue: EventQueue,
    now: Time,
    /// Requests that have not ended.
    unfinished: u64,
    /// By request, how much content it may share with another.
    shared_tokens: Vec<u32>,
    /// Closed-loop requests by the request they wait for.
    children: HashMap<u64, Vec<RequestIndex>, FxBuildHasher>,
    /// By request; `None` until the request reaches the router.
    records: Vec<Option<RequestRecord>>,
    /// Prompts between router and engine.
    in_transit: HashMap<RequestIndex, PromptKeys, FxBuildHasher>,
    /// The scrape on its way to the router.
    scraped: Vec<Scraped>,
    /// Time between two scrapes; `None` if the router looks at no metrics.
    scrape_period: Option<Duration>,
    timeline: Timeline,
    /// The router wake-up that is in the queue.
    router_timer: Option<Time>,
    /// Reused.
    engine_events: Vec<EngineEvent>,
}

impl<'a> Run<'a> {
    fn new(
        config: &'a ClusterConfig,
        requests: &'a [TraceRequest],
        router: RouterConfig,
        seed: u64,
    ) -> Result<Self, Stuck> {
        if config.instances.is_empty() {
            return Err(Stuck::NoInstances);
        }
        let block_tokens = router.block_tokens;
        let scrape_period = router.scrape_period();
        let engines = config.instances.iter().map(|instance| start(instance, config.step_by_step));
        let engines = engines.collect::<Result<Vec<_>, _>>()?;
        let open_loop = (0..).zip(requests).filter_map(|(index, request)| match request.arrival {
            Arrival::At { ns } => {
                let at = Time::from_nanos(ns) + config.client_network;
                Some((at, Event::RequestAtRouter(index)))
            }
            Arrival::After { .. } => None,
        });
        let content =
            requests.iter().map(|request| (request.prompt.as_slice(), Source::Output(request.id)));
        let mut run = Self {
            config,
            requests,
            router: Router::new(router, seed),
            placements: None,
            block_tokens,
            timeline: Timeline::new(engines.len()),
            wakeups: vec![None; engines.len()],
            engines,
            queue: EventQueue::new(open_loop),
            now: Time::ZERO,
            unfinished: requests.len() as u64,
            shared_tokens: if config.step_by_step {
                vec![u32::MAX; requests.len()]
            } else {
                shared_tokens(content)
            },
            children: HashMap::default(),
            records: vec![None; requests.len()],
            in_transit: HashMap::default(),
            scraped: Vec::new(),
            scrape_period: scrape_period.map(|period| config.scrape_interval.unwrap_or(period)),
            router_timer: None,
            engine_events: Vec::new(),
        };
        for (id, instance) in (0..).zip(&config.instances) {
            let engine = &instance.engine;
            let usable_blocks = u64::from(engine.num_blocks - 1);
            let spec = InstanceSpec {
                kv_capacity_tokens: usable_blocks * u64::from(engine.block_size),
                max_model_len_tokens: engine.max_model_len,
            };
            run.router
                .observe(Time::ZERO, &Fact::InstanceJoined { instance: InstanceId(id), spec });
        }
        for (index, request) in (0..).zip(requests) {
            if let Arrival::After { request, .. } = request.arrival {
                run.children.entry(request).or_default().push(index);
            }
        }
        if run.scrape_period.is_some() {
            run.queue.push(Time::ZERO, Event::Scrape);
        }
        run.queue.push(Time::ZERO + config.record_interval, Event::Record);
        Ok(run)
    }

    fn handle(&mut self, event: Event) -> Result<(), Stuck> {
        match event {
            Event::RequestAtRouter(index) => self.route(index),
            Event::RequestAtEngine(index) => self.enter_engine(index),
            Event::EngineWakeup(instance) => self.wake(instance)?,
            Event::FirstTokenAtRouter(index) => {
                self.tell(&Fact::FirstToken { request: id_of(index) });
            }
            Event::EndAtRouter(index) => self.end_at_router(index),
            Event::Scrape => self.scrape(),
            Event::MetricsAtRouter => self.deliver_metrics(),
            Event::RouterTimer => {
                self.router_timer = None;
                self.tell(&Fact::Timer);
            }
            Event::Record => {
                self.settle();
                self.timeline.record(self.now, &self.engines);
                let next = self.next_observation(self.config.record_interval);
                self.queue.push(next, Event::Record);
            }
        }
        Ok(())
    }

    /// The client sends a closed-loop request at `at`.
    fn send(&mut self, index: RequestIndex, at: Time) {
        self.queue.push(at + self.config.client_network, Event::RequestAtRouter(index));
    }

    /// Tells the router a fact and does what it then wants done.
    fn tell(&mut self, fact: &Fact<'_>) {
        self.router.observe(self.now, fact);
        if let Some(job) = self.router.training_job() {
            match job {}
        }
        if let Some(at) = self.router.next_wakeup()
            && self.router_timer.is_none_or(|pending| at < pending)
        {
            self.router_timer = Some(at);
            self.queue.push(at, Event::RouterTimer);
        }
    }

    /// A request stands at the router's door: decide where it goes, and send it there.
    fn route(&mut self, index: RequestIndex) {
        let request = &self.requests[index as usize];
        let prompt = PromptKeys::new(&request.prompt, request.cache_salt, self.block_tokens);
        let mut record = self.unrouted(request, prompt.tokens);
        match self.placements {
            Some(placements) => record.instance = Some(placements[index as usize]),
            None => self.ask_router(index, &prompt, &mut record),
        }
        let Some(instance) = record.instance else {
            self.records[index as usize] = Some(record);
            self.end(index);
            return;
        };
        self.dispatch(index, instance, prompt, &mut record);
        self.records[index as usize] = Some(record);
        self.tell(&Fact::Dispatched { request: id_of(index) });
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
        }
    }

    fn ask_router(&mut self, index: RequestIndex, prompt: &PromptKeys, record: &mut RequestRecord) {
        let request = &self.requests[index as usize];
        let decision = self.router.route(
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

    /// Sends a request to an instance, whose API server may refuse it.
    fn dispatch(
        &mut self,
        index: RequestIndex,
        instance: InstanceId,
        prompt: PromptKeys,
        record: &mut RequestRecord,
    ) {
        let request = &self.requests[index as usize];
        let engine = &self.engines[instance.0 as usize];
        let at =
            self.now + self.config.instance_network + self.config.api_server.delay(prompt.tokens);
        if engine.accepts(prompt.tokens) {
            let block_size = engine.config().block_size;
            let prompt = if block_size == self.block_tokens {
                prompt
            } else {
                PromptKeys::new(&request.prompt, request.cache_salt, block_size)
            };
            self.in_transit.insert(index, prompt);
            self.queue.push(at, Event::RequestAtEngine(index));
        } else {
            record.outcome = Outcome::RejectedByEngine;
            self.queue.push(at + self.config.instance_network, Event::EndAtRouter(index));
        }
    }

    fn enter_engine(&mut self, index: RequestIndex) {
        let prompt = self.in_transit.remove(&index).expect("a request in transit has its prompt");
        let request = &self.requests[index as usize];
        let record = self.records[index as usize].as_mut().expect("a routed request has a record");
        record.queued = Some(self.now);
        let instance = record.instance.expect("a routed request has an instance").0;
        let engine = &mut self.engines[instance as usize];
        engine.add(
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
        self.schedule_wakeup(instance);
    }

    /// Puts the next wake-up of an engine into the queue, unless it is there.
    fn schedule_wakeup(&mut self, instance: u32) {
        let at = self.engines[instance as usize].next_wakeup();
        let queued = &mut self.wakeups[instance as usize];
        if *queued != at {
            *queued = at;
            if let Some(at) = at {
                self.queue.push(at, Event::EngineWakeup(instance));
            }
        }
    }

    /// Brings every engine's state up to now, for an observer.
    fn settle(&mut self) {
        for engine in &mut self.engines {
            engine.settle(self.now);
        }
    }

    /// Lets an engine do what is due, and goes on as long as it would be the next one anyway.
    fn wake(&mut self, instance: u32) -> Result<(), Stuck> {
        if self.wakeups[instance as usize] != Some(self.now) {
            return Ok(()); // superseded
        }
        self.wakeups[instance as usize] = None;
        let mut events = std::mem::take(&mut self.engine_events);
        loop {
            let engine = &mut self.engines[instance as usize];
            engine.wake(self.now, &mut events);
            let again = engine.next_wakeup() == Some(self.now);
            if engine.steps_without_output() > STEPS_WITHOUT_OUTPUT_MAX {
                return Err(self.no_output(instance));
            }
            for event in events.drain(..) {
                self.engine_says(event);
            }
            if !again || !self.queue.would_be_next(self.now, Event::EngineWakeup(instance)) {
                break;
            }
        }
        self.schedule_wakeup(instance);
        self.engine_events = events;
        Ok(())
    }

    fn engine_says(&mut self, event: EngineEvent) {
        let at_router = self.now + self.config.instance_network;
        let at_client = at_router + self.config.client_network;
        match event {
            EngineEvent::FirstToken { handle, cached_tokens, scheduled_at } => {
                let record = self.records[handle as usize].as_mut().expect("routed");
                record.scheduled = Some(scheduled_at);
                record.first_token_engine = Some(self.now);
                record.first_token = Some(at_client);
                record.cached_tokens = cached_tokens;
                self.queue.push(at_router, Event::FirstTokenAtRouter(handle));
            }
            EngineEvent::Finished { handle, output_tokens, preemptions, itl_max } => {
                let record = self.records[handle as usize].as_mut().expect("routed");
                record.outcome = Outcome::Finished;
                record.ended = at_client;
                record.output_tokens = output_tokens;
                record.preemptions = preemptions;
                record.itl_max = itl_max;
                self.queue.push(at_router, Event::EndAtRouter(handle));
            }
            EngineEvent::Aborted { .. } => unreachable!("no client of the simulation gives up"),
        }
    }

    fn end_at_router(&mut self, index: RequestIndex) {
        let record = self.records[index as usize].as_mut().expect("routed");
        let request = id_of(index);
        let fact = if record.outcome == Outcome::Finished {
            let usage = Usage {
                prompt_tokens: record.prompt_tokens,
                cached_tokens: record.cached_tokens,
                output_tokens: record.output_tokens,
            };
            Fact::Finished { request, usage }
        } else {
            record.ended = self.now + self.config.client_network;
            Fact::Aborted { request }
        };
        self.tell(&fact);
        self.end(index);
    }

    /// A request has ended; those that waited for it are sent after their delay.
    fn end(&mut self, index: RequestIndex) {
        self.unfinished -= 1;
        let ended =
            self.records[index as usize].as_ref().expect("an ended request has a record").ended;
        for child in self.children.remove(&self.requests[index as usize].id).unwrap_or_default() {
            if let Arrival::After { delay_ns, .. } = self.requests[child as usize].arrival {
                self.send(child, ended + Duration::from_nanos(delay_ns));
            }
        }
    }

    fn scrape(&mut self) {
        self.settle();
        self.scraped.clear();
        for engine in &self.engines {
            let metrics = InstanceMetrics {
                running_requests: engine.running_requests(),
                waiting_requests: engine.waiting_requests(),
                kv_usage: engine.kv_usage(),
                preemptions: engine.counters().preemptions,
            };
            self.scraped.push(Scraped { at: self.now, metrics });
        }
        self.queue.push(self.now + self.config.instance_network, Event::MetricsAtRouter);
        if let Some(period) = self.scrape_period {
            self.queue.push(self.next_observation(period), Event::Scrape);
        }
    }

    /// When an observer that looks every `interval` looks again: after one interval or, as long as nothing
    /// can be seen to change, at the last moment before it can. A trace with a gap of a year would otherwise
    /// be spent looking at idle engines.
    fn next_observation(&self, interval: Duration) -> Time {
        let next = self.now + interval;
        let is_idle =
            |engine: &Engine| engine.running_requests() == 0 && engine.waiting_requests() == 0;
        if !self.engines.iter().all(is_idle) {
            return next;
        }
        let Some(change) = self.queue.next_move() else { return next };
        let gap_ns = (change - self.now).as_nanos();
        let intervals = gap_ns.saturating_sub(1) / interval.as_nanos();
        next.max(self.now + Duration::from_nanos(intervals * interval.as_nanos()))
    }

    fn deliver_metrics(&mut self) {
        let scraped = std::mem::take(&mut self.scraped);
        for (id, &scraped) in (0..).zip(&scraped) {
            self.tell(&Fact::MetricsScraped { instance: InstanceId(id), scraped });
        }
        self.scraped = scraped;
    }

    fn never_sent(&self) -> Stuck {
        let waiting = self.records.iter().position(Option::is_none);
        let request = &self.requests[waiting.expect("a request that was sent ends")];
        let Arrival::After { request: parent, .. } = request.arrival else {
            unreachable!("open-loop requests are in the queue")
        };
        Stuck::NeverSent { now: self.now, request: request.id, parent }
    }

    fn no_output(&self, instance: u32) -> Stuck {
        let engine = &self.engines[instance as usize];
        let head = engine.head_of_queue().expect("an engine that turns has requests");
        Stuck::NoOutput {
            now: self.now,
            instance: self.config.instances[instance as usize].name.clone(),
            steps: engine.steps_without_output(),
            request: self.requests[head as usize].id,
            free_blocks: engine.free_blocks(),
            num_blocks: engine.config().num_blocks,
            rule: "admission in queue order, preemption of the last admitted",
        }
    }

    fn finish(mut self) -> RunOutput {
        self.settle();
        let records: Vec<RequestRecord> =
            self.records.into_iter().map(|record| record.expect("every request ended")).collect();
        let end = records.iter().map(|record| record.ended).max().unwrap_or(Time::ZERO);
        self.timeline.record(self.now, &self.engines);
        debug_assert!(
            self.router.fleet().instances().iter().all(|instance| instance.load.requests == 0),
            "no reservation outlives its request"
        );
        RunOutput {
            requests: records,
            intervals: self.timeline.into_intervals(),
            end,
            steps: self.engines.iter().map(|engine| engine.counters().steps).sum(),
        }
    }
}

fn start(instance: &InstanceConfig, step_by_step: bool) -> Result<Engine, Stuck> {
    let engine = Engine::new(instance.engine.clone(), instance.step_time.clone())
        .map_err(|error| Stuck::CannotStart { instance: instance.name.clone(), error })?;
    Ok(if step_by_step { engine.step_by_step() } else { engine })
}

/// The router's name for a request: its position in the trace.
fn id_of(index: RequestIndex) -> RequestId {
    RequestId(u64::from(index))
}
