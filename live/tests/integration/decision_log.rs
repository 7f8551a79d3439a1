//! What is written down is enough to decide the same again.

use std::fs;

use lodestar_live::{CanarySection, Proxy, ServeConfig};
use lodestar_router::{LogEntry, LogReplay, PolicyConfig};

use crate::script::{Running, Script, response};

const ANSWER: &str =
    r#"{"id":"c","choices":[{"text":"hi"}],"usage":{"prompt_tokens":300,"completion_tokens":1}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn logs_of_live_routers_repeat_every_decision() {
    let folder = tempfile::tempdir().unwrap();
    let scripts = [
        Script::says(response("200 OK", "application/json", ANSWER)).await,
        Script::says(response("200 OK", "application/json", ANSWER)).await,
    ];
    let logs = folder.path().join("logs");
    let mut proxy = Running::with(&[&scripts[0], &scripts[1]], |config| {
        config.router.policy = PolicyConfig::from_name("lodestar").unwrap();
        config.router.log = Some(logs.clone());
        let policy = PolicyConfig::from_name("prefix-cache").unwrap();
        let (rollout_percent, checkpoint) = (30.0, None);
        config.router.canary = Some(CanarySection { policy, rollout_percent, checkpoint });
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
    let canarys = files.iter().filter(|file| file.to_str().unwrap().ends_with("-canary.jsonl"));
    assert_eq!((files.len(), canarys.count()), (2, 1), "one of each router: {files:?}");
    let placed = files.iter().map(|file| {
        let text = fs::read_to_string(file).unwrap();
        let mut entries = text.lines().map(|line| serde_json::from_str::<LogEntry>(line).unwrap());
        let Some(LogEntry::Start(start)) = entries.next() else { panic!("{text}") };
        let mut replay = LogReplay::new(&start);
        let (mut decisions, mut ends, mut placed) = (0, 0, 0);
        for entry in entries {
            assert!(replay.apply(&entry), "{entry:?}");
            if let LogEntry::Route(routing) = &entry {
                decisions += 1;
                placed += u32::from(routing.placed.is_some());
            }
            ends += u32::from(format!("{entry:?}").contains("Finished"));
        }
        assert_eq!((decisions, ends), (60, 60));
        placed
    });
    // Each request was decided by one and is a fact for the other.
    let placed: Vec<u32> = placed.collect();
    assert_eq!(placed.iter().sum::<u32>(), 60, "{placed:?}");
    assert!(placed.iter().all(|&count| count > 0), "{placed:?}");
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
