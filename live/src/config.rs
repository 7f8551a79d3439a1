//! What `lodestar serve` is told: one TOML file, or a few flags that stand for one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lodestar_router::{Information, InstanceNames, PolicyConfig, Router, RouterConfig};
use serde::Deserialize;

use crate::admin::{AdminSection, TokenError};
use crate::arms::{Arm, Arms};
use crate::backend::{Backend, InvalidUrl};
use crate::discovery::{Discovery, DiscoveryError};
use crate::kv_events::KvEndpoints;
use crate::prompt::{self, PromptReader};
use crate::trainer::Training;

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
    #[error("`router.canary.rollout_percent` is {0}; it must be from 0 to 100")]
    Percent(f64),
    /// Certificates or key.
    #[error("{}: {complaint}", .path.display())]
    Tls {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        complaint: String,
    },
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
        let RouterSection { tokenizer, checkpoint, log, canary, .. } = &mut config.router;
        let canary_checkpoint = canary.as_mut().and_then(|canary| canary.checkpoint.as_mut());
        let tls = config.tls.iter_mut().flat_map(|tls| [&mut tls.certificates, &mut tls.key]);
        let tls = tls.chain(&mut config.instance_authorities);
        let files = tls.chain(tokenizer).chain(checkpoint).chain(canary_checkpoint).chain(log);
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
        self.check_arms(&entries)?;
        self.tls.as_ref().map(crate::tls::acceptor).transpose()?;
        let authorities = self.instance_authorities.as_deref();
        authorities.map(|path| crate::tls::towards_instances(Some(path))).transpose()?;
        self.prompt_reader()?;
        self.admin.as_ref().map(AdminSection::check).transpose()?;
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
            return Err(ConfigError::Percent(canary.rollout_percent));
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
        self.router.tokenizer.is_some()
    }

    pub(crate) fn prompt_reader(&self) -> Result<PromptReader, ConfigError> {
        let read = |path: &PathBuf| {
            prompt::read_tokenizer(path)
                .map_err(|complaint| ConfigError::Tokenizer { path: path.clone(), complaint })
        };
        let tokenizer = self.router.tokenizer.as_ref().map(read).transpose()?;
        Ok(PromptReader::new(self.router.block_tokens, tokenizer))
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
    if router.uses_kv_events() && !hears_all {
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
mod tests {
    use super::*;

    fn check(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serve.toml");
        std::fs::write(&path, text).unwrap();
        let result = ServeConfig::read(&path).and_then(|config| config.check());
        result.map_or_else(|error| error.to_string(), |()| "ok".to_owned())
    }

    #[test]
    fn a_file_is_read_with_defaults() {
        let text = "listen = '0.0.0.0:80'\ninstances = [{url = 'http://a:1'}, {url = 'http://b:1/'}]\n\
            [router]\npolicy = {name = 'least-request'}\n[limits]\nattempts = 2\n";
        assert_eq!(check(text), "ok");
        let config: ServeConfig = toml::from_str(text).unwrap();
        assert_eq!((config.limits.attempts, config.limits.idle_s), (2, 300));
        assert_eq!(config.router.information, Information::Ideal);
    }

    #[test]
    fn who_decides_is_said() {
        let summary = |canary: &str| {
            let text = format!("instances = [{{url = 'http://a:1'}}]\n{canary}");
            toml::from_str::<ServeConfig>(&text).unwrap().summary().join("\n")
        };
        assert_eq!(summary(""), "policy `prefix-cache` decides for all requests");
        assert_eq!(
            summary("router.canary.policy = {name = 'lodestar'}"),
            "baseline: policy `prefix-cache` decides for 100 % of the sessions\n\
             canary: policy `lodestar` only watches"
        );
        assert_eq!(
            summary("router.canary = {policy = {name = 'lodestar'}, rollout_percent = 2.5}"),
            "baseline: policy `prefix-cache` decides for 97.5 % of the sessions\n\
             canary: policy `lodestar` decides for 2.5 % of the sessions; SIGUSR1 stops it"
        );
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let text =
            "instances = [{url = 'http://a:1', kv_events = 'tcp://a:2', kv_replay = 'tcp://a:3'}]";
        assert_eq!(check(text), "ok");
        assert_eq!(check("discovery.dns = {host = 'b', port = 1}"), "ok");
        let config: ServeConfig = toml::from_str(text).unwrap();
        assert!(config.warnings()[0].contains("ignored: without `router.tokenizer`"));
        assert_eq!(backends(&config.instances, config.listens()).unwrap()[0].kv_endpoints, None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("instances = []", "no instance"),
            ("", "no instance"),
            (
                "instances = [{url = 'http://a:1'}]\ndiscovery.file = 'list.toml'",
                "both name instances; remove one",
            ),
            ("discovery.file = 'list.toml'", "list.toml: "),
            ("instances = [{url = 'http://a:1'}]\nadmin.token_file = 't'", "`admin.token_file`: "),
            (
                "instances = [{url = 'http://a:1'}]\nadmin = {token_file = 't', token_env = 'T'}",
                "wanted exactly 1 element",
            ),
            ("discovery = {file = 'a', dns = {host = 'b', port = 1}}", "wanted exactly 1 element"),
            ("discovery.dns = {host = 'b', port = 1, kv_replay_port = 2}", "add it"),
            (
                "discovery.kubernetes = {service = 'a/b', port = 1}",
                "`discovery.kubernetes.service` is `a/b`",
            ),
            (
                "discovery.dns = {host = 'b', port = 1}\n\
                 router = {policy = {name = 'dynamo'}, information = 'deployed'}",
                "give every instance its `kv_events`",
            ),
            (
                "instances = [{url = 'http://a:1'}, {url = 'http://a:1/'}]",
                "`http://a:1` is named twice",
            ),
            ("instances = [{url = 'a:1'}]", "instance `a:1`: "),
            ("instances = [{url = 'http://a:1'}]\nlimit = 1", "unknown field `limit`"),
            ("instances = [{url = 'http://a:1'}]\nlimits.attempts = 0", "`limits.attempts` is 0"),
            (
                "instances = [{url = 'http://a:1'}]\nrouter.policy = {name = 'x'}",
                "unknown variant `x`",
            ),
            (
                "instances = [{url = 'http://a:1'}]\nrouter.checkpoint = 'c.json'",
                "policy `prefix-cache` keeps nothing in a checkpoint",
            ),
            (
                "instances = [{url = 'http://a:1'}]\ntls = {certificates = 'c.pem', key = 'k.pem'}",
                "c.pem: ",
            ),
            ("instances = [{url = 'https://a:1'}]\ninstance_authorities = 'a.pem'", "a.pem: "),
            (
                "instances = [{url = 'http://a:1', kv_events = 'a:2'}]",
                "`kv_events` of instance `http://a:1` is `a:2`; write it as tcp://HOST:PORT",
            ),
            (
                "instances = [{url = 'http://a:1', kv_replay = 'tcp://a:2'}]",
                "has `kv_replay` and no `kv_events`",
            ),
            (
                "instances = [{url = 'http://a:1'}]\nrouter.tokenizer = 'absent.json'",
                "absent.json: ",
            ),
            (
                "instances = [{url = 'http://a:1', kv_events = 'tcp://a:2'}]\n\
                 router = {policy = {name = 'dynamo'}, information = 'deployed'}",
                "give every instance its `kv_events`",
            ),
        ] {
            let message = check(text);
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_canary_is_named() {
        for (text, part) in [
            (
                "instances = [{url = 'http://a:1'}]\nrouter.canary = {policy = {name = 'random'}, rollout_percent = 101}",
                "`router.canary.rollout_percent` is 101; it must be from 0 to 100",
            ),
            (
                "instances = [{url = 'http://a:1'}]\nrouter.canary = {policy = {name = 'random'}, checkpoint = 'c.json'}",
                "`router.canary.checkpoint`: policy `random` keeps nothing",
            ),
            (
                "instances = [{url = 'http://a:1'}]\n[router]\npolicy = {name = 'lodestar'}\ncheckpoint = 'c.json'\n\
                 canary = {policy = {name = 'lodestar'}, checkpoint = 'c.json'}",
                "are the same file",
            ),
            (
                "admin.token_env = 'T'\nrouter.information = 'deployed'\nrouter.canary.policy = {name = 'dynamo'}",
                "policy `dynamo` with information \"deployed\"",
            ),
            (
                "discovery.dns = {host = 'b', port = 1}\nrouter.information = 'deployed'\n\
                 router.canary.policy = {name = 'dynamo'}",
                "policy `dynamo` with information \"deployed\"",
            ),
        ] {
            let message = check(text);
            assert!(message.contains(part), "{message}");
        }
    }
}
