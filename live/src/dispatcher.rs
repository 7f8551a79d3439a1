//! The one place with the router's state, behind one lock that is held for a decision or a fact and never
//! across a wait.
//!
//! Not sharded by core or request: a decision must see every reservation made before it, or a burst of
//! requests all find the same idle instance.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lodestar_router::{
    Checkpoint, CheckpointError, Decision, Event, Fleet, Instance, InstanceId, InstanceMetrics,
    InstanceNames, InstanceSpec, Learning, Load, LogEntry, Objective, PolicyConfig, Reason,
    Rejected, Request, RequestId, Router, RouterConfig, Scraped, Time, TrainingJob, Usage,
};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::arms::{Arm, Arms, Stop, Stopped, Views};
use crate::backend::Backend;
use crate::counters::Counters;
use crate::progress::Progress;
use crate::prompt::Prompt;
use crate::ramp::{RAMP, most_requests};
use crate::trainer::{Trainer, Training};
use crate::verdict::Evidence;

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
    /// What speaks for and against the canary, if there is one. Nobody waits for `state` while holding it.
    trial: Option<Mutex<Trial>>,
    state: Mutex<State>,
}

/// What is known of the canary beside the policy that the baseline has now.
#[derive(Debug)]
struct Trial {
    /// Attempts that were decided before it say something of another policy.
    since: Instant,
    evidence: Evidence,
}

impl Trial {
    fn new() -> Self {
        Self { since: Instant::now(), evidence: Evidence::default() }
    }
}

#[derive(Debug)]
struct State {
    router: Arms,
    /// Of the baseline, with the policy and the objective that it has now.
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

    /// Whether everybody who decides knows of itself what to do with a new instance.
    fn knows_cold(&self) -> bool {
        let knows = |config: &RouterConfig| matches!(config.policy, PolicyConfig::Lodestar(_));
        let canary = self.router.canary().filter(|canary| canary.percent() > 0.0);
        knows(&self.config) && canary.is_none_or(|canary| knows(canary.config()))
    }

    /// Instances and what they owe, by the books of the baseline. Those of a canary say the same.
    fn fleet(&self) -> &Fleet {
        self.router.baseline().fleet()
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
    /// With routers, of which the baseline has this configuration.
    pub(crate) fn new(config: RouterConfig, router: Arms) -> Self {
        Self {
            origin: Instant::now(),
            block_tokens: config.block_tokens,
            counters: Counters::default(),
            present: watch::Sender::new(0),
            trainer: Trainer::Thread,
            trial: router.canary().map(|_| Mutex::new(Trial::new())),
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

    /// How the baseline decides now.
    pub(crate) fn router_config(&self) -> RouterConfig {
        self.lock().1.config.clone()
    }

    /// Of each router.
    pub(crate) fn router_configs(&self) -> Vec<RouterConfig> {
        let (_, state) = self.lock();
        let canary = state.router.canary().map(|canary| canary.config().clone());
        [state.config.clone()].into_iter().chain(canary).collect()
    }

    /// How learning goes, if the policy of the baseline learns.
    pub(crate) fn learning(&self) -> Option<Learning> {
        self.lock().1.router.baseline().learning()
    }

    /// Has the baseline decide by another policy from now on, which goes on from what was `learned`. Requests under way stay
    /// where they are.
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
        state.router.baseline_mut().set_policy(policy);
        state.config = config;
        self.try_anew();
        if let Some(learned) = learned {
            state.router.restore(now, Arm::Baseline, learned, &names)?;
        }
        Ok(())
    }

    /// The baseline is another one from now on: what the canary was compared with counts no more. To be called while the state
    /// is locked, so that each attempt is on one side of this.
    fn try_anew(&self) {
        if let Some(trial) = &self.trial {
            *trial.lock().unwrap_or_else(PoisonError::into_inner) = Trial::new();
        }
    }

    /// Has the policy of the baseline pursue another objective, or answers the name of one that has none.
    pub(crate) fn set_objective(&self, objective: Objective) -> Result<(), String> {
        let (_, mut state) = self.lock();
        let PolicyConfig::Lodestar(params) = &mut state.config.policy else {
            return Err(state.config.policy.name().into_owned());
        };
        params.objective = objective;
        state.router.baseline_mut().set_objective(objective);
        self.try_anew();
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
        let jobs = state.router.training_jobs(now);
        drop(state);
        for (arm, job) in jobs {
            self.train(arm, job);
        }
    }

    /// Trains away from requests: a router gives out one job at a time. Without a runtime, as in tests of this file,
    /// nobody trains.
    fn train(self: &Arc<Self>, arm: Arm, job: TrainingJob) {
        let Ok(runtime) = Handle::try_current() else { return };
        let dispatcher = Arc::clone(self);
        runtime.spawn(async move {
            let policy_number = job.policy_number();
            let model = dispatcher.trainer.train(job).await;
            let counters = &dispatcher.counters;
            let count = if model.is_some() { &counters.models } else { &counters.lost_models };
            let (now, mut state) = dispatcher.lock();
            state.router.trained(now, arm, policy_number, model);
            drop(state);
            count.add(1);
        });
    }

    /// What a router has written down since the last time.
    pub(crate) fn take_log(&self, arm: Arm) -> Vec<LogEntry> {
        self.lock().1.router.take_log(arm)
    }

    /// Has a router write down no more.
    pub(crate) fn stop_recording(&self, arm: Arm) {
        self.lock().1.router.stop_recording(arm);
    }

    /// Has a router go on from a checkpoint, in which instances have their URLs as names; before any of them has joined.
    pub(crate) fn restore<'a>(
        &self,
        arm: Arm,
        checkpoint: &Checkpoint,
        urls: impl Iterator<Item = &'a str>,
    ) -> Result<(), CheckpointError> {
        let (now, mut guard) = self.lock();
        let state = &mut *guard;
        let mut names = InstanceNames::new();
        for url in urls {
            let id = state.expected.entry(url.to_owned()).or_insert_with(|| {
                state.next_instance += 1;
                InstanceId(state.next_instance - 1)
            });
            names.insert(*id, url.to_owned());
        }
        state.router.restore(now, arm, checkpoint, &names)
    }

    /// What a router has learned so far, if its policy keeps that.
    pub(crate) fn checkpoint(&self, arm: Arm) -> Option<Checkpoint> {
        let (_, state) = self.lock();
        state.router.checkpoint(arm, &state.names())
    }

    /// The baseline decides everything from now on. Answers whether that is new.
    pub(crate) fn stop_canary(&self, why: Stop, evidence: &str) -> bool {
        self.lock().1.router.stop_canary(why, evidence)
    }

    /// Adds to what is known of the canary, by what became of an attempt that was decided then, and stops it if that is too bad.
    fn judge(&self, routed_at: Instant, add: impl FnOnce(&mut Evidence)) {
        let Some(trial) = &self.trial else { return };
        let mut trial = trial.lock().unwrap_or_else(PoisonError::into_inner);
        if routed_at < trial.since {
            return;
        }
        add(&mut trial.evidence);
        if let Some((why, complaint)) = trial.evidence.verdict() {
            trial.evidence = Evidence::default();
            drop(trial);
            self.stop_canary(why, &complaint);
        }
    }

    /// How it stands with the canary, if there is one.
    pub(crate) fn canary(&self) -> Option<CanaryState> {
        let evidence = self.trial.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).evidence;
        let (_, state) = self.lock();
        let canary = state.router.canary()?;
        Some(CanaryState {
            policy: canary.config().policy.clone(),
            percent: canary.percent(),
            stopped: canary.stopped().cloned(),
            views: canary.views(),
            evidence,
        })
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
        if member.backend.is_on_trial() || (is_fleet_running && !state.knows_cold()) {
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
            decision = state.router.route(now, &request, avoid);
        }
        let (arm, decision) = decision.inspect_err(|_| self.counters.rejected.add(1))?;
        *state.decisions.entry(decision.reason).or_default() += 1;
        let member = Arc::clone(&state.members[&decision.instance]);
        state.router.observe(now, &Event::Dispatched { request: id });
        // Still locked: before or after a change of the policy, and not in between.
        let routed_at = Instant::now();
        drop(state);
        member.backend.begun();
        Ok(Ticket {
            dispatcher: Arc::clone(self),
            member,
            request: id,
            arm,
            prompt_tokens: request.prompt_tokens,
            predicted_cached_tokens: decision.prefix_hit_tokens,
            routed_at,
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
        state.fleet().get(instance).map_or(0, |instance| instance.load.requests)
    }

    /// What the router knows of each of [`Self::members`].
    pub(crate) fn fleet(&self) -> Vec<(Arc<Member>, Instance)> {
        let (_, state) = self.lock();
        let known = |id| state.fleet().get(id).copied();
        let members = state.members.iter();
        members.filter_map(|(&id, member)| Some((Arc::clone(member), known(id)?))).collect()
    }

    /// What each of [`Self::members`] owes.
    pub(crate) fn loads(&self) -> Vec<(Arc<Member>, Load)> {
        self.loads_of(Arm::Baseline)
    }

    /// The same by one router's books; nothing if it does not exist.
    pub(crate) fn loads_of(&self, arm: Arm) -> Vec<(Arc<Member>, Load)> {
        let (_, state) = self.lock();
        let Some(fleet) = state.router.fleet(arm) else { return Vec::new() };
        let load = |id| fleet.get(id).map(|instance| instance.load);
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
    ) -> Result<(Arm, Decision), Rejected> {
        self.ramping.retain(|member| member.most_requests().is_some());
        let has_enough = |member: &Arc<Member>| {
            let load = self.fleet().get(member.id).map_or(0, |it| it.load.requests);
            member.most_requests().is_some_and(|most| load >= most).then_some(member.id)
        };
        let mut all: Vec<_> = self.ramping.iter().filter_map(has_enough).collect();
        if !all.is_empty() {
            all.extend_from_slice(avoid);
            if let Ok(decision) = self.router.route(now, request, &all) {
                return Ok(decision);
            }
        }
        self.router.route(now, request, avoid)
    }
}

/// How it stands with the canary.
#[derive(Clone, Debug)]
pub(crate) struct CanaryState {
    pub(crate) policy: PolicyConfig,
    /// Sessions in a hundred for which it decides now.
    pub(crate) percent: f64,
    pub(crate) stopped: Option<Stopped>,
    pub(crate) views: Views,
    /// What it is judged by, beside the policy that the baseline has now.
    pub(crate) evidence: Evidence,
}

/// One attempt to serve a request: the right and the duty to say how it ended. Dropped without a word, the
/// request was aborted.
#[derive(Debug)]
pub(crate) struct Ticket {
    dispatcher: Arc<Dispatcher>,
    member: Arc<Member>,
    request: RequestId,
    /// Who decided.
    arm: Arm,
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
            let ttft = self.routed_at.elapsed();
            self.dispatcher.counters.first_token(self.arm, ttft);
            let secs = ttft.as_secs_f64();
            self.judge(|evidence| evidence.first_token(self.arm, secs));
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
        self.judge(|evidence| evidence.ended(self.arm, false));
    }

    /// The instance did not take the request.
    pub(crate) fn failed(mut self) {
        self.end(&Event::DispatchFailed { request: self.request });
        self.judge(|evidence| evidence.ended(self.arm, true));
    }

    /// The instance has failed in the middle of the answer.
    pub(crate) fn broke_off(mut self) {
        self.end(&Event::Aborted { request: self.request });
        self.judge(|evidence| evidence.ended(self.arm, true));
    }

    fn judge(&self, add: impl FnOnce(&mut Evidence)) {
        self.dispatcher.judge(self.routed_at, add);
    }

    fn end(&mut self, event: &Event<'_>) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        self.member.backend.ended();
        let counters = &self.dispatcher.counters;
        let arm = counters.of(self.arm);
        let both = if matches!(event, Event::Finished { .. }) {
            [&counters.finished, &arm.finished]
        } else if matches!(event, Event::DispatchFailed { .. }) {
            [&counters.failed, &arm.failed]
        } else {
            [&counters.aborted, &arm.aborted]
        };
        both.iter().for_each(|counter| counter.add(1));
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
        with_canary(instances, 0.0)
    }

    /// With a canary that decides for so many requests in a hundred.
    fn with_canary(instances: usize, percent: f64) -> Arc<Dispatcher> {
        let [config, canary] =
            [PolicyConfig::LeastRequest, PolicyConfig::RoundRobin].map(RouterConfig::new);
        let router = |config: &RouterConfig| Router::new(config.clone(), 1);
        let arms = Arms::new(router(&config)).with_canary(router(&canary), canary, percent);
        let dispatcher = Arc::new(Dispatcher::new(config, arms));
        for port in 0..instances {
            let backend = Backend::parse(&format!("http://127.0.0.1:{}", 1 + port)).unwrap();
            dispatcher.join(Arc::new(backend), SPEC);
        }
        dispatcher
    }

    fn owed(dispatcher: &Dispatcher) -> Vec<Load> {
        owed_of(dispatcher, Arm::Baseline)
    }

    fn owed_of(dispatcher: &Dispatcher, arm: Arm) -> Vec<Load> {
        dispatcher.loads_of(arm).into_iter().map(|(_, load)| load).collect()
    }

    /// Many threads, every way to end, an instance that leaves and others that come.
    #[test]
    fn however_requests_end_nothing_stays_reserved() {
        let dispatcher = with_canary(3, 30.0);
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
        for arm in Arm::BOTH {
            assert_eq!(owed_of(&dispatcher, arm), [Load::default(); 3]);
        }
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
        [0.0, 50.0, 100.0].iter().for_each(|&percent| on_trial(&with_canary(2, percent)));
    }

    fn on_trial(dispatcher: &Arc<Dispatcher>) {
        let member = Arc::clone(&dispatcher.members()[1]);
        member.backend.hung();
        dispatcher.leave(member.id, true);
        let member = dispatcher.join(Arc::clone(&member.backend), SPEC);
        let route = || dispatcher.route(&Prompt { tokens: 9, ..Prompt::default() }, &[]).unwrap();
        let requests = || owed(dispatcher).iter().map(|load| load.requests).collect::<Vec<_>>();
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

    /// Finishes, or fails if `is_bad` says so of the side; answers whose request it was.
    fn serve(dispatcher: &Arc<Dispatcher>, is_bad: impl FnOnce(Arm) -> bool) -> Arm {
        let ticket = dispatcher.route(&Prompt { tokens: 9, ..Prompt::default() }, &[]).unwrap();
        let arm = ticket.arm;
        if is_bad(arm) {
            ticket.failed();
        } else {
            ticket.finished(None, 3);
        }
        arm
    }

    fn why_stopped(dispatcher: &Dispatcher) -> Option<Stop> {
        dispatcher.canary().unwrap().stopped.map(|stopped| stopped.why)
    }

    #[test]
    fn a_canary_whose_requests_fail_is_stopped_and_one_whose_do_not_is_not() {
        let dispatcher = with_canary(3, 30.0);
        for number in 0..4_000 {
            // Both fail now and then.
            serve(&dispatcher, |_| number % 50 == 0);
        }
        assert_eq!(why_stopped(&dispatcher), None);
        for _ in 0..4_000 {
            serve(&dispatcher, |arm| arm == Arm::Canary);
        }
        assert_eq!(why_stopped(&dispatcher), Some(Stop::Errors));
        assert!(dispatcher.canary().unwrap().percent <= 0.0);
        let failed = dispatcher.counters().of(Arm::Canary).failed.get();
        assert!(failed < 400, "{failed} before it was stopped");
        assert!((0..100).all(|_| serve(&dispatcher, |_| false) == Arm::Baseline));
    }

    /// What the canary was worse than may have been better than what decides now.
    #[test]
    fn another_policy_is_compared_anew() {
        let all = |dispatcher: &Arc<Dispatcher>, requests| {
            for _ in 0..requests {
                serve(dispatcher, |arm| arm == Arm::Canary);
            }
        };
        // So many that one more of each arm would be enough.
        let enough = {
            let dispatcher = with_canary(2, 50.0);
            let stops = |_: &i32| {
                all(&dispatcher, 1);
                why_stopped(&dispatcher).is_some()
            };
            (1..).find(stops).unwrap()
        };
        let dispatcher = with_canary(2, 50.0);
        all(&dispatcher, enough - 1);
        let route = || dispatcher.route(&Prompt { tokens: 9, ..Prompt::default() }, &[]).unwrap();
        let under_way: Vec<_> = (0..2 * enough).map(|_| route()).collect();
        dispatcher.switch(&PolicyConfig::Random, None).unwrap();
        under_way.into_iter().filter(|ticket| ticket.arm == Arm::Canary).for_each(Ticket::failed);
        assert_eq!(why_stopped(&dispatcher), None, "these say nothing of the policy of now");
        all(&dispatcher, 100);
        assert_eq!(why_stopped(&dispatcher), None, "too few of each");
        all(&dispatcher, 2 * enough);
        assert_eq!(why_stopped(&dispatcher), Some(Stop::Errors));
        assert_eq!(dispatcher.router_config().policy, PolicyConfig::Random);
        assert_eq!(dispatcher.router_configs()[1].policy, PolicyConfig::RoundRobin);
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
