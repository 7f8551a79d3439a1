//! What can be wrong with a trace, where, and what to do about it.
//!
//! One error type for every format instead of one per parser: whoever reads the message wants the
//! file, the line, the field and the remedy, not to know which library noticed.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

/// A trace cannot be read, changed as asked, or written.
///
/// Boxed inside: the happy path of a reader should not carry the size of its worst message.
#[derive(Debug)]
pub struct TraceError(Box<Details>);

#[derive(Debug)]
struct Details {
    path: PathBuf,
    place: Place,
    field: Option<Cow<'static, str>>,
    problem: Problem,
}

/// Where in the file. Counted from 1, header lines included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file as a whole.
    File,
    /// A line of a text format, as an editor numbers it.
    Line(u64),
    /// A row of a Parquet file, or a request handed to a writer.
    Row(u64),
}

/// What is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The operating system said no.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Nothing there to read.
    #[error("there is no such file; check the path")]
    NotFound,
    /// A folder to read.
    #[error("is a folder, not a trace; name a file in it")]
    Folder,
    /// Nowhere to write to.
    #[error("the folder that it is to lie in does not exist; create it or write to another path")]
    NoFolder,
    /// A name to write to that is not a file's.
    #[error(
        "exists and is not a regular file (a folder, device or broken link); write to another path"
    )]
    Occupied,
    /// A name to write to that does not say which format is meant.
    #[error(
        "the name does not say which format to write; choose the format, or a name that ends in {known}"
    )]
    UnknownEnding {
        /// The endings that say it.
        known: String,
    },
    /// Nothing to replay.
    #[error("holds no request; a trace needs at least one")]
    Empty,
    /// A log of which nothing can be replayed.
    #[error(
        "none of its {requests} requests has an answer; give the log of a run that answered some"
    )]
    NoAnswer {
        /// Requests that there are.
        requests: usize,
    },
    /// The reading options exclude everything.
    #[error("no request is left after the window, limit and length options; widen them")]
    NothingLeft,
    /// Neither the magic bytes nor the first line are those of a known format.
    #[error("not a known trace format: it begins with {begins:?}; known formats: {known}")]
    UnknownFormat {
        /// The first characters of the file.
        begins: String,
        /// The names of all formats.
        known: String,
    },
    /// A compressed stream stops before its end mark.
    #[error(
        "the {compression} stream ends early: the file is truncated; copy or download it again"
    )]
    Truncated {
        /// `gzip` or `zstd`.
        compression: &'static str,
    },
    /// A container is damaged, or is not what its first bytes claim.
    #[error("damaged {container} data ({detail}); copy or download the file again")]
    Corrupt {
        /// `gzip`, `zstd` or `Parquet`.
        container: &'static str,
        /// What the decoder said.
        detail: String,
    },
    /// A text format holds other bytes.
    #[error("not UTF-8 text; is this a trace?")]
    NotUtf8,
    /// A line that no request can need: the file is not what it seems.
    #[error("longer than {limit_bytes} bytes without a line end; is this a trace?")]
    LineTooLong {
        /// The longest line that is read.
        limit_bytes: u64,
    },
    /// A line of a JSON lines format is not a JSON object.
    #[error("not a JSON object ({detail}); a trace has one per line, nothing else")]
    NotJson {
        /// What the parser said, with the column.
        detail: String,
    },
    /// A line of a CSV format has the wrong number of columns.
    #[error("has {found} columns, the header has {expected}; is the line cut off?")]
    ColumnCount {
        /// Columns of this line.
        found: usize,
        /// Columns of the header.
        expected: usize,
    },
    /// A field or column that the format needs.
    #[error("is missing; a row of {format} has {known}")]
    Missing {
        /// The format's name.
        format: &'static str,
        /// Its fields.
        known: String,
    },
    /// A field or column that the format does not have. Ignoring it could change what the trace means.
    #[error("is not a field of {format}, which has {known}; remove it")]
    Unknown {
        /// The format's name.
        format: &'static str,
        /// Its fields.
        known: String,
    },
    /// The same field twice in one row.
    #[error("occurs twice in one row; remove one")]
    Repeated,
    /// A value of the wrong kind.
    #[error("is {found}, expected {expected}")]
    Malformed {
        /// The value, shortened.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Times and lengths are never negative.
    #[error("is {found}, below zero; times, lengths and ids are not: correct or remove the row")]
    Negative {
        /// The value.
        found: String,
    },
    /// NaN and infinities.
    #[error("is {found}, not a finite number; correct or remove the row")]
    NotFinite {
        /// The value.
        found: String,
    },
    /// More than any model could take.
    #[error("is {found}, above the limit of {limit}; correct or remove the row")]
    TooLarge {
        /// The value.
        found: String,
        /// The largest value that is read.
        limit: u64,
    },
    /// A request without a prompt or without an answer.
    #[error("is 0 tokens; a request needs at least one: correct or remove the row")]
    ZeroLength,
    /// Requests are listed in the order in which they arrive.
    #[error(
        "is {this_ns} ns from the start, the row before is at {previous_ns} ns; sort the file by time"
    )]
    Backwards {
        /// Arrival of this request.
        this_ns: u64,
        /// Arrival of the one before it.
        previous_ns: u64,
    },
    /// Block ids and prompt length disagree.
    #[error(
        "has {blocks} ids, but {prompt_tokens} prompt tokens in blocks of {block_tokens} need {needed}; \
         correct or remove the row"
    )]
    HashCoverage {
        /// Ids in the row.
        blocks: usize,
        /// Tokens a block.
        block_tokens: u32,
        /// Prompt length of the row.
        prompt_tokens: u32,
        /// Ids that such a prompt has.
        needed: usize,
    },
    /// Token ids and the stated length disagree.
    #[error("has {ids} token ids, but the length is given as {length}; correct or remove the row")]
    TokenCount {
        /// Ids in the row.
        ids: usize,
        /// Length stated beside them.
        length: u32,
    },
    /// Two requests share an id.
    #[error("is {id}, which an earlier request already has; ids must be unique")]
    DuplicateId {
        /// The id.
        id: u64,
    },
    /// A request refers to one that does not precede it.
    #[error("names request {id}, which does not precede this one; order the requests or add it")]
    UnknownRequest {
        /// The id that is not there.
        id: u64,
    },
    /// A prompt quotes an answer that cannot exist yet.
    #[error(
        "quotes the answer to request {id} (o{id}), which does not precede this one; order the requests or add it"
    )]
    UnknownAnswer {
        /// The id that is not there.
        id: u64,
    },
    /// A file of a later Lodestar.
    #[error("is format version {found}, this build reads version {supported}; use a newer build")]
    Version {
        /// The file's version.
        found: u64,
        /// Ours.
        supported: u64,
    },
    /// The format to write has no way to say this.
    #[error("{format} cannot express {what}; write Lodestar JSONL or Parquet instead")]
    NotRepresentable {
        /// The format's name.
        format: &'static str,
        /// What would be lost.
        what: String,
    },
    /// A reading option is out of range or has no effect.
    #[error("{0}")]
    Option(String),
}

/// A [`Problem`] that a parser found in the row at hand; the reader adds file and place.
#[derive(Debug)]
pub(crate) struct RowError {
    pub(crate) field: Option<Cow<'static, str>>,
    pub(crate) problem: Problem,
}

impl TraceError {
    pub(crate) fn new(path: &Path, place: Place, error: impl Into<RowError>) -> Self {
        let RowError { field, problem } = error.into();
        Self(Box::new(Details { path: path.to_owned(), place, field, problem }))
    }

    pub(crate) fn file(path: &Path, problem: impl Into<Problem>) -> Self {
        Self::new(path, Place::File, problem.into())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Where in the file.
    pub fn place(&self) -> Place {
        self.0.place
    }

    /// The field, column or option concerned.
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// What is wrong.
    pub fn problem(&self) -> &Problem {
        &self.0.problem
    }
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details { path, place, field, problem } = &*self.0;
        write!(f, "{}", path.display())?;
        match place {
            Place::File => {}
            Place::Line(line) => write!(f, ", line {line}")?,
            Place::Row(row) => write!(f, ", row {row}")?,
        }
        match field {
            Some(field) => write!(f, ": `{field}` {problem}"),
            None => write!(f, ": {problem}"),
        }
    }
}

impl std::error::Error for TraceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0.problem)
    }
}

impl RowError {
    pub(crate) fn in_field(field: impl Into<Cow<'static, str>>, problem: Problem) -> Self {
        Self { field: Some(field.into()), problem }
    }
}

impl From<Problem> for RowError {
    fn from(problem: Problem) -> Self {
        Self { field: None, problem }
    }
}

/// A value as a message quotes it: enough to recognise it, never a megabyte of it.
pub(crate) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
