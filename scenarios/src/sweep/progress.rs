//! How far a sweep is, and who leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::item::Item;
use crate::scenario::Kind;

/// A sweep in progress.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Runs to make.
    pub total: usize,
    /// Runs made, failed ones included.
    pub done: usize,
    /// Runs that failed.
    pub failed: usize,
    /// How long the rest takes, if it takes as long as what each policy's runs took so far. None while a policy that is
    /// still to run has ended none: it may take a thousand times as long as the others.
    pub left: Option<Duration>,
    /// Who is best so far.
    pub best: Option<Leader>,
}

/// A router that leads; yardsticks are none.
#[derive(Clone, Debug, PartialEq)]
pub struct Leader {
    /// Its label.
    pub policy: String,
    /// Geometric mean of its mean TTFT over the baseline's, over the runs that both have.
    pub ratio: f64,
}

/// Adds up what is done, from all threads.
pub(super) struct Tally {
    total: usize,
    baseline: String,
    threads: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    done: usize,
    failed: usize,
    /// Runs still to end, by label.
    left: BTreeMap<String, usize>,
    /// Runs that ended and how long they took together, by label.
    took: BTreeMap<String, (usize, Duration)>,
    /// Labels of those that cannot lead; one may be the baseline.
    yardsticks: BTreeSet<String>,
    /// Mean TTFT, ms, by cell and seed, then by label.
    means: BTreeMap<(u32, u64), BTreeMap<String, f64>>,
}

impl Tally {
    /// Of so many runs of each policy, made by so many threads.
    pub(super) fn new(baseline: &str, runs: BTreeMap<String, usize>, threads: usize) -> Self {
        let total = runs.values().sum();
        let state = State { left: runs, ..State::default() };
        Self { total, baseline: baseline.to_owned(), threads, state: Mutex::new(state) }
    }

    /// Takes note of a run and tells, one run after another: what is told counts up by one.
    pub(super) fn add(&self, item: &Item, took: Duration, on_run: &(dyn Fn(&Standing) + Sync)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.done += 1;
        state.failed += usize::from(item.measured().is_none());
        state.ended(&item.policy, took);
        if item.kind == Kind::Yardstick {
            state.yardsticks.insert(item.policy.clone());
        }
        if let Some(ttft) = item.measured().and_then(|measured| measured.summary.ttft_ms) {
            let means = state.means.entry((item.cell.index, item.seed)).or_default();
            means.insert(item.policy.clone(), ttft.mean);
        }
        let State { done, failed, .. } = *state;
        let (left, best) = (state.left(self.threads), state.best(&self.baseline));
        on_run(&Standing { total: self.total, done, failed, left, best });
    }
}

impl State {
    fn ended(&mut self, policy: &str, took: Duration) {
        if let Some(left) = self.left.get_mut(policy) {
            *left -= 1;
        }
        let (runs, time) = self.took.entry(policy.to_owned()).or_default();
        *runs += 1;
        *time += took;
    }

    fn left(&self, threads: usize) -> Option<Duration> {
        let mut time = Duration::ZERO;
        for (policy, left) in self.left.iter().filter(|(_, left)| **left > 0) {
            let (runs, took) = self.took.get(policy)?;
            time += took.mul_f64(*left as f64 / *runs as f64);
        }
        let runs: usize = self.left.values().sum();
        Some(time.div_f64(threads.min(runs).max(1) as f64))
    }

    fn best(&self, baseline: &str) -> Option<Leader> {
        let mut logs: BTreeMap<&str, (f64, u32)> = BTreeMap::new();
        for means in self.means.values() {
            let Some(base) = means.get(baseline) else { continue };
            for (policy, mean) in
                means.iter().filter(|(policy, _)| !self.yardsticks.contains(*policy))
            {
                let (sum, count) = logs.entry(policy).or_default();
                *sum += (mean / base).ln();
                *count += 1;
            }
        }
        let geometric_mean = |(policy, (sum, count)): (&str, (f64, u32))| Leader {
            policy: policy.to_owned(),
            ratio: (sum / f64::from(count)).exp(),
        };
        logs.into_iter().map(geometric_mean).min_by(|a, b| a.ratio.total_cmp(&b.ratio))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_that_of_the_policies_that_are_left() {
        let left = [("random", 3), ("hindsight", 2)];
        let left = left.map(|(policy, runs)| (policy.to_owned(), runs)).into();
        let mut state = State { left, ..State::default() };
        state.ended("random", Duration::from_secs(1));
        state.ended("random", Duration::from_secs(3));
        assert_eq!(state.left(1), None, "nobody knows how long hindsight takes");
        state.ended("hindsight", Duration::from_secs(100));
        assert_eq!(state.left(1), Some(Duration::from_secs(102)));
        assert_eq!(state.left(2), Some(Duration::from_secs(51)));
        assert_eq!(state.left(64), Some(Duration::from_secs(51)), "two runs have two threads");
        state.ended("hindsight", Duration::from_secs(100));
        assert_eq!(state.left(1), Some(Duration::from_secs(2)));
        state.ended("random", Duration::from_secs(2));
        assert_eq!(state.left(1), Some(Duration::ZERO));
    }

    #[test]
    fn a_yardstick_may_be_the_baseline_but_does_not_lead() {
        let means = [("hindsight", 1.0), ("random", 4.0), ("mooncake", 2.0)];
        let means = means.map(|(policy, mean)| (policy.to_owned(), mean));
        let mut state = State::default();
        state.means.insert((0, 1), means.into());
        state.yardsticks.insert("hindsight".to_owned());
        let best = state.best("hindsight").unwrap();
        assert_eq!(best, Leader { policy: "mooncake".to_owned(), ratio: 2.0 });
    }
}
