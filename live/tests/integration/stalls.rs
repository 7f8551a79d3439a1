//! An engine hangs behind an API server that is well. These tests take some seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::script::{Running, Script, body_of, response, until, write};

const BODY: &str = r#"{"prompt":"hello","stream":true}"#;
const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
const PAGE: &str = "vllm:num_requests_running{engine=\"0\"} 0.0\nvllm:num_requests_waiting{engine=\"0\"} 0.0\n\
    vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\n";

/// One whose requests wait for as long as the switch is on, and whose page of metrics never changes.
async fn hanging() -> (Script, Arc<AtomicBool>) {
    let hangs = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&hangs);
    let script = Script::start(move |_, stream| {
        let switch = Arc::clone(&switch);
        async move {
            if switch.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            write(&stream, &response("200 OK", "application/json", ANSWER)).await
        }
    })
    .await;
    *script.metrics.lock().unwrap() = PAGE.to_owned();
    (script, hangs)
}

#[tokio::test]
async fn an_engine_that_hangs_behind_a_good_health_is_left_and_tried_again() {
    let (hung, hangs) = hanging().await;
    let good = Script::says(response("200 OK", "application/json", ANSWER)).await;
    let proxy = Running::with(&[&hung, &good], |config| config.limits.stall_s = 1).await;
    let proxy = Arc::new(proxy);
    let mut clients = tokio::task::JoinSet::new();
    // More than the budget for retries.
    for _ in 0..40 {
        let proxy = Arc::clone(&proxy);
        clients.spawn(async move { body_of(&proxy.post("/v1/completions", BODY).await) });
    }
    assert_eq!(clients.join_all().await, [ANSWER; 40]);
    assert_eq!((hung.count(), good.count()), (20, 40));
    hangs.store(false, Ordering::Relaxed);
    until(|| proxy.view.loads().len() == 2).await;
    // The first one is its trial.
    for _ in 0..4 {
        assert_eq!(body_of(&proxy.post("/v1/completions", BODY).await), ANSWER);
    }
    assert_eq!(hung.count(), 22);
    proxy.settled().await;
}

#[tokio::test]
async fn one_that_still_hangs_gets_one_request_to_show_it() {
    let (hung, _hangs) = hanging().await;
    let good = Script::says(response("200 OK", "application/json", ANSWER)).await;
    let proxy = Running::with(&[&hung, &good], |config| config.limits.stall_s = 1).await;
    let proxy = Arc::new(proxy);
    assert_eq!(body_of(&proxy.post("/v1/completions", BODY).await), ANSWER);
    assert_eq!(body_of(&proxy.post("/v1/completions", BODY).await), ANSWER);
    assert_eq!(hung.count(), 1);
    until(|| proxy.view.loads().len() == 2).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let proxy = Arc::clone(&proxy);
        clients.spawn(async move { body_of(&proxy.post("/v1/completions", BODY).await) });
    }
    assert_eq!(clients.join_all().await, [ANSWER; 10]);
    assert_eq!(hung.count(), 2);
    proxy.settled().await;
}
