//! An open-loop load client: sends a trace's requests when the trace says and measures what a client sees.
//!
//! A client that waits for an answer before it sends the next request slows down with the server and hides
//! the queue that it was to measure. So a thread of its own sends on time, whatever has been answered; only
//! requests that the trace sends after another one ended wait for that end. How late the client itself was is
//! measured too.

mod exchange;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod pacer;
mod prompt;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration as WallDuration, Instant};

use hyper::StatusCode;
use hyper::header::HeaderValue;
use lodestar_router::{Duration, Time};
use lodestar_traces::{Arrival, Source, TraceRequest};
use serde::Deserialize;
use tokio::sync::mpsc;

use self::exchange::exchange;
use self::pacer::{Pacer, Schedule};
use self::prompt::Answers;
use crate::backend::{Backend, Client, InvalidUrl, client};
use crate::models::Models;
use crate::run::runtime;
use crate::tls::as_the_system;

/// What to send a trace to.
#[derive(Clone, Debug)]
pub struct BenchConfig {
    /// Such as `http://10.0.0.7:8000`; requests go to `/v1/completions` there.
    pub url: String,
    /// The model to ask for; `None` for the first one that the server names.
    pub model: Option<String>,
    /// Sent as a bearer token.
    pub api_key: Option<String>,
    /// Seconds of the trace in a real one.
    pub time_scale: f64,
    /// A request that takes longer than this, in real time, is given up.
    pub timeout: WallDuration,
    /// Of the token ids that stand for a trace's text. Another seed shares nothing with what is in the caches.
    pub seed: u64,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BenchOutcome {
    /// The answer is complete.
    Finished,
    /// The server answered with this status code.
    Status(u16),
    /// Nobody listens there.
    ConnectionRefused,
    /// No connection, for another reason.
    NoConnection,
    /// The server said in the stream that it failed.
    ErrorEvent,
    /// The answer ended early.
    BrokenOff,
    /// The answer took too long.
    TimedOut,
}

impl fmt::Display for BenchOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Status(status) => write!(f, "HTTP {status}"),
            Self::ConnectionRefused => f.write_str("connection refused"),
            Self::NoConnection => f.write_str("no connection"),
            Self::ErrorEvent => f.write_str("error in the stream"),
            Self::BrokenOff => f.write_str("broken off"),
            Self::TimedOut => f.write_str("timed out"),
        }
    }
}

/// The life of one request, as the client saw it. Points and lengths of time are on the trace's clock.
#[derive(Clone, Debug)]
pub struct BenchRecord {
    /// Place in the trace.
    pub index: usize,
    /// How it ended.
    pub outcome: BenchOutcome,
    /// In words, where it did not finish.
    pub complaint: Option<String>,
    /// It was sent.
    pub sent: Time,
    /// The first output arrived.
    pub first_token: Option<Time>,
    /// The end of the answer arrived, or what was wrong became clear.
    pub ended: Time,
    /// Longest gap between two arrivals of output.
    pub itl_max: Duration,
    /// Output tokens, as the server counts them or else events with output.
    pub output_tokens: u32,
    /// Prompt tokens that the server found in its cache, if it says.
    pub cached_tokens: u32,
    /// How much later than planned it was sent, real time.
    pub late: WallDuration,
}

/// What a replay gave.
#[derive(Debug)]
pub struct BenchReport {
    /// Of the requests that ended, in trace order.
    pub records: Vec<BenchRecord>,
    /// The model that was asked for.
    pub model: String,
    /// Whether it was interrupted: requests without a record were not sent, or not answered.
    pub interrupted: bool,
    /// How long it took, real time.
    pub wall: WallDuration,
}

/// How far a replay is.
#[derive(Clone, Copy, Debug)]
pub struct BenchProgress {
    /// Requests that were sent.
    pub sent: u64,
    /// Requests that ended, however.
    pub ended: u64,
    /// Those of them that did not finish.
    pub failed: u64,
}

/// Why a replay cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Not a URL that can be asked.
    #[error("--url: {0}")]
    Url(#[from] InvalidUrl),
    /// A header cannot hold it.
    #[error("the API key has characters that a header cannot hold")]
    ApiKey,
    /// The server does not name a model.
    #[error("{url}/v1/models: {complaint}; start the server, or name its model with --model")]
    Model {
        /// The server.
        url: String,
        /// What went wrong.
        complaint: String,
    },
    /// No threads, no sockets.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// What all requests of a replay share.
struct Bench {
    requests: Vec<TraceRequest>,
    backend: Backend,
    client: Client,
    model: String,
    authorization: Option<HeaderValue>,
    timeout: WallDuration,
    clock: TraceClock,
    seed: u64,
    /// Requests whose answers later prompts quote.
    quoted: BTreeSet<u64>,
    answers: Mutex<Answers>,
    sent: AtomicU64,
}

/// From real time to the trace's.
#[derive(Clone, Copy, Debug)]
struct TraceClock {
    start: Instant,
    /// The trace's time at the start, ns: nobody waits for its first request.
    first_ns: u64,
    scale: f64,
}

impl TraceClock {
    fn real(&self, trace_ns: u64) -> Instant {
        self.start + self.real_length(trace_ns.saturating_sub(self.first_ns))
    }

    fn real_length(&self, trace_ns: u64) -> WallDuration {
        WallDuration::from_secs_f64(trace_ns as f64 / self.scale / 1e9)
    }

    fn trace(&self, real: Instant) -> Time {
        let length = self.trace_length(real.saturating_duration_since(self.start));
        Time::from_nanos(self.first_ns + length.as_nanos())
    }

    fn trace_length(&self, real: WallDuration) -> Duration {
        Duration::from_nanos((real.as_nanos() as f64 * self.scale) as u64)
    }
}

/// Sends the requests and waits for all answers, or for an interrupt (Ctrl-C).
///
/// # Errors
/// When it cannot start. What fails later is in the records.
pub fn bench(
    requests: &[TraceRequest],
    config: &BenchConfig,
    on_progress: &dyn Fn(BenchProgress),
) -> Result<BenchReport, BenchError> {
    let runtime = runtime()?;
    let report = runtime.block_on(async {
        let bench = Arc::new(Bench::new(requests, config).await?);
        Ok(bench.run(on_progress).await?)
    });
    // Not until answers that nobody waits for any more have come.
    runtime.shutdown_background();
    report
}

impl Bench {
    async fn new(requests: &[TraceRequest], config: &BenchConfig) -> Result<Self, BenchError> {
        let backend = Backend::parse(&config.url)?;
        let client = client(as_the_system());
        let key = config.api_key.as_ref().map(|key| HeaderValue::try_from(format!("Bearer {key}")));
        let authorization = key.transpose().map_err(|_| BenchError::ApiKey)?;
        let model = match &config.model {
            Some(model) => model.clone(),
            None => first_model(&backend, &client, authorization.clone())
                .await
                .map_err(|complaint| BenchError::Model { url: backend.url.clone(), complaint })?,
        };
        let first_ns = requests.iter().filter_map(at_ns).min().unwrap_or(0);
        // Time to start the thread that sends.
        let start = Instant::now() + WallDuration::from_millis(100);
        Ok(Self {
            quoted: quoted(requests),
            requests: requests.to_vec(),
            backend,
            client,
            model,
            authorization,
            timeout: config.timeout,
            clock: TraceClock { start, first_ns, scale: config.time_scale },
            seed: config.seed,
            answers: Mutex::default(),
            sent: AtomicU64::new(0),
        })
    }

    async fn run(
        self: Arc<Self>,
        on_progress: &dyn Fn(BenchProgress),
    ) -> std::io::Result<BenchReport> {
        let (ended, mut endings) = mpsc::unbounded_channel();
        let pacer = self.start_pacer(ended)?;
        let followers = followers(&self.requests);
        let mut records: Vec<BenchRecord> = Vec::with_capacity(self.requests.len());
        let mut failed = 0;
        let mut tick = tokio::time::interval(WallDuration::from_millis(200));
        let interrupt = tokio::signal::ctrl_c();
        tokio::pin!(interrupt);
        let interrupted = loop {
            if records.len() == self.requests.len() {
                break false;
            }
            tokio::select! {
                record = endings.recv() => {
                    let (record, at): (BenchRecord, Instant) = record.expect("the pacer holds a sender");
                    failed += u64::from(record.outcome != BenchOutcome::Finished);
                    let id = self.requests[record.index].id;
                    for (index, delay_ns) in followers.get(&id).into_iter().flatten() {
                        pacer.send_at(at + self.clock.real_length(*delay_ns), *index);
                    }
                    records.push(record);
                }
                _ = tick.tick() => {
                    let sent = self.sent.load(Ordering::Relaxed);
                    on_progress(BenchProgress { sent, ended: records.len() as u64, failed });
                }
                _ = &mut interrupt => break true,
            }
        };
        drop(pacer);
        records.sort_by_key(|record| record.index);
        let wall = self.clock.start.elapsed();
        Ok(BenchReport { records, model: self.model.clone(), interrupted, wall })
    }

    /// Starts the thread that sends.
    fn start_pacer(
        self: &Arc<Self>,
        ended: mpsc::UnboundedSender<(BenchRecord, Instant)>,
    ) -> std::io::Result<Pacer> {
        let mut schedule = Schedule::default();
        for (index, request) in self.requests.iter().enumerate() {
            if let Some(ns) = at_ns(request) {
                schedule.add(self.clock.real(ns), index);
            }
        }
        let runtime = tokio::runtime::Handle::current();
        let bench = Arc::clone(self);
        Pacer::start(schedule, move |due, index| {
            let (bench, ended) = (Arc::clone(&bench), ended.clone());
            runtime.spawn(async move {
                // Nobody listens after an interrupt.
                let _ = ended.send(exchange(&bench, due, index).await);
            });
        })
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn at_ns(request: &TraceRequest) -> Option<u64> {
    match request.arrival {
        Arrival::At { ns } => Some(ns),
        Arrival::After { .. } => None,
    }
}

/// By request, those that are sent some time after it ended: place and delay, ns.
fn followers(requests: &[TraceRequest]) -> BTreeMap<u64, Vec<(usize, u64)>> {
    let mut followers: BTreeMap<u64, Vec<(usize, u64)>> = BTreeMap::new();
    for (index, request) in requests.iter().enumerate() {
        if let Arrival::After { request: before, delay_ns } = request.arrival {
            followers.entry(before).or_default().push((index, delay_ns));
        }
    }
    followers
}

fn quoted(requests: &[TraceRequest]) -> BTreeSet<u64> {
    let sources = requests.iter().flat_map(|request| &request.prompt).map(|span| span.source);
    sources
        .filter_map(|source| match source {
            Source::Output(id) => Some(id),
            Source::Hash(_) | Source::Token(_) | Source::Private(_) => None,
        })
        .collect()
}

/// The first model of a server.
async fn first_model(
    backend: &Backend,
    client: &Client,
    authorization: Option<HeaderValue>,
) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Model {
        id: String,
    }
    let page = backend.get(client, "/v1/models", authorization).await;
    let page = page.map_err(|error| error.to_string())?;
    if page.status != StatusCode::OK {
        return Err(format!("it answers {}", page.status));
    }
    let models: Models<Model> = serde_json::from_slice(&page.body)
        .map_err(|error| format!("not a list of models: {error}"))?;
    models.data.into_iter().next().map(|model| model.id).ok_or_else(|| "it serves none".to_owned())
}
