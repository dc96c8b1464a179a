//! The virtual kubelet: the standard kubelet endpoint of the nodes shown
//! inside. What the virtual API server asks for a pod (logs, exec, attach,
//! port-forward) goes to the host pod that stands for it, through the host's
//! API server. A pod that is not ours cannot be named at all.

mod route;
mod tunnel;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::Error;
pub(crate) use tunnel::Pods;

/// Connections at once. Each exec or port-forward holds one until its tunnel
/// ends; beyond this, callers wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;

/// How long a peer may take for the TLS handshake or for the head of a
/// request.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The caller that the endpoint answers, besides administrators.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
const ADMINISTRATORS: &str = "system:masters";

/// The endpoint of the virtual kubelet.
#[derive(Clone, Debug)]
pub struct KubeletConfig {
    /// Where to listen; port 0 takes any.
    pub listen: SocketAddr,
    /// The serving certificate, for the address of the syncer's pod.
    pub cert_pem: String,
    /// Its key.
    pub key_pem: String,
    /// The authority of the virtual cluster; callers must show a certificate
    /// of it.
    pub client_ca_pem: String,
}

impl KubeletConfig {
    /// The port that nodes tell.
    pub(crate) fn advertised_port(&self, listener: &Listener) -> u16 {
        listener
            .tcp
            .local_addr()
            .map_or(self.listen.port(), |address| address.port())
    }
}

/// The open endpoint.
pub(crate) struct Listener {
    tcp: TcpListener,
    tls: TlsAcceptor,
}

pub(crate) async fn bind(config: &KubeletConfig) -> Result<Listener, Error> {
    let tls = coracle_pki::tls::server_config(
        &config.cert_pem,
        &config.key_pem,
        Some(&config.client_ca_pem),
        &["http/1.1"],
    )?;
    let tcp = TcpListener::bind(config.listen)
        .await
        .map_err(|source| Error::Listen {
            address: config.listen,
            source,
        })?;
    Ok(Listener {
        tcp,
        tls: TlsAcceptor::from(tls),
    })
}

pub(crate) async fn serve(listener: Listener, pods: Pods, stop: CancellationToken) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tasks = TaskTracker::new();
    let pods = Arc::new(pods);
    loop {
        let accepted = async {
            let permit = connections.clone().acquire_owned().await;
            (permit, listener.tcp.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, as a rule: wait for some to come back.
                debug!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = permit else { break };
        let (tls, pods) = (listener.tls.clone(), pods.clone());
        let tunnels = Tunnels {
            tasks: tasks.clone(),
            permit: Arc::new(permit),
            stop: stop.clone(),
        };
        let stop = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = connection(stream, tls, pods, tunnels) => {}
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

/// Where the tunnels of one connection run.
#[derive(Clone)]
pub(crate) struct Tunnels {
    tasks: TaskTracker,
    /// The connection's place; a tunnel keeps it.
    permit: Arc<OwnedSemaphorePermit>,
    stop: CancellationToken,
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, pods: Arc<Pods>, tunnels: Tunnels) {
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "no TLS"),
        Err(_) => return,
    };
    let caller = Caller::of(stream.get_ref().1.peer_certificates());
    let service = service_fn(move |request| {
        let (pods, caller) = (pods.clone(), caller.clone());
        let tunnels = tunnels.clone();
        async move {
            Ok::<_, std::convert::Infallible>(
                tunnel::answer(&pods, &caller, request, &tunnels).await,
            )
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        debug!(%error, "the connection broke off");
    }
}

/// Who is calling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// No certificate.
    Unknown,
    /// A certificate of the cluster, but not one that may do this.
    Other(String),
    /// The API server or an administrator.
    Trusted,
}

impl Caller {
    fn of(certificates: Option<&[rustls::pki_types::CertificateDer<'_>]>) -> Self {
        let Some(leaf) = certificates.and_then(<[_]>::first) else {
            return Self::Unknown;
        };
        match coracle_pki::certificate_subject(leaf) {
            Ok((name, organizations)) => {
                if name == API_SERVER || organizations.iter().any(|o| o == ADMINISTRATORS) {
                    Self::Trusted
                } else {
                    Self::Other(name)
                }
            }
            Err(_) => Self::Unknown,
        }
    }
}
