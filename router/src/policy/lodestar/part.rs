//! The parts of the policy that are more than a law and its lowest time, each of which can be left out to see what it
//! is worth. For studies: nobody should serve without.

use serde::{Deserialize, Serialize};

/// A part that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The network that corrects the law; its intervals stay.
    Network,
    /// `E`, what those behind wait longer.
    DelayOfOthers,
    /// `D`, what those wait longer who come while the answer is decoded.
    DelayByAnswers,
    /// `P`, what leaves the cache.
    CachePrice,
    /// The benefit of the doubt for instances of which little is known.
    Doubt,
    /// Trying what is nearly as good.
    Exploration,
    /// The heuristic's small share, and stepping back when it wins.
    Guardrail,
    /// Forgetting when an instance is not what it was.
    Drift,
    /// Expecting more of the same where the head of the queue is late.
    LateHeads,
    /// Believing less of the index where hits do not come true.
    Trust,
    /// Waiting for a place in the batch, and for memory.
    Places,
    /// Another copy of a prefix where that pays.
    Copies,
}

impl Part {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Self); 12] = [
        ("network", Self::Network),
        ("delay-of-others", Self::DelayOfOthers),
        ("delay-by-answers", Self::DelayByAnswers),
        ("cache-price", Self::CachePrice),
        ("doubt", Self::Doubt),
        ("exploration", Self::Exploration),
        ("guardrail", Self::Guardrail),
        ("drift", Self::Drift),
        ("late-heads", Self::LateHeads),
        ("trust", Self::Trust),
        ("places", Self::Places),
        ("copies", Self::Copies),
    ];
}
