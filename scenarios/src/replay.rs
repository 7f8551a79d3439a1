//! One trace on one fleet under several policies, in parallel.
//!
//! Parallel across runs and never inside one: each run is a pure function of the scenario and its own
//! policy, so the number of threads decides when the results are there and never what they are.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use lodestar_router::{Checkpoint, Information, LogEntry, PolicyConfig, RouterConfig};
use lodestar_sim::{ClusterConfig, RunOutput, Stuck, simulate_from};
use lodestar_traces::{ReadOptions, TraceRequest};
use rayon::prelude::*;
use rayon::{ThreadPoolBuildError, ThreadPoolBuilder};

use crate::decisions::LOG_FILE;
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
    checkpoint: Option<Checkpoint>,
    /// Where router logs go, in a folder for each policy.
    log_folder: Option<PathBuf>,
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
    /// What each policy has learned, if it keeps that.
    pub checkpoints: Vec<Option<Checkpoint>>,
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
    /// A router log cannot be written.
    #[error("cannot write {path}")]
    Log {
        /// Which file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
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
        let trace = TraceIdentity {
            name: name.to_owned(),
            read_options,
            requests: requests.len() as u64,
            sha256: trace_sha256(requests),
        };
        let step_times = fleet.step_times(model)?;
        let model = model.to_owned();
        let information = Information::default();
        let measured = Vec::new();
        let scenario =
            Scenario { trace, fleet, model, step_times, policies, measured, information, seed };
        Ok(Self { scenario, cluster, requests, checkpoint: None, log_folder: None })
    }

    /// Lets every policy see this.
    #[must_use]
    pub fn with_information(mut self, information: Information) -> Self {
        self.scenario.information = information;
        self
    }

    /// Lets every policy go on from this. It is no part of the scenario: the manifest does not know it.
    #[must_use]
    pub fn with_checkpoint(mut self, checkpoint: Checkpoint) -> Self {
        self.checkpoint = Some(checkpoint);
        self
    }

    /// Has every router's log written to `<folder>/<policy>/decisions.jsonl`.
    #[must_use]
    pub fn with_log(mut self, folder: &Path) -> Self {
        self.log_folder = Some(folder.to_owned());
        self
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
        let mut checkpoints = Vec::with_capacity(runs.len());
        for run in runs {
            let (run, elapsed, checkpoint) = run?;
            checkpoints.push(checkpoint);
            tables.push(run);
            wall.push(elapsed);
        }
        let results = Results { scenario: self.scenario.clone(), runs: tables };
        Ok(Replayed { results, wall, checkpoints })
    }

    fn run_policy(
        &self,
        policy: &PolicyConfig,
        on_ended: &(dyn Fn(u64) + Sync),
    ) -> Result<(RunTables, Duration, Option<Checkpoint>), ReplayError> {
        let started = Instant::now();
        let mut reported = 0;
        let mut on_progress = |ended| {
            on_ended(ended - reported);
            reported = ended;
        };
        let information = self.scenario.information;
        let router = RouterConfig { information, ..RouterConfig::new(policy.clone()) };
        let log =
            self.log_folder.as_ref().map(|folder| folder.join(&*policy.name()).join(LOG_FILE));
        let output = match log {
            Some(path) => self.simulate_logged(router, &mut on_progress, &path)?,
            None => self.simulate(router, &mut on_progress, None),
        };
        let (output, learned) = output
            .map_err(|source| ReplayError::Stuck { policy: policy.name().into_owned(), source })?;
        assert_eq!(output.requests.len(), self.requests.len(), "every request ends exactly once");
        let elapsed = started.elapsed();
        Ok((RunTables::new(&policy.name(), &self.cluster, &output), elapsed, learned))
    }

    fn simulate<'b>(
        &'b self,
        router: RouterConfig,
        on_progress: &mut dyn FnMut(u64),
        on_log: Option<&'b mut dyn FnMut(u32, Vec<LogEntry>)>,
    ) -> Result<(RunOutput, Option<Checkpoint>), Stuck> {
        let (checkpoint, seed) = (self.checkpoint.as_ref(), self.scenario.seed);
        simulate_from(checkpoint, &self.cluster, self.requests, (router, seed), on_progress, on_log)
    }

    /// Simulates and writes the router's log. The outer error is the file's.
    fn simulate_logged(
        &self,
        router: RouterConfig,
        on_progress: &mut dyn FnMut(u64),
        path: &Path,
    ) -> Result<Result<(RunOutput, Option<Checkpoint>), Stuck>, ReplayError> {
        let error = |source| ReplayError::Log { path: path.to_owned(), source };
        fs::create_dir_all(path.parent().unwrap_or(path)).map_err(error)?;
        let mut out = BufWriter::new(File::create(path).map_err(error)?);
        let mut written = Ok(());
        // A replay has one router.
        let mut on_log = |_, entries: Vec<LogEntry>| {
            for entry in &entries {
                if written.is_ok() {
                    written = serde_json::to_writer(&mut out, entry)
                        .map_err(io::Error::from)
                        .and_then(|()| out.write_all(b"\n"));
                }
            }
        };
        let output = self.simulate(router, on_progress, Some(&mut on_log));
        written.and_then(|()| out.flush()).map_err(error)?;
        Ok(output)
    }
}
