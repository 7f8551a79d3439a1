//! An upstream that answers at once, to measure what a proxy adds: `fast_engine PORT...`, one server a port, all on
//! one thread.
//!
//! Not `lodestar mock-engine`, which takes as long as a GPU would and thinks about it. The shapes are vLLM's: paths,
//! JSON, 16 events a stream, each in a packet of its own. `/render` exists because some routers ask for a prompt's tokens before
//! they choose; what they are is of no importance.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Tokens of a streamed answer.
const TOKENS: u32 = 16;
const ANSWER: &str = r#"{"id":"cmpl-1","object":"text_completion","created":1,"model":"fast","choices":[{"index":0,"text":" a b c d e f g h","logprobs":null,"finish_reason":"length","stop_reason":null}],"usage":{"prompt_tokens":9,"total_tokens":17,"completion_tokens":8}}"#;
const EVENT: &str = "data: {\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1,\"model\":\"fast\",\"choices\":[{\"index\":0,\"text\":\" a\",\"logprobs\":null,\"finish_reason\":null,\"stop_reason\":null,\"prompt_token_ids\":null,\"token_ids\":null}]}\n\n";
const MODELS: &str = r#"{"object":"list","data":[{"id":"fast","object":"model","owned_by":"vllm","max_model_len":32768}]}"#;
const METRICS: &str = "# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine=\"0\",model_name=\"fast\"} 0.0
vllm:num_requests_waiting{engine=\"0\",model_name=\"fast\"} 0.0
vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"fast\"} 0.1
vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"27000\"} 1.0
";

/// A streamed answer.
struct Events {
    sent: u32,
    /// The last event is out; the next one is another packet.
    rests: bool,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.sent > TOKENS {
            return Poll::Ready(None);
        }
        if std::mem::replace(&mut self.rests, false) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let event = if self.sent < TOKENS { EVENT } else { "data: [DONE]\n\n" };
        self.sent += 1;
        self.rests = self.sent < TOKENS;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(event.as_bytes())))))
    }
}

type Answer = Either<Full<Bytes>, Events>;

async fn answer(request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    let (parts, body) = request.into_parts();
    // A body that breaks off is the sender's trouble.
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let json = "application/json";
    let (status, kind, text) = match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/health") => (200, "text/plain", Bytes::new()),
        (&Method::GET, "/v1/models") => (200, json, MODELS.into()),
        (&Method::GET, "/metrics") => {
            (200, "text/plain; version=1.0.0; charset=utf-8", METRICS.into())
        }
        (&Method::POST, "/v1/completions") => {
            if wants_stream(&body) {
                let mut response = Response::new(Either::Right(Events { sent: 0, rests: false }));
                let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                return Ok(response);
            }
            (200, json, ANSWER.into())
        }
        (&Method::POST, "/v1/completions/render") => (200, json, rendered(&body).into()),
        _ => (404, json, r#"{"detail":"Not Found"}"#.into()),
    };
    let mut response = Response::new(Either::Left(Full::new(text)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

/// Good enough for bodies that the benchmark sends: the flag stands at the end.
fn wants_stream(body: &[u8]) -> bool {
    body.ends_with(b"\"stream\":true}")
}

/// Four bytes are a token.
fn rendered(body: &[u8]) -> String {
    let mut text = String::from("[{\"request_id\":\"cmpl-1\",\"token_ids\":[");
    for (index, token) in body.chunks(4).enumerate() {
        let id = token.iter().fold(7_u32, |id, byte| (31 * id + u32::from(*byte)) % 30_000);
        let _ = write!(text, "{}{id}", if index > 0 { "," } else { "" });
    }
    text + "],\"model\":\"fast\",\"stream\":false}]"
}

async fn serve(listener: TcpListener) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            // A client that hangs up is no news.
            let _ = connection.await;
        });
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut servers = tokio::task::JoinSet::new();
        for port in std::env::args().skip(1) {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse()?)).await?;
            servers.spawn(serve(listener));
        }
        while let Some(served) = servers.join_next().await {
            served??;
        }
        Ok(())
    })
}
