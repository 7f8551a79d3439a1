//! A checkpoint as a file: a line of JSON with a checksum, a line of JSON with the checkpoint.
//!
//! Written whole or not at all: beside its place, synced, and renamed. What is found there is either the old
//! one or the new one, whenever the machine stops.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use lodestar_router::{Checkpoint, CheckpointError};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// Of the two lines.
const LAYOUT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// [`LAYOUT`].
    lodestar_checkpoint: u32,
    /// XXH3, 64 bits, of the second line without its end, in hexadecimal.
    xxh3: String,
}

/// What is looked at before anything else: all other fields may be another version's.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

/// Why a checkpoint's file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointFileError {
    /// The file system refuses.
    #[error("checkpoint {}: cannot {action}: {error}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Read it, or write it.
        action: &'static str,
        /// Why.
        error: io::Error,
    },
    /// Cut off, changed, or no checkpoint at all.
    #[error(
        "checkpoint {}: {complaint}; delete or move it to start without", .path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        complaint: String,
    },
    /// Not for this router.
    #[error("checkpoint {}: {error}; delete or move it to start without", .path.display())]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: CheckpointError,
    },
}

/// Reads a checkpoint; `None` if there is no such file.
///
/// # Errors
/// When it cannot be read, is damaged or another version's.
pub fn read_checkpoint(path: &Path) -> Result<Option<Checkpoint>, CheckpointFileError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(CheckpointFileError::Io {
                path: path.to_owned(),
                action: "read it",
                error,
            });
        }
    };
    parse(path, &text).map(Some)
}

/// The checkpoint in a file's contents.
pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Checkpoint, CheckpointFileError> {
    let damaged = |complaint| CheckpointFileError::Damaged { path: path.to_owned(), complaint };
    let mut lines = text.splitn(2, |&byte| byte == b'\n');
    let header = serde_json::from_slice(lines.next().unwrap_or_default());
    let Ok(Header { lodestar_checkpoint: LAYOUT, xxh3 }) = header else {
        return Err(damaged("its first line is not {\"lodestar_checkpoint\":1,...}".to_owned()));
    };
    let body = lines.next().unwrap_or_default();
    let Some(body) = body.strip_suffix(b"\n").filter(|body| checksum(body) == xxh3) else {
        return Err(damaged("it is damaged: its checksum does not match".to_owned()));
    };
    let refused = |error| CheckpointFileError::Refused { path: path.to_owned(), error };
    let not_one = |error: serde_json::Error| damaged(format!("line 2: {error}"));
    let Head { version } = serde_json::from_slice(body).map_err(not_one)?;
    if version != Checkpoint::VERSION {
        return Err(refused(CheckpointError::Version { found: version }));
    }
    serde_json::from_slice(body).map_err(not_one)
}

/// Writes a checkpoint in the place of an earlier one.
///
/// # Errors
/// When it cannot be written; then the earlier one is still there.
pub fn write_checkpoint(path: &Path, checkpoint: &Checkpoint) -> Result<(), CheckpointFileError> {
    write_atomically(path, print(checkpoint).as_bytes()).map_err(|error| CheckpointFileError::Io {
        path: path.to_owned(),
        action: "write it",
        error,
    })
}

/// A file's contents.
pub(crate) fn print(checkpoint: &Checkpoint) -> String {
    let body = serde_json::to_string(checkpoint).expect("numbers and names");
    let header = header(body.as_bytes());
    format!("{header}\n{body}\n")
}

fn header(body: &[u8]) -> String {
    let header = Header { lodestar_checkpoint: LAYOUT, xxh3: checksum(body) };
    serde_json::to_string(&header).expect("a number and a string")
}

/// A file with that second line, whatever it is.
#[cfg(any(test, fuzzing))]
pub(crate) fn with_header(body: &[u8]) -> Vec<u8> {
    [header(body).as_bytes(), b"\n", body, b"\n"].concat()
}

fn checksum(body: &[u8]) -> String {
    format!("{:016x}", xxh3_64(body))
}

fn write_atomically(path: &Path, contents: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Not a name of its own each time: what a crash leaves is replaced by the next one.
    let mut partial = name.to_owned();
    partial.push(".partial");
    let partial = folder.join(partial);
    let mut file = File::create(&partial)?;
    file.write_all(contents)?;
    file.sync_all()?;
    std::fs::rename(&partial, path)?;
    // The rename itself.
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use lodestar_router::{InstanceNames, PolicyConfig, Router, RouterConfig};

    use super::*;

    fn checkpoint() -> Checkpoint {
        let policy = PolicyConfig::from_name("lodestar").unwrap();
        Router::new(RouterConfig::new(policy), 1).checkpoint(&InstanceNames::new()).unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("learned.json");
        assert_eq!(read_checkpoint(&path).unwrap(), None);
        write_checkpoint(&path, &checkpoint()).unwrap();
        write_checkpoint(&path, &checkpoint()).unwrap();
        assert_eq!(read_checkpoint(&path).unwrap(), Some(checkpoint()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn any_byte_that_is_lost_or_changed_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("learned.json");
        write_checkpoint(&path, &checkpoint()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for place in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
            let message = |text: &[u8]| parse(&path, text).unwrap_err().to_string();
            assert!(message(&whole[..place]).contains("delete or move it"));
            let mut changed = whole.clone();
            changed[place] ^= 4;
            assert!(message(&changed).contains("delete or move it"), "{place}");
        }
    }

    #[test]
    fn another_version_is_named_whatever_else_it_holds() {
        let body = r#"{"version":99,"learned":{"something":[]}}"#;
        let header =
            format!(r#"{{"lodestar_checkpoint":1,"xxh3":"{}"}}"#, checksum(body.as_bytes()));
        let text = format!("{header}\n{body}\n");
        let message = parse(Path::new("c.json"), text.as_bytes()).unwrap_err().to_string();
        let complaint =
            format!("c.json: it has version 99, this router reads version {}", Checkpoint::VERSION);
        assert!(message.contains(&complaint), "{message}");
    }
}
