//! What a router is built from. Each policy's parameters live in its own variant: a flat bag would let
//! a file set an option that has no effect.

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::policy::PrefixCacheParams;

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
}

impl RouterConfig {
    /// The policy, and defaults for the rest.
    pub fn new(policy: PolicyConfig) -> Self {
        Self { policy, block_tokens: default_block_tokens() }
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
}

impl PolicyConfig {
    /// The name of every policy, in the order of the variants.
    pub const NAMES: [&'static str; 6] =
        ["random", "round-robin", "least-request", "power-of-two", "least-kv", "prefix-cache"];

    /// Every policy with its default parameters, in the order of [`NAMES`](Self::NAMES).
    pub fn all() -> [Self; 6] {
        [
            Self::Random,
            Self::RoundRobin,
            Self::LeastRequest,
            Self::PowerOfTwo,
            Self::LeastKv,
            Self::PrefixCache(PrefixCacheParams::default()),
        ]
    }

    /// The policy called `name`, with its default parameters.
    pub fn from_name(name: &str) -> Result<Self, UnknownPolicy> {
        Self::all()
            .into_iter()
            .find(|policy| policy.name() == name)
            .ok_or_else(|| UnknownPolicy { name: name.to_owned() })
    }

    /// The name in files, on the command line and in results.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::LeastRequest => "least-request",
            Self::PowerOfTwo => "power-of-two",
            Self::LeastKv => "least-kv",
            Self::PrefixCache(_) => "prefix-cache",
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
                "the longest cached prefix among instances that are not overloaded, \
                 the fewest requests in flight when the fleet is uneven"
            }
        }
    }

    /// Whether the policy looks at scraped metrics; if not, a simulation need not scrape.
    pub const fn uses_metrics(&self) -> bool {
        match self {
            Self::LeastKv => true,
            Self::Random
            | Self::RoundRobin
            | Self::LeastRequest
            | Self::PowerOfTwo
            | Self::PrefixCache(_) => false,
        }
    }

    /// Whether the router has to remember which blocks are where.
    pub(crate) const fn uses_prefixes(&self) -> bool {
        match self {
            Self::Random
            | Self::RoundRobin
            | Self::LeastRequest
            | Self::PowerOfTwo
            | Self::LeastKv => false,
            Self::PrefixCache(_) => true,
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
mod tests {
    use super::*;

    #[test]
    fn a_policy_has_one_name_in_files_and_everywhere_else() {
        for (policy, name) in PolicyConfig::all().into_iter().zip(PolicyConfig::NAMES) {
            assert_eq!(policy.name(), name);
            assert_eq!(PolicyConfig::from_name(name), Ok(policy.clone()));
            assert_eq!(serde_json::to_value(&policy).unwrap()["name"], name);
            let read = serde_json::from_str::<PolicyConfig>(&format!(r#"{{"name":"{name}"}}"#));
            assert_eq!(read.unwrap(), policy);
        }
    }

    #[test]
    fn an_option_without_effect_is_an_error() {
        for name in PolicyConfig::NAMES {
            let text = format!(r#"{{"name":"{name}","threshold":3}}"#);
            let error = serde_json::from_str::<PolicyConfig>(&text).unwrap_err().to_string();
            assert!(error.contains("unknown field `threshold`"), "{name}: {error}");
        }
    }

    #[test]
    fn parameters_left_out_have_their_defaults() {
        let text = r#"{"policy":{"name":"prefix-cache","stddev_factor":2.0}}"#;
        let config: RouterConfig = serde_json::from_str(text).unwrap();
        let params = PrefixCacheParams { imbalance_threshold_requests: 8, stddev_factor: 2.0 };
        assert_eq!(
            config,
            RouterConfig { policy: PolicyConfig::PrefixCache(params), block_tokens: 16 }
        );
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest_and_all() {
        let message = |name| PolicyConfig::from_name(name).unwrap_err().to_string();
        assert_eq!(
            message("least_reqests"),
            "unknown policy \"least_reqests\", did you mean \"least-request\"?; the policies are \
             random, round-robin, least-request, power-of-two, least-kv, prefix-cache"
        );
        assert!(!message("zzz").contains("did you mean"));
    }
}
