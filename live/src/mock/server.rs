//! The mock's HTTP: paths, status codes and headers as vLLM 0.32.0 has them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, SERVER};
use hyper::{Method, Request, Response, StatusCode};
use lodestar_router::Time;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::info;

use super::clock::Clock;
use super::completion::Answers;
use super::driver::{Command, drive};
use super::kv::{self, MockKvEndpoints};
use super::request::{self, Api, Asked};
use super::stream::Stream;
use super::wire::{Envelope, Refusal, models};
use super::{MockConfig, MockCore, MockLimits};
use crate::head::text;
use crate::listener;
use crate::proxy::{ServeError, X_REQUEST_ID};
use crate::request_id::RequestIds;
use crate::run::{runtime, stop_signal};

type MockBody = Either<Full<Bytes>, Stream>;

/// A mock that listens.
#[derive(Debug)]
pub struct MockServer {
    listener: TcpListener,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    model: String,
    limits: MockLimits,
    kv_endpoints: Option<MockKvEndpoints>,
    commands: Sender<Command>,
    clock: Clock,
    next: AtomicU32,
    /// Makes answers of different servers different.
    salt: u32,
    request_ids: RequestIds,
    started: u64,
}

impl MockServer {
    /// Takes its address and starts the engine's clock.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn bind<C: MockCore>(
        address: SocketAddr,
        config: MockConfig,
        core: C,
    ) -> Result<Self, ServeError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| ServeError::Listen { address, error })?;
        let (commands, received) = channel();
        let limits = core.limits();
        let (kv_endpoints, publisher) = match config.kv_events {
            Some(address) => {
                let publishing = kv::publish(address, &config.model, limits.block_size).await;
                let (endpoints, publisher) = publishing.map_err(std::io::Error::other)?;
                (Some(endpoints), Some(publisher))
            }
            None => (None, None),
        };
        let clock = Clock::new(config.time_scale);
        std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || drive(core, clock, publisher, &received))?;
        let request_ids = RequestIds::default();
        let shared = Shared {
            model: config.model,
            limits,
            kv_endpoints,
            commands,
            clock,
            next: AtomicU32::new(0),
            salt: request_ids.process() as u32,
            request_ids,
            started: unix_seconds(),
        };
        Ok(Self { listener, shared: Arc::new(shared) })
    }

    /// Where it publishes KV events, if it does.
    pub fn kv_endpoints(&self) -> Option<&MockKvEndpoints> {
        self.shared.kv_endpoints.as_ref()
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` is ready. As vLLM by default, it does not wait for requests under way.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let shared = self.shared;
        let handler = move |request| {
            let shared = Arc::clone(&shared);
            async move { handle(&shared, request).await }
        };
        let server = listener::Server::new(Handle::current(), handler);
        listener::run(self.listener, None, &[server], shutdown, Duration::ZERO).await;
    }
}

/// Serves a mock until SIGTERM or an interrupt.
///
/// # Errors
/// When it cannot start.
pub fn serve_mock<C: MockCore>(
    address: SocketAddr,
    config: MockConfig,
    core: C,
) -> Result<(), ServeError> {
    runtime()?.block_on(async {
        let stop = stop_signal()?;
        let server = MockServer::bind(address, config, core).await?;
        if let Some(MockKvEndpoints { events, replay }) = server.kv_endpoints() {
            info!("KV events at {events}, again at {replay}");
        }
        info!("listening on {}", server.local_address()?);
        server.run(stop).await;
        Ok(())
    })
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

async fn handle(shared: &Shared, request: Request<Incoming>) -> Response<MockBody> {
    let arrived = shared.clock.now();
    let (parts, body) = request.into_parts();
    let id = parts.headers.get(X_REQUEST_ID).cloned();
    let id = id.unwrap_or_else(|| shared.request_ids.next());
    let api = match parts.uri.path() {
        "/v1/chat/completions" => Some(Api::Chat),
        "/v1/completions" => Some(Api::Completions),
        _ => None,
    };
    let posts = api.is_some() || parts.uri.path() == "/tokenize";
    let mut response = match (&parts.method, parts.uri.path()) {
        (&Method::POST, _) if posts => {
            let is_json = text(&parts.headers, CONTENT_TYPE)
                .is_some_and(|kind| kind.starts_with("application/json"));
            match body.collect().await {
                Ok(_) if !is_json => refused(&Refusal::content_type()),
                Ok(body) => match api {
                    Some(api) => complete(shared, api, &body.to_bytes(), &id, arrived).await,
                    None => tokenized(shared, &body.to_bytes()),
                },
                // The client is gone.
                Err(_) => plain(StatusCode::BAD_REQUEST, "", ""),
            }
        }
        (&Method::GET, "/health" | "/ping") => plain(StatusCode::OK, "", ""),
        (&Method::GET, "/version") => value(StatusCode::OK, &json!({"version": "0.32.0"})),
        (&Method::GET, "/v1/models") => {
            let Shared { model, started, limits, .. } = shared;
            value(StatusCode::OK, &models(model, *started, limits.max_model_len))
        }
        (&Method::GET, "/kv_event_sources") => value(StatusCode::OK, &sources(shared)),
        (&Method::GET, "/metrics") => plain(
            StatusCode::OK,
            "text/plain; version=1.0.0; charset=utf-8",
            &metrics(shared).await,
        ),
        (_, "/health" | "/ping" | "/version" | "/v1/models") => not_allowed("GET"),
        (_, _) if posts => not_allowed("POST"),
        _ => value(StatusCode::NOT_FOUND, &json!({"detail": "Not Found"})),
    };
    let headers = response.headers_mut();
    headers.insert(SERVER, HeaderValue::from_static("uvicorn"));
    headers.insert(X_REQUEST_ID, id);
    response
}

/// Answers `/v1/completions` and `/v1/chat/completions`.
async fn complete(
    shared: &Shared,
    api: Api,
    body: &[u8],
    id: &HeaderValue,
    arrived: Time,
) -> Response<MockBody> {
    let asked = match Asked::read(api, body, &shared.model, shared.limits.max_model_len) {
        Ok(asked) => asked,
        Err(refusal) => return refused(&refusal),
    };
    let count = asked.prompts.len() as u32 * asked.n;
    let first = shared.next.fetch_add(count, Ordering::Relaxed);
    let mut answers = Answers::begin(shared.commands.clone(), &asked, arrived, first, shared.salt);
    let prefix = if api == Api::Chat { "chatcmpl" } else { "cmpl" };
    let envelope = Envelope {
        api,
        id: format!("{prefix}-{}", id.to_str().unwrap_or_default()),
        created: unix_seconds(),
        model: shared.model.clone(),
        finish_reason: if asked.is_cut { "length" } else { "stop" },
    };
    if asked.stream {
        let mut response = Response::new(Either::Right(Stream::new(&asked, answers, envelope)));
        let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        return response;
    }
    let mut texts = vec![String::new(); answers.choices()];
    while let Some(made) = std::future::poll_fn(|context| answers.poll_next(context)).await {
        texts[made.choice].push_str(&made.text);
    }
    value(StatusCode::OK, &envelope.answer(&texts, answers.used()))
}

/// Answers `/tokenize` for a prompt.
fn tokenized(shared: &Shared, body: &[u8]) -> Response<MockBody> {
    let tokens = match request::tokenized(body) {
        Ok(tokens) => tokens,
        Err(refusal) => return refused(&refusal),
    };
    let max_model_len = shared.limits.max_model_len;
    value(
        StatusCode::OK,
        &json!({"count": tokens.len(), "max_model_len": max_model_len, "tokens": tokens, "token_strs": null}),
    )
}

/// Where KV events come from, by data-parallel rank.
fn sources(shared: &Shared) -> Value {
    let source = |endpoints: &MockKvEndpoints| {
        json!({"0": {"enable_kv_cache_events": true, "publisher": "zmq", "endpoint": endpoints.events,
            "replay_endpoint": endpoints.replay}})
    };
    shared.kv_endpoints.as_ref().map_or_else(|| json!({}), source)
}

/// The page of metrics: those that routers read.
async fn metrics(shared: &Shared) -> String {
    let (sender, answer) = oneshot::channel();
    let _ = shared.commands.send(Command::Metrics(sender));
    let Ok((gauges, totals)) = answer.await else { return String::new() };
    let MockLimits { block_size, num_blocks, .. } = shared.limits;
    let labels = format!("engine=\"0\",model_name=\"{}\"", shared.model);
    let mut page = String::new();
    for (name, kind, sample) in [
        ("num_requests_running", "gauge", f64::from(gauges.running_requests)),
        ("num_requests_waiting", "gauge", f64::from(gauges.waiting_requests)),
        ("kv_cache_usage_perc", "gauge", gauges.kv_usage),
        ("num_preemptions_total", "counter", gauges.preemptions as f64),
        ("prompt_tokens_total", "counter", totals.prompt_tokens as f64),
        ("generation_tokens_total", "counter", totals.output_tokens as f64),
        ("prefix_cache_queries_total", "counter", totals.prompt_tokens as f64),
        ("prefix_cache_hits_total", "counter", totals.cached_tokens as f64),
        ("request_success_total", "counter", totals.requests as f64),
    ] {
        let family = name.trim_end_matches("_total");
        page.push_str(&format!(
            "# TYPE vllm:{family} {kind}\nvllm:{name}{{{labels}}} {sample:?}\n"
        ));
    }
    page.push_str(&format!(
        "# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{{block_size=\"{block_size}\",\
         engine=\"0\",num_gpu_blocks=\"{num_blocks}\"}} 1.0\n"
    ));
    page
}

fn refused(refusal: &Refusal) -> Response<MockBody> {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
    value(status, &refusal.json())
}

fn not_allowed(method: &'static str) -> Response<MockBody> {
    let mut response =
        value(StatusCode::METHOD_NOT_ALLOWED, &json!({"detail": "Method Not Allowed"}));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(method));
    response
}

fn value(status: StatusCode, value: &Value) -> Response<MockBody> {
    plain(status, "application/json", &value.to_string())
}

fn plain(status: StatusCode, kind: &'static str, body: &str) -> Response<MockBody> {
    let mut response = Response::new(Either::Left(Full::from(body.to_owned())));
    *response.status_mut() = status;
    if !kind.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    response
}
