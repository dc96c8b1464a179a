//! Cluster DNS: answers for the cluster's own domain from an index of services
//! and endpoints, by the rules of the Kubernetes DNS specification 1.1, and
//! asks upstream servers for the rest.
//!
//! Reading the cluster ([`watch`]), what names mean ([`index`]) and the wire
//! ([`server`], [`forward`]) know nothing of one another's insides.

pub mod forward;
pub mod index;
mod server;
mod watch;

use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

use tokio_util::sync::CancellationToken;

use forward::Upstreams;
use index::Index;

/// Settings of the DNS server.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Where UDP and TCP are answered.
    pub listen: SocketAddr,
    /// The domain that the cluster answers for, as in `cluster.local`.
    pub domain: String,
    /// Servers to ask for all other names.
    pub upstreams: Vec<SocketAddr>,
    /// Ask them for names of the domain too that are unknown here.
    pub fallback: bool,
}

impl DnsConfig {
    /// Settings with the upstream servers of this machine's resolv.conf.
    pub fn new(listen: SocketAddr, domain: &str) -> Self {
        let upstreams = forward::system_upstreams(listen);
        Self {
            listen,
            domain: domain.trim_matches('.').to_ascii_lowercase(),
            upstreams,
            fallback: false,
        }
    }
}

/// Why DNS could not be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The domain is no domain name.
    #[error("{0:?} is no domain name")]
    Domain(String),
    /// The server failed.
    #[error("DNS: {0}")]
    Server(String),
}

/// Serves DNS until `shutdown`.
///
/// # Errors
/// If the address cannot be listened on.
pub async fn run(
    client: kube::Client,
    config: DnsConfig,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let index = Arc::new(RwLock::new(Index::new(&config.domain)));
    let upstreams = Upstreams::new(config.upstreams);
    let zone = server::Zone {
        domain: config.domain,
        fallback: config.fallback,
    };
    let server = server::serve(
        config.listen,
        zone,
        index.clone(),
        upstreams,
        shutdown.clone(),
    );
    tokio::select! {
        result = server => result,
        () = watch::follow(client, index) => Ok(()),
        () = shutdown.cancelled() => Ok(()),
    }
}
