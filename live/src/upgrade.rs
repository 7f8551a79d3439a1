//! Connections that become WebSockets (vLLM's `/v1/realtime`). An instance is asked as for any other
//! path that the router does not decide on; when it agrees, bytes pass both ways until one side ends.
//!
//! Not read: what passes are messages of a protocol that has no tokens to count. Such a connection takes a client's place as a request does.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Either;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::upgrade::{OnUpgrade, on};
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy, split};
use tokio::time::timeout;
use tracing::debug;

use crate::api_error::ApiError;
use crate::attempt;
use crate::backend::strip_hop_by_hop;
use crate::dispatcher::Member;
use crate::head::{Head, text};
use crate::proxy::{ClientBody, Shared, X_REQUEST_ID};
use crate::queue::Place;

const WEBSOCKET: &str = "websocket";
/// Of a side whose other one has ended.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Whether the client wants to speak WebSocket from now on. Other protocols, such as `h2c`, which curl offers with any request, may be
/// left unanswered, and so may a request with a body, whose bytes would be taken for frames.
pub(crate) fn is_asked_for(parts: &Parts, body: &Incoming) -> bool {
    let named = parts.headers.get_all(header::CONNECTION);
    let mut options = named.iter().flat_map(|named| named.to_str().unwrap_or_default().split(','));
    let upgrades = options.any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    let protocol = text(&parts.headers, header::UPGRADE).unwrap_or_default();
    (&parts.method, parts.version) == (&Method::GET, Version::HTTP_11)
        && body.is_end_stream()
        && upgrades
        && protocol.eq_ignore_ascii_case(WEBSOCKET)
}

/// Asks an instance, and connects it with the client if it agrees.
pub(crate) async fn pass(
    shared: &Arc<Shared>,
    mut request: Request<Incoming>,
    id: HeaderValue,
) -> Response<ClientBody> {
    let client = on(&mut request);
    let mut head = Head::of(shared.telemetry.as_deref(), request.into_parts().0, false);
    set_upgrade(&mut head.headers);
    let mut response = match place(shared).await {
        Ok(place) => ask(shared, &head, client, place).await,
        Err(error) => error.response_left().map(Either::Left),
    };
    head.span.answered(response.status());
    strip_hop_by_hop(response.headers_mut());
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        set_upgrade(response.headers_mut());
    }
    response.headers_mut().entry(X_REQUEST_ID).or_insert(id);
    response
}

async fn place(shared: &Shared) -> Result<Place, ApiError> {
    let room = shared.queue.enter()?;
    Ok(shared.queue.place(room).await?.answered())
}

async fn ask(
    shared: &Arc<Shared>,
    head: &Head,
    client: OnUpgrade,
    place: Place,
) -> Response<ClientBody> {
    match attempt::answer_in_turn(shared, head, Bytes::new()).await {
        Ok((member, mut response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let instance = on(&mut response);
            tokio::spawn(connect(client, instance, member, place));
            response.map(|_| Either::Left(Either::Left(Default::default())))
        }
        Ok((_, response)) => attempt::relay(response, shared).map(|body| match body {
            Either::Right(relay) => {
                Either::Left(Either::Right(relay.with_place(place, head.span.clone())))
            }
            ours @ Either::Left(_) => Either::Left(ours),
        }),
        Err(answer) => answer.map(Either::Left),
    }
}

fn set_upgrade(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
}

/// Passes bytes both ways until one side ends, or the instance is known to be dead.
async fn connect(client: OnUpgrade, instance: OnUpgrade, member: Arc<Member>, place: Place) {
    member.backend.begun();
    tokio::select! {
        passed = pass_both_ways(client, instance) => if let Err(error) = passed {
            debug!(url = member.backend.url, "a WebSocket: {error}");
        },
        () = member.dead() => {}
    }
    member.backend.ended();
    drop(place);
}

/// When one side ends, what the other one still says has a moment to arrive; it may never end by itself.
async fn pass_both_ways(client: OnUpgrade, instance: OnUpgrade) -> io::Result<()> {
    let (client, instance) = tokio::try_join!(client, instance).map_err(io::Error::other)?;
    let (mut from_client, mut to_client) = split(TokioIo::new(client));
    let (mut from_instance, mut to_instance) = split(TokioIo::new(instance));
    let there = pass_one_way(&mut from_client, &mut to_instance);
    let back = pass_one_way(&mut from_instance, &mut to_client);
    tokio::pin!(there, back);
    let rest = tokio::select! {
        ended = &mut there => ended.map(|()| Either::Left(back)),
        ended = &mut back => ended.map(|()| Either::Right(there)),
    }?;
    let rest = async {
        match rest {
            Either::Left(back) => back.await,
            Either::Right(there) => there.await,
        }
    };
    timeout(LAST_WORDS, rest).await.unwrap_or(Ok(()))
}

async fn pass_one_way(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    copy(from, to).await?;
    to.shutdown().await
}
