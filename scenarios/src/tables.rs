//! What a run did, as two tables: a row per request, a row per instance and interval.
//!
//! Points in time are whole nanoseconds (`_ns`) of simulated time, lengths of time are milliseconds
//! (`_ms`), and what a request does not have (the TTFT of a rejected one) is null, not zero. The columns
//! are described in `docs/results.md`; the schema exists once, as the tables made of no records.

use lodestar_router::{Duration, Reason};
use lodestar_sim::{
    ClusterConfig, InstanceConfig, IntervalRecord, Outcome, RequestRecord, RunOutput,
};

use crate::manifest::Scenario;
use crate::table::{Table, column};

/// Everything that was measured in one scenario: the same requests under each policy.
#[derive(Clone, Debug)]
pub struct Results {
    /// What was asked.
    pub scenario: Scenario,
    /// One run a policy, in the scenario's order.
    pub runs: Vec<RunTables>,
}

/// The tables of one run. They have the schema of this version, always.
#[derive(Clone, Debug, PartialEq)]
pub struct RunTables {
    policy: String,
    requests: Table,
    instances: Table,
}

/// A table does not have the columns of its kind.
#[derive(Debug, thiserror::Error)]
#[error("the columns are not those of this version of Lodestar")]
pub(crate) struct SchemaMismatch;

impl Results {
    /// Adds the runs of other results, to be compared with these.
    ///
    /// # Errors
    /// When they are of other requests, or a run has the name of another one.
    pub fn add(&mut self, other: Self) -> Result<(), Incomparable> {
        if other.scenario.trace.sha256 != self.scenario.trace.sha256 {
            return Err(Incomparable::Trace(other.scenario.trace.name));
        }
        for run in other.runs {
            if self.runs.iter().any(|known| known.policy == run.policy) {
                return Err(Incomparable::Name(run.policy));
            }
            self.scenario.measured.push(run.policy.clone());
            self.runs.push(run);
        }
        Ok(())
    }
}

/// Why results cannot stand beside others.
#[derive(Debug, thiserror::Error)]
pub enum Incomparable {
    /// Other requests.
    #[error("its requests ({0}) are not these: replay the same trace with the same flags and seed")]
    Trace(String),
    /// A name twice.
    #[error("it has a run called {0}, as this one: measure it with another --label")]
    Name(String),
}

impl RunTables {
    /// The tables of what the simulator returned.
    pub fn new(policy: &str, cluster: &ClusterConfig, output: &RunOutput) -> Self {
        let members = cluster.members();
        Self {
            policy: policy.to_owned(),
            requests: request_table(policy, &members, &output.requests),
            instances: instance_table(policy, &members, &output.intervals),
        }
    }

    /// Out of tables that come from elsewhere.
    pub(crate) fn from_tables(
        policy: &str,
        requests: Table,
        instances: Table,
    ) -> Result<Self, SchemaMismatch> {
        let known = requests.has_schema_of(&request_table("", &[], &[]))
            && instances.has_schema_of(&instance_table("", &[], &[]));
        if known {
            Ok(Self { policy: policy.to_owned(), requests, instances })
        } else {
            Err(SchemaMismatch)
        }
    }

    /// The policy's name.
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// A row per request, in trace order.
    pub fn requests(&self) -> &Table {
        &self.requests
    }

    /// A row per instance and interval, by interval, then by instance.
    pub fn instances(&self) -> &Table {
        &self.instances
    }
}

fn request_table(policy: &str, members: &[&InstanceConfig], records: &[RequestRecord]) -> Table {
    let of = |record: &RequestRecord| record.instance.map(|id| members[id.0 as usize]);
    let columns = vec![
        column("policy", records, |_| policy),
        column("request", records, |r| r.request),
        column("arrival_ns", records, |r| r.arrival.as_nanos()),
        column("ended_ns", records, |r| r.ended.as_nanos()),
        column("outcome", records, |r| r.outcome.as_str()),
        column("instance", records, |r| of(r).map(|instance| instance.name.as_str())),
        column("gpu", records, |r| of(r).map(|instance| instance.gpu.as_str())),
        column("reason", records, |r| r.reason.map(Reason::as_str)),
        column("prompt_tokens", records, |r| r.prompt_tokens),
        column("cached_tokens", records, |r| r.cached_tokens),
        column("predicted_cached_tokens", records, |r| r.predicted_cached_tokens),
        column("output_tokens", records, |r| r.output_tokens),
        column("preemptions", records, |r| r.preemptions),
        column("queue_ms", records, |r| r.queue_time().map(millis)),
        column("prefill_ms", records, |r| r.prefill_time().map(millis)),
        column("ttft_ms", records, |r| r.ttft().map(millis)),
        column("tpot_ms", records, |r| r.tpot().map(millis)),
        column("itl_max_ms", records, |r| has_gaps(r).then(|| millis(r.itl_max))),
        column("e2e_ms", records, |r| r.e2e().map(millis)),
        column("predicted_ttft_ms", records, |r| r.predicted_ttft.map(millis)),
    ];
    Table::new(records.len(), columns)
}

fn instance_table(policy: &str, members: &[&InstanceConfig], records: &[IntervalRecord]) -> Table {
    let of = |record: &IntervalRecord| members[record.instance.0 as usize];
    let columns = vec![
        column("policy", records, |_| policy),
        column("end_ns", records, |r| r.end.as_nanos()),
        column("instance", records, |r| of(r).name.as_str()),
        column("gpu", records, |r| of(r).gpu.as_str()),
        column("running_requests", records, |r| r.running_requests),
        column("waiting_requests", records, |r| r.waiting_requests),
        column("kv_usage", records, |r| r.kv_usage),
        column("steps", records, |r| r.steps),
        column("prefill_tokens", records, |r| r.prefill_tokens),
        column("output_tokens", records, |r| r.output_tokens),
        column("preemptions", records, |r| r.preemptions),
    ];
    Table::new(records.len(), columns)
}

/// Whether there are two output tokens with a gap between them.
fn has_gaps(record: &RequestRecord) -> bool {
    record.outcome == Outcome::Finished && record.output_tokens > 1
}

fn millis(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e6
}
