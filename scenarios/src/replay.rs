//! One trace on one fleet under several policies, in parallel.
//!
//! Parallel across runs and never inside one: each run is a pure function of the scenario and its own
//! policy, so the number of threads decides when the results are there and never what they are.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use lodestar_router::{PolicyConfig, RouterConfig};
use lodestar_sim::{ClusterConfig, Stuck, simulate};
use lodestar_traces::{Arrival, ReadOptions, TraceRequest};
use rayon::prelude::*;
use rayon::{ThreadPoolBuildError, ThreadPoolBuilder};

use crate::digest::trace_sha256;
use crate::fleet::{Fleet, FleetError};
use crate::manifest::{Scenario, TraceIdentity};
use crate::tables::{Results, RunTables};

/// A scenario with the requests and instances it names: checked, ready to run.
#[derive(Debug)]
pub struct Replay<'a> {
    scenario: Scenario,
    cluster: ClusterConfig,
    requests: &'a [TraceRequest],
}

/// Requests, and what they are to be called in the results.
#[derive(Clone, Debug)]
pub struct Workload<'a> {
    /// A file's name without its folder, or a generator's.
    pub name: &'a str,
    /// How they were changed while they were read from a file.
    pub read_options: Option<ReadOptions>,
    /// In trace order.
    pub requests: &'a [TraceRequest],
}

/// What a replay gives.
#[derive(Debug)]
pub struct Replayed {
    /// The same for the same scenario, always.
    pub results: Results,
    /// How long each run took on this machine; no part of the results.
    pub wall: Vec<Duration>,
}

/// Why a replay cannot start or did not end.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// No requests.
    #[error("the trace {0} has no requests")]
    EmptyTrace(String),
    /// No policies.
    #[error("no policy was named")]
    NoPolicy,
    /// The same policy twice would be the same run twice, in the same folder.
    #[error("the policy {0} was named twice")]
    RepeatedPolicy(String),
    /// A time series that would not fit into memory.
    #[error(
        "the trace {trace} lasts {days} days or more: a row a simulated second, instance and policy would be \
         {rows} rows, above {MAX_ROWS}; replay a window of it, or at a higher rate"
    )]
    TooLong {
        /// What the trace is called.
        trace: String,
        /// Until its last request is sent.
        days: u64,
        /// Of all runs.
        rows: u64,
    },
    /// The fleet cannot be built.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// The system gives no more threads.
    #[error("cannot start {threads} threads; ask for fewer")]
    Threads {
        /// How many were to be started.
        threads: usize,
        /// What the system said.
        source: ThreadPoolBuildError,
    },
    /// The simulator's watchdog ended a run.
    #[error("the run under {policy} does not end")]
    Stuck {
        /// Which run.
        policy: String,
        /// What the watchdog saw.
        source: Stuck,
    },
}

/// Most rows of the time series of all runs: a week on 50 instances under six policies.
const MAX_ROWS: u64 = 200_000_000;

fn check_rows(
    trace: &str,
    requests: &[TraceRequest],
    cluster: &ClusterConfig,
    policies: usize,
) -> Result<(), ReplayError> {
    let last_ns = earliest_end_ns(requests);
    let series = (cluster.instances.len() * policies) as u64;
    let rows = (last_ns / cluster.record_interval.as_nanos()).saturating_mul(series);
    if rows <= MAX_ROWS {
        return Ok(());
    }
    let days = last_ns / 86_400_000_000_000;
    Err(ReplayError::TooLong { trace: trace.to_owned(), days, rows })
}

/// When the last request is sent if every other one is answered at once.
fn earliest_end_ns(requests: &[TraceRequest]) -> u64 {
    let mut sent_ns = BTreeMap::new();
    let mut last_ns = 0;
    for request in requests {
        let ns = match request.arrival {
            Arrival::At { ns } => ns,
            Arrival::After { request, delay_ns } => {
                sent_ns.get(&request).copied().unwrap_or(0_u64).saturating_add(delay_ns)
            }
        };
        sent_ns.insert(request.id, ns);
        last_ns = last_ns.max(ns);
    }
    last_ns
}

impl<'a> Replay<'a> {
    /// Checks everything that can be wrong with a scenario before time is spent on it.
    pub fn new(
        workload: Workload<'a>,
        fleet: Fleet,
        model: &str,
        policies: Vec<PolicyConfig>,
        seed: u64,
    ) -> Result<Self, ReplayError> {
        let Workload { name, read_options, requests } = workload;
        if requests.is_empty() {
            return Err(ReplayError::EmptyTrace(name.to_owned()));
        }
        if policies.is_empty() {
            return Err(ReplayError::NoPolicy);
        }
        for (index, policy) in policies.iter().enumerate() {
            if policies[..index].iter().any(|earlier| earlier.name() == policy.name()) {
                return Err(ReplayError::RepeatedPolicy(policy.name().into_owned()));
            }
        }
        let cluster = ClusterConfig::new(fleet.instances(model)?);
        check_rows(name, requests, &cluster, policies.len())?;
        let trace = TraceIdentity {
            name: name.to_owned(),
            read_options,
            requests: requests.len() as u64,
            sha256: trace_sha256(requests),
        };
        let step_times = fleet.step_times(model)?;
        let model = model.to_owned();
        let scenario = Scenario { trace, fleet, model, step_times, policies, seed };
        Ok(Self { scenario, cluster, requests })
    }

    /// How many requests all runs together will bring to an end.
    pub fn total_requests(&self) -> u64 {
        self.scenario.trace.requests * self.scenario.policies.len() as u64
    }

    /// Runs every policy, on `threads` threads or one a core. `on_ended` is called from all of them, with
    /// the number of requests that ended since the call before.
    pub fn run(
        &self,
        threads: Option<NonZeroUsize>,
        on_ended: &(dyn Fn(u64) + Sync),
    ) -> Result<Replayed, ReplayError> {
        let policies = &self.scenario.policies;
        let cores = || available_parallelism().unwrap_or(NonZeroUsize::MIN);
        // More threads than runs would have nothing to do.
        let threads = threads.unwrap_or_else(cores).get().min(policies.len());
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|source| ReplayError::Threads { threads, source })?;
        // Every run ends before an error is looked at, so that of two errors it is always the same one.
        let runs: Vec<Result<_, _>> = pool.install(|| {
            policies.par_iter().map(|policy| self.run_policy(policy, on_ended)).collect()
        });
        let mut tables = Vec::with_capacity(runs.len());
        let mut wall = Vec::with_capacity(runs.len());
        for run in runs {
            let (run, elapsed) = run?;
            tables.push(run);
            wall.push(elapsed);
        }
        Ok(Replayed { results: Results { scenario: self.scenario.clone(), runs: tables }, wall })
    }

    fn run_policy(
        &self,
        policy: &PolicyConfig,
        on_ended: &(dyn Fn(u64) + Sync),
    ) -> Result<(RunTables, Duration), ReplayError> {
        let started = Instant::now();
        let mut reported = 0;
        let mut on_progress = |ended| {
            on_ended(ended - reported);
            reported = ended;
        };
        let router = RouterConfig::new(policy.clone());
        let output =
            simulate(&self.cluster, self.requests, router, self.scenario.seed, &mut on_progress)
                .map_err(|source| ReplayError::Stuck {
                    policy: policy.name().into_owned(),
                    source,
                })?;
        assert_eq!(output.requests.len(), self.requests.len(), "every request ends exactly once");
        let elapsed = started.elapsed();
        Ok((RunTables::new(&policy.name(), &self.cluster, &output), elapsed))
    }
}

#[cfg(test)]
mod tests {
    use lodestar_traces::{Source, Span};

    use super::*;

    fn request(id: u64, arrival: Arrival) -> TraceRequest {
        TraceRequest {
            id,
            arrival,
            prompt: vec![Span { source: Source::Private(id), start: 0, tokens: 9 }],
            output_tokens: 1,
            session: None,
            priority: 0,
            cache_salt: None,
        }
    }

    #[test]
    fn a_trace_of_decades_is_refused_before_it_fills_memory() {
        let decades_ns = 1 << 60;
        let after = Arrival::After { request: 0, delay_ns: decades_ns };
        for arrival in [Arrival::At { ns: decades_ns }, after] {
            let requests = [request(0, Arrival::At { ns: 0 }), request(1, arrival)];
            let workload = Workload { name: "t", read_options: None, requests: &requests };
            let fleet = "l4:2".parse().unwrap();
            let policies = PolicyConfig::all().into();
            let error = Replay::new(workload, fleet, "llama-3.1-8b", policies, 1).unwrap_err();
            let message = error.to_string();
            assert!(message.starts_with("the trace t lasts 13343 days or more"), "{message}");
        }
    }
}
