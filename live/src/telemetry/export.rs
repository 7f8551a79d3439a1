//! Spans on their way to the collector: a bounded queue that a request never waits for, and a task that empties it.
//!
//! In place of the library's batch processor, which tells nobody how many spans it drops and blocks a thread while it
//! exports.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter as _, SpanProcessor};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::backend;
use crate::config::ConfigError;
use crate::counters::Counter;
use crate::tls;

/// Spans that may wait for the collector: some megabytes.
pub(super) const QUEUE: usize = 8192;
/// Most spans in one message, as the library's batch processor has it.
const MOST_TOGETHER: usize = 512;
/// A span waits so long for others.
const PERIOD: Duration = Duration::from_secs(1);
/// A collector that takes longer has lost the message.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of what there is at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The end of the queue where spans come in.
#[derive(Debug)]
pub(super) struct SpanQueue {
    spans: mpsc::Sender<SpanData>,
    dropped: Arc<Counter>,
}

impl SpanProcessor for SpanQueue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.dropped.add(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The end where they go out.
#[derive(Debug)]
pub(crate) struct Exporter {
    spans: mpsc::Receiver<SpanData>,
    collector: SpanExporter,
    dropped: Arc<Counter>,
    is_failing: bool,
}

/// An [`Exporter`] at work.
#[derive(Debug)]
pub(crate) struct Exporting {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// A queue whose spans go to this URL.
pub(super) fn queue(
    url: String,
    resource: &Resource,
    dropped: &Arc<Counter>,
) -> Result<(SpanQueue, Exporter), ConfigError> {
    let connector = backend::connector(tls::as_the_system());
    let mut collector = SpanExporter::builder()
        .with_http()
        .with_http_client(HyperClient::new(connector, EXPORT_TIMEOUT, None))
        .with_endpoint(url)
        .build()
        .map_err(|error| ConfigError::Telemetry(error.to_string()))?;
    collector.set_resource(resource);
    let (sender, spans) = mpsc::channel(QUEUE);
    let queue = SpanQueue { spans: sender, dropped: Arc::clone(dropped) };
    Ok((queue, Exporter { spans, collector, dropped: Arc::clone(dropped), is_failing: false }))
}

impl Exporter {
    /// Sends spans from now on.
    pub(crate) fn start(self) -> Exporting {
        let (stop, stopped) = oneshot::channel();
        Exporting { stop, task: tokio::spawn(self.run(stopped)) }
    }

    /// What came first.
    #[cfg(test)]
    pub(super) fn take(&mut self) -> SpanData {
        self.spans.try_recv().expect("there is a span")
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let (mut batch, mut is_stopping) = (Vec::new(), false);
        loop {
            tokio::select! {
                () = fill(&mut self.spans, &mut batch) => {}
                // Nothing is ever sent.
                _ = &mut stopped, if !is_stopping => {
                    is_stopping = true;
                    self.spans.close();
                    continue;
                }
            }
            if batch.is_empty() {
                return;
            }
            self.export(std::mem::take(&mut batch)).await;
        }
    }

    /// Not tried again: the next batch waits already.
    async fn export(&mut self, batch: Vec<SpanData>) {
        let count = batch.len() as u64;
        let exported = self.collector.export(batch).await;
        let was_failing = std::mem::replace(&mut self.is_failing, exported.is_err());
        match exported {
            Ok(()) if was_failing => info!("the collector takes spans again"),
            Ok(()) => {}
            Err(error) => {
                self.dropped.add(count);
                if !was_failing {
                    warn!("spans are dropped, since the collector does not take them: {error}");
                }
            }
        }
    }
}

/// Returns when the batch is full, its first span has waited for long enough, or no more will come. Dropped before, it
/// leaves in the batch what it has taken.
async fn fill(spans: &mut mpsc::Receiver<SpanData>, batch: &mut Vec<SpanData>) {
    if batch.is_empty() && spans.recv_many(batch, MOST_TOGETHER).await == 0 {
        return;
    }
    let rest = async {
        while batch.len() < MOST_TOGETHER {
            if spans.recv_many(batch, MOST_TOGETHER - batch.len()).await == 0 {
                return;
            }
        }
    };
    // Either way the batch goes.
    let _ = timeout(PERIOD, rest).await;
}

impl Exporting {
    /// Sends the rest, if the collector takes it in time.
    pub(crate) async fn finish(self) {
        let Self { stop, mut task } = self;
        drop(stop);
        if timeout(FLUSH_TIMEOUT, &mut task).await.is_err() {
            task.abort();
            warn!("the collector is too slow for the last spans, which are dropped");
        }
    }
}
