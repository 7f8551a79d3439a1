//! The simulation loop: pop an event, advance the clock, one match. What the events do is in `way.rs`
//! (requests), `membership.rs` (joins and faults) and `observers.rs` (metrics and time series).

use hashbrown::HashMap;
use lodestar_router::{
    Checkpoint, Duration, InstanceId, InstanceNames, LogEntry, PolicyConfig, Router, RouterConfig,
    Time,
};
use lodestar_traces::{Arrival, Source, TraceRequest};
use rustc_hash::FxBuildHasher;

use super::config::ClusterConfig;
use super::event_queue::{Event, EventQueue, RequestIndex};
use super::front::Front;
use super::kv_feed::KvFeed;
use super::members::{self, Member, Presence};
use super::membership::planned_events;
use super::observers::Scrapes;
use super::stuck::Stuck;
use super::timeline::Timeline;
use super::way::{Placing, Transit};
use crate::engine::EngineEvent;
use crate::record::{IntervalRecord, RequestRecord};
use crate::sharing::shared_tokens;

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
    Run::new(config, requests, (router, seed), Router::new)?.run(on_progress)
}

/// As [`simulate`], with routers that write down what they are told and what they decide: `on_log` gets the number
/// of a router replica and the entries that it has collected since the call before, often enough that they need not
/// fit into memory.
///
/// # Errors
/// As [`simulate`].
pub fn simulate_logged(
    config: &ClusterConfig,
    requests: &[TraceRequest],
    router: RouterConfig,
    seed: u64,
    on_progress: &mut dyn FnMut(u64),
    on_log: &mut dyn FnMut(u32, Vec<LogEntry>),
) -> Result<RunOutput, Stuck> {
    let output = simulate_from(None, config, requests, (router, seed), on_progress, Some(on_log))?;
    Ok(output.0)
}

/// [`simulate`], with routers that go on from `checkpoint` if there is one, and with what the first of them has learned in
/// the end, if its policy keeps that. Instances are known again by their names. `on_log` is that of [`simulate_logged`].
///
/// # Errors
/// As [`simulate`], and when routers cannot go on from that checkpoint.
pub fn simulate_from<'a>(
    checkpoint: Option<&Checkpoint>,
    config: &'a ClusterConfig,
    requests: &'a [TraceRequest],
    (router, seed): (RouterConfig, u64),
    on_progress: &mut dyn FnMut(u64),
    on_log: Option<&'a mut dyn FnMut(u32, Vec<LogEntry>)>,
) -> Result<(RunOutput, Option<Checkpoint>), Stuck> {
    let new = if on_log.is_some() { Router::recording } else { Router::new };
    let mut run = Run::new(config, requests, (router, seed), new)?;
    run.on_log = on_log;
    if let Some(checkpoint) = checkpoint {
        let names = run.names(|_| true);
        run.front.restore(checkpoint, &names)?;
    }
    run.until_the_end(on_progress)?;
    let learned = run.front.checkpoint(&run.names(|member| member.presence == Presence::Up));
    Ok((run.finish(), learned))
}

/// Simulates `requests` on a cluster without a router: each request goes where a log says that it went.
/// A placement names an instance by its position in the cluster; what is sent to one that is not there
/// is rejected.
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
    let mut run = Run::new(config, requests, (unasked(), 0), Router::new)?;
    run.placing = Placing::Log(placements);
    run.run(on_progress)
}

/// A router that is told everything and asked nothing.
pub(super) fn unasked() -> RouterConfig {
    RouterConfig::new(PolicyConfig::RoundRobin)
}

/// A run in progress.
pub(super) struct Run<'a> {
    pub(super) config: &'a ClusterConfig,
    pub(super) requests: &'a [TraceRequest],
    pub(super) front: Front,
    /// Whether whatever the routers hear changes no decision of theirs.
    pub(super) router_is_deaf: bool,
    pub(super) placing: Placing<'a>,
    /// Tokens of a block as the routers count them.
    pub(super) block_tokens: u32,
    pub(super) members: Vec<Member>,
    pub(super) queue: EventQueue,
    pub(super) now: Time,
    /// Requests that have not ended.
    pub(super) unfinished: u64,
    /// By request, how much content it may share with another.
    pub(super) shared_tokens: Vec<u32>,
    /// Closed-loop requests by the request they wait for.
    pub(super) children: HashMap<u64, Vec<RequestIndex>, FxBuildHasher>,
    /// By request; `None` until the request reaches the router.
    pub(super) records: Vec<Option<RequestRecord>>,
    /// Requests between router and engine.
    pub(super) in_transit: HashMap<RequestIndex, Transit, FxBuildHasher>,
    pub(super) scrapes: Scrapes,
    /// Time between two scrapes; `None` if the router looks at no metrics.
    pub(super) scrape_period: Option<Duration>,
    /// For routers that listen to KV events.
    pub(super) kv_feed: Option<Box<KvFeed>>,
    pub(super) timeline: Timeline,
    /// Where the routers' logs go.
    pub(super) on_log: Option<&'a mut dyn FnMut(u32, Vec<LogEntry>)>,
    /// Reused.
    pub(super) engine_events: Vec<EngineEvent>,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        config: &'a ClusterConfig,
        requests: &'a [TraceRequest],
        (router, seed): (RouterConfig, u64),
        new_router: fn(RouterConfig, u64) -> Router,
    ) -> Result<Self, Stuck> {
        if config.instances.is_empty() {
            return Err(Stuck::NoInstances);
        }
        config.check_plan()?;
        let block_tokens = router.block_tokens;
        let scrape_period = router.scrape_period();
        let uses_kv_events = router.uses_kv_events();
        let router_is_deaf = router.is_deaf();
        let members = members::start_all(config)?;
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
            front: Front::new(router, config.router_replicas, seed, new_router),
            router_is_deaf,
            placing: Placing::Router,
            block_tokens,
            timeline: Timeline::new(members.len()),
            members,
            queue: EventQueue::new(open_loop.chain(planned_events(&config.plan))),
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
            scrapes: Scrapes::default(),
            scrape_period: scrape_period.map(|period| config.scrape_interval.unwrap_or(period)),
            kv_feed: None,
            on_log: None,
            engine_events: Vec::new(),
        };
        run.introduce_members();
        for (index, request) in (0..).zip(requests) {
            if let Arrival::After { request, .. } = request.arrival {
                run.children.entry(request).or_default().push(index);
            }
        }
        if uses_kv_events {
            run.publish_kv_events(seed);
        }
        if scrape_period.is_some() {
            run.queue.push(Time::ZERO, Event::Scrape);
        }
        run.queue.push(Time::ZERO + config.record_interval, Event::Record);
        Ok(run)
    }

    /// What the instances behind members are called.
    fn names(&self, is_meant: impl Fn(&Member) -> bool) -> InstanceNames {
        let name = |member: &Member| self.config.instances[member.instance].name.clone();
        let members = (0..).map(InstanceId).zip(&self.members);
        let meant = members.filter(|(_, member)| is_meant(member));
        meant.map(|(id, member)| (id, name(member))).collect()
    }

    /// Goes on until every request has ended.
    pub(super) fn run(mut self, on_progress: &mut dyn FnMut(u64)) -> Result<RunOutput, Stuck> {
        self.until_the_end(on_progress)?;
        Ok(self.finish())
    }

    pub(super) fn until_the_end(&mut self, on_progress: &mut dyn FnMut(u64)) -> Result<(), Stuck> {
        let requests = self.requests;
        let are_independent = self.engines_are_independent();
        let mut reported = 0;
        while self.unfinished > 0 {
            if !self.queue.is_moving() {
                return Err(self.never_sent());
            }
            let Some((at, event)) = self.queue.pop() else { return Err(self.never_sent()) };
            assert!(at >= self.now, "the clock never goes back");
            self.now = at;
            if are_independent && event == Event::Record {
                let next = self.end_interval();
                let next = self.run_ahead(next, on_progress)?;
                self.queue.push(next, Event::Record);
            } else {
                self.handle(event)?;
            }
            let ended = requests.len() as u64 - self.unfinished;
            if ended >= reported + PROGRESS_EVERY {
                reported = ended;
                on_progress(ended);
                self.hand_over_log();
            }
        }
        self.hand_over_log();
        on_progress(requests.len() as u64);
        Ok(())
    }

    fn hand_over_log(&mut self) {
        let Some(on_log) = &mut self.on_log else { return };
        for number in self.front.numbers() {
            on_log(number, self.front.replica(number).router.take_log());
        }
    }

    pub(super) fn handle(&mut self, event: Event) -> Result<(), Stuck> {
        match event {
            Event::RequestAtRouter(index) => self.route(index),
            Event::RequestAtEngine(index) => self.enter_engine(index),
            Event::EngineWakeup(member) => self.wake(member)?,
            Event::FirstTokenAtRouter(index) => self.first_token_at_router(index),
            Event::EndAtRouter(index) => self.end_at_router(index),
            Event::DispatchFailedAtRouter(index) => self.dispatch_failed(index),
            Event::Scrape => self.scrape(),
            Event::MetricsAtRouter => self.deliver_metrics(),
            Event::LateMetricsAtRouter => self.deliver_late_metrics(),
            Event::RouterTimer(replica) => self.router_timer(replica),
            Event::ModelAtRouter(replica) => self.install(replica),
            Event::Membership(planned) => self.change_membership(planned),
            Event::Fault(planned) => self.fault(planned),
            Event::CrashAtRouter(member) => self.learn_of_crash(member),
            Event::Record => {
                let next = self.end_interval();
                self.queue.push(next, Event::Record);
            }
        }
        Ok(())
    }

    /// Ends an interval of the time series now. When the next one ends.
    fn end_interval(&mut self) -> Time {
        self.settle();
        self.timeline.record(self.now, &self.members);
        self.next_observation(self.config.record_interval)
    }

    fn never_sent(&self) -> Stuck {
        let waiting = self.records.iter().position(Option::is_none);
        let request = &self.requests[waiting.expect("a request that was sent ends")];
        let Arrival::After { request: parent, .. } = request.arrival else {
            unreachable!("open-loop requests are in the queue")
        };
        Stuck::NeverSent { now: self.now, request: request.id, parent }
    }

    pub(super) fn finish(mut self) -> RunOutput {
        self.settle();
        let records: Vec<RequestRecord> =
            self.records.into_iter().map(|record| record.expect("every request ended")).collect();
        let end = records.iter().map(|record| record.ended).max().unwrap_or(Time::ZERO);
        self.timeline.record(self.now, &self.members);
        assert!(self.front.owes_nothing(), "no reservation outlives its request");
        let is_empty =
            |member: &Member| member.engine.free_blocks() == member.engine.config().num_blocks - 1;
        assert!(self.members.iter().all(is_empty), "every KV cache block came back");
        RunOutput {
            requests: records,
            intervals: self.timeline.into_intervals(),
            end,
            steps: self.members.iter().map(|member| member.engine.counters().steps).sum(),
        }
    }
}
