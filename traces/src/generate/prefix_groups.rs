//! Prompts in groups that share a prefix, each prefix used a given number of times: the workload family
//! of the Lodestar paper, with its parameters.
//!
//! Counted rather than drawn: the share of tokens that an infinite cache would save is then a property
//! of the configuration (shared fraction times `1 - 1/requests_per_prefix`), which is what the paper's
//! names state.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::distribution::count;
use super::{Content, Distribution, WorkloadError};
use crate::random;
use crate::request::{Source, Span};

/// Prompts of several groups, mixed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefixGroups {
    /// The groups. If more requests are asked for than they make, they are repeated with new prefixes; if
    /// fewer, with fewer prefixes. Each prefix keeps its number of uses.
    pub groups: Vec<PrefixGroup>,
    /// How many requests later a prefix is used again. Without it, the uses of all prefixes of a
    /// repetition are shuffled.
    pub reuse_distance: Option<Distribution>,
}

/// Prompts of one length and one degree of sharing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefixGroup {
    /// Different prefixes.
    pub prefixes: u32,
    /// Requests that begin with each.
    pub requests_per_prefix: u32,
    /// Length of a prompt, prefix included.
    pub prompt_tokens: Distribution,
    /// Length of a prefix as a fraction of a prompt.
    pub shared_fraction: Distribution,
    /// Length of an answer.
    pub output_tokens: Distribution,
    /// Groups of the same phase are mixed; phases follow each other.
    #[serde(default)]
    pub phase: u32,
}

impl PrefixGroup {
    fn requests(&self) -> u64 {
        u64::from(self.prefixes) * u64::from(self.requests_per_prefix)
    }
}

impl PrefixGroups {
    /// Requests of one repetition.
    pub fn requests(&self) -> u64 {
        self.groups.iter().map(PrefixGroup::requests).sum()
    }

    pub(crate) fn check(&self) -> Result<(), WorkloadError> {
        if self.groups.is_empty() {
            return Err(WorkloadError::new("groups", "is empty"));
        }
        for (index, group) in self.groups.iter().enumerate() {
            let part = format!("groups[{index}]");
            group.check().map_err(|error| error.within(&part))?;
        }
        self.reuse_distance.as_ref().map_or(Ok(()), |distance| distance.check("reuse_distance"))
    }

    /// `count` requests without times.
    pub(crate) fn contents(&self, count: u32, seed: u64) -> Vec<Content> {
        let mut draws = Draws::new(seed);
        let mut contents = Vec::with_capacity(count as usize);
        let mut phases: Vec<u32> = self.groups.iter().map(|group| group.phase).collect();
        phases.sort_unstable();
        phases.dedup();
        let mut until = 0;
        for phase in phases {
            let groups: Vec<_> = self.groups.iter().filter(|group| group.phase == phase).collect();
            until += groups.iter().map(|group| group.requests()).sum::<u64>();
            // A phase is as long a part of the trace as of the configuration.
            let end =
                (u128::from(count) * u128::from(until) / u128::from(self.requests())) as usize;
            while contents.len() < end {
                self.repetition(&groups, end - contents.len(), &mut draws, &mut contents);
            }
        }
        contents
    }

    /// Appends one repetition of some groups, or as much of one as `room` takes.
    fn repetition(
        &self,
        groups: &[&PrefixGroup],
        room: usize,
        draws: &mut Draws,
        contents: &mut Vec<Content>,
    ) {
        let mut prefixes: Vec<&PrefixGroup> = groups
            .iter()
            .flat_map(|group| std::iter::repeat_n(*group, group.prefixes as usize))
            .collect();
        prefixes.shuffle(&mut draws.order);
        // A place in the order for every use of every prefix, then the uses by place.
        let mut uses = Vec::with_capacity(room);
        for group in prefixes {
            if uses.len() == room {
                break;
            }
            let prefix = draws.prefix(group);
            let mut place = uses.len() as f64;
            for _ in 0..(group.requests_per_prefix as usize).min(room - uses.len()) {
                uses.push((place, group, prefix));
                place += self
                    .reuse_distance
                    .as_ref()
                    .map_or(0.0, |distance| distance.sample(&mut draws.order));
            }
        }
        match self.reuse_distance {
            None => uses.shuffle(&mut draws.order),
            Some(_) => uses.sort_by(|a, b| a.0.total_cmp(&b.0)),
        }
        contents.extend(uses.into_iter().map(|(_, group, prefix)| draws.content(group, prefix)));
    }
}

impl PrefixGroup {
    fn check(&self) -> Result<(), WorkloadError> {
        count("prefixes", self.prefixes)?;
        count("requests_per_prefix", self.requests_per_prefix)?;
        self.prompt_tokens.check("prompt_tokens")?;
        self.shared_fraction.check("shared_fraction")?;
        self.output_tokens.check("output_tokens")
    }
}

#[derive(Clone, Copy)]
struct Prefix {
    span: Span,
    /// Its part of a prompt.
    fraction: f64,
}

/// The random streams, and the prefixes handed out.
struct Draws {
    order: ChaCha8Rng,
    prefixes: ChaCha8Rng,
    prompts: ChaCha8Rng,
    outputs: ChaCha8Rng,
    next_prefix: u64,
}

impl Draws {
    fn new(seed: u64) -> Self {
        Self {
            order: random::stream(seed, "prefix-groups/order"),
            prefixes: random::stream(seed, "prefix-groups/prefixes"),
            prompts: random::stream(seed, "prefix-groups/prompts"),
            outputs: random::stream(seed, "prefix-groups/outputs"),
            next_prefix: 0,
        }
    }

    /// A prefix that no other request has yet.
    fn prefix(&mut self, group: &PrefixGroup) -> Prefix {
        let prompt_tokens = group.prompt_tokens.tokens(&mut self.prefixes, 1);
        let fraction = group.shared_fraction.sample(&mut self.prefixes).min(1.0);
        let tokens = libm::round(f64::from(prompt_tokens) * fraction) as u32;
        let source = Source::Hash(self.next_prefix);
        self.next_prefix += 1;
        Prefix { span: Span { source, start: 0, tokens }, fraction }
    }

    fn content(&mut self, group: &PrefixGroup, prefix: Prefix) -> Content {
        // Not what is left of the prompt after the prefix: that would be negative for short prompts, and
        // cutting it off at 0 would lengthen the mean.
        let prompt_tokens = group.prompt_tokens.tokens(&mut self.prompts, 1);
        let unique = libm::round(f64::from(prompt_tokens) * (1.0 - prefix.fraction));
        Content {
            shared: if prefix.span.tokens > 0 { vec![prefix.span] } else { Vec::new() },
            unique_tokens: (unique as u32).max(1),
            output_tokens: group.output_tokens.tokens(&mut self.outputs, 1),
        }
    }
}
