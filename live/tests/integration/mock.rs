//! The mock beside recordings of vLLM 0.32.0, and under clients that come and go.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;

use lodestar_live::mock::{MockConfig, MockCore, MockLimits, MockRequest, MockServer, MockToken};
use lodestar_live::parse_metrics;
use lodestar_router::{Duration, InstanceMetrics, Time};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::script::{body_of, post};

/// One token a virtual second for each request, all at once.
#[derive(Default)]
struct Steady {
    requests: VecDeque<(u32, u32, bool)>,
    at: Option<Time>,
}

const STEP: Duration = Duration::from_secs(1);

impl MockCore for Steady {
    fn limits(&self) -> MockLimits {
        MockLimits { max_model_len: 4096, block_size: 16, num_blocks: 1000 }
    }

    fn submit(&mut self, now: Time, request: MockRequest) {
        self.requests.push_back((request.handle, request.output_tokens, true));
        self.at.get_or_insert(now + STEP);
    }

    fn abort(&mut self, _now: Time, handle: u32) {
        self.requests.retain(|(of, ..)| *of != handle);
    }

    fn next_wakeup(&self) -> Option<Time> {
        self.at
    }

    fn wake(&mut self, now: Time, tokens: &mut Vec<MockToken>) {
        for (handle, left, first) in &mut self.requests {
            tokens.push(MockToken { handle: *handle, cached_tokens: first.then_some(0) });
            (*left, *first) = (*left - 1, false);
        }
        self.requests.retain(|(_, left, _)| *left > 0);
        self.at = (!self.requests.is_empty()).then_some(now + STEP);
    }

    fn metrics(&self) -> InstanceMetrics {
        InstanceMetrics {
            running_requests: self.requests.len() as u32,
            ..InstanceMetrics::default()
        }
    }
}

async fn mock(time_scale: f64) -> SocketAddr {
    let config = MockConfig { model: "tiny".to_owned(), time_scale, kv_events: None };
    let address = "127.0.0.1:0".parse().unwrap();
    let server = MockServer::bind(address, config, Steady::default()).await.unwrap();
    let address = server.local_address().unwrap();
    tokio::spawn(server.run(std::future::pending()));
    address
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n")
}

/// The same JSON with its values replaced: names and types remain.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), shape(value))).collect()
        }
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::Null => Value::Null,
        Value::Bool(_) => "bool".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
    }
}

/// Status line, content type, and each JSON text of a response.
fn parts(response: &str) -> (String, String, Vec<Value>) {
    let (head, _) = response.split_once("\r\n\r\n").unwrap();
    let status = head.lines().next().unwrap().to_owned();
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: "));
    let body = body_of(response);
    let json = |text: &str| serde_json::from_str(text).unwrap();
    let texts = if body.starts_with("data: ") {
        let events = body.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        events.map(|event| if event == "[DONE]" { "[DONE]".into() } else { json(event) }).collect()
    } else if body.trim().is_empty() {
        Vec::new()
    } else {
        vec![json(&body)]
    };
    (status, kind.unwrap_or_default().to_owned(), texts)
}

/// A recording, the request that gives the same answer, and whether only the shapes can be compared.
fn cases() -> Vec<(&'static str, String, bool)> {
    let chat = r#""messages":[{"role":"user","content":"hello"}]"#;
    let stream = r#""stream":true"#;
    let usage = r#""stream_options":{"include_usage":true}"#;
    let each = r#""stream_options":{"include_usage":true,"continuous_usage_stats":true}"#;
    let chats = |fields: String| post("/v1/chat/completions", &format!("{{{fields}}}"));
    let completions = |fields: String| post("/v1/completions", &format!("{{{fields}}}"));
    let text = r#""model":"tiny","prompt":"hello, this is a test""#;
    let long = "word".repeat(4097);
    vec![
        ("chat", chats(format!("{chat},\"max_tokens\":8")), true),
        ("chat_max_completion_tokens", chats(format!("{chat},\"max_completion_tokens\":3")), true),
        ("chat_stream", chats(format!("{chat},{stream},{usage},\"max_tokens\":5")), true),
        ("chat_stream_reqid", chats(format!("{chat},{stream},\"max_tokens\":2")), true),
        ("completions", completions(format!("{text},\"max_tokens\":8")), true),
        (
            "completions_tokens",
            completions("\"prompt\":[1,2,3,4,5,6,7,8],\"max_tokens\":4".into()),
            true,
        ),
        (
            "completions_batch",
            completions("\"prompt\":[\"a\",\"b\"],\"max_tokens\":3".into()),
            true,
        ),
        (
            "completions_stream",
            completions(format!("{text},{stream},{usage},\"max_tokens\":5")),
            true,
        ),
        (
            "completions_stream_nousage",
            completions(format!("{text},{stream},\"max_tokens\":3")),
            true,
        ),
        (
            "completions_stream_contusage",
            completions(format!("{text},{stream},{each},\"max_tokens\":3")),
            true,
        ),
        (
            "unknown_field",
            completions(format!("{text},\"no_such_field\":1,\"max_tokens\":1")),
            true,
        ),
        ("models", get("/v1/models"), true),
        ("version", get("/version"), false),
        ("health", get("/health"), false),
        ("err_404", get("/nope"), false),
        ("err_405", get("/v1/completions"), false),
        ("err_badjson_compl", post("/v1/completions", "}"), false),
        ("err_empty_body", post("/v1/completions", ""), false),
        ("err_missing_messages", chats("\"model\":\"tiny\"".into()), false),
        ("err_missing_prompt", completions("\"model\":\"tiny\"".into()), false),
        ("err_unknown_model", completions("\"model\":\"nope\",\"prompt\":\"a\"".into()), false),
        ("err_type", completions(format!("{text},\"max_tokens\":\"abc\"")), false),
        ("err_maxtokens_too_big", completions(format!("{text},\"max_tokens\":100000")), false),
        ("err_temperature", completions(format!("{text},\"temperature\":-1")), false),
        ("err_toolong", completions(format!("\"prompt\":\"{long}\"")), false),
        (
            "err_noctype",
            post("/v1/completions", "{}").replace("content-type: application/json\r\n", ""),
            false,
        ),
    ]
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "a test that did nothing says so")]
async fn answers_are_those_of_vllm() {
    let folder =
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vllm-http/responses"));
    if !folder.is_dir() {
        eprintln!("SKIPPED: no recordings in {}", folder.display());
        return;
    }
    let address = mock(1e6).await;
    for (name, request, shapes_only) in cases() {
        let recorded = std::fs::read_to_string(folder.join(format!("{name}.txt"))).unwrap();
        // The client that recorded them had undone the chunks.
        let recorded = recorded.replace("\r\n", "\n").replacen("\n\n", "\r\n\r\n", 1);
        let recorded = recorded
            .replace("transfer-encoding: chunked\n", "")
            .replace("transfer-encoding: chunked", "");
        let (status, kind, texts) = parts(&recorded);
        let answer = parts(&ask(address, &request).await);
        assert_eq!((&answer.0, &answer.1), (&status, &kind), "{name}");
        if shapes_only {
            let shapes = |texts: &[Value]| texts.iter().map(shape).collect::<Vec<_>>();
            assert_eq!(shapes(&answer.2), shapes(&texts), "{name}");
        } else {
            assert_eq!(answer.2, texts, "{name}");
        }
    }
}

#[tokio::test]
async fn usage_and_text_agree() {
    let address = mock(1e6).await;
    let body = r#"{"prompt":"0123456789ab","max_tokens":7,"n":2}"#;
    let (_, _, texts) = parts(&ask(address, &post("/v1/completions", body)).await);
    assert_eq!(texts[0]["usage"]["prompt_tokens"], 3);
    assert_eq!(texts[0]["usage"]["completion_tokens"], 14);
    let text = |index: usize| texts[0]["choices"][index]["text"].as_str().unwrap().to_owned();
    assert_eq!((text(0).len(), text(1).len()), (28, 28));
    assert_ne!(text(0), text(1));
}

#[tokio::test]
async fn who_hangs_up_is_forgotten() {
    // No token comes while the test runs.
    let address = mock(0.001).await;
    let running = async || {
        let page = ask(address, &get("/metrics")).await;
        parse_metrics(&body_of(&page)).unwrap().running_requests
    };
    for stream in [false, true] {
        let body = format!(r#"{{"prompt":"hello","max_tokens":9,"stream":{stream}}}"#);
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(post("/v1/completions", &body).as_bytes()).await.unwrap();
        while running().await == 0 {}
        drop(client);
        while running().await == 1 {}
    }
}
