//! Running for as long as the process is to live: a runtime, signals, and the log.

use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::config::ServeConfig;
use crate::proxy::{Proxy, ProxyView, ServeError};

/// Serves until SIGTERM or an interrupt, then lets requests end.
///
/// # Errors
/// When it cannot start.
pub fn serve(config: &ServeConfig) -> Result<(), ServeError> {
    runtime()?.block_on(async {
        let stop = stop_signal()?;
        let proxy = Proxy::bind(config).await?;
        let stop_canary = stop_canary_signal(proxy.view())?;
        config.summary().iter().for_each(|line| info!("{line}"));
        info!("listening on {}", proxy.local_address()?);
        tokio::select! {
            () = proxy.run(stop) => {}
            never = stop_canary => match never {},
        }
        Ok(())
    })
}

/// Stops the canary at SIGUSR1. Without a canary, too: a signal that nobody listens to ends the process.
fn stop_canary_signal(
    view: ProxyView,
) -> std::io::Result<impl Future<Output = std::convert::Infallible>> {
    let mut signals = signal(SignalKind::user_defined1())?;
    Ok(async move {
        loop {
            signals.recv().await;
            if !view.stop_canary() {
                info!("SIGUSR1: there is no canary to stop");
            }
        }
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
