//! What a trace looks like: how requests clump, how long they are, and how much of them a prefix cache
//! could save.

pub mod arrivals;
pub mod lengths;
mod lru;
pub mod reuse;

use std::collections::BTreeSet;
use std::fmt;

pub use arrivals::ArrivalStats;
pub use lengths::LengthStats;
pub use reuse::ReuseStats;

use crate::request::{Arrival, TraceRequest};

/// The statistics of a trace.
#[derive(Clone, Debug)]
pub struct TraceStats {
    /// Requests.
    pub requests: u64,
    /// Of those, how many wait for another to end instead of arriving at a given time.
    pub closed_loop: u64,
    /// Different sessions; requests without one are not counted.
    pub sessions: u64,
    /// Of the requests with a given time.
    pub arrivals: ArrivalStats,
    /// Prompt lengths.
    pub prompt_tokens: LengthStats,
    /// Answer lengths.
    pub output_tokens: LengthStats,
    /// Prefix sharing.
    pub reuse: ReuseStats,
}

impl TraceStats {
    /// Describes a trace.
    pub fn of(requests: &[TraceRequest]) -> Self {
        let arrival_ns = |request: &TraceRequest| match request.arrival {
            Arrival::At { ns } => Some(ns),
            Arrival::After { .. } => None,
        };
        let arrivals_ns: Vec<u64> = requests.iter().filter_map(arrival_ns).collect();
        let sessions: BTreeSet<u64> =
            requests.iter().filter_map(|request| request.session).collect();
        Self {
            requests: requests.len() as u64,
            closed_loop: (requests.len() - arrivals_ns.len()) as u64,
            sessions: sessions.len() as u64,
            arrivals: ArrivalStats::of(&arrivals_ns),
            prompt_tokens: requests.iter().map(TraceRequest::prompt_tokens).collect(),
            output_tokens: requests.iter().map(|request| request.output_tokens).collect(),
            reuse: ReuseStats::of(requests),
        }
    }
}

/// Shared caches worth asking about, tokens: from less than one GPU to a small fleet.
pub const CACHE_SIZES_TOKENS: [u64; 5] = [200_000, 500_000, 1_000_000, 3_000_000, 10_000_000];

impl fmt::Display for TraceStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<22}{}", "requests", self.requests)?;
        if self.sessions > 0 {
            writeln!(f, "{:<22}{}", "sessions", self.sessions)?;
        }
        if self.closed_loop > 0 {
            writeln!(f, "{:<22}{} wait for another to end", "closed loop", self.closed_loop)?;
        }
        write!(f, "{}", self.arrivals)?;
        writeln!(
            f,
            "\n{:<22}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "tokens", "mean", "p50", "p90", "p99", "max"
        )?;
        writeln!(f, "{:<22}{}", "prompt", self.prompt_tokens)?;
        writeln!(f, "{:<22}{}", "output", self.output_tokens)?;
        write!(f, "\n{}", self.reuse)
    }
}
