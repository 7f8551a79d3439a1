//! How an instance is chosen: one small trait, one file for each algorithm.
//!
//! A policy sees who is eligible and answers with one of them; it books nothing, reads no clock and
//! draws only from the stream it is given. What all policies share (eligibility, reservations, prefix
//! lookup) is the router's, so an algorithm's file contains the algorithm.

mod boosting;
mod bounded_hash;
mod dynamo;
mod join_shortest_work;
mod least_kv;
mod least_latency;
mod least_request;
mod least_tokens;
mod llm_d_predicted;
mod llm_d_sticky;
mod llm_d_weighted;
mod lmetric;
mod lodestar;
mod lodestar_paper;
mod mooncake;
mod mooncake_simple;
mod per_instance;
mod power_of_two;
mod preble;
mod prefix_cache;
mod prefix_hit_threshold;
mod production_stack;
mod random;
mod round_robin;
mod session_affinity;
mod sglang_cache_aware;
mod sglang_least_load;
mod sglang_wait;
mod spread;
mod vllm_router_cache_aware;
mod vtc;

use std::fmt::Debug;

use serde::{Deserialize as _, Deserializer};

use crate::checkpoint::{CheckpointError, InstanceNames, Learned};
use crate::config::PolicyConfig;
use crate::decision::{Candidate, Reason};
use crate::event::{InstanceId, InstanceMetrics, Usage};
use crate::fleet::Instance;
use crate::information::{LoadSource, Sources};
use crate::ledger::{Load, Reservation};
use crate::prefix_index::Match;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;
use crate::training::{Learning, Model, TrainingJob};

pub use dynamo::DynamoParams;
pub(crate) use lodestar::LodestarLearned;
pub use lodestar::{LodestarParams, Objective, Part};
pub use prefix_cache::PrefixCacheParams;
pub use prefix_hit_threshold::PrefixHitThresholdParams;
use spread::Spread;

/// Added to the score of an instance that a rule leaves out: it ranks behind all others.
const OUT_OF_QUESTION: f64 = 1e12;

/// An algorithm that chooses.
pub(crate) trait Policy: Debug + Send {
    /// Chooses one of `eligible`, which is never empty.
    fn choose(
        &mut self,
        now: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice;

    /// The driver has overruled the choice: the request goes to the one at `index`.
    fn overruled(&mut self, _request: &Request<'_>, _eligible: &Eligible<'_>, _index: usize) {}

    /// Hears what has become of earlier decisions, and who is there. Only for what the policy itself
    /// has to remember: loads and prefixes are in [`Eligible`].
    fn observe(&mut self, _now: Time, _fact: &Fact<'_>) {}

    /// Work to do elsewhere, if there is any: never a second piece before the first came back. Its seed is drawn
    /// from `rng`.
    fn training_job(&mut self, _now: Time, _rng: &mut Rng) -> Option<TrainingJob> {
        None
    }

    /// Takes the result into use.
    fn install(&mut self, _now: Time, _model: Model) {}

    /// A piece of work was lost; there may be another.
    fn abandon_training(&mut self) {}

    /// What it knows, if it learns and can go on from it.
    fn learned(&self, _names: &InstanceNames) -> Option<Learned> {
        None
    }

    /// Goes on from what was known; changes nothing if that cannot be.
    fn restore(
        &mut self,
        _now: Time,
        _learned: &Learned,
        _names: &InstanceNames,
    ) -> Result<(), CheckpointError> {
        Err(CheckpointError::OtherPolicy)
    }

    /// Pursues another objective from now on, if it has one.
    fn set_objective(&mut self, _objective: Objective) {}

    /// How learning goes, if it learns.
    fn learning(&self) -> Option<Learning> {
        None
    }
}

/// What a policy hears of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fact<'a> {
    /// An instance has left, and with it all its requests.
    Left(InstanceId),
    /// Newer metrics of an instance have arrived.
    Scraped(InstanceId, InstanceMetrics),
    /// A choice was reserved.
    Routed(&'a Reservation),
    /// A request has its first token.
    FirstToken(&'a Reservation),
    /// A request is complete.
    Finished(&'a Reservation, Usage),
    /// A request ended without an answer.
    Failed(&'a Reservation),
}

/// The algorithm behind a configuration.
pub(crate) fn build(config: &PolicyConfig, seed: u64) -> Box<dyn Policy> {
    match config {
        PolicyConfig::Random => Box::new(random::Random),
        PolicyConfig::RoundRobin => Box::new(round_robin::RoundRobin::default()),
        PolicyConfig::LeastRequest => Box::new(least_request::LeastRequest),
        PolicyConfig::PowerOfTwo => Box::new(power_of_two::PowerOfTwo),
        PolicyConfig::LeastKv => Box::new(least_kv::LeastKv),
        PolicyConfig::PrefixCache(params) => Box::new(prefix_cache::PrefixCache::new(*params)),
        PolicyConfig::PrefixHitThreshold(params) => {
            Box::new(prefix_hit_threshold::PrefixHitThreshold::new(*params))
        }
        PolicyConfig::LMetric => Box::new(lmetric::LMetric),
        PolicyConfig::Mooncake => Box::new(mooncake::Mooncake::default()),
        PolicyConfig::MooncakeSimple => Box::new(mooncake_simple::MooncakeSimple),
        PolicyConfig::Preble => Box::new(preble::Preble::default()),
        PolicyConfig::SglangCacheAware => Box::new(sglang_cache_aware::SglangCacheAware::default()),
        PolicyConfig::SglangLeastLoad => Box::new(sglang_least_load::SglangLeastLoad::default()),
        PolicyConfig::VllmRouterCacheAware => {
            Box::new(vllm_router_cache_aware::VllmRouterCacheAware)
        }
        PolicyConfig::LlmDSticky => Box::new(llm_d_sticky::LlmDSticky),
        PolicyConfig::LlmDWeighted => Box::new(llm_d_weighted::LlmDWeighted),
        PolicyConfig::LlmDPredicted => Box::new(llm_d_predicted::LlmDPredicted::default()),
        PolicyConfig::Dynamo(params) => Box::new(dynamo::Dynamo::new(*params)),
        PolicyConfig::ProductionStack => Box::new(production_stack::ProductionStack),
        PolicyConfig::BoundedHash => Box::new(bounded_hash::BoundedHash),
        PolicyConfig::SessionAffinity => Box::new(session_affinity::SessionAffinity::default()),
        PolicyConfig::LeastTokens => Box::new(least_tokens::LeastTokens),
        PolicyConfig::LeastLatency => Box::new(least_latency::LeastLatency::default()),
        PolicyConfig::Vtc => Box::new(vtc::Vtc::default()),
        PolicyConfig::JoinShortestWork => Box::new(join_shortest_work::JoinShortestWork::default()),
        PolicyConfig::Lodestar(params) => {
            Box::new(lodestar::Lodestar::new(*params, Rng::fork(seed, "learning")))
        }
        PolicyConfig::LodestarPaper => {
            Box::new(lodestar_paper::LodestarPaper::new(lodestar_paper::Params::PAPER))
        }
        PolicyConfig::LodestarPaperAsShipped => {
            Box::new(lodestar_paper::LodestarPaper::new(lodestar_paper::Params::AS_SHIPPED))
        }
    }
}

/// A policy's answer.
#[derive(Debug)]
pub(crate) struct Choice {
    /// Index into the [`Eligible`].
    pub(crate) index: usize,
    pub(crate) reason: Reason,
    pub(crate) propensity: f64,
    /// Whether something else is believed to be better.
    pub(crate) explored: bool,
    pub(crate) candidates: Vec<Candidate>,
}

impl Choice {
    /// Draws one with a probability in proportion to the `weight` of its score instead of taking the lowest; one weight at least
    /// is above 0.
    fn draw(mut self, rng: &mut Rng, weight: impl Fn(f64) -> f64) -> Self {
        let lowest = self.candidates[self.index].score;
        let weights = || self.candidates.iter().map(|candidate| weight(candidate.score));
        let total: f64 = weights().sum();
        let mut left = rng.unit() * total;
        for (index, weight) in weights().enumerate().filter(|(_, weight)| *weight > 0.0) {
            (self.index, self.propensity) = (index, weight / total);
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        self.explored = self.candidates[self.index].score > lowest;
        self
    }
}

/// The instances that accept the request, by id, ascending, and what each has of its prefix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Eligible<'a> {
    /// The whole fleet.
    pub(crate) instances: &'a [Instance],
    /// Those of the fleet that are eligible; `None` when all are.
    pub(crate) positions: Option<&'a [usize]>,
    /// For each of the fleet; empty when the policy does not use prefixes.
    pub(crate) matches: &'a [Match],
    /// Tokens in a matched block.
    pub(crate) match_block_tokens: u32,
    /// Tokens of the prompt that a cache can provide.
    pub(crate) reusable_tokens: u32,
    /// What the policy may look at.
    pub(crate) sources: Sources,
}

impl<'a> Eligible<'a> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.positions.map_or(self.instances.len(), <[usize]>::len)
    }

    /// Where the one at `index` stands in the fleet.
    pub(crate) fn position(&self, index: usize) -> usize {
        self.positions.map_or(index, |positions| positions[index])
    }

    /// The one at `index`.
    pub(crate) fn get(&self, index: usize) -> &'a Instance {
        &self.instances[self.position(index)]
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'a Instance> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Where `instance` stands among them, if it does.
    pub(crate) fn index_of(&self, instance: InstanceId) -> Option<usize> {
        let position = self.instances.binary_search_by_key(&instance, |known| known.id).ok()?;
        self.positions.map_or(Some(position), |positions| positions.binary_search(&position).ok())
    }

    /// Requests in flight on the one at `index`, from the policy's own source.
    pub(crate) fn requests(&self, index: usize) -> u32 {
        match self.sources.load {
            LoadSource::None | LoadSource::InFlight => self.get(index).load.requests,
            LoadSource::Scraped => self.running(index) + self.waiting(index),
        }
    }

    /// Those that wait: as last scraped (none if never), or without a first token if nothing is scraped.
    pub(crate) fn waiting(&self, index: usize) -> u32 {
        self.reported(index, |metrics| metrics.waiting_requests, |load| load.prefill_requests)
    }

    /// Those that run: as last scraped (none if never), or with a first token if nothing is scraped.
    pub(crate) fn running(&self, index: usize) -> u32 {
        self.reported(index, |metrics| metrics.running_requests, |load| load.decode_requests)
    }

    /// Used part of the KV cache, 0 to 1: as last scraped (none if never), or what the requests in flight
    /// need if nothing is scraped.
    pub(crate) fn kv_usage(&self, index: usize) -> f64 {
        let capacity = self.get(index).spec.kv_capacity_tokens.max(1) as f64;
        let needed = |load: Load| (load.context_tokens as f64 / capacity).min(1.0);
        self.reported(index, |metrics| metrics.kv_usage, needed)
    }

    fn reported<T: Default>(
        &self,
        index: usize,
        of_metrics: impl Fn(InstanceMetrics) -> T,
        of_load: impl Fn(Load) -> T,
    ) -> T {
        let instance = self.get(index);
        if self.sources.scrape_period.is_none() {
            return of_load(instance.load);
        }
        instance.scraped.map(|scraped| of_metrics(scraped.metrics)).unwrap_or_default()
    }

    /// What the prefix source says of the one at `index`.
    fn found(&self, index: usize) -> Match {
        self.matches.get(self.position(index)).copied().unwrap_or(Match::NONE)
    }

    /// Blocks of the request's prefix that the one at `index` should hold.
    pub(crate) fn matched_blocks(&self, index: usize) -> u32 {
        self.found(index).blocks
    }

    /// Prompt tokens behind [`matched_blocks`](Self::matched_blocks).
    pub(crate) fn matched_tokens(&self, index: usize) -> u32 {
        self.matched_blocks(index) * self.match_block_tokens
    }

    /// When the last of [`matched_blocks`](Self::matched_blocks) was last routed to the one at `index`; `None` if
    /// there are none or the index does not remember.
    pub(crate) fn matched_at(&self, index: usize) -> Option<Time> {
        self.found(index).routed_at
    }

    /// The prompt's full blocks, of which [`matched_blocks`](Self::matched_blocks) are the first; 1 if it has none.
    fn full_blocks(&self, request: &Request<'_>) -> u32 {
        (request.prompt_tokens / self.match_block_tokens).max(1)
    }

    /// Percentage, rounded down, of the prompt's full blocks that the one at `index` should hold.
    pub(crate) fn hit_percent(&self, index: usize, request: &Request<'_>) -> u64 {
        let percent = 100 * u64::from(self.matched_blocks(index));
        (percent / u64::from(self.full_blocks(request))).min(100)
    }

    /// Part of the prompt's full blocks that the one at `index` should hold, 0 to 1.
    pub(crate) fn hit_ratio(&self, index: usize, request: &Request<'_>) -> f64 {
        let ratio = f64::from(self.matched_blocks(index)) / f64::from(self.full_blocks(request));
        ratio.min(1.0)
    }

    /// Tokens of the request that the one at `index` should have to compute.
    pub(crate) fn uncached_tokens(&self, index: usize, request: &Request<'_>) -> u32 {
        request.prompt_tokens - self.prefix_hit_tokens(index)
    }

    /// Tokens of any prompt that the one at `index` should hold.
    pub(crate) fn held_tokens(&self, index: usize) -> u64 {
        self.found(index).held_blocks * u64::from(self.match_block_tokens)
    }

    /// Prompt tokens that the one at `index` should not have to compute.
    pub(crate) fn prefix_hit_tokens(&self, index: usize) -> u32 {
        self.matched_tokens(index).min(self.reusable_tokens)
    }

    /// The one at `index`, with its score.
    pub(crate) fn candidate(&self, index: usize, score: f64) -> Candidate {
        let instance = self.get(index);
        Candidate {
            instance: instance.id,
            score,
            prefix_hit_tokens: self.prefix_hit_tokens(index),
            load: instance.load,
            predicted_ttft: None,
            predicted_ttft_range: None,
            terms: None,
        }
    }

    /// Scores all of them and takes the lowest; among equals, each is equally likely.
    pub(crate) fn lowest(
        &self,
        reason: Reason,
        rng: &mut Rng,
        score: impl Fn(usize) -> f64,
    ) -> Choice {
        self.lowest_then(reason, rng, score, |_| 0.0)
    }

    /// Scores all of them and takes the lowest; among equals, the lowest by `then`; among those, each is
    /// equally likely.
    pub(crate) fn lowest_then(
        &self,
        reason: Reason,
        rng: &mut Rng,
        score: impl Fn(usize) -> f64,
        then: impl Fn(usize) -> f64,
    ) -> Choice {
        let candidates: Vec<_> =
            (0..self.len()).map(|index| self.candidate(index, score(index))).collect();
        let (index, propensity) = draw_lowest(self.len(), rng, |at| candidates[at].score, then);
        Choice { index, reason, propensity, explored: false, candidates }
    }
}

/// Of `count` indices the one with the lowest score; among equals, the lowest by `then`; among those, each is equally likely.
/// And the probability of the draw.
fn draw_lowest(
    count: usize,
    rng: &mut Rng,
    score: impl Fn(usize) -> f64,
    then: impl Fn(usize) -> f64,
) -> (usize, f64) {
    let best = (0..count).map(&score).min_by(f64::total_cmp);
    let best = best.expect("a policy is asked only when somebody is eligible");
    let best_indices = || (0..count).filter(|&index| score(index).total_cmp(&best).is_eq());
    let second = best_indices().map(&then).min_by(f64::total_cmp).expect("one is best");
    let mut ties = best_indices().filter(|&index| then(index).total_cmp(&second).is_eq());
    let tied = ties.clone().count();
    let drawn = if tied == 1 { 0 } else { rng.below(tied) };
    (ties.nth(drawn).expect("fewer are drawn past than tie"), 1.0 / tied as f64)
}

/// Reads a parameter with which a score stays a number.
fn finite_and_not_negative<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if value.is_finite() && value >= 0.0 {
        return Ok(value);
    }
    Err(serde::de::Error::custom(format_args!("{value} is not a finite number of at least 0")))
}

fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let value = u8::deserialize(deserializer)?;
    if value <= 100 {
        return Ok(value);
    }
    Err(serde::de::Error::custom(format_args!("{value} is not a percentage of at most 100")))
}

#[cfg(test)]
mod fixtures;
