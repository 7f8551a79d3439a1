//! The I/O shell around the router: a reverse proxy in front of vLLM servers.
//!
//! [`Proxy`] takes requests, asks the router, passes requests and answers on as they are, and tells the
//! router what becomes of them. The shell holds no policy and no arithmetic on load; those are the router's,
//! so that the simulator exercises them.
//!
//! Beside it, what a measurement needs: [`bench()`] sends a trace and measures, [`mock`] is a server without a GPU.

mod admin;
mod answer;
mod api_error;
mod arms;
mod attempt;
mod backend;
mod bench;
mod chat_template;
mod checkpoint_file;
mod config;
mod counters;
mod decision_log;
mod discovery;
mod dispatcher;
mod engine_tokenizer;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod head;
mod keeper;
mod kv_events;
mod listener;
mod load_report;
mod membership;
mod metrics;
pub mod mock;
mod models;
mod monitor;
mod progress;
mod prompt;
mod proxy;
mod queue;
mod ramp;
mod recent;
mod relay;
mod request_id;
mod resume;
mod retry_budget;
mod run;
mod telemetry;
mod tls;
mod trainer;
mod upgrade;
mod verdict;
mod workers;

pub use self::admin::{AdminSection, TokenError};
pub use self::backend::InvalidUrl;
pub use self::bench::{
    BenchConfig, BenchError, BenchOutcome, BenchProgress, BenchRecord, BenchReport, bench,
};
pub use self::checkpoint_file::{CheckpointFileError, read_checkpoint, write_checkpoint};
pub use self::config::{
    CanarySection, ConfigError, InstanceEntry, Limits, RouterSection, ServeConfig, TlsFiles,
};
pub use self::decision_log::DecisionLogError;
pub use self::discovery::{Discovery, DiscoveryError, DnsDiscovery, KubernetesDiscovery, PortName};
pub use self::metrics::{MetricsError, parse_metrics};
pub use self::proxy::{Proxy, ProxyView, ServeError};
pub use self::run::serve;
pub use self::telemetry::TelemetrySection;
pub use self::trainer::{Training, train_worker};
