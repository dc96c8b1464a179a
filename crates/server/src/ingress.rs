//! The ingress role: an ingress controller in a pod of its cluster.

use std::net::SocketAddr;

use tokio_util::sync::CancellationToken;

use crate::Error;

/// Settings of an ingress controller.
#[derive(Clone, Debug)]
pub struct IngressOptions {
    /// Where plain requests come in.
    pub http: SocketAddr,
    /// Where requests over TLS come in.
    pub https: SocketAddr,
    /// Where it tells whether it is ready.
    pub health: SocketAddr,
    /// Namespace and name of the Service by which it is reached.
    pub service: (String, String),
}

/// Runs until `shutdown`, with the rights of the pod's service account.
///
/// # Errors
/// If it cannot start.
pub async fn run(options: IngressOptions, shutdown: CancellationToken) -> Result<(), Error> {
    let config = kube::Config::incluster().map_err(|error| Error::Setting(error.to_string()))?;
    let client = kube::Client::try_from(config)?;
    let options = coracle_ingress::Options {
        http: options.http,
        https: options.https,
        health: options.health,
        service: options.service,
    };
    coracle_ingress::run(client, options, shutdown)
        .await
        .map_err(|error| Error::Setting(error.to_string()))
}
