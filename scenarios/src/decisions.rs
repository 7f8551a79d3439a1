//! Router logs: reading them, and what can be learned from them (`docs/decisions.md`).
//!
//! Everything here is computed from the log alone, so that it says the same of a simulation and of a proxy.

mod attempts;
mod evaluate;
mod explain;
mod learn_curve;
mod reader;
mod reward;

pub use attempts::{Attempt, Ending, attempts};
pub use evaluate::{Estimate, EvaluateError, Evaluation, Repeated, evaluate, repeat};
pub use explain::explain;
pub use learn_curve::{LearnCurve, Window, learn_curve};
pub use reader::{LOG_FILE, LogReader, RouterLogError, find_log, find_logs};
