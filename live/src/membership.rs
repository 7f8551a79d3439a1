//! Which instances there are: added, drained and removed while the proxy serves.
//!
//! Beside the dispatcher, which knows only who can be chosen now: an instance that is not ready, or that an operator has
//! drained, is known here and has no place in the fleet. Each one that is not drained has a task that
//! watches it ([`monitor`]); the end of the task is the end of its membership.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;
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
            if !known.contains_key(&backend.url) {
                let (url, entry) = (backend.url.clone(), entry.clone());
                let watch = Some(self.watch(&Arc::new(backend)));
                known.insert(url, Known { entry, origin, watch });
            }
        }
        Ok(())
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
        config::check_kv_events(&self.dispatcher.router_config(), entries, self.listens)?;
        config::backends(entries, self.listens)
    }

    fn watch(&self, backend: &Arc<Backend>) -> Watch {
        self.watched.fetch_add(1, Ordering::Relaxed);
        let (stop, stopped) = oneshot::channel();
        let (dispatcher, backend) = (Arc::clone(&self.dispatcher), Arc::clone(backend));
        let (client, watched) = (self.client.clone(), Arc::clone(&self.watched));
        let stall = self.stall;
        let task = tokio::spawn(async move {
            let watching = monitor::watch(
                Arc::clone(&dispatcher),
                Arc::clone(&backend),
                client,
                watched,
                stall,
            );
            tokio::select! {
                () = watching => {}
                _ = stopped => {}
            }
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
