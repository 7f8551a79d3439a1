//! The body of an answer on its way to the client: passed on as it comes, read as it passes.
//!
//! It is pulled by the client's connection, so that a slow client slows its engine down and nothing piles up
//! here. Dropped before its end, it drops the connection to the engine with it, and vLLM aborts the request.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::answer::{AnswerReader, Form};
use crate::api_error::ApiError;
use crate::dispatcher::{Member, Ticket};
use crate::queue::Place;

/// Why a body broke off.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An answer that passes.
#[derive(Debug)]
pub(crate) struct Relay {
    /// What was read ahead.
    head: VecDeque<Bytes>,
    /// `None` when all has been read.
    upstream: Option<Incoming>,
    reader: AnswerReader,
    /// Of a request that the router decided on.
    ticket: Option<Ticket>,
    /// Goes off when nothing has come for too long.
    idle: Pin<Box<Sleep>>,
    idle_timeout: Duration,
    /// The client's place among those that are served.
    place: Option<Place>,
}

impl Relay {
    pub(crate) fn new(upstream: Incoming, form: Form, idle_timeout: Duration) -> Self {
        Self {
            head: VecDeque::new(),
            // An empty body is not asked for anything.
            upstream: Some(upstream).filter(|upstream| !upstream.is_end_stream()),
            reader: AnswerReader::new(form),
            ticket: None,
            idle: Box::pin(sleep(idle_timeout)),
            idle_timeout,
            place: None,
        }
    }

    /// Reads ahead until the first event is complete: then there is a token, or an error in its place.
    pub(crate) async fn read_first_event(&mut self) -> Result<Option<u16>, BoxError> {
        while !self.reader.has_event() && !self.reader.is_done() {
            let next = std::future::poll_fn(|context| self.poll_upstream(context)).await;
            match next {
                Some(Ok(frame)) => self.head.extend(frame.into_data()),
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        Ok(self.reader.error())
    }

    /// From now on the ticket is told how the answer grows and ends.
    pub(crate) fn with_ticket(mut self, ticket: Ticket) -> Self {
        self.ticket = Some(ticket);
        self.report();
        self
    }

    /// Who answers, if the router decided on that and the answer has not ended.
    pub(crate) fn member(&self) -> Option<Arc<Member>> {
        self.ticket.as_ref().map(|ticket| Arc::clone(ticket.member()))
    }

    pub(crate) const fn form(&self) -> Form {
        self.reader.form()
    }

    /// Keeps the client's place until the answer has passed.
    pub(crate) fn with_place(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    fn poll_upstream(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(upstream) = &mut self.upstream else { return Poll::Ready(None) };
        match Pin::new(&mut *upstream).poll_frame(context) {
            Poll::Pending => {
                // Before the first token a request may wait in the engine's queue for long.
                let waits = self.reader.form() == Form::Events && !self.reader.has_event();
                if waits || self.idle.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                self.upstream = None;
                Poll::Ready(Some(Err("the instance has sent nothing for too long".into())))
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.reader.feed(data);
                }
                // A body of known length is not asked again after its last byte.
                if upstream.is_end_stream() {
                    self.upstream = None;
                }
                self.idle.as_mut().reset(Instant::now() + self.idle_timeout);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.upstream = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                self.upstream = None;
                Poll::Ready(None)
            }
        }
    }

    /// The answer ends here, because its instance has failed, unlike what [`Self::report`] would say.
    pub(crate) fn break_off(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            ticket.broke_off();
        }
        self.upstream = None;
    }

    /// Tells the ticket what is known now.
    fn report(&mut self) {
        let ended = self.upstream.is_none() || self.reader.is_done();
        if ended {
            if let Some(ticket) = self.ticket.take() {
                ticket.finished(self.reader.usage(), self.reader.output_tokens());
            }
        } else if let Some(ticket) = &mut self.ticket {
            ticket.progress(self.reader.output_tokens());
        }
    }
}

impl Body for Relay {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(chunk) = self.head.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        let next = std::task::ready!(self.poll_upstream(context));
        match next {
            Some(Err(error)) if self.reader.form() == Form::Events && !self.reader.is_done() => {
                self.break_off();
                let message = format!("the instance failed in the middle of the answer: {error}");
                let error = ApiError::new(StatusCode::BAD_GATEWAY, message);
                let events = error.events(self.reader.between_events());
                Poll::Ready(Some(Ok(Frame::data(events))))
            }
            Some(Err(error)) => {
                self.break_off();
                Poll::Ready(Some(Err(error)))
            }
            Some(Ok(frame)) => {
                self.report();
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                self.report();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.head.is_empty() && self.upstream.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.upstream {
            Some(upstream) if self.head.is_empty() => upstream.size_hint(),
            _ => SizeHint::default(),
        }
    }
}
