//! Instances fail in every way that vLLM was seen to; clients notice as little as possible.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lodestar_live::CanarySection;
use lodestar_router::{Load, PolicyConfig};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::script::{Running, STREAM_HEAD, Script, body_of, chunk, post, response, until, write};

const STREAM_BODY: &str = r#"{"prompt":"hello","stream":true}"#;
const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
const BUSY: &str = r#"data: {"error": {"message": "The engine is currently busy", "type": "Service Unavailable", "param": null, "code": 503}}"#;

fn good() -> String {
    response("200 OK", "application/json", ANSWER)
}

/// Ways to fail before the first byte of an answer.
async fn failing() -> Vec<Script> {
    let busy_stream = format!(
        "{STREAM_HEAD}{}{}0\r\n\r\n",
        chunk(&format!("{BUSY}\n\n")),
        chunk("data: [DONE]\n\n")
    );
    let cut_stream = format!("{STREAM_HEAD}{}", chunk("data: {\"choi"));
    let mut scripts = Vec::new();
    for text in [
        response("500 Internal Server Error", "application/json", "{}"),
        response("503 Service Unavailable", "application/json", "{}"),
        busy_stream,
        String::new(),
        cut_stream,
    ] {
        let script = Script::start(move |_, stream| {
            let text = text.clone();
            async move {
                write(&stream, &text).await;
                text.contains("content-length") || text.ends_with("0\r\n\r\n")
            }
        });
        scripts.push(script.await);
    }
    scripts
}

#[tokio::test]
async fn another_instance_answers_before_the_client_has_seen_anything() {
    for bad in failing().await {
        let good = Script::says(good()).await;
        let proxy = Running::before(&[&bad, &good]).await;
        for _ in 0..4 {
            let answer = proxy.post("/v1/completions", STREAM_BODY).await;
            assert_eq!(body_of(&answer), ANSWER);
        }
        assert!(bad.count() >= 1);
        assert_eq!(good.count(), 4);
        proxy.settled().await;
    }
}

#[tokio::test]
async fn the_last_failure_is_the_answer() {
    let busy = "{\"error\":{\"message\":\"busy\",\"code\":503}}";
    let script = Script::says(response("503 Service Unavailable", "application/json", busy)).await;
    let other = Script::says(response("503 Service Unavailable", "application/json", busy)).await;
    let proxy = Running::before(&[&script, &other]).await;
    let answer = proxy.post("/v1/completions", "{}").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(body_of(&answer), busy);
    assert_eq!((script.count(), other.count()), (1, 1), "each was asked once");
    assert_eq!(proxy.view.loads().len(), 2, "busy is no fault");
    proxy.settled().await;
}

#[tokio::test]
async fn an_instance_that_is_not_there_is_taken_out_and_comes_back() {
    let good = Script::says(good()).await;
    let gone = Script::says(crate::failures::good()).await;
    let address = gone.address;
    let proxy = Running::before(&[&gone, &good]).await;
    drop(gone);
    until(|| std::net::TcpStream::connect(address).is_err()).await;
    for _ in 0..2 {
        let answer = proxy.post("/v1/completions", "{}").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    until(|| proxy.view.loads().len() == 1).await;
    proxy.settled().await;
    let back = Script::start_at(address, |_, stream| async move {
        write(&stream, &crate::failures::good()).await
    })
    .await;
    until(|| proxy.view.loads().len() == 2).await;
    for _ in 0..2 {
        proxy.post("/v1/completions", "{}").await;
    }
    assert_eq!(back.count(), 1);
}

/// Takes some seconds: three scrapes have to be missed.
#[tokio::test]
async fn requests_at_an_instance_that_hangs_are_served_elsewhere() {
    let hung = Script::says(good()).await;
    let good = Script::says(good()).await;
    let proxy = Running::before(&[&hung, &good]).await;
    hung.hangs.store(true, Ordering::Relaxed);
    // More at once than the budget for retries.
    let proxy = Arc::new(proxy);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let proxy = Arc::clone(&proxy);
        clients.spawn(async move { body_of(&proxy.post("/v1/completions", STREAM_BODY).await) });
    }
    assert_eq!(clients.join_all().await, [ANSWER; 60]);
    assert_eq!((hung.count(), good.count()), (30, 60));
    assert_eq!(proxy.view.loads().len(), 1);
    proxy.settled().await;
}

#[tokio::test]
async fn an_instance_that_fails_again_and_again_is_taken_out() {
    let bad = Script::says(response("500 Internal Server Error", "application/json", "{}")).await;
    let good = Script::says(good()).await;
    let proxy = Running::before(&[&bad, &good]).await;
    for _ in 0..12 {
        proxy.post("/v1/completions", "{}").await;
    }
    assert_eq!(bad.count(), 5, "five failures in a row");
    assert_eq!(good.count(), 12);
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_with_an_error_event() {
    let one = "data: {\"choices\":[{\"text\":\"one\"}]}\n\n";
    for (cut, gap) in [("", ""), ("data: {\"choi", "\n\n")] {
        let text = format!(
            "{STREAM_HEAD}{}{}",
            chunk(one),
            if cut.is_empty() { String::new() } else { chunk(cut) }
        );
        let script = Script::start(move |_, stream| {
            let text = text.clone();
            async move {
                write(&stream, &text).await;
                false
            }
        })
        .await;
        let proxy = Running::before(&[&script]).await;
        let body = body_of(&proxy.post("/v1/completions", STREAM_BODY).await);
        let rest = body.strip_prefix(&format!("{one}{cut}{gap}")).unwrap();
        let event =
            rest.strip_prefix("data: ").unwrap().strip_suffix("\n\ndata: [DONE]\n\n").unwrap();
        let error: Value = serde_json::from_str(event).unwrap();
        assert_eq!(error["error"]["code"], 502);
        proxy.settled().await;
    }
}

#[tokio::test]
async fn requests_under_way_end_before_the_proxy_does() {
    let permits = Arc::new(tokio::sync::Semaphore::new(0));
    let given = Arc::clone(&permits);
    let script = Script::start(move |_, stream| {
        let permits = Arc::clone(&given);
        async move {
            permits.acquire().await.unwrap().forget();
            write(&stream, &good()).await
        }
    })
    .await;
    let mut proxy = Running::before(&[&script]).await;
    let (address, stop) = (proxy.address, proxy.stop.take());
    let client = async {
        let answer = proxy.post("/v1/completions", "{}");
        tokio::pin!(answer);
        tokio::select! {
            _ = &mut answer => panic!("nobody has answered yet"),
            () = until(|| script.count() == 1) => {}
        }
        stop.unwrap().send(()).unwrap();
        until(|| std::net::TcpStream::connect(address).is_err()).await;
        permits.add_permits(1);
        answer.await
    };
    assert_eq!(body_of(&client.await), ANSWER);
    (&mut proxy.task).await.unwrap();
}

/// Thousands of requests that end in every way at once, and then nothing is owed to anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_thousands_of_mixed_outcomes_nothing_is_reserved() {
    let mut scripts = failing().await;
    let turn = Arc::new(AtomicUsize::new(0));
    let refused = response("400 Bad Request", "application/json", "{}");
    let one = "data: {\"choices\":[{\"text\":\"one\"}]}\n\n";
    let stream = format!("{STREAM_HEAD}{}{}0\r\n\r\n", chunk(one), chunk("data: [DONE]\n\n"));
    let cut = format!("{STREAM_HEAD}{}", chunk(one));
    let texts = Arc::new([good(), refused, stream, cut, good()]);
    let mixed = Script::start(move |_, stream| {
        let index = turn.fetch_add(1, Ordering::Relaxed) % texts.len();
        let texts = Arc::clone(&texts);
        async move { write(&stream, &texts[index]).await && index != 3 }
    });
    scripts.push(mixed.await);
    let proxy = Running::with(&scripts.iter().collect::<Vec<_>>(), |config| {
        let policy = PolicyConfig::from_name("lodestar").unwrap();
        let (rollout_percent, checkpoint) = (50.0, None);
        config.router.canary = Some(CanarySection { policy, rollout_percent, checkpoint });
    })
    .await;
    let proxy = Arc::new(proxy);
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let proxy = Arc::clone(&proxy);
            tokio::spawn(async move {
                for step in 0..250 {
                    if (step + client) % 7 == 0 {
                        // Hangs up without reading.
                        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
                        let _ =
                            stream.write_all(post("/v1/completions", STREAM_BODY).as_bytes()).await;
                    } else {
                        let answer = proxy.post("/v1/completions", STREAM_BODY).await;
                        assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    proxy.settled().await;
    let loads = [proxy.view.loads(), proxy.view.canary_loads()].concat();
    assert!(loads.iter().all(|(_, load)| *load == Load::default()), "{loads:?}");
}
