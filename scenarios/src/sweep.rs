//! Every cell of a scenario under every policy with every seed, in parallel, in pieces, again and again.
//!
//! A run is a pure function of its cell, contender and seed, so a sweep is a set of files, one a run. The
//! order in which they appear, who computed them and how often that was interrupted leave no trace, and
//! the tables are made of the files alone: [`merge()`] of the folders of all shards is the sweep.

mod check;
mod comparison;
mod consistency;
mod error;
mod figures;
mod interval;
mod item;
mod marks;
mod measure;
mod merge;
mod over_cells;
mod overview;
mod planned;
mod prepared;
mod progress;
mod published;
mod results;
mod saturate;
mod series;
#[cfg(test)]
mod tests;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use lodestar_router::Information;
use rayon::ThreadPoolBuilder;
use rayon::prelude::*;

pub use comparison::ComparisonRow;
pub use error::SweepError;
pub use interval::{Interval, Ratio, Share, Verdict};
pub use item::{CellIdentity, Item, ItemOutcome, read_items};
pub use marks::Mark;
pub use measure::Measured;
pub use merge::{Merged, comparison_of, merge, write_tables};
pub use over_cells::{PolicySummary, Verdicts};
pub use overview::Overview;
pub use planned::Extent;
pub use progress::{Leader, Standing};
pub use published::{Agreement, CellAgreement, Pair, Published, Ranked, read_published};
pub use saturate::{Knee, SaturateError, saturate};
pub use series::{InstanceSeries, Predictions, Series};

use crate::digest::executable_sha256;
use crate::scenario::{Cell, Contender, Scenario, ScenarioError};
use consistency::Consistency;
use item::{Asked, item_path, item_paths, write_atomically};
use planned::Planned;
use prepared::Prepared;
use progress::Tally;

/// Part of a sweep: every `of`-th cell and seed, from the `number`-th on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    number: usize,
    of: usize,
}

impl Shard {
    /// All of it.
    pub const WHOLE: Self = Self { number: 1, of: 1 };
}

impl FromStr for Shard {
    type Err = SweepError;

    fn from_str(text: &str) -> Result<Self, SweepError> {
        let parts = text.split_once('/').and_then(|(number, of)| {
            Some(Self { number: number.parse().ok()?, of: of.parse().ok()? })
        });
        parts
            .filter(|shard| (1..=shard.of).contains(&shard.number))
            .ok_or_else(|| SweepError::Shard(text.to_owned()))
    }
}

/// A sweep, ready to run.
#[derive(Debug)]
pub struct Sweep {
    /// Digest of this program.
    executable_sha256: String,
    scenario: Scenario,
    contenders: Vec<Contender>,
    /// Whom progress is measured against.
    baseline: String,
    folder: PathBuf,
    /// Cells and seeds of which something is missing.
    groups: Vec<Group>,
    total: usize,
    is_empty: bool,
}

/// The runs that see the same requests.
#[derive(Debug)]
struct Group {
    cell_index: usize,
    seed: u64,
    /// Indices of the contenders that are still to run.
    missing: Vec<usize>,
}

/// What to run of a scenario.
#[derive(Clone, Debug)]
pub struct SweepOptions {
    /// Labels of the scenario's contenders, or names of policies; empty for the scenario's own.
    pub policies: Vec<String>,
    /// Instead of the scenario's.
    pub seeds: Option<u64>,
    /// Instead of the scenario's.
    pub baseline: Option<String>,
    /// Instead of the scenario's.
    pub information: Option<Information>,
    /// Which part.
    pub shard: Shard,
    /// Go on where an earlier sweep stopped.
    pub resume: bool,
}

impl Sweep {
    /// Checks everything that can be wrong, and finds out what is still to do.
    pub fn new(
        mut scenario: Scenario,
        options: &SweepOptions,
        folder: &Path,
    ) -> Result<Self, SweepError> {
        scenario.information = options.information.unwrap_or(scenario.information);
        let baseline = options.baseline.as_ref().unwrap_or(&scenario.baseline).clone();
        let contenders = if options.policies.is_empty() {
            scenario.contenders.clone()
        } else {
            crate::scenario::contenders(&options.policies, &scenario.contenders)?
        };
        let labels: Vec<_> = contenders.iter().map(|c| c.label.as_str()).collect();
        if !labels.contains(&baseline.as_str()) {
            let policies = labels.join(", ");
            return Err(ScenarioError::NoBaseline { baseline, policies }.into());
        }
        let executable_sha256 =
            executable_sha256().map_err(|(path, source)| SweepError::Read { path, source })?;
        let expected = Consistency::of_sweep(&scenario, &contenders, &executable_sha256);
        let done = done(folder, expected, options.resume)?;
        let seeds = options.seeds.unwrap_or(scenario.seeds);
        let planned = Planned::of(&scenario, &contenders, seeds);
        let seeds = 1..=seeds;
        let all = (0..scenario.cells.len()).flat_map(|cell| seeds.clone().map(move |s| (cell, s)));
        let mut total = 0;
        let mut is_empty = true;
        let mut groups = Vec::new();
        for (cell_index, seed) in all.skip(options.shard.number - 1).step_by(options.shard.of) {
            is_empty = false;
            let cell = &scenario.cells[cell_index].id;
            let is_missing =
                |index: &usize| !done.contains(&item_path(folder, cell, labels[*index], seed));
            let missing: Vec<_> = (0..labels.len()).filter(is_missing).collect();
            total += missing.len();
            if !missing.is_empty() {
                groups.push(Group { cell_index, seed, missing });
            }
        }
        // A folder nobody can write to is found now.
        write_planned(planned, folder, options.resume)?;
        Ok(Self {
            executable_sha256,
            scenario,
            contenders,
            baseline,
            folder: folder.to_owned(),
            groups,
            total,
            is_empty,
        })
    }

    /// How many runs are to be made.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Whether its part of the sweep has no runs at all, made or not.
    pub const fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Makes all runs, on `threads` threads or one a core. `on_run` is called after each, from any of
    /// them but one call after another.
    ///
    /// # Errors
    /// When an item cannot be written. A run that fails is an item that says so, and the others go on.
    pub fn run(
        &self,
        threads: Option<NonZeroUsize>,
        on_run: &(dyn Fn(&Standing) + Sync),
    ) -> Result<(), SweepError> {
        // To rayon, zero threads is one a core.
        let threads = threads.map_or(0, NonZeroUsize::get);
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("the system gives threads");
        let tally = Tally::new(&self.baseline, self.runs_by_policy(), pool.current_num_threads());
        pool.install(|| {
            self.groups.par_iter().try_for_each(|group| self.run_group(group, &tally, on_run))
        })
    }

    fn runs_by_policy(&self) -> BTreeMap<String, usize> {
        let mut runs = BTreeMap::new();
        for index in self.groups.iter().flat_map(|group| &group.missing) {
            *runs.entry(self.contenders[*index].label.clone()).or_default() += 1;
        }
        runs
    }

    fn run_group(
        &self,
        group: &Group,
        tally: &Tally,
        on_run: &(dyn Fn(&Standing) + Sync),
    ) -> Result<(), SweepError> {
        let cell = &self.scenario.cells[group.cell_index];
        let prepared = Prepared::of(&self.scenario, cell, group.seed);
        let run_one = |index: &usize| {
            let contender = &self.contenders[*index];
            let start = Instant::now();
            let outcome = match &prepared {
                Ok(prepared) => prepared.run(contender, group.seed),
                Err(problem) => ItemOutcome::Failed(problem.clone()),
            };
            let asked = Asked {
                executable_sha256: &self.executable_sha256,
                scenario: &self.scenario,
                cell: CellIdentity::of(group.cell_index, cell),
                contender,
                seed: group.seed,
            };
            let item = Item::new(asked, outcome);
            write_atomically(&item.path(&self.folder), &item.to_json())?;
            tally.add(&item, start.elapsed(), on_run);
            Ok(())
        };
        group.missing.par_iter().try_for_each(run_one)
    }
}

impl CellIdentity {
    fn of(index: usize, cell: &Cell) -> Self {
        Self {
            index: u32::try_from(index).expect("a scenario has fewer cells than that"),
            id: cell.id.clone(),
            fleet: cell.fleet.to_string(),
            workload: cell.content.name.clone(),
            rate_rps: cell.rate_rps,
            knee_rps: cell.knee_rps,
            router_replicas: cell.router_replicas,
            step_times: cell.step_times.clone(),
        }
    }
}

/// Before the first run: whoever finds the folder after an interrupt knows what is missing.
fn write_planned(planned: Planned, folder: &Path, resume: bool) -> Result<(), SweepError> {
    let earlier = if resume { Planned::read(folder)? } else { None };
    let both = match &earlier {
        Some(earlier) => planned.with(earlier),
        None => Some(planned),
    };
    both.ok_or_else(|| SweepError::OtherCells(folder.to_owned()))?.write(folder)
}

/// The runs that need not be made again: those of this scenario that ended.
fn done(
    folder: &Path,
    mut expected: Consistency,
    resume: bool,
) -> Result<BTreeSet<PathBuf>, SweepError> {
    let paths = item_paths(folder)?;
    if !resume && !paths.is_empty() {
        return Err(SweepError::NotEmpty { folder: folder.to_owned(), items: paths.len() });
    }
    let mut done = BTreeSet::new();
    for path in paths {
        let item = Item::read(&path)?;
        expected.check(&path, &item)?;
        if item.measured().is_some() {
            done.insert(path);
        }
    }
    Ok(done)
}
