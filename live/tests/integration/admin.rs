//! What an operator sees and changes while the proxy serves.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lodestar_live::{AdminSection, CanarySection};
use lodestar_router::{Load, LogEntry, LogReplay, PolicyConfig};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::script::{Running, STREAM_HEAD, Script, body_of, chunk, post, response, until, write};

pub(crate) const TOKEN: &str = "0123456789abcdef0123";
const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;

fn good() -> String {
    response("200 OK", "application/json", ANSWER)
}

pub(crate) fn token(folder: &Path) -> Option<AdminSection> {
    let path = folder.join("token");
    fs::write(&path, TOKEN).unwrap();
    Some(AdminSection::TokenFile(path))
}

pub(crate) fn request(method: &str, path: &str, token: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

/// Calls the API and answers status and body.
async fn raw(proxy: &Running, method: &str, name: &str, body: &str) -> (u16, String) {
    let path = format!("/lodestar/admin/{name}");
    let answer = proxy.ask(&request(method, &path, TOKEN, body)).await;
    (answer[9..12].parse().unwrap(), body_of(&answer))
}

async fn call(proxy: &Running, method: &str, name: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (status, answer) = raw(proxy, method, name, &body).await;
    (status, serde_json::from_str(&answer).unwrap())
}

/// Calls the API, which must do it.
pub(crate) async fn done(proxy: &Running, method: &str, name: &str, body: Value) -> Value {
    let (status, answer) = call(proxy, method, name, &body).await;
    assert_eq!(status, 200, "{method} {name} {body}: {answer}");
    answer
}

/// Calls the API, which must refuse, and answers status and message.
async fn refused(proxy: &Running, method: &str, name: &str, body: Value) -> (u16, String) {
    let (status, answer) = call(proxy, method, name, &body).await;
    (status, answer["error"]["message"].as_str().unwrap().to_owned())
}

async fn state(proxy: &Running, script: &Script) -> Option<String> {
    let list = done(proxy, "GET", "instances", Value::Null).await;
    let instances = list["instances"].as_array().unwrap();
    let known = instances.iter().find(|instance| instance["url"] == script.url())?;
    Some(known["state"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn without_the_token_nobody_gets_in_and_no_instance_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let script = Script::says(good()).await;
    let off = Running::before(&[&script]).await;
    let on = Running::with(&[&script], |config| config.admin = token(folder.path())).await;
    let paths = ["/lodestar/admin/instances", "/lodestar/admin/", "/lodestar/x", "/lodestar"];
    for path in paths {
        for method in ["GET", "POST", "PUT"] {
            let answer = off.ask(&request(method, path, TOKEN, "{}")).await;
            assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
            assert!(answer.contains("administration is off"), "{answer}");
            for wrong in ["", "0123456789abcdef0124", "0123456789abcdef012"] {
                let answer = on.ask(&request(method, path, wrong, "{}")).await;
                assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
                assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
            }
        }
        assert_eq!(script.count(), 0);
    }
    let (status, message) = refused(&on, "GET", "instance", Value::Null).await;
    assert!(status == 404 && message.contains("docs/live.md"), "{message}");
    let (status, message) = refused(&on, "DELETE", "instances", Value::Null).await;
    assert!(status == 405 && message.ends_with("takes GET, POST"), "{message}");
    assert_eq!(script.count(), 0);
}

#[tokio::test]
async fn instances_are_added_drained_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (slow, permits) = Script::says_when_permitted(good()).await;
    let other = Script::says(good()).await;
    let proxy = Running::with(&[&slow], |config| config.admin = token(folder.path())).await;
    let proxy = Arc::new(proxy);
    let client = tokio::spawn({
        let proxy = Arc::clone(&proxy);
        async move { proxy.post("/v1/completions", "{}").await }
    });
    until(|| slow.count() == 1).await;
    let list = done(&proxy, "GET", "instances", Value::Null).await;
    let instance = &list["instances"][0];
    assert_eq!(
        (&instance["state"], &instance["origin"]),
        (&json!("ready"), &json!("configuration"))
    );
    assert_eq!(
        (&instance["requests_under_way"], &instance["load"]["requests"]),
        (&json!(1), &json!(1))
    );

    done(&proxy, "POST", "instances", json!({"url": format!("{}/", other.url())})).await;
    until(|| proxy.view.loads().len() == 2).await;
    let slows = json!({"url": slow.url()});
    done(&proxy, "POST", "instances/drain", slows.clone()).await;
    assert_eq!(state(&proxy, &slow).await.as_deref(), Some("draining"));
    assert_eq!(proxy.view.loads().len(), 1, "nobody is sent there after the answer");
    for _ in 0..3 {
        assert_eq!(body_of(&proxy.post("/v1/completions", "{}").await), ANSWER);
    }
    assert_eq!((slow.count(), other.count()), (1, 3));
    permits.add_permits(9);
    assert_eq!(body_of(&client.await.unwrap()), ANSWER);
    while state(&proxy, &slow).await.as_deref() != Some("drained") {}

    done(&proxy, "POST", "instances", slows.clone()).await;
    until(|| proxy.view.loads().len() == 2).await;
    let (status, message) = refused(&proxy, "POST", "instances", slows.clone()).await;
    assert!(status == 409 && message.contains("is there already"), "{message}");
    done(&proxy, "POST", "instances/remove", slows.clone()).await;
    assert_eq!(state(&proxy, &slow).await, None);
    assert_eq!(proxy.view.loads().len(), 1);
    for (name, body, status, part) in [
        ("instances/remove", slows.clone(), 404, "there is no instance"),
        ("instances/drain", slows, 404, "there is no instance"),
        ("instances", json!({"url": "h:1"}), 400, "write it as http://HOST:PORT"),
        ("instances", json!({"host": "h"}), 400, "unknown field `host`"),
        ("instances", Value::Null, 400, "docs/live.md has examples"),
    ] {
        let (found, message) = refused(&proxy, "POST", name, body).await;
        assert!(found == status && message.contains(part), "{found} {message}");
    }
}

#[tokio::test]
async fn what_discovery_lists_can_be_drained_and_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (script, path) = (Script::says(good()).await, folder.path().join("list.json"));
    fs::write(&path, json!({"instances": [{"url": script.url()}]}).to_string()).unwrap();
    let proxy = Running::with(&[], |config| {
        config.admin = token(folder.path());
        config.discovery = Some(lodestar_live::Discovery::File(path));
    })
    .await;
    until(|| proxy.view.loads().len() == 1).await;
    let body = json!({"url": script.url()});
    let (status, message) = refused(&proxy, "POST", "instances/remove", body.clone()).await;
    assert!(status == 409 && message.contains("drain it"), "{message}");
    done(&proxy, "POST", "instances/drain", body).await;
    assert_eq!(state(&proxy, &script).await.as_deref(), Some("drained"));
}

#[tokio::test]
async fn an_instance_that_discovery_lists_too_is_discoverys() {
    let folder = tempfile::tempdir().unwrap();
    let (script, path) = (Script::says(good()).await, folder.path().join("list.json"));
    fs::write(&path, r#"{"instances": []}"#).unwrap();
    let proxy = Running::with(&[], |config| {
        config.admin = token(folder.path());
        config.discovery = Some(lodestar_live::Discovery::File(path.clone()));
    })
    .await;
    let entry = json!({"url": script.url()});
    done(&proxy, "POST", "instances", entry.clone()).await;
    let origin = async || {
        let list = done(&proxy, "GET", "instances", Value::Null).await;
        list["instances"][0]["origin"].clone()
    };
    assert_eq!(origin().await, "operator");
    fs::write(&path, json!({"instances": [entry]}).to_string()).unwrap();
    while origin().await != "discovery" {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    fs::write(&path, r#"{"instances": []}"#).unwrap();
    while state(&proxy, &script).await.is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn policy_objective_and_checkpoint_change_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let script = Script::says(good()).await;
    let proxy = Running::with(&[&script], |config| {
        config.admin = token(folder.path());
        config.router.checkpoint = None;
    })
    .await;
    let policy = done(&proxy, "GET", "policy", Value::Null).await;
    assert_eq!(policy["policy"], json!({"name": "round-robin"}));
    let (status, message) = refused(&proxy, "PUT", "objective", json!("tpot")).await;
    assert!(status == 409 && message.contains("`round-robin` has no objective"), "{message}");
    let (status, message) = refused(&proxy, "GET", "checkpoint", Value::Null).await;
    assert!(status == 409 && message.contains("keeps nothing"), "{message}");
    let (status, message) = refused(&proxy, "PUT", "policy", json!({"name": "best"})).await;
    assert!(status == 400 && message.contains("unknown variant `best`"), "{message}");

    done(&proxy, "PUT", "policy", json!({"name": "lodestar"})).await;
    let objective = json!({"slo": {"ttft_ms": 500.0, "tpot_ms": 30.0}});
    let policy = done(&proxy, "PUT", "objective", objective.clone()).await;
    assert_eq!(
        policy["policy"],
        json!({"name": "lodestar", "objective": objective, "training_percent": 100})
    );
    for _ in 0..20 {
        proxy.post("/v1/completions", r#"{"prompt":"hello","stream":true}"#).await;
    }
    let (status, checkpoint) = raw(&proxy, "GET", "checkpoint", "").await;
    assert_eq!((status, checkpoint.lines().count()), (200, 2));
    let url = script.url();
    assert!(checkpoint.contains(&url), "instances stand in it by their URLs");
    let (status, answer) = raw(&proxy, "PUT", "checkpoint", &checkpoint).await;
    assert_eq!(status, 200, "{answer}");
    let damaged = checkpoint.replace(&url, "http://127.0.0.1:1");
    let (status, answer) = raw(&proxy, "PUT", "checkpoint", &damaged).await;
    assert!(status == 400 && answer.contains("checksum does not match"), "{answer}");
    done(&proxy, "PUT", "policy", json!({"name": "lodestar-paper"})).await;
    let (status, _) = raw(&proxy, "PUT", "checkpoint", &checkpoint).await;
    assert_eq!(status, 409);
}

/// Instances that answer in every way, after a moment.
async fn scripts() -> Vec<Script> {
    let one = "data: {\"choices\":[{\"text\":\"one\"}]}\n\n";
    let stream = format!("{STREAM_HEAD}{}{}0\r\n\r\n", chunk(one), chunk("data: [DONE]\n\n"));
    let cut = format!("{STREAM_HEAD}{}", chunk(one));
    let busy = response("503 Service Unavailable", "application/json", "{}");
    let texts = Arc::new([good(), stream.clone(), busy, stream, cut, good()]);
    let turn = Arc::new(AtomicUsize::new(0));
    let mut scripts = Vec::new();
    for _ in 0..3 {
        let (turn, texts) = (Arc::clone(&turn), Arc::clone(&texts));
        let script = Script::start(move |_, stream| {
            let index = turn.fetch_add(1, Ordering::Relaxed) % texts.len();
            let texts = Arc::clone(&texts);
            async move {
                tokio::time::sleep(std::time::Duration::from_millis(index as u64 * 2)).await;
                write(&stream, &texts[index]).await && index != 4
            }
        });
        scripts.push(script.await);
    }
    scripts
}

/// Everything that can be changed is, while requests end in every way; then nothing is owed to anybody, and the log of decisions
/// repeats every one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_every_change_under_load_nothing_is_reserved() {
    let folder = tempfile::tempdir().unwrap();
    let logs = folder.path().join("logs");
    let scripts = scripts().await;
    let mut proxy = Running::with(&scripts.iter().collect::<Vec<_>>(), |config| {
        config.admin = token(folder.path());
        config.router.policy = PolicyConfig::from_name("lodestar").unwrap();
        config.router.checkpoint = Some(folder.path().join("learned.json"));
        config.router.log = Some(logs.clone());
        config.router.canary = canary("prefix-cache", 30.0);
    })
    .await;
    let ended = AtomicUsize::new(0);
    let client = async |client: usize| {
        for step in 0..250 {
            let prompt = "the same words ".repeat((step + client) % 9 * 20);
            let body = format!(r#"{{"model":"m","stream":true,"prompt":"{prompt}{client}"}}"#);
            if (step + client).is_multiple_of(7) {
                // Hangs up without reading.
                let mut stream = TcpStream::connect(proxy.address).await.unwrap();
                let _ = stream.write_all(post("/v1/completions", &body).as_bytes()).await;
            } else {
                let answer = proxy.post("/v1/completions", &body).await;
                assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
            }
        }
        ended.fetch_add(1, Ordering::Relaxed);
    };
    let operator = async {
        let mut rounds = 0;
        while ended.load(Ordering::Relaxed) < 4 || rounds < PolicyConfig::all().len() {
            let url = json!({"url": scripts[rounds % 3].url()});
            done(&proxy, "POST", "instances/drain", url.clone()).await;
            let policy = &PolicyConfig::all()[rounds % 28];
            done(&proxy, "PUT", "policy", json!(policy)).await;
            if rounds.is_multiple_of(2) {
                done(&proxy, "POST", "instances/remove", url.clone()).await;
            }
            done(&proxy, "POST", "instances", url).await;
            done(&proxy, "PUT", "policy", json!({"name": "lodestar"})).await;
            done(&proxy, "PUT", "objective", json!("e2e")).await;
            let (status, checkpoint) = raw(&proxy, "GET", "checkpoint", "").await;
            assert_eq!(status, 200);
            assert_eq!(raw(&proxy, "PUT", "checkpoint", &checkpoint).await.0, 200);
            rounds += 1;
        }
    };
    tokio::join!(operator, client(0), client(1), client(2), client(3));
    let idle = |list: &Value| {
        list["instances"].as_array().unwrap().iter().all(|one| one["requests_under_way"] == 0)
    };
    while !idle(&done(&proxy, "GET", "instances", Value::Null).await) {}
    let loads = [proxy.view.loads(), proxy.view.canary_loads()].concat();
    assert!(loads.len() == 6 && loads.iter().all(|(_, load)| *load == Load::default()));
    proxy.stop.take().unwrap().send(()).unwrap();
    (&mut proxy.task).await.unwrap();

    for file in fs::read_dir(&logs).unwrap() {
        let path = file.unwrap().path();
        let switches = repeat(&fs::read_to_string(&path).unwrap());
        let is_canary = path.to_str().unwrap().ends_with("-canary.jsonl");
        assert!(if is_canary { switches == 0 } else { switches >= 84 }, "{switches} switches");
    }
}

/// Decides the same again by a log, and counts its changes of the policy.
fn repeat(text: &str) -> usize {
    let mut entries = text.lines().map(|line| serde_json::from_str::<LogEntry>(line).unwrap());
    let Some(LogEntry::Start(start)) = entries.next() else { panic!("{text}") };
    let mut replay = LogReplay::new(&start);
    let (mut decisions, mut switches) = (0, 0);
    for entry in entries {
        assert!(replay.apply(&entry), "{entry:?}");
        decisions += usize::from(matches!(entry, LogEntry::Route(_)));
        switches += usize::from(matches!(entry, LogEntry::SetPolicy { .. }));
    }
    assert!(decisions >= 800, "{decisions} decisions");
    switches
}

fn canary(policy: &str, rollout_percent: f64) -> Option<CanarySection> {
    let policy = PolicyConfig::from_name(policy).unwrap();
    Some(CanarySection { policy, rollout_percent, checkpoint: None })
}

#[tokio::test]
async fn a_canary_is_seen_judged_anew_and_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let one = "data: {\"choices\":[{\"text\":\"one\"}]}\n\n";
    let stream = format!("{STREAM_HEAD}{}{}0\r\n\r\n", chunk(one), chunk("data: [DONE]\n\n"));
    let scripts = [Script::says(stream.clone()).await, Script::says(stream).await];
    let alone = Running::with(&[&scripts[0]], |config| config.admin = token(folder.path())).await;
    for (method, name) in [("GET", "canary"), ("POST", "canary/stop")] {
        let (status, message) = refused(&alone, method, name, Value::Null).await;
        assert!(status == 409 && message.contains("there is no canary"), "{message}");
    }
    let proxy = Running::with(&[&scripts[0], &scripts[1]], |config| {
        config.admin = token(folder.path());
        config.router.canary = canary("lodestar", 50.0);
    })
    .await;
    let requests = async || {
        for user in 0..40 {
            let body = format!(r#"{{"prompt":"hello","user":"u{user}","stream":true}}"#);
            proxy.post("/v1/completions", &body).await;
        }
        proxy.settled().await;
        done(&proxy, "GET", "canary", Value::Null).await
    };
    let sum = |state: &Value, path: &str| {
        let of = |arm: &str| state["arms"][arm].pointer(path).unwrap().as_f64().unwrap();
        json!(of("baseline") + of("canary"))
    };
    let state = requests().await;
    assert_eq!((&state["policy"]["name"], &state["stopped"]), (&json!("lodestar"), &Value::Null));
    assert_eq!(state["percent"], json!(50.0));
    let decisions = &state["decisions"];
    assert_eq!(
        decisions["agreed"].as_u64().unwrap() + decisions["disagreed"].as_u64().unwrap(),
        40
    );
    assert_eq!(state["mean_predicted_ttft_s"]["decisions"], json!(40));
    assert!(state["mean_predicted_ttft_s"]["canary"].as_f64().unwrap() > 0.0);
    for path in ["/finished", "/first_tokens", "/judged_by/attempts", "/judged_by/first_tokens"] {
        assert_eq!(sum(&state, path), json!(40.0), "{path}: {state}");
    }
    let by_canary = state["arms"]["canary"]["finished"].as_u64().unwrap();
    assert!((1..40).contains(&by_canary), "{state}");
    for path in ["/mean_ttft_s", "/judged_by/mean_ttft_s"] {
        assert!(sum(&state, path).as_f64().unwrap() > 0.0, "{path}: {state}");
    }

    done(&proxy, "PUT", "policy", json!({"name": "random"})).await;
    let state = done(&proxy, "GET", "canary", Value::Null).await;
    assert_eq!(
        (sum(&state, "/finished"), sum(&state, "/judged_by/attempts")),
        (json!(40.0), json!(0.0))
    );
    assert_eq!(state["policy"]["name"], json!("lodestar"), "only the baseline is another one");
    assert_eq!(sum(&requests().await, "/judged_by/attempts"), json!(40.0));

    for _ in 0..2 {
        let state = done(&proxy, "POST", "canary/stop", Value::Null).await;
        assert_eq!(state["stopped"]["reason"], json!("operator"));
        assert_eq!(state["percent"], json!(0.0));
    }
    let state = requests().await;
    assert_eq!(state["arms"]["canary"]["finished"].as_u64(), Some(2 * by_canary), "{state}");
}
