//! The I/O shell around the router. All that is here so far is its first translation: from what a real
//! vLLM server says about itself to what the router understands. The proxy is to come.
//!
//! The shell holds no policy and no arithmetic on load; those are the router's, so that the simulator
//! exercises them.

mod metrics;

pub use self::metrics::{MetricsError, parse_metrics};
