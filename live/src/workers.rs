//! Threads that serve connections, each with a runtime of its own.
//!
//! Not one runtime whose threads take each other's tasks: to pass a request on is a dozen wake-ups with microseconds of work each,
//! and to wake another thread costs more than that. Here a connection stays on one thread, together with its requests
//! and the connections to instances that they use. The price: all requests of one HTTP/2 connection share a core.

use std::io;
use std::num::NonZero;
use std::thread::{JoinHandle, available_parallelism};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// One thread a core. They end when this is dropped, and with them what they serve.
#[derive(Debug)]
pub(crate) struct Workers(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    /// Dropped, it stops the thread.
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Workers {
    /// Starts them.
    pub(crate) fn start() -> io::Result<Self> {
        let cores = available_parallelism().map_or(1, NonZero::get);
        (0..cores).map(Worker::start).collect::<io::Result<_>>().map(Self)
    }

    /// Where to spawn tasks.
    pub(crate) fn runtimes(&self) -> impl Iterator<Item = &Handle> {
        self.0.iter().map(|worker| &worker.runtime)
    }

    /// Ends them, and returns when they have ended.
    pub(crate) async fn shut_down(self) {
        let threads: Vec<_> =
            self.0.into_iter().map(|worker| (worker.stop, worker.thread)).collect();
        let ended = tokio::task::spawn_blocking(move || {
            for (stop, thread) in threads {
                drop(stop);
                // Its panic has been reported.
                let _ = thread.join();
            }
        });
        let _ = ended.await;
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread =
            std::thread::Builder::new().name(format!("worker {number}")).spawn(move || {
                // Nothing is ever sent.
                let _ = runtime.block_on(stopped);
                // A model that is being trained is not waited for.
                runtime.shutdown_background();
            })?;
        Ok(Self { runtime: handle, stop, thread })
    }
}
