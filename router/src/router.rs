//! The router: facts in, decisions out. It ties policy, ledger and prefix index together and contains
//! no algorithm of its own.
//!
//! Sans-I/O: no clock, no socket, no lock. Whoever drives it says what time it is and what happened, so
//! the same code decides in a simulation, in a proxy, and in the replay of a log.

use crate::checkpoint::{Checkpoint, CheckpointError, InstanceNames};
use crate::config::{PolicyConfig, RouterConfig};
use crate::decision::{Decision, Rejected};
use crate::event::{Event, InstanceId, InstanceSpec, Scraped};
use crate::fleet::Fleet;
use crate::information::{Information, Sources};
use crate::ledger::{Ledger, Reservation};
use crate::log::{Log, LogEntry, Routing};
use crate::policy::{self, Eligible, Fact, Objective, Policy};
use crate::prefix_index::{Match, PrefixIndex};
use crate::prefix_knowledge::PrefixKnowledge;
use crate::request::{BlockHash, Request, RequestId};
use crate::rng::Rng;
use crate::time::Time;
use crate::training::{Learning, Model, TrainingJob};

/// Chooses an instance for each request. What it decides depends on its configuration, its seed and the
/// sequence of calls, and on nothing else.
#[derive(Debug)]
pub struct Router {
    block_tokens: u32,
    information: Information,
    seed: u64,
    policy: Box<dyn Policy>,
    /// Policies before this one.
    policy_number: u32,
    rng: Rng,
    fleet: Fleet,
    ledger: Ledger,
    sources: Sources,
    prefixes: PrefixKnowledge,
    /// Scratch of [`route`](Self::route).
    positions: Vec<usize>,
    /// Scratch of [`route`](Self::route).
    matches: Vec<Match>,
    /// The last decision, until policy and prefix index are told of it: its reservation, and its instance's position.
    untold: Option<(Reservation, usize)>,
    /// Block hashes of its prompt.
    untold_blocks: Vec<BlockHash>,
    /// If it writes down its calls.
    log: Option<Log>,
}

impl Router {
    /// A router without instances.
    pub fn new(config: RouterConfig, seed: u64) -> Self {
        let RouterConfig { policy, block_tokens, information } = config;
        assert!(block_tokens > 0, "a block has at least one token");
        let sources = Sources::of(&policy, information);
        Self {
            block_tokens,
            information,
            seed,
            policy: policy::build(&policy, seed),
            policy_number: 0,
            rng: Rng::fork(seed, "policy"),
            fleet: Fleet::default(),
            ledger: Ledger::default(),
            sources,
            prefixes: PrefixKnowledge::new(sources.prefix, block_tokens),
            positions: Vec::new(),
            matches: Vec::new(),
            untold: None,
            untold_blocks: Vec::new(),
            log: None,
        }
    }

    /// A router without instances that writes down every call, for [`take_log`](Self::take_log).
    pub fn recording(config: RouterConfig, seed: u64) -> Self {
        let log = Some(Log::new(&config, seed));
        Self { log, ..Self::new(config, seed) }
    }

    /// The calls since the last time, oldest first; none from a router that writes nothing down. Entries that
    /// are not taken stay in memory.
    pub fn take_log(&mut self) -> Vec<LogEntry> {
        self.log.as_mut().map(Log::take).unwrap_or_default()
    }

    /// Writes down no more.
    pub fn stop_recording(&mut self) {
        self.log = None;
    }

    /// Decides where a request goes, and reserves its place there in the same step: the next call sees
    /// it. The prompt's blocks count as held by the chosen instance from now on. What that takes is left to the next call:
    /// [`Event::Dispatched`], for one, when the request is on its way.
    ///
    /// Panics if the request has more full blocks than its prompt has tokens for.
    pub fn route(&mut self, now: Time, request: &Request<'_>) -> Result<Decision, Rejected> {
        self.route_avoiding(now, request, &[])
    }

    /// [`Self::route`] for a request that the instances in `avoid` did not take a moment ago: it goes to
    /// another one, or is [`Rejected::NoInstance`] if there is none.
    ///
    /// Panics as [`Self::route`] does.
    pub fn route_avoiding(
        &mut self,
        now: Time,
        request: &Request<'_>,
        avoid: &[InstanceId],
    ) -> Result<Decision, Rejected> {
        self.answer(now, request, avoid, None)
    }

    /// Says what it would decide, and books the request on `placed`, where it went in truth: for a router that
    /// follows what another one does. [`Rejected::NoInstance`] if that instance could not be chosen.
    ///
    /// Panics as [`Self::route`] does.
    pub fn route_as(
        &mut self,
        now: Time,
        request: &Request<'_>,
        avoid: &[InstanceId],
        placed: InstanceId,
    ) -> Result<Decision, Rejected> {
        self.answer(now, request, avoid, Some(placed))
    }

    fn answer(
        &mut self,
        now: Time,
        request: &Request<'_>,
        avoid: &[InstanceId],
        placed: Option<InstanceId>,
    ) -> Result<Decision, Rejected> {
        let answer = self.decide(now, request, avoid, placed);
        if let Some(log) = &mut self.log {
            let (request, avoid) = (request.into(), avoid.to_vec());
            let answer = answer.clone();
            log.push(LogEntry::Route(Routing { now, request, avoid, placed, answer }));
        }
        answer
    }

    fn decide(
        &mut self,
        now: Time,
        request: &Request<'_>,
        avoid: &[InstanceId],
        placed: Option<InstanceId>,
    ) -> Result<Decision, Rejected> {
        self.catch_up();
        let blocks = request.block_hashes.len() as u64;
        assert!(
            blocks * u64::from(self.block_tokens) <= u64::from(request.prompt_tokens),
            "{blocks} full blocks are more than a prompt of {} tokens has",
            request.prompt_tokens
        );
        if self.ledger.holds(request.id) {
            return Err(Rejected::DuplicateRequest { request: request.id });
        }
        let positions = self.fleet.eligible(request.prompt_tokens, avoid, &mut self.positions)?;
        self.prefixes.lookup(now, request.block_hashes, &mut self.matches);
        let eligible = Eligible {
            instances: self.fleet.instances(),
            positions,
            matches: &self.matches,
            match_block_tokens: self.prefixes.block_tokens(),
            // vLLM computes the last prompt token in any case, for its logits.
            reusable_tokens: request.prompt_tokens.saturating_sub(1) / self.block_tokens
                * self.block_tokens,
            sources: self.sources,
        };
        let placed = match placed {
            Some(placed) => Some(eligible.index_of(placed).ok_or(Rejected::NoInstance)?),
            None => None,
        };
        let choice = self.policy.choose(now, request, &eligible, &mut self.rng);
        let index = placed.unwrap_or(choice.index);
        if index != choice.index {
            self.policy.overruled(request, &eligible, index);
        }
        let chosen = eligible.get(choice.index).id;
        let prefix_hit_tokens = eligible.prefix_hit_tokens(choice.index);
        let uncached_tokens = eligible.uncached_tokens(index, request);

        let position = eligible.position(index);
        let instance = self.fleet.at_mut(position);
        let by = self.policy_number;
        let reservation = self.ledger.reserve(now, request, uncached_tokens, instance, by);
        self.untold = Some((reservation, position));
        self.untold_blocks.clear();
        self.untold_blocks.extend_from_slice(request.block_hashes);
        Ok(Decision {
            instance: chosen,
            reason: choice.reason,
            explored: choice.explored,
            propensity: choice.propensity,
            prefix_hit_tokens,
            candidates: choice.candidates,
        })
    }

    /// Tells policy and prefix index of the last decision, before anything else happens. That takes longer than the decision if
    /// the prompt is new to its instance, and nobody has to wait for it.
    fn catch_up(&mut self) {
        let Some((reservation, position)) = self.untold.take() else { return };
        let now = reservation.routed_at;
        self.policy.observe(now, &Fact::Routed(&reservation));
        let blocks = &self.untold_blocks;
        self.prefixes.routed(now, position, reservation.request, blocks, &self.matches);
    }

    /// Takes note of a fact. Facts about requests and instances it does not know are ignored.
    pub fn observe(&mut self, now: Time, event: &Event<'_>) {
        if let Some(log) = &mut self.log {
            log.push(LogEntry::Observe { now, event: event.clone().into_owned() });
        }
        self.catch_up();
        match *event {
            Event::InstanceJoined { instance, spec } => self.join(instance, spec),
            Event::InstanceLeft { instance } => self.leave(now, instance),
            Event::MetricsScraped { instance, scraped } => self.scraped(now, instance, scraped),
            // No scrape: policies that count what came between two of those go on counting.
            Event::LoadReported { instance, waiting_requests, kv_usage } => {
                let known = self.fleet.get_mut(instance).and_then(|it| it.scraped.as_mut());
                if let Some(Scraped { metrics, .. }) = known {
                    (metrics.waiting_requests, metrics.kv_usage) = (waiting_requests, kv_usage);
                }
            }
            Event::BlocksStored { instance, parent, ref blocks } => {
                if let Some((index, position)) = self.index_of(instance) {
                    index.stored(position, parent, blocks);
                }
            }
            Event::BlocksRemoved { instance, ref blocks } => {
                if let Some((index, position)) = self.index_of(instance) {
                    index.removed(position, blocks);
                }
            }
            Event::BlocksCleared { instance } => {
                if let Some((index, position)) = self.index_of(instance) {
                    index.clear(position);
                }
            }
            Event::FirstToken { request } => self.grow(now, request, 1),
            Event::Progress { request, output_tokens } => self.grow(now, request, output_tokens),
            Event::Finished { request, usage } => {
                self.prefixes.settled(request);
                if let Some(reservation) = self.ledger.release(request, &mut self.fleet) {
                    self.tell_of(&reservation, now, &Fact::Finished(&reservation, usage));
                }
            }
            Event::DispatchFailed { request } | Event::Aborted { request } => {
                self.prefixes.settled(request);
                if let Some(reservation) = self.ledger.release(request, &mut self.fleet) {
                    self.tell_of(&reservation, now, &Fact::Failed(&reservation));
                }
            }
            // Both only give the router time.
            Event::Dispatched { .. } | Event::Timer => {}
        }
    }

    /// When it wants an [`Event::Timer`], if ever. Ask again after each call.
    pub fn next_wakeup(&self) -> Option<Time> {
        None
    }

    /// Work to do elsewhere, if there is any. Its result goes to [`install`](Self::install).
    pub fn training_job(&mut self, now: Time) -> Option<TrainingJob> {
        self.catch_up();
        let mut job = self.policy.training_job(now, &mut self.rng)?;
        job.policy_number = self.policy_number;
        if let Some(log) = &mut self.log {
            log.job_taken(now);
        }
        Some(job)
    }

    /// How many policies there were before this one.
    pub(crate) const fn policy_number(&self) -> u32 {
        self.policy_number
    }

    /// Takes the result of a [`TrainingJob`] into use, unless it is another policy's ([`set_policy`](Self::set_policy)).
    pub fn install(&mut self, now: Time, model: Model) {
        if model.policy_number != self.policy_number {
            return;
        }
        if let Some(log) = &mut self.log {
            log.installed(now);
        }
        self.catch_up();
        self.policy.install(now, model);
    }

    /// A [`TrainingJob`] with that [number](TrainingJob::policy_number) was lost, so no model comes of it; there may be another.
    pub fn abandon_training(&mut self, policy_number: u32) {
        if policy_number != self.policy_number {
            return;
        }
        if let Some(log) = &mut self.log {
            log.push(LogEntry::AbandonTraining);
        }
        self.catch_up();
        self.policy.abandon_training();
    }

    /// What the policy has learned, with instances by name; `None` if it learns nothing that can be kept.
    pub fn checkpoint(&self, names: &InstanceNames) -> Option<Checkpoint> {
        self.policy.learned(names).map(Checkpoint::new)
    }

    /// Goes on from what was known; before the first request. `names` may be of instances that have not joined yet. Those
    /// that the checkpoint does not know start from what it knows of the fleet.
    ///
    /// # Errors
    /// When it is another version's or policy's, or damaged. Then nothing has changed.
    pub fn restore(
        &mut self,
        now: Time,
        checkpoint: &Checkpoint,
        names: &InstanceNames,
    ) -> Result<(), CheckpointError> {
        self.catch_up();
        self.policy.restore(now, checkpoint.learned()?, names)?;
        if let Some(log) = &mut self.log {
            let (checkpoint, names) = (Box::new(checkpoint.clone()), names.clone());
            log.push(LogEntry::Restore { now, checkpoint, names });
        }
        Ok(())
    }

    /// Has the policy pursue another objective from now on; without effect on one that has none.
    pub fn set_objective(&mut self, objective: Objective) {
        if let Some(log) = &mut self.log {
            log.push(LogEntry::SetObjective { objective });
        }
        self.catch_up();
        self.policy.set_objective(objective);
    }

    /// Has another policy decide from now on, which has learned nothing yet; the same one begins anew. Instances, requests in
    /// flight and what they owe stay as they are; what is known of caches stays if both policies look at them alike. The new
    /// policy is told of no decision of the old one, and takes no model of it.
    pub fn set_policy(&mut self, policy: &PolicyConfig) {
        if let Some(log) = &mut self.log {
            log.push(LogEntry::SetPolicy { policy: policy.clone() });
        }
        self.catch_up();
        let sources = Sources::of(policy, self.information);
        if sources.prefix != self.sources.prefix {
            self.prefixes = PrefixKnowledge::new(sources.prefix, self.block_tokens);
            for instance in self.fleet.instances() {
                self.prefixes.join(instance.id, instance.spec);
            }
        }
        self.sources = sources;
        self.policy = policy::build(policy, self.seed);
        self.policy_number += 1;
    }

    /// How the policy's learning goes, if it learns.
    pub fn learning(&self) -> Option<Learning> {
        self.policy.learning()
    }

    /// The instances and what each owes, for dashboards and tests.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Tells the policy of a request, if it was its own decision: others are not in its books.
    fn tell_of(&mut self, reservation: &Reservation, now: Time, fact: &Fact<'_>) {
        if reservation.policy_number == self.policy_number {
            self.policy.observe(now, fact);
        }
    }

    fn join(&mut self, instance: InstanceId, spec: InstanceSpec) {
        if self.fleet.join(instance, spec) {
            self.prefixes.join(instance, spec);
        }
    }

    fn leave(&mut self, now: Time, instance: InstanceId) {
        let Some(position) = self.fleet.position(instance) else { return };
        self.fleet.leave(position);
        self.ledger.forget(instance);
        self.prefixes.leave(position);
        self.policy.observe(now, &Fact::Left(instance));
    }

    fn scraped(&mut self, now: Time, id: InstanceId, scraped: Scraped) {
        let Some(instance) = self.fleet.get_mut(id) else { return };
        // Scrapes overtake each other.
        if instance.scraped.is_none_or(|known| known.at <= scraped.at) {
            instance.scraped = Some(scraped);
            self.policy.observe(now, &Fact::Scraped(id, scraped.metrics));
        }
    }

    fn grow(&mut self, now: Time, request: RequestId, output_tokens: u32) {
        let first = self.ledger.grow(now, request, output_tokens, &mut self.fleet);
        if let Some(reservation) = first {
            self.prefixes.settled(request);
            self.tell_of(&reservation, now, &Fact::FirstToken(&reservation));
        }
    }

    /// The index that hears of the instance's blocks and its position there, if both exist. Index and
    /// fleet are joined and left together and both are ordered by id: a position means the same in both.
    fn index_of(&mut self, instance: InstanceId) -> Option<(&mut PrefixIndex, usize)> {
        Some((self.prefixes.listener()?, self.fleet.position(instance)?))
    }
}
