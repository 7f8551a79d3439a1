//! What `scripts/deploy` holds works with this version: configurations pass `lodestar serve --check`, manifests
//! leave time to drain, and the dashboard shows the metrics that there are.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first surprise; clippy knows #[test] only"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/deploy")
}

fn text(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

/// The text under `serve.toml: |` of the gateway's manifest.
fn gateway_config() -> String {
    let manifest = text("kubernetes-gateway.yaml");
    let (_, rest) = manifest.split_once("  serve.toml: |\n").unwrap();
    let lines = rest.lines().map_while(|line| line.strip_prefix("    "));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The number behind a key of a manifest or configuration.
#[track_caller]
fn number(text: &str, key: &str) -> u64 {
    let (_, rest) = text.split_once(key).unwrap();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// What `lodestar serve --check` says of a configuration.
#[track_caller]
fn check(path: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_lodestar"))
        .args(["serve", "--check", "--config"])
        .arg(path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn configurations_can_be_served() {
    let scratch = tempfile::tempdir().unwrap();
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("live/tests/tls");
    for file in ["certificate.pem", "key.pem"] {
        fs::copy(tls.join(file), scratch.path().join(file)).unwrap();
    }
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let copy = scratch.path().join(path.file_name().unwrap());
            fs::copy(&path, &copy).unwrap();
            check(&copy);
        }
    }
    let path = scratch.path().join("kubernetes.toml");
    fs::write(&path, gateway_config()).unwrap();
    check(&path);
}

#[test]
fn kubernetes_waits_for_requests_to_end() {
    let manifest = text("kubernetes-gateway.yaml");
    let sleep_s = number(&manifest, "sleep: { seconds: ");
    let drain_s = number(&gateway_config(), "limits.drain_s = ");
    assert!(number(&manifest, "terminationGracePeriodSeconds: ") > sleep_s + drain_s);
}

#[test]
fn the_sidecar_can_be_started() {
    let manifest = text("kubernetes-sidecar.yaml");
    let (_, rest) = manifest.split_once("      args:\n").unwrap();
    let arguments = rest.lines().map_while(|line| line.strip_prefix("        - "));
    let output = Command::new(env!("CARGO_BIN_EXE_lodestar"))
        .args(arguments)
        .arg("--check")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Names of the metrics that a proxy with a canary exports.
fn exported() -> BTreeSet<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("serve.toml");
    let text = "listen = '127.0.0.1:0'\ninstances = [{url = 'http://127.0.0.1:1'}]\n\
                router.canary.policy = {name = 'lodestar'}\n\
                telemetry.otlp_endpoint = 'http://127.0.0.1:1'\n";
    fs::write(&path, text).unwrap();
    let mut proxy = Command::new(env!("CARGO_BIN_EXE_lodestar"))
        .args(["serve", "--config"])
        .arg(path)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(proxy.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening on ") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "it ended");
    }
    let address = line.trim().rsplit(' ').next().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    proxy.kill().unwrap();
    proxy.wait().unwrap();
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn the_dashboard_shows_every_metric_and_no_other() {
    let dashboard: Value = serde_json::from_str(&text("grafana-dashboard.json")).unwrap();
    let mut shown = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            for name in words.filter(|word| word.starts_with("lodestar_")) {
                let suffix = ["_bucket", "_sum", "_count"]
                    .into_iter()
                    .find(|suffix| name.contains("_seconds") && name.ends_with(suffix));
                shown.insert(name.strip_suffix(suffix.unwrap_or("")).unwrap().to_owned());
            }
        }
    }
    assert_eq!(shown, exported());
}
