//! From item files to tables: of one sweep, or of the shards of one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::comparison::{ComparisonRow, compare_all};
use super::consistency::Consistency;
use super::error::SweepError;
use super::figures::Figures;
use super::item::{Item, ItemOutcome, item_paths, write_atomically};
use super::over_cells::{PolicySummary, summarise};
use super::planned::Planned;
use super::results;
use super::series::Series;
use super::text;
use crate::digest::sha256;
use crate::scenario::{Scenario, ScenarioError};

/// The tables.
pub(super) const TABLES: [&str; 4] =
    ["results.parquet", "results.csv", "comparison.csv", "summary.csv"];
/// The digests of all tables, as `sha256sum --check` reads them: a table alone does not tell that somebody changed it.
pub(super) const DIGESTS: &str = "SHA256SUMS";

/// The tables of a sweep, as values.
#[derive(Clone, Debug)]
pub struct Merged {
    /// A row a cell and policy.
    pub comparison: Vec<ComparisonRow>,
    /// A row a policy.
    pub summary: Vec<PolicySummary>,
    /// The runs that failed: their files, and why.
    pub failed: Vec<(PathBuf, String)>,
    baseline: String,
}

impl Merged {
    /// The summary as a table for a terminal.
    pub fn text(&self) -> String {
        text::summary(&self.summary, &self.baseline) + &text::caveats(&self.comparison)
    }
}

/// Copies the items of all folders into one, and writes its tables.
///
/// # Errors
/// When items are damaged or of different sweeps, a folder is not that of a sweep, or something cannot be written.
pub fn merge(
    folders: &[PathBuf],
    out: &Path,
    baseline: Option<&str>,
) -> Result<Merged, SweepError> {
    let mut sources = folders.to_vec();
    if !sources.iter().any(|folder| folder == out) {
        sources.push(out.to_owned());
    }
    // All is read before anything is written.
    let mut chosen: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    let mut consistency = Consistency::default();
    let mut planned: Option<Planned> = None;
    for folder in &sources {
        if !folder.is_dir() && folder != out {
            return Err(SweepError::NotAFolder(folder.clone()));
        }
        let paths = item_paths(folder)?;
        let of_folder = Planned::read(folder)?;
        match (&of_folder, paths.is_empty()) {
            (None, true) if folder == out => continue,
            (None, true) => return Err(SweepError::NoItems(folder.display().to_string())),
            (None, false) => return Err(SweepError::NotPlanned(folder.clone())),
            // A shard of more than there are cells and seeds has no runs.
            (Some(_), _) => {}
        }
        planned = match (planned, of_folder) {
            (Some(all), Some(of_folder)) => {
                Some(all.with(&of_folder).ok_or_else(|| SweepError::OtherCells(folder.clone()))?)
            }
            (all, of_folder) => all.or(of_folder),
        };
        for path in paths {
            let item = Item::read(&path)?;
            consistency.check(&path, &item)?;
            choose(&mut chosen, item.path(out), path, &item)?;
        }
    }
    let (Some(planned), false) = (planned, chosen.is_empty()) else {
        let names: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        return Err(SweepError::NoItems(names.join(", ")));
    };
    planned.write(out)?;
    for (target, source) in &chosen {
        if target != source {
            let bytes = fs::read(source)
                .map_err(|error| SweepError::Read { path: source.clone(), source: error })?;
            write_atomically(target, &bytes)?;
        }
    }
    write_tables(out, baseline)
}

/// The same run twice is fine, and a run that ended is better than one that failed.
fn choose(
    chosen: &mut BTreeMap<PathBuf, PathBuf>,
    target: PathBuf,
    path: PathBuf,
    item: &Item,
) -> Result<(), SweepError> {
    if let Some(earlier_path) = chosen.get(&target) {
        let earlier = Item::read(earlier_path)?;
        match (earlier.measured(), item.measured()) {
            (None, Some(_)) => {}
            (Some(a), Some(b)) if a != b || earlier.runner != item.runner => {
                return Err(SweepError::Conflict { first: earlier_path.clone(), second: path });
            }
            (Some(_), _) | (None, None) => return Ok(()),
        }
    }
    chosen.insert(target, path);
    Ok(())
}

/// Writes the tables of the items in a sweep's folder, made of nothing else.
///
/// # Errors
/// When there are no items, some are damaged, or the baseline is not among them.
pub fn write_tables(folder: &Path, baseline: Option<&str>) -> Result<Merged, SweepError> {
    let (items, failed) = read_sorted(folder, Consistency::default(), &mut without_curves)?;
    let baseline = baseline_of(&items, baseline)?;
    let figures = Figures::of(&items);
    let comparison = compare_all(&items, &figures, &baseline);
    let summary = summarise(&comparison, &figures, &baseline);
    let mut digests = String::new();
    let tables = [
        results::parquet(&items),
        results::csv(&items),
        results::comparison_csv(&comparison),
        results::summary_csv(&summary),
    ];
    for (name, table) in TABLES.into_iter().zip(tables) {
        write_atomically(&folder.join(name), &table)?;
        digests += &digest_line(name, &table);
        digests.push('\n');
    }
    write_atomically(&folder.join(DIGESTS), digests.as_bytes())?;
    Ok(Merged { comparison, summary, failed, baseline })
}

/// A table's line in [`DIGESTS`].
pub(super) fn digest_line(name: &str, table: &[u8]) -> String {
    format!("{}  {name}", sha256(table))
}

/// Whom to compare with: `asked`, or else the scenario's.
pub(super) fn baseline_of(items: &[Item], asked: Option<&str>) -> Result<String, SweepError> {
    let baseline = asked.unwrap_or(&items[0].baseline).to_owned();
    if items.iter().any(|item| item.policy == baseline) {
        return Ok(baseline);
    }
    let mut policies: Vec<_> = items.iter().map(|item| item.policy.clone()).collect();
    policies.sort();
    policies.dedup();
    let policies = policies.join(", ");
    Err(ScenarioError::NoBaseline { baseline, policies }.into())
}

/// No table has them, and of a large sweep they would fill the memory.
fn without_curves(item: &mut Item) {
    if let ItemOutcome::Done(measured) = &mut item.outcome {
        measured.series = Series::default();
        measured.ttft_quantiles_ms = Vec::new();
    }
}

/// The items of a sweep's folder, by cell, policy and seed, each without what `slim` takes from it as soon as
/// it is read. And those that failed.
#[expect(clippy::type_complexity, reason = "two lists, named in the lines above")]
pub(super) fn read_sorted(
    folder: &Path,
    mut consistency: Consistency,
    slim: &mut dyn FnMut(&mut Item),
) -> Result<(Vec<Item>, Vec<(PathBuf, String)>), SweepError> {
    let mut items: Vec<Item> = Vec::new();
    let mut failed = Vec::new();
    for path in item_paths(folder)? {
        let mut item = Item::read(&path)?;
        consistency.check(&path, &item)?;
        if let ItemOutcome::Failed(problem) = &item.outcome {
            failed.push((path, problem.clone()));
        }
        slim(&mut item);
        items.push(item);
    }
    if items.is_empty() {
        return Err(SweepError::NoItems(folder.display().to_string()));
    }
    items.sort_by(|a, b| (a.cell.index, &a.policy, a.seed).cmp(&(b.cell.index, &b.policy, b.seed)));
    Ok((items, failed))
}

/// The comparison of the items in a sweep's folder, if they are of `scenario`; nothing is written.
///
/// # Errors
/// As [`write_tables`], and when they are of another scenario.
pub fn comparison_of(folder: &Path, scenario: &Scenario) -> Result<Vec<ComparisonRow>, SweepError> {
    let (items, _) = read_sorted(folder, Consistency::of(scenario), &mut without_curves)?;
    Ok(compare_all(&items, &Figures::of(&items), &scenario.baseline))
}
