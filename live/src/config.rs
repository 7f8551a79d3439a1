//! What `lodestar serve` is told: one TOML file, or a few flags that stand for one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lodestar_router::{Information, PolicyConfig, RouterConfig};
use serde::Deserialize;

use crate::backend::{Backend, InvalidUrl};

/// Everything about a proxy. `docs/live.md` explains the file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServeConfig {
    /// Where clients connect.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// The vLLM servers. At least one.
    pub instances: Vec<InstanceEntry>,
    /// How requests are routed.
    #[serde(default)]
    pub router: RouterSection,
    /// Certificate and key, to speak TLS with clients.
    pub tls: Option<TlsFiles>,
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
}

/// How requests are routed.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouterSection {
    /// The policy and its parameters.
    pub policy: PolicyConfig,
    /// Tokens of a block, as vLLM's `--block-size`.
    pub block_tokens: u32,
    /// What the policy sees: all that Lodestar knows, or what its own implementation would.
    pub information: Information,
    /// Of what the policy draws at random.
    pub seed: u64,
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
    /// Requests at a time; one more is answered 503.
    pub concurrent_requests: u32,
    /// Instances that are tried for one request before its first byte.
    pub attempts: u32,
    /// Longest silence in the middle of an answer, seconds.
    pub idle_s: u64,
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
        Self { policy, block_tokens, information: Information::Ideal, seed: 0 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 64 << 20,
            concurrent_requests: 8192,
            attempts: 3,
            idle_s: 300,
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
    #[error("there is no instance; name at least one, as http://HOST:PORT")]
    NoInstance,
    /// An instance's URL.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// The same instance twice.
    #[error("instance `{0}` is named twice; remove one")]
    Twice(String),
    /// A number that is zero.
    #[error("`{0}` is 0; it must be at least 1")]
    Zero(&'static str),
    /// The policy would be blind.
    #[error(
        "policy `{0}` with information \"deployed\" learns by KV events, which `serve` does not read; use \
         information = \"ideal\""
    )]
    KvEvents(String),
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
            instances: urls.into_iter().map(|url| InstanceEntry { url }).collect(),
            router: RouterSection::default(),
            tls: None,
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
        if let (Some(tls), Some(folder)) = (&mut config.tls, path.parent()) {
            tls.certificates = folder.join(&tls.certificates);
            tls.key = folder.join(&tls.key);
        }
        Ok(config)
    }

    /// Checks what can be checked without a connection.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.backends()?;
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
        if self.router_config().uses_kv_events() {
            return Err(ConfigError::KvEvents(self.router.policy.name().into_owned()));
        }
        self.tls.as_ref().map(crate::tls::acceptor).transpose()?;
        Ok(())
    }

    pub(crate) fn backends(&self) -> Result<Vec<Backend>, ConfigError> {
        if self.instances.is_empty() {
            return Err(ConfigError::NoInstance);
        }
        let mut backends: Vec<Backend> = Vec::new();
        for entry in &self.instances {
            let backend = Backend::parse(&entry.url)?;
            if backends.iter().any(|known| known.url == backend.url) {
                return Err(ConfigError::Twice(backend.url));
            }
            backends.push(backend);
        }
        Ok(backends)
    }

    pub(crate) fn router_config(&self) -> RouterConfig {
        let RouterSection { policy, block_tokens, information, .. } = &self.router;
        RouterConfig {
            policy: policy.clone(),
            block_tokens: *block_tokens,
            information: *information,
        }
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
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("instances = []", "no instance"),
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
                "instances = [{url = 'http://a:1'}]\ntls = {certificates = 'c.pem', key = 'k.pem'}",
                "c.pem: ",
            ),
        ] {
            let message = check(text);
            assert!(message.contains(part), "{message}");
        }
    }
}
