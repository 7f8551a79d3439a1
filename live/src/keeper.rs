//! Keeps what a router learns in a file while the proxy runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lodestar_router::Checkpoint;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::arms::Arm;
use crate::checkpoint_file::{CheckpointFileError, read_checkpoint, write_checkpoint};
use crate::dispatcher::Dispatcher;

/// So much is lost at most when the process is killed.
const PERIOD: Duration = Duration::from_secs(60);

/// One file, and one writer at a time.
#[derive(Debug)]
pub(crate) struct Keeper {
    path: PathBuf,
    /// Whose it is.
    pub(crate) arm: Arm,
    writing: Mutex<()>,
}

impl Keeper {
    pub(crate) fn new(path: &Path, arm: Arm) -> Arc<Self> {
        Arc::new(Self { path: path.to_owned(), arm, writing: Mutex::new(()) })
    }

    /// What is in the file, if there is one.
    pub(crate) fn read(&self) -> Result<Option<Checkpoint>, CheckpointFileError> {
        read_checkpoint(&self.path)
    }

    /// Goes on from the file, if there is one.
    pub(crate) fn restore(&self, dispatcher: &Dispatcher) -> Result<(), CheckpointFileError> {
        let path = &self.path;
        let Some(checkpoint) = self.read()? else { return Ok(()) };
        dispatcher
            .restore(self.arm, &checkpoint)
            .map_err(|error| CheckpointFileError::Refused { path: path.clone(), error })?;
        info!(checkpoint = %path.display(), "the {} goes on from what it had learned", self.arm.as_str());
        Ok(())
    }

    /// Writes the file for ever.
    pub(crate) async fn keep(self: Arc<Self>, dispatcher: Arc<Dispatcher>) {
        loop {
            sleep(PERIOD).await;
            self.save(&dispatcher).await;
        }
    }

    /// Writes the file, away from requests. A disk that is full is no reason to stop serving.
    pub(crate) async fn save(self: &Arc<Self>, dispatcher: &Arc<Dispatcher>) {
        let (keeper, dispatcher) = (Arc::clone(self), Arc::clone(dispatcher));
        let saved = tokio::task::spawn_blocking(move || {
            let _alone = keeper.writing.lock().unwrap_or_else(PoisonError::into_inner);
            let checkpoint = dispatcher.checkpoint(keeper.arm);
            checkpoint.map_or(Ok(()), |checkpoint| write_checkpoint(&keeper.path, &checkpoint))
        });
        if let Ok(Err(error)) = saved.await {
            warn!("{error}");
        }
    }
}
