//! Which runs a sweep is to have when it is whole, in a file of its folder: runs alone do not say which of them are missing.
//!
//! Seeds are counted for each policy, so that a sweep may grow by `--resume` with more of either, and what all shards
//! have is the same as what one sweep has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::SweepError;
use super::item::{Item, write_atomically};
use crate::scenario::{Contender, MAX_SEEDS, Scenario};

/// The file's name in a sweep's folder.
pub(super) const PLANNED: &str = "planned.json";

/// Says that a JSON file is one of ours.
const FORMAT: &str = "lodestar-sweep";

/// Raised when an older reader would misread it.
const FORMAT_VERSION: u32 = 1;

/// Missing runs that are named one by one.
const NAMED: usize = 4;

/// The runs of a whole sweep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Planned {
    format: String,
    format_version: u32,
    /// The scenario's, in its order.
    cells: Vec<String>,
    /// By policy: every cell is run with the seeds 1 to this.
    seeds: BTreeMap<String, u64>,
}

/// How much of a sweep there is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Extent {
    /// Cells of the scenario.
    pub cells: usize,
    /// The policies, by label.
    pub policies: Vec<String>,
    /// The highest seed.
    pub seeds: u64,
    /// Runs of the whole sweep.
    pub runs: usize,
    /// Those that are not there, neither finished nor failed: how many.
    pub missing: usize,
    /// The first of them, as `<cell>/<policy>/<seed>`.
    pub first_missing: Vec<String>,
}

impl Planned {
    pub(super) fn of(scenario: &Scenario, contenders: &[Contender], seeds: u64) -> Self {
        Self {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            cells: scenario.cells.iter().map(|cell| cell.id.clone()).collect(),
            seeds: contenders.iter().map(|contender| (contender.label.clone(), seeds)).collect(),
        }
    }

    /// Of a sweep's folder, if it has one.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, SweepError> {
        let path = folder.join(PLANNED);
        if !path.exists() {
            return Ok(None);
        }
        let json =
            fs::read(&path).map_err(|source| SweepError::Read { path: path.clone(), source })?;
        let damaged = |problem: String| SweepError::Damaged { path: path.clone(), problem };
        let planned: Self =
            serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
        if planned.format != FORMAT || planned.format_version != FORMAT_VERSION {
            return Err(SweepError::OtherVersion {
                path: path.clone(),
                found: format!("{} version {}", planned.format, planned.format_version),
                expected: format!("{FORMAT} version {FORMAT_VERSION}"),
            });
        }
        let wrong = planned.seeds.iter().find(|(_, seeds)| !(1..=MAX_SEEDS).contains(*seeds));
        match wrong {
            Some((policy, seeds)) => {
                Err(damaged(format!("`seeds.{policy}` is {seeds}, expected 1 to {MAX_SEEDS}")))
            }
            None => Ok(Some(planned)),
        }
    }

    /// Of a folder that has runs.
    pub(super) fn of_runs(folder: &Path) -> Result<Self, SweepError> {
        Self::read(folder)?.ok_or_else(|| SweepError::NotPlanned(folder.to_owned()))
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), SweepError> {
        let mut json = serde_json::to_vec(self).expect("it holds only what JSON can");
        json.push(b'\n');
        write_atomically(&folder.join(PLANNED), &json)
    }

    /// What this and another one ask for together, or none if they are of different scenarios.
    pub(super) fn with(mut self, other: &Self) -> Option<Self> {
        for (policy, seeds) in &other.seeds {
            let own = self.seeds.entry(policy.clone()).or_insert(0);
            *own = (*own).max(*seeds);
        }
        (self.cells == other.cells).then_some(self)
    }

    /// How much of it there is.
    ///
    /// # Errors
    /// When a run is there that it does not have.
    pub(super) fn extent(&self, folder: &Path, items: &[Item]) -> Result<Extent, SweepError> {
        for item in items {
            let is_cell = self.cells.get(item.cell.index as usize) == Some(&item.cell.id);
            let is_seed = self.seeds.get(&item.policy).is_some_and(|seeds| item.seed <= *seeds);
            if !(is_cell && is_seed) {
                let own = item.path(Path::new(""));
                let problem = format!("it does not have {}, which is there", own.display());
                return Err(SweepError::Damaged { path: folder.join(PLANNED), problem });
            }
        }
        let there: BTreeSet<(&str, &str, u64)> = items
            .iter()
            .map(|item| (item.cell.id.as_str(), item.policy.as_str(), item.seed))
            .collect();
        let seeds_of = |(policy, seeds): (&'_ String, &u64)| {
            (1..=*seeds).map(|seed| (policy.clone(), seed)).collect::<Vec<_>>()
        };
        let of_cell: Vec<(String, u64)> = self.seeds.iter().flat_map(seeds_of).collect();
        let all = self.cells.iter().flat_map(|cell| of_cell.iter().map(move |run| (cell, run)));
        let missing = all.filter(|(cell, (policy, seed))| !there.contains(&(cell, policy, *seed)));
        let runs = self.cells.len() * of_cell.len();
        Ok(Extent {
            cells: self.cells.len(),
            policies: self.seeds.keys().cloned().collect(),
            seeds: self.seeds.values().copied().max().unwrap_or(0),
            runs,
            missing: runs - there.len(),
            first_missing: missing
                .take(NAMED)
                .map(|(cell, (policy, seed))| format!("{cell}/{policy}/{seed}"))
                .collect(),
        })
    }
}

impl Extent {
    /// Of runs that are all there are to be.
    pub(super) fn of_all(items: &[Item]) -> Self {
        let policies: BTreeSet<&String> = items.iter().map(|item| &item.policy).collect();
        let cells: BTreeSet<u32> = items.iter().map(|item| item.cell.index).collect();
        Self {
            cells: cells.len(),
            policies: policies.into_iter().cloned().collect(),
            seeds: items.iter().map(|item| item.seed).max().unwrap_or(0),
            runs: items.len(),
            missing: 0,
            first_missing: Vec::new(),
        }
    }

    /// What is missing, in a line; none if nothing is.
    pub fn note(&self) -> Option<String> {
        let Self { runs, missing, first_missing, .. } = self;
        let there = runs - missing;
        let more = match missing - first_missing.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let first = first_missing.join(", ");
        (*missing > 0).then(|| format!("{there} of {runs} runs; missing: {first}{more}"))
    }
}
