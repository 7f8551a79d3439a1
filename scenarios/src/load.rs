//! Reads a results folder back, and trusts nothing in it that the manifest does not vouch for.
//!
//! A figure drawn from a damaged table looks as good as any other. So every file is compared with its
//! digest first, also those that will not be read, and a folder without a manifest is no results folder,
//! however complete it looks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::sha256;
use crate::manifest::{self, FileEntry, Manifest, ManifestError};
use crate::output::table_paths;
use crate::table::Table;
use crate::tables::{Results, RunTables};

/// Why a folder cannot be read as results.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No manifest.
    #[error("{0} is not a results folder: it has no manifest.json")]
    NoManifest(PathBuf),
    /// A manifest that cannot be used.
    #[error("cannot use {path}")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// A file that cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// A file that is not the one that was written.
    #[error("{0} is damaged: its contents are not those that manifest.json lists")]
    Damaged(PathBuf),
    /// A table that the manifest does not list.
    #[error("{0} is missing from manifest.json")]
    Unlisted(PathBuf),
    /// A table in another shape than this version writes, digest notwithstanding.
    #[error("{path} is not a table of this version of Lodestar: {problem}")]
    Table {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// The results in `folder`, as they were written.
pub fn load(folder: &Path) -> Result<Results, LoadError> {
    let path = folder.join(manifest::FILE_NAME);
    if !path.exists() {
        return Err(LoadError::NoManifest(folder.to_owned()));
    }
    let json = fs::read(&path).map_err(|source| LoadError::Io { path: path.clone(), source })?;
    let manifest =
        Manifest::from_json(&json).map_err(|source| LoadError::Manifest { path, source })?;
    for entry in &manifest.files {
        read_verified(folder, entry)?;
    }
    let policies = manifest.scenario.policies.iter().map(|policy| policy.name().into_owned());
    let measured = manifest.scenario.measured.iter().cloned();
    let runs = policies
        .chain(measured)
        .map(|run| load_run(folder, &manifest, &run))
        .collect::<Result<_, _>>()?;
    Ok(Results { scenario: manifest.scenario, runs })
}

fn load_run(folder: &Path, manifest: &Manifest, policy: &str) -> Result<RunTables, LoadError> {
    let [requests, instances] = table_paths(policy);
    let tables =
        (load_table(folder, manifest, &requests)?, load_table(folder, manifest, &instances)?);
    RunTables::from_tables(policy, tables.0, tables.1)
        .map_err(|error| LoadError::Table { path: folder.join(policy), problem: error.to_string() })
}

fn load_table(folder: &Path, manifest: &Manifest, path: &str) -> Result<Table, LoadError> {
    let entry = manifest.files.iter().find(|entry| entry.path == path);
    let entry = entry.ok_or_else(|| LoadError::Unlisted(folder.join(path)))?;
    // Read again and compared again: the bytes that are parsed are the bytes that were verified.
    let bytes = read_verified(folder, entry)?;
    Table::read_parquet(&bytes)
        .map_err(|error| LoadError::Table { path: folder.join(path), problem: error.to_string() })
}

fn read_verified(folder: &Path, entry: &FileEntry) -> Result<Vec<u8>, LoadError> {
    let path = folder.join(&entry.path);
    let bytes = fs::read(&path).map_err(|source| LoadError::Io { path: path.clone(), source })?;
    if bytes.len() as u64 != entry.bytes || sha256(&bytes) != entry.sha256 {
        return Err(LoadError::Damaged(path));
    }
    Ok(bytes)
}
