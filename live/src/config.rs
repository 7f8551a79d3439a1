//! What `lodestar serve` is told: one TOML file, or a few flags that stand for one.

mod error;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lodestar_router::{Information, InstanceNames, PolicyConfig, Router, RouterConfig};
use serde::Deserialize;

use crate::admin::AdminSection;
use crate::arms::{Arm, Arms};
use crate::backend::Backend;
use crate::chat_template::ChatTemplate;
use crate::discovery::Discovery;
use crate::kv_events::KvEndpoints;
use crate::prompt::{self, PromptReader};
use crate::telemetry::TelemetrySection;
use crate::trainer::Training;

pub use error::ConfigError;

/// Everything about a proxy. `docs/live.md` explains the file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServeConfig {
    /// Where clients connect.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// The vLLM servers, if the list does not change.
    #[serde(default)]
    pub instances: Vec<InstanceEntry>,
    /// Where they are found, if it does.
    pub discovery: Option<Discovery>,
    /// Who may look and change things while it runs; absent: nobody.
    pub admin: Option<AdminSection>,
    /// How requests are routed.
    #[serde(default)]
    pub router: RouterSection,
    /// Certificate and key, to speak TLS with clients.
    pub tls: Option<TlsFiles>,
    /// PEM file of those who certify instances with `https`; absent: those that the system trusts.
    pub instance_authorities: Option<PathBuf>,
    /// Where traces of requests go; absent: there are none.
    pub telemetry: Option<TelemetrySection>,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
}

/// One vLLM server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceEntry {
    /// Such as `http://10.0.0.7:8000`.
    pub url: String,
    /// Where it publishes KV events (vLLM's `--kv-events-config`, `endpoint`), such as `tcp://10.0.0.7:5557`.
    pub kv_events: Option<String>,
    /// Where it repeats them (`replay_endpoint`).
    pub kv_replay: Option<String>,
}

/// How requests are routed.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouterSection {
    /// The policy and its parameters.
    pub policy: PolicyConfig,
    /// Tokens of a block, as vLLM's `--block-size`.
    pub block_tokens: u32,
    /// `tokenizer.json` of the model: completions are cut into blocks exactly as engines do.
    pub tokenizer: Option<PathBuf>,
    /// `tokenizer_config.json` of the model, or a Jinja template: so are chats.
    pub chat_template: Option<PathBuf>,
    /// Engines are asked for the tokens of prompts (`/tokenize`), as long as they answer at once.
    pub engine_tokenizer: bool,
    /// Answers say which instance gave them, and why that one.
    pub response_headers: bool,
    /// Engines are asked to say in their answers how they stand.
    pub load_header: bool,
    /// What the policy sees: all that Lodestar knows, or what its own implementation would.
    pub information: Information,
    /// Of what the policy draws at random.
    pub seed: u64,
    /// Where what the policy has learned is kept: read at the start, written each minute and at the end.
    pub checkpoint: Option<PathBuf>,
    /// Folder for what the router is told and decides, a file each start.
    pub log: Option<PathBuf>,
    /// Where the policy's models are trained.
    pub training: Training,
    /// A second policy that is told everything and decides for a part of the requests, or for none.
    pub canary: Option<CanarySection>,
}

/// A second policy, on trial beside `router.policy`. Everything else of the section is its too.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CanarySection {
    /// The policy and its parameters.
    pub policy: PolicyConfig,
    /// Sessions in a hundred for which it decides. 0: it only says what it would do.
    #[serde(default)]
    pub rollout_percent: f64,
    /// Where what it has learned is kept.
    pub checkpoint: Option<PathBuf>,
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Certificate chain, the server's first.
    pub certificates: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// Bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest body of a request, bytes; a longer one is answered 413.
    pub body_bytes: usize,
    /// Requests that are served at a time; others wait.
    pub concurrent_requests: u32,
    /// Requests that may wait; one more is answered 503.
    pub queue: u32,
    /// Longest wait, seconds; then 503.
    pub queue_s: u64,
    /// Instances that are tried for one request before its first byte.
    pub attempts: u32,
    /// Longest silence in the middle of an answer, seconds.
    pub idle_s: u64,
    /// How long an engine may make no progress while requests of ours are there, seconds; 0: for ever.
    pub stall_s: u64,
    /// How long requests may take to end after SIGTERM, seconds.
    pub drain_s: u64,
}

const fn default_listen() -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080)
}

impl Default for RouterSection {
    fn default() -> Self {
        let policy = PolicyConfig::from_name("prefix-cache").expect("the router knows it");
        let RouterConfig { policy, block_tokens, .. } = RouterConfig::new(policy);
        Self {
            policy,
            block_tokens,
            tokenizer: None,
            chat_template: None,
            engine_tokenizer: false,
            response_headers: false,
            load_header: false,
            information: Information::Ideal,
            seed: 0,
            checkpoint: None,
            log: None,
            training: Training::default(),
            canary: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 64 << 20,
            concurrent_requests: 8192,
            queue: 1024,
            queue_s: 10,
            attempts: 3,
            idle_s: 300,
            stall_s: 30,
            drain_s: 60,
        }
    }
}

impl ServeConfig {
    /// Defaults for everything but the instances.
    pub fn new(urls: impl IntoIterator<Item = String>) -> Self {
        Self {
            listen: default_listen(),
            instances: urls.into_iter().map(InstanceEntry::new).collect(),
            discovery: None,
            admin: None,
            router: RouterSection::default(),
            tls: None,
            instance_authorities: None,
            telemetry: None,
            limits: Limits::default(),
        }
    }

    /// Reads a file. Paths in it are relative to it.
    ///
    /// # Errors
    /// When it cannot be read, or where it is wrong.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        let mut config: Self = toml::from_str(&text)
            .map_err(|error| ConfigError::Toml { path: path.to_owned(), error: Box::new(error) })?;
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        let RouterSection { tokenizer, chat_template, checkpoint, log, canary, .. } =
            &mut config.router;
        let canary_checkpoint = canary.as_mut().and_then(|canary| canary.checkpoint.as_mut());
        let tls = config.tls.iter_mut().flat_map(|tls| [&mut tls.certificates, &mut tls.key]);
        let tls = tls.chain(&mut config.instance_authorities);
        let files = tls
            .chain(tokenizer)
            .chain(chat_template)
            .chain(checkpoint)
            .chain(canary_checkpoint)
            .chain(log);
        for file in files {
            *file = folder.join(&file);
        }
        if let Some(discovery) = &mut config.discovery {
            discovery.resolve(folder);
        }
        if let Some(admin) = &mut config.admin {
            admin.resolve(folder);
        }
        Ok(config)
    }

    /// Checks what can be checked without a connection.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        let entries = self.entries()?;
        backends(&entries, self.listens())?;
        let limits = &self.limits;
        for (name, value) in [
            ("router.block_tokens", u64::from(self.router.block_tokens)),
            ("limits.body_bytes", limits.body_bytes as u64),
            ("limits.concurrent_requests", u64::from(limits.concurrent_requests)),
            ("limits.attempts", u64::from(limits.attempts)),
            ("limits.idle_s", limits.idle_s),
        ] {
            if value == 0 {
                return Err(ConfigError::Zero(name));
            }
        }
        for (name, seconds) in [
            ("limits.queue_s", limits.queue_s),
            ("limits.idle_s", limits.idle_s),
            ("limits.stall_s", limits.stall_s),
            ("limits.drain_s", limits.drain_s),
        ] {
            if seconds > 86_400 {
                return Err(ConfigError::AboveADay(name));
            }
        }
        self.check_arms(&entries)?;
        self.tls.as_ref().map(crate::tls::acceptor).transpose()?;
        let authorities = self.instance_authorities.as_deref();
        authorities.map(|path| crate::tls::towards_instances(Some(path))).transpose()?;
        self.prompt_reader()?;
        self.admin.as_ref().map(AdminSection::check).transpose()?;
        self.telemetry.as_ref().map(TelemetrySection::check).transpose()?;
        Ok(())
    }

    /// Who decides for whom, a line each.
    pub fn summary(&self) -> Vec<String> {
        let name = |policy: &PolicyConfig| policy.name().into_owned();
        let baseline = name(&self.router.policy);
        let Some(canary) = &self.router.canary else {
            return vec![format!("policy `{baseline}` decides for all requests")];
        };
        let (percent, canary) = (canary.rollout_percent, name(&canary.policy));
        let rest = 100.0 - percent;
        let part = if percent > 0.0 {
            format!("decides for {percent} % of the sessions; SIGUSR1 stops it")
        } else {
            "only watches".to_owned()
        };
        vec![
            format!("baseline: policy `{baseline}` decides for {rest} % of the sessions"),
            format!("canary: policy `{canary}` {part}"),
        ]
    }

    /// Checks what the policies need.
    fn check_arms(&self, entries: &[InstanceEntry]) -> Result<(), ConfigError> {
        for arm in Arm::BOTH {
            let Some(config) = self.router_config(arm) else { continue };
            check_kv_events(&config, entries, self.listens())?;
            let policy = config.policy.name().into_owned();
            let router = Router::new(config, self.router.seed);
            let keeps = router.checkpoint(&InstanceNames::new()).is_some();
            if self.checkpoint(arm).is_some() && !keeps {
                let field = match arm {
                    Arm::Baseline => "router.checkpoint",
                    Arm::Canary => "router.canary.checkpoint",
                };
                return Err(ConfigError::NoCheckpoint { field, policy });
            }
        }
        let Some(canary) = &self.router.canary else { return Ok(()) };
        if canary.checkpoint.is_some() && canary.checkpoint == self.router.checkpoint {
            return Err(ConfigError::OneCheckpoint);
        }
        if !(0.0..=100.0).contains(&canary.rollout_percent) {
            let (field, percent) = ("router.canary.rollout_percent", canary.rollout_percent);
            return Err(ConfigError::Percent { field, percent });
        }
        Ok(())
    }

    /// What is told and has no effect.
    pub fn warnings(&self) -> Vec<String> {
        let publishes =
            |entries: Vec<InstanceEntry>| entries.iter().any(|entry| entry.kv_events.is_some());
        let silent = !self.listens() && self.entries().is_ok_and(publishes);
        let warning = "`kv_events` of instances are ignored: without `router.tokenizer` their blocks are not those of \
                       prompts";
        let discovery = self.discovery.as_ref().and_then(Discovery::warning);
        silent.then(|| warning.to_owned()).into_iter().chain(discovery).collect()
    }

    /// What is known of instances without a connection.
    fn entries(&self) -> Result<Vec<InstanceEntry>, ConfigError> {
        match &self.discovery {
            Some(_) if !self.instances.is_empty() => Err(ConfigError::TwoLists),
            Some(discovery) => Ok(discovery.check()?),
            None if self.instances.is_empty() && self.admin.is_none() => {
                Err(ConfigError::NoInstance)
            }
            None => Ok(self.instances.clone()),
        }
    }

    /// Whether KV events are of use: blocks of tokens beside blocks of bytes would only be in each other's way.
    pub(crate) const fn listens(&self) -> bool {
        self.router.tokenizer.is_some() || self.router.engine_tokenizer
    }

    pub(crate) fn prompt_reader(&self) -> Result<PromptReader, ConfigError> {
        let read = |path: &PathBuf| {
            prompt::read_tokenizer(path)
                .map_err(|complaint| ConfigError::Tokenizer { path: path.clone(), complaint })
        };
        let tokenizer = self.router.tokenizer.as_ref().map(read).transpose()?;
        if self.router.engine_tokenizer && tokenizer.is_some() {
            return Err(ConfigError::TwoTokenizers);
        }
        if self.router.chat_template.is_some() && tokenizer.is_none() {
            return Err(ConfigError::TemplateAlone);
        }
        let read = |path: &PathBuf| {
            ChatTemplate::read(path)
                .map_err(|complaint| ConfigError::ChatTemplate { path: path.clone(), complaint })
        };
        let template = self.router.chat_template.as_ref().map(read).transpose()?;
        Ok(PromptReader::new(self.router.block_tokens, tokenizer).with_template(template))
    }

    /// The configuration of the first router.
    pub(crate) fn baseline(&self) -> RouterConfig {
        let RouterSection { policy, block_tokens, information, .. } = &self.router;
        RouterConfig {
            policy: policy.clone(),
            block_tokens: *block_tokens,
            information: *information,
        }
    }

    /// A router's configuration; `None` for a canary that there is not.
    pub(crate) fn router_config(&self, arm: Arm) -> Option<RouterConfig> {
        let baseline = self.baseline();
        match arm {
            Arm::Baseline => Some(baseline),
            Arm::Canary => {
                let policy = self.router.canary.as_ref()?.policy.clone();
                Some(RouterConfig { policy, ..baseline })
            }
        }
    }

    /// Where what a router has learned is kept.
    pub(crate) fn checkpoint(&self, arm: Arm) -> Option<&Path> {
        match arm {
            Arm::Baseline => self.router.checkpoint.as_deref(),
            Arm::Canary => self.router.canary.as_ref()?.checkpoint.as_deref(),
        }
    }

    /// The routers, which write down everything if there is a log.
    pub(crate) fn arms(&self) -> Arms {
        let new = if self.router.log.is_some() { Router::recording } else { Router::new };
        let router = |config| new(config, self.router.seed);
        let arms = Arms::new(router(self.baseline()));
        match (&self.router.canary, self.router_config(Arm::Canary)) {
            (Some(canary), Some(config)) => {
                arms.with_canary(router(config.clone()), config, canary.rollout_percent)
            }
            _ => arms,
        }
    }
}

/// The servers of a list; without KV events if nobody `listens`.
pub(crate) fn backends(
    entries: &[InstanceEntry],
    listens: bool,
) -> Result<Vec<Backend>, ConfigError> {
    let mut backends: Vec<Backend> = Vec::new();
    for entry in entries {
        let mut backend = Backend::parse(&entry.url)?;
        backend.kv_endpoints = entry.kv_endpoints()?.filter(|_| listens);
        if backends.iter().any(|known| known.url == backend.url) {
            return Err(ConfigError::Twice(backend.url));
        }
        backends.push(backend);
    }
    Ok(backends)
}

/// A policy that learns of caches by KV events alone must hear them of everybody.
pub(crate) fn check_kv_events(
    router: &RouterConfig,
    entries: &[InstanceEntry],
    listens: bool,
) -> Result<(), ConfigError> {
    let hears_all = listens && entries.iter().all(|entry| entry.kv_events.is_some());
    if router.needs_kv_events() && !hears_all {
        return Err(ConfigError::KvEvents(router.policy.name().into_owned()));
    }
    Ok(())
}

impl InstanceEntry {
    /// One that is known by its URL alone.
    pub const fn new(url: String) -> Self {
        Self { url, kv_events: None, kv_replay: None }
    }

    fn kv_endpoints(&self) -> Result<Option<KvEndpoints>, ConfigError> {
        let fields = [("kv_events", &self.kv_events), ("kv_replay", &self.kv_replay)];
        for (name, endpoint) in fields {
            let Some(endpoint) = endpoint else { continue };
            if !matches!(endpoint.parse(), Ok(zeromq::Endpoint::Tcp(..))) {
                let (url, endpoint) = (self.url.clone(), endpoint.clone());
                return Err(ConfigError::KvEndpoint { url, name, endpoint });
            }
        }
        if self.kv_events.is_none() && self.kv_replay.is_some() {
            return Err(ConfigError::ReplayAlone(self.url.clone()));
        }
        let endpoints = |events| KvEndpoints { events, replay: self.kv_replay.clone() };
        Ok(self.kv_events.clone().map(endpoints))
    }
}

#[cfg(test)]
mod tests;
