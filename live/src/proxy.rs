//! The reverse proxy: every path of vLLM goes to an instance, bytes and headers as they came; the router
//! decides where those go that make an engine work.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use lodestar_router::Load;
use tokio::net::TcpListener;
use tokio_rustls::rustls::ClientConfig;
use tracing::{info, warn};

use crate::admin::{self, Admin};
use crate::answer::Form;
use crate::api_error::ApiError;
use crate::arms::{Arm, Stop};
use crate::backend::{self, Client, strip_hop_by_hop};
use crate::checkpoint_file::CheckpointFileError;
use crate::config::{ConfigError, InstanceEntry, Limits, ServeConfig};
use crate::decision_log::{DecisionLog, DecisionLogError};
use crate::discovery::Source;
use crate::dispatcher::Dispatcher;
use crate::engine_tokenizer::EngineTokenizer;
use crate::head::Head;
use crate::keeper::Keeper;
use crate::listener::{self, Server};
use crate::membership::{Membership, Origin};
use crate::prompt::PromptReader;
use crate::queue::Queue;
use crate::relay::Relay;
use crate::request_id::RequestIds;
use crate::resume::{Plan, Resumable};
use crate::retry_budget::RetryBudget;
use crate::telemetry::{Exporter, Telemetry};
use crate::workers::Workers;
use crate::{attempt, counters, models, tls, upgrade};

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Paths whose requests occupy an engine. All others are answered by an API server alone.
const ENGINE_PATHS: [&str; 16] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/inference/v1/generate",
    "/pooling",
    "/classify",
    "/score",
    "/v1/score",
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
    "/invocations",
];

/// The body of an answer: our own, or an instance's.
pub(crate) type ProxyBody = Either<Full<Bytes>, Relay>;
/// As the client gets it.
pub(crate) type ClientBody = Either<ProxyBody, Resumable>;

/// A proxy that listens.
pub struct Proxy {
    listener: TcpListener,
    tls: Option<tokio_rustls::TlsAcceptor>,
    instances: Vec<InstanceEntry>,
    source: Option<Source>,
    membership: Arc<Membership>,
    shared: Arc<Shared>,
    workers: Workers,
    /// For each worker, with connections of its own.
    shares: Vec<Arc<Shared>>,
    /// Where what is learned is kept, by router.
    keepers: Vec<Arc<Keeper>>,
    logs: Vec<Arc<DecisionLog>>,
    /// Of traces, if there are any.
    exporter: Option<Exporter>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// What every request needs.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) client: Client,
    pub(crate) limits: Limits,
    pub(crate) prompts: Arc<PromptReader>,
    pub(crate) retries: Arc<RetryBudget>,
    admin: Arc<Admin>,
    request_ids: Arc<RequestIds>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) telemetry: Option<Arc<Telemetry>>,
    /// Where prompts are cut into tokens by engines.
    pub(crate) engine_tokenizer: Option<Arc<EngineTokenizer>>,
    /// Whether answers say who gave them and why.
    pub(crate) response_headers: bool,
    /// Whether engines are asked to say in their answers how they stand.
    pub(crate) load_header: bool,
}

impl Shared {
    /// The same with connections of its own.
    fn with_connections(&self, tls: &ClientConfig) -> Self {
        Self { client: backend::client(tls.clone()), ..self.clone() }
    }
}

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// What it was told.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What was learned cannot be gone on from.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointFileError),
    /// Decisions cannot be written down.
    #[error(transparent)]
    Log(#[from] DecisionLogError),
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {error}; choose another with --listen or `listen`")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// The operating system refused something else.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// A look at a proxy from outside, while it runs.
#[derive(Clone, Debug)]
pub struct ProxyView(Arc<Shared>);

impl ProxyView {
    /// The instances that can be chosen, by URL, and what each owes by the router's books.
    pub fn loads(&self) -> Vec<(String, Load)> {
        self.loads_of(Arm::Baseline)
    }

    /// The same by the canary's books; empty without one.
    pub fn canary_loads(&self) -> Vec<(String, Load)> {
        self.loads_of(Arm::Canary)
    }

    fn loads_of(&self, arm: Arm) -> Vec<(String, Load)> {
        let loads = self.0.dispatcher.loads_of(arm);
        loads.into_iter().map(|(member, load)| (member.backend.url.clone(), load)).collect()
    }

    /// Requests that wait because nobody can take them now.
    pub fn waiting(&self) -> u32 {
        self.0.queue.waiting()
    }

    /// Has `router.policy` decide everything from now on, until a restart. Answers whether a canary was stopped.
    pub fn stop_canary(&self) -> bool {
        self.0.dispatcher.stop_canary(Stop::Operator, "an operator has said so")
    }
}

impl Proxy {
    /// Takes its address; nothing is served before [`Self::run`].
    ///
    /// # Errors
    /// When the configuration is wrong or the address cannot be had.
    pub async fn bind(config: &ServeConfig) -> Result<Self, ServeError> {
        config.check()?;
        config.warnings().iter().for_each(|warning| warn!("{warning}"));
        let address = config.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| ServeError::Listen { address, error })?;
        let limits = config.limits;
        let source = config.discovery.as_ref().map(Source::new).transpose();
        let source = source.map_err(ConfigError::from)?;
        let instances = match &source {
            None => config.instances.clone(),
            // What is not found now may be found later.
            Some(source) => source.instances().await.unwrap_or_else(|error| {
                warn!("{error}; there are no instances until it can be asked");
                Vec::new()
            }),
        };
        let dispatcher =
            Dispatcher::new(config.baseline(), config.arms()).with_training(config.router.training);
        dispatcher.expect(instances.iter().map(|entry| entry.url.trim_end_matches('/')));
        let (keepers, logs) = keep_books(config, &dispatcher)?;
        let dispatcher = Arc::new(dispatcher);
        let tls = tls::towards_instances(config.instance_authorities.as_deref())?;
        let client = backend::client(tls.clone());
        let stall = Duration::from_secs(limits.stall_s);
        let (books, own) = (Arc::clone(&dispatcher), client.clone());
        let membership = Arc::new(Membership::new(books, own, config.listens(), stall));
        let kept = keepers.iter().find(|keeper| keeper.arm == Arm::Baseline).cloned();
        let queue = Arc::new(Queue::new(limits));
        let (members, waiting) = (Arc::clone(&membership), Arc::clone(&queue));
        let admin = Admin::new(config, Arc::clone(&dispatcher), members, kept, waiting);
        let (telemetry, exporter) =
            config.telemetry.as_ref().map(Telemetry::new).transpose()?.unzip();
        let shared = Shared {
            dispatcher,
            client,
            limits,
            prompts: Arc::new(config.prompt_reader()?),
            retries: Arc::default(),
            admin: Arc::new(admin.map_err(ConfigError::from)?),
            request_ids: Arc::default(),
            queue,
            telemetry: telemetry.map(Arc::new),
            engine_tokenizer: config.router.engine_tokenizer.then(Arc::default),
            response_headers: config.router.response_headers,
            load_header: config.router.load_header,
        };
        let workers = Workers::start()?;
        let shares = workers.runtimes().map(|_| Arc::new(shared.with_connections(&tls))).collect();
        Ok(Self {
            listener,
            tls: config.tls.as_ref().map(tls::acceptor).transpose()?,
            instances,
            source,
            membership,
            keepers,
            logs,
            exporter,
            shared: Arc::new(shared),
            workers,
            shares,
        })
    }

    /// Where it listens: with port 0 in the configuration, what the system chose.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// A view that stays while it runs.
    pub fn view(&self) -> ProxyView {
        ProxyView(Arc::clone(&self.shared))
    }

    /// Serves until `shutdown` is ready, then lets requests end.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self {
            listener,
            tls,
            instances,
            source,
            membership,
            shared,
            workers,
            shares,
            keepers,
            logs,
            exporter,
        } = self;
        let exporting = exporter.map(Exporter::start);
        let mut tasks = tokio::task::JoinSet::new();
        let origin = if source.is_some() { Origin::Discovery } else { Origin::Configuration };
        if let Err(error) = membership.set(origin, &instances).await {
            warn!("{error}");
        }
        if let Some(source) = source {
            let membership = Arc::clone(&membership);
            tasks.spawn(async move { match source.follow(membership, instances).await {} });
        }
        for keeper in keepers.clone() {
            tasks.spawn(keeper.keep(Arc::clone(&shared.dispatcher)));
        }
        for log in logs.clone() {
            tasks.spawn(log.keep(Arc::clone(&shared.dispatcher)));
        }
        let watching = Arc::clone(&shared);
        tasks.spawn(async move { watching.admin.keep_history().await });
        let dispatcher = Arc::clone(&shared.dispatcher);
        let drain = Duration::from_secs(shared.limits.drain_s);
        let queue = Arc::clone(&shared.queue);
        let shutdown = async move {
            shutdown.await;
            // Others may have a place for those who wait.
            queue.stop();
        };
        let servers: Vec<_> = workers
            .runtimes()
            .zip(shares)
            .map(|(runtime, shared)| {
                let handler = move |request| {
                    let shared = Arc::clone(&shared);
                    async move { handle(&shared, request).await }
                };
                Server::new(runtime.clone(), handler)
            })
            .collect();
        listener::run(listener, tls, &servers, shutdown, drain).await;
        drop(servers);
        workers.shut_down().await;
        tasks.shutdown().await;
        membership.shut_down().await;
        for keeper in keepers {
            keeper.save(&dispatcher).await;
        }
        for log in logs.into_iter().filter_map(Arc::into_inner) {
            let dispatcher = Arc::clone(&dispatcher);
            let finished = tokio::task::spawn_blocking(move || log.finish(&dispatcher));
            // Its panic has been reported.
            let _ = finished.await;
        }
        // After what must not be lost.
        if let Some(exporting) = exporting {
            exporting.finish().await;
        }
        info!("stopped");
    }
}

/// What is kept of each router on disk: what it learns, from where it goes on now, and what it decides.
#[expect(clippy::type_complexity, reason = "two lists")]
fn keep_books(
    config: &ServeConfig,
    dispatcher: &Dispatcher,
) -> Result<(Vec<Arc<Keeper>>, Vec<Arc<DecisionLog>>), ServeError> {
    let (mut keepers, mut logs) = (Vec::new(), Vec::new());
    for arm in Arm::BOTH.into_iter().filter(|arm| config.router_config(*arm).is_some()) {
        if let Some(folder) = &config.router.log {
            logs.push(Arc::new(DecisionLog::create(folder, arm)?));
        }
        if let Some(path) = config.checkpoint(arm) {
            let keeper = Keeper::new(path, arm);
            keeper.restore(dispatcher)?;
            keepers.push(keeper);
        }
    }
    Ok((keepers, logs))
}

async fn handle(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<ClientBody> {
    let (mut parts, body) = request.into_parts();
    let id = parts.headers.entry(X_REQUEST_ID).or_insert_with(|| shared.request_ids.next()).clone();
    let path = parts.uri.path();
    let mut response = match (&parts.method, path) {
        (&Method::GET, "/health") => health(shared).map(Either::Left),
        (&Method::GET, "/metrics") => {
            let dropped = shared.telemetry.as_ref().map(|telemetry| telemetry.dropped());
            let page = counters::page(&shared.dispatcher, &shared.queue, dropped);
            let mut response = Response::new(Either::Left(Full::from(page)));
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response.map(Either::Left)
        }
        (&Method::GET, "/v1/models") => {
            models::merged(shared, &parts.headers).await.map(Either::Left)
        }
        _ if admin::is_ours(path) => {
            shared.admin.answer(&parts.method, path, &parts.headers, body).await.map(Either::Left)
        }
        _ if upgrade::is_asked_for(&parts, &body) => {
            return upgrade::pass(shared, Request::from_parts(parts, body), id).await;
        }
        _ => {
            let is_engines = parts.method == Method::POST && ENGINE_PATHS.contains(&path);
            let head = Head::of(shared.telemetry.as_deref(), parts, is_engines);
            let span = head.span.clone();
            let response = forward(shared, head, body, is_engines).await;
            span.answered(response.status());
            response
        }
    };
    strip_hop_by_hop(response.headers_mut());
    response.headers_mut().entry(X_REQUEST_ID).or_insert(id);
    response
}

fn health(shared: &Shared) -> Response<ProxyBody> {
    if shared.dispatcher.members().is_empty() {
        return ApiError::unavailable("no instance is ready").response_left();
    }
    Response::new(Either::Left(Full::default()))
}

/// Reads the body, finds a place, and lets an instance answer.
async fn forward(
    shared: &Arc<Shared>,
    head: Head,
    body: Incoming,
    is_engines: bool,
) -> Response<ClientBody> {
    let room = match shared.queue.enter() {
        Ok(room) => room,
        Err(error) => return error.response_left().map(Either::Left),
    };
    // Before the wait: the connection of a client is seen to be closed only when its request has been read.
    let body = match read_body(body, shared.limits.body_bytes).await {
        Ok(body) => body,
        Err(error) => return error.response_left().map(Either::Left),
    };
    let place = match head.span.during("wait", shared.queue.place(room)).await {
        Ok(place) => place,
        Err(error) => return error.response_left().map(Either::Left),
    };
    head.span.set_model(&body);
    let plan = is_engines.then(|| Plan::of(&head, &body)).flatten();
    let body = plan.as_ref().and_then(Plan::first_body).unwrap_or(body);
    let response = if is_engines {
        attempt::route_and_send(shared, &head, body, place.deadline, Vec::new()).await
    } else {
        attempt::send_in_turn(shared, &head, body).await
    };
    let is_served = response.status().is_success();
    response.map(|body| match (body, plan) {
        (Either::Right(relay), Some(plan)) if is_served && relay.form() == Form::Events => {
            Either::Right(Resumable::new(shared, head, plan, relay, place.answered()))
        }
        (Either::Right(relay), _) => {
            Either::Left(Either::Right(relay.with_place(place.answered(), head.span)))
        }
        (ours, _) => Either::Left(ours),
    })
}

pub(crate) async fn read_body(body: Incoming, limit: usize) -> Result<Bytes, ApiError> {
    let too_long = || {
        let message = format!("the body is longer than {limit} bytes, which is the limit here");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_long());
    }
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_long()),
        Err(error) => {
            let message = format!("the body broke off: {error}");
            Err(ApiError::new(StatusCode::BAD_REQUEST, message))
        }
    }
}

impl ApiError {
    pub(crate) fn response_left(&self) -> Response<ProxyBody> {
        self.response::<Full<Bytes>>().map(Either::Left)
    }
}
