//! A whole sweep as values, for those who show it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::comparison::{ComparisonRow, compare_all};
use super::consistency::Consistency;
use super::error::SweepError;
use super::figures::Figures;
use super::item::{CellIdentity, Item, ItemOutcome};
use super::measure::Measured;
use super::merge::{DIGESTS, TABLES, baseline_of, digest_line, read_sorted};
use super::over_cells::{PolicySummary, summarise};
use super::planned::{Extent, Planned};
use super::series::Series;
use crate::scenario::{Runner, scenario_names};
use crate::tables::Results;

/// A sweep that may still be growing.
#[derive(Clone, Debug)]
pub struct Overview {
    /// By cell, policy and seed. Only the lowest finished seed of a cell and policy still has its
    /// [`Series`]: of a large sweep all of them would fill the memory.
    pub items: Vec<Item>,
    /// A row a cell and policy.
    pub comparison: Vec<ComparisonRow>,
    /// A row a policy.
    pub summary: Vec<PolicySummary>,
    /// The policy with which the others are compared.
    pub baseline: String,
    /// How much of the sweep there is.
    pub extent: Extent,
    /// The command that makes all of it.
    pub command: String,
}

impl Overview {
    /// Reads a sweep's folder, finished or not; the scenario's baseline unless there is another.
    ///
    /// # Errors
    /// When there are no runs or nothing says which there should be, a file is damaged or of another sweep, or the baseline
    /// is not among them.
    pub fn read(folder: &Path, baseline: Option<&str>) -> Result<Self, SweepError> {
        let (items, extent) = Self::read_runs(folder)?;
        let baseline = baseline_of(&items, baseline)?;
        Ok(Self::of_sweep(items, extent, baseline))
    }

    /// As [`Self::read`], for those who compare with the best heuristic of each cell only: the baseline is any policy that
    /// has run.
    ///
    /// # Errors
    /// As [`Self::read`], but for the baseline.
    pub fn read_without_baseline(folder: &Path) -> Result<Self, SweepError> {
        let (items, extent) = Self::read_runs(folder)?;
        let any = items[0].policy.clone();
        Ok(Self::of_sweep(items, extent, any))
    }

    fn of_sweep(items: Vec<Item>, extent: Extent, baseline: String) -> Self {
        let command = sweep_command(&items[0], &extent, &baseline);
        Self::of(items, extent, baseline, command)
    }

    fn read_runs(folder: &Path) -> Result<(Vec<Item>, Extent), SweepError> {
        check_tables(folder)?;
        let mut lowest: BTreeMap<(u32, String), u64> = BTreeMap::new();
        let mut slim = |item: &mut Item| {
            let key = (item.cell.index, item.policy.clone());
            let seed = item.seed;
            if let ItemOutcome::Done(measured) = &mut item.outcome {
                let least = lowest.entry(key).or_insert(seed);
                if *least < seed {
                    measured.series = Series::default();
                }
                *least = seed.min(*least);
            }
        };
        let (mut items, _) = read_sorted(folder, Consistency::default(), &mut slim)?;
        for item in &mut items {
            let least = lowest.get(&(item.cell.index, item.policy.clone()));
            match &mut item.outcome {
                ItemOutcome::Done(measured) if least != Some(&item.seed) => {
                    measured.series = Series::default();
                }
                ItemOutcome::Done(_) | ItemOutcome::Failed(_) => {}
            }
        }
        let extent = Planned::of_runs(folder)?.extent(folder, &items)?;
        Ok((items, extent))
    }

    /// A replay is a sweep of a single cell and seed.
    pub fn of_replay(results: &Results) -> Self {
        let scenario = &results.scenario;
        let names: Vec<String> = results.runs.iter().map(|run| run.policy().to_owned()).collect();
        let baseline = names.iter().find(|name| *name == "prefix-cache").unwrap_or(&names[0]);
        let cell = CellIdentity {
            index: 0,
            id: "replay".to_owned(),
            fleet: scenario.fleet.to_string(),
            workload: scenario.trace.name.clone(),
            rate_rps: None,
            knee_rps: None,
            router_replicas: 1,
            step_times: scenario.step_times.clone(),
        };
        let item = |(index, run): (usize, &crate::RunTables)| {
            let measured = Measured::of(run, &scenario.trace.sha256, &[]);
            let policy = scenario.policies.get(index).cloned();
            let runner = policy.map_or(Runner::Measured, Runner::Policy);
            Item::of_replay(scenario, cell.clone(), runner, run.policy(), baseline, measured)
        };
        let mut items: Vec<Item> = results.runs.iter().enumerate().map(item).collect();
        items.sort_by(|a, b| a.policy.cmp(&b.policy));
        let policies: Vec<_> =
            scenario.policies.iter().map(lodestar_router::PolicyConfig::name).collect();
        let command = format!(
            "lodestar replay TRACE --fleet {} --model {} --policy {} --information {} --seed {} --out DIR",
            scenario.fleet,
            scenario.model,
            policies.join(","),
            scenario.information.as_str(),
            scenario.seed
        );
        let extent = Extent::of_all(&items);
        Self::of(items, extent, baseline.clone(), command)
    }

    fn of(items: Vec<Item>, extent: Extent, baseline: String, command: String) -> Self {
        let figures = Figures::of(&items);
        let comparison = compare_all(&items, &figures, &baseline);
        let summary = summarise(&comparison, &figures, &baseline);
        Self { items, comparison, summary, baseline, extent, command }
    }
}

/// The folder says which runs there are to be, not how they were asked for; this asks for the same ones.
fn sweep_command(item: &Item, extent: &Extent, baseline: &str) -> String {
    let name = item.scenario.as_str();
    let scenario = if scenario_names().any(|known| known == name) { name } else { "FILE" };
    let (policies, seeds) = (extent.policies.join(","), extent.seeds);
    let information = item.information.as_str();
    format!(
        "lodestar sweep {scenario} --policies {policies} --seeds {seeds} --baseline {baseline} \
         --information {information} --out DIR"
    )
}

/// A figure beside a table that somebody changed would vouch for it. A sweep that was interrupted may have no tables.
fn check_tables(folder: &Path) -> Result<(), SweepError> {
    let read = |path: &Path| {
        fs::read(path).map_err(|source| SweepError::Read { path: path.to_owned(), source })
    };
    let tables: Vec<&str> = TABLES.into_iter().filter(|name| folder.join(name).exists()).collect();
    let digests = folder.join(DIGESTS);
    if tables.is_empty() {
        return Ok(());
    }
    if !digests.exists() {
        return Err(SweepError::NoDigests(folder.to_owned()));
    }
    let digests = String::from_utf8_lossy(&read(&digests)?).into_owned();
    for name in tables {
        let path = folder.join(name);
        let expected = digest_line(name, &read(&path)?);
        if !digests.lines().any(|line| line == expected) {
            let problem = format!("{DIGESTS} says that its bytes were others");
            return Err(SweepError::Damaged { path, problem });
        }
    }
    Ok(())
}
