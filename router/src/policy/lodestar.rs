//! Lodestar: the least expected time to first token, and the least delay for those who come after.
//!
//! For each instance, `T = W + s + c` is expected and the lowest `T + E + D + P` is chosen:
//!
//! - `W` is what is left of the prefills ahead, `s` the request's own, `c` what does not queue. They follow from a
//!   few coefficients per instance that are learned from its first tokens ([`law`]), and from the
//!   order in which it works ([`server`]). Where an engine is full, `c` has what it takes until answers end ([`places`]).
//! - `E = λᵢ · s · (W' + s/2) / (1 − ρ)` is the delay of others. An instance with work `W` ahead, as a queue
//!   with Poisson arrivals `λᵢ` and utilisation `ρ`, expects `λᵢ · W² / 2(1 − ρ)` more waiting in all than an
//!   idle one; `E` is the difference that `s` makes. Choosing by it is one step of policy iteration from
//!   a random choice in proportion to speed, which gives each instance its part `λᵢ` of all arrivals (Krishnan, 1987; Hyytiä,
//!   Penttinen and Aalto, 2012); an even part where that is more, for the sake of the tail. `W'` is what is left of `W` when
//!   they come: as long as they are better off elsewhere, they go there ([`elsewhere`]).
//! - `D` is what an answer makes those wait who come while it is decoded: each step is longer by it ([`prospect`]).
//! - `P = p · (s + o)` is what leaves the cache and must be computed again ([`reuse`]); `o` is the answer's part.
//!
//! Where a prefix is often missed, what those who come later gain by another copy is taken off ([`copies`]).
//!
//! A server of which little is known gets the benefit of the doubt: its times count for less until samples
//! are in. Each instance is tried, and a slow one only a few times; one of which the kind is known ([`fleet`]) may wait.

mod caution;
mod copies;
mod elsewhere;
mod fleet;
mod law;
mod learned;
mod objective;
mod part;
mod places;
mod prospect;
mod residual;
mod reuse;
mod server;
mod trust;
mod turnover;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use serde::{Deserialize, Serialize};

use caution::{Arm, COLD_SAMPLES, Caution};
use copies::Copies;
use elsewhere::AveragePrompt;
use fleet::Fleet;
use law::Work;
pub(crate) use learned::LodestarLearned;
pub use objective::Objective;
pub use part::Part;
use prospect::{Glance, Prospect, Works};
use residual::Residual;
use reuse::Reuse;
use server::{Place, Sample, Server};

use super::mooncake::Mooncake;
use super::per_instance::PerInstance;
use super::{Choice, Eligible, Fact, Policy, percent};
use crate::checkpoint::{CheckpointError, InstanceNames, Learned};
use crate::decision::{Reason, Terms};
use crate::event::{InstanceId, Usage};
use crate::ledger::Reservation;
use crate::request::{BlockHash, Request, RequestId};
use crate::rng::Rng;
use crate::time::{Duration, Time};
use crate::training::{Learning, Model, TrainingJob};

/// Time constant of the arrival rate, s.
const RATE_AVERAGE_S: f64 = 30.0;
/// The highest utilisation that is believed: beyond it a queue grows, and its delay has no mean.
const UTILISATION_MAX: f64 = 0.9;
/// Exploring looks at instances whose cost is at most so many times the lowest.
const EXPLORED_COST: f64 = 1.2;
/// The quantile of times to first token from which on they are the tail, and how fast it is followed.
const TAIL: f64 = 0.9;
const TAIL_STEP: f64 = 0.02;
/// Weight of the next answer's length in the mean, once there are many.
const ANSWER_WEIGHT: f64 = 0.01;

/// Parameters of [`PolicyConfig::Lodestar`](crate::PolicyConfig::Lodestar).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LodestarParams {
    /// What to make small.
    pub objective: Objective,
    /// What to do without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub without: Option<Part>,
    /// How many in a hundred first tokens the network is trained on. Coefficients learn from all.
    #[serde(deserialize_with = "percent")]
    pub training_percent: u8,
}

impl Default for LodestarParams {
    fn default() -> Self {
        Self { objective: Objective::default(), without: None, training_percent: 100 }
    }
}

#[derive(Debug)]
pub(super) struct Lodestar {
    objective: Objective,
    without: Option<Part>,
    servers: PerInstance<Server>,
    /// What a new instance is believed to be.
    fleet: Fleet,
    /// What was expected of the answers under way.
    decoding: HashMap<RequestId, (InstanceId, Work), FxBuildHasher>,
    /// The 90th percentile of recent times to first token, s.
    tail_s: f64,
    residual: Residual,
    reuse: Reuse,
    copies: Copies,
    caution: Caution,
    /// Decides when the learned choice should not: it has no knob and knows nothing of the above.
    heuristic: Mooncake,
    /// Arrivals a second.
    rate: f64,
    arrived_at: Time,
    mean_answer_tokens: f64,
    average_prompt: AveragePrompt,
    answers: u64,
    /// Scratch of [`choose`](Policy::choose), and the last request's prospects.
    glances: Vec<Glance>,
    prospects: Vec<Prospect>,
    scores: Vec<f64>,
    nearest: Vec<usize>,
    /// The one that was chosen last, and by whom.
    chosen: (Prospect, Works, Arm),
    /// The last block of the last prompt that anybody holds.
    prefix: Option<BlockHash>,
}

/// The highest cost at which exploring looks. The credit of a copy may make the lowest negative, which is near to itself.
const fn near(lowest: f64) -> f64 {
    (EXPLORED_COST * lowest).max(lowest)
}

impl Lodestar {
    pub(super) fn new(params: LodestarParams, rng: Rng) -> Self {
        Self {
            objective: params.objective,
            without: params.without,
            servers: PerInstance::default(),
            fleet: Fleet::default(),
            decoding: HashMap::default(),
            tail_s: 0.0,
            residual: Residual::new(rng, params.training_percent),
            reuse: Reuse::default(),
            copies: Copies::default(),
            caution: Caution::default(),
            heuristic: Mooncake::default(),
            rate: 0.0,
            arrived_at: Time::ZERO,
            mean_answer_tokens: 0.0,
            average_prompt: AveragePrompt::default(),
            answers: 0,
            glances: Vec::new(),
            prospects: Vec::new(),
            scores: Vec::new(),
            nearest: Vec::new(),
            chosen: Default::default(),
            prefix: None,
        }
    }

    fn has(&self, part: Part) -> bool {
        self.without != Some(part)
    }

    /// `secs`, or nothing without that part.
    fn part(&self, part: Part, secs: f64) -> f64 {
        if self.has(part) { secs } else { 0.0 }
    }

    fn arrive(&mut self, now: Time) {
        let secs = now.saturating_since(self.arrived_at).as_secs_f64();
        self.arrived_at = now;
        self.rate = self.rate * libm::exp(-secs / RATE_AVERAGE_S) + 1.0 / RATE_AVERAGE_S;
    }

    /// Learns from a first token.
    fn learn(&mut self, now: Time, instance: InstanceId, sample: &Sample) {
        let Place { features, expected_s, predicted_s, arm, .. } = sample.place;
        self.caution.learn(arm, predicted_s, sample.ttft_s);
        self.residual.learn(&features, sample.ttft_s / expected_s.max(1e-3));
        let server = self.servers.entry(instance);
        if server.check_recalled(sample) {
            server.forget();
            self.servers.iter_mut().filter(|server| server.is_unchecked()).for_each(Server::forget);
            self.fleet.forget_kinds();
            self.copies = Copies::default();
            self.residual.forget();
        }
        let forgets = self.has(Part::Drift);
        let server = self.servers.entry(instance);
        if server.notice_drift(sample) && forgets {
            server.doubt_law();
        }
        server.learn(now, sample, self.fleet.ttft(server.kind));
        self.fleet.learn_ttft(server.kind, &sample.work, sample.secs);
        let share = if sample.ttft_s > self.tail_s { TAIL } else { TAIL - 1.0 };
        self.tail_s += TAIL_STEP * sample.ttft_s.max(self.tail_s) * share;
    }

    /// Learns from an answer that came whole, as answers do that are not streamed: what its later tokens should have
    /// taken is left out. Where that is most of it, nothing is learned.
    fn learn_from_whole(
        &mut self,
        now: Time,
        reservation: &Reservation,
        usage: Usage,
        decode: Option<Work>,
    ) {
        let server = self.servers.entry(reservation.instance);
        let Some(mut sample) = server.pop(now, reservation.request) else { return };
        let token_s = decode.map_or(0.0, |decode| server.tpot(&self.fleet).secs(&decode));
        let decode_s = f64::from(usage.output_tokens.saturating_sub(1)) * token_s;
        if decode_s < sample.ttft_s / 2.0 {
            sample.ttft_s -= decode_s;
            sample.secs = (sample.secs - decode_s).max(sample.ttft_s);
            self.learn(now, reservation.instance, &sample);
        }
    }

    /// Leaves the learned choice as it is, or makes another one in its place.
    fn second_thoughts(
        &mut self,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        choice: &mut Choice,
        rng: &mut Rng,
    ) -> Arm {
        let greedy = choice.index;
        let lowest = choice.candidates[greedy].score;
        if self.fleet.all.ttft.samples() < COLD_SAMPLES {
            (choice.index, choice.propensity) = self.heuristic.pick(request, eligible, rng);
            choice.reason = Reason::ColdStart;
            return Arm::Heuristic;
        }
        let shares = self.caution.shares(self.without);
        let arm = self.caution.draw(shares, rng);
        let (heuristic, heuristic_share) = self.heuristic.pick(request, eligible, rng);
        let is_near = |score: f64| score <= near(lowest);
        let near = choice.candidates.iter().filter(|candidate| is_near(candidate.score)).count();
        match arm {
            Arm::Learned => {}
            Arm::Heuristic => {
                choice.index = heuristic;
                choice.reason = if self.caution.has_stepped_back() {
                    Reason::Guardrail
                } else {
                    Reason::Holdout
                };
            }
            Arm::Explore => {
                let drawn = rng.below(near);
                let mut indices = (0..choice.candidates.len())
                    .filter(|&index| is_near(choice.candidates[index].score));
                choice.index = indices.nth(drawn).expect("as many as were counted");
                choice.reason = Reason::Explore;
                choice.explored = true;
            }
        }
        let score = choice.candidates[choice.index].score;
        let of = |share: f64, is_its_own: bool| if is_its_own { share } else { 0.0 };
        choice.propensity = of(shares.learned * choice.propensity, choice.index == greedy)
            + of(shares.heuristic * heuristic_share, choice.index == heuristic)
            + of(shares.explore / near as f64, is_near(score));
        let regret_s = if arm == Arm::Explore { score - lowest } else { 0.0 };
        self.caution.spend(lowest.max(0.0), regret_s);
        arm
    }

    /// A request went where it was chosen to go.
    fn routed(&mut self, now: Time, reservation: &Reservation) {
        self.average_prompt.add(reservation.prompt_tokens, reservation.uncached_tokens);
        let (prospect, works, arm) = self.chosen;
        let Prospect { features, expected_s, ttft_s, .. } = prospect;
        let Works { serial, constant, decode } = works;
        self.decoding.insert(reservation.request, (reservation.instance, decode));
        let server = self.servers.entry(reservation.instance);
        let place = Place { features, expected_s, predicted_s: ttft_s, arm };
        server.places.sent();
        server.push(now, reservation.request, serial, constant, place);
        if let Some(prefix) = self.prefix
            && prospect.copy_s > 0.0
        {
            self.copies.made(prefix);
        }
        let Server { turnover, capacity_tokens, .. } = server;
        match self.reuse.last_prompt() {
            Some((blocks, tokens)) => turnover.use_blocks(now, blocks, tokens, *capacity_tokens),
            None => turnover.take_in(now, reservation.uncached_tokens, *capacity_tokens),
        }
    }
}

impl Policy for Lodestar {
    fn choose(
        &mut self,
        now: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        self.arrive(now);
        let mut prospects = std::mem::take(&mut self.prospects);
        self.expect_all(now, request, eligible, &mut prospects);
        let mut scores = std::mem::take(&mut self.scores);
        self.score(now, request, eligible, &mut prospects, &mut scores);
        let mut choice = eligible.lowest(Reason::LeastLatency, rng, |index| scores[index]);
        self.scores = scores;
        let arm = self.second_thoughts(request, eligible, &mut choice, rng);
        // Not `round`: the oldest x86-64 has no instruction for it.
        let duration = |secs: f64| Duration::from_nanos((secs * 1e9 + 0.5) as u64);
        for (candidate, prospect) in choice.candidates.iter_mut().zip(&prospects) {
            candidate.predicted_ttft = Some(duration(prospect.ttft_s));
            candidate.predicted_ttft_range =
                prospect.is_corrected.then(|| prospect.range_s.map(duration));
            candidate.terms = Some(Terms {
                wait: duration(prospect.wait_s),
                service: duration(prospect.service_s),
                imposed_delay: duration(prospect.imposed_s),
                cache_price: duration(prospect.price_s),
                copy_credit: duration(prospect.credit_s),
            });
        }
        self.prospects = prospects;
        let (prospect, works) = self.closer_prospect(now, request, eligible, choice.index);
        self.chosen = (prospect, works, arm);
        self.reuse.used(now, request.block_hashes, eligible.match_block_tokens);
        choice
    }

    /// What comes of it is none of the arms' doing, and counts for none, as if the lot had chosen.
    fn overruled(&mut self, request: &Request<'_>, eligible: &Eligible<'_>, index: usize) {
        let (prospect, works) = self.closer_prospect(self.arrived_at, request, eligible, index);
        self.chosen = (prospect, works, Arm::Explore);
    }

    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        self.heuristic.observe(now, fact);
        match *fact {
            Fact::Routed(reservation) => self.routed(now, reservation),
            Fact::FirstToken(reservation) => {
                let server = self.servers.entry(reservation.instance);
                server.places.first_token();
                if let Some(sample) = server.pop(now, reservation.request) {
                    self.learn(now, reservation.instance, &sample);
                }
            }
            Fact::Finished(reservation, usage) => {
                self.answers += 1;
                let weight = ANSWER_WEIGHT.max(1.0 / self.answers as f64);
                self.mean_answer_tokens +=
                    weight * (f64::from(usage.output_tokens) - self.mean_answer_tokens);
                let server = self.servers.entry(reservation.instance);
                server.places.ended(reservation.first_token_at.is_some());
                server.turnover.take_in(now, usage.output_tokens, server.capacity_tokens);
                if let Some(found_tokens) = usage.cached_tokens
                    && self.without != Some(Part::Trust)
                {
                    let hit_tokens = reservation.prompt_tokens - reservation.uncached_tokens;
                    // The engine's tokens, as many as they are of the prompt in the router's, which may be bytes by four.
                    let found_tokens = u64::from(found_tokens)
                        * u64::from(reservation.prompt_tokens)
                        / u64::from(usage.prompt_tokens.max(1));
                    server.trust.learn(hit_tokens, found_tokens);
                }
                let decode = self.decoding.remove(&reservation.request);
                if reservation.first_token_at.is_none() {
                    self.learn_from_whole(
                        now,
                        reservation,
                        usage,
                        decode.map(|(_, decode)| decode),
                    );
                    return;
                }
                if let (Some(first), Some((_, decode)), 2..) =
                    (reservation.first_token_at, decode, usage.output_tokens)
                {
                    let tokens = f64::from(usage.output_tokens - 1);
                    let secs = now.saturating_since(first).as_secs_f64() / tokens;
                    server.tpot.learn(&decode, secs, Some(self.fleet.tpot(server.kind)));
                    self.fleet.learn_tpot(server.kind, &decode, secs);
                }
            }
            Fact::Failed(reservation) => {
                self.decoding.remove(&reservation.request);
                let server = self.servers.entry(reservation.instance);
                server.places.ended(reservation.first_token_at.is_some());
                server.abandon(now, reservation.request);
            }
            Fact::Left(instance) => {
                self.decoding.retain(|_, (place, _)| *place != instance);
                self.servers.remove(instance);
            }
            Fact::Scraped(instance, metrics) => {
                self.servers.entry(instance).places.scraped(metrics);
            }
        }
    }

    fn training_job(&mut self, now: Time, _: &mut Rng) -> Option<TrainingJob> {
        self.residual.training_job(now)
    }

    fn install(&mut self, _: Time, model: Model) {
        self.residual.install(model);
    }

    fn abandon_training(&mut self) {
        self.residual.abandon_training();
    }

    fn learned(&self, names: &InstanceNames) -> Option<Learned> {
        Some(Learned::Lodestar(Box::new(LodestarLearned::of(self, names))))
    }

    fn restore(
        &mut self,
        now: Time,
        learned: &Learned,
        names: &InstanceNames,
    ) -> Result<(), CheckpointError> {
        let Learned::Lodestar(learned) = learned;
        learned.restore(self, now, names)
    }

    fn set_objective(&mut self, objective: Objective) {
        self.objective = objective;
    }

    fn learning(&self) -> Option<Learning> {
        Some(Learning {
            samples: self.fleet.all.ttft.samples(),
            coverage: self.residual.coverage(),
            error_factor: libm::exp(self.caution.log_error()),
            trusts_network: self.residual.is_trusted(),
            has_stepped_back: self.caution.has_stepped_back(),
        })
    }
}

#[cfg(test)]
mod tests;
