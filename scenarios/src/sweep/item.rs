//! One finished run of a sweep: a small JSON file, written whole or not at all.
//!
//! It holds all that tables and figures need, so that a sweep of thousands of runs is a folder that can be
//! copied, cut up and put together again. Nothing in it depends on the clock or the shard, and on the machine only
//! if that has another build of Lodestar.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use lodestar_router::Information;
use serde::{Deserialize, Serialize};

use super::check::check;
use super::error::SweepError;
use super::measure::Measured;
use crate::manifest::StepTimeTrust;
use crate::scenario::{Kind, Runner};

/// Says that a JSON file is one of ours.
const FORMAT: &str = "lodestar-sweep-item";

/// Raised when an older reader would misread an item.
const FORMAT_VERSION: u32 = 5;

/// The folder of a sweep in which its items lie.
const RUNS: &str = "runs";

/// One run: what was asked, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    format: String,
    format_version: u32,
    /// The version of Lodestar that ran it.
    pub lodestar_version: String,
    /// Digest of the program that ran it; empty for a replay's.
    pub executable_sha256: String,
    /// The scenario's name.
    pub scenario: String,
    /// [`Scenario::sha256`](crate::scenario::Scenario::sha256).
    pub scenario_sha256: String,
    /// The scenario's baseline.
    pub baseline: String,
    /// What policies saw.
    pub information: Information,
    /// The cell.
    pub cell: CellIdentity,
    /// The contender's label.
    pub policy: String,
    /// What sort of opponent it is.
    pub kind: Kind,
    /// What decided, with all parameters.
    pub runner: Runner,
    /// Of the requests and of the run.
    pub seed: u64,
    /// What came of it.
    pub outcome: ItemOutcome,
}

/// A cell, without its requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellIdentity {
    /// Place in the scenario.
    pub index: u32,
    /// Name of its folder.
    pub id: String,
    /// The instances, such as `a100:4,l4:2`.
    pub fleet: String,
    /// The workload's name.
    pub workload: String,
    /// Requests per second; null if as the workload has it.
    pub rate_rps: Option<f64>,
    /// The rate that the fleet keeps up with, if the scenario says.
    pub knee_rps: Option<f64>,
    /// Routers in front of the instances.
    pub router_replicas: u32,
    /// How far the step times of each group of instances can be trusted.
    pub step_times: Vec<StepTimeTrust>,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemOutcome {
    /// It ended.
    Done(Box<Measured>),
    /// It did not, and why.
    Failed(String),
}

impl Item {
    /// Of this version.
    pub(super) fn new(asked: Asked<'_>, outcome: ItemOutcome) -> Self {
        let Asked { executable_sha256, scenario, cell, contender, seed } = asked;
        Self {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            lodestar_version: env!("CARGO_PKG_VERSION").to_owned(),
            executable_sha256: executable_sha256.to_owned(),
            scenario: scenario.name.clone(),
            scenario_sha256: scenario.sha256.clone(),
            baseline: scenario.baseline.clone(),
            information: scenario.information,
            cell,
            policy: contender.label.clone(),
            kind: contender.runner.kind(),
            runner: contender.runner.clone(),
            seed,
            outcome,
        }
    }

    /// A run of a replay, as if it were one of a sweep.
    pub(super) fn of_replay(
        asked: &crate::manifest::Scenario,
        cell: CellIdentity,
        runner: Runner,
        policy: &str,
        baseline: &str,
        measured: Measured,
    ) -> Self {
        Self {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            lodestar_version: env!("CARGO_PKG_VERSION").to_owned(),
            executable_sha256: String::new(),
            scenario: asked.trace.name.clone(),
            scenario_sha256: asked.trace.sha256.clone(),
            baseline: baseline.to_owned(),
            information: asked.information,
            cell,
            policy: policy.to_owned(),
            kind: runner.kind(),
            runner,
            seed: asked.seed,
            outcome: ItemOutcome::Done(Box::new(measured)),
        }
    }

    /// What was measured, if the run ended.
    pub fn measured(&self) -> Option<&Measured> {
        match &self.outcome {
            ItemOutcome::Done(measured) => Some(measured),
            ItemOutcome::Failed(_) => None,
        }
    }

    /// Where it lies in a sweep's folder.
    pub(super) fn path(&self, folder: &Path) -> PathBuf {
        item_path(folder, &self.cell.id, &self.policy, self.seed)
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec(self).expect("an item holds only what JSON can");
        json.push(b'\n');
        json
    }

    /// Reads one, and makes sure that it lies where it belongs.
    pub(super) fn read(path: &Path) -> Result<Self, SweepError> {
        let json =
            fs::read(path).map_err(|source| SweepError::Read { path: path.to_owned(), source })?;
        let damaged = |problem: String| SweepError::Damaged { path: path.to_owned(), problem };
        let header: Header =
            serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
        if header.format != FORMAT || header.format_version != FORMAT_VERSION {
            return Err(SweepError::OtherVersion {
                path: path.to_owned(),
                found: format!("{} version {}", header.format, header.format_version),
                expected: format!("{FORMAT} version {FORMAT_VERSION}"),
            });
        }
        let item: Self =
            serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
        let own = item.path(Path::new(""));
        if !path.ends_with(own.strip_prefix(RUNS).unwrap_or(&own)) {
            return Err(damaged(format!("it belongs at {}", own.display())));
        }
        check(&item).map_err(damaged)?;
        Ok(item)
    }
}

/// What one run was asked.
pub(super) struct Asked<'a> {
    pub(super) executable_sha256: &'a str,
    pub(super) scenario: &'a crate::scenario::Scenario,
    pub(super) cell: CellIdentity,
    pub(super) contender: &'a crate::scenario::Contender,
    pub(super) seed: u64,
}

#[derive(Deserialize)]
struct Header {
    format: String,
    format_version: u32,
}

/// Where an item lies in a sweep's folder.
pub(super) fn item_path(folder: &Path, cell: &str, policy: &str, seed: u64) -> PathBuf {
    folder.join(RUNS).join(cell).join(policy).join(format!("{seed}.json"))
}

/// The items of a sweep's folder, by path. Files that were being written when somebody pulled the plug do
/// not end in `.json`.
pub(super) fn item_paths(folder: &Path) -> Result<Vec<PathBuf>, SweepError> {
    let runs = folder.join(RUNS);
    let mut paths = Vec::new();
    if runs.exists() {
        collect(&runs, &mut paths).map_err(|source| SweepError::Read { path: runs, source })?;
    }
    paths.sort();
    Ok(paths)
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, paths)?;
        } else if path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    Ok(())
}

/// Reads every item of a sweep's folder.
///
/// # Errors
/// The first file that cannot be read or is damaged.
pub fn read_items(folder: &Path) -> Result<Vec<Item>, SweepError> {
    item_paths(folder)?.iter().map(|path| Item::read(path)).collect()
}

/// Writes a file beside its place and moves it there.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), SweepError> {
    let write = || {
        let folder = path.parent().expect("a file lies in a folder");
        fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new().suffix(".partial").tempfile_in(folder)?;
        file.write_all(bytes)?;
        #[cfg(unix)]
        {
            // tempfile lets only its owner read it; a shared folder is read by others.
            use std::os::unix::fs::PermissionsExt as _;
            file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        }
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|source| SweepError::Write { path: path.to_owned(), source })
}
