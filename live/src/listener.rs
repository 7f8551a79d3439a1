//! Accepts connections and has them served until it is told to stop: HTTP/1.1 and HTTP/2, by prior knowledge or
//! by ALPN.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::relay::BoxError;

/// A client that does not send its headers in this time is not served.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where connections are served, and how.
#[derive(Debug)]
pub(crate) struct Server<H> {
    runtime: Handle,
    handler: H,
    /// One for each connection, and this one.
    open: Arc<()>,
}

impl<H> Server<H> {
    pub(crate) fn new(runtime: Handle, handler: H) -> Self {
        Self { runtime, handler, open: Arc::default() }
    }
}

/// Serves every connection at the server with the fewest until `shutdown` is ready; then lets requests under way end for `drain`
/// at most.
pub(crate) async fn run<H, F, B>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    servers: &[Server<H>],
    shutdown: impl Future<Output = ()>,
    drain: Duration,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let graceful = GracefulShutdown::new();
    tokio::pin!(shutdown);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => stream,
                Err(error) => {
                    // Out of file descriptors, mostly: others will be closed soon.
                    warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        let fewest = servers.iter().min_by_key(|server| Arc::strong_count(&server.open));
        let Server { runtime, handler, open } = fewest.expect("somebody serves");
        let serving = serve(stream, handler.clone(), graceful.watcher(), tls.clone());
        let open = Arc::clone(open);
        runtime.spawn(async move {
            if let Err(error) = serving.await {
                debug!("connection: {error}");
            }
            drop(open);
        });
    }
    drop(listener);
    if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
        warn!("some requests did not end in {} s and are cut off", drain.as_secs());
    }
}

async fn serve<H, F, B>(
    stream: std::net::TcpStream,
    handler: H,
    watcher: Watcher,
    tls: Option<TlsAcceptor>,
) -> std::io::Result<()>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    // From now on this runtime's poll wakes it.
    let stream = TcpStream::from_std(stream)?;
    stream.set_nodelay(true)?;
    match tls {
        None => connection(stream, handler, watcher).await,
        Some(tls) => match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
            Ok(stream) => connection(stream?, handler, watcher).await,
            Err(_) => debug!("TLS handshake: too slow"),
        },
    }
    Ok(())
}

async fn connection<S, H, F, B>(stream: S, handler: H, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(served).await {
        debug!("connection: {error}");
    }
}
