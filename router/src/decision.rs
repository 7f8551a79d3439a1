//! What [`Router::route`](crate::Router::route) answers: not an index but a record, complete enough to
//! log, to explain, and to learn from.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::event::InstanceId;
use crate::ledger::Load;
use crate::request::RequestId;
use crate::time::Duration;

/// Where a request goes, and why. Its reservation is already in the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The chosen instance.
    pub instance: InstanceId,
    /// The rule that chose it.
    pub reason: Reason,
    /// Whether the policy knowingly left what it believes best, to learn.
    pub explored: bool,
    /// Probability with which the policy chooses this instance here. For
    /// [`PowerOfTwo`](Reason::PowerOfTwo) it is the probability given the two that were drawn: the
    /// unconditional one would need a look at the whole fleet.
    pub propensity: f64,
    /// Prompt tokens that the chosen instance should find in its cache.
    pub prefix_hit_tokens: u32,
    /// Those the policy scored, in [`InstanceId`] order. Empty for a policy that compares none.
    pub candidates: Vec<Candidate>,
}

/// One instance as the policy saw it, before this request was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Which one.
    pub instance: InstanceId,
    /// What the policy ranks by: lower is better.
    pub score: f64,
    /// Prompt tokens that this instance should find in its cache.
    pub prefix_hit_tokens: u32,
    /// What it owed to earlier requests.
    pub load: Load,
    /// Time to first token expected here, from a policy that predicts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_ttft: Option<Duration>,
    /// Bounds between which the policy expects nine TTFTs in ten to be, if it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_ttft_range: Option<[Duration; 2]>,
    /// What the score is made of, from a policy that says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
}

/// Parts of a cost that is a sum of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Until the prefills ahead are done.
    pub wait: Duration,
    /// Of this request's own prefill.
    pub service: Duration,
    /// What all later requests together are expected to wait longer.
    pub imposed_delay: Duration,
    /// What it is expected to take to compute again the blocks that leave the cache for this request.
    pub cache_price: Duration,
    /// What is taken off for those who come later and find another copy of the prefix.
    #[serde(default)]
    pub copy_credit: Duration,
}

/// The rule behind a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Drawn.
    Random,
    /// Its turn.
    RoundRobin,
    /// Fewest requests in flight.
    LeastRequests,
    /// Fewest sessions.
    LeastSessions,
    /// Fewer requests in flight, of two drawn.
    PowerOfTwo,
    /// Lowest KV cache usage.
    LeastKv,
    /// Longest cached prefix among those not overloaded.
    PrefixHit,
    /// The fleet is too uneven to look at prefixes: fewest requests in flight.
    LoadImbalance,
    /// No instance has any of the prefix: fewest requests in flight.
    NoPrefixHit,
    /// Every instance that has some of the prefix is overloaded: fewest requests in flight.
    PrefixHoldersOverloaded,
    /// Lowest value of the policy's cost.
    LeastCost,
    /// The prompt's place in the hash order.
    ConsistentHash,
    /// Fewest tokens in flight.
    LeastTokens,
    /// Where the session went before.
    Session,
    /// Lowest latency, measured or predicted.
    LeastLatency,
    /// No instance has enough of the prefix: lowest cost.
    Explore,
    /// Where users with so many tokens belong.
    Fairness,
    /// Too little is known to predict: a heuristic's choice.
    ColdStart,
    /// By lot a heuristic's choice, to compare with.
    Holdout,
    /// The learned choice has lost to a heuristic, which decides until it does not any more.
    Guardrail,
    /// The policy has never seen the like of this: what it falls back to.
    OutOfDistribution,
}

impl Reason {
    /// The name in logs and result tables. It never changes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::LeastRequests => "least-requests",
            Self::LeastSessions => "least-sessions",
            Self::PowerOfTwo => "power-of-two",
            Self::LeastKv => "least-kv",
            Self::PrefixHit => "prefix-hit",
            Self::LoadImbalance => "load-imbalance",
            Self::NoPrefixHit => "no-prefix-hit",
            Self::PrefixHoldersOverloaded => "prefix-holders-overloaded",
            Self::LeastCost => "least-cost",
            Self::ConsistentHash => "consistent-hash",
            Self::LeastTokens => "least-tokens",
            Self::Session => "session",
            Self::LeastLatency => "least-latency",
            Self::Explore => "explore",
            Self::Fairness => "fairness",
            Self::ColdStart => "cold-start",
            Self::Holdout => "holdout",
            Self::Guardrail => "guardrail",
            Self::OutOfDistribution => "out-of-distribution",
        }
    }
}

/// Why a request goes nowhere. Nothing was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rejected {
    /// The fleet is empty, or all of it is to be avoided.
    #[error("there is no instance to route to")]
    NoInstance,
    /// Every instance would refuse the prompt.
    #[error(
        "a prompt of {prompt_tokens} tokens is too long: the longest accepted has {longest_accepted_tokens}"
    )]
    PromptTooLong {
        /// Length of the prompt.
        prompt_tokens: u32,
        /// Longest prompt that some instance accepts.
        longest_accepted_tokens: u32,
    },
    /// The driver routed the same request twice without an end in between.
    #[error("request {} is already in flight", .request.0)]
    DuplicateRequest {
        /// Which one.
        request: RequestId,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_one_name() {
        let reasons = [
            Reason::Random,
            Reason::RoundRobin,
            Reason::LeastRequests,
            Reason::LeastSessions,
            Reason::PowerOfTwo,
            Reason::LeastKv,
            Reason::PrefixHit,
            Reason::LoadImbalance,
            Reason::NoPrefixHit,
            Reason::PrefixHoldersOverloaded,
            Reason::LeastCost,
            Reason::ConsistentHash,
            Reason::LeastTokens,
            Reason::Session,
            Reason::LeastLatency,
            Reason::Explore,
            Reason::Fairness,
            Reason::ColdStart,
            Reason::Holdout,
            Reason::Guardrail,
            Reason::OutOfDistribution,
        ];
        for reason in reasons {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
