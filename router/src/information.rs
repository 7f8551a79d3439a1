//! What a policy may know: its own implementation's sources, or Lodestar's.
//!
//! A policy compared with better information than its implementation has is not that implementation.
//! [`Information::Deployed`] gives each policy what the real one sees, as old as the real one sees it;
//! [`Information::Ideal`] gives all of them Lodestar's ledger and prefix index, so that only the algorithms
//! differ. The table of who sees what is [`Sources::of`], and nowhere else.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::PolicyConfig;
use crate::time::Duration;

/// Whose eyes a policy looks through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Information {
    /// What the policy's own implementation sees: its scrape period, its prefix index, its blind spots.
    #[default]
    Deployed,
    /// Lodestar's ledger and prefix index, never old.
    Ideal,
}

impl Information {
    /// The name in files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deployed => "deployed",
            Self::Ideal => "ideal",
        }
    }
}

/// Where requests per instance are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadSource {
    /// Nowhere: the policy does not look.
    None,
    /// By the router itself: each decision sees all before it.
    InFlight,
    /// `running + waiting` of the last scrape: decisions between two scrapes do not see each other.
    Scraped,
}

/// What tells which blocks are where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PrefixSource {
    /// Nothing.
    None,
    /// What was routed, corrected by KV events if there are any, least recently used first out at each
    /// instance's KV capacity.
    CapacityAware,
    /// The same, and a simulation sends KV events: other routers' requests are seen, and evictions.
    RoutingAndEvents,
    /// What was routed, and nothing else.
    OwnRouting {
        /// Tokens of one block. A request brings hashes of its router's blocks: of larger ones every k-th
        /// is used (they are chained, so it stands for the whole prefix); smaller ones cannot be had,
        /// so that a peer that matches characters matches whole blocks here.
        block_tokens: u32,
        /// What the index holds.
        capacity: Capacity,
    },
    /// KV events and nothing else.
    KvEvents,
}

/// How much an index of what was routed remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capacity {
    /// So many tokens of each instance, least recently used first out.
    PerInstance {
        /// Of each instance.
        tokens: u64,
    },
    /// One block for each block of 16 tokens, vLLM's default, of an engine's KV cache; so many for one that does not say how
    /// large that is.
    PerEngineBlock {
        /// Of an engine that does not say.
        unknown_blocks: u64,
    },
    /// So many tokens of the whole fleet, least recently routed first out, and none for longer than `ttl`.
    Shared {
        /// Of all instances together.
        tokens: u64,
        /// From the last routing on.
        ttl: Duration,
    },
    /// Everything, for ever.
    Unbounded,
}

/// Everything a policy sees beside its own state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sources {
    /// Requests per instance.
    pub(crate) load: LoadSource,
    /// How often metrics are scraped; `None` when the policy looks at none. Waiting and running requests
    /// and KV usage then come from the ledger.
    pub(crate) scrape_period: Option<Duration>,
    /// Blocks per instance.
    pub(crate) prefix: PrefixSource,
}

/// AIBrix scrapes each pod every 50 ms; so does llm-d's data layer.
const FAST_SCRAPE: Duration = Duration::from_millis(50);
/// The Lodestar authors' gateway (`BG_SCRAPE_INTERVAL_MS`), and with it their ports of LMetric and Mooncake.
const LODESTAR_SCRAPE: Duration = Duration::from_millis(100);
/// SMG's `--load-monitor-interval`.
const SMG_POLL: Duration = Duration::from_secs(10);

/// AIBrix: 200,000 blocks for the whole fleet, dropped 20 minutes after they were last routed; 16 tokens
/// each, an engine's own. (Its manifests set 128 characters, about 32 tokens, or 16 bytes, which are four tokens of its
/// real tokenizer; the Lodestar authors' experiments set 250,000 blocks of one token for seven A30, whose caches hold 306,000.)
const AIBRIX_INDEX: PrefixSource = PrefixSource::OwnRouting {
    block_tokens: 16,
    capacity: Capacity::Shared { tokens: 200_000 * 16, ttl: Duration::from_secs(20 * 60) },
};
/// llm-d's approximate index, `autoTune` as by default: as many blocks as the engine has, but of at least 64 tokens each; 31,250
/// for an engine that does not say.
const LLM_D_INDEX: PrefixSource = PrefixSource::OwnRouting {
    block_tokens: 64,
    capacity: Capacity::PerEngineBlock { unknown_blocks: 31_250 },
};
/// SMG's character tree: `max_tree_size` 67,108,864 characters. (Of all workers together there, trimmed every 60 s; of each
/// here, at once.)
const SMG_TREE: PrefixSource = PrefixSource::OwnRouting {
    block_tokens: 16,
    capacity: Capacity::PerInstance { tokens: 67_108_864 / 4 },
};
/// vllm-router's tree: 33,554,432 characters a worker, eight for a token. (Trimmed every 120 s there, at once here.)
const VLLM_ROUTER_TREE: PrefixSource = PrefixSource::OwnRouting {
    block_tokens: 16,
    capacity: Capacity::PerInstance { tokens: 33_554_432 / 8 },
};
/// production-stack's trie: chunks of 128 characters, about 32 tokens, never evicted.
const PRODUCTION_STACK_TRIE: PrefixSource =
    PrefixSource::OwnRouting { block_tokens: 32, capacity: Capacity::Unbounded };

impl Sources {
    /// What `policy` sees.
    pub(crate) const fn of(policy: &PolicyConfig, information: Information) -> Self {
        let deployed = Self::deployed(policy);
        match information {
            Information::Deployed => deployed,
            // Its own sources are what the others are given.
            Information::Ideal if matches!(policy, PolicyConfig::Lodestar(_)) => deployed,
            Information::Ideal => Self {
                load: match deployed.load {
                    LoadSource::None => LoadSource::None,
                    LoadSource::InFlight | LoadSource::Scraped => LoadSource::InFlight,
                },
                scrape_period: None,
                prefix: match deployed.prefix {
                    PrefixSource::None => PrefixSource::None,
                    PrefixSource::CapacityAware
                    | PrefixSource::RoutingAndEvents
                    | PrefixSource::OwnRouting { .. }
                    | PrefixSource::KvEvents => PrefixSource::RoutingAndEvents,
                },
            },
        }
    }

    /// What the implementation of `policy` sees: one row for each, with where that is from.
    const fn deployed(policy: &PolicyConfig) -> Self {
        match policy {
            PolicyConfig::Random | PolicyConfig::RoundRobin => Self::no_load(PrefixSource::None),
            // AIBrix counts its own requests (`RealtimeNumRequestsRunning`).
            PolicyConfig::LeastRequest | PolicyConfig::PowerOfTwo => {
                Self::in_flight(PrefixSource::None)
            }
            // AIBrix reads vLLM's gauge.
            PolicyConfig::LeastKv => Self::scraped(FAST_SCRAPE, PrefixSource::None),
            // The Lodestar authors' gateway is AIBrix, and so are its counts and its index.
            PolicyConfig::PrefixCache(_) | PolicyConfig::PrefixHitThreshold(_) => {
                Self::in_flight(AIBRIX_INDEX)
            }
            // In that gateway: the fallback counts as prefix-cache does, the network sees vLLM's gauges too.
            PolicyConfig::LodestarPaper | PolicyConfig::LodestarPaperAsShipped => {
                Self { scrape_period: Some(LODESTAR_SCRAPE), ..Self::in_flight(AIBRIX_INDEX) }
            }
            // In that gateway too, but by vLLM's gauges.
            PolicyConfig::LMetric => Self::scraped(LODESTAR_SCRAPE, AIBRIX_INDEX),
            PolicyConfig::MooncakeSimple => Self::scraped(LODESTAR_SCRAPE, PrefixSource::None),
            // SMG over HTTP: in flight by its own count, waiting and KV usage by a slow poll.
            PolicyConfig::SglangCacheAware => {
                Self { scrape_period: Some(SMG_POLL), ..Self::in_flight(SMG_TREE) }
            }
            PolicyConfig::VllmRouterCacheAware => Self::in_flight(VLLM_ROUTER_TREE),
            // llm-d counts tokens in flight itself, queues and KV usage are scraped.
            PolicyConfig::LlmDSticky => Self::in_flight(LLM_D_INDEX),
            PolicyConfig::LlmDWeighted => Self::scraped(FAST_SCRAPE, LLM_D_INDEX),
            // The predictor counts requests in flight too.
            PolicyConfig::LlmDPredicted => {
                Self { scrape_period: Some(FAST_SCRAPE), ..Self::in_flight(LLM_D_INDEX) }
            }
            // Dynamo's router has its own ledger; only events say what is cached.
            PolicyConfig::Dynamo(_) => Self::in_flight(PrefixSource::KvEvents),
            PolicyConfig::ProductionStack => Self::no_load(PRODUCTION_STACK_TRIE),
            // The key is hashed from the prompt, nothing is remembered; SMG counts for itself.
            PolicyConfig::BoundedHash => Self::in_flight(PrefixSource::None),
            // Mooncake's conductor books what it sends; its indexer learns of blocks by events.
            PolicyConfig::Mooncake => Self::in_flight(PrefixSource::KvEvents),
            // Preble keeps a radix tree with the size of each GPU's cache.
            PolicyConfig::Preble => Self::in_flight(PrefixSource::CapacityAware),
            PolicyConfig::SglangLeastLoad => {
                Self { scrape_period: Some(SMG_POLL), ..Self::in_flight(PrefixSource::None) }
            }
            // AIBrix reads vLLM's gauge of running requests.
            PolicyConfig::Vtc => Self::scraped(FAST_SCRAPE, PrefixSource::None),
            // LiteLLM remembers responses, vllm-router sessions, and they look at nothing else.
            PolicyConfig::LeastLatency | PolicyConfig::SessionAffinity => {
                Self::no_load(PrefixSource::None)
            }
            // Nobody's.
            PolicyConfig::LeastTokens => Self::in_flight(PrefixSource::None),
            PolicyConfig::JoinShortestWork => Self::in_flight(PrefixSource::CapacityAware),
            // It books what it sends, and scrapes to see what other routers send.
            PolicyConfig::Lodestar(_) => Self {
                scrape_period: Some(LODESTAR_SCRAPE),
                ..Self::in_flight(PrefixSource::RoutingAndEvents)
            },
        }
    }

    /// No counts.
    const fn no_load(prefix: PrefixSource) -> Self {
        Self { load: LoadSource::None, scrape_period: None, prefix }
    }

    /// Own counts.
    const fn in_flight(prefix: PrefixSource) -> Self {
        Self { load: LoadSource::InFlight, scrape_period: None, prefix }
    }

    /// Scraped counts.
    const fn scraped(period: Duration, prefix: PrefixSource) -> Self {
        Self { load: LoadSource::Scraped, scrape_period: Some(period), prefix }
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.load {
            LoadSource::None => "no counts",
            LoadSource::InFlight => "own counts",
            LoadSource::Scraped => "scraped counts",
        })?;
        if let Some(period) = self.scrape_period {
            write!(f, ", scrape every {} ms", period.as_nanos() / 1_000_000)?;
        }
        match self.prefix {
            PrefixSource::None => Ok(()),
            PrefixSource::CapacityAware => f.write_str(", own routing up to each KV capacity"),
            PrefixSource::RoutingAndEvents => {
                f.write_str(", own routing up to each KV capacity and KV events")
            }
            PrefixSource::KvEvents => f.write_str(", KV events"),
            PrefixSource::OwnRouting { block_tokens, capacity } => {
                write!(f, ", own routing in blocks of {block_tokens}")?;
                match capacity {
                    Capacity::PerInstance { tokens } => write!(f, ", {tokens} tokens an instance"),
                    Capacity::PerEngineBlock { .. } => f.write_str(", as many as an engine has"),
                    Capacity::Shared { tokens, ttl } => {
                        let minutes = ttl.as_nanos() / 60_000_000_000;
                        write!(f, ", {tokens} tokens in all, {minutes} min")
                    }
                    Capacity::Unbounded => f.write_str(", never evicted"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_policy_that_scrapes_counts_by_scrapes() {
        for policy in PolicyConfig::all() {
            let sources = Sources::of(&policy, Information::Deployed);
            if sources.load == LoadSource::Scraped {
                assert!(sources.scrape_period.is_some(), "{}", policy.name());
            }
        }
    }

    #[test]
    fn ideal_information_is_never_old_and_has_lodestars_index() {
        for policy in PolicyConfig::all() {
            let deployed = Sources::of(&policy, Information::Deployed);
            let ideal = Sources::of(&policy, Information::Ideal);
            if matches!(policy, PolicyConfig::Lodestar(_)) {
                assert_eq!(ideal, deployed);
                continue;
            }
            assert_eq!(ideal.scrape_period, None);
            assert_eq!(ideal.load == LoadSource::None, deployed.load == LoadSource::None);
            assert_ne!(ideal.load, LoadSource::Scraped);
            let looks_at_prefixes = deployed.prefix != PrefixSource::None;
            assert_eq!(ideal.prefix == PrefixSource::RoutingAndEvents, looks_at_prefixes);
        }
    }

    #[test]
    fn each_policy_sees_what_its_implementation_sees() {
        // 3,200,000 = 200,000 · 16; 16,777,216 = 67,108,864 / 4; 4,194,304 = 33,554,432 / 8.
        let expected = "\
random: no counts
round-robin: no counts
least-request: own counts
power-of-two: own counts
least-kv: scraped counts, scrape every 50 ms
prefix-cache: own counts, own routing in blocks of 16, 3200000 tokens in all, 20 min
prefix-hit-threshold: own counts, own routing in blocks of 16, 3200000 tokens in all, 20 min
lmetric: scraped counts, scrape every 100 ms, own routing in blocks of 16, 3200000 tokens in all, 20 min
mooncake: own counts, KV events
mooncake-simple: scraped counts, scrape every 100 ms
preble: own counts, own routing up to each KV capacity
sglang-cache-aware: own counts, scrape every 10000 ms, own routing in blocks of 16, 16777216 tokens an instance
sglang-least-load: own counts, scrape every 10000 ms
vllm-router-cache-aware: own counts, own routing in blocks of 16, 4194304 tokens an instance
llm-d-sticky: own counts, own routing in blocks of 64, as many as an engine has
llm-d-weighted: scraped counts, scrape every 50 ms, own routing in blocks of 64, as many as an engine has
llm-d-predicted: own counts, scrape every 50 ms, own routing in blocks of 64, as many as an engine has
dynamo: own counts, KV events
production-stack: no counts, own routing in blocks of 32, never evicted
bounded-hash: own counts
session-affinity: no counts
least-tokens: own counts
least-latency: no counts
vtc: scraped counts, scrape every 50 ms
join-shortest-work: own counts, own routing up to each KV capacity
lodestar: own counts, scrape every 100 ms, own routing up to each KV capacity and KV events
lodestar-paper: own counts, scrape every 100 ms, own routing in blocks of 16, 3200000 tokens in all, 20 min
lodestar-paper-as-shipped: own counts, scrape every 100 ms, own routing in blocks of 16, 3200000 tokens in all, 20 min";
        let row = |policy: &PolicyConfig| {
            format!("{}: {}", policy.name(), Sources::of(policy, Information::Deployed))
        };
        let rows: Vec<String> = PolicyConfig::all().iter().map(row).collect();
        assert_eq!(rows.join("\n"), expected);
        // What a row does not tell.
        let llm_d = Sources::of(&PolicyConfig::LlmDSticky, Information::Deployed).prefix;
        let capacity = Capacity::PerEngineBlock { unknown_blocks: 31_250 };
        assert_eq!(llm_d, PrefixSource::OwnRouting { block_tokens: 64, capacity });
    }
}
