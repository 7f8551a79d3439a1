//! An answer as server-sent events, one a token.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use serde_json::Value;

use super::completion::{Answers, Made};
use super::request::{Api, Asked, UsageEvents};
use super::wire::Envelope;
use crate::relay::BoxError;

#[derive(Debug)]
pub(super) struct Stream {
    answers: Answers,
    envelope: Envelope,
    usage_events: UsageEvents,
    token_ids: bool,
    done: bool,
}

impl Stream {
    pub(super) fn new(asked: &Asked, answers: Answers, envelope: Envelope) -> Self {
        Self {
            answers,
            envelope,
            usage_events: asked.usage_events,
            token_ids: asked.token_ids,
            done: false,
        }
    }

    fn events(&self, made: &Made) -> String {
        let usage = (self.usage_events == UsageEvents::Each).then(|| self.answers.used());
        let mut chunk = self.envelope.token(made.choice, &made.text, made.last, usage);
        if made.last && self.usage_events == UsageEvents::None {
            chunk = Envelope::sealed(chunk);
        }
        if self.token_ids {
            chunk["choices"][0]["token_ids"] = vec![made.id].into();
        }
        let mut text = String::new();
        if made.first && self.envelope.api == Api::Chat {
            text = event(&self.envelope.role(made.choice));
        }
        text + &event(&chunk)
    }

    fn end(&self) -> String {
        let usage = (self.usage_events != UsageEvents::None)
            .then(|| event(&self.envelope.usage(self.answers.used())));
        usage.unwrap_or_default() + "data: [DONE]\n\n"
    }
}

fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

impl Body for Stream {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let text = match std::task::ready!(self.answers.poll_next(context)) {
            Some(made) => self.events(&made),
            None => {
                self.done = true;
                self.end()
            }
        };
        Poll::Ready(Some(Ok(Frame::data(text.into()))))
    }
}
