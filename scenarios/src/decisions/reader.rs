//! Reads router logs line by line: a log is longer than memory may be.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use lodestar_router::{LOG_VERSION, LogEntry, LogStart};
use serde::Deserialize;

/// A run's router log within its folder.
pub const LOG_FILE: &str = "decisions.jsonl";

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];

/// Why a router log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RouterLogError {
    /// The file system refused.
    #[error("{path}: cannot be read; check the path")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// A folder without a log.
    #[error("{0}: has no {LOG_FILE}; run `lodestar replay` with --log")]
    None(PathBuf),
    /// A folder with more logs than were asked for.
    #[error("{path}: has several logs; name one of {}", .names.join(", "))]
    Several {
        /// Which folder.
        path: PathBuf,
        /// The folders in it that have one.
        names: Vec<String>,
    },
    /// Another file.
    #[error("{0}, line 1: is not the start of a router log; give a file that `--log` wrote")]
    NotALog(PathBuf),
    /// From another time.
    #[error(
        "{path}, line 1: `log_version` is {version}, this Lodestar reads {LOG_VERSION}; use the Lodestar that wrote it"
    )]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        version: u64,
    },
    /// Broken.
    #[error("{path}, line {line}: {problem}; cut the log off before this line, or write it again")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong there.
        problem: String,
    },
    /// A router that never decided.
    #[error("{0}: has no decision; there is nothing to look at")]
    NoDecision(PathBuf),
    /// Not what is asked for.
    #[error(
        "{path}: has no request {request}; requests are numbered from 0 in the order of the trace"
    )]
    NoRequest {
        /// Which file.
        path: PathBuf,
        /// Which request.
        request: u64,
    },
}

/// The log that `path` is or contains: a file, the folder of a run, or a results folder of one policy.
///
/// # Errors
/// When there is none, or more than one.
pub fn find_log(path: &Path) -> Result<PathBuf, RouterLogError> {
    let mut logs = find_logs(path)?;
    if logs.len() > 1 {
        let name = |log: &PathBuf| log.parent().unwrap_or(log).display().to_string();
        let names = logs.iter().map(name).collect();
        return Err(RouterLogError::Several { path: path.to_owned(), names });
    }
    Ok(logs.remove(0))
}

/// All logs that `path` is or contains, by name; at least one.
///
/// # Errors
/// When there is none.
pub fn find_logs(path: &Path) -> Result<Vec<PathBuf>, RouterLogError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let own = path.join(LOG_FILE);
    if own.is_file() {
        return Ok(vec![own]);
    }
    let io_error = |source| RouterLogError::Io { path: path.to_owned(), source };
    let mut logs = Vec::new();
    for entry in path.read_dir().map_err(io_error)? {
        let log = entry.map_err(io_error)?.path().join(LOG_FILE);
        if log.is_file() {
            logs.push(log);
        }
    }
    logs.sort();
    if logs.is_empty() {
        return Err(RouterLogError::None(path.to_owned()));
    }
    Ok(logs)
}

/// A log: its start, and an iterator over the other entries.
pub struct LogReader {
    path: PathBuf,
    lines: Box<dyn BufRead>,
    line: u64,
    buffer: Vec<u8>,
    start: LogStart,
}

/// What can be read of any version.
#[derive(Deserialize)]
struct AnyStart {
    start: AnyVersion,
}

#[derive(Deserialize)]
struct AnyVersion {
    log_version: u64,
}

impl LogReader {
    /// Opens a log, plain or gzipped, and reads its first line.
    ///
    /// # Errors
    /// When it cannot be read or is not one.
    pub fn open(path: &Path) -> Result<Self, RouterLogError> {
        let io_error = |source| RouterLogError::Io { path: path.to_owned(), source };
        let mut file = BufReader::new(File::open(path).map_err(io_error)?);
        let is_gzip = file.fill_buf().map_err(io_error)?.starts_with(GZIP_MAGIC);
        Self::new(
            path,
            if is_gzip {
                Box::new(BufReader::new(MultiGzDecoder::new(file)))
            } else {
                Box::new(file)
            },
        )
    }

    /// A log in memory, and its first line. Errors call it `path`.
    ///
    /// # Errors
    /// When it is not one.
    pub fn of_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, RouterLogError> {
        Self::new(path, Box::new(Cursor::new(bytes)))
    }

    /// Whether these are the first bytes of a log, of whatever version.
    pub fn is_begun_by(bytes: &[u8]) -> bool {
        let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        serde_json::from_slice::<AnyStart>(first).is_ok()
    }

    fn new(path: &Path, mut lines: Box<dyn BufRead>) -> Result<Self, RouterLogError> {
        let io_error = |source| RouterLogError::Io { path: path.to_owned(), source };
        let mut buffer = Vec::new();
        lines.read_until(b'\n', &mut buffer).map_err(io_error)?;
        let any: AnyStart = serde_json::from_slice(&buffer)
            .map_err(|_| RouterLogError::NotALog(path.to_owned()))?;
        let version = any.start.log_version;
        if version != u64::from(LOG_VERSION) {
            return Err(RouterLogError::Version { path: path.to_owned(), version });
        }
        let damaged =
            |problem: String| RouterLogError::Line { path: path.to_owned(), line: 1, problem };
        let entry = serde_json::from_slice(&buffer).map_err(|error| damaged(describe(&error)))?;
        let LogEntry::Start(start) = entry else {
            return Err(RouterLogError::NotALog(path.to_owned()));
        };
        if start.config.block_tokens == 0 {
            return Err(damaged("`block_tokens` is 0".to_owned()));
        }
        Ok(Self { path: path.to_owned(), lines, line: 1, buffer, start })
    }

    /// What its router was built from.
    pub const fn start(&self) -> &LogStart {
        &self.start
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn read(&mut self) -> Result<Option<LogEntry>, RouterLogError> {
        self.buffer.clear();
        let read = self.lines.read_until(b'\n', &mut self.buffer);
        let read = read.map_err(|source| RouterLogError::Io { path: self.path.clone(), source })?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        let entry =
            serde_json::from_slice(&self.buffer).map_err(|error| self.damaged(describe(&error)))?;
        match &entry {
            LogEntry::Start(_) => Err(self.damaged("a second log starts here".to_owned())),
            LogEntry::Route(routing) => {
                let request = &routing.request;
                let block_tokens = u64::from(self.start.config.block_tokens);
                let whole = request.block_hashes.len() as u64 * block_tokens;
                if whole > u64::from(request.prompt_tokens) {
                    return Err(self.damaged(format!(
                        "`block_hashes` are of {whole} tokens, `prompt_tokens` is {}",
                        request.prompt_tokens
                    )));
                }
                Ok(Some(entry))
            }
            LogEntry::Observe { .. }
            | LogEntry::TrainingJob { .. }
            | LogEntry::Install { .. }
            | LogEntry::AbandonTraining
            | LogEntry::Restore { .. }
            | LogEntry::SetObjective { .. }
            | LogEntry::SetPolicy { .. } => Ok(Some(entry)),
        }
    }

    fn damaged(&self, problem: String) -> RouterLogError {
        RouterLogError::Line { path: self.path.clone(), line: self.line, problem }
    }
}

impl fmt::Debug for LogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, .. } = self;
        f.debug_struct("LogReader").field("path", path).field("line", line).finish_non_exhaustive()
    }
}

/// Without the line and column within the line, which serde counts anew for each.
fn describe(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message.split(" at line ").next().unwrap_or_default().to_owned()
}

impl Iterator for LogReader {
    type Item = Result<LogEntry, RouterLogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}
