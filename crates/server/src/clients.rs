//! Clients of API servers: in-process, and from kubeconfig files.

use std::path::Path;

use coracle_apiserver::ApiServer;
use coracle_apiserver::access::UserInfo;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tower::ServiceExt as _;

use crate::Error;

/// A client of a server in this very process, without socket and TLS; the
/// caller's identity rides in the requests' extensions.
pub fn in_process(server: &ApiServer, user: UserInfo) -> kube::Client {
    let service =
        server
            .clone()
            .map_request(move |mut request: http::Request<kube::client::Body>| {
                request.extensions_mut().insert(user.clone());
                request
            });
    kube::Client::new(service, "default")
}

/// The client configuration of a kubeconfig file's current context.
///
/// # Errors
/// If the file cannot be read or used.
pub async fn config_from_file(path: &Path) -> Result<kube::Config, Error> {
    let unusable = |cause: String| Error::Setting(format!("{}: {cause}", path.display()));
    let kubeconfig = Kubeconfig::read_from(path).map_err(|e| unusable(e.to_string()))?;
    kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|e| unusable(e.to_string()))
}

/// A client from a kubeconfig file.
///
/// # Errors
/// If the file cannot be read or used.
pub async fn from_file(path: &Path) -> Result<kube::Client, Error> {
    Ok(kube::Client::try_from(config_from_file(path).await?)?)
}
