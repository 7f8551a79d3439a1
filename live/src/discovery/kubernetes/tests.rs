//! Against an API server that says over TLS what a real one says, and checks who asks.

use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::config::TlsFiles;

/// As `kubectl get --raw` shows it: two slices of a service with two networks, and one that is empty.
const LIST: &str = r#"{"kind":"EndpointSliceList","apiVersion":"discovery.k8s.io/v1","metadata":{"resourceVersion":"81423"},"items":[
 {"metadata":{"name":"vllm-abc12","namespace":"serving","labels":{"kubernetes.io/service-name":"vllm"}},"addressType":"IPv4",
  "endpoints":[
   {"addresses":["10.244.1.5"],"conditions":{"ready":true,"serving":true,"terminating":false},"nodeName":"n1","targetRef":{"kind":"Pod","name":"vllm-0"}},
   {"addresses":["10.244.1.6"],"conditions":{"ready":false,"serving":false,"terminating":false},"nodeName":"n1"},
   {"addresses":["10.244.2.7"],"conditions":{"ready":false,"serving":true,"terminating":true},"nodeName":"n2"},
   {"addresses":["10.244.2.8"],"conditions":{}}],
  "ports":[{"name":"metrics","protocol":"TCP","port":9090},{"name":"http","protocol":"TCP","port":8000}]},
 {"metadata":{"name":"vllm-def34"},"addressType":"IPv6",
  "endpoints":[{"addresses":["fd00::5"],"conditions":{"ready":true}}],
  "ports":[{"name":"metrics","protocol":"TCP","port":9090},{"name":"http","protocol":"TCP","port":8000}]},
 {"metadata":{"name":"vllm-ghi56"},"addressType":"IPv4","endpoints":null,"ports":null}]}"#;

fn service(port: PortName) -> KubernetesDiscovery {
    KubernetesDiscovery {
        service: "vllm".to_owned(),
        namespace: None,
        port,
        kv_events_port: Some(5557),
        kv_replay_port: None,
    }
}

fn name(name: &str) -> PortName {
    PortName::Name(name.to_owned())
}

fn urls(text: &str, port: PortName) -> Result<Vec<String>, String> {
    let list = serde_json::from_str(text).unwrap();
    let entries = instances(&list, &service(port)).map_err(|error| error.to_string())?;
    Ok(entries.into_iter().map(|entry| entry.url).collect())
}

#[test]
fn ready_endpoints_are_instances_each_once() {
    let expected = ["http://10.244.1.5:8000", "http://10.244.2.8:8000"];
    assert_eq!(urls(LIST, name("http")).unwrap(), expected);
    assert_eq!(urls(LIST, PortName::Number(8000)).unwrap(), expected);
    let message = urls(LIST, name("grpc")).unwrap_err();
    assert!(message.contains(r#"has no port `grpc`; it has ["metrics", "http"]"#), "{message}");
    assert_eq!(urls(r#"{"items":[]}"#, name("http")), Ok(Vec::new()));
}

#[test]
fn names_that_are_none_are_refused() {
    let mut service = service(PortName::Number(1));
    service.check_names().unwrap();
    service.namespace = Some("a/b".to_owned());
    let message = service.check_names().unwrap_err().to_string();
    assert!(message.contains("`discovery.kubernetes.namespace` is `a/b`"), "{message}");
}

/// A folder as a pod has it.
fn account() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/certificate.pem");
    std::fs::copy(certificate, folder.path().join("ca.crt")).unwrap();
    std::fs::write(folder.path().join("namespace"), "serving").unwrap();
    std::fs::write(folder.path().join("token"), "first\n").unwrap();
    folder
}

/// Answers every request with the next page, and keeps what was asked.
async fn server(pages: Vec<(&'static str, &'static str)>) -> (String, Arc<Mutex<Vec<String>>>) {
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    let files = TlsFiles { certificates: tls.join("certificate.pem"), key: tls.join("key.pem") };
    let acceptor = crate::tls::acceptor(&files).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        for (status, page) in pages {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let text = String::from_utf8(request).unwrap();
            log.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            let length = page.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{page}"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    (server, asked)
}

#[tokio::test]
async fn the_api_server_is_asked_with_the_token_of_the_moment() {
    let account = account();
    let pages = vec![("200 OK", LIST), ("403 Forbidden", "{}"), ("200 OK", "<html>")];
    let (server, asked) = server(pages).await;
    let slices = EndpointSlices::at(&server, account.path(), &service(name("http"))).unwrap();
    let entries = slices.list().await.unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0].kv_events.as_deref(), Some("tcp://10.244.1.5:5557"));
    std::fs::write(account.path().join("token"), "second").unwrap();
    let message = slices.list().await.unwrap_err().to_string();
    assert!(message.contains("may not list endpointslices"), "{message}");
    let message = slices.list().await.unwrap_err().to_string();
    assert!(message.contains("the list of EndpointSlices: expected value"), "{message}");

    let asked = asked.lock().unwrap();
    let line = "GET /apis/discovery.k8s.io/v1/namespaces/serving/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dvllm HTTP/1.1\r\n";
    assert!(asked[0].starts_with(line), "{}", asked[0]);
    assert!(asked[0].contains("authorization: Bearer first\r\n"), "{}", asked[0]);
    assert!(asked[1].contains("authorization: Bearer second\r\n"), "{}", asked[1]);
}

#[tokio::test]
async fn a_server_that_another_ca_vouches_for_gets_no_token() {
    let account = account();
    // The system's and everybody else's CAs do not count: nobody is trusted.
    std::fs::write(account.path().join("ca.crt"), "").unwrap();
    let (server, asked) = server(vec![("200 OK", LIST)]).await;
    let slices = EndpointSlices::at(&server, account.path(), &service(name("http"))).unwrap();
    let message = slices.list().await.unwrap_err().to_string();
    assert!(message.contains("certificate"), "{message}");
    assert!(asked.lock().unwrap().is_empty());
}
