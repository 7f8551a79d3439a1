//! The task that owns the engine: brings it messages, wakes it when it asks, and deals its tokens out.

use std::collections::BTreeMap;

use lodestar_router::{InstanceMetrics, Time};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

use super::clock::Clock;
use super::{MockCore, MockRequest, MockToken};

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
}

/// Drives the engine until nobody can send it a command any more.
pub(super) async fn drive<C: MockCore>(
    core: C,
    time_scale: f64,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let mut driver = Driver {
        core,
        clock: Clock::new(time_scale),
        open: BTreeMap::new(),
        totals: Totals::default(),
        made: Vec::new(),
    };
    loop {
        let wakeup = driver.core.next_wakeup().map(|at| driver.clock.when(at));
        let command = tokio::select! {
            command = commands.recv() => command,
            () = async { sleep_until(wakeup.expect("checked")).await }, if wakeup.is_some() => {
                driver.catch_up();
                continue;
            }
        };
        let Some(command) = command else { return };
        let now = driver.catch_up();
        driver.obey(now, command);
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
