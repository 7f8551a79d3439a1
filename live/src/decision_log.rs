//! Writes down what the router is told and what it decides, while the proxy runs.
//!
//! The router collects the entries, so that none is forgotten; a task takes them away from time to time, and a thread
//! writes them. Entries are never left out: a log with a gap decides something else when it is read. If the disk cannot follow,
//! the log ends there, and serving goes on.

use std::fs::{File, OpenOptions, create_dir_all};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lodestar_router::LogEntry;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::arms::Arm;
use crate::dispatcher::Dispatcher;

/// Time between two batches.
const PERIOD: Duration = Duration::from_millis(250);
/// Batches that may wait for the disk: half a minute.
const BATCHES: usize = 120;

/// A log cannot be begun.
#[derive(Debug, thiserror::Error)]
#[error("`router.log`: cannot write {}: {error}; name a folder that can be written", .path.display())]
pub struct DecisionLogError {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    pub error: io::Error,
}

/// One log, from the start of the proxy to its end.
#[derive(Debug)]
pub(crate) struct DecisionLog {
    /// Whose it is.
    arm: Arm,
    batches: SyncSender<Vec<LogEntry>>,
    writer: JoinHandle<()>,
}

impl DecisionLog {
    /// A new file in `folder`, named after the time.
    pub(crate) fn create(folder: &Path, arm: Arm) -> Result<Self, DecisionLogError> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let suffix = if arm == Arm::Canary { "-canary" } else { "" };
        let path = folder.join(format!("decisions-{}{suffix}.jsonl", since_epoch.as_millis()));
        let open = || OpenOptions::new().write(true).create_new(true).open(&path);
        let file = create_dir_all(folder).and_then(|()| open());
        let file = file.map_err(|error| DecisionLogError { path: path.clone(), error })?;
        info!(log = %path.display(), "writes down its decisions");
        let (batches, received) = sync_channel(BATCHES);
        let writer = std::thread::Builder::new()
            .name("decision log".to_owned())
            .spawn({
                let path = path.clone();
                move || {
                    if let Err(error) = write(file, &received) {
                        warn!("{}: {error}; the log ends here", path.display());
                    }
                }
            })
            .map_err(|error| DecisionLogError { path, error })?;
        Ok(Self { arm, batches, writer })
    }

    /// Takes entries to the writer for ever.
    pub(crate) async fn keep(self: Arc<Self>, dispatcher: Arc<Dispatcher>) {
        while self.pass_on(&dispatcher) {
            sleep(PERIOD).await;
        }
    }

    /// Takes what there is to the writer. Answers whether it can take more.
    fn pass_on(&self, dispatcher: &Dispatcher) -> bool {
        let entries = dispatcher.take_log(self.arm);
        if entries.is_empty() {
            return true;
        }
        match self.batches.try_send(entries) {
            Ok(()) => return true,
            Err(TrySendError::Full(_)) => {
                warn!("the disk is too slow for the log of decisions, which ends here");
            }
            // The writer has said why.
            Err(TrySendError::Disconnected(_)) => {}
        }
        dispatcher.stop_recording(self.arm);
        false
    }

    /// Writes the rest.
    pub(crate) fn finish(self, dispatcher: &Dispatcher) {
        self.pass_on(dispatcher);
        drop(self.batches);
        // Its panic has been reported.
        let _ = self.writer.join();
    }
}

fn write(file: File, batches: &Receiver<Vec<LogEntry>>) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    for entries in batches {
        for entry in &entries {
            serde_json::to_writer(&mut out, entry)?;
            out.write_all(b"\n")?;
        }
        out.flush()?;
    }
    Ok(())
}
