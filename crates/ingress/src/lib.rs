//! An ingress controller: a reverse proxy whose routes are the Ingresses of a
//! cluster.
//!
//! [`build`] turns objects into routes, [`proxy`] sends requests along them,
//! [`tunnel`] whole connections, [`listener`] takes them, and [`controller`] watches the cluster and
//! puts a new table in the place of the old one. Nothing that users write
//! becomes text that a program reads, and a table is exchanged whole: an
//! Ingress cannot harm another, and a change ends no connection.

mod backend;
mod body;
mod build;
mod controller;
mod listener;
mod path;
mod proxy;
mod table;
mod tunnel;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coracle_pki::tls::{self, Certificate};
use coracle_pki::{CertificateAuthority, PkiError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use listener::{Secure, serve};
use proxy::Proxy;
use table::Table;

/// The controller that the class of its Ingresses names.
pub const CONTROLLER: &str = "coracle.dev/ingress";

/// How long the certificate for unknown names is valid; it is made anew with
/// each start.
const DEFAULT_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long new connections are still taken once an end is asked for: others
/// need a moment to learn that this address is no longer the one.
const LAME: Duration = Duration::from_secs(3);

/// Settings of an ingress controller.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where plain requests come in.
    pub http: SocketAddr,
    /// Where requests over TLS come in.
    pub https: SocketAddr,
    /// Where it tells whether it is ready.
    pub health: SocketAddr,
    /// Namespace and name of the Service by which it is reached: Ingresses show
    /// the addresses of its load balancer.
    pub service: (String, String),
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The certificate for unknown names could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// Runs until `shutdown`; then lets what is under way end.
///
/// # Errors
/// If it cannot listen.
pub async fn run(
    client: kube::Client,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (http, https) = (bind(options.http).await?, bind(options.https).await?);
    let health = bind(options.health).await?;
    let (tables, table) = watch::channel(Arc::new(Table::default()));
    let (ready, is_ready) = watch::channel(false);
    let proxy = Arc::new(Proxy::new(table.clone()));
    let fallback = default_certificate()?;
    let choose = move |name: Option<&str>| {
        let chosen = name.and_then(|name| table.borrow().certificate(name));
        chosen.unwrap_or_else(|| fallback.clone())
    };
    let config = tls::server_config_by_name(choose, &["h2", "http/1.1"])?;
    tracing::info!(http = %options.http, https = %options.https, "serving ingresses");
    // Taking connections ends later than everything else.
    let stop = CancellationToken::new();
    let end = async {
        shutdown.cancelled().await;
        tokio::time::sleep(LAME).await;
        stop.cancel();
    };
    tokio::join!(
        controller::run(client, &options, tables, ready, shutdown.clone()),
        listener::serve_health(health, is_ready, &shutdown, &stop),
        serve(http, None, proxy.clone(), stop.clone()),
        serve(https, Some(Secure::new(config)), proxy, stop.clone()),
        end,
    );
    Ok(())
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| Error::Listen { address, source })
}

/// What is shown for names that no Ingress has a certificate for.
fn default_certificate() -> Result<Certificate, PkiError> {
    let authority = CertificateAuthority::generate("Coracle ingress: no certificate")?;
    let names = ["ingress.local".to_owned()];
    let pair = authority.issue_server("ingress.local", &names, DEFAULT_VALIDITY)?;
    Certificate::new(&pair)
}
