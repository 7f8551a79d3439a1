//! The thread that owns the engine: brings it messages, wakes it when it asks, and deals its tokens out.
//!
//! A thread, because a runtime's timers go off up to two milliseconds late, and later the more answers it
//! is writing.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use lodestar_router::{InstanceMetrics, Time};
use tokio::sync::{mpsc, oneshot};

use super::clock::Clock;
use super::{MockCore, MockKvEvent, MockRequest, MockToken};

/// Totals since the start, for `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) prompt_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) output_tokens: u64,
    pub(super) requests: u64,
}

#[derive(Debug)]
pub(super) enum Command {
    Submit(MockRequest, mpsc::UnboundedSender<MockToken>),
    Abort(u32),
    Metrics(oneshot::Sender<(InstanceMetrics, Totals)>),
}

/// One request that has not ended.
struct Open {
    prompt_tokens: u32,
    left: u32,
    tokens: mpsc::UnboundedSender<MockToken>,
}

struct Driver<C> {
    core: C,
    clock: Clock,
    open: BTreeMap<u32, Open>,
    totals: Totals,
    made: Vec<MockToken>,
    kv_events: Option<mpsc::UnboundedSender<Vec<MockKvEvent>>>,
}

/// Drives the engine until nobody can send it a command any more.
pub(super) fn drive<C: MockCore>(
    core: C,
    clock: Clock,
    kv_events: Option<mpsc::UnboundedSender<Vec<MockKvEvent>>>,
    commands: &Receiver<Command>,
) {
    let (open, totals) = (BTreeMap::new(), Totals::default());
    let mut driver = Driver { core, clock, open, totals, made: Vec::new(), kv_events };
    loop {
        let command = match driver.core.next_wakeup().map(|at| driver.clock.when(at)) {
            None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => commands.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        let now = driver.catch_up();
        match command {
            Ok(command) => driver.obey(now, command),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl<C: MockCore> Driver<C> {
    /// Does all that is due.
    fn catch_up(&mut self) -> Time {
        let now = self.clock.now();
        while let Some(at) = self.core.next_wakeup().filter(|at| *at <= now) {
            self.core.wake(at, &mut self.made);
            for token in self.made.drain(..) {
                let Some(open) = self.open.get_mut(&token.handle) else { continue };
                self.totals.output_tokens += 1;
                if let Some(cached) = token.cached_tokens {
                    self.totals.prompt_tokens += u64::from(open.prompt_tokens);
                    self.totals.cached_tokens += u64::from(cached);
                }
                open.left -= 1;
                // A client that hung up says so in a command of its own.
                let _ = open.tokens.send(token);
                if open.left == 0 {
                    self.totals.requests += 1;
                    self.open.remove(&token.handle);
                }
            }
        }
        let events = self.core.take_kv_events();
        if let Some(publisher) = self.kv_events.as_ref().filter(|_| !events.is_empty()) {
            let _ = publisher.send(events);
        }
        now
    }

    fn obey(&mut self, now: Time, command: Command) {
        match command {
            Command::Submit(request, tokens) => {
                let prompt_tokens = request.prompt.iter().map(|span| span.tokens).sum();
                let open = Open { prompt_tokens, left: request.output_tokens, tokens };
                self.open.insert(request.handle, open);
                self.core.submit(now, request);
            }
            Command::Abort(handle) => {
                if self.open.remove(&handle).is_some() {
                    self.core.abort(now, handle);
                }
            }
            Command::Metrics(answer) => {
                let _ = answer.send((self.core.metrics(), self.totals));
            }
        }
    }
}
