//! What can be wrong with a log, by row and column, and what to do about it.

use crate::decisions::RouterLogError;

/// Fewer requests say nothing about a fleet.
pub const MIN_ROWS: usize = 20;

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No header, or not text.
    #[error("the log is empty: it needs a line of column names and a line a request")]
    Empty,
    /// Bytes that are not text.
    #[error("the log is not UTF-8 text; write it as CSV or as JSON lines")]
    NotText,
    /// A first line that names no columns, or one twice.
    #[error("the log's first line: {problem}")]
    Header {
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A line that is neither CSV nor JSON.
    #[error("row {row}: {problem}; every row needs one value for each column of the header")]
    Malformed {
        /// The row, counted from 1 after the header.
        row: usize,
        /// What the parser said.
        problem: String,
    },
    /// A quantity that no column has.
    #[error(
        "no column has the {quantity}: name one of the columns {expected}; the log has {}",
        found.join(", ")
    )]
    MissingColumn {
        /// What is missing.
        quantity: &'static str,
        /// Names that would do.
        expected: String,
        /// Names that there are.
        found: Vec<String>,
    },
    /// A time without a unit that is known.
    #[error(
        "column `{column}`: the unit of this time is not known; end its name in _ns, _us, _ms or _s"
    )]
    UnknownUnit {
        /// The column.
        column: String,
    },
    /// A value that cannot be.
    #[error("row {row}, column `{column}`: {value:?} {problem}; {advice}")]
    Cell {
        /// The row, counted from 1 after the header.
        row: usize,
        /// The column.
        column: String,
        /// What stands there.
        value: String,
        /// Why it cannot be.
        problem: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// An instance that is not in the fleet.
    #[error(
        "row {row}, column `{column}`: instance {value:?} is not in the fleet {fleet}; name instances by \
         number from 0 or as the fleet does, or give the fleet that served the log"
    )]
    UnknownInstance {
        /// The row, counted from 1 after the header.
        row: usize,
        /// The column.
        column: String,
        /// The name.
        value: String,
        /// The fleet.
        fleet: String,
    },
    /// A router's log that cannot be read.
    #[error(transparent)]
    RouterLog(RouterLogError),
    /// Not enough to say anything.
    #[error(
        "the log has {rows} usable rows and {MIN_ROWS} are needed; log a longer stretch of traffic"
    )]
    TooFewRows {
        /// Rows there are.
        rows: usize,
    },
}
