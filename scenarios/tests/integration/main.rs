//! Results folders, from the requests to the files and back.

mod damage;
mod decisions;
mod determinism;
mod events;
mod fixtures;
mod measured_logs;
mod odd_sweeps;
mod replacement;
mod request_calibration;
mod scenarios;
mod sweeps;
