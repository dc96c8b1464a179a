//! Serving over TLS on TCP: HTTP/1.1 with upgrades, and HTTP/2.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use coracle_pki::tls::ClientAuthority;
use futures::future::BoxFuture;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::access::{ForeignCertificate, PeerCertificates, PeerIdentity};
use crate::server::ApiServer;

/// Pause after `accept` failed, as it does when file descriptors run out.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Bytes of the headers of one request.
const HEADER_BYTES: u32 = 64 << 10;
/// Bytes read ahead on an HTTP/1.1 connection, the request's head included.
const READ_AHEAD: usize = 128 << 10;

/// How much the listener takes on.
#[derive(Clone, Copy, Debug)]
pub struct ListenerLimits {
    /// Connections at once; more wait in the kernel's queue.
    pub connections: usize,
    /// Time for the TLS handshake.
    pub handshake: Duration,
    /// Time for the head of a request on HTTP/1.1, also between requests on a
    /// connection that is kept alive.
    pub headers: Duration,
    /// Requests at once on one HTTP/2 connection. Go clients put all their
    /// watches on one.
    pub streams: u32,
    /// Time for what is under way when the listener stops.
    pub drain: Duration,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            handshake: Duration::from_secs(10),
            headers: Duration::from_secs(90),
            streams: 1000,
            drain: Duration::from_secs(10),
        }
    }
}

/// How connections are secured.
#[derive(Clone)]
pub struct Security {
    /// The server's certificate. It may let clients with any certificate in.
    pub tls: Arc<rustls::ServerConfig>,
    /// Whose certificates name a client.
    pub clients: ClientAuthority,
}

/// Serves until `stop`; then lets what is under way end and returns. Watches
/// are ended at once.
///
/// # Errors
/// None at present: failures of single connections are theirs alone.
pub fn serve(
    listener: TcpListener,
    security: Security,
    server: ApiServer,
    limits: ListenerLimits,
    stop: CancellationToken,
) -> BoxFuture<'static, io::Result<()>> {
    // Boxed, and so compiled in this crate, which is built for speed; the body
    // of an `async fn` is compiled where it is awaited.
    Box::pin(accept(listener, security, server, limits, stop))
}

async fn accept(
    listener: TcpListener,
    security: Security,
    server: ApiServer,
    limits: ListenerLimits,
    stop: CancellationToken,
) -> io::Result<()> {
    let acceptor = TlsAcceptor::from(security.tls);
    let clients = security.clients;
    let places = Arc::new(Semaphore::new(limits.connections));
    let tracker = TaskTracker::new();
    // Told to connections: finish what is under way, take nothing new.
    let closing = CancellationToken::new();
    // Told to connections that did not: be gone.
    let abort = CancellationToken::new();
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let Ok(place) = place else {
            break;
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let connection = connection(
            stream,
            (acceptor.clone(), clients.clone()),
            server.clone(),
            limits,
            closing.clone(),
        );
        let abort = abort.clone();
        tracker.spawn(async move {
            tokio::select! {
                () = abort.cancelled() => {}
                () = connection => {}
            }
            drop(place);
        });
    }
    drop(listener);
    server.shut_down();
    closing.cancel();
    tracker.close();
    if tokio::time::timeout(limits.drain, tracker.wait())
        .await
        .is_err()
    {
        abort.cancel();
        tracker.wait().await;
    }
    Ok(())
}

async fn connection(
    stream: TcpStream,
    (acceptor, clients): (TlsAcceptor, ClientAuthority),
    server: ApiServer,
    limits: ListenerLimits,
    closing: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(limits.handshake, acceptor.accept(stream));
    let stream = match handshake.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let session = stream.get_ref().1;
    let http2 = session.alpn_protocol() == Some(b"h2");
    let chain = session.peer_certificates().map(|chain| {
        if !clients.vouches_for(chain) {
            return Err(ForeignCertificate);
        }
        let owned = chain.iter().map(|c| c.clone().into_owned()).collect();
        Ok(PeerCertificates(Arc::new(owned)))
    });
    let identity = PeerIdentity::default();
    let service = service_fn(move |mut request: Request<Incoming>| {
        match &chain {
            Some(Ok(chain)) => {
                request.extensions_mut().insert(chain.clone());
                request.extensions_mut().insert(identity.clone());
            }
            Some(Err(foreign)) => {
                request.extensions_mut().insert(*foreign);
            }
            None => {}
        }
        server.clone().call(request)
    });
    let builder = builder(limits, http2);
    let io = TokioIo::new(stream);
    let mut served = pin!(builder.serve_connection_with_upgrades(io, service));
    let outcome = tokio::select! {
        outcome = served.as_mut() => outcome,
        () = closing.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "connection ended");
    }
}

fn builder(limits: ListenerLimits, http2: bool) -> auto::Builder<TokioExecutor> {
    let builder = auto::Builder::new(TokioExecutor::new());
    // ALPN has decided; guessing by the first bytes would wait for them
    // without a bound.
    let mut builder = if http2 {
        builder.http2_only()
    } else {
        builder.http1_only()
    };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .max_buf_size(READ_AHEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(HEADER_BYTES)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}
