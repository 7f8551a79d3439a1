//! `lodestar bench`: a trace sent to servers, measured as a replay is.

use std::collections::BTreeMap;
use std::env;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use lodestar_live::{BenchConfig, BenchOutcome, BenchRecord, BenchReport, bench};
use lodestar_router::Information;
use lodestar_scenarios::{
    Distribution, Fleet, OutputDir, Results, RunTables, Scenario, TraceIdentity, trace_sha256,
};
use lodestar_sim::{ClusterConfig, Outcome, RequestRecord, RunOutput};
use lodestar_traces::{ReadOptions, Trace, TraceRequest, read_all};

use crate::progress::BenchBar;
use crate::read_options::ReadFlags;
use crate::replay::{keep, print};

/// Above this share of the median TTFT, lateness of the client is a part of what it measures.
const LATE_SHARE: f64 = 0.05;

/// Send a trace to servers, in time, and measure what a client sees (docs/live.md)
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// The trace: Azure, BurstGPT, Mooncake, ShareGPT and others, plain or compressed (docs/formats.md)
    trace: PathBuf,
    /// A vLLM server or a router of some, such as http://10.0.0.7:8000. OPENAI_API_KEY is sent if it is set
    #[arg(long)]
    url: String,
    /// The model to ask for [default: the first one that the server names]
    #[arg(long)]
    model: Option<String>,
    /// Which instances serve, as in `lodestar replay`: for the figures' titles only
    #[arg(long)]
    fleet: Option<String>,
    /// What the run is called beside others
    #[arg(long, default_value = "live")]
    label: String,
    /// Seconds of the trace in a second: that of the mock engines, if there are any
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    time_scale: f64,
    /// Seconds after which a request is given up
    #[arg(long, value_name = "S", default_value_t = 600)]
    timeout_s: u64,
    /// Of everything that is drawn at random: token ids, too, so that another seed finds caches cold
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for tables, summary and figures; earlier results in it are replaced
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    read: ReadFlags,
}

/// Answers whether any request succeeded.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<bool> {
    check(args)?;
    let fleet = args.fleet.as_ref().map(|fleet| fleet.parse()).transpose()?.unwrap_or_default();
    let read_options = ReadOptions { seed: args.seed, ..args.read.options()? };
    let trace = read_all(&args.trace, &read_options)?;
    ensure!(!trace.requests.is_empty(), "{} has no requests", args.trace.display());
    for note in &trace.notes {
        writeln!(io::stderr(), "note: {note}")?;
    }
    let output = OutputDir::create(&args.out)?;
    let config = BenchConfig {
        url: args.url.clone(),
        model: args.model.clone(),
        api_key: env::var("OPENAI_API_KEY").ok(),
        time_scale: args.time_scale,
        timeout: Duration::from_secs(args.timeout_s),
        seed: args.seed,
    };
    let bar = BenchBar::new(trace.requests.len() as u64);
    let report = bench(&trace.requests, &config, &|progress| bar.show(progress))?;
    drop(bar);
    let results = results(args, read_options, &trace, fleet, &report);
    keep(output, &results)?;
    print(&args.out, &results, &[report.wall])?;
    describe(&report, trace.requests.len(), args.time_scale)?;
    Ok(report.records.iter().any(|record| record.outcome == BenchOutcome::Finished))
}

fn check(args: &BenchArgs) -> anyhow::Result<()> {
    let BenchArgs { time_scale, label, .. } = args;
    ensure!(
        (0.001..=1e6).contains(time_scale),
        "--time-scale is {time_scale}, expected 0.001 to 1000000"
    );
    ensure!(args.timeout_s > 0, "--timeout-s is 0: no request could end");
    // It names a folder.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    ensure!(
        !label.is_empty() && label.chars().all(is_plain) && label != "figures",
        "--label is {label:?}, expected letters, digits, - and _, and not `figures`"
    );
    Ok(())
}

/// The results folder's contents. Instances are not seen from here.
fn results(
    args: &BenchArgs,
    read_options: ReadOptions,
    trace: &Trace,
    fleet: Fleet,
    report: &BenchReport,
) -> Results {
    let name = args.trace.file_name().unwrap_or(args.trace.as_os_str()).to_string_lossy();
    let requests = report.records.iter().map(|r| request_record(r, &trace.requests[r.index]));
    let end = report.records.iter().map(|record| record.ended).max().unwrap_or_default();
    let output = RunOutput { requests: requests.collect(), intervals: Vec::new(), end, steps: 0 };
    let scenario = Scenario {
        trace: TraceIdentity {
            name: name.into_owned(),
            read_options: Some(read_options),
            requests: trace.requests.len() as u64,
            sha256: trace_sha256(&trace.requests),
        },
        step_times: Vec::new(),
        fleet,
        model: report.model.clone(),
        policies: Vec::new(),
        measured: vec![args.label.clone()],
        information: Information::default(),
        seed: args.seed,
    };
    let tables = RunTables::new(&args.label, &ClusterConfig::new(Vec::new()), &output);
    Results { scenario, runs: vec![tables] }
}

fn request_record(record: &BenchRecord, traced: &TraceRequest) -> RequestRecord {
    RequestRecord {
        request: traced.id,
        outcome: match record.outcome {
            BenchOutcome::Finished => Outcome::Finished,
            BenchOutcome::Status(429 | 503) => Outcome::RejectedByRouter,
            BenchOutcome::Status(400..=499) => Outcome::RejectedByEngine,
            BenchOutcome::Status(_)
            | BenchOutcome::ConnectionRefused
            | BenchOutcome::NoConnection
            | BenchOutcome::ErrorEvent
            | BenchOutcome::BrokenOff
            | BenchOutcome::TimedOut => Outcome::Failed,
        },
        instance: None,
        reason: None,
        arrival: record.sent,
        queued: None,
        scheduled: None,
        first_token_engine: None,
        first_token: record.first_token,
        ended: record.ended,
        itl_max: record.itl_max,
        prompt_tokens: traced.prompt_tokens(),
        cached_tokens: record.cached_tokens,
        predicted_cached_tokens: 0,
        predicted_ttft: None,
        output_tokens: record.output_tokens,
        preemptions: 0,
        retries: 0,
    }
}

/// Says what the table cannot: what failed, and how good a clock the client was.
fn describe(report: &BenchReport, requests: usize, time_scale: f64) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let mut failures: BTreeMap<BenchOutcome, (u64, &str)> = BTreeMap::new();
    for record in report.records.iter().filter(|r| r.outcome != BenchOutcome::Finished) {
        let complaint = record.complaint.as_deref().unwrap_or_default();
        failures.entry(record.outcome).or_insert((0, complaint)).0 += 1;
    }
    for (kind, (count, complaint)) in failures {
        writeln!(out, "failed   {count} {kind}; the first: {complaint}")?;
    }
    if report.interrupted {
        writeln!(out, "interrupted: {} of {requests} requests had ended", report.records.len())?;
    }
    let mut late: Vec<f64> =
        report.records.iter().map(|record| record.late.as_secs_f64() * 1e3).collect();
    let Some(late) = Distribution::of(&mut late) else { return Ok(()) };
    writeln!(out, "sent     late by {:.2} ms at the median, {:.2} ms at p99", late.p50, late.p99)?;
    let ttft = report.records.iter().filter_map(|r| Some(r.first_token? - r.sent));
    let mut ttft: Vec<f64> = ttft.map(|ttft| ttft.as_nanos() as f64 / 1e6 / time_scale).collect();
    let ttft = Distribution::of(&mut ttft);
    if let Some(ttft) = ttft.filter(|ttft| late.p99 > LATE_SHARE * ttft.p50) {
        writeln!(
            io::stderr(),
            "warning: the client itself was late: {:.2} ms at p99, more than {:.0} % of the median TTFT \
             ({:.2} ms real time). Send less, or from a machine with idle cores",
            late.p99,
            100.0 * LATE_SHARE,
            ttft.p50
        )?;
    }
    Ok(())
}
