//! The one place with the router's state, behind one lock that is held for a decision or a fact and never
//! across a wait.
//!
//! Not sharded by core or request: a decision must see every reservation made before it, or a burst of
//! requests all find the same idle instance.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lodestar_router::{
    Checkpoint, CheckpointError, Decision, Event, Instance, InstanceId, InstanceMetrics,
    InstanceNames, InstanceSpec, Learning, Load, LogEntry, Objective, PolicyConfig, Reason,
    Rejected, Request, RequestId, Router, RouterConfig, Scraped, Time, TrainingJob, Usage,
};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::backend::Backend;
use crate::counters::Counters;
use crate::progress::Progress;
use crate::prompt::Prompt;
use crate::ramp::{RAMP, most_requests};
use crate::trainer::{Trainer, Training};

/// Output tokens between two reports of progress: the load of an instance is counted in KV blocks, and one
/// lock a token would be many.
const PROGRESS_TOKENS: u32 = 16;

/// Decides where requests go, and keeps the books on those that are under way.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    origin: Instant,
    block_tokens: u32,
    counters: Counters,
    /// How many instances can be chosen.
    present: watch::Sender<usize>,
    trainer: Trainer,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    router: Router,
    /// Of the router, with the policy and the objective that it has now.
    config: RouterConfig,
    members: BTreeMap<InstanceId, Arc<Member>>,
    /// Members that get their share little by little.
    ramping: Vec<Arc<Member>>,
    next_instance: u32,
    /// Instances that a checkpoint may know and that have not joined since the start, by URL.
    expected: BTreeMap<String, InstanceId>,
    next_request: u64,
    next_turn: u32,
    decisions: BTreeMap<Reason, u64>,
}

/// One stay of an instance in the fleet. One that comes back is a new member, with an empty cache.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: InstanceId,
    pub(crate) backend: Arc<Backend>,
    pub(crate) progress: Progress,
    since: Instant,
    presence: watch::Sender<Presence>,
}

/// Whether an instance is in the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Presence {
    /// It can be chosen.
    Here,
    /// It is chosen no more, and ends what it has.
    Left,
    /// Nobody waits for it any longer.
    Dead,
}

impl State {
    /// Those that are there and those that may come.
    fn names(&self) -> InstanceNames {
        let members = self.members.values().map(|member| (member.id, member.backend.url.clone()));
        let expected = self.expected.iter().map(|(url, &id)| (id, url.clone()));
        members.chain(expected).collect()
    }
}

impl Member {
    /// Returns when the instance is chosen no more.
    pub(crate) async fn left(&self) {
        self.reaches(Presence::Left).await;
    }

    /// Returns when the instance is known to be dead.
    pub(crate) async fn dead(&self) {
        self.reaches(Presence::Dead).await;
    }

    fn most_requests(&self) -> Option<u32> {
        most_requests(self.since.elapsed(), self.backend.is_on_trial())
    }

    async fn reaches(&self, presence: Presence) {
        // The sender lives as long as this member.
        let _ = self.presence.subscribe().wait_for(|now| *now >= presence).await;
    }
}

impl Dispatcher {
    pub(crate) fn new(config: RouterConfig, seed: u64) -> Self {
        Self::with(config.clone(), Router::new(config, seed))
    }

    /// With a router that writes everything down, for [`take_log`](Self::take_log).
    pub(crate) fn recording(config: RouterConfig, seed: u64) -> Self {
        Self::with(config.clone(), Router::recording(config, seed))
    }

    fn with(config: RouterConfig, router: Router) -> Self {
        Self {
            origin: Instant::now(),
            block_tokens: config.block_tokens,
            counters: Counters::default(),
            present: watch::Sender::new(0),
            trainer: Trainer::Thread,
            state: Mutex::new(State {
                router,
                config,
                members: BTreeMap::new(),
                ramping: Vec::new(),
                next_instance: 0,
                expected: BTreeMap::new(),
                next_request: 0,
                next_turn: 0,
                decisions: BTreeMap::new(),
            }),
        }
    }

    /// Has models trained there.
    pub(crate) fn with_training(self, training: Training) -> Self {
        Self { trainer: Trainer::new(training), ..self }
    }

    /// Tokens of a block.
    pub(crate) const fn block_tokens(&self) -> u32 {
        self.block_tokens
    }

    /// How it decides now.
    pub(crate) fn router_config(&self) -> RouterConfig {
        self.lock().1.config.clone()
    }

    /// How learning goes, if the policy learns.
    pub(crate) fn learning(&self) -> Option<Learning> {
        self.lock().1.router.learning()
    }

    /// Has another policy decide from now on, which goes on from what was `learned`. Requests under way stay where they are.
    pub(crate) fn switch(
        &self,
        policy: &PolicyConfig,
        learned: Option<&Checkpoint>,
    ) -> Result<(), CheckpointError> {
        let (now, mut state) = self.lock();
        let config = RouterConfig { policy: policy.clone(), ..state.config.clone() };
        let names = state.names();
        if let Some(learned) = learned {
            // The old policy goes only if the new one takes it.
            Router::new(config.clone(), 0).restore(now, learned, &names)?;
        }
        state.router.set_policy(policy);
        if let Some(learned) = learned {
            state.router.restore(now, learned, &names)?;
        }
        state.config = config;
        Ok(())
    }

    /// Has the policy pursue another objective, or answers the name of one that has none.
    pub(crate) fn set_objective(&self, objective: Objective) -> Result<(), String> {
        let (_, mut state) = self.lock();
        let PolicyConfig::Lodestar(params) = &mut state.config.policy else {
            return Err(state.config.policy.name().into_owned());
        };
        params.objective = objective;
        state.router.set_objective(objective);
        Ok(())
    }

    /// Locks, and only then looks at the clock: time never goes back for the router. A panic of another
    /// thread inside an assertion of the router is not a reason to serve nobody.
    fn lock(&self) -> (Time, MutexGuard<'_, State>) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let nanos = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        (Time::from_nanos(nanos), state)
    }

    /// Tells the router a fact.
    pub(crate) fn observe(self: &Arc<Self>, event: &Event<'_>) {
        let (now, mut state) = self.lock();
        state.router.observe(now, event);
        if state.router.next_wakeup().is_some_and(|wakeup| wakeup <= now) {
            state.router.observe(now, &Event::Timer);
        }
        let job = state.router.training_job(now);
        drop(state);
        if let Some(job) = job {
            self.train(job);
        }
    }

    /// Trains away from requests: the router gives out one job at a time. Without a runtime, as in tests of this file,
    /// nobody trains.
    fn train(self: &Arc<Self>, job: TrainingJob) {
        let Ok(runtime) = Handle::try_current() else { return };
        let dispatcher = Arc::clone(self);
        runtime.spawn(async move {
            let policy_number = job.policy_number();
            let model = dispatcher.trainer.train(job).await;
            let counters = &dispatcher.counters;
            let count = if model.is_some() { &counters.models } else { &counters.lost_models };
            let (now, mut state) = dispatcher.lock();
            match model {
                Some(model) => state.router.install(now, model),
                None => state.router.abandon_training(policy_number),
            }
            drop(state);
            count.add(1);
        });
    }

    /// What the router has written down since the last time.
    pub(crate) fn take_log(&self) -> Vec<LogEntry> {
        self.lock().1.router.take_log()
    }

    /// Has the router write down no more.
    pub(crate) fn stop_recording(&self) {
        self.lock().1.router.stop_recording();
    }

    /// Goes on from a checkpoint, in which instances have their URLs as names; before any of them has joined.
    pub(crate) fn restore<'a>(
        &self,
        checkpoint: &Checkpoint,
        urls: impl Iterator<Item = &'a str>,
    ) -> Result<(), CheckpointError> {
        let (now, mut state) = self.lock();
        let ids = (state.next_instance..).map(InstanceId);
        let names: InstanceNames = ids.zip(urls.map(str::to_owned)).collect();
        state.router.restore(now, checkpoint, &names)?;
        state.next_instance += names.len() as u32;
        state.expected = names.into_iter().map(|(id, url)| (url, id)).collect();
        Ok(())
    }

    /// What has been learned so far, if the policy keeps that.
    pub(crate) fn checkpoint(&self) -> Option<Checkpoint> {
        let (_, state) = self.lock();
        state.router.checkpoint(&state.names())
    }

    /// The instance may be chosen from now on.
    pub(crate) fn join(&self, backend: Arc<Backend>, spec: InstanceSpec) -> Arc<Member> {
        let (now, mut state) = self.lock();
        let id = state.expected.remove(&backend.url).unwrap_or_else(|| {
            state.next_instance += 1;
            InstanceId(state.next_instance - 1)
        });
        let (progress, presence) = (Progress::default(), watch::Sender::new(Presence::Here));
        let member = Arc::new(Member { id, backend, progress, since: Instant::now(), presence });
        let is_fleet_running = state.members.values().any(|member| member.since.elapsed() >= RAMP);
        // That policy knows of itself what to do with a new instance.
        let knows_cold = matches!(state.config.policy, PolicyConfig::Lodestar(_));
        if member.backend.is_on_trial() || (is_fleet_running && !knows_cold) {
            state.ramping.push(Arc::clone(&member));
        }
        state.members.insert(id, Arc::clone(&member));
        self.present.send_replace(state.members.len());
        state.router.observe(now, &Event::InstanceJoined { instance: id, spec });
        member
    }

    /// The instance is chosen no more. If it is dead, requests that have no byte of an answer go elsewhere.
    /// Answers whether it was there.
    pub(crate) fn leave(&self, instance: InstanceId, dead: bool) -> bool {
        let (now, mut state) = self.lock();
        let Some(member) = state.members.remove(&instance) else { return false };
        state.router.observe(now, &Event::InstanceLeft { instance });
        state.ramping.retain(|member| member.id != instance);
        self.present.send_replace(state.members.len());
        drop(state);
        member.presence.send_replace(if dead { Presence::Dead } else { Presence::Left });
        true
    }

    /// The instance has said how it stands.
    pub(crate) fn scraped(&self, instance: InstanceId, metrics: InstanceMetrics) {
        let (at, mut state) = self.lock();
        let scraped = Scraped { at, metrics };
        state.router.observe(at, &Event::MetricsScraped { instance, scraped });
    }

    /// Chooses an instance that is not in `avoid`, and reserves the request's place there.
    pub(crate) fn route(
        self: &Arc<Self>,
        prompt: &Prompt,
        avoid: &[InstanceId],
    ) -> Result<Ticket, Rejected> {
        let (now, mut state) = self.lock();
        let id = RequestId(state.next_request);
        state.next_request += 1;
        let mut request = Request {
            id,
            prompt_tokens: prompt.tokens,
            block_hashes: &prompt.blocks,
            session: prompt.session,
            priority: prompt.priority,
        };
        let mut decision = state.route_ramping(now, &request, avoid);
        if let Err(Rejected::PromptTooLong { longest_accepted_tokens, .. }) = decision {
            // The length is an estimate. The instance with the longest context has the last word.
            request.prompt_tokens = longest_accepted_tokens;
            let blocks = (longest_accepted_tokens / self.block_tokens) as usize;
            request.block_hashes = &prompt.blocks[..blocks.min(prompt.blocks.len())];
            decision = state.router.route_avoiding(now, &request, avoid);
        }
        let decision = decision.inspect_err(|_| self.counters.rejected.add(1))?;
        *state.decisions.entry(decision.reason).or_default() += 1;
        let member = Arc::clone(&state.members[&decision.instance]);
        state.router.observe(now, &Event::Dispatched { request: id });
        drop(state);
        member.backend.begun();
        Ok(Ticket {
            dispatcher: Arc::clone(self),
            member,
            request: id,
            prompt_tokens: request.prompt_tokens,
            predicted_cached_tokens: decision.prefix_hit_tokens,
            routed_at: Instant::now(),
            reported: 0,
            open: true,
        })
    }

    /// The next instance in turn, for what does not concern the engine.
    pub(crate) fn in_turn(&self) -> Option<Arc<Member>> {
        let (_, mut state) = self.lock();
        let turn = state.next_turn;
        state.next_turn = turn.wrapping_add(1);
        let index = turn as usize % state.members.len().max(1);
        state.members.values().nth(index).cloned()
    }

    /// Whether any instance can be chosen.
    pub(crate) fn has_members(&self) -> bool {
        *self.present.borrow() > 0
    }

    /// Returns when an instance can be chosen.
    pub(crate) async fn some_member(&self) {
        // The sender lives as long as this.
        let _ = self.present.subscribe().wait_for(|members| *members > 0).await;
    }

    /// The instances that can be chosen.
    pub(crate) fn members(&self) -> Vec<Arc<Member>> {
        self.lock().1.members.values().cloned().collect()
    }

    /// What has happened so far.
    pub(crate) const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Decisions so far, by the rule that made them.
    pub(crate) fn decisions(&self) -> BTreeMap<Reason, u64> {
        self.lock().1.decisions.clone()
    }

    /// Requests that are under way at an instance.
    pub(crate) fn requests_at(&self, instance: InstanceId) -> u32 {
        let (_, state) = self.lock();
        state.router.fleet().get(instance).map_or(0, |instance| instance.load.requests)
    }

    /// What the router knows of each of [`Self::members`].
    pub(crate) fn fleet(&self) -> Vec<(Arc<Member>, Instance)> {
        let (_, state) = self.lock();
        let known = |id| state.router.fleet().get(id).copied();
        let members = state.members.iter();
        members.filter_map(|(&id, member)| Some((Arc::clone(member), known(id)?))).collect()
    }

    /// What each of [`Self::members`] owes.
    pub(crate) fn loads(&self) -> Vec<(Arc<Member>, Load)> {
        let (_, state) = self.lock();
        let load = |id| state.router.fleet().get(id).map(|instance| instance.load);
        let members = state.members.iter();
        members.map(|(&id, member)| (Arc::clone(member), load(id).unwrap_or_default())).collect()
    }
}

impl State {
    /// Routes past instances that have as much as they may have for now, unless there are no others.
    fn route_ramping(
        &mut self,
        now: Time,
        request: &Request<'_>,
        avoid: &[InstanceId],
    ) -> Result<Decision, Rejected> {
        self.ramping.retain(|member| member.most_requests().is_some());
        let has_enough = |member: &Arc<Member>| {
            let load = self.router.fleet().get(member.id).map_or(0, |it| it.load.requests);
            member.most_requests().is_some_and(|most| load >= most).then_some(member.id)
        };
        let mut all: Vec<_> = self.ramping.iter().filter_map(has_enough).collect();
        if !all.is_empty() {
            all.extend_from_slice(avoid);
            if let Ok(decision) = self.router.route_avoiding(now, request, &all) {
                return Ok(decision);
            }
        }
        self.router.route_avoiding(now, request, avoid)
    }
}

/// One attempt to serve a request: the right and the duty to say how it ended. Dropped without a word, the
/// request was aborted.
#[derive(Debug)]
pub(crate) struct Ticket {
    dispatcher: Arc<Dispatcher>,
    member: Arc<Member>,
    request: RequestId,
    /// As the router counts them.
    prompt_tokens: u32,
    predicted_cached_tokens: u32,
    routed_at: Instant,
    /// Output tokens that the router knows of.
    reported: u32,
    open: bool,
}

impl Ticket {
    /// Where it goes.
    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.member
    }

    #[cfg(test)]
    pub(crate) const fn predicted_cached_tokens(&self) -> u32 {
        self.predicted_cached_tokens
    }

    /// The answer has grown to so many tokens.
    pub(crate) fn progress(&mut self, output_tokens: u32) {
        self.member.progress.moved();
        let first = self.reported == 0 && output_tokens > 0;
        if first {
            self.dispatcher.counters.first_token(self.routed_at.elapsed());
            self.dispatcher.observe(&Event::FirstToken { request: self.request });
            self.reported = 1;
        }
        if output_tokens >= self.reported + PROGRESS_TOKENS {
            let request = self.request;
            self.dispatcher.observe(&Event::Progress { request, output_tokens });
            self.reported = output_tokens;
        }
    }

    /// The answer is complete. `said` is what it says it used; `output_tokens` could be counted.
    pub(crate) fn finished(mut self, said: Option<Usage>, output_tokens: u32) {
        self.member.progress.moved();
        let counters = &self.dispatcher.counters;
        if let Some(usage) = said {
            counters.prompt_tokens.add(u64::from(usage.prompt_tokens));
            if let Some(cached) = usage.cached_tokens {
                counters.cached_tokens.add(u64::from(cached));
                counters.predicted_cached_tokens.add(u64::from(self.predicted_cached_tokens));
            }
        }
        let prompt_tokens = self.prompt_tokens;
        let usage = said.unwrap_or(Usage { prompt_tokens, cached_tokens: None, output_tokens });
        counters.output_tokens.add(u64::from(usage.output_tokens));
        self.end(&Event::Finished { request: self.request, usage });
    }

    /// The instance did not take the request.
    pub(crate) fn failed(mut self) {
        self.end(&Event::DispatchFailed { request: self.request });
    }

    fn end(&mut self, event: &Event<'_>) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        self.member.backend.ended();
        let counters = &self.dispatcher.counters;
        let counter = if matches!(event, Event::Finished { .. }) {
            &counters.finished
        } else if matches!(event, Event::DispatchFailed { .. }) {
            &counters.failed
        } else {
            &counters.aborted
        };
        counter.add(1);
        self.dispatcher.observe(event);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.end(&Event::Aborted { request: self.request });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: InstanceSpec =
        InstanceSpec { kv_capacity_tokens: 100_000, max_model_len_tokens: 4096 };

    fn dispatcher(instances: usize) -> Arc<Dispatcher> {
        let dispatcher =
            Arc::new(Dispatcher::new(RouterConfig::new(PolicyConfig::LeastRequest), 1));
        for port in 0..instances {
            let backend = Backend::parse(&format!("http://127.0.0.1:{}", 1 + port)).unwrap();
            dispatcher.join(Arc::new(backend), SPEC);
        }
        dispatcher
    }

    fn owed(dispatcher: &Dispatcher) -> Vec<Load> {
        dispatcher.loads().into_iter().map(|(_, load)| load).collect()
    }

    /// Many threads, every way to end, an instance that leaves and others that come.
    #[test]
    fn however_requests_end_nothing_stays_reserved() {
        let dispatcher = dispatcher(3);
        let work = |thread: usize| {
            let dispatcher = &dispatcher;
            move || {
                for step in 0..2_000_usize {
                    let prompt = Prompt { tokens: 1 + (step % 500) as u32, ..Prompt::default() };
                    let mut ticket = dispatcher.route(&prompt, &[]).unwrap();
                    ticket.progress((step % 3) as u32 * 20);
                    match (step + thread) % 5 {
                        0 => ticket.finished(None, 3),
                        1 => ticket.failed(),
                        2 => drop(ticket),
                        3 => {
                            let other = dispatcher.route(&prompt, &[ticket.member().id]).unwrap();
                            assert_ne!(other.member().id, ticket.member().id);
                            ticket.failed();
                            other.finished(Some(Usage::default()), 3);
                        }
                        _ if step % 100 == 4 => {
                            let member = Arc::clone(ticket.member());
                            dispatcher.join(Arc::clone(&member.backend), SPEC);
                            dispatcher.leave(member.id, true);
                        }
                        _ => {}
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|thread| scope.spawn(work(thread))).collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        assert_eq!(owed(&dispatcher), [Load::default(); 3]);
    }

    #[test]
    fn requests_in_flight_are_seen_by_the_next_decision() {
        let dispatcher = dispatcher(4);
        let route = || dispatcher.route(&Prompt { tokens: 9, ..Prompt::default() }, &[]).unwrap();
        let tickets: Vec<_> = (0..4).map(|_| route()).collect();
        assert!(owed(&dispatcher).iter().all(|load| load.requests == 1));
        drop(tickets);
        assert_eq!(owed(&dispatcher), [Load::default(); 4]);
    }

    #[test]
    fn a_prompt_that_seems_too_long_is_left_to_the_engine() {
        let dispatcher = dispatcher(1);
        let blocks = (0..10_000).map(lodestar_router::BlockHash).collect();
        let prompt = Prompt { tokens: 160_001, blocks, ..Prompt::default() };
        let ticket = dispatcher.route(&prompt, &[]).unwrap();
        assert_eq!(ticket.prompt_tokens, 4095);
        assert_eq!(
            dispatcher.route(&prompt, &[ticket.member().id]).unwrap_err(),
            Rejected::NoInstance
        );
    }

    /// It hung, and says that it is well again.
    #[test]
    fn an_instance_on_trial_gets_one_request_until_it_has_served_one() {
        let dispatcher = dispatcher(2);
        let member = Arc::clone(&dispatcher.members()[1]);
        member.backend.hung();
        dispatcher.leave(member.id, true);
        let member = dispatcher.join(Arc::clone(&member.backend), SPEC);
        let route = || dispatcher.route(&Prompt { tokens: 9, ..Prompt::default() }, &[]).unwrap();
        let requests = || owed(&dispatcher).iter().map(|load| load.requests).collect::<Vec<_>>();
        let tickets: Vec<_> = (0..10).map(|_| route()).collect();
        assert_eq!(requests(), [9, 1]);
        member.backend.succeeded();
        let more: Vec<_> = (0..8).map(|_| route()).collect();
        assert_eq!(requests(), [16, 2], "then it gets its share little by little");
        drop((tickets, more));
        // Alone, it is better than nobody.
        member.backend.hung();
        let others = dispatcher.members();
        dispatcher.leave(others[0].id, true);
        dispatcher.leave(member.id, true);
        dispatcher.join(Arc::clone(&member.backend), SPEC);
        let tickets: Vec<_> = (0..10).map(|_| route()).collect();
        assert!(tickets.iter().all(|ticket| ticket.member().backend.is_on_trial()));
    }

    #[tokio::test]
    async fn a_death_is_announced() {
        let dispatcher = dispatcher(2);
        let members = dispatcher.members();
        assert!(dispatcher.leave(members[0].id, true));
        assert!(!dispatcher.leave(members[0].id, true));
        members[0].dead().await;
        members[0].left().await;
        assert_eq!(dispatcher.members().len(), 1);
        assert_eq!(dispatcher.in_turn().map(|member| member.id), Some(members[1].id));
    }
}
