//! What can be wrong with a scenario.

use std::io;

use lodestar_router::UnknownPolicy;
use lodestar_traces::TraceError;

use super::contender::Yardstick;

/// Why a scenario cannot be used. Every message says which file, which key, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// Neither a file nor in the catalog.
    #[error(
        "there is no file `{asked}` and no scenario of that name{suggestion}; `lodestar scenario list` lists them"
    )]
    Unknown {
        /// What was asked for.
        asked: String,
        /// The nearest name, as a question.
        suggestion: String,
    },
    /// A file that cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: String,
        /// What the file system said.
        source: io::Error,
    },
    /// Not TOML, or a key that is not known, missing or of another type. It has the line.
    #[error("{path} is not a scenario: {error}")]
    Toml {
        /// The file.
        path: String,
        /// Line, column, key and complaint.
        error: Box<toml::de::Error>,
    },
    /// TOML with the right keys and a wrong value.
    #[error("{path}: `{key}` {complaint}")]
    Invalid {
        /// The file.
        path: String,
        /// The key, from the outside in.
        key: String,
        /// What is wrong, and what to do.
        complaint: String,
    },
    /// A policy that does not exist.
    #[error("{error}; beside them there are the yardsticks {}{suggestion}", Yardstick::names().join(", "))]
    Policy {
        /// Its name, and those of the policies.
        error: UnknownPolicy,
        /// The nearest yardstick, as a question.
        suggestion: String,
    },
    /// A policy named twice.
    #[error("the policy {0} is named twice: leave one out, or give one another `label`")]
    RepeatedPolicy(String),
    /// The baseline does not run.
    #[error(
        "the baseline {baseline} is not among the policies ({policies}): add it, or name another with --baseline"
    )]
    NoBaseline {
        /// What it should be.
        baseline: String,
        /// Those that run.
        policies: String,
    },
    /// A trace of the scenario that cannot be read.
    #[error("the workload {workload} cannot be read")]
    Trace {
        /// Its name.
        workload: String,
        /// What is wrong with the trace.
        source: TraceError,
    },
    /// Requests that cannot be made as asked.
    #[error("the workload {workload} cannot be made: {complaint}")]
    Content {
        /// Its name.
        workload: String,
        /// What is wrong.
        complaint: String,
    },
}
