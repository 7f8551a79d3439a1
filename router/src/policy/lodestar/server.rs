//! What is known of one instance: the prefills it owes, in order, and how fast it does them.

use std::collections::VecDeque;

use super::law::{Law, Work};
use super::reuse::Turnover;
use crate::request::RequestId;
use crate::time::Time;

/// Time constant of averages, s.
const AVERAGE_S: f64 = 30.0;

/// A request without a first token.
#[derive(Clone, Debug)]
struct Queued {
    request: RequestId,
    work: Work,
    /// With everything ahead of it when it came, and what does not queue.
    total: Work,
    /// For how long the head of the queue had been served by then, s.
    elapsed_s: f64,
    routed_at: Time,
}

/// One instance.
#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    queue: VecDeque<Queued>,
    /// Of the whole queue.
    ahead: Work,
    /// When the instance turned to the head of the queue.
    head_started: Time,
    pub(super) law: Law,
    /// Share of time with a queue.
    busy: f64,
    /// Until when `busy` is known.
    busy_at: Time,
    pub(super) turnover: Turnover,
    /// Of its KV cache.
    pub(super) capacity_tokens: u64,
}

/// What a first token has shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) work: Work,
    pub(super) secs: f64,
}

impl Server {
    /// Seconds until a request that came now would be at the head.
    pub(super) fn wait_secs(&self, now: Time) -> f64 {
        let Some(head) = self.queue.front() else { return 0.0 };
        let all = self.law.secs(&self.ahead);
        let elapsed = self.elapsed(now).min(self.law.secs(&head.work));
        (all - elapsed).max(0.0)
    }

    fn elapsed(&self, now: Time) -> f64 {
        if self.queue.is_empty() {
            return 0.0;
        }
        now.saturating_since(self.head_started).as_secs_f64()
    }

    /// A request is routed here.
    pub(super) fn push(&mut self, now: Time, request: RequestId, work: Work, constant: Work) {
        self.settle(now);
        let elapsed_s = self.elapsed(now);
        if self.queue.is_empty() {
            self.head_started = now;
        }
        self.ahead.add(&work);
        let mut total = self.ahead;
        total.add(&constant);
        self.queue.push_back(Queued { request, work, total, elapsed_s, routed_at: now });
    }

    /// A request has its first token, or ended without one.
    pub(super) fn pop(&mut self, now: Time, request: RequestId) -> Option<Sample> {
        let position = self.queue.iter().position(|queued| queued.request == request)?;
        self.settle(now);
        let queued = self.queue.remove(position)?;
        if self.queue.is_empty() {
            self.ahead = Work::default();
        } else {
            self.ahead.subtract(&queued.work);
        }
        if position == 0 {
            self.head_started = now;
        }
        let secs = now.saturating_since(queued.routed_at).as_secs_f64() + queued.elapsed_s;
        Some(Sample { work: queued.total, secs })
    }

    /// Share of the time until now in which it had a queue, the last half minute above all.
    pub(super) fn utilisation(&mut self, now: Time) -> f64 {
        self.settle(now);
        self.busy
    }

    /// Brings the share of busy time up to date.
    fn settle(&mut self, now: Time) {
        let secs = now.saturating_since(self.busy_at).as_secs_f64();
        self.busy_at = now;
        let target = if self.queue.is_empty() { 0.0 } else { 1.0 };
        self.busy = target + (self.busy - target) * libm::exp(-secs / AVERAGE_S);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_nanos(millis * 1_000_000)
    }

    /// An instance that takes 0.12 s for 1,000 tokens, as all do before the first sample, and 2 ms a request.
    fn with_queue(tokens: &[u32]) -> Server {
        let mut server = Server::default();
        for (id, &tokens) in (0..).zip(tokens) {
            // The second half of a prompt without pairs.
            let work = Work::of_prefill(0, tokens, 0.0);
            server.push(at(0), RequestId(id), work, Work::default());
        }
        server
    }

    #[test]
    fn the_wait_is_what_is_left_of_the_queue() {
        let server = with_queue(&[1000, 2000]);
        let wait = |millis| server.wait_secs(at(millis));
        assert!((wait(0) - 0.364).abs() < 1e-9);
        assert!((wait(100) - 0.264).abs() < 1e-9);
        // The head should be done after 122 ms; while it is not, the second has not begun.
        assert!((wait(122) - 0.242).abs() < 1e-9 && (wait(5000) - 0.242).abs() < 1e-9);
        assert!(Server::default().wait_secs(at(5)).abs() < 1e-12);
    }

    #[test]
    fn a_first_token_shows_how_long_everything_ahead_took() {
        let mut server = with_queue(&[1000, 2000]);
        let first = server.pop(at(100), RequestId(0)).unwrap();
        assert!((first.secs - 0.1).abs() < 1e-9);
        assert!((server.wait_secs(at(100)) - 0.242).abs() < 1e-9, "the second one starts");
        // The third comes 50 ms into the second.
        let work = Work::of_prefill(0, 3000, 0.0);
        server.push(at(150), RequestId(2), work, Work::default());
        server.pop(at(300), RequestId(1)).unwrap();
        let third = server.pop(at(600), RequestId(2)).unwrap();
        assert!((third.secs - 0.5).abs() < 1e-9, "from when the second began: {third:?}");
        let mut both = Work::of_prefill(0, 2000, 0.0);
        both.add(&work);
        assert_eq!(third.work, both);
        assert_eq!(server.pop(at(700), RequestId(2)).map(|sample| sample.secs), None);
        assert!(server.wait_secs(at(700)).abs() < 1e-12);
    }

    #[test]
    fn utilisation_is_the_share_of_time_with_a_queue() {
        let mut server = Server::default();
        for second in 0..200 {
            server.push(at(1000 * second), RequestId(second), Work::default(), Work::default());
            server.pop(at(1000 * second + 250), RequestId(second));
        }
        let utilisation = server.utilisation(at(200_000));
        assert!((utilisation - 0.25).abs() < 0.02, "{utilisation}");
    }
}
