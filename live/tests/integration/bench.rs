//! The load client against servers that do what a test says.

use std::time::Duration;

use lodestar_live::{BenchConfig, BenchOutcome, BenchReport, bench};
use lodestar_traces::{Arrival, Source, Span, TraceRequest};

use crate::script::{STREAM_HEAD, Script, chunk, response, write};

const TOKEN: &str = "data: {\"choices\":[{\"text\":\" a\",\"token_ids\":[77]}]}\n\n";
const DONE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\ndata: [DONE]\n\n";

fn request(id: u64, arrival: Arrival, prompt: Vec<Span>) -> TraceRequest {
    let (session, priority, cache_salt) = (None, 0, None);
    TraceRequest { id, arrival, prompt, output_tokens: 1, session, priority, cache_salt }
}

fn private(id: u64) -> Vec<Span> {
    vec![Span { source: Source::Private(id), start: 0, tokens: 3 }]
}

async fn run(url: String, requests: Vec<TraceRequest>) -> BenchReport {
    let config = BenchConfig {
        url,
        model: Some("m".to_owned()),
        api_key: Some("secret".to_owned()),
        time_scale: 1.0,
        timeout: Duration::from_secs(1),
        seed: 1,
    };
    tokio::task::spawn_blocking(move || bench(&requests, &config, &|_| ()).unwrap()).await.unwrap()
}

/// A whole answer.
fn answer() -> String {
    format!("{STREAM_HEAD}{}0\r\n\r\n", chunk(&format!("{TOKEN}{DONE}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_fail_is_told_apart() {
    let script = Script::start(|request, stream| async move {
        let error = r#"{"error":{"message":"dead","code":500}}"#;
        let text = match request.matches("\"priority\":").count() {
            0 => answer(),
            _ => match request.rsplit("\"priority\":").next().unwrap().as_bytes()[0] {
                b'1' => response("503 Service Unavailable", "application/json", "busy"),
                b'2' => format!(
                    "{STREAM_HEAD}{}",
                    chunk(&format!("{TOKEN}data: {error}\n\ndata: [DONE]\n\n"))
                ),
                b'3' => format!("{STREAM_HEAD}{}", chunk(TOKEN)),
                _ => String::new(),
            },
        };
        let silent = text.is_empty();
        let breaks_off = !text.contains("[DONE]") && text.starts_with("HTTP/1.1 200");
        write(&stream, &text).await;
        if silent {
            std::future::pending::<()>().await;
        }
        !breaks_off
    })
    .await;
    let requests = (0..5).map(|priority| {
        let plain = request(priority, Arrival::At { ns: 0 }, private(priority));
        TraceRequest { priority: priority as i32, ..plain }
    });
    let report = run(script.url(), requests.collect()).await;
    let outcomes: Vec<_> = report.records.iter().map(|record| record.outcome).collect();
    assert_eq!(
        outcomes,
        [
            BenchOutcome::Finished,
            BenchOutcome::Status(503),
            BenchOutcome::ErrorEvent,
            BenchOutcome::BrokenOff,
            BenchOutcome::TimedOut
        ]
    );
    assert_eq!(report.records[1].complaint.as_deref(), Some("busy"));
    assert!(report.records[0].first_token.unwrap() >= report.records[0].sent);
    let first = String::from_utf8(script.requests.lock().unwrap()[0].clone()).unwrap();
    assert!(first.contains("authorization: Bearer secret"), "{first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_answers_except_those_who_quote_them() {
    // Answers nothing until three requests are there: a client in a closed loop would send one.
    let waiting = std::sync::Arc::new(tokio::sync::Barrier::new(3));
    let script = Script::start(move |request, stream| {
        let waiting = std::sync::Arc::clone(&waiting);
        async move {
            if !request.contains("[77,") {
                waiting.wait().await;
            }
            write(&stream, &answer()).await
        }
    })
    .await;
    let mut requests: Vec<_> =
        (0..3).map(|id| request(id, Arrival::At { ns: id }, private(id))).collect();
    let mut quoting = vec![Span { source: Source::Output(1), start: 0, tokens: 1 }];
    quoting.extend(private(3));
    requests.push(request(3, Arrival::After { request: 1, delay_ns: 5_000_000 }, quoting));
    let report = run(script.url(), requests).await;
    assert!(report.records.iter().all(|record| record.outcome == BenchOutcome::Finished));
    assert!(report.records[3].sent.as_nanos() >= report.records[1].ended.as_nanos() + 5_000_000);
    let asked = script
        .requests
        .lock()
        .unwrap()
        .iter()
        .filter(|body| String::from_utf8_lossy(body).contains("return_token_ids"))
        .count();
    assert_eq!(asked, 1, "only of the request that is quoted");
}
