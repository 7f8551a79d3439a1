//! Connections that become WebSockets (vLLM's `/v1/realtime`). An instance is asked as for any other
//! path that the router does not decide on; when it agrees, bytes pass both ways until one side ends.
//!
//! Not read: what passes are messages of a protocol that has no tokens to count. Such a connection takes a client's place as a request does.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::upgrade::{OnUpgrade, on};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tracing::debug;

use crate::attempt;
use crate::backend::strip_hop_by_hop;
use crate::dispatcher::Member;
use crate::head::{Head, text};
use crate::proxy::{ClientBody, Shared, X_REQUEST_ID};
use crate::queue::Place;

const WEBSOCKET: &str = "websocket";

/// Whether the client wants to speak WebSocket from now on. Other protocols, such as `h2c`, which curl offers with any request, may be
/// left unanswered.
pub(crate) fn is_asked_for(method: &Method, headers: &HeaderMap) -> bool {
    let mut options = text(headers, header::CONNECTION).unwrap_or_default().split(',');
    let upgrades = options.any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    let protocol = text(headers, header::UPGRADE).unwrap_or_default();
    method == Method::GET && upgrades && protocol.eq_ignore_ascii_case(WEBSOCKET)
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
    let place = match shared.queue.enter() {
        Ok(room) => shared.queue.place(room).await,
        Err(error) => Err(error),
    };
    let place = match place {
        Ok(place) => place.answered(),
        Err(error) => return error.response_left().map(Either::Left),
    };
    let mut response = match attempt::answer_in_turn(shared, &head, Bytes::new()).await {
        Ok((member, mut response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let instance = on(&mut response);
            tokio::spawn(connect(client, instance, member, place));
            response.map(|_| Either::Left(Either::Left(Default::default())))
        }
        Ok((_, response)) => {
            let response = attempt::relay(response, shared);
            response.map(|body| match body {
                Either::Right(relay) => {
                    Either::Left(Either::Right(relay.with_place(place, head.span.clone())))
                }
                ours @ Either::Left(_) => Either::Left(ours),
            })
        }
        Err(answer) => answer.map(Either::Left),
    };
    head.span.answered(response.status());
    strip_hop_by_hop(response.headers_mut());
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        set_upgrade(response.headers_mut());
    }
    response.headers_mut().entry(X_REQUEST_ID).or_insert(id);
    response
}

fn set_upgrade(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
}

/// Passes bytes both ways until one side ends, or the instance is known to be dead.
async fn connect(client: OnUpgrade, instance: OnUpgrade, member: Arc<Member>, place: Place) {
    let pass = async {
        let (client, instance) =
            tokio::try_join!(client, instance).map_err(std::io::Error::other)?;
        copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(instance)).await
    };
    tokio::select! {
        passed = pass => if let Err(error) = passed {
            debug!(url = member.backend.url, "a connection that was upgraded: {error}");
        },
        () = member.dead() => {}
    }
    drop(place);
}
