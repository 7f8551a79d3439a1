//! What is known of one instance: the prefills it owes, in order, and how fast it does them.

use std::collections::VecDeque;

use super::caution::Arm;
use super::fleet::{Fleet, Known, Laws, are_alike};
use super::law::{Law, Work};
use super::places::Places;
use super::residual::Features;
use super::trust::Trust;
use super::turnover::Turnover;
use crate::request::RequestId;
use crate::time::{Duration, Time};

/// Time constant of averages, s.
const AVERAGE_S: f64 = 30.0;
/// Time without a sample after which what is known counts as half as many, s.
const HALF_LIFE_S: f64 = 60.0;
/// By how much the time on an instance without samples is discounted.
const DOUBT: f64 = 0.5;
/// What a sample of others of its kind counts for, on an instance without samples.
const OF_ITS_KIND: f64 = 0.25;
/// Weight of the next error in the mean by which drift is noticed, and how large that gets by then: a factor of 2.
const DRIFT_WEIGHT: f64 = 0.1;
const DRIFT: f64 = std::f64::consts::LN_2;
/// Added to both times before they are compared, s: on an idle instance, a step more or less is no sign of its speed.
const DRIFT_RESOLUTION_S: f64 = 0.05;
/// Largest error that counts, as a logarithm.
const DRIFT_ERROR_MAX: f64 = 1.5;
/// Samples before and between two alarms.
const DRIFT_SAMPLES: u32 = 8;
/// Samples after which what was known before a restart is confirmed or not.
const CHECKED_SAMPLES: u32 = 2;
/// Time that a head may be late, whatever it was expected to take, s: steps, networks.
const LATENESS_S: f64 = 0.1;
/// A head that takes so many times as long as expected is a sign that the instance has become slow.
const OVERDUE: f64 = 2.0;

/// How a request's place was described, and what was expected there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    pub(super) features: Features,
    pub(super) expected_s: f64,
    pub(super) predicted_s: f64,
    /// Who chose it.
    pub(super) arm: Arm,
}

/// A request without a first token.
#[derive(Clone, Debug)]
struct Queued {
    request: RequestId,
    /// What queues, and what does not.
    work: Work,
    constant: Work,
    /// What the instance had done when it came.
    done: Work,
    /// How it was described when it came, and what it was expected to take, s.
    place: Place,
    /// For how long the head of the queue had been served by then, s.
    elapsed_s: f64,
    routed_at: Time,
}

/// One instance.
#[derive(Clone, Debug)]
pub(super) struct Server {
    queue: VecDeque<Queued>,
    /// Of the whole queue.
    ahead: Work,
    /// Prefills that have left the queue with a first token, since the queue was last empty.
    done: Work,
    /// When the instance had its last first token, or its first request after none: since then it is at the head of the queue.
    head_started: Time,
    law: Law,
    /// Of times per output token.
    pub(super) tpot: Law,
    /// Until its first samples have confirmed what was known before a restart.
    recalled: Option<Recalled>,
    sampled_at: Time,
    /// Mean logarithm of actual over expected, and samples since the last alarm.
    drift: f64,
    since_alarm: u32,
    utilisation: f64,
    arrivals_per_s: f64,
    /// Until when both are known.
    settled_at: Time,
    pub(super) turnover: Turnover,
    pub(super) places: Places,
    pub(super) trust: Trust,
    /// Of its KV cache; none where the engine does not say.
    pub(super) capacity_tokens: u64,
    /// The number of those that have such a cache.
    pub(super) kind: Option<usize>,
}

/// What was known before a restart, of an instance with such a cache, and how far off it has been: a sum of logarithms.
#[derive(Clone, Debug)]
struct Recalled {
    capacity_tokens: u64,
    law: Law,
    samples: u32,
    error: f64,
}

/// What a first token has shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) work: Work,
    pub(super) secs: f64,
    /// From routing to the first token, s.
    pub(super) ttft_s: f64,
    pub(super) place: Place,
}

/// What is kept of an average, and after what time: all instances settle in the same moment, and exponentials are not cheap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fade {
    age: Duration,
    kept: f64,
}

impl Default for Fade {
    fn default() -> Self {
        Self { age: Duration::ZERO, kept: 1.0 }
    }
}

impl Fade {
    fn kept(&mut self, age: Duration) -> f64 {
        if age != self.age {
            *self = Self { age, kept: libm::exp(-age.as_secs_f64() / AVERAGE_S) };
        }
        self.kept
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            ahead: Work::default(),
            done: Work::default(),
            head_started: Time::ZERO,
            law: Law::of_ttft(),
            tpot: Law::of_tpot(),
            recalled: None,
            sampled_at: Time::ZERO,
            drift: 0.0,
            since_alarm: 0,
            utilisation: 0.0,
            arrivals_per_s: 0.0,
            settled_at: Time::ZERO,
            turnover: Turnover::default(),
            places: Places::default(),
            trust: Trust::default(),
            capacity_tokens: 0,
            kind: None,
        }
    }
}

fn ln(secs: f64) -> f64 {
    libm::log(secs.max(1e-3))
}

impl Server {
    /// One of which so much was known before a restart.
    pub(super) fn recalled(now: Time, of: &Known) -> Self {
        let Laws { ttft: law, tpot } = of.laws.recalled_in_doubt();
        let capacity_tokens = of.capacity_tokens;
        let recalled = Some(Recalled { capacity_tokens, law: law.clone(), samples: 0, error: 0.0 });
        Self { law, tpot, recalled, sampled_at: now, settled_at: now, ..Self::default() }
    }

    /// The engine has said how large its cache is. What was known before a restart was of another GPU if that differs.
    pub(super) fn has_cache_of(&mut self, capacity_tokens: u64, fleet: &mut Fleet) {
        if self.capacity_tokens == capacity_tokens {
            return;
        }
        self.capacity_tokens = capacity_tokens;
        self.kind = fleet.kind(capacity_tokens);
        let is_other = |recalled: &Recalled| {
            let known_tokens = recalled.capacity_tokens;
            known_tokens > 0 && !are_alike(known_tokens, capacity_tokens)
        };
        if self.recalled.as_ref().is_some_and(is_other) {
            self.forget();
        }
    }

    /// Compares a first token with what was known before a restart. Answers whether that was wrong.
    pub(super) fn check_recalled(&mut self, sample: &Sample) -> bool {
        let Some(recalled) = &mut self.recalled else { return false };
        let expected_s = recalled.law.secs(&sample.work);
        recalled.error += ln(sample.secs) - ln(expected_s);
        recalled.samples += 1;
        if recalled.samples < CHECKED_SAMPLES {
            return false;
        }
        let error = recalled.error / f64::from(CHECKED_SAMPLES);
        self.recalled = None;
        error.abs() > DRIFT
    }

    /// Knows no more of its speed than of any other's.
    pub(super) fn forget(&mut self) {
        (self.law, self.tpot) = (Law::of_ttft(), Law::of_tpot());
        self.recalled = None;
    }

    /// Whether what is known of it is from before a restart, and not checked yet.
    pub(super) const fn is_unchecked(&self) -> bool {
        self.recalled.is_some()
    }

    /// What it has shown.
    pub(super) fn known(&self) -> Known {
        let laws = Laws { ttft: self.law.clone(), tpot: self.tpot.clone() };
        Known { capacity_tokens: self.capacity_tokens, laws }
    }

    /// Seconds until a request that came now would be at the head, if none is later than expected.
    pub(super) fn wait_secs_on_time(&self, now: Time) -> f64 {
        let Some(head) = self.queue.front() else { return 0.0 };
        self.left(self.elapsed(now), self.law.secs(&head.work))
    }

    /// Seconds until a request that came now would be at the head.
    pub(super) fn wait_secs(&self, now: Time) -> f64 {
        let Some(head) = self.queue.front() else { return 0.0 };
        let (elapsed, head_s) = (self.elapsed(now), self.law.secs(&head.work));
        let left = self.left(elapsed, head_s);
        // If it is slow now, it is so for all of them; and what is late is expected to be as late again.
        let slowdown = elapsed / (OVERDUE * (head_s + LATENESS_S));
        if slowdown > 1.0 { slowdown * (left + elapsed / OVERDUE) } else { left }
    }

    /// What is left of the queue, whose head takes so long and has been served for so long, s.
    fn left(&self, elapsed: f64, head_s: f64) -> f64 {
        (self.law.secs(&self.ahead) - elapsed.min(head_s)).max(0.0)
    }

    /// What is known of its speed; of one that has shown nothing yet, what is known of others.
    pub(super) fn law<'a>(&'a self, fleet: &'a Fleet) -> &'a Law {
        if self.law.samples() == 0 { fleet.ttft(self.kind) } else { &self.law }
    }

    /// The same for times per output token.
    pub(super) fn tpot<'a>(&'a self, fleet: &'a Fleet) -> &'a Law {
        if self.tpot.samples() == 0 { fleet.tpot(self.kind) } else { &self.tpot }
    }

    /// By how much to discount times here, so that it is tried: half without samples, less the more and the newer they are.
    /// Samples of others that have such a cache say something, too.
    pub(super) fn doubt(&self, now: Time, fleet: &Fleet) -> f64 {
        let age_s = now.saturating_since(self.sampled_at).as_secs_f64();
        let samples = if self.law.samples() == 0 {
            OF_ITS_KIND * fleet.samples(self.kind) as f64
        } else {
            self.law.samples() as f64 * libm::exp2(-age_s / HALF_LIFE_S)
        };
        DOUBT / (1.0 + samples).sqrt()
    }

    /// Answers whether first tokens up to this one show that the instance is not what it was.
    pub(super) fn notice_drift(&mut self, sample: &Sample) -> bool {
        let expected_s = self.law.secs(&sample.work) + DRIFT_RESOLUTION_S;
        let error = ln(sample.secs + DRIFT_RESOLUTION_S) - ln(expected_s);
        self.drift += DRIFT_WEIGHT * (error.clamp(-DRIFT_ERROR_MAX, DRIFT_ERROR_MAX) - self.drift);
        self.since_alarm += 1;
        let has_changed = self.since_alarm > DRIFT_SAMPLES && self.drift.abs() > DRIFT;
        if has_changed {
            (self.drift, self.since_alarm) = (0.0, 0);
        }
        has_changed
    }

    /// Forgets nearly all that showed its speed, which is believed until it shows another.
    pub(super) fn doubt_law(&mut self) {
        self.law.doubt();
    }

    /// Learns from a first token.
    pub(super) fn learn(&mut self, now: Time, sample: &Sample, fleet: &Law) {
        self.sampled_at = now;
        self.law.learn(&sample.work, sample.secs, Some(fleet));
    }

    /// Requests without a first token.
    pub(super) fn queued_requests(&self) -> usize {
        self.queue.len()
    }

    /// How much longer the head takes than expected, as a multiple of that.
    pub(super) fn head_overrun(&self, now: Time) -> f64 {
        let Some(head) = self.queue.front() else { return 0.0 };
        let expected = self.law.secs(&head.work) + 0.01;
        (self.elapsed(now) / expected - 1.0).clamp(0.0, 10.0)
    }

    fn elapsed(&self, now: Time) -> f64 {
        if self.queue.is_empty() {
            return 0.0;
        }
        now.saturating_since(self.head_started).as_secs_f64()
    }

    /// A request is routed here.
    pub(super) fn push(
        &mut self,
        now: Time,
        request: RequestId,
        work: Work,
        constant: Work,
        place: Place,
    ) {
        self.settle(now, &mut Fade::default());
        self.utilisation += self.law.secs(&work) / AVERAGE_S;
        self.arrivals_per_s += 1.0 / AVERAGE_S;
        let elapsed_s = self.elapsed(now);
        if self.queue.is_empty() {
            self.head_started = now;
            self.done = Work::default();
        }
        self.ahead.add(&work);
        let (done, routed_at) = (self.done, now);
        let queued = Queued { request, work, constant, done, place, elapsed_s, routed_at };
        self.queue.push_back(queued);
    }

    /// A request has its first token.
    ///
    /// What it waited for is what was done since it came, whatever the order: requests that are sent in the same moment overtake
    /// each other.
    pub(super) fn pop(&mut self, now: Time, request: RequestId) -> Option<Sample> {
        let queued = self.remove(now, request)?;
        self.head_started = now;
        self.done.add(&queued.work);
        let mut work = self.done;
        work.subtract(&queued.done);
        work.add(&queued.constant);
        let ttft_s = now.saturating_since(queued.routed_at).as_secs_f64();
        Some(Sample { work, secs: ttft_s + queued.elapsed_s, ttft_s, place: queued.place })
    }

    /// A request has ended without a first token.
    pub(super) fn abandon(&mut self, now: Time, request: RequestId) {
        let _ = self.remove(now, request);
    }

    fn remove(&mut self, now: Time, request: RequestId) -> Option<Queued> {
        let position = self.queue.iter().position(|queued| queued.request == request)?;
        let queued = self.queue.remove(position)?;
        if self.queue.is_empty() {
            self.ahead = Work::default();
        } else {
            self.ahead.subtract(&queued.work);
        }
        if position == 0 {
            self.head_started = now;
        }
        Some(queued)
    }

    /// Seconds of prefills that came in a second, the last half minute above all; as of [`settle`](Self::settle).
    pub(super) const fn utilisation(&self) -> f64 {
        self.utilisation
    }

    /// Requests that came in a second, likewise.
    pub(super) const fn arrivals_per_s(&self) -> f64 {
        self.arrivals_per_s
    }

    /// Brings both up to date.
    pub(super) fn settle(&mut self, now: Time, fade: &mut Fade) {
        let kept = fade.kept(now.saturating_since(self.settled_at));
        self.settled_at = now;
        self.utilisation *= kept;
        self.arrivals_per_s *= kept;
    }
}

#[cfg(test)]
mod tests;
