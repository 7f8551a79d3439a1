//! One request and its answer.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::client::legacy;
use tokio::time::timeout;

use super::wire::Answer;
use super::{Bench, BenchOutcome, BenchRecord, prompt};
use crate::backend::chain;

/// Of a body that explains a status code, so much is shown.
const COMPLAINT_CHARS: usize = 200;

/// Sends a request that was due at `due` and reads its answer. With the moment of its end.
pub(super) async fn exchange(bench: &Bench, due: Instant, index: usize) -> (BenchRecord, Instant) {
    let traced = &bench.requests[index];
    let is_quoted = bench.quoted.contains(&traced.id);
    let ids = prompt::token_ids(&traced.prompt, &bench.answers(), bench.seed);
    let body = prompt::body(traced, &bench.model, &ids, is_quoted);
    bench.sent.fetch_add(1, Ordering::Relaxed);
    let sent = Instant::now();
    let mut answer = Answer::default();
    let ending = timeout(bench.timeout, stream(bench, body, &mut answer)).await;
    let (outcome, complaint) = match ending {
        Ok(Ok(())) => (BenchOutcome::Finished, None),
        Ok(Err((outcome, complaint))) => (outcome, Some(complaint)),
        Err(_) => (BenchOutcome::TimedOut, Some(format!("after {} s", bench.timeout.as_secs()))),
    };
    let ended = Instant::now();
    let record = BenchRecord {
        index,
        outcome,
        complaint,
        sent: bench.clock.trace(sent),
        first_token: answer.first.map(|first| bench.clock.trace(first)),
        ended: bench.clock.trace(ended),
        itl_max: bench.clock.trace_length(answer.itl_max),
        output_tokens: answer.output_tokens(),
        cached_tokens: answer.cached_tokens(),
        late: sent.saturating_duration_since(due),
    };
    if is_quoted {
        bench.answers().insert(traced.id, answer.ids);
    }
    (record, ended)
}

type Failure = (BenchOutcome, String);

/// Reads a whole answer.
async fn stream(bench: &Bench, body: String, answer: &mut Answer) -> Result<(), Failure> {
    let uri = bench.backend.uri("/v1/completions");
    let uri = uri.ok_or_else(|| (BenchOutcome::NoConnection, "not a URL".to_owned()))?;
    let mut request = Request::new(Full::from(Bytes::from(body)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.extend(bench.authorization.clone().map(|key| (AUTHORIZATION, key)));
    let response = bench.client.request(request).await.map_err(|error| not_sent(&error))?;
    if !response.status().is_success() {
        return Err(refused(response).await);
    }
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| (BenchOutcome::BrokenOff, chain(&error)))?;
        if let Some(data) = frame.data_ref() {
            answer.feed(Instant::now(), data);
        }
        if answer.done {
            break;
        }
    }
    match answer.error.take() {
        Some(message) => Err((BenchOutcome::ErrorEvent, message)),
        None if answer.done && answer.output_tokens() > 0 => Ok(()),
        None if answer.done => Err((BenchOutcome::BrokenOff, "no output".to_owned())),
        None => Err((BenchOutcome::BrokenOff, "the stream ended without [DONE]".to_owned())),
    }
}

async fn refused(response: Response<Incoming>) -> Failure {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map(http_body_util::Collected::to_bytes);
    let text = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
    (BenchOutcome::Status(status), text.chars().take(COMPLAINT_CHARS).collect())
}

fn not_sent(error: &legacy::Error) -> Failure {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    let mut refused = false;
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        refused |= io.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        cause = error.source();
    }
    let outcome = match (refused, error.is_connect()) {
        (true, _) => BenchOutcome::ConnectionRefused,
        (false, true) => BenchOutcome::NoConnection,
        (false, false) => BenchOutcome::BrokenOff,
    };
    (outcome, chain(error))
}
