//! The TTFT of every run of a sweep, looked up by cell, policy and seed: what ratios are made of; and how many requests have none.

use std::collections::BTreeMap;

use super::interval::Share;
use super::item::Item;
use crate::scenario::Kind;

/// The yardstick that knows the whole trace.
const HINDSIGHT: &str = "hindsight";
/// The least gap between the best heuristics and hindsight that has shares: the logarithm of how many times as long the heuristics
/// take.
const GAP_MIN: f64 = 0.01;

/// Mean and P99 of TTFT, ms, and the share of requests without an answer, by seed.
type BySeed = BTreeMap<u64, [f64; 3]>;

/// Which of a run's figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    /// Mean TTFT.
    Mean,
    /// P99 of TTFT.
    P99,
    /// Share of the requests that got no answer.
    Lost,
}

/// The figures of the runs that have them.
pub(super) struct Figures<'a> {
    runs: BTreeMap<u32, BTreeMap<&'a str, BySeed>>,
    /// By cell: the best heuristic by [`Figure::Mean`] and by [`Figure::P99`].
    best: BTreeMap<u32, [&'a str; 2]>,
    has_hindsight: bool,
}

impl<'a> Figures<'a> {
    pub(super) fn of(items: &'a [Item]) -> Self {
        let mut runs: BTreeMap<u32, BTreeMap<&str, BySeed>> = BTreeMap::new();
        let mut heuristics: BTreeMap<u32, BTreeMap<&str, BySeed>> = BTreeMap::new();
        for item in items {
            let Some(summary) = item.measured().map(|measured| &measured.summary) else { continue };
            let Some(ttft) = summary.ttft_ms else { continue };
            let lost = summary.rejected as f64 / summary.requests as f64;
            let figures = [ttft.mean, ttft.p99, lost];
            let note = |by_cell: &mut BTreeMap<u32, BTreeMap<&'a str, BySeed>>| {
                let policies = by_cell.entry(item.cell.index).or_default();
                policies.entry(&item.policy).or_default().insert(item.seed, figures);
            };
            note(&mut runs);
            if item.kind == Kind::Heuristic {
                note(&mut heuristics);
            }
        }
        let best_of = |(cell, policies): (u32, BTreeMap<&'a str, BySeed>)| {
            (cell, [Figure::Mean, Figure::P99].map(|figure| best(&policies, figure)))
        };
        let is_hindsight = |item: &Item| item.kind == Kind::Yardstick && item.policy == HINDSIGHT;
        Self {
            runs,
            best: heuristics.into_iter().map(best_of).collect(),
            has_hindsight: items.iter().any(is_hindsight),
        }
    }

    /// The cells with figures.
    pub(super) fn cells(&self) -> impl Iterator<Item = u32> {
        self.runs.keys().copied()
    }

    /// What a policy has to beat in a cell.
    pub(super) fn best_heuristic(&self, cell: u32, figure: Figure) -> Option<&'a str> {
        self.best.get(&cell).map(|best| best[figure as usize])
    }

    /// A policy's figure, by seed; times are ms.
    pub(super) fn by_seed(&self, cell: u32, figure: Figure, policy: &str) -> BTreeMap<u64, f64> {
        let by_seed = self.runs.get(&cell).and_then(|policies| policies.get(policy));
        let pick = |(seed, figures): (&u64, &[f64; 3])| (*seed, figures[figure as usize]);
        by_seed.into_iter().flatten().map(pick).collect()
    }

    /// Logarithms of a policy's figure over another's, of the seeds that both have.
    pub(super) fn log_ratios(
        &self,
        cell: u32,
        figure: Figure,
        policy: &str,
        other: &str,
    ) -> BTreeMap<u64, f64> {
        let others = self.by_seed(cell, figure, other);
        let log = |(seed, ms): (u64, f64)| Some((seed, (ms / others.get(&seed)?).ln()));
        self.by_seed(cell, figure, policy).into_iter().filter_map(log).collect()
    }

    /// The share that a policy closes of the gap in mean TTFT between each cell's best heuristic and hindsight: of the logarithms of
    /// both ratios, as in every mean over cells here, summed over cells and seeds. None where hindsight is hardly faster than the
    /// best heuristics: of nothing there are no parts.
    pub(super) fn gap_closed(
        &self,
        cells: impl Iterator<Item = u32>,
        policy: &str,
    ) -> Option<Share> {
        if !self.has_hindsight {
            return None;
        }
        let mut seeds: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        let mut runs = 0;
        for cell in cells {
            let Some(best) = self.best_heuristic(cell, Figure::Mean) else { continue };
            let by_seed = |policy| self.by_seed(cell, Figure::Mean, policy);
            let (best, hindsight) = (by_seed(best), by_seed(HINDSIGHT));
            for (seed, ms) in by_seed(policy) {
                if let (Some(best), Some(hindsight)) = (best.get(&seed), hindsight.get(&seed)) {
                    let (closed, gap) = seeds.entry(seed).or_default();
                    *closed += (best / ms).ln();
                    *gap += (best / hindsight).ln();
                    runs += 1;
                }
            }
        }
        let gap: f64 = seeds.values().map(|(_, gap)| gap).sum();
        if gap < GAP_MIN * f64::from(runs) {
            return None;
        }
        Share::of_seeds(&seeds.into_values().collect::<Vec<_>>())
    }
}

/// The lowest geometric mean over seeds, among those that have most seeds: who failed with a hard one is not
/// the better for it.
fn best<'a>(policies: &BTreeMap<&'a str, BySeed>, figure: Figure) -> &'a str {
    let most = policies.values().map(BySeed::len).max().unwrap_or(0);
    let log_mean = |by_seed: &BySeed| {
        by_seed.values().map(|figures| figures[figure as usize].ln()).sum::<f64>() / most as f64
    };
    let complete = policies.iter().filter(|(_, by_seed)| by_seed.len() == most);
    let least = complete.min_by(|a, b| log_mean(a.1).total_cmp(&log_mean(b.1)));
    least.expect("a cell is there because a policy is").0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One cell with these mean TTFTs, ms, of one seed; the heuristic has 100.
    fn share(policy: f64, hindsight: f64) -> Option<f64> {
        let of = |ms| BySeed::from([(1, [ms, ms, 0.0])]);
        let cell = [("heuristic", of(100.0)), ("policy", of(policy)), (HINDSIGHT, of(hindsight))];
        let figures = Figures {
            runs: BTreeMap::from([(0, BTreeMap::from(cell))]),
            best: BTreeMap::from([(0, ["heuristic"; 2])]),
            has_hindsight: true,
        };
        figures.gap_closed(figures.cells(), "policy").map(|share| share.value)
    }

    #[test]
    fn a_share_is_of_the_gap_between_the_best_heuristic_and_hindsight() {
        // Half of the way from 100 to 81 is 90, and as far behind 100 is 100 / 0.9.
        assert!((share(90.0, 81.0).unwrap() - 0.5).abs() < 1e-12);
        assert!((share(100.0 / 0.9, 81.0).unwrap() + 0.5).abs() < 1e-12);
    }

    #[test]
    fn a_cell_counts_by_its_ratios_however_long_its_times() {
        // All of 100 to 50, none of 1,000 to 500.
        let of = |ms| BySeed::from([(1, [ms, ms, 0.0])]);
        let cell = |scale: f64, policy: f64| {
            let hindsight = (HINDSIGHT, of(50.0 * scale));
            BTreeMap::from([("heuristic", of(100.0 * scale)), ("policy", of(policy)), hindsight])
        };
        let figures = Figures {
            runs: BTreeMap::from([(0, cell(1.0, 50.0)), (1, cell(10.0, 1000.0))]),
            best: BTreeMap::from([(0, ["heuristic"; 2]), (1, ["heuristic"; 2])]),
            has_hindsight: true,
        };
        let share = figures.gap_closed(figures.cells(), "policy").unwrap();
        assert!((share.value - 0.5).abs() < 1e-12, "{share:?}");
    }

    #[test]
    fn of_next_to_nothing_there_are_no_shares() {
        assert_eq!(share(110.0, 99.5), None);
        assert_eq!(share(98.0, 98.0), Some(1.0));
    }
}
