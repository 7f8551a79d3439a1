//! A second policy on trial: it changes nothing while it only watches, decides for its share, and can be stopped.

use lodestar_live::CanarySection;
use lodestar_router::{Load, PolicyConfig};

use crate::script::{Running, STREAM_HEAD, Script, chunk, response, write};

const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":1}}"#;

fn canary(policy: &str, rollout_percent: f64) -> Option<CanarySection> {
    let policy = PolicyConfig::from_name(policy).unwrap();
    Some(CanarySection { policy, rollout_percent, checkpoint: None })
}

/// One that streams a token, or answers as a whole.
async fn instance() -> Script {
    let event = "data: {\"choices\":[{\"text\":\"one\"}]}\n\n";
    let stream = format!("{STREAM_HEAD}{}{}0\r\n\r\n", chunk(event), chunk("data: [DONE]\n\n"));
    Script::start(move |request, connection| {
        let whole = response("200 OK", "application/json", ANSWER);
        let answer = if request.contains("\"stream\":true") { stream.clone() } else { whole };
        async move { write(&connection, &answer).await }
    })
    .await
}

fn body(user: usize, stream: bool) -> String {
    let prompt = "the same words ".repeat(user % 7 * 40);
    format!(r#"{{"prompt":"{prompt}{user}","user":"u{user}","stream":{stream}}}"#)
}

/// What stands behind a name on the page of metrics.
async fn value(proxy: &Running, name: &str) -> String {
    let page = proxy.ask("GET /metrics HTTP/1.1\r\nhost: p\r\nconnection: close\r\n\r\n").await;
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name}: {page}")).trim().to_owned()
}

/// The same, a whole number.
async fn count(proxy: &Running, name: &str) -> u64 {
    value(proxy, name).await.parse().unwrap()
}

/// What clients and instances see of some requests.
async fn seen(policy: &str, canary: Option<CanarySection>) -> (Vec<String>, Vec<Vec<String>>) {
    let scripts = [instance().await, instance().await, instance().await];
    let proxy = Running::with(&[&scripts[0], &scripts[1], &scripts[2]], |config| {
        config.router.policy = PolicyConfig::from_name(policy).unwrap();
        config.router.canary = canary;
    })
    .await;
    let mut answers = Vec::new();
    for number in 0..60 {
        let body = body(number, number % 2 == 0);
        let length = body.len();
        let request = format!(
            "POST /v1/completions HTTP/1.1\r\nhost: p\r\nconnection: close\r\nx-request-id: r{number}\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        let answer = proxy.ask(&request).await;
        answers.push(answer.lines().filter(|line| !line.starts_with("date: ")).collect());
        proxy.settled().await;
    }
    let of_script = |script: &Script| -> Vec<String> {
        let (requests, address) = (script.requests.lock().unwrap(), script.address.to_string());
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).replace(&address, "instance");
        requests.iter().map(text).collect()
    };
    // Which of them joins first is chance.
    let mut requests: Vec<_> = scripts.iter().map(of_script).collect();
    requests.sort();
    (answers, requests)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_only_watches_changes_no_byte() {
    for policy in ["round-robin", "random", "prefix-cache"] {
        let alone = seen(policy, None).await;
        assert!(alone.0.iter().all(|answer| answer.starts_with("HTTP/1.1 200")));
        assert_eq!(alone.1.iter().map(Vec::len).sum::<usize>(), 60);
        assert!(seen(policy, canary("lodestar", 0.0)).await == alone, "{policy}");
        assert!(seen(policy, canary("lodestar", 100.0)).await != alone, "{policy}: can be seen");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_the_sessions_follows_the_canary_until_it_is_stopped() {
    let scripts = [instance().await, instance().await];
    let proxy = Running::with(&[&scripts[0], &scripts[1]], |config| {
        config.router.canary = canary("lodestar", 25.0);
    })
    .await;
    let of_canary = r#"lodestar_arm_attempts_total{arm="canary",outcome="finished"} "#;
    let of_baseline = r#"lodestar_arm_attempts_total{arm="baseline",outcome="finished"} "#;
    for session in 0..200 {
        let before = count(&proxy, of_canary).await;
        for turn in 0..3 {
            proxy.post("/v1/completions", &body(session, turn > 0)).await;
            proxy.settled().await;
        }
        let turns = count(&proxy, of_canary).await - before;
        assert!([0, 3].contains(&turns), "a session is on one side: {turns}");
    }
    let decided = count(&proxy, of_canary).await;
    assert!((90..210).contains(&decided), "about a quarter: {decided}");
    assert_eq!(count(&proxy, of_baseline).await, 600 - decided);
    let ttfts = r#"lodestar_arm_time_to_first_token_seconds_count{arm="canary"} "#;
    assert_eq!(count(&proxy, ttfts).await, decided / 3 * 2, "two of three are streams");
    let agreed = count(&proxy, r#"lodestar_canary_decisions_total{agrees="true"} "#).await;
    let disagreed = count(&proxy, r#"lodestar_canary_decisions_total{agrees="false"} "#).await;
    assert!(agreed > 0 && disagreed > 0 && agreed + disagreed == 600, "{agreed} {disagreed}");
    assert_eq!(count(&proxy, "lodestar_canary_predictions_total ").await, 600);
    for choice in ["baseline", "canary"] {
        let name = format!("lodestar_canary_predicted_ttft_seconds_total{{choice=\"{choice}\"}} ");
        assert!(value(&proxy, &name).await.parse::<f64>().unwrap() > 0.0);
    }

    assert_eq!(count(&proxy, "lodestar_canary_percent ").await, 25);
    assert!(proxy.view.stop_canary());
    assert!(!proxy.view.stop_canary(), "once");
    for session in 0..40 {
        proxy.post("/v1/completions", &body(session, true)).await;
        proxy.settled().await;
    }
    assert_eq!(count(&proxy, of_canary).await, decided);
    assert_eq!(count(&proxy, "lodestar_canary_percent ").await, 0);
    assert_eq!(count(&proxy, r#"lodestar_canary_stops_total{reason="operator"} "#).await, 1);
    assert_eq!(proxy.view.canary_loads().len(), 2);
    assert!(proxy.view.canary_loads().iter().all(|(_, load)| *load == Load::default()));
}
