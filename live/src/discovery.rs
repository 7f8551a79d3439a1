//! Where the list of instances comes from when it is not a part of the configuration: a file, DNS or Kubernetes.
//!
//! Each is asked anew every few seconds for the whole list. Being told of changes (inotify, a watch of the API
//! server) would be faster by as much, and would need a second way for what is missed; and an instance that dies is
//! found out by its monitor before any list knows. A source that does not answer, or answers nonsense, changes
//! nothing.

mod dns;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod kubernetes;

use std::convert::Infallible;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::sleep;
use tracing::{info, warn};

use self::kubernetes::EndpointSlices;
use crate::config::InstanceEntry;
use crate::membership::{Membership, Origin};

/// `[discovery]`: one way to find instances.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Discovery {
    /// A file with `instances` as in the configuration: TOML, or JSON if its name ends in `.json`.
    File(PathBuf),
    /// The addresses of a host name.
    Dns(DnsDiscovery),
    /// The ready endpoints of a Kubernetes service.
    Kubernetes(KubernetesDiscovery),
}

/// The addresses of a host name, such as that of a headless service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsDiscovery {
    /// The name.
    pub host: String,
    /// Where each of them serves.
    pub port: u16,
    /// Where each of them publishes KV events, if it does.
    pub kv_events_port: Option<u16>,
    /// Where each of them repeats KV events.
    pub kv_replay_port: Option<u16>,
}

/// The ready endpoints of a service, as its EndpointSlices list them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesDiscovery {
    /// Name of the service.
    pub service: String,
    /// Where it is; if absent, where the proxy's own pod is.
    pub namespace: Option<String>,
    /// Where each of them serves: a number, or the name of one of the service's ports.
    pub port: PortName,
    /// Where each of them publishes KV events, if it does.
    pub kv_events_port: Option<u16>,
    /// Where each of them repeats KV events.
    pub kv_replay_port: Option<u16>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum PortName {
    /// By its number.
    Number(u16),
    /// By its name.
    Name(String),
}

/// Why instances cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The file of instances, or of the service account.
    #[error("`discovery`: {}: {error}", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file of instances is not one.
    #[error(
        "`discovery.file`: {}: {complaint}; write it as `instances` in the configuration", .path.display()
    )]
    File {
        /// Which file.
        path: PathBuf,
        /// Where and what.
        complaint: String,
    },
    /// The host has no address.
    #[error("`discovery.dns`: {host}: {complaint}")]
    Dns {
        /// Which host.
        host: String,
        /// Why.
        complaint: String,
    },
    /// A name that Kubernetes would not accept.
    #[error(
        "`discovery.kubernetes.{field}` is `{name}`; Kubernetes' names are letters, digits and `-`"
    )]
    Name {
        /// Which field.
        field: &'static str,
        /// What stands there.
        name: String,
    },
    /// Without a cluster.
    #[error(
        "`discovery.kubernetes`: KUBERNETES_SERVICE_HOST is not set; it works in a pod of the cluster only"
    )]
    NotInACluster,
    /// The API server.
    #[error("`discovery.kubernetes`: {0}")]
    Kubernetes(String),
    /// Replays of what nobody listens to.
    #[error("`discovery` has `kv_replay_port` and no `kv_events_port`; add it")]
    ReplayAlone,
}

/// A source that can be asked.
#[derive(Debug)]
pub(crate) enum Source {
    File(PathBuf),
    Dns(DnsDiscovery),
    Kubernetes(Box<EndpointSlices>),
}

impl Discovery {
    /// Makes its path relative to a folder.
    pub(crate) fn resolve(&mut self, folder: &Path) {
        if let Self::File(path) = self {
            *path = folder.join(&path);
        }
    }

    /// What can be said of its instances without a connection: all those of a file, one that stands for the others
    /// else.
    pub(crate) fn check(&self) -> Result<Vec<InstanceEntry>, DiscoveryError> {
        let ports = match self {
            Self::File(path) => return file::read(path),
            Self::Dns(dns) => dns.ports(),
            Self::Kubernetes(kubernetes) => {
                kubernetes.check_names()?;
                kubernetes.ports()
            }
        };
        if ports.kv_events.is_none() && ports.kv_replay.is_some() {
            return Err(DiscoveryError::ReplayAlone);
        }
        Ok(vec![ports.entry(IpAddr::from([127, 0, 0, 1]))])
    }

    /// What keeps it from working where this process runs.
    pub(crate) fn warning(&self) -> Option<String> {
        let is_outside =
            matches!(self, Self::Kubernetes(_)) && std::env::var_os(kubernetes::HOST).is_none();
        is_outside.then(|| DiscoveryError::NotInACluster.to_string())
    }
}

impl Source {
    pub(crate) fn new(discovery: &Discovery) -> Result<Self, DiscoveryError> {
        Ok(match discovery {
            Discovery::File(path) => Self::File(path.clone()),
            Discovery::Dns(dns) => Self::Dns(dns.clone()),
            Discovery::Kubernetes(kubernetes) => {
                Self::Kubernetes(Box::new(EndpointSlices::in_cluster(kubernetes)?))
            }
        })
    }

    /// Time between two questions.
    const fn period(&self) -> Duration {
        match self {
            Self::File(_) => Duration::from_secs(1),
            Self::Kubernetes(_) => Duration::from_secs(2),
            Self::Dns(_) => Duration::from_secs(5),
        }
    }

    /// The instances now.
    pub(crate) async fn instances(&self) -> Result<Vec<InstanceEntry>, DiscoveryError> {
        match self {
            // A small file, a thousand times faster than its period.
            Self::File(path) => file::read(path),
            Self::Dns(dns) => dns.resolve().await,
            Self::Kubernetes(slices) => slices.list().await,
        }
    }

    /// Keeps the list of instances up to date for ever; `last` is the one that is in use.
    pub(crate) async fn follow(
        self,
        membership: Arc<Membership>,
        mut last: Vec<InstanceEntry>,
    ) -> Infallible {
        let mut last_complaint = String::new();
        loop {
            sleep(self.period()).await;
            let listed = match self.instances().await {
                Ok(entries) if entries == last => Ok(()),
                Ok(entries) => {
                    info!("{} instances are listed", entries.len());
                    let set = membership.set(Origin::Discovery, &entries).await;
                    set.map(|()| last = entries).map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            let complaint = listed.err().unwrap_or_default();
            if complaint != last_complaint && !complaint.is_empty() {
                warn!("{complaint}; the instances stay as they are");
            }
            last_complaint = complaint;
        }
    }
}

/// Ports of instances that differ in their addresses only.
#[derive(Clone, Copy, Debug)]
struct Ports {
    http: u16,
    kv_events: Option<u16>,
    kv_replay: Option<u16>,
}

impl Ports {
    fn entry(&self, address: IpAddr) -> InstanceEntry {
        let at = |port: u16| std::net::SocketAddr::new(address, port);
        let mut entry = InstanceEntry::new(format!("http://{}", at(self.http)));
        entry.kv_events = self.kv_events.map(|port| format!("tcp://{}", at(port)));
        entry.kv_replay = self.kv_replay.map(|port| format!("tcp://{}", at(port)));
        entry
    }

    /// An instance for each address. Where there are two networks, instances have an address in both: only the IPv4 ones count
    /// then.
    fn entries(&self, addresses: impl IntoIterator<Item = IpAddr>) -> Vec<InstanceEntry> {
        let mut addresses: Vec<_> = addresses.into_iter().collect();
        if addresses.iter().any(IpAddr::is_ipv4) {
            addresses.retain(IpAddr::is_ipv4);
        }
        addresses.sort_unstable();
        addresses.dedup();
        addresses.into_iter().map(|address| self.entry(address)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_with_two_addresses_is_one() {
        let ports = Ports { http: 8000, kv_events: Some(5557), kv_replay: None };
        let entries = |addresses: &[&str]| {
            let parsed = addresses.iter().map(|address| address.parse().unwrap());
            ports.entries(parsed).into_iter().map(|entry| entry.url).collect::<Vec<_>>()
        };
        assert_eq!(
            entries(&["fd00::1", "10.0.0.9", "10.0.0.1", "10.0.0.9"]),
            ["http://10.0.0.1:8000", "http://10.0.0.9:8000"]
        );
        assert_eq!(entries(&["fd00::1"]), ["http://[fd00::1]:8000"]);
        let entry = ports.entry("fd00::1".parse().unwrap());
        assert_eq!(entry.kv_events.as_deref(), Some("tcp://[fd00::1]:5557"));
    }
}
