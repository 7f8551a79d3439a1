//! Instances that come and go while the proxy serves.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use lodestar_live::{Discovery, DnsDiscovery, InstanceEntry, Proxy, ServeConfig};

use crate::script::{Running, Script, body_of, response, until};

const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;

fn good() -> String {
    response("200 OK", "application/json", ANSWER)
}

fn list(path: &Path, scripts: &[&Script]) {
    let entry = |script: &&Script| format!("[[instances]]\nurl = '{}'\n", script.url());
    let text: String = scripts.iter().map(entry).collect();
    // As everybody should who writes such a file.
    fs::write(path.with_extension("new"), text).unwrap();
    fs::rename(path.with_extension("new"), path).unwrap();
}

async fn proxy(discovery: Discovery, instances: usize) -> Running {
    let running = Running::with(&[], |config| config.discovery = Some(discovery)).await;
    until(|| running.view.loads().len() == instances).await;
    running
}

fn urls(proxy: &Running) -> Vec<String> {
    let mut urls: Vec<_> = proxy.view.loads().into_iter().map(|(url, _)| url).collect();
    urls.sort();
    urls
}

#[tokio::test]
async fn the_list_in_a_file_is_followed_and_a_damaged_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("instances.toml");
    let (slow, permits) = Script::says_when_permitted(good()).await;
    let other = Script::says(good()).await;
    list(&path, &[&slow]);
    let proxy = Arc::new(proxy(Discovery::File(path.clone()), 1).await);
    let client = tokio::spawn({
        let proxy = Arc::clone(&proxy);
        async move { proxy.post("/v1/completions", "{}").await }
    });
    until(|| slow.count() == 1).await;

    list(&path, &[&other]);
    until(|| urls(&proxy) == [other.url()]).await;
    assert_eq!(body_of(&proxy.post("/v1/completions", "{}").await), ANSWER);
    permits.add_permits(1);
    assert_eq!(body_of(&client.await.unwrap()), ANSWER, "what it had it could end");
    assert_eq!((slow.count(), other.count()), (1, 1));

    // Read, complained of, and nothing else: the change after it is the next thing that happens.
    fs::write(&path, "[[instances]]\nur").unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(urls(&proxy), [other.url()]);
    list(&path, &[&slow, &other]);
    until(|| proxy.view.loads().len() == 2).await;
    list(&path, &[]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "", "half a file, not an empty list");
    fs::write(&path, "instances = []").unwrap();
    until(|| proxy.view.loads().is_empty()).await;
    let answer = proxy.post("/v1/completions", "{}").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn a_name_stands_for_its_addresses() {
    let script = Script::says(good()).await;
    let dns = DnsDiscovery {
        host: "localhost".to_owned(),
        port: script.address.port(),
        kv_events_port: None,
        kv_replay_port: None,
    };
    let proxy = proxy(Discovery::Dns(dns), 1).await;
    assert_eq!(urls(&proxy), [script.url()]);
    assert_eq!(body_of(&proxy.post("/v1/completions", "{}").await), ANSWER);
}

#[tokio::test]
async fn nobody_is_found_outside_a_cluster_or_in_no_file() {
    let mut config = ServeConfig::new([]);
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.discovery = Some(Discovery::File("absent.toml".into()));
    let message = Proxy::bind(&config).await.map(drop).unwrap_err().to_string();
    assert!(message.starts_with("`discovery`: absent.toml: "), "{message}");
    let text = "discovery.kubernetes = {service = 'vllm', port = 'http'}";
    let outside: ServeConfig = toml::from_str(text).unwrap();
    outside.check().unwrap();
    assert!(outside.warnings()[0].contains("KUBERNETES_SERVICE_HOST is not set"));
    config.discovery = outside.discovery;
    let message = Proxy::bind(&config).await.map(drop).unwrap_err().to_string();
    assert!(message.contains("in a pod of the cluster only"), "{message}");
    config.instances = vec![InstanceEntry::new("http://127.0.0.1:1".to_owned())];
    let message = Proxy::bind(&config).await.map(drop).unwrap_err().to_string();
    assert!(message.contains("remove one of them"), "{message}");
}
