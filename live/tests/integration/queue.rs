//! More requests than anybody can take.

use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::script::{Running, Script, body_of, post, response, until, write};

const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;

/// One that answers as many requests as there are permits.
async fn waiting_for(permits: &Arc<Semaphore>) -> Script {
    let permits = Arc::clone(permits);
    Script::start(move |_, stream| {
        let permits = Arc::clone(&permits);
        async move {
            permits.acquire().await.unwrap().forget();
            write(&stream, &response("200 OK", "application/json", ANSWER)).await
        }
    })
    .await
}

async fn send(proxy: &Running, body: &str) -> TcpStream {
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(post("/v1/completions", body).as_bytes()).await.unwrap();
    client
}

#[tokio::test]
async fn one_request_too_many_waits_and_one_more_is_asked_to_come_again() {
    let permits = Arc::new(Semaphore::new(0));
    let script = waiting_for(&permits).await;
    let proxy = Running::with(&[&script], |config| {
        config.limits.concurrent_requests = 1;
        config.limits.queue = 3;
        config.limits.queue_s = 30;
    })
    .await;
    let mut clients = Vec::new();
    for number in 0..4 {
        clients.push(send(&proxy, &format!("{{\"n\":{number}}}")).await);
        until(|| script.count() == 1 && proxy.view.waiting() == number).await;
    }
    let refused = proxy.post("/v1/completions", "{}").await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("retry-after: 30\r\n"), "nothing is known of the rate: {refused}");
    // One of those that wait hangs up.
    drop(clients.remove(2));
    until(|| proxy.view.waiting() == 2).await;
    permits.add_permits(3);
    for client in &mut clients {
        let answer = read(client).await;
        assert_eq!(body_of(&answer), ANSWER);
    }
    let requests = script.requests.lock().unwrap();
    let order: Vec<_> = requests.iter().map(|request| request[request.len() - 2]).collect();
    assert_eq!(order, *b"013", "first come, first served");
}

async fn read(client: &mut TcpStream) -> String {
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(client, &mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn who_waits_in_vain_is_refused() {
    let script = waiting_for(&Arc::new(Semaphore::new(0))).await;
    let proxy = Running::with(&[&script], |config| {
        config.limits.concurrent_requests = 1;
        config.limits.queue_s = 1;
    })
    .await;
    let first = send(&proxy, "{}").await;
    until(|| script.count() == 1).await;
    let answer = proxy.post("/v1/completions", "{}").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("for 1 s"), "{answer}");
    assert_eq!(proxy.view.waiting(), 0);
    drop(first);
    proxy.settled().await;
}

#[tokio::test]
async fn without_any_instance_requests_wait_for_one() {
    let script = Script::says(response("200 OK", "application/json", ANSWER)).await;
    let address = script.address;
    let proxy = Running::with(&[&script], |config| config.limits.queue_s = 60).await;
    drop(script);
    until(|| std::net::TcpStream::connect(address).is_err()).await;
    // It finds out that the instance has gone.
    let mut client = send(&proxy, "{}").await;
    until(|| proxy.view.waiting() == 1 && proxy.view.loads().is_empty()).await;
    let _back = Script::start_at(address, |_, stream| async move {
        write(&stream, &response("200 OK", "application/json", ANSWER)).await
    })
    .await;
    assert_eq!(body_of(&read(&mut client).await), ANSWER);
    proxy.settled().await;
}

#[tokio::test]
async fn when_the_proxy_stops_nobody_waits_any_longer() {
    let permits = Arc::new(Semaphore::new(0));
    let script = waiting_for(&permits).await;
    let mut proxy = Running::with(&[&script], |config| {
        config.limits.concurrent_requests = 1;
        config.limits.queue_s = 60;
    })
    .await;
    let mut first = send(&proxy, "{}").await;
    until(|| script.count() == 1).await;
    let mut second = send(&proxy, "{}").await;
    until(|| proxy.view.waiting() == 1).await;
    proxy.stop.take().unwrap().send(()).unwrap();
    let refused = read(&mut second).await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("stops"), "{refused}");
    permits.add_permits(1);
    assert_eq!(body_of(&read(&mut first).await), ANSWER);
    (&mut proxy.task).await.unwrap();
}
