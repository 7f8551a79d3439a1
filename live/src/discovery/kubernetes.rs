//! Instances by the EndpointSlices of a Kubernetes service, from inside the cluster.
//!
//! The list is asked for again and again. A watch would be told of changes a second earlier, for resource versions
//! that expire, bookmarks, and lists in any case whenever it breaks; one list every two seconds is nothing to an API server.
//! No `kube`: of its API this needs one GET.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use tokio::time::timeout;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{DiscoveryError, KubernetesDiscovery, PortName, Ports};
use crate::backend::chain;
use crate::config::InstanceEntry;

/// Every pod has this variable.
pub(super) const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";
/// Token, CA and namespace of the pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TIMEOUT: Duration = Duration::from_secs(5);
/// Of a list: a thousand endpoints are half a megabyte.
const LIST_BYTES: usize = 16 << 20;

/// A service whose endpoints can be asked for.
#[derive(Debug)]
pub(crate) struct EndpointSlices {
    uri: Uri,
    token: PathBuf,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    service: KubernetesDiscovery,
}

impl KubernetesDiscovery {
    pub(super) fn ports(&self) -> Ports {
        let http = if let PortName::Number(port) = self.port { port } else { 0 };
        Ports { http, kv_events: self.kv_events_port, kv_replay: self.kv_replay_port }
    }

    /// Names stand in a path and in a selector.
    pub(super) fn check_names(&self) -> Result<(), DiscoveryError> {
        let namespace = self.namespace.as_ref().map(|name| ("namespace", name));
        for (field, name) in [("service", &self.service)].into_iter().chain(namespace) {
            let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if name.is_empty() || !name.chars().all(is_name) {
                return Err(DiscoveryError::Name { field, name: name.clone() });
            }
        }
        Ok(())
    }
}

impl EndpointSlices {
    /// With the pod's service account.
    pub(super) fn in_cluster(service: &KubernetesDiscovery) -> Result<Self, DiscoveryError> {
        let host = std::env::var(HOST).map_err(|_| DiscoveryError::NotInACluster)?;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let port = std::env::var(PORT).unwrap_or_else(|_| "443".to_owned());
        Self::at(&format!("https://{host}:{port}"), Path::new(SERVICE_ACCOUNT), service)
    }

    fn at(
        server: &str,
        account: &Path,
        service: &KubernetesDiscovery,
    ) -> Result<Self, DiscoveryError> {
        let namespace = match &service.namespace {
            Some(namespace) => namespace.clone(),
            None => read(&account.join("namespace"))?.trim().to_owned(),
        };
        let uri = format!(
            "{server}/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices\
             ?labelSelector=kubernetes.io%2Fservice-name%3D{}",
            service.service
        );
        let uri = uri.parse().map_err(|error| fail(format!("{uri}: {error}")))?;
        let tls = tls(&account.join("ca.crt"))?;
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { uri, token: account.join("token"), client, service: service.clone() })
    }

    /// The ready endpoints now.
    pub(super) async fn list(&self) -> Result<Vec<InstanceEntry>, DiscoveryError> {
        let answer = timeout(TIMEOUT, self.ask()).await;
        let page = answer.map_err(|_| fail(format!("no answer in {} s", TIMEOUT.as_secs())))??;
        parse(&page, &self.service)
    }

    async fn ask(&self) -> Result<Bytes, DiscoveryError> {
        // Tokens are exchanged every hour.
        let token = read(&self.token)?;
        let mut token = HeaderValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| fail(format!("{} is not a token", self.token.display())))?;
        token.set_sensitive(true);
        let request = Request::get(self.uri.clone())
            .header(AUTHORIZATION, token)
            .header(ACCEPT, "application/json")
            .body(Empty::new())
            .map_err(|error| fail(error.to_string()))?;
        let response = self.client.request(request).await.map_err(|error| fail(chain(&error)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LIST_BYTES).collect().await;
        let body = body.map_err(|error| fail(format!("the answer broke off: {error}")))?;
        match status {
            StatusCode::OK => Ok(body.to_bytes()),
            StatusCode::FORBIDDEN => Err(fail(
                "the service account may not list endpointslices of discovery.k8s.io; give it a Role as \
                 scripts/deploy/kubernetes-gateway.yaml does"
                    .to_owned(),
            )),
            _ => Err(fail(format!("the API server answers {status}"))),
        }
    }
}

const fn fail(complaint: String) -> DiscoveryError {
    DiscoveryError::Kubernetes(complaint)
}

fn read(path: &Path) -> Result<String, DiscoveryError> {
    std::fs::read_to_string(path)
        .map_err(|error| DiscoveryError::Read { path: path.to_owned(), error })
}

/// Trusts the cluster's CA and nobody else.
fn tls(ca: &Path) -> Result<ClientConfig, DiscoveryError> {
    let wrong = |complaint: String| fail(format!("{}: {complaint}", ca.display()));
    let mut roots = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(ca).map_err(|error| wrong(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// `discovery.k8s.io/v1`, as far as it is needed. What is empty may be `null`.
#[derive(Deserialize)]
struct SliceList {
    items: Vec<Slice>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Slice {
    /// `IPv4`, `IPv6` or `FQDN`.
    address_type: String,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<SlicePort>>,
}

#[derive(Deserialize)]
struct Endpoint {
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Conditions,
}

#[derive(Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
}

#[derive(Deserialize)]
struct SlicePort {
    name: Option<String>,
    port: Option<u16>,
}

/// The instances that a page of the API server lists.
pub(super) fn parse(
    page: &[u8],
    service: &KubernetesDiscovery,
) -> Result<Vec<InstanceEntry>, DiscoveryError> {
    let list = serde_json::from_slice(page)
        .map_err(|error| fail(format!("the list of EndpointSlices: {error}")))?;
    instances(&list, service)
}

fn instances(
    list: &SliceList,
    service: &KubernetesDiscovery,
) -> Result<Vec<InstanceEntry>, DiscoveryError> {
    let mut by_port = std::collections::BTreeMap::<u16, Vec<_>>::new();
    for slice in list.items.iter().filter(|slice| slice.address_type != "FQDN") {
        let endpoints = slice.endpoints.iter().flatten();
        // Unknown means ready, says the API.
        let ready = endpoints.filter(|endpoint| endpoint.conditions.ready.unwrap_or(true));
        // More than one address is the same endpoint again.
        let addresses =
            ready.filter_map(|endpoint| endpoint.addresses.first()?.parse::<IpAddr>().ok());
        let mut addresses = addresses.peekable();
        if addresses.peek().is_none() {
            continue;
        }
        by_port.entry(port_of(slice, service)?).or_default().extend(addresses);
    }
    // A slice of each network has the same ports.
    let entries = by_port.into_iter().flat_map(|(http, addresses): (_, Vec<_>)| {
        Ports { http, ..service.ports() }.entries(addresses)
    });
    Ok(entries.collect())
}

fn port_of(slice: &Slice, service: &KubernetesDiscovery) -> Result<u16, DiscoveryError> {
    let name = match &service.port {
        PortName::Number(port) => return Ok(*port),
        PortName::Name(name) => name,
    };
    let ports = slice.ports.as_deref().unwrap_or_default();
    let found = ports.iter().find(|port| port.name.as_ref() == Some(name));
    found.and_then(|port| port.port).ok_or_else(|| {
        let names: Vec<_> = ports.iter().filter_map(|port| port.name.as_deref()).collect();
        let service = &service.service;
        fail(format!("service `{service}` has no port `{name}`; it has {names:?}"))
    })
}

#[cfg(test)]
mod tests;
