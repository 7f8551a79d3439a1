//! Traces: who hangs below whom, and what it costs when nobody takes them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lodestar_live::TelemetrySection;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;

use crate::script::{Running, STREAM_HEAD, Script, body_of, chunk, response, until, write};

const BODY: &str = r#"{"model":"m","prompt":"hello","stream":true}"#;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: &str = "00f067aa0ba902b7";

fn stream() -> String {
    let event = |json: &str| chunk(&format!("data: {json}\n\n"));
    let text = event(r#"{"choices":[{"text":"hi"}]}"#);
    let usage = event(r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#);
    format!("{STREAM_HEAD}{text}{usage}{}0\r\n\r\n", event("[DONE]"))
}

async fn collector() -> Script {
    Script::says(response("200 OK", "application/x-protobuf", "")).await
}

async fn traced(instances: &[&Script], collector: &Script, sample_percent: f64) -> Running {
    let otlp_endpoint = Some(collector.url());
    Running::with(instances, |config| {
        config.telemetry = Some(TelemetrySection { otlp_endpoint, sample_percent });
    })
    .await
}

/// Asks for a completion with this header.
async fn ask(proxy: &Running, traceparent: Option<&str>) -> String {
    let header = traceparent.map(|it| format!("traceparent: {it}\r\n")).unwrap_or_default();
    let length = BODY.len();
    proxy
        .ask(&format!(
            "POST /v1/completions HTTP/1.1\r\nhost: p\r\nx-request-id: mine-7\r\n{header}\
             connection: close\r\ncontent-length: {length}\r\n\r\n{BODY}"
        ))
        .await
}

/// The `traceparent`s that a server was sent.
fn traceparents(script: &Script) -> Vec<Option<String>> {
    let requests = script.requests.lock().unwrap();
    let header = |request: &Vec<u8>| {
        let text = String::from_utf8_lossy(request).into_owned();
        text.lines().find_map(|line| line.strip_prefix("traceparent: ").map(str::to_owned))
    };
    requests.iter().map(header).collect()
}

/// Stops the proxy, and reads what the collector has got.
async fn spans(mut proxy: Running, collector: &Script) -> Vec<Span> {
    proxy.stop.take().unwrap().send(()).unwrap();
    (&mut proxy.task).await.unwrap();
    let requests = collector.requests.lock().unwrap();
    let mut spans = Vec::new();
    for request in &*requests {
        assert!(request.starts_with(b"POST /v1/traces HTTP/1.1\r\n"));
        let head = request.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        let message = ExportTraceServiceRequest::decode(&request[head + 4..]).unwrap();
        for resource in message.resource_spans {
            let who = attributes(&resource.resource.unwrap().attributes);
            assert_eq!(who["service.name"], "lodestar");
            spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    spans.sort_by_key(|span| span.start_time_unix_nano);
    spans
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| {
        let value = attribute.value.clone()?.value?;
        Some(if let Value::StringValue(text) = value {
            text
        } else if let Value::IntValue(number) = value {
            number.to_string()
        } else if let Value::BoolValue(is) = value {
            is.to_string()
        } else {
            format!("{value:?}")
        })
    };
    let all: Vec<_> =
        attributes.iter().map(|it| (it.key.clone(), text(it).unwrap_or_default())).collect();
    let map: BTreeMap<_, _> = all.iter().cloned().collect();
    assert_eq!(map.len(), all.len(), "each once: {all:?}");
    map
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
}

/// Whoever is asked first fails.
async fn two_instances() -> [Script; 2] {
    let turn = Arc::<AtomicUsize>::default();
    let start = || {
        let turn = Arc::clone(&turn);
        Script::start(move |_, connection| {
            let is_first = turn.fetch_add(1, Ordering::Relaxed) == 0;
            let failure = response("500 Internal Server Error", "application/json", "{}");
            let text = if is_first { failure } else { stream() };
            async move { write(&connection, &text).await }
        })
    };
    [start().await, start().await]
}

#[tokio::test]
async fn a_request_is_one_trace_from_its_client_to_every_instance_that_was_tried() {
    let [one, other] = two_instances().await;
    let collector = collector().await;
    let proxy = traced(&[&one, &other], &collector, 100.0).await;
    let answer = ask(&proxy, Some(&format!("00-{TRACE}-{CLIENT}-01"))).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("[DONE]"), "{answer}");
    let mut sent = [traceparents(&one), traceparents(&other)].concat();
    let spans = spans(proxy, &collector).await;

    let server = spans.iter().find(|span| span.kind() == SpanKind::Server).unwrap();
    assert_eq!(server.name, "POST /v1/completions");
    assert_eq!(hex(&server.parent_span_id), CLIENT);
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE));
    let parts: Vec<_> = spans.iter().filter(|span| span.kind() != SpanKind::Server).collect();
    assert!(parts.iter().all(|span| span.parent_span_id == server.span_id));
    let mut names: Vec<_> = parts.iter().map(|span| &span.name[..]).collect();
    names.sort_unstable();
    assert_eq!(names, ["attempt", "attempt", "route", "route", "wait"]);

    let said = attributes(&server.attributes);
    for (name, value) in [
        ("url.path", "/v1/completions"),
        ("lodestar.request_id", "mine-7"),
        ("gen_ai.request.model", "m"),
        ("lodestar.stream", "true"),
        ("lodestar.prompt_tokens", "2"),
        ("http.response.status_code", "200"),
    ] {
        assert_eq!(said[name], value, "{name}");
    }
    let route = attributes(&parts.iter().find(|span| span.name == "route").unwrap().attributes);
    assert_eq!(route["lodestar.policy"], "round-robin");
    assert_eq!(route["lodestar.reason"], "round-robin");
    assert!([one.url(), other.url()].contains(&route["lodestar.instance"]));

    let attempts: Vec<_> = parts.iter().filter(|span| span.name == "attempt").collect();
    let outcome =
        |span: &Span| attributes(&span.attributes).remove("lodestar.outcome").unwrap_or_default();
    let failed = attempts.iter().find(|span| outcome(span) == "failed").unwrap();
    let finished = attempts.iter().find(|span| outcome(span) == "finished").unwrap();
    assert!(is_error(failed) && failed.events.is_empty());
    assert!(!is_error(finished) && !is_error(server));
    assert_eq!(finished.kind(), SpanKind::Client);
    assert_eq!(finished.events[0].name, "first token");
    assert_eq!(attributes(&finished.attributes)["gen_ai.usage.output_tokens"], "1");
    assert!(server.end_time_unix_nano >= finished.end_time_unix_nano);
    // The engines' own spans will hang below the attempts.
    let mut expected: Vec<_> =
        attempts.iter().map(|span| Some(format!("00-{TRACE}-{}-01", hex(&span.span_id)))).collect();
    sent.sort();
    expected.sort();
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn a_client_decides_whether_it_is_traced_and_otherwise_the_percentage_does() {
    let script = Script::says(stream()).await;
    let collector = collector().await;
    let unsampled = format!("00-{TRACE}-{CLIENT}-00");
    {
        let proxy = traced(&[&script], &collector, 100.0).await;
        assert!(ask(&proxy, Some(&unsampled)).await.contains("[DONE]"));
        // Of those that are not sent to an engine, too.
        proxy.ask("GET /health HTTP/1.1\r\nhost: p\r\nconnection: close\r\n\r\n").await;
        assert_eq!(spans(proxy, &collector).await, []);
    }
    let proxy = traced(&[&script], &collector, 0.0).await;
    ask(&proxy, None).await;
    ask(&proxy, Some(&format!("00-{TRACE}-{CLIENT}-01"))).await;
    let spans = spans(proxy, &collector).await;
    assert!(spans.len() >= 4 && spans.iter().all(|span| hex(&span.trace_id) == TRACE));
    let sent = traceparents(&script);
    assert_eq!(sent[0], Some(unsampled), "as it came");
    let ours = sent[1].as_deref().unwrap();
    assert!(ours.ends_with("-00") && ours.len() == 55, "engines do not trace it either: {ours}");
    assert!(sent[2].as_deref().unwrap().ends_with("-01"));
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_spans_and_nothing_else() {
    let script = Script::says(stream()).await;
    let gone = collector().await;
    let address = gone.address;
    let mut proxy = traced(&[&script], &gone, 100.0).await;
    drop(gone);
    until(|| std::net::TcpStream::connect(address).is_err()).await;
    for _ in 0..3 {
        assert!(ask(&proxy, None).await.contains("[DONE]"));
    }
    loop {
        let page = proxy.ask("GET /metrics HTTP/1.1\r\nhost: p\r\nconnection: close\r\n\r\n").await;
        let body = body_of(&page);
        let mut counts =
            body.lines().filter_map(|it| it.strip_prefix("lodestar_spans_dropped_total "));
        if counts.next().unwrap() == "12" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    proxy.stop.take().unwrap().send(()).unwrap();
    (&mut proxy.task).await.unwrap();
}

/// Takes some seconds: it is waited for, but not for ever.
#[tokio::test]
async fn a_collector_that_hangs_does_not_keep_the_proxy_from_ending() {
    let script = Script::says(stream()).await;
    let collector = collector().await;
    collector.hangs.store(true, Ordering::Relaxed);
    let mut proxy = traced(&[&script], &collector, 100.0).await;
    assert!(ask(&proxy, None).await.contains("[DONE]"));
    proxy.stop.take().unwrap().send(()).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), &mut proxy.task).await;
    ended.expect("it ends").unwrap();
    assert_eq!(collector.count(), 1, "it was tried");
}
