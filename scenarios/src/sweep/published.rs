//! A sweep beside what somebody measured on real machines: do the same policies win?
//!
//! Absolute times depend on the GPU, the engine's version and the network; what should carry over is the
//! order of policies within a cell. Half of all pairs are in the same order by chance. The rank correlation over
//! all cells is mostly that of loads: policies that were dealt out at random within each cell would have nearly
//! the same.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;

use super::comparison::ComparisonRow;
use crate::scenario::ScenarioError;

/// One line of a file of measurements: a policy at one rate of a workload.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// The workload's name in the scenario.
    pub workload: String,
    /// Requests per second.
    pub rate_rps: f64,
    /// The policy's label in the scenario.
    pub policy: String,
    /// Repetitions.
    pub runs: u64,
    /// Requests of all of them.
    pub requests: u64,
    /// Mean TTFT, ms: the median over repetitions.
    pub ttft_mean_ms: f64,
    /// 99th percentile of TTFT, ms: the median over repetitions.
    pub ttft_p99_ms: f64,
}

/// A cell's policies, measured and simulated.
#[derive(Clone, Debug, PartialEq)]
pub struct CellAgreement {
    /// The cell's folder.
    pub cell: String,
    /// By label.
    pub pairs: Vec<Pair>,
    /// Spearman's correlation of mean TTFT over the policies that both have; three at least.
    pub spearman: Option<f64>,
}

/// A policy, measured and simulated. What was not simulated or not measured is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The label.
    pub policy: String,
    /// Mean and P99 of TTFT as measured, ms.
    pub measured: Option<(f64, f64)>,
    /// The same as simulated.
    pub simulated: Option<(f64, f64)>,
}

/// How far a sweep and measurements agree.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    /// In the scenario's order.
    pub cells: Vec<CellAgreement>,
    /// Spearman's correlation of mean TTFT over all policies of all cells.
    pub spearman_mean: Option<f64>,
    /// The same of P99.
    pub spearman_p99: Option<f64>,
    /// Pairs of policies within a cell whose mean TTFT is in the same order, and pairs in all.
    pub ordered_alike: (u64, u64),
    /// The policies over all cells, the best measured one first.
    pub ranking: Vec<Ranked>,
    /// Spearman's correlation of the ranking.
    pub spearman_ranking: Option<f64>,
}

/// A policy over all cells in which it was measured and simulated.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Which.
    pub policy: String,
    /// How many cells have it.
    pub cells: usize,
    /// Mean TTFT over the geometric mean of all policies of a cell that have both, geometric mean over cells.
    pub measured: f64,
    /// The same, simulated.
    pub simulated: f64,
}

/// Reads a file of measurements; lines that begin with `#` say where they come from.
pub fn read_published(path: &str, text: &str) -> Result<Vec<Published>, ScenarioError> {
    let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(text.as_bytes());
    // The csv crate's message has the line and the column.
    reader.deserialize().collect::<Result<_, _>>().map_err(|error| ScenarioError::Invalid {
        path: path.to_owned(),
        key: "measured".to_owned(),
        complaint: format!("cannot be read: {error}"),
    })
}

impl Agreement {
    /// Of a sweep's comparison with measurements.
    pub fn of(rows: &[ComparisonRow], published: &[Published]) -> Self {
        let cells: Vec<_> = rows
            .chunk_by(|a, b| a.cell.index == b.cell.index)
            .map(|rows| CellAgreement::of(rows, published))
            .filter(|cell| !cell.pairs.is_empty())
            .collect();
        let both: Vec<_> = cells.iter().flat_map(CellAgreement::both).collect();
        let alike = |cell: &CellAgreement| {
            let both = cell.both();
            let orders = |(a, b): (usize, usize)| {
                let measured = both[a].0.0.total_cmp(&both[b].0.0);
                (measured, both[a].1.0.total_cmp(&both[b].1.0))
            };
            // Equals are in no order: thresholds that no prompt lies between decide alike.
            let differ = |(measured, simulated): &(Ordering, Ordering)| {
                measured.is_ne() && simulated.is_ne()
            };
            let pairs = (0..both.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
            let pairs = pairs.map(orders).filter(differ);
            let same = |(measured, simulated): &(Ordering, Ordering)| measured == simulated;
            (pairs.clone().filter(same).count() as u64, pairs.count() as u64)
        };
        let ordered_alike =
            cells.iter().map(alike).fold((0, 0), |sum, cell| (sum.0 + cell.0, sum.1 + cell.1));
        let ranking = ranking(&cells);
        Self {
            spearman_ranking: spearman(ranking.iter().map(|row| (row.measured, row.simulated))),
            ranking,
            spearman_mean: spearman(both.iter().map(|(m, s)| (m.0, s.0))),
            spearman_p99: spearman(both.iter().map(|(m, s)| (m.1, s.1))),
            ordered_alike,
            cells,
        }
    }

    /// As a table for a terminal.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{:<34} {:<25} {:>9} {:>9}   {:>9} {:>9}   {:>8}\n",
            "TTFT ms", "policy", "measured", "simulated", "P99 meas.", "P99 sim.", "Spearman"
        );
        let show = |value: Option<f64>, decimals: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
        };
        for cell in &self.cells {
            for (index, Pair { policy, measured, simulated }) in cell.pairs.iter().enumerate() {
                let first = index == 0;
                let line = format!(
                    "{:<34} {policy:<25} {:>9} {:>9}   {:>9} {:>9}   {:>8}",
                    if first { cell.cell.as_str() } else { "" },
                    show(measured.map(|m| m.0), 0),
                    show(simulated.map(|s| s.0), 0),
                    show(measured.map(|m| m.1), 0),
                    show(simulated.map(|s| s.1), 0),
                    if first { show(cell.spearman, 2) } else { String::new() },
                );
                writeln!(text, "{}", line.trim_end()).expect("a String takes what is written");
            }
        }
        text.push_str("\nmean TTFT over the geometric mean of a cell's policies, over all cells\n");
        for Ranked { policy, cells, measured, simulated } in &self.ranking {
            let cells = format!("{cells} cells");
            writeln!(text, "{cells:<34} {policy:<25} {measured:>9.2} {simulated:>9.2}")
                .expect("a String takes what is written");
        }
        let (alike, pairs) = self.ordered_alike;
        writeln!(
            text,
            "rank correlation of these policies: {}\n\
             policies of a cell in the measured order: {alike} of {pairs} pairs that differ in both; half of them by chance\n\
             rank correlation over all cells and policies, mostly of loads: mean {}, P99 {}",
            show(self.spearman_ranking, 2),
            show(self.spearman_mean, 3),
            show(self.spearman_p99, 3),
        )
        .expect("a String takes what is written");
        text
    }
}

impl CellAgreement {
    /// The rows of one cell. Without a measurement of it, no pairs.
    fn of(rows: &[ComparisonRow], published: &[Published]) -> Self {
        let cell = &rows[0].cell;
        let of_cell = |line: &&Published| {
            line.workload == cell.workload
                && cell.rate_rps.is_some_and(|rate| rate.total_cmp(&line.rate_rps).is_eq())
        };
        let mut pairs: BTreeMap<&str, Pair> = BTreeMap::new();
        let none =
            |policy: &str| Pair { policy: policy.to_owned(), measured: None, simulated: None };
        for line in published.iter().filter(of_cell) {
            let pair = pairs.entry(&line.policy).or_insert_with(|| none(&line.policy));
            pair.measured = Some((line.ttft_mean_ms, line.ttft_p99_ms));
        }
        if !pairs.is_empty() {
            for row in rows {
                let pair = pairs.entry(&row.policy).or_insert_with(|| none(&row.policy));
                pair.simulated = row.ttft_mean_ms.zip(row.ttft_p99_ms);
            }
        }
        let mut agreement =
            Self { cell: cell.id.clone(), pairs: pairs.into_values().collect(), spearman: None };
        agreement.spearman = spearman(agreement.both().into_iter().map(|(m, s)| (m.0, s.0)));
        agreement
    }

    /// Measured and simulated (mean, P99) of the policies that have both.
    fn both(&self) -> Vec<((f64, f64), (f64, f64))> {
        self.pairs.iter().filter_map(|pair| pair.measured.zip(pair.simulated)).collect()
    }
}

/// Policies that at least half of the cells have.
fn ranking(cells: &[CellAgreement]) -> Vec<Ranked> {
    let mut logs: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for cell in cells {
        let both: Vec<(&str, (f64, f64))> = cell
            .pairs
            .iter()
            .filter_map(|pair| {
                Some((&*pair.policy, (pair.measured?.0.ln(), pair.simulated?.0.ln())))
            })
            .collect();
        let mean = mean_of(both.iter().map(|(_, logs)| *logs));
        for (policy, (measured, simulated)) in both {
            logs.entry(policy).or_default().push((measured - mean.0, simulated - mean.1));
        }
    }
    logs.retain(|_, logs| 2 * logs.len() >= cells.len());
    let ranked = |(policy, logs): (&str, Vec<(f64, f64)>)| {
        let (measured, simulated) = mean_of(logs.iter().copied());
        let (measured, simulated) = (measured.exp(), simulated.exp());
        Ranked { policy: policy.to_owned(), cells: logs.len(), measured, simulated }
    };
    let mut ranking: Vec<Ranked> = logs.into_iter().map(ranked).collect();
    ranking.sort_by(|a, b| a.measured.total_cmp(&b.measured));
    ranking
}

fn mean_of(pairs: impl ExactSizeIterator<Item = (f64, f64)>) -> (f64, f64) {
    let count = pairs.len() as f64;
    let (a, b) = pairs.fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
    (a / count, b / count)
}

/// Spearman's rank correlation: Pearson's of the ranks, ties at their mean rank. `None` for fewer than three
/// pairs or when one side is constant.
fn spearman(pairs: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (a, b): (Vec<f64>, Vec<f64>) = pairs.unzip();
    if a.len() < 3 {
        return None;
    }
    let (a, b) = (ranks(&a), ranks(&b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum()
    };
    let scale = (product(&a, &a) * product(&b, &b)).sqrt();
    (scale > 0.0).then(|| product(&a, &b) / scale)
}

/// From 0.
fn ranks(values: &[f64]) -> Vec<f64> {
    let rank = |value: &f64| {
        let below = values.iter().filter(|other| other.total_cmp(value).is_lt()).count();
        let equal = values.iter().filter(|other| other.total_cmp(value).is_eq()).count();
        below as f64 + (equal as f64 - 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: Option<f64>, expected: f64) -> bool {
        found.is_some_and(|found| (found - expected).abs() < 1e-12)
    }

    #[test]
    fn spearman_by_hand() {
        let of = |a: &[f64], b: &[f64]| spearman(a.iter().copied().zip(b.iter().copied()));
        assert!(close(of(&[1.0, 20.0, 300.0], &[5.0, 6.0, 7.0]), 1.0));
        assert!(close(of(&[1.0, 20.0, 300.0], &[7.0, 6.0, 5.0]), -1.0));
        // d² = 0, 1, 1, 0: 1 - 6 · 2 / (4 · 15).
        assert!(close(of(&[1.0, 2.0, 3.0, 4.0], &[1.0, 3.0, 2.0, 4.0]), 0.8));
        // Ranks 0, 1.5, 1.5, 3 and 0, 1, 2, 3: 4.5 / sqrt(4.5 · 5).
        assert!(close(of(&[1.0, 2.0, 2.0, 4.0], &[1.0, 2.0, 3.0, 4.0]), 0.9_f64.sqrt()));
        assert_eq!(of(&[1.0, 2.0], &[1.0, 2.0]), None);
        assert_eq!(of(&[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0]), None);
    }

    #[test]
    fn policies_are_ranked_over_all_cells() {
        let pair = |policy: &str, measured: f64, simulated: f64| Pair {
            policy: policy.to_owned(),
            measured: Some((measured, 1.0)),
            simulated: Some((simulated, 1.0)),
        };
        let cell = |pairs| CellAgreement { cell: String::new(), pairs, spearman: None };
        let ranking = ranking(&[
            cell(vec![pair("a", 4.0, 1.0), pair("b", 1.0, 4.0)]),
            cell(vec![pair("a", 100.0, 100.0), pair("b", 100.0, 400.0)]),
            cell(vec![pair("a", 7.0, 7.0), pair("c", 7.0, 7.0)]),
        ]);
        let found: Vec<_> = ranking.iter().map(|row| (row.policy.as_str(), row.cells)).collect();
        // c is in one cell of three.
        assert_eq!(found, [("b", 2), ("a", 3)]);
        // Over the cells' means 2 and 100, 2 and 200: b 1/2 and 1, 2 and 2.
        assert!((ranking[0].measured - 0.5_f64.sqrt()).abs() < 1e-12, "{ranking:?}");
        assert!((ranking[0].simulated - 2.0).abs() < 1e-12, "{ranking:?}");
        // a 2, 1, 1 and 1/2, 1/2, 1.
        assert!((ranking[1].measured - 2.0_f64.cbrt()).abs() < 1e-12, "{ranking:?}");
    }

    #[test]
    fn a_measurement_that_cannot_be_read_says_where() {
        let text = "# source\nworkload,rate_rps,policy,runs,requests,ttft_mean_ms,ttft_p99_ms\n\
                    share9,six,random,1,10,5,6\n";
        let error = read_published("m.csv", text).unwrap_err().to_string();
        assert!(error.contains("m.csv") && error.contains("line: 3"), "{error}");
    }
}
