//! One run in a line: the figures by which policies are compared.
//!
//! Made from the tables and not from the simulator's records, so that a folder read back a year later
//! is summed up by the same code as the run that has just ended. Definitions: `docs/metrics.md`.

use std::io::Write;

use lodestar_sim::Outcome;
use serde::{Deserialize, Serialize};

use crate::quantile::Distribution;
use crate::table::Table;
use crate::tables::RunTables;

/// The figures of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// The policy's name.
    pub policy: String,
    /// Requests of the trace.
    pub requests: u64,
    /// Those that got all their output tokens.
    pub finished: u64,
    /// Those that did not: refused by the router or by an engine, or failed when their instance died.
    pub rejected: u64,
    /// Time to first token, ms.
    pub ttft_ms: Option<Distribution>,
    /// Time per output token after the first, ms.
    pub tpot_ms: Option<Distribution>,
    /// End-to-end latency, ms.
    pub e2e_ms: Option<Distribution>,
    /// Share of the finished requests' prompt tokens that came from the prefix cache.
    pub hit_ratio: Option<f64>,
    /// Preemptions, of all requests together.
    pub preemptions: u64,
    /// Finished requests per second of simulated time, from the first arrival to the last end.
    pub requests_per_s: Option<f64>,
}

impl Summary {
    /// Of one run.
    pub fn of(run: &RunTables) -> Self {
        let table = run.requests();
        let outcomes = table.texts("outcome");
        let finished = |row: &usize| outcomes[*row] == Some(Outcome::Finished.as_str());
        let finished_rows: Vec<usize> = (0..table.height()).filter(finished).collect();
        let of_finished = |name| -> u64 {
            let cells = table.integers(name);
            finished_rows.iter().map(|row| cells[*row]).sum()
        };
        let latency = |name| {
            Distribution::of(&mut table.numbers(name).into_iter().flatten().collect::<Vec<_>>())
        };
        let prompt_tokens = of_finished("prompt_tokens");
        let cached_tokens = of_finished("cached_tokens");
        let finished = finished_rows.len() as u64;
        Self {
            policy: run.policy().to_owned(),
            requests: table.height() as u64,
            finished,
            rejected: table.height() as u64 - finished,
            ttft_ms: latency("ttft_ms"),
            tpot_ms: latency("tpot_ms"),
            e2e_ms: latency("e2e_ms"),
            hit_ratio: (prompt_tokens > 0).then(|| cached_tokens as f64 / prompt_tokens as f64),
            preemptions: table.integers("preemptions").iter().sum(),
            requests_per_s: span_s(table).map(|span| finished as f64 / span),
        }
    }
}

/// Simulated seconds from the first arrival to the last end.
fn span_s(requests: &Table) -> Option<f64> {
    let first = requests.integers("arrival_ns").into_iter().min()?;
    let last = requests.integers("ended_ns").into_iter().max()?;
    (last > first).then(|| (last - first) as f64 / 1e9)
}

/// The summaries as CSV, a line a run. What a run does not have is an empty cell.
pub(crate) fn write_csv(summaries: &[Summary], out: impl Write) -> csv::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    for summary in summaries {
        writer.serialize(CsvLine::from(summary))?;
    }
    writer.flush()?;
    Ok(())
}

/// A summary, flat: the csv crate writes no header for a struct within a struct.
#[derive(Serialize)]
struct CsvLine<'a> {
    policy: &'a str,
    requests: u64,
    finished: u64,
    rejected: u64,
    ttft_mean_ms: Option<f64>,
    ttft_p50_ms: Option<f64>,
    ttft_p90_ms: Option<f64>,
    ttft_p99_ms: Option<f64>,
    tpot_mean_ms: Option<f64>,
    tpot_p50_ms: Option<f64>,
    tpot_p90_ms: Option<f64>,
    tpot_p99_ms: Option<f64>,
    e2e_mean_ms: Option<f64>,
    e2e_p50_ms: Option<f64>,
    e2e_p90_ms: Option<f64>,
    e2e_p99_ms: Option<f64>,
    hit_ratio: Option<f64>,
    preemptions: u64,
    requests_per_s: Option<f64>,
}

impl<'a> From<&'a Summary> for CsvLine<'a> {
    fn from(summary: &'a Summary) -> Self {
        let Summary { ttft_ms, tpot_ms, e2e_ms, .. } = summary;
        Self {
            policy: &summary.policy,
            requests: summary.requests,
            finished: summary.finished,
            rejected: summary.rejected,
            ttft_mean_ms: ttft_ms.map(|d| d.mean),
            ttft_p50_ms: ttft_ms.map(|d| d.p50),
            ttft_p90_ms: ttft_ms.map(|d| d.p90),
            ttft_p99_ms: ttft_ms.map(|d| d.p99),
            tpot_mean_ms: tpot_ms.map(|d| d.mean),
            tpot_p50_ms: tpot_ms.map(|d| d.p50),
            tpot_p90_ms: tpot_ms.map(|d| d.p90),
            tpot_p99_ms: tpot_ms.map(|d| d.p99),
            e2e_mean_ms: e2e_ms.map(|d| d.mean),
            e2e_p50_ms: e2e_ms.map(|d| d.p50),
            e2e_p90_ms: e2e_ms.map(|d| d.p90),
            e2e_p99_ms: e2e_ms.map(|d| d.p99),
            hit_ratio: summary.hit_ratio,
            preemptions: summary.preemptions,
            requests_per_s: summary.requests_per_s,
        }
    }
}
