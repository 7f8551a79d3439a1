//! Asks engines which tokens a prompt has, where nobody has given the router the model's tokenizer.
//!
//! An engine tokenizes as it will when the request comes, templates and all, so blocks are those of its KV events. But the prompt
//! travels once more and its tokens come back, before the request is sent. So this is done only while it is cheap: an
//! engine that is late is not waited for, and after a few such answers in a row nobody is asked for a while. Prompts are bytes then.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use memchr::memmem;
use serde::Deserialize;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::backend::{Client, Page};
use crate::dispatcher::Dispatcher;
use crate::prompt;

/// vLLM takes some milliseconds for thousands of tokens. What takes longer would be felt in the time to first token.
const PATIENCE: Duration = Duration::from_millis(50);
/// What is longer takes longer than that, and would say nothing of the engine.
const LONGEST_BYTES: usize = 256 << 10;
/// So many failures in a row, and nobody is asked for a while.
const FAILURES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(10);

/// Whether engines are asked, and how that has gone.
#[derive(Debug, Default)]
pub(crate) struct EngineTokenizer {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Nobody is asked before.
    paused_until: Option<Instant>,
}

/// An answer of `/tokenize`.
#[derive(Deserialize)]
struct Tokenized {
    tokens: Vec<u32>,
}

/// Such as a wrong key, or a model that is not served, which is 404 with an error of the API; without one there is no `/tokenize`.
fn is_the_clients_fault(page: &Page) -> bool {
    let is_missing = page.status == StatusCode::NOT_FOUND;
    page.status.is_client_error()
        && !(is_missing && memmem::find(&page.body, b"\"error\"").is_none())
}

impl EngineTokenizer {
    /// The tokens of the prompt in a request's body, by whichever instance is next. `None` where bytes have to do.
    pub(crate) async fn token_ids(
        &self,
        dispatcher: &Dispatcher,
        client: &Client,
        authorization: Option<HeaderValue>,
        body: &[u8],
    ) -> Option<Vec<u32>> {
        if self.is_paused() || body.len() > LONGEST_BYTES {
            return None;
        }
        let question = Bytes::from(prompt::question(body)?);
        let member = dispatcher.in_turn()?;
        let asked = member.backend.post(client, "/tokenize", authorization, question);
        let complaint = match timeout(PATIENCE, asked).await {
            // The request is wrong, and the engine will say so to the client.
            Ok(Ok(page)) if is_the_clients_fault(&page) => return None,
            Ok(Ok(page)) if page.status != StatusCode::OK => format!("it answers {}", page.status),
            Ok(Ok(page)) => match serde_json::from_slice::<Tokenized>(&page.body) {
                Ok(Tokenized { tokens }) => {
                    self.succeeded();
                    return Some(tokens);
                }
                Err(error) => error.to_string(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer in {} ms", PATIENCE.as_millis()),
        };
        self.failed(&member.backend.url, &complaint);
        None
    }

    fn is_paused(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.paused_until.is_some_and(|until| Instant::now() < until)
    }

    fn succeeded(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failures = 0;
    }

    fn failed(&self, url: &str, complaint: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures += 1;
        if state.failures >= FAILURES {
            *state = State { failures: 0, paused_until: Some(Instant::now() + PAUSE) };
            drop(state);
            let secs = PAUSE.as_secs();
            warn!(url, "/tokenize: {complaint}; prompts are bytes for {secs} s");
        }
    }
}
