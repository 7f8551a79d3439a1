//! What engines say of their prefix caches, over ZMQ, as facts for the router.
//!
//! vLLM publishes batches of events on a PUB socket, each with a number one higher than the last. Whoever
//! missed some asks a ROUTER socket for those from a number on. What cannot be had any more would leave the
//! router with blocks that are not there: then it forgets all it knew of that instance, as it does when the
//! numbers begin anew because the engine has.
//!
//! One task for each stay of an instance in the fleet, so that one that comes back is heard from the beginning.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod mirror;
mod wire;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lodestar_router::Event;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use zeromq::{
    DealerSocket, Socket as _, SocketRecv as _, SocketSend as _, SubSocket, ZmqError, ZmqMessage,
};

use self::mirror::{Change, Mirror, OtherBlockSize};
use self::wire::{Batch, decode};
use crate::dispatcher::{Dispatcher, Member};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest silence in the middle of a replay.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(2);
/// After a connection that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// Number of the message that ends a replay: -1.
const END: u64 = u64::MAX;

/// Where an engine publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KvEndpoints {
    /// PUB socket.
    pub(crate) events: String,
    /// ROUTER socket, if the engine has one.
    pub(crate) replay: Option<String>,
}

/// Tells the router of a member's blocks for as long as it is polled.
pub(crate) async fn follow(
    dispatcher: Arc<Dispatcher>,
    member: Arc<Member>,
    endpoints: &KvEndpoints,
    model: Option<&str>,
) -> Infallible {
    let mirror = Mirror::new(dispatcher.block_tokens(), model);
    let mut feed =
        Feed { dispatcher, member, mirror, next: Some(0), sent_at_s: 0.0, other_size: None };
    let mut last_complaint = String::new();
    loop {
        let result: Result<Infallible, FeedError> = listen(&mut feed, endpoints).await;
        let Err(error) = result;
        let complaint = error.to_string();
        if complaint != last_complaint {
            warn!(endpoint = endpoints.events, "KV events: {complaint}");
            last_complaint = complaint;
        }
        feed.reset();
        sleep(PAUSE).await;
    }
}

#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error("no connection in {} s", CONNECT_TIMEOUT.as_secs())]
    ConnectTimeout,
    #[error("{0}")]
    Zmq(#[from] ZmqError),
    #[error("the replay stopped for {} s", REPLAY_TIMEOUT.as_secs())]
    ReplayTimeout,
    #[error("a message has {0} frames, not topic, number and events")]
    Frames(usize),
    #[error("not a batch of events: {0}")]
    Decode(#[from] rmp_serde::decode::Error),
}

async fn listen(feed: &mut Feed, endpoints: &KvEndpoints) -> Result<Infallible, FeedError> {
    let mut socket = SubSocket::new();
    socket.subscribe("").await?;
    connect(&mut socket, &endpoints.events).await?;
    info!(endpoint = endpoints.events, "listening to KV events");
    // What it has cached already. Of what comes twice, the second time is recognised.
    replay(feed, endpoints, 0).await;
    loop {
        let (seq, batch) = numbered(socket.recv().await?)?;
        if feed.receive(seq, &batch) == Verdict::Gap {
            replay(feed, endpoints, feed.next.unwrap_or(0)).await;
            feed.receive_whatever_is_missing(seq, &batch);
        }
    }
}

async fn connect<S: zeromq::Socket>(socket: &mut S, endpoint: &str) -> Result<(), FeedError> {
    timeout(CONNECT_TIMEOUT, socket.connect(endpoint))
        .await
        .map_err(|_| FeedError::ConnectTimeout)?
        .map_err(FeedError::from)
}

/// Asks for what was published from a number on, and takes what comes.
async fn replay(feed: &mut Feed, endpoints: &KvEndpoints, from: u64) {
    let Some(endpoint) = &endpoints.replay else { return };
    if let Err(error) = ask_for_replay(feed, endpoint, from).await {
        warn!(endpoint, "replay of KV events: {error}");
    }
}

async fn ask_for_replay(feed: &mut Feed, endpoint: &str, from: u64) -> Result<(), FeedError> {
    let mut socket = DealerSocket::new();
    connect(&mut socket, endpoint).await?;
    let mut question = ZmqMessage::from(Bytes::new());
    question.push_back(Bytes::copy_from_slice(&from.to_be_bytes()));
    socket.send(question).await?;
    loop {
        let answer = timeout(REPLAY_TIMEOUT, socket.recv()).await;
        let answer = answer.map_err(|_| FeedError::ReplayTimeout)??;
        if number(&answer)?.0 == END {
            return Ok(());
        }
        let (seq, batch) = numbered(answer)?;
        feed.receive_whatever_is_missing(seq, &batch);
    }
}

/// Number and events of a message. They are the last two frames: before them stand the topic and, in a replay,
/// an empty frame.
fn number(message: &ZmqMessage) -> Result<(u64, &Bytes), FeedError> {
    let wrong = || FeedError::Frames(message.len());
    let at = message.len().checked_sub(2).ok_or_else(wrong)?;
    let seq = message.get(at).and_then(|frame| <[u8; 8]>::try_from(frame.as_ref()).ok());
    Ok((u64::from_be_bytes(seq.ok_or_else(wrong)?), message.get(at + 1).ok_or_else(wrong)?))
}

#[expect(clippy::needless_pass_by_value, reason = "a message is used up")]
fn numbered(message: ZmqMessage) -> Result<(u64, Batch), FeedError> {
    let (seq, events) = number(&message)?;
    Ok((seq, decode(events)?))
}

/// What is known of one engine's cache, and up to which message.
#[derive(Debug)]
struct Feed {
    dispatcher: Arc<Dispatcher>,
    member: Arc<Member>,
    mirror: Mirror,
    /// Number of the next message; `None` when any will do.
    next: Option<u64>,
    /// When the last one was sent.
    sent_at_s: f64,
    /// Complained of already.
    other_size: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Taken,
    /// It was known.
    Known,
    /// It was not taken: there are others before it.
    Gap,
}

impl Feed {
    fn receive(&mut self, seq: u64, batch: &Batch) -> Verdict {
        if let Some(next) = self.next.filter(|next| seq < *next) {
            if batch.sent_at_s <= self.sent_at_s {
                return Verdict::Known;
            }
            info!(url = self.member.backend.url, "KV events begin anew: {seq} after {}", next - 1);
            self.reset();
            self.next = Some(0);
        }
        if self.next.is_some_and(|next| seq > next) {
            return Verdict::Gap;
        }
        self.next = Some(seq.wrapping_add(1));
        self.sent_at_s = batch.sent_at_s;
        for event in &batch.events {
            match self.mirror.apply(event) {
                Ok(change) => change.iter().for_each(|change| self.tell(change)),
                Err(OtherBlockSize(tokens)) => self.complain(tokens),
            }
        }
        Verdict::Taken
    }

    /// Takes a message. If others before it are missing, they are lost.
    fn receive_whatever_is_missing(&mut self, seq: u64, batch: &Batch) {
        if self.receive(seq, batch) == Verdict::Gap {
            if self.has_heard() {
                warn!(
                    url = self.member.backend.url,
                    "KV events are lost; its blocks are forgotten"
                );
            }
            self.reset();
            self.receive(seq, batch);
        }
    }

    /// One that was never heard has nothing to forget.
    fn has_heard(&self) -> bool {
        self.next.is_some_and(|next| next > 0)
    }

    /// Nothing is known any more.
    fn reset(&mut self) {
        if self.has_heard() {
            self.dispatcher.counters().kv_resets.add(1);
            self.tell(&Change::Cleared);
        }
        self.mirror.clear();
        self.next = None;
    }

    fn tell(&self, change: &Change) {
        let instance = self.member.id;
        let event = match change {
            Change::Stored { parent, blocks } => {
                Event::BlocksStored { instance, parent: *parent, blocks: blocks.into() }
            }
            Change::Removed { blocks } => Event::BlocksRemoved { instance, blocks: blocks.into() },
            Change::Cleared => Event::BlocksCleared { instance },
        };
        self.dispatcher.counters().kv_events.add(1);
        self.dispatcher.observe(&event);
    }

    fn complain(&mut self, tokens: u32) {
        if self.other_size.replace(tokens) != Some(tokens) {
            let ours = self.dispatcher.block_tokens();
            let url = &self.member.backend.url;
            warn!(
                "{url}: its blocks have {tokens} tokens, `router.block_tokens` is {ours}: KV events are ignored"
            );
        }
    }
}

#[cfg(test)]
mod tests;
