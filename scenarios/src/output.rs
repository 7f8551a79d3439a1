//! Writes a results folder, whole or not at all.
//!
//! Files are never written where they will stay: a reader, or a person after a crash, could take half
//! of them for all. They grow in a temporary folder beside the destination and move there in one rename,
//! the manifest last. The temporary folder is made before the simulation starts, so that a destination
//! nobody can write to costs a second and not an hour.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::digest::sha256;
use crate::manifest::{self, FileEntry, Manifest};
use crate::summary::{self, Summary};
use crate::tables::Results;

/// A results folder in the making. Dropping it unfinished leaves nothing behind; if the process is
/// interrupted, the next one with the same destination removes what it left.
#[derive(Debug)]
pub struct OutputDir {
    destination: PathBuf,
    /// Locked while the process lives, so that others know whether it does. Before the folder, which cannot
    /// be removed everywhere while a file in it is open.
    _lock: File,
    /// Holds `new`, which becomes the destination, and for a moment `old`, which was it.
    staging: TempDir,
}

/// Why results cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The destination holds something that is not ours to replace.
    #[error("{0} exists and is not a results folder; name another one")]
    Occupied(PathBuf),
    /// The destination has no name of its own: it is `/` or ends in `..`.
    #[error("{0} cannot be a results folder; name one below it")]
    Nameless(PathBuf),
    /// The file system refused.
    #[error("cannot write {path}")]
    Io {
        /// What was to be written.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
}

// The files of one run, within the folder named for its policy.
const REQUESTS_FILE: &str = "requests.parquet";
const INSTANCES_FILE: &str = "instances.parquet";

/// How a temporary folder's name ends, and the file in it that says whether its process lives.
const SUFFIX: &str = ".partial";
const LOCK_FILE: &str = "lock";

impl OutputDir {
    /// Makes sure that results can be written to `destination`, where nothing changes yet.
    pub fn create(destination: &Path) -> Result<Self, OutputError> {
        let io_error = |source| OutputError::Io { path: destination.to_owned(), source };
        if destination.is_symlink() {
            // The folder behind a link is replaced, the link stays.
            return Self::create(&destination.canonicalize().map_err(io_error)?);
        }
        if !may_replace(destination) {
            return Err(OutputError::Occupied(destination.to_owned()));
        }
        let name =
            destination.file_name().ok_or_else(|| OutputError::Nameless(destination.to_owned()))?;
        let parent = match destination.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let prefix = format!(".{}-", name.to_string_lossy());
        create_folder(parent).map_err(io_error)?;
        remove_abandoned(parent, &prefix, destination);
        let (staging, lock) = stage(parent, &prefix).map_err(io_error)?;
        Ok(Self { destination: destination.to_owned(), staging, _lock: lock })
    }

    /// The folder to write into. Whatever lies in it in the end belongs to the results.
    pub fn path(&self) -> PathBuf {
        self.staging.path().join("new")
    }

    /// Writes the tables of every run and the summary of all.
    pub fn write_tables(&self, results: &Results) -> Result<(), OutputError> {
        for run in &results.runs {
            for (table, file) in
                [(run.requests(), REQUESTS_FILE), (run.instances(), INSTANCES_FILE)]
            {
                let path = self.path().join(run.policy()).join(file);
                write_file(&path, |out| table.write_parquet(out).map_err(io::Error::other))?;
            }
        }
        let summaries: Vec<_> = results.runs.iter().map(Summary::of).collect();
        let path = self.path().join("summary.csv");
        write_file(&path, |out| summary::write_csv(&summaries, out).map_err(io::Error::other))
    }

    /// Adds the manifest and moves everything to the destination, in place of earlier results.
    pub fn finish(self, results: &Results) -> Result<(), OutputError> {
        let root = self.path();
        let io_error = |path: &Path| {
            let path = path.to_owned();
            move |source| OutputError::Io { path, source }
        };
        let mut files = Vec::new();
        list_files(&root, "", &mut files).map_err(io_error(&root))?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let manifest = Manifest::new(results.scenario.clone(), files);
        write_file(&root.join(manifest::FILE_NAME), |out| out.write_all(&manifest.to_json()))?;
        self.swap_in().map_err(io_error(&self.destination))
    }

    /// Renames, because nothing else replaces a folder without a moment in which it is half there.
    fn swap_in(&self) -> io::Result<()> {
        let old = self.staging.path().join("old");
        // Asked again: the simulation took its time, and the destination may have changed hands.
        if !may_replace(&self.destination) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something else is there by now",
            ));
        }
        let replaces = self.destination.exists();
        if replaces {
            fs::rename(&self.destination, &old)?;
        }
        fs::rename(self.path(), &self.destination).inspect_err(|_| {
            if replaces {
                // Best effort; the error that is reported is the first one.
                let _ = fs::rename(&old, &self.destination);
            }
        })
    }
}

/// Makes a temporary folder, and a lock in it that ends with the process, however it ends.
fn stage(parent: &Path, prefix: &str) -> io::Result<(TempDir, File)> {
    let staging = tempfile::Builder::new().prefix(prefix).suffix(SUFFIX).tempdir_in(parent)?;
    let unlocked = staging.path().join("unlocked");
    let lock = File::create(&unlocked)?;
    // On a file system without locks nobody can take it, and nothing is ever removed.
    let _ = lock.try_lock();
    fs::rename(unlocked, staging.path().join(LOCK_FILE))?;
    // One level further down, because tempfile lets only its owner into the folder it makes.
    fs::create_dir(staging.path().join("new"))?;
    Ok((staging, lock))
}

/// Removes what interrupted runs with this destination left. Best effort: it is only in the way of tidiness.
fn remove_abandoned(parent: &Path, prefix: &str, destination: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let random = name.strip_prefix(prefix).and_then(|name| name.strip_suffix(SUFFIX));
        // Of `demo`, not of `demo-2`.
        if random.is_none_or(|random| random.contains('-')) {
            continue;
        }
        let staging = entry.path();
        let is_abandoned =
            File::open(staging.join(LOCK_FILE)).is_ok_and(|lock| lock.try_lock().is_ok());
        // Interrupted between two renames, it holds the only copy of the earlier results.
        let holds_results = staging.join("old").exists() && !destination.exists();
        if is_abandoned && !holds_results {
            let _ = fs::remove_dir_all(staging);
        }
    }
}

/// Whether the destination is free, an empty folder, or earlier results of ours.
fn may_replace(destination: &Path) -> bool {
    let Ok(metadata) = fs::symlink_metadata(destination) else { return true };
    if !metadata.is_dir() {
        return false;
    }
    let is_empty = fs::read_dir(destination).is_ok_and(|mut entries| entries.next().is_none());
    is_empty
        || fs::read(destination.join(manifest::FILE_NAME))
            .is_ok_and(|json| Manifest::is_ours(&json))
}

/// With the folders it lies in. A file in its way is not called an existing folder.
fn create_folder(path: &Path) -> io::Result<()> {
    let in_the_way = path.ancestors().any(Path::is_file);
    if in_the_way { Err(io::ErrorKind::NotADirectory.into()) } else { fs::create_dir_all(path) }
}

/// Creates a file and the folder it lies in, and reports the path with whatever goes wrong.
fn write_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), OutputError> {
    let folder = path.parent().expect("a file lies in a folder");
    fs::create_dir_all(folder)
        .and_then(|()| File::create(path))
        .and_then(|file| {
            let mut out = BufWriter::new(file);
            write(&mut out)?;
            out.flush()
        })
        .map_err(|source| OutputError::Io { path: path.to_owned(), source })
}

/// Every file below `folder`, by its path from the root.
fn list_files(folder: &Path, prefix: &str, files: &mut Vec<FileEntry>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            list_files(&entry.path(), &format!("{path}/"), files)?;
        } else {
            let contents = fs::read(entry.path())?;
            files.push(FileEntry { path, bytes: contents.len() as u64, sha256: sha256(&contents) });
        }
    }
    Ok(())
}

/// Where a run's tables lie within the results folder: requests, then instances.
pub(crate) fn table_paths(policy: &str) -> [String; 2] {
    [REQUESTS_FILE, INSTANCES_FILE].map(|file| format!("{policy}/{file}"))
}
