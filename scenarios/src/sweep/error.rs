//! What can go wrong in a sweep or a merge.

use std::io;
use std::path::PathBuf;

use crate::fleet::FleetError;
use crate::scenario::ScenarioError;

/// Why a sweep or a merge cannot start or go on. Items that are finished stay.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The scenario cannot be used.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// The fleet cannot be built.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// Not a shard.
    #[error("`{0}` is not a shard: write K/N with K from 1 to N, such as 3/16")]
    Shard(String),
    /// There are items already.
    #[error("{folder} already holds {items} runs: continue with --resume, or name another folder")]
    NotEmpty {
        /// The sweep's folder.
        folder: PathBuf,
        /// How many.
        items: usize,
    },
    /// Nothing to make tables of.
    #[error("{0} holds no runs of a sweep (no runs/<cell>/<policy>/<seed>.json)")]
    NoItems(String),
    /// Not something that a sweep leaves.
    #[error("{} is not a folder: check the path", .0.display())]
    NotAFolder(PathBuf),
    /// Runs of which nobody knows whether they are all.
    #[error(
        "{} has runs but no planned.json, which says which there should be: copy it from where the runs are from, \
         or run the sweep with --resume",
        .0.display()
    )]
    NotPlanned(PathBuf),
    /// Tables of which nobody knows whether they were changed.
    #[error(
        "{folder} has tables but no SHA256SUMS, which says what they were: \
         `lodestar merge {folder} --out {folder}` makes them anew",
        folder = .0.display()
    )]
    NoDigests(PathBuf),
    /// Another scenario was swept there.
    #[error("{}/planned.json has other cells: it is of another scenario; name another folder", .0.display())]
    OtherCells(PathBuf),
    /// A file that cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// A file that is not what its place says.
    #[error("{path} is damaged: {problem}; delete it and run the sweep with --resume")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A run of another version of Lodestar.
    #[error(
        "{path} is of another version: it is {found}, not {expected}; read it with the Lodestar that made it, or sweep anew into another folder"
    )]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// What it says it is.
        found: String,
        /// What this version reads.
        expected: String,
    },
    /// Items that cannot be compared.
    #[error("{first} and {second} differ in their {what} ({first_has} and {second_has}): {advice}")]
    Mixed {
        /// One item.
        first: PathBuf,
        /// Another.
        second: PathBuf,
        /// What they should have in common.
        what: &'static str,
        /// What the one has.
        first_has: Box<str>,
        /// What the other has.
        second_has: Box<str>,
        /// What to do.
        advice: &'static str,
    },
    /// Two items of one place.
    #[error(
        "{first} and {second} are the same run with different results: one of them is not of this sweep"
    )]
    Conflict {
        /// One item.
        first: PathBuf,
        /// Another.
        second: PathBuf,
    },
    /// The file system refused.
    #[error("cannot write {path}; the runs that are finished are kept, go on with --resume")]
    Write {
        /// What was to be written.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
}
