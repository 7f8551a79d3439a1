//! A stream that goes on at another instance when its own fails in the middle, if the client asks for that with
//! `x-lodestar-resume: 1`.
//!
//! Only what can be gone on with exactly: the engine is asked for the ids of its tokens, so that how many there were and
//! what a completion's prompt is now are known and not guessed. Whatever state an engine has beside the tokens (penalties
//! of the output, a grammar, several answers) is lost with it, and a request with any of that is passed as always.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Either;
use hyper::body::{Body, Frame};
use hyper::{Response, StatusCode};
use lodestar_router::InstanceId;
use memchr::memmem;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use tokio::time::Instant;
use tracing::info;

use crate::api_error::ApiError;
use crate::attempt::route_and_send;
use crate::head::Head;
use crate::proxy::Shared;
use crate::queue::Place;
use crate::relay::{BoxError, Relay};
use crate::resume::story::{Story, Taken};

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod story;

type Fields = Map<String, Value>;

/// Longest request that is kept for it, which takes thirty times as much memory for as long as the answer takes.
const MOST_BYTES: usize = 1 << 20;
/// Longest event that is waited for.
const MOST_EVENT_BYTES: usize = 1 << 20;

/// A request that can be gone on with.
#[derive(Debug)]
pub(crate) struct Plan {
    fields: Fields,
    /// The client wants the ids itself.
    wants_ids: bool,
}

impl Plan {
    /// Reads a request that asks for it; `None` if it cannot be done exactly.
    pub(crate) fn of(head: &Head, body: &[u8]) -> Option<Self> {
        let is_chat = match head.path() {
            "/v1/completions" => false,
            "/v1/chat/completions" => true,
            _ => return None,
        };
        if !head.asks_for_resume() || body.len() > MOST_BYTES {
            return None;
        }
        Self::read(is_chat, body)
    }

    fn read(is_chat: bool, body: &[u8]) -> Option<Self> {
        let fields: Fields = serde_json::from_slice(body).ok()?;
        let is_streamed = fields.get("stream") == Some(&Value::Bool(true));
        let is_ids = |ids: &Vec<Value>| !ids.is_empty() && ids.iter().all(Value::is_u64);
        let has_prompt = if is_chat {
            fields.get("messages").is_some_and(Value::is_array)
        } else {
            // Without it the engine's own default would begin anew.
            fields.get("max_tokens").is_some_and(Value::is_u64)
                && fields.get("prompt").is_some_and(|prompt| {
                    prompt.is_string() || prompt.as_array().is_some_and(is_ids)
                })
        };
        let is_plain = fields.iter().all(|(name, value)| value.is_null() || is_plain(name, value));
        let wants_ids = fields.get("return_token_ids") == Some(&Value::Bool(true));
        (is_streamed && has_prompt && is_plain).then_some(Self { fields, wants_ids })
    }

    /// The request as an instance gets it, after what has been generated so far; `None` if nothing is left to do.
    fn body(&self, story: &Story) -> Option<Bytes> {
        let mut fields = self.fields.clone();
        fields.insert("return_token_ids".into(), Value::Bool(true));
        let tokens = story.tokens.len() as u64;
        for limit in ["max_tokens", "max_completion_tokens"] {
            if let Some(most) = fields.get(limit).and_then(Value::as_u64) {
                let left = most.checked_sub(tokens).filter(|left| *left > 0)?;
                fields.insert(limit.into(), left.into());
            }
        }
        if let Some(least) = fields.get("min_tokens").and_then(Value::as_u64) {
            fields.insert("min_tokens".into(), least.saturating_sub(tokens).into());
        }
        if tokens > 0 {
            match fields.get_mut("messages") {
                Some(messages) => {
                    say(messages.as_array_mut()?, &story.text, self.goes_on())?;
                    fields.insert("continue_final_message".into(), Value::Bool(true));
                    fields.insert("add_generation_prompt".into(), Value::Bool(false));
                }
                None => {
                    let prompt = fields.get_mut("prompt")?;
                    match (&mut *prompt, &story.prompt) {
                        (Value::Array(ids), _) => {
                            ids.extend(story.tokens.iter().map(|&id| Value::from(id)));
                        }
                        (Value::String(_), Some(ids)) => {
                            *prompt = json!([ids.as_slice(), &story.tokens].concat());
                        }
                        (Value::String(text), None) => text.push_str(&story.text),
                        _ => return None,
                    }
                }
            }
        }
        serde_json::to_vec(&fields).ok().map(Bytes::from)
    }

    /// The first request.
    pub(crate) fn first_body(&self) -> Option<Bytes> {
        self.body(&Story::default())
    }

    /// Whether the last message is one that the engine is to go on with.
    fn goes_on(&self) -> bool {
        self.fields.get("continue_final_message") == Some(&Value::Bool(true))
    }
}

/// Lets the assistant have said this.
fn say(messages: &mut Vec<Value>, text: &str, goes_on: bool) -> Option<()> {
    if !goes_on {
        messages.push(json!({"role": "assistant", "content": text}));
        return Some(());
    }
    let content = messages.last_mut()?.get_mut("content")?;
    *content = (content.as_str()?.to_owned() + text).into();
    Some(())
}

/// Whether a field leaves no trace in an engine but tokens. Fields that are not known may.
fn is_plain(name: &str, value: &Value) -> bool {
    match name {
        "model"
        | "prompt"
        | "messages"
        | "stream"
        | "stream_options"
        | "temperature"
        | "top_p"
        | "top_k"
        | "min_p"
        | "repetition_penalty"
        | "logit_bias"
        | "stop_token_ids"
        | "ignore_eos"
        | "max_tokens"
        | "max_completion_tokens"
        | "min_tokens"
        | "user"
        | "priority"
        | "cache_salt"
        | "return_token_ids"
        | "skip_special_tokens"
        | "add_special_tokens"
        | "chat_template_kwargs"
        | "metadata"
        | "continue_final_message"
        | "add_generation_prompt" => true,
        "n" | "best_of" => *value == 1,
        // They count the output, and not the prompt that it becomes.
        "presence_penalty" | "frequency_penalty" => value.as_f64() == Some(0.0),
        "echo" | "logprobs" | "top_logprobs" => *value == false,
        "stop" | "tools" => value.as_array().is_some_and(Vec::is_empty),
        "response_format" => value["type"] == "text",
        _ => false,
    }
}

/// The body of an answer that goes on elsewhere if it has to.
pub(crate) struct Resumable {
    shared: Arc<Shared>,
    head: Arc<Head>,
    plan: Plan,
    story: Story,
    current: Relay,
    /// Ready when the instance is known to be dead.
    death: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    next: Option<Pin<Box<dyn Future<Output = Response<crate::proxy::ProxyBody>> + Send>>>,
    /// An event that is not complete.
    rest: Vec<u8>,
    /// Instances that have failed in the middle.
    tried: Vec<InstanceId>,
    ended: bool,
    _place: Place,
}

impl Resumable {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        head: Head,
        plan: Plan,
        relay: Relay,
        place: Place,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            head: Arc::new(head),
            story: Story::new(plan.wants_ids),
            plan,
            death: death_of(&relay),
            current: relay,
            next: None,
            rest: Vec::new(),
            tried: Vec::new(),
            ended: false,
            _place: place,
        }
    }

    /// Tells the client that this is all.
    fn give_up(&mut self) -> Bytes {
        self.ended = true;
        let message =
            "the instance failed in the middle of the answer, which cannot be gone on with";
        ApiError::new(StatusCode::BAD_GATEWAY, message).events(true)
    }

    /// Goes on at another instance, or gives the client an error.
    fn go_on(&mut self) -> Option<Bytes> {
        self.rest.clear();
        self.death = None;
        self.tried.extend(self.current.member().map(|member| member.id));
        self.current.break_off();
        self.story.breaks_off();
        let attempts = self.tried.len() as u32;
        let may = attempts < self.shared.limits.attempts && self.story.is_exact();
        let body = may.then(|| self.plan.body(&self.story)).flatten();
        let body = body.filter(|_| self.shared.retries.spend());
        let Some(body) = body else { return Some(self.give_up()) };
        info!(tokens = self.story.tokens.len(), "an answer goes on elsewhere");
        let (shared, head) = (Arc::clone(&self.shared), Arc::clone(&self.head));
        let deadline = Instant::now() + Duration::from_secs(shared.limits.queue_s);
        let tried = self.tried.clone();
        self.next =
            Some(Box::pin(
                async move { route_and_send(&shared, &head, body, deadline, tried).await },
            ));
        None
    }
}

/// Passes on what is complete, and keeps the rest. What follows a break is not the client's.
fn take(rest: &mut Vec<u8>, story: &mut Story, data: &[u8]) -> (Vec<u8>, bool) {
    rest.extend_from_slice(data);
    let (mut passed, mut from) = (Vec::new(), 0);
    while let Some(length) = event_length(&rest[from..]) {
        let event = &rest[from..from + length];
        from += event.len();
        match story.take(event) {
            Taken::Passes(event) => passed.extend(event),
            Taken::Broken => return (passed, true),
        }
    }
    rest.drain(..from);
    let is_broken = rest.len() > MOST_EVENT_BYTES;
    (passed, is_broken)
}

/// Up to the end of the empty line that ends an event, if it is there.
fn event_length(bytes: &[u8]) -> Option<usize> {
    let ends = [&b"\n\n"[..], b"\r\n\r\n"];
    ends.iter().filter_map(|end| Some(memmem::find(bytes, end)? + end.len())).min()
}

fn death_of(relay: &Relay) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
    let member = relay.member()?;
    Some(Box::pin(async move { member.dead().await }))
}

impl Body for Resumable {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        while !this.ended {
            if let Some(next) = &mut this.next {
                let answer = ready!(next.as_mut().poll(context));
                this.next = None;
                let is_served = answer.status().is_success();
                match answer.into_body() {
                    Either::Right(relay) if is_served => {
                        this.death = death_of(&relay);
                        this.current = relay;
                    }
                    Either::Left(_) | Either::Right(_) => {
                        // It has tried everybody.
                        return Poll::Ready(Some(Ok(Frame::data(this.give_up()))));
                    }
                }
            }
            let (passed, is_broken) = match Pin::new(&mut this.current).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => take(&mut this.rest, &mut this.story, &data),
                    Err(_trailers) => continue,
                },
                Poll::Ready(Some(Err(_)) | None) if this.story.is_done => break,
                Poll::Ready(Some(Err(_)) | None) => (Vec::new(), true),
                Poll::Pending => {
                    let death = this.death.as_mut().filter(|_| !this.story.is_done);
                    if death.is_none_or(|death| death.as_mut().poll(context).is_pending()) {
                        return Poll::Pending;
                    }
                    (Vec::new(), true)
                }
            };
            let mut passed = passed;
            if is_broken && let Some(error) = this.go_on() {
                passed.extend_from_slice(&error);
            }
            if !passed.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(passed.into()))));
            }
        }
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_ends_with_an_empty_line_however_lines_end() {
        assert_eq!(event_length(b"data: 1\n\ndata: 2\r\n\r\n"), Some(9));
        assert_eq!(event_length(b"data: 1\r\n\r\ndata: 2\n\n"), Some(11));
        assert_eq!(event_length(b"data: 1\r\n"), None);
    }

    #[test]
    fn what_an_instance_says_it_used_may_be_anything() {
        for usage in ["1", "[]", "\"x\"", "{\"completion_tokens\":18446744073709551615}"] {
            let mut story = Story::new(false);
            story.breaks_off();
            let event = format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\n");
            assert!(matches!(story.take(event.as_bytes()), Taken::Passes(_)), "{usage}");
        }
    }
}
