//! Which instances there are: added, drained and removed while the proxy serves.
//!
//! Beside the dispatcher, which knows only who can be chosen now: an instance that is not ready, or that an operator has
//! drained, is known here and has no place in the fleet. Each one that is not drained has a task that
//! watches it ([`monitor`]); the end of the task is the end of its membership.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use lodestar_router::{InstanceMetrics, Load, RouterConfig};
use serde::Serialize;
use tokio::sync::{Mutex, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tracing::info;

use crate::backend::{Backend, Client};
use crate::config::{self, ConfigError, InstanceEntry};
use crate::dispatcher::Dispatcher;
use crate::monitor;

/// The instances of a proxy. Changes happen one after another.
#[derive(Debug)]
pub(crate) struct Membership {
    dispatcher: Arc<Dispatcher>,
    client: Client,
    /// Whether somebody listens to KV events.
    listens: bool,
    /// Silence with work to do after which an instance is out.
    stall: Duration,
    /// Instances that are not drained.
    watched: Arc<AtomicUsize>,
    /// By URL.
    instances: Mutex<BTreeMap<String, Known>>,
}

#[derive(Debug)]
struct Known {
    entry: InstanceEntry,
    backend: Arc<Backend>,
    origin: Origin,
    /// `None` when it is drained.
    watch: Option<Watch>,
}

#[derive(Debug)]
struct Watch {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Who has named an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Origin {
    /// `instances` of the configuration.
    Configuration,
    /// `[discovery]`.
    Discovery,
    /// An operator, while it runs.
    Operator,
}

/// A change of membership that cannot be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MembershipError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("instance `{0}` is there already; drain or remove it before it is added anew")]
    Present(String),
    #[error("there is no instance `{0}`; its URL must be as in the list of instances")]
    Absent(String),
    #[error(
        "instance `{0}` is listed by `[discovery]` and would come back; drain it, or take it out there"
    )]
    Listed(String),
}

impl MembershipError {
    /// As an answer.
    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Self::Config(_) => StatusCode::BAD_REQUEST,
            Self::Present(_) | Self::Listed(_) => StatusCode::CONFLICT,
            Self::Absent(_) => StatusCode::NOT_FOUND,
        }
    }
}

/// An instance, as an operator sees it.
#[derive(Debug, Serialize)]
pub(crate) struct Listed {
    url: String,
    origin: Origin,
    state: State,
    /// Requests that the router has sent there and that have not ended.
    requests_under_way: u32,
    /// What the router expects of it, and what it said last; of one that can be chosen.
    load: Option<Load>,
    metrics: Option<InstanceMetrics>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// It can be chosen.
    Ready,
    /// It is probed, and can be chosen when it is well.
    NotReady,
    /// An operator has had it chosen no more, and it has requests.
    Draining,
    /// It has none any more.
    Drained,
}

impl Membership {
    pub(crate) fn new(
        dispatcher: Arc<Dispatcher>,
        client: Client,
        listens: bool,
        stall: Duration,
    ) -> Self {
        let (watched, instances) = Default::default();
        Self { dispatcher, client, listens, stall, watched, instances }
    }

    /// Has the instances of one origin be these: those that are gone are chosen no more and end what they have, new ones join
    /// when they are ready.
    ///
    /// # Errors
    /// When an entry is wrong. Then nothing changes.
    pub(crate) async fn set(
        &self,
        origin: Origin,
        entries: &[InstanceEntry],
    ) -> Result<(), ConfigError> {
        let backends = self.backends(entries)?;
        let mut known = self.instances.lock().await;
        let listed: BTreeMap<_, _> =
            backends.iter().map(|backend| &backend.url).zip(entries).collect();
        let gone: BTreeSet<String> = known
            .iter()
            .filter(|(url, instance)| {
                let is_same = listed.get(url).is_some_and(|entry| instance.entry == **entry);
                instance.origin == origin && !is_same
            })
            .map(|(url, _)| url.clone())
            .collect();
        for url in &gone {
            if let Some(mut instance) = known.remove(url) {
                self.end_watch(&mut instance).await;
                info!(url, "is listed no more; its requests may end");
            }
        }
        for (backend, entry) in backends.into_iter().zip(entries) {
            if let Some(instance) = known.get_mut(&backend.url) {
                // One that an operator has added is the list's from now on, if it is the same.
                if instance.entry == *entry {
                    instance.origin = origin;
                }
                continue;
            }
            let (url, entry) = (backend.url.clone(), entry.clone());
            let backend = Arc::new(backend);
            let watch = Some(self.watch(&backend));
            known.insert(url, Known { entry, backend, origin, watch });
        }
        Ok(())
    }

    /// Adds one, or has one that was drained come back.
    pub(crate) async fn add(&self, entry: &InstanceEntry) -> Result<(), MembershipError> {
        let backends = self.backends(std::slice::from_ref(entry))?;
        let mut known = self.instances.lock().await;
        for backend in backends {
            let url = backend.url.clone();
            let drained = match known.get_mut(&url) {
                Some(Known { watch: Some(_), .. }) => return Err(MembershipError::Present(url)),
                drained => drained.filter(|drained| drained.entry == *entry),
            };
            if let Some(drained) = drained {
                // The same backend: it knows what is under way there.
                drained.watch = Some(self.watch(&drained.backend));
                continue;
            }
            let (backend, entry) = (Arc::new(backend), entry.clone());
            let (origin, watch) = (Origin::Operator, Some(self.watch(&backend)));
            known.insert(url, Known { entry, backend, origin, watch });
        }
        Ok(())
    }

    /// Has one chosen no more. Its requests end, and it stays in the list.
    pub(crate) async fn drain(&self, url: &str) -> Result<(), MembershipError> {
        let mut known = self.instances.lock().await;
        let instance = known.get_mut(url.trim_end_matches('/'));
        let instance = instance.ok_or_else(|| MembershipError::Absent(url.to_owned()))?;
        self.end_watch(instance).await;
        Ok(())
    }

    /// Forgets one. Its requests end.
    pub(crate) async fn remove(&self, url: &str) -> Result<(), MembershipError> {
        let url = url.trim_end_matches('/');
        let mut known = self.instances.lock().await;
        let origin = known.get(url).map(|instance| instance.origin);
        match origin.ok_or_else(|| MembershipError::Absent(url.to_owned()))? {
            Origin::Discovery => return Err(MembershipError::Listed(url.to_owned())),
            Origin::Configuration | Origin::Operator => {}
        }
        if let Some(mut instance) = known.remove(url) {
            self.end_watch(&mut instance).await;
        }
        Ok(())
    }

    /// All of them.
    pub(crate) async fn list(&self) -> Vec<Listed> {
        let known = self.instances.lock().await;
        let fleet = self.dispatcher.fleet();
        let listed = known.iter().map(|(url, instance)| {
            let mut here = fleet.iter();
            let here = here.find(|(member, _)| Arc::ptr_eq(&member.backend, &instance.backend));
            let requests_under_way = instance.backend.under_way();
            let state = match (&instance.watch, here) {
                (Some(_), Some(_)) => State::Ready,
                (Some(_), None) => State::NotReady,
                (None, _) if requests_under_way > 0 => State::Draining,
                (None, _) => State::Drained,
            };
            let (url, origin) = (url.clone(), instance.origin);
            let load = here.map(|(_, known)| known.load);
            let metrics = here.and_then(|(_, known)| Some(known.scraped?.metrics));
            Listed { url, origin, state, requests_under_way, load, metrics }
        });
        listed.collect()
    }

    /// Whether a policy sees what it needs of these instances.
    pub(crate) async fn check_policy(&self, router: &RouterConfig) -> Result<(), ConfigError> {
        let known = self.instances.lock().await;
        let entries: Vec<_> = known.values().map(|instance| instance.entry.clone()).collect();
        config::check_kv_events(router, &entries, self.listens)
    }

    /// Ends all tasks and leaves the fleet as it is, for what is written at the end.
    pub(crate) async fn shut_down(&self) {
        for instance in self.instances.lock().await.values_mut() {
            if let Some(watch) = instance.watch.take() {
                watch.task.abort();
                // Cancelled, or its panic has been reported.
                let _ = watch.task.await;
            }
        }
    }

    fn backends(&self, entries: &[InstanceEntry]) -> Result<Vec<Backend>, ConfigError> {
        for router in self.dispatcher.router_configs() {
            config::check_kv_events(&router, entries, self.listens)?;
        }
        config::backends(entries, self.listens)
    }

    fn watch(&self, backend: &Arc<Backend>) -> Watch {
        self.watched.fetch_add(1, Ordering::Relaxed);
        let (stop, stopped) = oneshot::channel();
        let (dispatcher, backend) = (Arc::clone(&self.dispatcher), Arc::clone(backend));
        let (client, watched) = (self.client.clone(), Arc::clone(&self.watched));
        let stall = self.stall;
        let task = tokio::spawn(async move {
            // A task of its own: whatever becomes of it, the instance leaves below.
            let mut watching = JoinSet::new();
            let (monitored, known) = (Arc::clone(&dispatcher), Arc::clone(&backend));
            watching.spawn(monitor::watch(monitored, known, client, watched, stall));
            tokio::select! {
                // Its panic has been reported.
                _ = watching.join_next() => {}
                _ = stopped => {}
            }
            watching.shutdown().await;
            // Whoever joined above is found: nobody joins any more.
            for member in dispatcher.members() {
                if Arc::ptr_eq(&member.backend, &backend) {
                    dispatcher.leave(member.id, false);
                }
            }
        });
        Watch { stop, task }
    }

    /// Returns when the instance can be chosen no more.
    async fn end_watch(&self, instance: &mut Known) {
        let Some(Watch { stop, task }) = instance.watch.take() else { return };
        self.watched.fetch_sub(1, Ordering::Relaxed);
        // The task listens until it ends.
        let _ = stop.send(());
        // Its panic has been reported.
        let _ = task.await;
    }
}
