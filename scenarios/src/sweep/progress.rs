//! How far a sweep is, and who leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

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
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    done: usize,
    failed: usize,
    /// Labels of those that cannot lead; one may be the baseline.
    yardsticks: BTreeSet<String>,
    /// Mean TTFT, ms, by cell and seed, then by label.
    means: BTreeMap<(u32, u64), BTreeMap<String, f64>>,
}

impl Tally {
    pub(super) fn new(total: usize, baseline: &str) -> Self {
        Self { total, baseline: baseline.to_owned(), state: Mutex::default() }
    }

    /// Takes note of a run and tells, one run after another: what is told counts up by one.
    pub(super) fn add(&self, item: &Item, on_run: &(dyn Fn(&Standing) + Sync)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.done += 1;
        state.failed += usize::from(item.measured().is_none());
        if item.kind == Kind::Yardstick {
            state.yardsticks.insert(item.policy.clone());
        }
        if let Some(ttft) = item.measured().and_then(|measured| measured.summary.ttft_ms) {
            let means = state.means.entry((item.cell.index, item.seed)).or_default();
            means.insert(item.policy.clone(), ttft.mean);
        }
        let State { done, failed, .. } = *state;
        on_run(&Standing { total: self.total, done, failed, best: state.best(&self.baseline) });
    }
}

impl State {
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
