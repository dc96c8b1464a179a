//! Connections of clients.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::proxy::{Origin, Proxy};
use crate::table::Backend;
use crate::tunnel::{self, Begun};

/// Most connections of clients at once, on each address; further ones wait.
const MAX_CONNECTIONS: usize = 4096;
/// Most of them that are passed on as they are: these may be silent for hours,
/// and must leave places to the others.
const MAX_TUNNELS: usize = MAX_CONNECTIONS / 2;
/// Most connections that ask how this is doing.
const MAX_HEALTH_CONNECTIONS: usize = 16;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the head of a request may take, and how long a connection may wait
/// for its next request.
const HEAD: Duration = Duration::from_secs(60);
/// Most bytes of a request's head.
const MAX_HEAD: usize = 64 * 1024;
/// The same for HTTP/2.
const MAX_HEADER_LIST: u32 = 64 * 1024;
/// Most requests of one HTTP/2 connection at once.
const MAX_STREAMS: u32 = 128;
/// How long what is under way may take once an end is asked for.
const DRAIN: Duration = Duration::from_secs(20);
/// Pause after connections could not be accepted: files have run out.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// TLS for the connections of an address.
pub struct Secure(TlsAcceptor);

impl Secure {
    /// With this configuration.
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Self(TlsAcceptor::from(config))
    }
}

/// Serves until `stop`, then lets what is under way end.
pub async fn serve(
    listener: TcpListener,
    secure: Option<Secure>,
    proxy: Arc<Proxy>,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tunnels = Arc::new(Semaphore::new(MAX_TUNNELS));
    let tracker = TaskTracker::new();
    let secure = secure.map(|secure| secure.0);
    while let Some((stream, peer, place)) = accept(&listener, &places, &stop).await {
        let (proxy, secure, stop) = (proxy.clone(), secure.clone(), stop.clone());
        let tunnels = tunnels.clone();
        tracker.spawn(async move {
            let origin = Origin {
                peer: peer.ip(),
                secure: secure.is_some(),
            };
            let Some(acceptor) = secure else {
                connection(stream, false, proxy, origin, stop).await;
                return drop(place);
            };
            if proxy.table().has_tunnels() {
                match tokio::time::timeout(HANDSHAKE, tunnel::begin(stream)).await {
                    Ok(Ok((name, stream))) => {
                        let to = name.and_then(|name| proxy.table().tunnel(&name));
                        match to {
                            Some(backend) => {
                                let Ok(_place) = tunnels.try_acquire_owned() else {
                                    return tracing::warn!(%peer, "no place for a tunnel");
                                };
                                passed_on(stream, &backend, peer, &stop).await;
                            }
                            None => secured(stream, acceptor, proxy, origin, stop).await,
                        }
                    }
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "handshake failed"),
                    Err(_) => tracing::debug!(%peer, "handshake took too long"),
                }
            } else {
                secured(stream, acceptor, proxy, origin, stop).await;
            }
            drop(place);
        });
    }
    drop(listener);
    tracker.close();
    // Tunnels end with the process.
    let _ = tokio::time::timeout(DRAIN, tracker.wait()).await;
}

/// A connection whose TLS ends here.
async fn secured<S>(
    stream: S,
    acceptor: TlsAcceptor,
    proxy: Arc<Proxy>,
    origin: Origin,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            connection(stream, http2, proxy, origin, stop).await;
        }
        Ok(Err(error)) => tracing::debug!(peer = %origin.peer, %error, "handshake failed"),
        Err(_) => tracing::debug!(peer = %origin.peer, "handshake took too long"),
    }
}

/// One whose TLS ends at a service, until either side or this program ends it.
async fn passed_on(
    stream: Begun<TcpStream>,
    backend: &Arc<Backend>,
    peer: SocketAddr,
    stop: &CancellationToken,
) {
    tokio::select! {
        ended = stream.pass_on(backend) => {
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "a tunnel broke");
            }
        }
        () = async { stop.cancelled().await; tokio::time::sleep(DRAIN).await } => {}
    }
}

/// The next connection, with its place; `None` at the end.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let next = async {
        let place = places.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let _ = stream.set_nodelay(true);
                    return Some((stream, peer, place));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    };
    tokio::select! {
        next = next => next,
        () = stop.cancelled() => None,
    }
}

async fn connection<S>(
    stream: S,
    http2: bool,
    proxy: Arc<Proxy>,
    origin: Origin,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let proxy = proxy.clone();
        async move { proxy.answer(request, origin).await }
    });
    let builder = builder(http2);
    let mut served = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %origin.peer, %error, "connection ended");
    }
}

fn builder(http2: bool) -> auto::Builder<TokioExecutor> {
    let builder = auto::Builder::new(TokioExecutor::new());
    // Guessing by the first bytes would wait for them without a bound.
    let mut builder = if http2 {
        builder.http2_only()
    } else {
        builder.http1_only()
    };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// Tells whether this is alive (`/healthz`) and has routes (`/readyz`), until
/// `stop`; from `leaving` on, it is not ready.
pub async fn serve_health(
    listener: TcpListener,
    ready: watch::Receiver<bool>,
    leaving: &CancellationToken,
    stop: &CancellationToken,
) {
    let places = Arc::new(Semaphore::new(MAX_HEALTH_CONNECTIONS));
    while let Some((stream, _, place)) = accept(&listener, &places, stop).await {
        let (ready, leaving, stop) = (ready.clone(), leaving.clone(), stop.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let is_ready = *ready.borrow() && !leaving.is_cancelled();
                let answer = health(request.uri().path(), is_ready);
                async move { Ok::<_, Infallible>(answer) }
            });
            let builder = builder(false);
            tokio::select! {
                ended = builder.serve_connection(TokioIo::new(stream), service) => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection ended");
                    }
                }
                () = stop.cancelled() => {}
            }
            drop(place);
        });
    }
}

fn health(path: &str, is_ready: bool) -> Response<Full<Bytes>> {
    let (status, text) = match path {
        "/healthz" => (StatusCode::OK, "ok\n"),
        "/readyz" if is_ready => (StatusCode::OK, "ok\n"),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        _ => (StatusCode::NOT_FOUND, "not found\n"),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}
