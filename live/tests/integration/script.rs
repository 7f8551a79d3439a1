//! A vLLM server that does what a test says, to the byte; and a client that says what it likes.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lodestar_live::{Proxy, ProxyView, ServeConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

pub(crate) const MODELS: &str = r#"{"object":"list","data":[{"id":"m","max_model_len":4096}]}"#;

/// A server whose answers to everything but probes are written by a closure.
pub(crate) struct Script {
    pub(crate) address: SocketAddr,
    /// Requests, head and body, as they came.
    pub(crate) requests: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Set: connections are accepted, and nothing is answered any more.
    pub(crate) hangs: Arc<AtomicBool>,
    /// Its page of metrics.
    pub(crate) metrics: Arc<Mutex<String>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Script {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Script {
    /// `answer` gets the request and the connection, which is closed when it returns `false`.
    pub(crate) async fn start<F, R>(answer: F) -> Self
    where
        F: Fn(String, Arc<tokio::sync::Mutex<TcpStream>>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = bool> + Send,
    {
        Self::start_at("127.0.0.1:0".parse().unwrap(), answer).await
    }

    /// The same at an address.
    pub(crate) async fn start_at<F, R>(address: SocketAddr, answer: F) -> Self
    where
        F: Fn(String, Arc<tokio::sync::Mutex<TcpStream>>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = bool> + Send,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let hangs = Arc::<AtomicBool>::default();
        let metrics = Arc::<Mutex<String>>::default();
        let (log, hung, page) = (Arc::clone(&requests), Arc::clone(&hangs), Arc::clone(&metrics));
        let accepting = tokio::spawn(async move {
            // Ends with this task, as the connections of a process do.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (log, hung, answer) = (Arc::clone(&log), Arc::clone(&hung), answer.clone());
                let page = Arc::clone(&page);
                connections.spawn(async move {
                    let stream = Arc::new(tokio::sync::Mutex::new(stream));
                    let mut rest = Vec::new();
                    loop {
                        // In a statement of its own: the lock must not last.
                        let request = read_message(&mut *stream.lock().await, &mut rest).await;
                        let Some(request) = request else { break };
                        let text = String::from_utf8_lossy(&request).into_owned();
                        let probe = probe(&text, &page);
                        if probe.is_none() {
                            log.lock().unwrap().push(request);
                        }
                        if hung.load(Ordering::Relaxed) {
                            std::future::pending::<()>().await;
                        }
                        let go_on = match probe {
                            Some(page) => write(&stream, &page).await,
                            None => answer(text, Arc::clone(&stream)).await,
                        };
                        if !go_on {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, requests, hangs, metrics, accepting }
    }

    /// One that always writes the same.
    pub(crate) async fn says(answer: impl Into<String>) -> Self {
        let answer = answer.into();
        Self::start(move |_, stream| {
            let answer = answer.clone();
            async move { write(&stream, &answer).await }
        })
        .await
    }

    /// One that writes once for every permit.
    pub(crate) async fn says_when_permitted(answer: String) -> (Self, Arc<Semaphore>) {
        let permits = Arc::new(Semaphore::new(0));
        let given = Arc::clone(&permits);
        let script = Self::start(move |_, stream| {
            let (permits, answer) = (Arc::clone(&given), answer.clone());
            async move {
                permits.acquire().await.unwrap().forget();
                write(&stream, &answer).await
            }
        });
        (script.await, permits)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

fn probe(request: &str, metrics: &Mutex<String>) -> Option<String> {
    if request.starts_with("GET /health ") {
        return Some(response("200 OK", "text/plain", ""));
    }
    if request.starts_with("GET /metrics ") {
        return Some(response("200 OK", "text/plain", &metrics.lock().unwrap()));
    }
    request.starts_with("GET /v1/models ").then(|| response("200 OK", "application/json", MODELS))
}

pub(crate) fn response(status: &str, content_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// The head of a stream; [`chunk`]s follow.
pub(crate) const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
    transfer-encoding: chunked\r\n\r\n";

pub(crate) fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// Answers whether the other side still listens.
pub(crate) async fn write(stream: &Arc<tokio::sync::Mutex<TcpStream>>, text: &str) -> bool {
    stream.lock().await.write_all(text.as_bytes()).await.is_ok()
}

/// One message with a head and, if it says so, a body of known length.
pub(crate) async fn read_message(stream: &mut TcpStream, rest: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(end) = rest.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&rest[..end]).to_ascii_lowercase();
            let length = head
                .split("content-length: ")
                .nth(1)
                .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
            if rest.len() >= end + 4 + length {
                let after = rest.split_off(end + 4 + length);
                return Some(std::mem::replace(rest, after));
            }
        }
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.ok()?;
        if read == 0 {
            return None;
        }
        rest.extend_from_slice(&buffer[..read]);
    }
}

/// A proxy that runs until it is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) view: ProxyView,
    pub(crate) stop: Option<oneshot::Sender<()>>,
    pub(crate) task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    /// Starts a proxy before these servers and waits until all have joined.
    pub(crate) async fn before(scripts: &[&Script]) -> Self {
        Self::with(scripts, |_| {}).await
    }

    pub(crate) async fn with(scripts: &[&Script], change: impl FnOnce(&mut ServeConfig)) -> Self {
        let mut config = ServeConfig::new(scripts.iter().map(|script| script.url()));
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.router.policy = lodestar_router::PolicyConfig::RoundRobin;
        change(&mut config);
        let proxy = Proxy::bind(&config).await.unwrap();
        let (address, view) = (proxy.local_address().unwrap(), proxy.view());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(proxy.run(async move {
            let _ = stopped.await;
        }));
        let running = Self { address, view, stop: Some(stop), task };
        until(|| running.view.loads().len() == scripts.len()).await;
        running
    }

    /// Sends bytes, closes nothing, and reads until the proxy closes.
    pub(crate) async fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A body that breaks off may come as a reset.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> String {
        self.ask(&post(path, body)).await
    }

    /// Requests that the router holds to be under way.
    pub(crate) fn under_way(&self) -> u32 {
        self.view.loads().iter().map(|(_, load)| load.requests).sum()
    }

    /// Returns when nothing is reserved.
    pub(crate) async fn settled(&self) {
        until(|| self.under_way() == 0).await;
    }
}

pub(crate) fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: proxy\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

/// Returns as soon as the condition holds; a test that waits for long has failed.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it happens");
}

/// The body of a response, chunks put together.
pub(crate) fn body_of(response: &str) -> String {
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let (mut rest, mut text) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        text.push_str(&after[..size]);
        rest = &after[(size + 2).min(after.len())..];
    }
    text
}
