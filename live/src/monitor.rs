//! Watches one instance: lets it join the fleet when it is well, tells the router what its metrics say, and
//! takes it out when it is not.
//!
//! An instance is in the fleet or it is not; there is no third state that policies would have to know. One
//! that failed is out until a probe succeeds, and after repeated failures for longer each time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use lodestar_router::InstanceSpec;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::backend::{Backend, Client, FetchError};
use crate::dispatcher::{Dispatcher, Member};
use crate::kv_events;
use crate::metrics::{kv_capacity_tokens, parse_metrics};
use crate::models::Models;
use crate::progress::{ProgressWatch, hangs};

const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two probes of an instance that is out, at first and at most.
const PROBE_PERIOD: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Who has been in the fleet for so long is no longer on probation.
const PROBATION: Duration = Duration::from_secs(60);
/// Between two scrapes of a busy instance, at least, and of an idle one.
const SCRAPE_PERIOD: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// A page of metrics costs vLLM's API server about 10 ms. It shall not spend more than a part in so many on it.
const SCRAPE_SHARE: u32 = 50;
/// So many scrapes in a row without an answer, and the instance hangs.
const MISSED_SCRAPES: u32 = 3;
/// What is assumed of an instance that does not say.
const UNKNOWN_KV_CAPACITY_TOKENS: u64 = 400_000;

/// Watches an instance for ever; `instances` is how many there are, ready or not.
pub(crate) async fn watch(
    dispatcher: Arc<Dispatcher>,
    backend: Arc<Backend>,
    client: Client,
    instances: Arc<AtomicUsize>,
    stall: Duration,
) {
    let mut pause = PROBE_PERIOD.0;
    let mut last_complaint = String::new();
    loop {
        match probe(&backend, &client).await {
            Ok((spec, model)) => {
                last_complaint.clear();
                let since = Instant::now();
                let member = dispatcher.join(Arc::clone(&backend), spec);
                info!(instance = member.id.0, url = backend.url, "joined");
                let listen = async {
                    match &backend.kv_endpoints {
                        Some(endpoints) => {
                            let (dispatcher, member) =
                                (Arc::clone(&dispatcher), Arc::clone(&member));
                            kv_events::follow(dispatcher, member, endpoints, model.as_deref()).await
                        }
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = stay(&dispatcher, &member, &client, &instances, stall) => {}
                    never = listen => match never {},
                }
                warn!(instance = member.id.0, url = backend.url, "left");
                if since.elapsed() >= PROBATION {
                    pause = PROBE_PERIOD.0;
                }
            }
            Err(complaint) if complaint != last_complaint => {
                warn!(url = backend.url, "not ready: {complaint}");
                last_complaint = complaint;
            }
            Err(_) => {}
        }
        sleep(pause).await;
        // A server that starts is not one that fails again and again.
        if last_complaint.is_empty() {
            pause = (pause * 2).min(PROBE_PERIOD.1);
        }
    }
}

/// Scrapes a member until it has left the fleet.
async fn stay(
    dispatcher: &Dispatcher,
    member: &Member,
    client: &Client,
    instances: &AtomicUsize,
    stall: Duration,
) {
    let mut missed = 0;
    let mut progress = ProgressWatch::new(Instant::now());
    let mut period = SCRAPE_PERIOD.0;
    loop {
        tokio::select! {
            () = member.left() => return,
            () = sleep(period) => {}
        }
        let asked = Instant::now();
        match scrape(&member.backend, client).await {
            Ok(page) => {
                missed = 0;
                let metrics = parse_metrics(&page);
                let is_running = metrics.as_ref().is_ok_and(|metrics| metrics.running_requests > 0);
                let is_decoding = is_running && dispatcher.requests_at(member.id) > 0;
                let silence = progress.look(Instant::now(), &member.progress, &page, is_decoding);
                let others = dispatcher.members();
                let others = others.iter().filter(|other| other.id != member.id);
                if hangs(silence, stall, others.map(|other| other.progress.silence())) {
                    let seconds = silence.as_secs();
                    warn!(url = member.backend.url, "it hangs: no progress for {seconds} s");
                    member.backend.hung();
                    dispatcher.leave(member.id, true);
                    return;
                }
                if let Ok(metrics) = metrics {
                    let idle = metrics.running_requests == 0 && metrics.waiting_requests == 0;
                    dispatcher.scraped(member.id, metrics);
                    let least = if idle { SCRAPE_PERIOD.1 } else { SCRAPE_PERIOD.0 };
                    period = least.max(asked.elapsed() * SCRAPE_SHARE).min(SCRAPE_PERIOD.1);
                } else {
                    period = SCRAPE_PERIOD.1;
                }
            }
            Err(complaint) => {
                missed += 1;
                warn!(url = member.backend.url, "scrape {missed} missed: {complaint}");
                // When everybody is silent the fleet is overloaded, and fewer instances would not help.
                let others = dispatcher.members().len().saturating_sub(1);
                let instances = instances.load(Ordering::Relaxed);
                if missed >= MISSED_SCRAPES && (others * 2 >= instances) {
                    dispatcher.leave(member.id, true);
                    return;
                }
            }
        }
    }
}

async fn scrape(backend: &Backend, client: &Client) -> Result<String, String> {
    let (status, page) = fetch(backend, client, "/metrics").await?;
    // An instance without metrics is alive all the same.
    Ok(if status == StatusCode::OK { page } else { String::new() })
}

/// What an instance that is well says of itself, and the name of the model that it serves.
async fn probe(
    backend: &Backend,
    client: &Client,
) -> Result<(InstanceSpec, Option<String>), String> {
    let (status, _) = fetch(backend, client, "/health").await?;
    if status != StatusCode::OK {
        return Err(format!("/health answers {status}"));
    }
    let (status, models) = fetch(backend, client, "/v1/models").await?;
    // Where an API key is needed, clients have it and we do not: the length stays unknown.
    let models: Models<Model> = if status == StatusCode::OK {
        serde_json::from_str(&models).map_err(|error| format!("/v1/models: {error}"))?
    } else {
        Models { data: Vec::new() }
    };
    let longest = models.data.iter().filter_map(|model| model.max_model_len).max();
    // The others are adapters.
    let model = models.data.into_iter().find(|model| model.parent.is_none());
    let (_, metrics) = fetch(backend, client, "/metrics").await?;
    let spec = InstanceSpec {
        kv_capacity_tokens: kv_capacity_tokens(&metrics).unwrap_or(UNKNOWN_KV_CAPACITY_TOKENS),
        max_model_len_tokens: longest.unwrap_or(u32::MAX),
    };
    Ok((spec, model.map(|model| model.id)))
}

async fn fetch(
    backend: &Backend,
    client: &Client,
    path: &str,
) -> Result<(StatusCode, String), String> {
    match timeout(PROBE_TIMEOUT, backend.get(client, path, None)).await {
        Ok(Ok(page)) => Ok((page.status, String::from_utf8_lossy(&page.body).into_owned())),
        Ok(Err(error)) => Err::<_, FetchError>(error).map_err(|error| format!("{path}: {error}")),
        Err(_) => Err(format!("{path}: no answer in {} s", PROBE_TIMEOUT.as_secs())),
    }
}

#[derive(Deserialize)]
struct Model {
    id: String,
    parent: Option<String>,
    max_model_len: Option<u32>,
}
