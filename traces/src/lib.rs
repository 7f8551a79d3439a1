//! Request traces: reading and writing them, inventing them, and saying what they look like.
//!
//! A trace is a list of [`TraceRequest`]s. [`open`] streams one from a file exactly as recorded,
//! [`read`] and [`read_all`] change it as asked on the way and say what they did, [`write()`] stores one,
//! [`generate()`] invents one from a [`WorkloadConfig`] and a seed, [`TraceStats`] describes one.
//!
//! Published formats differ in clock, unit and how much they know of a prompt. They all become the same
//! record here, so that nothing downstream asks where a request came from.

mod check;
pub mod clock;
mod error;
mod fields;
mod format;
pub mod generate;
mod input;
mod number;
mod options;
mod prepare;
mod random;
mod read;
mod request;
mod row;
pub mod stats;
mod write;

pub use error::{Place, Problem, TraceError};
pub use format::Format;
pub use generate::{WorkloadConfig, WorkloadError, generate};
pub use number::{MAX_TIME_NS, MAX_TOKENS};
pub use options::{OverLong, ReadOptions, SharedPrefix, Spread, Window};
pub use prepare::{PreparedTrace, Trace, read, read_all};
pub use read::{TraceReader, open};
pub use request::{Arrival, Source, Span, TraceRequest};
pub use stats::TraceStats;
pub use write::{TraceWriter, write};
