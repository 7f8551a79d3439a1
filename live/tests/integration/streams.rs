//! Streams are passed on as they come, and end when either side ends them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::script::{Running, STREAM_HEAD, Script, body_of, chunk, post, until, write};

const BODY: &str = r#"{"model":"m","prompt":"hello","stream":true}"#;

fn event(text: &str) -> String {
    format!("data: {{\"choices\":[{{\"text\":\"{text}\"}}]}}\n\n")
}

/// Sends the stream in pieces; each needs a permit.
async fn in_pieces(pieces: Vec<String>) -> (Script, Arc<Semaphore>) {
    let permits = Arc::new(Semaphore::new(0));
    let given = Arc::clone(&permits);
    let script = Script::start(move |_, stream| {
        let (pieces, permits) = (pieces.clone(), Arc::clone(&given));
        async move {
            if !write(&stream, STREAM_HEAD).await {
                return false;
            }
            for piece in &pieces {
                permits.acquire().await.unwrap().forget();
                if !write(&stream, &chunk(piece)).await {
                    return false;
                }
            }
            write(&stream, "0\r\n\r\n").await
        }
    })
    .await;
    (script, permits)
}

/// Reads until the text has come.
async fn read_until(stream: &mut TcpStream, got: &mut String, text: &str) {
    while !got.contains(text) {
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "closed before {text}: {got}");
        got.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
}

#[tokio::test]
async fn a_stream_that_comes_whole_passes_whole_and_its_first_event_counts() {
    let words = ["one", "two", "three"].map(event).concat() + "data: [DONE]\n\n";
    let events: String = words.split_inclusive("\n\n").map(chunk).collect();
    let script = Script::says(format!("{STREAM_HEAD}{events}0\r\n\r\n")).await;
    let proxy = Running::before(&[&script]).await;
    assert_eq!(body_of(&proxy.post("/v1/completions", BODY).await), words);
    proxy.settled().await;
    let page = proxy.ask("GET /metrics HTTP/1.1\r\nhost: p\r\nconnection: close\r\n\r\n").await;
    for line in [
        "lodestar_time_to_first_token_seconds_count 1\n",
        "lodestar_attempts_total{outcome=\"finished\"} 1\n",
        "lodestar_output_tokens_total 3\n",
    ] {
        assert!(page.contains(line), "{line}{page}");
    }
}

#[tokio::test]
async fn each_event_is_passed_on_before_the_next_one_comes() {
    let pieces = vec![event("one"), event("two"), event("three"), "data: [DONE]\n\n".to_owned()];
    let (script, permits) = in_pieces(pieces.clone()).await;
    let proxy = Running::before(&[&script]).await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(post("/v1/completions", BODY).as_bytes()).await.unwrap();
    let mut got = String::new();
    for word in ["one", "two", "three", "[DONE]"] {
        assert!(!got.contains(word));
        permits.add_permits(1);
        read_until(&mut stream, &mut got, word).await;
    }
    stream.read_to_string(&mut got).await.unwrap();
    assert_eq!(body_of(&got), pieces.concat());
    proxy.settled().await;
}

#[tokio::test]
async fn events_may_be_cut_anywhere() {
    let whole = [event("o\u{e4}ne"), event("two"), "data: [DONE]\n\n".to_owned()].concat();
    for size in [1, 2, 3, 5, 40] {
        // Between bytes of a character too, which a `String` cannot hold: cut by characters here, and by bytes
        // in the reader's own tests.
        let characters: Vec<char> = whole.chars().collect();
        let pieces = characters.chunks(size).map(|piece| piece.iter().collect()).collect();
        let (script, permits) = in_pieces(pieces).await;
        permits.add_permits(whole.len());
        let proxy = Running::before(&[&script]).await;
        assert_eq!(body_of(&proxy.post("/v1/completions", BODY).await), whole);
        proxy.settled().await;
    }
}

#[tokio::test]
async fn the_router_sees_a_stream_grow() {
    let pieces = (0..40).map(|_| event("x")).chain(["data: [DONE]\n\n".to_owned()]).collect();
    let (script, permits) = in_pieces(pieces).await;
    let proxy = Running::before(&[&script]).await;
    let load = || proxy.view.loads()[0].1;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(post("/v1/completions", BODY).as_bytes()).await.unwrap();
    until(|| load().prefill_requests == 1).await;
    let before = load().context_tokens;
    permits.add_permits(1);
    until(|| load().decode_requests == 1).await;
    permits.add_permits(39);
    until(|| load().context_tokens >= before + 17).await;
    permits.add_permits(1);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    proxy.settled().await;
}

/// A server that starts an answer, or not, and counts how many clients hang up on it.
async fn endless(start: &'static str) -> (Script, Arc<AtomicUsize>) {
    let hung_up = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&hung_up);
    let script = Script::start(move |_, stream| {
        let count = Arc::clone(&count);
        async move {
            write(&stream, start).await;
            let mut byte = [0];
            let read = stream.lock().await.read(&mut byte).await;
            if matches!(read, Ok(0) | Err(_)) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            false
        }
    })
    .await;
    (script, hung_up)
}

#[tokio::test]
async fn when_the_client_hangs_up_the_engine_is_told() {
    let first = format!("{STREAM_HEAD}{}", chunk(&event("one")));
    for start in ["", STREAM_HEAD, first.leak()] {
        let (script, hung_up) = endless(start).await;
        let proxy = Running::before(&[&script]).await;
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(post("/v1/completions", BODY).as_bytes()).await.unwrap();
        until(|| script.count() == 1).await;
        if start.contains("one") {
            read_until(&mut stream, &mut String::new(), "one").await;
        }
        assert_eq!(proxy.under_way(), 1);
        drop(stream);
        until(|| hung_up.load(Ordering::Relaxed) == 1).await;
        proxy.settled().await;
        assert_eq!(script.count(), 1, "nobody waits for a second attempt");
    }
}

#[tokio::test]
async fn a_slow_client_slows_its_engine_down() {
    let written = Arc::new(AtomicUsize::new(0));
    let total = Arc::clone(&written);
    let script = Script::start(move |_, stream| {
        let total = Arc::clone(&total);
        async move {
            write(&stream, STREAM_HEAD).await;
            let piece = chunk(&event(&"x".repeat(64 << 10)));
            while write(&stream, &piece).await {
                total.fetch_add(piece.len(), Ordering::Relaxed);
            }
            false
        }
    })
    .await;
    let proxy = Running::before(&[&script]).await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(post("/v1/completions", BODY).as_bytes()).await.unwrap();
    let mut buffer = vec![0; 4096];
    stream.read_exact(&mut buffer).await.unwrap();
    // It ends at the buffers of the sockets; a proxy that reads on regardless never stops.
    let mut before = 0;
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let now = written.load(Ordering::Relaxed);
        if now == before && now > 0 {
            break;
        }
        before = now;
        assert!(now < 1 << 30, "nothing holds the engine back");
    }
    drop(stream);
    proxy.settled().await;
}

#[tokio::test]
async fn events_that_come_together_pass_together_wherever_they_are() {
    let go_on = Arc::new(Semaphore::new(0));
    let permits = Arc::clone(&go_on);
    let script = Script::start(move |_, stream| {
        let permits = Arc::clone(&permits);
        async move {
            write(&stream, &format!("{STREAM_HEAD}{}", chunk(&event("first")))).await;
            permits.acquire().await.unwrap().forget();
            let later: String =
                (0..20).map(|number| chunk(&event(&format!("n{number}")))).collect();
            write(&stream, &format!("{later}{}0\r\n\r\n", chunk("data: [DONE]\n\n"))).await
        }
    })
    .await;
    let proxy = Running::before(&[&script]).await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(post("/v1/completions", BODY).as_bytes()).await.unwrap();
    let mut got = String::new();
    read_until(&mut client, &mut got, "first").await;
    go_on.add_permits(1);
    read_until(&mut client, &mut got, "[DONE]").await;
    assert_eq!(got.matches("data: ").count(), 22);
    let is_size = |line: &&str| !line.is_empty() && u32::from_str_radix(line, 16).is_ok();
    let (_, body) = got.split_once("\r\n\r\n").unwrap();
    let chunks = body.split("\r\n").filter(is_size).count();
    assert!(chunks < 10, "{chunks} pieces for 22 events: {got}");
    proxy.settled().await;
}
