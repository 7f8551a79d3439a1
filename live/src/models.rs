//! `/v1/models` of the fleet: what any instance serves, each model once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::api_error::ApiError;
use crate::backend::Page;
use crate::proxy::{ProxyBody, Shared};

/// Who does not answer in time is left out.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The page, with so much of each model.
#[derive(Deserialize)]
pub(crate) struct Models<M> {
    pub(crate) data: Vec<M>,
}

/// Asks every instance.
pub(crate) async fn merged(shared: &Arc<Shared>, headers: &HeaderMap) -> Response<ProxyBody> {
    let mut asked = JoinSet::new();
    for (index, member) in shared.dispatcher.members().into_iter().enumerate() {
        let (client, key) = (shared.client.clone(), headers.get(AUTHORIZATION).cloned());
        asked.spawn(async move {
            let page = member.backend.get(&client, "/v1/models", key);
            (index, tokio::time::timeout(TIMEOUT, page).await)
        });
    }
    let answers = asked.join_all().await;
    let mut pages: Vec<(usize, Page)> =
        answers.into_iter().filter_map(|(index, page)| Some((index, page.ok()?.ok()?))).collect();
    // The order in which instances answer shall not show.
    pages.sort_unstable_by_key(|(index, _)| *index);
    let mut data: Vec<Value> = Vec::new();
    for (_, page) in &pages {
        let Ok(models) = serde_json::from_slice::<Models<Value>>(&page.body) else { continue };
        for model in models.data {
            if data.iter().all(|known| known.get("id") != model.get("id")) {
                data.push(model);
            }
        }
    }
    match pages.first() {
        // Such as 401: the client's fault, in the engine's words.
        Some((_, page)) if data.is_empty() => answer(page.status, page.body.clone()),
        Some(_) => {
            answer(StatusCode::OK, json!({"object": "list", "data": data}).to_string().into())
        }
        None => ApiError::unavailable("no instance is ready").response_left(),
    }
}

fn answer(status: StatusCode, body: Bytes) -> Response<ProxyBody> {
    let mut response = Response::new(Either::Left(Full::new(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
