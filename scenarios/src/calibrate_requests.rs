//! A GPU profile from the logs of a running cluster.
//!
//! A request's latency says little about a step: it waits in queues, shares steps with others and hits
//! caches. So the simulator is in the loop: the coefficients are those with which replaying the logs gives
//! the latencies that were measured. Weighted least squares on the logarithm of TTFT and E2E, so that a
//! request counts by its relative error; weights after Huber, so that outliers count little.

pub(crate) mod linear;
mod objective;
mod report;
mod simplex;
mod solver;

pub use objective::{CalibrationError, LogToFit};
pub use report::{Estimate, FittedLog, Held, RequestFit, request_profile_toml};
pub use solver::calibrate_requests;
