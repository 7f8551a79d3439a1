//! How an instance is chosen: one small trait, one file for each algorithm.
//!
//! A policy sees who is eligible and answers with one of them; it books nothing, reads no clock and
//! draws only from the stream it is given. What all policies share (eligibility, reservations, prefix
//! lookup) is the router's, so an algorithm's file contains the algorithm.

mod least_kv;
mod least_request;
mod power_of_two;
mod prefix_cache;
mod random;
mod round_robin;

use std::fmt::Debug;

use crate::config::PolicyConfig;
use crate::decision::{Candidate, Reason};
use crate::fleet::Instance;
use crate::prefix_index::Match;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

pub use prefix_cache::PrefixCacheParams;

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
}

/// The algorithm behind a configuration.
pub(crate) fn build(config: &PolicyConfig) -> Box<dyn Policy> {
    match config {
        PolicyConfig::Random => Box::new(random::Random),
        PolicyConfig::RoundRobin => Box::new(round_robin::RoundRobin::default()),
        PolicyConfig::LeastRequest => Box::new(least_request::LeastRequest),
        PolicyConfig::PowerOfTwo => Box::new(power_of_two::PowerOfTwo),
        PolicyConfig::LeastKv => Box::new(least_kv::LeastKv),
        PolicyConfig::PrefixCache(params) => Box::new(prefix_cache::PrefixCache::new(*params)),
    }
}

/// A policy's answer.
#[derive(Debug)]
pub(crate) struct Choice {
    /// Index into the [`Eligible`].
    pub(crate) index: usize,
    pub(crate) reason: Reason,
    pub(crate) propensity: f64,
    pub(crate) candidates: Vec<Candidate>,
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
    /// Tokens in a block.
    pub(crate) block_tokens: u32,
    /// Blocks of the prompt that a cache can provide.
    pub(crate) reusable_blocks: u32,
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

    /// Blocks of the request's prefix that the one at `index` should hold.
    pub(crate) fn matched_blocks(&self, index: usize) -> u32 {
        self.matches.get(self.position(index)).map_or(0, |found| found.blocks)
    }

    /// Prompt tokens that the one at `index` should not have to compute.
    pub(crate) fn prefix_hit_tokens(&self, index: usize) -> u32 {
        self.matched_blocks(index).min(self.reusable_blocks) * self.block_tokens
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
        }
    }

    /// Scores all of them and takes the lowest; among equals, each is equally likely.
    pub(crate) fn lowest(
        &self,
        reason: Reason,
        rng: &mut Rng,
        score: impl Fn(usize) -> f64,
    ) -> Choice {
        let candidates: Vec<_> =
            (0..self.len()).map(|index| self.candidate(index, score(index))).collect();
        let best = candidates.iter().map(|candidate| candidate.score).min_by(f64::total_cmp);
        let best = best.expect("a policy is asked only when somebody is eligible");
        let is_best = |candidate: &Candidate| candidate.score.total_cmp(&best).is_eq();
        let ties = candidates.iter().filter(|candidate| is_best(candidate)).count();
        let drawn = if ties == 1 { 0 } else { rng.below(ties) };
        let mut best_indices = (0..candidates.len()).filter(|&index| is_best(&candidates[index]));
        let index = best_indices.nth(drawn).expect("fewer are drawn past than tie");
        Choice { index, reason, propensity: 1.0 / ties as f64, candidates }
    }
}

#[cfg(test)]
mod fixtures;
