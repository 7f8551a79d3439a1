//! What can be wrong with a configuration, and what to do about it.

use std::path::PathBuf;

use crate::admin::TokenError;
use crate::backend::InvalidUrl;
use crate::discovery::DiscoveryError;

/// A configuration that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {error}", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Not TOML, or not of this shape.
    #[error("{}: {error}", .path.display())]
    Toml {
        /// Which file.
        path: PathBuf,
        /// Line, field, and what is wrong.
        error: Box<toml::de::Error>,
    },
    /// No instance.
    #[error(
        "there is no instance; name at least one, as http://HOST:PORT, or say in `[discovery]` where to find them"
    )]
    NoInstance,
    /// Two lists.
    #[error("`instances` and `[discovery]` both name instances; remove one of them")]
    TwoLists,
    /// Instances cannot be found.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// An instance's URL.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// The same instance twice.
    #[error("instance `{0}` is named twice; remove one")]
    Twice(String),
    /// The token of administrators.
    #[error(transparent)]
    Admin(#[from] TokenError),
    /// A number that is zero.
    #[error("`{0}` is 0; it must be at least 1")]
    Zero(&'static str),
    /// A wait that nobody means.
    #[error("`{0}` is above a day, 86400; give it in seconds")]
    AboveADay(&'static str),
    /// The policy would be blind.
    #[error(
        "policy `{0}` with information \"deployed\" learns by KV events; give every instance its `kv_events` and name \
         `router.tokenizer`, or use information = \"ideal\""
    )]
    KvEvents(String),
    /// Where KV events come from.
    #[error("`{name}` of instance `{url}` is `{endpoint}`; write it as tcp://HOST:PORT")]
    KvEndpoint {
        /// Which instance.
        url: String,
        /// Which field.
        name: &'static str,
        /// What stands there.
        endpoint: String,
    },
    /// A replay of what nobody listens to.
    #[error("instance `{0}` has `kv_replay` and no `kv_events`; add it")]
    ReplayAlone(String),
    /// The tokenizer.
    #[error("{}: {complaint}; `router.tokenizer` must be the model's tokenizer.json", .path.display())]
    Tokenizer {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        complaint: String,
    },
    /// The chat template.
    #[error(
        "{}: {complaint}; `router.chat_template` must be the model's tokenizer_config.json or its template", .path.display()
    )]
    ChatTemplate {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        complaint: String,
    },
    /// A template for nothing.
    #[error("`router.chat_template` has no effect without `router.tokenizer`; name that too")]
    TemplateAlone,
    /// Who cuts prompts?
    #[error(
        "`router.tokenizer` and `router.engine_tokenizer` both cut prompts; remove one of them"
    )]
    TwoTokenizers,
    /// Nothing to keep.
    #[error("`{field}`: policy `{policy}` keeps nothing in a checkpoint; `lodestar` does")]
    NoCheckpoint {
        /// Which field.
        field: &'static str,
        /// Of which policy.
        policy: String,
    },
    /// Two writers of one file.
    #[error("`router.checkpoint` and `router.canary.checkpoint` are the same file; name another")]
    OneCheckpoint,
    /// No share.
    #[error("`{field}` is {percent}; it must be from 0 to 100")]
    Percent {
        /// Which field.
        field: &'static str,
        /// What stands there.
        percent: f64,
    },
    /// Where traces go.
    #[error("`telemetry.otlp_endpoint` is `{url}`: {complaint}; write it as http://HOST:4318")]
    OtlpEndpoint {
        /// What stands there, or in the environment.
        url: String,
        /// What is wrong.
        complaint: &'static str,
    },
    /// Traces go nowhere.
    #[error(
        "`[telemetry]` has no `otlp_endpoint`, and OTEL_EXPORTER_OTLP_ENDPOINT is not set; name a collector"
    )]
    NoOtlpEndpoint,
    /// The exporter, by a variable of the environment.
    #[error("`[telemetry]`: {0}; correct the variable OTEL_EXPORTER_OTLP_...")]
    Telemetry(String),
    /// Certificates or key.
    #[error("{}: {complaint}", .path.display())]
    Tls {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        complaint: String,
    },
}
