//! From measurements to a GPU profile: operator tables or step logs in, coefficients with confidence
//! intervals and a TOML file out.

mod compose;
mod fit;
mod identify;
mod input;
mod matrix;
mod operators;
mod profile_file;
mod solver;
mod step;
mod step_log;

pub use compose::{Composition, Sharding, compose};
pub use fit::{Estimate, Fit, FitOptions, MIN_ROWS, Origin, Residual, TooFewRows, fit};
pub use input::InputError;
pub use operators::{OperatorFiles, Operators};
pub use profile_file::{ProfileHeader, coefficient_table, profile_toml, write_atomically};
pub use step::{Coefficient, LinearTable, StepSample, predict_ms};
pub use step_log::read_step_log;

#[cfg(test)]
mod tests;
