//! Workloads to order: who arrives when, with what prompt, for how long an answer.
//!
//! A workload is data, a [`WorkloadConfig`] that a scenario file or a preset spells out, not code: what a
//! run was fed with can then be read, changed and repeated. The same configuration and seed give the
//! same requests on every machine.

pub mod arrivals;
pub mod distribution;
mod draw;
pub mod prefix_groups;
pub mod prefix_tree;
mod presets;
pub mod sessions;

use serde::{Deserialize, Serialize};

pub use arrivals::Arrivals;
pub use distribution::Distribution;
pub use prefix_groups::PrefixGroups;
pub use prefix_tree::PrefixTree;
pub use sessions::Sessions;

use crate::request::{Arrival, Source, Span, TraceRequest};

/// A workload to generate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadConfig {
    /// How many requests.
    pub requests: u32,
    /// When they arrive.
    pub arrivals: Arrivals,
    /// What they ask and how long the answers are.
    pub prompts: Prompts,
}

/// What requests ask, and what their prompts have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Prompts {
    /// Each prefix is used a given number of times: the family that the Lodestar paper evaluates on.
    PrefixGroups(PrefixGroups),
    /// Prompts descend a tree of prefixes, popular branches more often. No level: nothing is shared.
    PrefixTree(PrefixTree),
    /// Chats and agents: each prompt is the previous one, its answer, and something new.
    Sessions(Sessions),
}

/// A workload that cannot be generated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {complaint}")]
pub struct WorkloadError {
    field: String,
    complaint: String,
}

impl WorkloadError {
    pub(crate) fn new(field: &str, complaint: impl Into<String>) -> Self {
        Self { field: field.to_owned(), complaint: complaint.into() }
    }

    /// Names the part of the configuration that the field is in.
    pub(crate) fn within(mut self, part: &str) -> Self {
        self.field =
            if self.field.is_empty() { part.to_owned() } else { format!("{part}.{}", self.field) };
        self
    }

    /// The option, from the outside in: `prompts.output_tokens.mean`.
    pub fn field(&self) -> &str {
        &self.field
    }
}

impl WorkloadConfig {
    /// The names of the presets.
    pub fn preset_names() -> impl Iterator<Item = &'static str> {
        presets::PRESETS.iter().map(|(name, _)| *name)
    }

    /// A named workload.
    ///
    /// # Errors
    ///
    /// If there is none of that name; the message lists those there are.
    pub fn preset(name: &str) -> Result<Self, WorkloadError> {
        match presets::PRESETS.iter().find(|(known, _)| *known == name) {
            Some((_, build)) => Ok(build()),
            None => {
                let known: Vec<_> = Self::preset_names().collect();
                Err(WorkloadError::new(
                    "workload",
                    format!("{name:?} is unknown; there are: {}", known.join(", ")),
                ))
            }
        }
    }

    /// Whether [`generate()`] can build it.
    ///
    /// # Errors
    ///
    /// The first field that is out of range.
    pub fn check(&self) -> Result<(), WorkloadError> {
        if self.requests == 0 {
            return Err(WorkloadError::new("requests", "is 0; a trace needs at least one"));
        }
        self.arrivals.check().map_err(|error| error.within("arrivals"))?;
        match &self.prompts {
            Prompts::PrefixGroups(config) => config.check(),
            Prompts::PrefixTree(config) => config.check(),
            Prompts::Sessions(config) => config.check(),
        }
        .map_err(|error| error.within("prompts"))
    }
}

/// Generates the workload, in trace order.
///
/// # Errors
///
/// If the configuration is not possible, see [`WorkloadConfig::check`].
pub fn generate(config: &WorkloadConfig, seed: u64) -> Result<Vec<TraceRequest>, WorkloadError> {
    config.check()?;
    let requests = config.requests;
    let contents = match &config.prompts {
        Prompts::PrefixGroups(prompts) => prompts.contents(requests, seed),
        Prompts::PrefixTree(prompts) => prompts.contents(requests, seed),
        Prompts::Sessions(prompts) => {
            return Ok(prompts.requests(requests, &config.arrivals, seed));
        }
    };
    let times_ns = config.arrivals.times_ns(requests, seed);
    Ok((0..)
        .zip(contents.into_iter().zip(times_ns))
        .map(|(id, (content, ns))| content.at(id, ns))
        .collect())
}

/// A request before it has a time and an id.
pub(crate) struct Content {
    /// What it has in common with others.
    pub(crate) shared: Vec<Span>,
    /// What it has not. At least 1.
    pub(crate) unique_tokens: u32,
    pub(crate) output_tokens: u32,
}

impl Content {
    fn at(self, id: u64, ns: u64) -> TraceRequest {
        let mut prompt = self.shared;
        prompt.push(Span { source: Source::Private(id), start: 0, tokens: self.unique_tokens });
        TraceRequest {
            id,
            arrival: Arrival::At { ns },
            prompt,
            output_tokens: self.output_tokens,
            session: None,
            priority: 0,
            cache_salt: None,
        }
    }
}
