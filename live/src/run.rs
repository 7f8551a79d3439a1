//! Running for as long as the process is to live: a runtime, signals, and the log.

use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::config::ServeConfig;
use crate::proxy::{Proxy, ServeError};

/// Serves until SIGTERM or an interrupt, then lets requests end.
///
/// # Errors
/// When it cannot start.
pub fn serve(config: &ServeConfig) -> Result<(), ServeError> {
    runtime()?.block_on(async {
        let stop = stop_signal()?;
        let proxy = Proxy::bind(config).await?;
        info!("listening on {}", proxy.local_address()?);
        proxy.run(stop).await;
        Ok(())
    })
}

pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Ready at the first signal to end. Listens from now on, so that none is missed.
pub(crate) fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stopping: requests under way may end");
    })
}
