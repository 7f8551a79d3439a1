//! Instances by the addresses of a name, asked of the system's resolver: it knows `/etc/hosts`, search domains and
//! caches, and a resolver of our own would have to learn them.

use std::time::Duration;

use tokio::time::timeout;

use super::{DiscoveryError, DnsDiscovery, Ports};
use crate::config::InstanceEntry;

/// A resolver that takes longer is asked again later.
const TIMEOUT: Duration = Duration::from_secs(5);

impl DnsDiscovery {
    pub(super) const fn ports(&self) -> Ports {
        Ports { http: self.port, kv_events: self.kv_events_port, kv_replay: self.kv_replay_port }
    }

    pub(super) async fn resolve(&self) -> Result<Vec<InstanceEntry>, DiscoveryError> {
        let fail = |complaint| DiscoveryError::Dns { host: self.host.clone(), complaint };
        let lookup = tokio::net::lookup_host((self.host.as_str(), self.port));
        let addresses = timeout(TIMEOUT, lookup)
            .await
            .map_err(|_| fail(format!("no answer in {} s", TIMEOUT.as_secs())))?
            .map_err(|error| fail(error.to_string()))?;
        Ok(self.ports().entries(addresses.map(|address| address.ip())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_becomes_addresses_or_a_complaint() {
        let dns = |host: &str| DnsDiscovery {
            host: host.to_owned(),
            port: 8000,
            kv_events_port: None,
            kv_replay_port: None,
        };
        let entries = dns("127.0.0.2").resolve().await.unwrap();
        assert_eq!(entries, [InstanceEntry::new("http://127.0.0.2:8000".to_owned())]);
        // RFC 6761: nobody may have this name.
        let message = dns("vllm.invalid").resolve().await.unwrap_err().to_string();
        assert!(message.starts_with("`discovery.dns`: vllm.invalid: "), "{message}");
    }
}
