//! The one place with the router's state, behind one lock that is held for a decision or a fact and never
//! across a wait.
//!
//! Not sharded by core or request: a decision must see every reservation made before it, or a burst of
//! requests all find the same idle instance.

mod ticket;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lodestar_router::{
    Checkpoint, CheckpointError, Decision, Event, Fleet, Instance, InstanceId, InstanceMetrics,
    InstanceNames, InstanceSpec, Learning, Load, LogEntry, Objective, PolicyConfig, Reason,
    Rejected, Request, RequestId, Router, RouterConfig, Scraped, Time, TrainingJob,
};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::arms::{Arm, Arms, Stop, Stopped, Views};
use crate::backend::Backend;
use crate::counters::Counters;
use crate::load_report::LoadReport;
use crate::progress::Progress;
use crate::prompt::Prompt;
use crate::ramp::{RAMP, most_requests};
use crate::recent::{Explained, Recent};
use crate::telemetry::Span;
use crate::trainer::{Trainer, Training};
use crate::verdict::Evidence;

pub(crate) use ticket::Ticket;

/// Decides where requests go, and keeps the books on those that are under way.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    origin: Instant,
    block_tokens: u32,
    counters: Counters,
    recent: Recent,
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
            recent: Recent::default(),
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

    /// The policy by which a router decides now.
    pub(crate) fn policy_name(&self, arm: Arm) -> String {
        let (_, state) = self.lock();
        let canary = state.router.canary().filter(|_| arm == Arm::Canary);
        canary.map_or(&state.config, |canary| canary.config()).policy.name().into_owned()
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
    pub(crate) fn restore(&self, arm: Arm, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
        let (now, mut state) = self.lock();
        let names = state.names();
        state.router.restore(now, arm, checkpoint, &names)
    }

    /// Numbers instances that will join, in this order, whoever is ready first.
    pub(crate) fn expect<'a>(&self, urls: impl Iterator<Item = &'a str>) {
        let (_, mut guard) = self.lock();
        let state = &mut *guard;
        for url in urls {
            state.expected.entry(url.to_owned()).or_insert_with(|| {
                state.next_instance += 1;
                InstanceId(state.next_instance - 1)
            });
        }
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

    /// An answer has said how its instance stands.
    pub(crate) fn load_reported(&self, instance: InstanceId, report: LoadReport) {
        let (now, mut state) = self.lock();
        let LoadReport { waiting_requests, kv_usage } = report;
        state.router.observe(now, &Event::LoadReported { instance, waiting_requests, kv_usage });
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
        // That it is dispatched the router is not told: it may take its time with the next fact, as of a first token, and a lock for
        // that alone is 4 us of CPU a request.
        // Still locked: before or after a change of the policy, and not in between.
        let routed_at = Instant::now();
        drop(state);
        member.backend.begun();
        let (predicted_cached_tokens, reason) = (decision.prefix_hit_tokens, decision.reason);
        let candidates = &decision.candidates;
        let chosen = candidates.binary_search_by_key(&decision.instance, |it| it.instance);
        let predicted_ttft = chosen.ok().and_then(|chosen| candidates[chosen].predicted_ttft);
        let explained = Explained::new(id, request.prompt_tokens, decision);
        self.recent.decided(explained, !avoid.is_empty());
        Ok(Ticket {
            dispatcher: Arc::clone(self),
            member,
            request: id,
            arm,
            prompt_tokens: request.prompt_tokens,
            predicted_cached_tokens,
            reason,
            predicted_ttft,
            span: Span::default(),
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

    /// What has happened lately.
    pub(crate) const fn recent(&self) -> &Recent {
        &self.recent
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

#[cfg(test)]
mod tests;
