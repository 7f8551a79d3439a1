//! What a router is built from. Each policy's parameters live in its own variant: a flat bag would let
//! a file set an option that has no effect.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::information::{Information, PrefixSource, Sources};
use crate::policy::{
    DynamoParams, LodestarParams, Objective, Part, PrefixCacheParams, PrefixHitThresholdParams,
};
use crate::time::Duration;

/// Everything a [`Router`](crate::Router) needs besides a seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterConfig {
    /// How to choose.
    pub policy: PolicyConfig,
    /// Tokens behind each of [`Request::block_hashes`](crate::Request::block_hashes); vLLM's
    /// `--block-size`, not zero.
    #[serde(default = "default_block_tokens")]
    pub block_tokens: u32,
    /// Whether the policy sees what its own implementation sees, or what Lodestar sees.
    #[serde(default)]
    pub information: Information,
}

impl RouterConfig {
    /// The policy, and defaults for the rest.
    pub fn new(policy: PolicyConfig) -> Self {
        Self { policy, block_tokens: default_block_tokens(), information: Information::default() }
    }

    /// How often the policy's implementation scrapes metrics; `None` if it uses none, and a simulation
    /// need not scrape.
    pub const fn scrape_period(&self) -> Option<Duration> {
        Sources::of(&self.policy, self.information).scrape_period
    }

    /// Whether the policy learns of cached blocks by KV events, too: what a simulation sends as
    /// [`Event::BlocksStored`](crate::Event::BlocksStored) and its kin.
    pub const fn uses_kv_events(&self) -> bool {
        matches!(
            Sources::of(&self.policy, self.information).prefix,
            PrefixSource::KvEvents | PrefixSource::RoutingAndEvents
        )
    }

    /// Whether it knows of no cached block without KV events: every instance has to send them.
    pub const fn needs_kv_events(&self) -> bool {
        matches!(Sources::of(&self.policy, self.information).prefix, PrefixSource::KvEvents)
    }

    /// Whether decisions depend on nothing but the order of requests and the instances that there are: whatever else
    /// the router hears changes none of them.
    pub const fn is_deaf(&self) -> bool {
        matches!(self.policy, PolicyConfig::Random | PolicyConfig::RoundRobin)
    }

    /// What the policy sees, for people.
    pub fn describe_sources(&self) -> String {
        Sources::of(&self.policy, self.information).to_string()
    }
}

const fn default_block_tokens() -> u32 {
    16
}

/// A policy and its parameters. `docs/policies.md` compares them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PolicyConfig {
    /// Uniform random.
    #[serde(deserialize_with = "no_parameters")]
    Random,
    /// In turn.
    #[serde(deserialize_with = "no_parameters")]
    RoundRobin,
    /// Fewest requests in flight.
    #[serde(deserialize_with = "no_parameters")]
    LeastRequest,
    /// Fewer requests in flight, of two drawn.
    #[serde(deserialize_with = "no_parameters")]
    PowerOfTwo,
    /// Lowest KV cache usage.
    #[serde(deserialize_with = "no_parameters")]
    LeastKv,
    /// Longest cached prefix, as long as the load is even.
    PrefixCache(PrefixCacheParams),
    /// Longest cached prefix above a threshold, else fewest requests in flight.
    PrefixHitThreshold(PrefixHitThresholdParams),
    /// Tokens to prefill times batch size.
    #[serde(rename = "lmetric", deserialize_with = "no_parameters")]
    LMetric,
    /// Least estimated time to first token.
    #[serde(deserialize_with = "no_parameters")]
    Mooncake,
    /// Shortest queue, as the Lodestar paper has Mooncake.
    #[serde(deserialize_with = "no_parameters")]
    MooncakeSimple,
    /// Exploit a long match, else explore by cost.
    #[serde(deserialize_with = "no_parameters")]
    Preble,
    /// SGLang's gateway: longest match with a spill gate.
    #[serde(deserialize_with = "no_parameters")]
    SglangCacheAware,
    /// SGLang's gateway: least expected wait, by requests and KV pressure.
    #[serde(deserialize_with = "no_parameters")]
    SglangLeastLoad,
    /// vllm-router: longest match, else fewest requests in flight.
    #[serde(deserialize_with = "no_parameters")]
    VllmRouterCacheAware,
    /// llm-d: sticky until saturated.
    #[serde(deserialize_with = "no_parameters")]
    LlmDSticky,
    /// llm-d: weighted scorers.
    #[serde(deserialize_with = "no_parameters")]
    LlmDWeighted,
    /// llm-d: predicted latency.
    #[serde(deserialize_with = "no_parameters")]
    LlmDPredicted,
    /// NVIDIA Dynamo: blocks to prefill plus blocks in decode.
    Dynamo(DynamoParams),
    /// vLLM production-stack: longest match, whatever the load.
    #[serde(deserialize_with = "no_parameters")]
    ProductionStack,
    /// Consistent hashing of the prompt's head, bounded load.
    #[serde(deserialize_with = "no_parameters")]
    BoundedHash,
    /// Where the session went before.
    #[serde(deserialize_with = "no_parameters")]
    SessionAffinity,
    /// Fewest tokens in flight.
    #[serde(deserialize_with = "no_parameters")]
    LeastTokens,
    /// Lowest recent latency.
    #[serde(deserialize_with = "no_parameters")]
    LeastLatency,
    /// AIBrix: fairness between users.
    #[serde(deserialize_with = "no_parameters")]
    Vtc,
    /// Least work: tokens to prefill and to decode.
    #[serde(deserialize_with = "no_parameters")]
    JoinShortestWork,
    /// Least expected time to first token, learned online, and least delay for others.
    Lodestar(LodestarParams),
    /// The published Lodestar as described: a network that predicts the time to first token.
    #[serde(deserialize_with = "no_parameters")]
    LodestarPaper,
    /// The published Lodestar as its experiments ran it.
    #[serde(deserialize_with = "no_parameters")]
    LodestarPaperAsShipped,
}

/// What a threshold of [`PolicyConfig::PrefixHitThreshold`] follows in a name.
const THRESHOLD_PREFIX: &str = "prefix-hit-threshold-";

/// What an objective other than the default follows in a name.
const OBJECTIVE_PREFIX: &str = "lodestar-";
const WITHOUT_PREFIX: &str = "lodestar-without-";
/// Objectives by name.
const OBJECTIVES: [(&str, Objective); 6] = [
    ("tail-ttft", Objective::TailTtft),
    ("tpot", Objective::Tpot),
    ("e2e", Objective::E2e),
    ("throughput", Objective::Throughput),
    ("slo", Objective::SLO),
    ("mix", Objective::Mix { ttft: 1.0, tpot: 0.1 }),
];

impl PolicyConfig {
    /// The name of every policy with its default parameters, in the order of the variants.
    pub const NAMES: [&'static str; 28] = [
        "random",
        "round-robin",
        "least-request",
        "power-of-two",
        "least-kv",
        "prefix-cache",
        "prefix-hit-threshold",
        "lmetric",
        "mooncake",
        "mooncake-simple",
        "preble",
        "sglang-cache-aware",
        "sglang-least-load",
        "vllm-router-cache-aware",
        "llm-d-sticky",
        "llm-d-weighted",
        "llm-d-predicted",
        "dynamo",
        "production-stack",
        "bounded-hash",
        "session-affinity",
        "least-tokens",
        "least-latency",
        "vtc",
        "join-shortest-work",
        "lodestar",
        "lodestar-paper",
        "lodestar-paper-as-shipped",
    ];

    /// Every policy with its default parameters, in the order of [`NAMES`](Self::NAMES).
    pub fn all() -> [Self; 28] {
        [
            Self::Random,
            Self::RoundRobin,
            Self::LeastRequest,
            Self::PowerOfTwo,
            Self::LeastKv,
            Self::PrefixCache(PrefixCacheParams::default()),
            Self::PrefixHitThreshold(PrefixHitThresholdParams::default()),
            Self::LMetric,
            Self::Mooncake,
            Self::MooncakeSimple,
            Self::Preble,
            Self::SglangCacheAware,
            Self::SglangLeastLoad,
            Self::VllmRouterCacheAware,
            Self::LlmDSticky,
            Self::LlmDWeighted,
            Self::LlmDPredicted,
            Self::Dynamo(DynamoParams::default()),
            Self::ProductionStack,
            Self::BoundedHash,
            Self::SessionAffinity,
            Self::LeastTokens,
            Self::LeastLatency,
            Self::Vtc,
            Self::JoinShortestWork,
            Self::Lodestar(LodestarParams::default()),
            Self::LodestarPaper,
            Self::LodestarPaperAsShipped,
        ]
    }

    /// The few that a first comparison needs: one of each kind.
    pub fn basic() -> [Self; 7] {
        [
            Self::Random,
            Self::RoundRobin,
            Self::LeastRequest,
            Self::PowerOfTwo,
            Self::LeastKv,
            Self::PrefixCache(PrefixCacheParams::default()),
            Self::Lodestar(LodestarParams::default()),
        ]
    }

    /// The policy called `name`, with its default parameters; `prefix-hit-threshold-60` is the one with that
    /// threshold.
    pub fn from_name(name: &str) -> Result<Self, UnknownPolicy> {
        let threshold = name.strip_prefix(THRESHOLD_PREFIX).and_then(|number| number.parse().ok());
        if let Some(threshold_percent) = threshold.filter(|&percent| percent <= 100) {
            return Ok(Self::PrefixHitThreshold(PrefixHitThresholdParams { threshold_percent }));
        }
        let objective = name.strip_prefix(OBJECTIVE_PREFIX);
        if let Some((_, objective)) =
            OBJECTIVES.into_iter().find(|(known, _)| Some(*known) == objective)
        {
            return Ok(Self::Lodestar(LodestarParams { objective, ..LodestarParams::default() }));
        }
        let part = name.strip_prefix(WITHOUT_PREFIX);
        if let Some((_, part)) = Part::ALL.into_iter().find(|(known, _)| Some(*known) == part) {
            let params = LodestarParams { without: Some(part), ..LodestarParams::default() };
            return Ok(Self::Lodestar(params));
        }
        Self::all()
            .into_iter()
            .find(|policy| policy.name() == name)
            .ok_or_else(|| UnknownPolicy { name: name.to_owned() })
    }

    /// The name in files, on the command line and in results.
    pub fn name(&self) -> Cow<'static, str> {
        if let Self::PrefixHitThreshold(params) = self
            && *params != PrefixHitThresholdParams::default()
        {
            return Cow::Owned(format!("{THRESHOLD_PREFIX}{}", params.threshold_percent));
        }
        if let Self::Lodestar(LodestarParams { objective, without, .. }) = self {
            let of_same_kind = |known: &Objective| {
                std::mem::discriminant(known) == std::mem::discriminant(objective)
            };
            if let Some((name, _)) = OBJECTIVES.iter().find(|(_, known)| of_same_kind(known)) {
                return Cow::Owned(format!("{OBJECTIVE_PREFIX}{name}"));
            }
            if let Some((name, _)) = Part::ALL.iter().find(|(_, part)| Some(*part) == *without) {
                return Cow::Owned(format!("{WITHOUT_PREFIX}{name}"));
            }
        }
        Cow::Borrowed(self.kind())
    }

    /// The name without parameters.
    const fn kind(&self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::LeastRequest => "least-request",
            Self::PowerOfTwo => "power-of-two",
            Self::LeastKv => "least-kv",
            Self::PrefixCache(_) => "prefix-cache",
            Self::PrefixHitThreshold(_) => "prefix-hit-threshold",
            Self::LMetric => "lmetric",
            Self::Mooncake => "mooncake",
            Self::MooncakeSimple => "mooncake-simple",
            Self::Preble => "preble",
            Self::SglangCacheAware => "sglang-cache-aware",
            Self::SglangLeastLoad => "sglang-least-load",
            Self::VllmRouterCacheAware => "vllm-router-cache-aware",
            Self::LlmDSticky => "llm-d-sticky",
            Self::LlmDWeighted => "llm-d-weighted",
            Self::LlmDPredicted => "llm-d-predicted",
            Self::Dynamo(_) => "dynamo",
            Self::ProductionStack => "production-stack",
            Self::BoundedHash => "bounded-hash",
            Self::SessionAffinity => "session-affinity",
            Self::LeastTokens => "least-tokens",
            Self::LeastLatency => "least-latency",
            Self::Vtc => "vtc",
            Self::JoinShortestWork => "join-shortest-work",
            Self::Lodestar(_) => "lodestar",
            Self::LodestarPaper => "lodestar-paper",
            Self::LodestarPaperAsShipped => "lodestar-paper-as-shipped",
        }
    }

    /// What it does, in one line.
    pub const fn describe(&self) -> &'static str {
        match self {
            Self::Random => "any instance, each equally likely",
            Self::RoundRobin => "each instance in turn",
            Self::LeastRequest => "the instance with the fewest requests in flight",
            Self::PowerOfTwo => "of two instances drawn, the one with fewer requests in flight",
            Self::LeastKv => "the instance that last reported the lowest KV cache usage",
            Self::PrefixCache(_) => {
                "the longest cached prefix among instances that are not overloaded, the fewest requests in flight when the fleet is uneven"
            }
            Self::PrefixHitThreshold(_) => {
                "the longest cached prefix if it exceeds a threshold (-20, -40, -60, -80; 50), else the fewest requests in flight"
            }
            Self::LMetric => "LMetric: the fewest tokens to prefill times requests in the batch",
            Self::Mooncake => {
                "Mooncake: the least time to first token, estimated from the tokens to prefill"
            }
            Self::MooncakeSimple => {
                "Mooncake as the Lodestar paper has it: the shortest queue, running requests counted twice"
            }
            Self::Preble => {
                "Preble: exploit a match of more than half the prompt, else explore the lowest cost"
            }
            Self::SglangCacheAware => {
                "SGLang gateway (SMG): the longest match above 30 %, else the least expected wait"
            }
            Self::SglangLeastLoad => {
                "SGLang gateway (SMG): the least expected wait, by requests and KV pressure"
            }
            Self::VllmRouterCacheAware => {
                "vllm-router: the longest match above 30 %, else the fewest requests in flight"
            }
            Self::LlmDSticky => {
                "llm-d: holders of 80 % of the prompt until 18 s behind, the fewest tokens among them"
            }
            Self::LlmDWeighted => "llm-d: prefix, queue and KV usage weighed 3:2:2",
            Self::LlmDPredicted => {
                "llm-d: drawn by predicted latency, learned online for one kind of GPU"
            }
            Self::Dynamo(_) => "NVIDIA Dynamo: the fewest blocks to prefill plus blocks in decode",
            Self::ProductionStack => "vLLM production-stack: the longest match, whatever the load",
            Self::BoundedHash => {
                "consistent hashing of the prompt's first 256 tokens, with bounded load"
            }
            Self::SessionAffinity => {
                "where the session went before; a new one to the fewest sessions"
            }
            Self::LeastTokens => "the fewest prompt and output tokens in flight",
            Self::LeastLatency => "the lowest latency per token of the last ten responses",
            Self::Vtc => "AIBrix vtc-basic: users by tokens used, mapped to instances",
            Self::JoinShortestWork => {
                "the least work: uncached tokens to prefill and tokens still to decode"
            }
            Self::Lodestar(_) => {
                "Lodestar: the least expected time to first token, learned online, and the least delay for others"
            }
            Self::LodestarPaper => {
                "the Lodestar paper (arXiv 2606.00946): the least time to first token that a network predicts, as described"
            }
            Self::LodestarPaperAsShipped => {
                "the same as its final experiments ran it: no exploration, no candidate filter, fallback only until trained"
            }
        }
    }
}

/// A name that no policy has.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown policy {name:?}{}; the policies are {}", suggestion(name), PolicyConfig::NAMES.join(", "))]
pub struct UnknownPolicy {
    /// The name as it was given.
    pub name: String,
}

/// The nearest name, if one is near enough to have been meant.
fn suggestion(name: &str) -> String {
    PolicyConfig::NAMES
        .into_iter()
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|&(similarity, _)| similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| format!(", did you mean {known:?}?"))
        .unwrap_or_default()
}

/// Serde lets a unit variant of a tagged enum swallow any field; an option without effect is an error.
fn no_parameters<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    Nothing::deserialize(deserializer).map(|Nothing {}| ())
}

#[cfg(test)]
mod tests;
