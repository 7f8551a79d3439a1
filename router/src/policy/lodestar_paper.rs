//! The published Lodestar router (arXiv 2606.00946): what our own policy is compared with.
//!
//! One network, shared by all instances, predicts the reward of sending a request to an instance: minus its time to
//! first token, in seconds. The highest reward wins. Every sample is of the instance that was chosen, as it stood before
//! the choice; training starts from scratch, on the newest samples and a replay of older ones ([`memory`]).
//!
//! As described ([`Params::PAPER`]): exploration, a filter that leaves two candidates when caches are full, and the
//! paper's `prefix_cache_1` instead while nothing has been learned or something is unlike all that was. As its final
//! experiments ran it ([`Params::AS_SHIPPED`]): none of these but the last one's first half, and samples above 15 s
//! dropped. Defects of the authors' code are in neither: serving drops no units out, uses no half-trained weights,
//! and sees what training saw.
//!
//! Left out is which GPU an instance has (one of 11, in their inputs): a router here is told capacities only. Output tokens count as
//! far as the driver reports progress. Where the authors drop out after two hidden layers, all three are here.

mod coreset;
mod memory;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::bounded_hash::rank;
use super::per_instance::PerInstance;
use super::prefix_cache::{PrefixCache, PrefixCacheParams};
use super::{Choice, Eligible, Fact, OUT_OF_QUESTION, Policy};
use crate::decision::Reason;
use crate::event::InstanceId;
use crate::learned::network::{Activations, Adam, Loss, Network, Recipe, Rows};
use crate::ledger::Reservation;
use crate::request::{Request, RequestId};
use crate::rng::Rng;
use crate::time::{Duration, Time};
use crate::training::{Model, TrainingJob};
use memory::{Columns, INPUTS, Memory, Sample};

const SIZES: [usize; 5] = [INPUTS, 128, 128, 128, 1];
/// Newest samples to train on, and as many of those before them.
const FIFO_SAMPLES: usize = 5_000;
const REPLAY_SAMPLES: usize = 5_000;
const FIRST_TRAINING_SAMPLES: u64 = 5_000;
const NEW_SAMPLES: u64 = 1_000;
const POLL_PERIOD: Duration = Duration::from_secs(30);
const PASSES: u32 = 20;
/// In this time half of a hit ceases to be fresh, s.
const FRESH_HALF_LIFE_S: f64 = 15.0;
/// Mean KV usage above which the filter leaves two candidates.
const FILTER_KV_USAGE: f64 = 0.8;
/// Prompts that agree in so many tokens have the same candidates.
const FILTER_KEY_TOKENS: usize = 160;

/// What the paper describes and its experiments switched off, and the reverse.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Params {
    /// Share of requests that go to an instance drawn from all.
    exploration: f64,
    /// Whether full caches leave two candidates, by the prompt's head.
    has_filter: bool,
    /// Whether what lies outside of all that was trained on is left to `prefix-cache`.
    has_range_check: bool,
    /// Longer times to first token teach nothing.
    ttft_max: Option<Duration>,
}

impl Params {
    pub(super) const PAPER: Self =
        Self { exploration: 0.1, has_filter: true, has_range_check: true, ttft_max: None };
    pub(super) const AS_SHIPPED: Self = Self {
        exploration: 0.0,
        has_filter: false,
        has_range_check: false,
        ttft_max: Some(Duration::from_secs(15)),
    };
}

#[derive(Debug)]
pub(super) struct LodestarPaper {
    params: Params,
    fallback: PrefixCache,
    books: PerInstance<Books>,
    memory: Memory,
    poll_at: Time,
    /// What the training under way looks at.
    training: Option<Columns>,
    predictor: Option<Predictor>,
    /// Samples of requests in flight, without their reward.
    in_flight: HashMap<RequestId, (InstanceId, Sample), FxBuildHasher>,
    /// That of the last choice.
    chosen: Sample,
    /// Scratch of a choice, by index: inputs, predicted TTFT in seconds.
    inputs: Vec<[f32; INPUTS]>,
    ttft_s: Vec<f64>,
    activations: Activations,
}

/// What a gateway counts of an instance and our ledger does not.
#[derive(Clone, Copy, Debug, Default)]
struct Books {
    /// Prompts of all requests in flight, cached or not.
    prompt_tokens: u64,
    /// Those without a first token.
    prefill_tokens: u64,
}

/// A trained network.
#[derive(Debug)]
struct Predictor {
    network: Network,
    /// What it has been trained on.
    trained_on: Columns,
}

impl LodestarPaper {
    pub(super) fn new(params: Params) -> Self {
        Self {
            params,
            fallback: PrefixCache::new(PrefixCacheParams::default()),
            books: PerInstance::default(),
            memory: Memory::new(FIFO_SAMPLES, REPLAY_SAMPLES),
            poll_at: Time::ZERO + POLL_PERIOD,
            training: None,
            predictor: None,
            in_flight: HashMap::default(),
            chosen: Sample::default(),
            inputs: Vec::new(),
            ttft_s: Vec::new(),
            activations: Activations::default(),
        }
    }

    /// What the network sees of the instance at `index`: section 1.1 of the paper's code, in its order and units.
    fn inputs_of(
        &self,
        now: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        index: usize,
    ) -> [f32; INPUTS] {
        let instance = eligible.get(index);
        let load = instance.load;
        let books = self.books.get(instance.id).copied().unwrap_or_default();
        let hit_percent = eligible.hit_percent(index, request) as f64;
        // An index without times knows what is there now.
        let age = eligible.matched_at(index).map_or(Duration::ZERO, |at| now.saturating_since(at));
        let freshness = libm::exp2(-age.as_secs_f64() / FRESH_HALF_LIFE_S);
        [
            load.prefill_requests as f32,
            load.decode_requests as f32,
            eligible.kv_usage(index) as f32,
            eligible.running(index) as f32,
            eligible.waiting(index) as f32,
            books.prefill_tokens as f32,
            load.context_tokens.saturating_sub(books.prompt_tokens) as f32,
            (hit_percent * freshness) as f32,
            hit_percent as f32,
            request.prompt_tokens as f32,
        ]
    }

    fn decide(
        &mut self,
        now: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        let strange = match &self.predictor {
            None => Some(Reason::ColdStart),
            Some(Predictor { trained_on, .. }) => {
                let is_strange = |inputs: &[f32; INPUTS]| !trained_on.cover(inputs);
                (self.params.has_range_check && self.inputs.iter().any(is_strange))
                    .then_some(Reason::OutOfDistribution)
            }
        };
        if let Some(reason) = strange {
            return Choice { reason, ..self.fallback.choose(now, request, eligible, rng) };
        }
        self.predict();
        let is_drawn = self.params.exploration > 0.0 && rng.unit() < self.params.exploration;
        let kept = if self.params.has_filter { filter(request, eligible) } else { None };
        let mut choice = eligible.lowest(Reason::LeastLatency, rng, |index| {
            let is_left_out = kept.is_some_and(|kept| !kept.contains(&index));
            self.ttft_s[index] + if is_left_out { OUT_OF_QUESTION } else { 0.0 }
        });
        for (candidate, &ttft_s) in choice.candidates.iter_mut().zip(&self.ttft_s) {
            let nanos = (ttft_s.max(0.0) * 1e9).round() as u64;
            candidate.predicted_ttft = Some(Duration::from_nanos(nanos));
        }
        if self.params.exploration > 0.0 {
            self.explore(&mut choice, is_drawn, rng);
        }
        choice
    }

    /// Fills in what is predicted.
    fn predict(&mut self) {
        let Predictor { network, .. } =
            self.predictor.as_ref().expect("asked for when there is one");
        self.ttft_s.clear();
        for inputs in &self.inputs {
            let reward = network.forward(inputs, &mut self.activations)[0];
            self.ttft_s.push(-f64::from(reward));
        }
    }

    /// Draws from all if `is_drawn`, and sets the propensity that this makes.
    fn explore(&self, choice: &mut Choice, is_drawn: bool, rng: &mut Rng) {
        let best_score = choice.candidates[choice.index].score;
        let count = choice.candidates.len();
        if is_drawn {
            choice.index = rng.below(count);
            choice.reason = Reason::Random;
        }
        let is_best = choice.candidates[choice.index].score.total_cmp(&best_score).is_eq();
        choice.explored = !is_best;
        let of_best = if is_best { choice.propensity } else { 0.0 };
        let exploration = self.params.exploration;
        choice.propensity = exploration / count as f64 + (1.0 - exploration) * of_best;
    }

    /// The request has ended with an answer.
    fn finished(&mut self, reservation: &Reservation) {
        self.ended(reservation);
        let known = self.in_flight.remove(&reservation.request);
        if let (Some((_, sample)), Some(first)) = (known, reservation.first_token_at) {
            let ttft = first.saturating_since(reservation.routed_at);
            if self.params.ttft_max.is_none_or(|max| ttft <= max) {
                self.memory.add(Sample { reward: -ttft.as_secs_f64() as f32, ..sample });
            }
        }
    }

    fn ended(&mut self, reservation: &Reservation) {
        let books = self.books.entry(reservation.instance);
        books.prompt_tokens -= u64::from(reservation.prompt_tokens);
        if reservation.first_token_at.is_none() {
            books.prefill_tokens -= u64::from(reservation.prompt_tokens);
        }
    }
}

/// The two candidates that the prompt's head has while caches are full, if they are.
///
/// The paper has consistent hashing; every instance ranked by its own hash (rendezvous hashing) keeps what matters,
/// that only an instance's own keys move when it comes or goes. (Their code takes a remainder and probes.)
fn filter(request: &Request<'_>, eligible: &Eligible<'_>) -> Option<[usize; 2]> {
    let count = eligible.len();
    let usage = (0..count).map(|index| eligible.kv_usage(index)).sum::<f64>() / count as f64;
    let key_blocks = (FILTER_KEY_TOKENS / eligible.match_block_tokens as usize).max(1);
    let key = request.block_hashes.iter().take(key_blocks).next_back()?;
    if usage <= FILTER_KV_USAGE || count < 3 {
        return None;
    }
    let rank_of = |index: usize| rank(key.0, eligible.get(index).id.0);
    let lowest = |without: Option<usize>| {
        let others = (0..count).filter(|&index| Some(index) != without);
        others.min_by(|&a, &b| rank_of(a).total_cmp(&rank_of(b))).expect("there are three")
    };
    let first = lowest(None);
    Some([first, lowest(Some(first))])
}

fn recipe() -> Recipe {
    Recipe {
        losses: vec![Loss::Mean],
        batch_rows: 256,
        learning_rate: 3e-4,
        learning_rate_decay: 0.95,
        weight_decay: 1e-5,
        gradient_norm_max: 1.0,
        dropout: 0.1,
    }
}

impl Policy for LodestarPaper {
    fn choose(
        &mut self,
        now: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        let mut inputs = std::mem::take(&mut self.inputs);
        inputs.clear();
        inputs
            .extend((0..eligible.len()).map(|index| self.inputs_of(now, request, eligible, index)));
        self.inputs = inputs;
        let choice = self.decide(now, request, eligible, rng);
        let mut fleet = Columns::default();
        self.inputs.iter().for_each(|inputs| fleet.add(inputs));
        self.chosen = Sample { inputs: self.inputs[choice.index], fleet, reward: 0.0 };
        choice
    }

    fn overruled(&mut self, _: &Request<'_>, _: &Eligible<'_>, index: usize) {
        self.chosen.inputs = self.inputs[index];
    }

    fn observe(&mut self, _: Time, fact: &Fact<'_>) {
        match *fact {
            Fact::Routed(reservation) => {
                let books = self.books.entry(reservation.instance);
                books.prompt_tokens += u64::from(reservation.prompt_tokens);
                books.prefill_tokens += u64::from(reservation.prompt_tokens);
                self.in_flight.insert(reservation.request, (reservation.instance, self.chosen));
            }
            Fact::FirstToken(reservation) => {
                let books = self.books.entry(reservation.instance);
                books.prefill_tokens -= u64::from(reservation.prompt_tokens);
            }
            Fact::Finished(reservation, _) => self.finished(reservation),
            Fact::Failed(reservation) => {
                self.ended(reservation);
                self.in_flight.remove(&reservation.request);
            }
            Fact::Left(left) => {
                self.books.remove(left);
                self.in_flight.retain(|_, (instance, _)| *instance != left);
            }
            Fact::Scraped(..) => {}
        }
    }

    fn training_job(&mut self, now: Time, rng: &mut Rng) -> Option<TrainingJob> {
        if now < self.poll_at {
            return None;
        }
        let period = POLL_PERIOD.as_nanos();
        self.poll_at = Time::from_nanos((now.as_nanos() / period + 1) * period);
        if self.training.is_some()
            || self.memory.samples < FIRST_TRAINING_SAMPLES
            || self.memory.new_samples < NEW_SAMPLES
        {
            return None;
        }
        self.memory.start_round(self.predictor.as_ref().map(|predictor| &predictor.network));
        let mut rows = Rows::default();
        let mut columns = Columns::default();
        for sample in self.memory.iter() {
            rows.inputs.extend(sample.inputs);
            rows.targets.push(sample.reward);
            columns.merge(&sample.fleet);
        }
        let seed = rng.bits();
        let mut network = Network::new(&SIZES, &mut Rng::fork(seed, "network"));
        network.normaliser = columns.normaliser();
        self.training = Some(columns);
        let adam = Adam::default();
        let recipe = recipe();
        Some(TrainingJob { policy_number: 0, network, adam, rows, recipe, passes: PASSES, seed })
    }

    fn abandon_training(&mut self) {
        self.training = None;
    }

    fn install(&mut self, _: Time, model: Model) {
        let trained_on = self.training.take().expect("a model follows its job");
        self.predictor = Some(Predictor { network: model.network, trained_on });
    }
}

#[cfg(test)]
mod tests;
