//! Prompts that descend a tree of prefixes: system prompt, then template, then what the user typed.
//!
//! Branches are drawn by popularity, so that few prefixes are hot and many are cold, as in production;
//! [`prefix_groups`](super::prefix_groups) uses all alike.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::distribution::{at_least, count};
use super::draw::Zipf;
use super::{Content, Distribution, WorkloadError};
use crate::random;
use crate::request::{Source, Span};

/// A tree of prefixes. Without levels, prompts have nothing in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefixTree {
    /// From the root; each prompt picks one branch per level.
    #[serde(default)]
    pub levels: Vec<Level>,
    /// Length of what only this prompt says.
    pub unique_tokens: Distribution,
    /// Length of an answer.
    pub output_tokens: Distribution,
}

/// One level of a [`PrefixTree`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// Branches of every node above.
    pub branches: u32,
    /// How unequal they are: the n-th is picked as often as `n^-skew`. 0 makes all alike.
    #[serde(default)]
    pub skew: f64,
    /// Length of a branch's text.
    pub tokens: Distribution,
}

impl PrefixTree {
    pub(crate) fn check(&self) -> Result<(), WorkloadError> {
        for (index, level) in self.levels.iter().enumerate() {
            let part = format!("levels[{index}]");
            level.check().map_err(|error| error.within(&part))?;
        }
        self.unique_tokens.check("unique_tokens")?;
        self.output_tokens.check("output_tokens")
    }

    pub(crate) fn contents(&self, requests: u32, seed: u64) -> Vec<Content> {
        let mut tree = Tree::new(&self.levels, seed);
        let mut unique = random::stream(seed, "prefix-tree/unique");
        let mut outputs = random::stream(seed, "prefix-tree/outputs");
        let content = |_| Content {
            shared: tree.descend(),
            unique_tokens: self.unique_tokens.tokens(&mut unique, 1),
            output_tokens: self.output_tokens.tokens(&mut outputs, 1),
        };
        (0..requests).map(content).collect()
    }
}

impl Level {
    fn check(&self) -> Result<(), WorkloadError> {
        count("branches", self.branches)?;
        at_least(0.0, "skew", self.skew)?;
        self.tokens.check("tokens")
    }
}

/// The nodes visited so far. Made when first visited: a tree can be far larger than what is used of it.
struct Tree<'a> {
    levels: Vec<(Zipf, &'a Distribution)>,
    /// By parent (none for the root) and branch.
    nodes: BTreeMap<(Option<u64>, usize), Span>,
    branches: ChaCha8Rng,
    lengths: ChaCha8Rng,
}

impl<'a> Tree<'a> {
    fn new(levels: &'a [Level], seed: u64) -> Self {
        let level = |level: &'a Level| (Zipf::new(level.branches, level.skew), &level.tokens);
        Self {
            levels: levels.iter().map(level).collect(),
            nodes: BTreeMap::new(),
            branches: random::stream(seed, "prefix-tree/branches"),
            lengths: random::stream(seed, "prefix-tree/lengths"),
        }
    }

    /// The shared part of a new prompt.
    fn descend(&mut self) -> Vec<Span> {
        let Self { levels, nodes, branches, lengths } = self;
        let mut parent = None;
        let step = |(popularity, tokens): &(Zipf, &Distribution)| {
            let branch = popularity.pick(branches);
            let id = nodes.len() as u64;
            let node = *nodes.entry((parent, branch)).or_insert_with(|| Span {
                source: Source::Hash(id),
                start: 0,
                tokens: tokens.tokens(lengths, 1),
            });
            parent = match node.source {
                Source::Hash(id) => Some(id),
                Source::Token(_) | Source::Output(_) | Source::Private(_) => None,
            };
            node
        };
        levels.iter().map(step).collect()
    }
}
