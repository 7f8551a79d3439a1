//! What has happened lately, for people who look: the last decisions with what came of them, and how long first tokens
//! took.
//!
//! Beside the router and not in it, under a lock of its own: a decision is moved here once it is made, and
//! nobody decides by it. The log of decisions has all of them; this has the last ones without a disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lodestar_router::{Decision, Event, InstanceId, RequestId};

/// So many are remembered.
const DECISIONS: usize = 50;
/// Buckets of a histogram to the doubling of a time: each is 9 % wide.
const PER_OCTAVE: f64 = 8.0;
/// 17 doublings from 1 ms are 131 s.
const BUCKETS: usize = 17 * 8 + 1;

/// The last decisions and all first tokens.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    decisions: VecDeque<Explained>,
    ttft: Histogram,
    second_attempts: u64,
}

/// A decision, and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Explained {
    pub(crate) at: Instant,
    pub(crate) request: RequestId,
    pub(crate) prompt_tokens: u32,
    /// Another instance had failed before.
    pub(crate) is_second_attempt: bool,
    pub(crate) decision: Decision,
    pub(crate) ttft: Option<Duration>,
    /// How it ended, if it has.
    pub(crate) outcome: Option<&'static str>,
    /// That the engine says it had found in its cache.
    pub(crate) cached_tokens: Option<u32>,
}

impl Explained {
    /// One that was made now, for a request with that number of prompt tokens.
    pub(crate) fn new(request: RequestId, prompt_tokens: u32, decision: Decision) -> Self {
        Self {
            at: Instant::now(),
            request,
            prompt_tokens,
            is_second_attempt: false,
            decision,
            ttft: None,
            outcome: None,
            cached_tokens: None,
        }
    }
}

impl Recent {
    /// A decision was made; `is_second_attempt` if another instance had failed before.
    pub(crate) fn decided(&self, decision: Explained, is_second_attempt: bool) {
        let mut memory = self.lock();
        memory.second_attempts += u64::from(is_second_attempt);
        if memory.decisions.len() == DECISIONS {
            memory.decisions.pop_front();
        }
        memory.decisions.push_back(Explained { is_second_attempt, ..decision });
    }

    /// A first token came so long after the decision.
    pub(crate) fn first_token(&self, request: RequestId, after: Duration) {
        let mut memory = self.lock();
        memory.ttft.add(after);
        if let Some(decision) = memory.find(request) {
            decision.ttft = Some(after);
        }
    }

    /// A request has ended, as the router is told.
    pub(crate) fn ended(&self, request: RequestId, event: &Event<'_>) {
        let mut memory = self.lock();
        let Some(decision) = memory.find(request) else { return };
        decision.outcome = Some(if let Event::Finished { usage, .. } = event {
            decision.cached_tokens = usage.cached_tokens;
            "finished"
        } else if matches!(event, Event::DispatchFailed { .. }) {
            "failed"
        } else {
            "aborted"
        });
    }

    /// The last decisions, newest first.
    pub(crate) fn decisions(&self) -> Vec<Explained> {
        self.lock().decisions.iter().rev().cloned().collect()
    }

    /// Times to first token since the start.
    pub(crate) fn ttft(&self) -> Histogram {
        self.lock().ttft.clone()
    }

    /// Attempts since the start that followed a failure elsewhere.
    pub(crate) fn second_attempts(&self) -> u64 {
        self.lock().second_attempts
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn find(&mut self, request: RequestId) -> Option<&mut Explained> {
        self.decisions.iter_mut().rev().find(|decision| decision.request == request)
    }
}

/// How many times as long as at the others a first token is expected to take at each instance: the geometric mean, over
/// decisions, of its prediction over that of all candidates. Only of those with predictions.
pub(crate) fn ttft_factors(decisions: &[Explained]) -> BTreeMap<InstanceId, f64> {
    let mut sums: BTreeMap<InstanceId, (f64, f64)> = BTreeMap::new();
    for explained in decisions {
        let candidates = explained.decision.candidates.iter();
        let logs: Vec<_> = candidates
            .filter_map(|candidate| Some((candidate.instance, candidate.predicted_ttft?)))
            .map(|(instance, ttft)| (instance, ttft.as_secs_f64().max(1e-6).ln()))
            .collect();
        let mean = logs.iter().map(|(_, log)| log).sum::<f64>() / logs.len() as f64;
        for (instance, log) in logs {
            let (sum, count) = sums.entry(instance).or_default();
            *sum += log - mean;
            *count += 1.0;
        }
    }
    sums.into_iter().map(|(instance, (sum, count))| (instance, (sum / count).exp())).collect()
}

/// Counts of times in buckets that are fine enough for quantiles; `/metrics` has vLLM's buckets, each twice as wide as the one
/// before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Histogram(Box<[u64; BUCKETS]>);

impl Default for Histogram {
    fn default() -> Self {
        Self(Box::new([0; BUCKETS]))
    }
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        // A time of 0 is at minus infinity, which is the first bucket.
        let bucket = (time.as_secs_f64() * 1e3).log2() * PER_OCTAVE;
        self.0[(bucket.ceil().max(0.0) as usize).min(BUCKETS - 1)] += 1;
    }

    /// Quantiles, in seconds and within 5 %, of what was added since an earlier state of this; `None` if nothing was.
    pub(crate) fn quantiles_since_s<const N: usize>(
        &self,
        earlier: &Self,
        quantiles: [f64; N],
    ) -> Option<[f64; N]> {
        let new = || self.0.iter().zip(&*earlier.0).map(|(now, then)| now.saturating_sub(*then));
        let total: u64 = new().sum();
        let quantile = |quantile: f64| {
            let mut left = (quantile * total as f64).ceil();
            let bucket = new().position(|count| {
                left -= count as f64;
                left <= 0.0
            });
            // The middle of the bucket.
            let octaves = (bucket.unwrap_or(BUCKETS - 1) as f64 - 0.5) / PER_OCTAVE;
            octaves.exp2() / 1e3
        };
        (total > 0).then(|| quantiles.map(quantile))
    }
}

#[cfg(test)]
mod tests {
    use lodestar_router::{Candidate, Load, Reason, Usage};

    use super::*;

    fn decision(ttfts_ms: &[u64]) -> Decision {
        let candidate = |(id, ms): (u32, &u64)| Candidate {
            instance: InstanceId(id),
            score: 0.0,
            prefix_hit_tokens: 0,
            load: Load::default(),
            predicted_ttft: Some(lodestar_router::Duration::from_millis(*ms)),
            predicted_ttft_range: None,
            terms: None,
        };
        Decision {
            instance: InstanceId(0),
            reason: Reason::LeastLatency,
            explored: false,
            propensity: 1.0,
            prefix_hit_tokens: 0,
            candidates: (0..).zip(ttfts_ms).map(candidate).collect(),
        }
    }

    #[test]
    fn the_last_decisions_are_kept_with_what_came_of_them() {
        let recent = Recent::default();
        for number in 0..60 {
            let explained = Explained::new(RequestId(number), 9, decision(&[]));
            recent.decided(explained, number == 59);
        }
        recent.first_token(RequestId(0), Duration::from_millis(5));
        recent.first_token(RequestId(58), Duration::from_millis(7));
        let request = RequestId(58);
        let usage = Usage { cached_tokens: Some(3), ..Usage::default() };
        recent.ended(request, &Event::Finished { request, usage });
        let decisions = recent.decisions();
        assert_eq!((decisions.len(), decisions[49].request), (50, RequestId(10)));
        assert_eq!(recent.second_attempts(), 1);
        assert!(decisions[0].is_second_attempt && decisions[0].outcome.is_none());
        let told = &decisions[1];
        assert_eq!(
            (told.ttft, told.outcome, told.cached_tokens),
            (Some(Duration::from_millis(7)), Some("finished"), Some(3))
        );
    }

    #[test]
    fn quantiles_are_of_what_came_since() {
        let mut histogram = Histogram::default();
        (0..500).for_each(|_| histogram.add(Duration::from_secs(9)));
        let earlier = histogram.clone();
        assert_eq!(histogram.quantiles_since_s(&earlier, [0.5]), None);
        (1..=1000).for_each(|ms| histogram.add(Duration::from_millis(ms)));
        let found = histogram.quantiles_since_s(&earlier, [0.5, 0.9, 0.99]).unwrap();
        for (found, expected) in found.iter().zip([0.5, 0.9, 0.99]) {
            assert!((found / expected - 1.0).abs() < 0.05, "{found} is not {expected}");
        }
        histogram.add(Duration::ZERO);
        histogram.add(Duration::from_secs(100_000));
    }

    #[test]
    fn an_instance_that_takes_four_times_as_long_as_another_is_twice_the_mean() {
        let recent = Recent::default();
        for (number, ttfts_ms) in [(0, [10, 40]), (1, [200, 800]), (2, [1, 4])] {
            recent.decided(Explained::new(RequestId(number), 9, decision(&ttfts_ms)), false);
        }
        let factors = ttft_factors(&recent.decisions());
        assert!((factors[&InstanceId(0)] - 0.5).abs() < 1e-9, "{factors:?}");
        assert!((factors[&InstanceId(1)] - 2.0).abs() < 1e-9, "{factors:?}");
    }
}
