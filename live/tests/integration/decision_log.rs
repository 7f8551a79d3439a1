//! What is written down is enough to decide the same again.

use std::fs;

use lodestar_live::Proxy;
use lodestar_live::ServeConfig;
use lodestar_router::{LogEntry, LogReplay, PolicyConfig};

use crate::script::{Running, Script, response};

const ANSWER: &str =
    r#"{"id":"c","choices":[{"text":"hi"}],"usage":{"prompt_tokens":300,"completion_tokens":1}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_a_live_router_repeats_every_decision() {
    let folder = tempfile::tempdir().unwrap();
    let scripts = [
        Script::says(response("200 OK", "application/json", ANSWER)).await,
        Script::says(response("200 OK", "application/json", ANSWER)).await,
    ];
    let logs = folder.path().join("logs");
    let mut proxy = Running::with(&[&scripts[0], &scripts[1]], |config| {
        config.router.policy = PolicyConfig::from_name("lodestar").unwrap();
        config.router.log = Some(logs.clone());
    })
    .await;
    for number in 0..60 {
        let prompt = format!("{} and {number}", "the same words ".repeat(number % 7 * 40));
        let body = format!(r#"{{"model":"m","max_tokens":1,"prompt":"{prompt}"}}"#);
        let answer = proxy.post("/v1/completions", &body).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    proxy.stop.take().unwrap().send(()).unwrap();
    (&mut proxy.task).await.unwrap();

    let files: Vec<_> = fs::read_dir(&logs).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    let text = fs::read_to_string(file).unwrap();
    let mut entries = text.lines().map(|line| serde_json::from_str::<LogEntry>(line).unwrap());
    let Some(LogEntry::Start(start)) = entries.next() else { panic!("{text}") };
    let mut replay = LogReplay::new(&start);
    let (mut decisions, mut ends) = (0, 0);
    for entry in entries {
        assert!(replay.apply(&entry), "{entry:?}");
        decisions += u32::from(matches!(entry, LogEntry::Route(_)));
        ends += u32::from(format!("{entry:?}").contains("Finished"));
    }
    assert_eq!((decisions, ends), (60, 60));
}

#[tokio::test]
async fn a_log_that_cannot_be_written_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let mut config = ServeConfig::new(["http://127.0.0.1:1".to_owned()]);
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.router.log = Some(file);
    let message = Proxy::bind(&config).await.map(drop).unwrap_err().to_string();
    assert!(
        message.contains("`router.log`: cannot write ") && message.contains("name a folder"),
        "{message}"
    );
}
