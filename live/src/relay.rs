//! The body of an answer on its way to the client: passed on as it comes, read as it passes.
//!
//! It is pulled by the client's connection, so that a slow client slows its engine down and nothing piles up
//! here. Dropped before its end, it drops the connection to the engine with it, and vLLM aborts the request.

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::answer::{AnswerReader, Form};
use crate::api_error::ApiError;
use crate::dispatcher::{Member, Ticket};
use crate::queue::Place;
use crate::telemetry::Span;

/// Pieces of an answer in one write.
const MOST_TOGETHER: usize = 64;

/// Why a body broke off.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An answer that passes.
#[derive(Debug)]
pub(crate) struct Relay {
    /// What has come and has not been passed on.
    head: VecDeque<Bytes>,
    /// Why no more comes, if the client has not been told yet.
    failure: Option<BoxError>,
    /// Others are let run, or have been since something came last.
    rest: Rest,
    /// `None` when all has been read.
    upstream: Option<Incoming>,
    reader: AnswerReader,
    /// Of a request that the router decided on.
    ticket: Option<Ticket>,
    /// When something came last.
    last: Instant,
    idle_timeout: Duration,
    /// Goes off after that time. There is none before the first wait.
    idle: Option<Pin<Box<Sleep>>>,
    /// The client's place among those that are served, and the span of its request: both end with the answer.
    place: Option<(Place, Span)>,
}

/// A turn of all tasks that could run when it began. Not a wake of one's own: hyper polls a body several times before it lets others run.
#[derive(Debug)]
enum Rest {
    Due,
    Under(JoinHandle<()>),
    Over,
}

impl Rest {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if matches!(self, Self::Due) {
            // Queued behind those that can run.
            *self = Self::Under(tokio::spawn(std::future::ready(())));
        }
        if let Self::Under(turn) = self {
            let _ = std::task::ready!(Pin::new(turn).poll(context));
            *self = Self::Over;
        }
        Poll::Ready(())
    }
}

impl Relay {
    pub(crate) fn new(upstream: Incoming, form: Form, idle_timeout: Duration) -> Self {
        Self {
            head: VecDeque::new(),
            failure: None,
            rest: Rest::Due,
            // An empty body is not asked for anything.
            upstream: Some(upstream).filter(|upstream| !upstream.is_end_stream()),
            reader: AnswerReader::new(form),
            ticket: None,
            last: Instant::now(),
            idle_timeout,
            idle: None,
            place: None,
        }
    }

    /// Reads ahead until the first event is complete: then there is a token, or an error in its place.
    pub(crate) async fn read_first_event(&mut self) -> Result<Option<u16>, BoxError> {
        std::future::poll_fn(|context| self.poll_events(context)).await;
        match self.failure.take_if(|_| !self.reader.has_event() && !self.reader.is_done()) {
            Some(error) => Err(error),
            None => Ok(self.reader.error()),
        }
    }

    const fn has_begun(&self) -> bool {
        self.reader.has_event() || self.reader.is_done()
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

    /// Keeps the client's place and the request's span until the answer has passed.
    pub(crate) fn with_place(mut self, place: Place, span: Span) -> Self {
        self.place = Some((place, span));
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
                if waits || self.poll_idle(context).is_pending() {
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
                self.last = Instant::now();
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

    /// Takes the events that are there, or awaits one: those that came together are one write to the client. The task that
    /// reads from the instance hands over one at a time, so it is let run before there are said to be no more.
    fn poll_events(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let is_enough = |relay: &Self| relay.head.len() >= MOST_TOGETHER || relay.failure.is_some();
        while !is_enough(self) {
            match self.poll_upstream(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.head.extend(frame.into_data());
                    self.rest = Rest::Due;
                    self.report();
                }
                Poll::Ready(Some(Err(error))) => self.failure = Some(error),
                Poll::Ready(None) => {
                    self.report();
                    break;
                }
                Poll::Pending if self.head.is_empty() || !self.has_begun() => return Poll::Pending,
                Poll::Pending if matches!(self.rest, Rest::Over) => break,
                Poll::Pending => std::task::ready!(self.rest.poll(context)),
            }
        }
        Poll::Ready(())
    }

    /// What the client is told of a failure in the middle.
    fn last_events(&mut self, error: BoxError) -> Result<Frame<Bytes>, BoxError> {
        self.break_off();
        if self.reader.is_done() {
            return Err(error);
        }
        let message = format!("the instance failed in the middle of the answer: {error}");
        let error = ApiError::new(StatusCode::BAD_GATEWAY, message);
        Ok(Frame::data(error.events(self.reader.between_events())))
    }

    /// All that is to be passed on now, as one piece.
    fn take_head(&mut self) -> Option<Bytes> {
        if self.head.len() <= 1 {
            return self.head.pop_front();
        }
        let all = self.head.make_contiguous().concat();
        self.head.clear();
        Some(all.into())
    }

    /// Ready when nothing has come for too long. The timer is set anew only where it goes off too early, not for every
    /// piece.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let deadline = self.last + self.idle_timeout;
        let idle = self.idle.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        while idle.deadline() < deadline {
            std::task::ready!(idle.as_mut().poll(context));
            idle.as_mut().reset(deadline);
        }
        idle.as_mut().poll(context)
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
        let has_broken_off = self.failure.is_some();
        let ended = (self.upstream.is_none() && !has_broken_off) || self.reader.is_done();
        if ended {
            if let Some(mut ticket) = self.ticket.take() {
                if self.reader.form() == Form::Events {
                    // Perhaps it came together with the end.
                    ticket.progress(self.reader.output_tokens().min(1));
                }
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
        if self.reader.form() == Form::Events {
            if self.head.is_empty() || matches!(self.rest, Rest::Under(_)) {
                std::task::ready!(self.poll_events(context));
            }
            if let Some(events) = self.take_head() {
                return Poll::Ready(Some(Ok(Frame::data(events))));
            }
            return Poll::Ready(self.failure.take().map(|error| self.last_events(error)));
        }
        let next = std::task::ready!(self.poll_upstream(context));
        if let Some(Err(_)) = next {
            self.break_off();
        } else {
            self.report();
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.head.is_empty()
            && self.failure.is_none()
            && self.upstream.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.upstream {
            Some(upstream) if self.head.is_empty() => upstream.size_hint(),
            _ => SizeHint::default(),
        }
    }
}
