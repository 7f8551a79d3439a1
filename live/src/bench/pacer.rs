//! The thread that sends on time.
//!
//! A thread and not a timer of the runtime, whose timers go off up to two milliseconds late and later when
//! the runtime is busy reading answers: what is to be measured would then decide when it is measured.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Instant;

/// What is due when: place in the trace by time, equal times in the order of the trace.
#[derive(Debug, Default)]
pub(super) struct Schedule(BinaryHeap<Reverse<(Instant, usize)>>);

impl Schedule {
    pub(super) fn add(&mut self, at: Instant, index: usize) {
        self.0.push(Reverse((at, index)));
    }
}

/// Stops sending when it is dropped.
#[derive(Debug)]
pub(super) struct Pacer {
    commands: Sender<(Instant, usize)>,
}

impl Pacer {
    /// Calls `send` with time and place of each request of the schedule when it is due.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(
        schedule: Schedule,
        send: impl FnMut(Instant, usize) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (commands, received) = channel();
        thread::Builder::new()
            .name("pacer".to_owned())
            .spawn(move || pace(schedule, &received, send))?;
        Ok(Self { commands })
    }

    /// Another one.
    pub(super) fn send_at(&self, at: Instant, index: usize) {
        self.commands.send((at, index)).expect("the pacer ends after its owner");
    }
}

fn pace(
    mut schedule: Schedule,
    commands: &Receiver<(Instant, usize)>,
    mut send: impl FnMut(Instant, usize),
) {
    loop {
        let received = match schedule.0.peek() {
            None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(Reverse((at, _))) => {
                commands.recv_timeout(at.saturating_duration_since(Instant::now()))
            }
        };
        match received {
            Ok((at, index)) => schedule.add(at, index),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                if let Some(Reverse((at, index))) = schedule.0.pop() {
                    send(at, index);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    #[test]
    fn requests_are_sent_in_the_order_of_time_and_never_early() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        for (millis, index) in [(30, 0), (5, 1), (5, 2), (0, 3)] {
            schedule.add(start + Duration::from_millis(millis), index);
        }
        let (sender, sent) = channel();
        let pacer = Pacer::start(schedule, move |at, index| {
            sender.send((index, Instant::now() >= at)).unwrap();
        })
        .unwrap();
        let first: Vec<_> = sent.iter().take(4).collect();
        assert_eq!(first, [(3, true), (1, true), (2, true), (0, true)]);
        pacer.send_at(start, 7);
        assert_eq!(sent.recv(), Ok((7, true)), "one that is due already");
        drop(pacer);
        assert!(sent.recv().is_err(), "the thread has ended");
    }
}
