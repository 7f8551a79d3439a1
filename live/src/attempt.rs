//! From a request to an answer: chooses an instance, and another one if that failed before the first byte.
//!
//! What has been read of an answer cannot be taken back, so the first event of a stream is awaited before
//! anything is passed on: vLLM sends its headers before it knows whether it can serve, and an error in place
//! of the first token comes as 200.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::{Response, StatusCode, header};
use hyper_util::client::legacy;
use lodestar_router::{InstanceId, Rejected};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::answer::Form;
use crate::api_error::ApiError;
use crate::backend::chain;
use crate::dispatcher::{Member, Ticket};
use crate::head::{Head, text};
use crate::load_report;
use crate::prompt::Prompt;
use crate::proxy::{ProxyBody, Shared};
use crate::relay::Relay;
use crate::telemetry::Span;

/// A body that takes about a millisecond to read.
const LARGE_BODY_BYTES: usize = 1 << 20;

/// An attempt without a first byte. The answer is the one that the client gets if it was the last attempt.
struct Failure {
    answer: Response<ProxyBody>,
    kind: FailureKind,
    /// For the log.
    complaint: String,
}

enum FailureKind {
    /// There is nobody.
    Unreachable,
    /// It broke off, or the engine said that it is broken.
    Broken,
    /// It has too much to do, which is no fault.
    Busy,
}

/// Lets the router choose who answers, of those that have not been `tried`, each of which counts as an attempt.
pub(crate) async fn route_and_send(
    shared: &Arc<Shared>,
    head: &Head,
    body: Bytes,
    deadline: Instant,
    mut tried: Vec<InstanceId>,
) -> Response<ProxyBody> {
    let prompt = read_prompt(shared, head, &body).await;
    if tried.is_empty() {
        shared.retries.earn();
        head.span.set("lodestar.prompt_tokens", i64::from(prompt.tokens));
        head.span.set("lodestar.stream", prompt.stream);
    }
    let mut last: Option<Failure> = None;
    loop {
        let ticket = match route(shared, head, &prompt, &tried) {
            Ok(ticket) => ticket,
            // Those that there were have died, or there was none.
            Err(Rejected::NoInstance) if !shared.dispatcher.has_members() => {
                let there = shared.dispatcher.some_member();
                match head.span.during("wait", shared.queue.turn(deadline, there)).await {
                    Ok(()) => continue,
                    Err(error) => return error.response_left(),
                }
            }
            // Somebody has joined since.
            Err(Rejected::NoInstance) if tried.is_empty() => continue,
            Err(rejected) => return last.map_or_else(|| refuse(rejected), |last| last.answer),
        };
        let member = Arc::clone(ticket.member());
        match attempt(shared, ticket, head, body.clone()).await {
            Ok(answer) => return answer,
            Err(failure) => {
                warn!(url = member.backend.url, "no answer: {}", failure.complaint);
                tried.push(member.id);
                let attempts = tried.len() as u32;
                // Nobody works on what never arrived: to send it elsewhere is no additional load.
                let is_free = matches!(failure.kind, FailureKind::Unreachable);
                if attempts >= shared.limits.attempts || !(is_free || shared.retries.spend()) {
                    return failure.answer;
                }
                last = Some(failure);
            }
        }
    }
}

/// Asks the router.
fn route(
    shared: &Arc<Shared>,
    head: &Head,
    prompt: &Prompt,
    tried: &[InstanceId],
) -> Result<Ticket, Rejected> {
    let span = head.span.part("route");
    let routed = shared.dispatcher.route(prompt, tried);
    routed.inspect(|ticket| ticket.explain(&span)).inspect_err(|rejected| span.fail(rejected))
}

/// A tokenizer takes milliseconds, as megabytes do without one, and other requests shall not wait for it.
async fn read_prompt(shared: &Arc<Shared>, head: &Head, body: &Bytes) -> Prompt {
    if let Some(tokenizer) = &shared.engine_tokenizer {
        let key = head.headers.get(header::AUTHORIZATION).cloned();
        let ids = tokenizer.token_ids(&shared.dispatcher, &shared.client, key, body).await;
        if let Some(ids) = ids {
            return shared.prompts.read_with_ids(body, ids);
        }
    }
    if !shared.prompts.is_slow() && body.len() < LARGE_BODY_BYTES {
        return shared.prompts.read(body);
    }
    let (all, body) = (Arc::clone(shared), body.clone());
    let reading = tokio::task::spawn_blocking(move || all.prompts.read(&body));
    // A prompt that made it panic is routed as one without content.
    reading.await.unwrap_or_else(|_| Prompt { tokens: 1, ..Prompt::default() })
}

/// Lets whoever is next answer.
pub(crate) async fn send_in_turn(
    shared: &Arc<Shared>,
    head: &Head,
    body: Bytes,
) -> Response<ProxyBody> {
    match answer_in_turn(shared, head, body).await {
        Ok((_, response)) => relay(response, shared),
        Err(answer) => answer,
    }
}

/// The answer of whoever is next, or ours if nobody answers.
pub(crate) async fn answer_in_turn(
    shared: &Arc<Shared>,
    head: &Head,
    body: Bytes,
) -> Result<(Arc<Member>, Response<Incoming>), Response<ProxyBody>> {
    let mut answer = refuse(Rejected::NoInstance);
    for _ in 0..shared.limits.attempts {
        let Some(member) = shared.dispatcher.in_turn() else { break };
        let span = span_at(&member, head);
        match send(shared, &member, head, body.clone(), &span).await {
            Ok(response) => {
                span.answered(response.status());
                return Ok((member, response));
            }
            Err(failure) => {
                span.fail(&failure.complaint);
                note(shared, &member, &failure);
                answer = failure.answer;
            }
        }
    }
    Err(answer)
}

/// The span of an attempt at an instance.
fn span_at(member: &Member, head: &Head) -> Span {
    let span = head.span.call("attempt");
    span.set_text("server.address", &member.backend.url);
    span
}

fn refuse(rejected: Rejected) -> Response<ProxyBody> {
    ApiError::unavailable(rejected.to_string()).response_left()
}

/// One attempt at the instance that the ticket names. Whatever happens, the ticket is used up.
async fn attempt(
    shared: &Arc<Shared>,
    ticket: Ticket,
    head: &Head,
    body: Bytes,
) -> Result<Response<ProxyBody>, Failure> {
    let member = Arc::clone(ticket.member());
    let span = span_at(&member, head);
    let ticket = ticket.with_span(span.clone());
    let awaiting = member.progress.awaits();
    let answer = tokio::select! {
        answer = first_byte(shared, &member, head, body, &span) => answer,
        () = member.dead() => Err(Failure {
            answer: bad_gateway("the instance has died"),
            kind: FailureKind::Unreachable,
            complaint: "it was declared dead".to_owned(),
        }),
    };
    drop(awaiting);
    match answer {
        Ok(mut answer) => {
            member.backend.succeeded();
            span.answered(answer.status());
            if shared.response_headers {
                ticket.sign(answer.headers_mut());
            }
            let is_served = answer.status().is_success();
            Ok(answer.map(|body| match body {
                Either::Right(relay) if is_served => Either::Right(relay.with_ticket(ticket)),
                // Refused by the engine: the ticket ends here, as aborted.
                refused @ (Either::Left(_) | Either::Right(_)) => refused,
            }))
        }
        Err(mut failure) => {
            span.fail(&failure.complaint);
            if shared.response_headers {
                ticket.sign(failure.answer.headers_mut());
            }
            ticket.failed();
            note(shared, &member, &failure);
            Err(failure)
        }
    }
}

/// Takes an instance out of the fleet that is not there, or that fails again and again.
fn note(shared: &Shared, member: &Member, failure: &Failure) {
    let (out, dead) = match failure.kind {
        FailureKind::Unreachable => (true, true),
        FailureKind::Broken => (member.backend.failed(), false),
        FailureKind::Busy => (false, false),
    };
    if out && shared.dispatcher.leave(member.id, dead) {
        warn!(url = member.backend.url, "taken out: {}", failure.complaint);
    }
}

/// An answer that has begun.
async fn first_byte(
    shared: &Shared,
    member: &Member,
    head: &Head,
    body: Bytes,
    span: &Span,
) -> Result<Response<ProxyBody>, Failure> {
    let response = send(shared, member, head, body, span).await?;
    let status = response.status();
    let answer = relay(response, shared);
    if let Some(kind) = failure_of(status) {
        return Err(Failure { answer, kind, complaint: format!("it answers {status}") });
    }
    let (parts, body) = answer.into_parts();
    let Either::Right(mut relay) = body else { return Ok(Response::from_parts(parts, body)) };
    if Form::of(text(&parts.headers, header::CONTENT_TYPE)) != Form::Events {
        return Ok(Response::from_parts(parts, Either::Right(relay)));
    }
    let first = relay.read_first_event().await;
    let answer = Response::from_parts(parts, Either::Right(relay));
    match first {
        Ok(code) => {
            let code = code.and_then(|code| StatusCode::from_u16(code).ok());
            match code.and_then(failure_of) {
                None => Ok(answer),
                Some(kind) => {
                    let complaint =
                        format!("its stream begins with error {}", code.unwrap_or_default());
                    Err(Failure { answer, kind, complaint })
                }
            }
        }
        Err(error) => Err(Failure {
            answer: bad_gateway("the instance failed before the first token"),
            kind: FailureKind::Broken,
            complaint: format!("its stream broke off: {error}"),
        }),
    }
}

/// Whether another instance may do better. Errors of the client are nobody's failure.
fn failure_of(status: StatusCode) -> Option<FailureKind> {
    match status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Some(FailureKind::Busy),
        StatusCode::INTERNAL_SERVER_ERROR
        | StatusCode::BAD_GATEWAY
        | StatusCode::GATEWAY_TIMEOUT => Some(FailureKind::Broken),
        _ => None,
    }
}

async fn send(
    shared: &Shared,
    member: &Member,
    head: &Head,
    body: Bytes,
    span: &Span,
) -> Result<Response<Incoming>, Failure> {
    let Some(mut request) = head.request_to(member, body) else {
        let answer = ApiError::new(StatusCode::BAD_REQUEST, "the path is not one").response_left();
        let complaint = "the path is not one".to_owned();
        return Err(Failure { answer, kind: FailureKind::Busy, complaint });
    };
    span.inject(request.headers_mut());
    let asks = shared.load_header && load_report::ask(request.headers_mut());
    let mut response = shared.client.request(request).await.map_err(|error| {
        let kind = kind_of(&error);
        debug!(url = member.backend.url, "{}", chain(&error));
        Failure { answer: bad_gateway("no instance answered"), kind, complaint: chain(&error) }
    })?;
    if asks && let Some(report) = load_report::take(response.headers_mut()) {
        shared.dispatcher.load_reported(member.id, report);
    }
    Ok(response)
}

fn kind_of(error: &legacy::Error) -> FailureKind {
    if error.is_connect() { FailureKind::Unreachable } else { FailureKind::Broken }
}

fn bad_gateway(message: &str) -> Response<ProxyBody> {
    ApiError::new(StatusCode::BAD_GATEWAY, message).response_left()
}

/// An answer that passes.
pub(crate) fn relay(response: Response<Incoming>, shared: &Shared) -> Response<ProxyBody> {
    let form = Form::of(text(response.headers(), header::CONTENT_TYPE));
    let idle = Duration::from_secs(shared.limits.idle_s);
    response.map(|body| Either::Right(Relay::new(body, form, idle)))
}
