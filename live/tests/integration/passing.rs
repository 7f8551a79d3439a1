//! What goes through goes through unchanged.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lodestar_live::TlsFiles;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::script::{Running, Script, body_of, post, read_message, response, until, write};

const ANSWER: &str = r#"{"id":"c","choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;

#[tokio::test]
async fn bodies_headers_and_paths_reach_the_engine_as_they_came() {
    let script = Script::says(response("200 OK", "application/json", ANSWER)).await;
    let proxy = Running::before(&[&script]).await;
    // Odd spacing, duplicate keys, escapes, a number that no integer holds, an unknown field.
    let body = "{ \"seed\" : 18446744073709551617,\"messages\":[{\"role\":\"user\",\"content\":\"\\u00fc\\/\"}],\n\"x\":1,\"x\":2 }";
    for path in ["/v1/chat/completions?a=b%20c", "/tokenize", "/any/thing"] {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: proxy.example\r\nContent-Type: application/json\r\n\
             Authorization: Bearer k\r\ntraceparent: 00-1-2-01\r\nx-request-id: mine-7\r\nX-Custom: a\r\n\
             X-Custom: b\r\nConnection: close, x-hop\r\nx-hop: 1\r\nTE: trailers\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        let answer = proxy.ask(&request).await;
        assert_eq!(body_of(&answer), ANSWER);
        assert!(answer.contains("x-request-id: mine-7\r\n"), "{answer}");

        let got = String::from_utf8(script.requests.lock().unwrap().pop().unwrap()).unwrap();
        let (head, got_body) = got.split_once("\r\n\r\n").unwrap();
        assert_eq!(got_body, body);
        assert!(head.starts_with(&format!("POST {path} HTTP/1.1\r\n")), "{head}");
        let mut headers: Vec<&str> = head.split("\r\n").skip(1).collect();
        headers.sort_unstable();
        let host = format!("host: {}", script.address);
        assert_eq!(
            headers,
            [
                "authorization: Bearer k",
                &format!("content-length: {length}"),
                "content-type: application/json",
                &host,
                "traceparent: 00-1-2-01",
                "x-custom: a",
                "x-custom: b",
                "x-request-id: mine-7",
            ]
        );
    }
    proxy.settled().await;
}

#[tokio::test]
async fn answers_come_back_as_they_are() {
    let refusal =
        r#"{"error":{"message":"no","type":"BadRequestError","param":"messages","code":400}}"#;
    let raw = format!(
        "HTTP/1.1 400 Bad Request\r\nserver: uvicorn\r\nx-engine: 1\r\nset-cookie: a\r\nset-cookie: b\r\n\
         content-type: application/json\r\nkeep-alive: timeout=5\r\ncontent-length: {}\r\n\r\n{refusal}",
        refusal.len()
    );
    let script = Script::says(raw).await;
    let proxy = Running::before(&[&script]).await;
    let answer = proxy.post("/v1/chat/completions", "not json").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, refusal);
    assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head}");
    for line in ["server: uvicorn", "x-engine: 1", "set-cookie: a", "set-cookie: b"] {
        assert!(head.contains(line), "{head}");
    }
    assert!(!head.contains("keep-alive"), "{head}");
    assert!(head.contains("x-request-id: "), "one is made: {head}");
    assert_eq!(script.count(), 1, "an error of the client is not retried");
    proxy.settled().await;
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_in_openais_words() {
    let script = Script::says(response("200 OK", "application/json", ANSWER)).await;
    let proxy = Running::with(&[&script], |config| config.limits.body_bytes = 100).await;
    let long = "x".repeat(101);
    let chunked = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: p\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
         65\r\n{long}\r\n0\r\n\r\n"
    );
    for answer in [proxy.post("/v1/completions", &long).await, proxy.ask(&chunked).await] {
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        let error: Value = serde_json::from_str(&body_of(&answer)).unwrap();
        assert_eq!(error["error"]["code"], 413);
        assert_eq!(error["error"]["type"], "BadRequestError");
    }
    assert_eq!(script.count(), 0);
    let answer = proxy.post("/v1/completions", &long[1..]).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn models_are_merged_and_health_is_the_proxys() {
    let first = Script::says("").await;
    let second = Script::start(|_, stream| async move { write(&stream, "").await }).await;
    let proxy = Running::before(&[&first, &second]).await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: p\r\nconnection: close\r\n\r\n");
    let models = proxy.ask(&get("/v1/models")).await;
    let models: Value = serde_json::from_str(&body_of(&models)).unwrap();
    assert_eq!(models["data"].as_array().unwrap().len(), 1, "both serve the same");
    assert_eq!(models["data"][0]["max_model_len"], 4096);
    assert!(proxy.ask(&get("/health")).await.starts_with("HTTP/1.1 200 "));

    let nobody = Running::with(&[], |config| {
        config.instances = vec![lodestar_live::InstanceEntry::new("http://127.0.0.1:1".into())];
        config.limits.queue = 0;
    })
    .await;
    let answer = nobody.ask(&get("/health")).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let answer = nobody.post("/v1/completions", "{}").await;
    assert!(answer.contains("retry-after: 10"), "{answer}");
}

#[tokio::test]
async fn metrics_are_the_proxys_own() {
    let script = Script::says(response("200 OK", "application/json", ANSWER)).await;
    let proxy = Running::before(&[&script]).await;
    for _ in 0..3 {
        proxy.post("/v1/completions", r#"{"prompt":"hello"}"#).await;
    }
    proxy.settled().await;
    let page = proxy.ask("GET /metrics HTTP/1.1\r\nhost: p\r\nconnection: close\r\n\r\n").await;
    let instance = format!("{{instance=\"{}\"}}", script.url());
    for line in [
        "lodestar_attempts_total{outcome=\"finished\"} 3",
        "lodestar_decisions_total{reason=\"round-robin\"} 3",
        "lodestar_prompt_tokens_total 9",
        "lodestar_instances 1",
        &format!("lodestar_prefill_requests{instance} 0"),
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
}

#[tokio::test]
async fn an_answer_may_be_empty() {
    let script = Script::says(response("200 OK", "application/json", "")).await;
    let proxy = Running::before(&[&script]).await;
    let answer = proxy.post("/v1/completions", "{}").await;
    assert!(answer.contains("content-length: 0\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    let page = proxy.ask("GET /metrics HTTP/1.1\r\nhost: p\r\nconnection: close\r\n\r\n").await;
    assert!(page.contains("lodestar_attempts_total{outcome=\"finished\"} 1\n"), "{page}");
}

#[tokio::test]
async fn http_2_is_spoken_by_prior_knowledge() {
    let script = Script::says(response("200 OK", "application/json", ANSWER)).await;
    let proxy = Running::before(&[&script]).await;
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let request = |body: &'static str| {
        Request::post("http://proxy/v1/completions").body(Full::new(Bytes::from(body))).unwrap()
    };
    let (one, two) = tokio::join!(
        sender.send_request(request(r#"{"prompt":"a"}"#)),
        sender.clone().send_request(request(r#"{"prompt":"b"}"#))
    );
    for answer in [one.unwrap(), two.unwrap()] {
        assert_eq!(answer.status(), 200);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, ANSWER.as_bytes());
    }
    proxy.settled().await;
    connection.abort();
}

#[tokio::test]
async fn tls_offers_both_protocols() {
    let script = Script::says(response("200 OK", "application/json", ANSWER)).await;
    let files = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls"));
    let tls = TlsFiles { certificates: files.join("certificate.pem"), key: files.join("key.pem") };
    let certificate = CertificateDer::from_pem_file(&tls.certificates).unwrap();
    let proxy = Running::with(&[&script], |config| config.tls = Some(tls)).await;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    for protocol in ["h2", "http/1.1"] {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
        if protocol == "http/1.1" {
            stream.write_all(post("/v1/completions", "{}").as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert_eq!(body_of(&answer), ANSWER);
        }
    }
}

#[tokio::test]
async fn an_instance_may_speak_tls() {
    let script = Script::says(response("200 OK", "application/json", ANSWER)).await;
    let files = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls"));
    let tls = TlsFiles { certificates: files.join("certificate.pem"), key: files.join("key.pem") };
    let authorities = tls.certificates.clone();
    let instance = Running::with(&[&script], |config| config.tls = Some(tls)).await;
    let url = format!("https://localhost:{}", instance.address.port());
    let entries = vec![lodestar_live::InstanceEntry::new(url)];
    let proxy = Running::with(&[], |config| {
        config.instances = entries.clone();
        config.instance_authorities = Some(authorities);
    })
    .await;
    until(|| proxy.view.loads().len() == 1).await;
    let answer = proxy.post("/v1/completions", "{}").await;
    assert_eq!(body_of(&answer), ANSWER);
    // Nobody vouches for it.
    let other = Running::with(&[], |config| {
        config.instances = entries;
        config.limits.queue_s = 0;
    })
    .await;
    let answer = other.post("/v1/completions", "{}").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let script = Script::says(response("200 OK", "application/json", ANSWER)).await;
    let proxy = Running::before(&[&script]).await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let mut rest = Vec::new();
    for _ in 0..3 {
        let request = "POST /v1/completions HTTP/1.1\r\nhost: p\r\ncontent-length: 2\r\n\r\n{}";
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_message(&mut stream, &mut rest).await.unwrap();
        assert!(answer.ends_with(ANSWER.as_bytes()));
    }
    let ports = Arc::clone(&script.requests);
    assert_eq!(ports.lock().unwrap().len(), 3);
    proxy.settled().await;
}

#[tokio::test]
async fn answers_say_who_gave_them_and_why_if_that_is_wanted() {
    let script = Script::says(response("200 OK", "application/json", ANSWER)).await;
    for wanted in [false, true] {
        let proxy =
            Running::with(&[&script], |config| config.router.response_headers = wanted).await;
        let answer = proxy.post("/v1/chat/completions", "{}").await;
        let who = format!("x-lodestar-instance: {}\r\n", script.url());
        assert_eq!(answer.contains(&who), wanted, "{answer}");
        assert_eq!(answer.contains("x-lodestar-reason: round-robin\r\n"), wanted, "{answer}");
        let page = proxy.ask("GET /version HTTP/1.1\r\nhost: p\r\nconnection: close\r\n\r\n").await;
        assert!(!page.contains("x-lodestar-"), "nobody decided on that: {page}");
    }
}

#[tokio::test]
async fn engines_are_asked_for_their_load_and_clients_do_not_see_it() {
    let report = "endpoint-load-metrics: TEXT named_metrics.kv_cache_usage_perc=0.75, named_metrics.num_requests_waiting=3.0";
    let answer = response("200 OK", "application/json", ANSWER);
    let answer = answer.replacen("\r\n", &format!("\r\n{report}\r\n"), 1);
    let script = Script::says(answer).await;
    let page =
        "vllm:num_requests_running 2\nvllm:num_requests_waiting 1\nvllm:kv_cache_usage_perc 0.25\n";
    *script.metrics.lock().unwrap() = page.to_owned();
    let folder = tempfile::tempdir().unwrap();
    let mut proxy = Running::with(&[&script], |config| {
        config.router.load_header = true;
        config.router.log = Some(folder.path().to_owned());
    })
    .await;
    // Which only counts when there is something that it adds to.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let answer = proxy.post("/v1/chat/completions", "{}").await;
    assert!(!answer.contains("endpoint-load-metrics"), "{answer}");
    let asked = String::from_utf8(script.requests.lock().unwrap().pop().unwrap()).unwrap();
    assert!(asked.contains("endpoint-load-metrics-format: TEXT\r\n"), "{asked}");
    let own = "POST /v1/chat/completions HTTP/1.1\r\nhost: p\r\nendpoint-load-metrics-format: JSON\r\n\
               content-length: 2\r\nconnection: close\r\n\r\n{}";
    assert!(proxy.ask(own).await.contains(report), "who asks is told");

    proxy.stop.take().unwrap().send(()).unwrap();
    (&mut proxy.task).await.unwrap();
    let log = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap();
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert!(log.contains(r#""waiting_requests":3,"kv_usage":0.75"#), "{log}");
}

#[tokio::test]
async fn a_connection_that_becomes_a_websocket_passes_both_ways() {
    let agreed = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                  sec-websocket-accept: abc\r\n\r\n";
    let script = Script::start(move |_, stream| async move {
        write(&stream, agreed).await;
        // Says everything twice until the other side ends.
        let mut buffer = [0; 64];
        loop {
            let mut stream = stream.lock().await;
            match stream.read(&mut buffer).await {
                Ok(read) if read > 0 => {
                    stream.write_all(&buffer[..read].repeat(2)).await.unwrap();
                }
                _ => break,
            }
        }
        false
    })
    .await;
    let proxy = Running::before(&[&script]).await;
    let ask = "GET /v1/realtime?model=m HTTP/1.1\r\nhost: p\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
               sec-websocket-key: k\r\n\r\n";
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(ask.as_bytes()).await.unwrap();
    let mut rest = Vec::new();
    let head = String::from_utf8(read_message(&mut client, &mut rest).await.unwrap()).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    for line in ["connection: upgrade", "upgrade: websocket", "sec-websocket-accept: abc"] {
        assert!(head.contains(&format!("{line}\r\n")), "{head}");
    }
    for words in ["hello", "\0\u{1}"] {
        client.write_all(words.as_bytes()).await.unwrap();
        let mut twice = vec![0; 2 * words.len()];
        client.read_exact(&mut twice).await.unwrap();
        assert_eq!(twice, words.repeat(2).as_bytes());
    }
    client.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "the other side ends too");
    let asked = String::from_utf8(script.requests.lock().unwrap().pop().unwrap()).unwrap();
    assert!(asked.starts_with("GET /v1/realtime?model=m HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("upgrade: websocket\r\n") && asked.contains("sec-websocket-key: k\r\n"));
}

#[tokio::test]
async fn a_websocket_that_is_refused_is_an_answer_like_any_other() {
    let script = Script::says(response("403 Forbidden", "text/plain", "no")).await;
    let proxy = Running::before(&[&script]).await;
    let ask = "GET /v1/realtime HTTP/1.1\r\nhost: p\r\nconnection: Upgrade, close\r\nupgrade: websocket\r\n\r\n";
    let answer = proxy.ask(ask).await;
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    assert_eq!(body_of(&answer), "no");
    assert_eq!(proxy.under_way(), 0, "the router did not decide on that");
    // As curl offers it with any request.
    let h2c = "POST /v1/completions HTTP/1.1\r\nhost: p\r\nconnection: Upgrade, HTTP2-Settings, close\r\nupgrade: h2c\r\n\
               http2-settings: AAMAAABk\r\ncontent-length: 2\r\n\r\n{}";
    assert!(proxy.ask(h2c).await.starts_with("HTTP/1.1 403 "));
    let asked = String::from_utf8(script.requests.lock().unwrap().pop().unwrap()).unwrap();
    assert!(asked.ends_with("\r\n\r\n{}") && !asked.contains("h2c"), "{asked}");
}

#[tokio::test]
async fn a_websocket_whose_instance_ends_it_keeps_no_place() {
    let agreed =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    let script = Script::start(move |request, stream| async move {
        let is_plain = request.starts_with("POST ");
        let plain = response("200 OK", "application/json", ANSWER);
        write(&stream, if is_plain { &plain } else { agreed }).await && is_plain
    })
    .await;
    let proxy = Running::with(&[&script], |config| {
        (config.limits.concurrent_requests, config.limits.queue) = (1, 0);
    })
    .await;
    // Two lines, as they may be.
    let ask = "GET /v1/realtime HTTP/1.1\r\nhost: p\r\nconnection: keep-alive\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "), "and the end of it: {answer}");
    // The client stays.
    loop {
        let answer = proxy.post("/v1/completions", "{}").await;
        if answer.starts_with("HTTP/1.1 200 ") {
            break;
        }
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(client);
}

#[tokio::test]
async fn a_request_with_a_body_becomes_no_websocket() {
    let script = Script::says(response("200 OK", "application/json", ANSWER)).await;
    let proxy = Running::before(&[&script]).await;
    for (version, length, body) in [("1.1", 4, "abcd"), ("1.0", 0, "")] {
        let ask = format!(
            "GET /v1/realtime HTTP/{version}\r\nhost: p\r\nconnection: Upgrade, close\r\nupgrade: websocket\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        assert!(proxy.ask(&ask).await.contains(" 200 OK\r\n"));
        let asked = String::from_utf8(script.requests.lock().unwrap().pop().unwrap()).unwrap();
        assert!(
            asked.ends_with(&format!("\r\n\r\n{body}")) && !asked.contains("websocket"),
            "{asked}"
        );
    }
}
