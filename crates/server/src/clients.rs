//! Clients of API servers: in-process, and from kubeconfig files.

use std::path::Path;

use coracle_apiserver::ApiServer;
use coracle_apiserver::access::UserInfo;
use http::HeaderValue;
use http::header::USER_AGENT;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tower::ServiceExt as _;

use crate::Error;

/// A client of a server in this very process, without socket and TLS; the
/// caller's identity rides in the requests' extensions. What it writes belongs
/// to the program that the user stands for.
pub fn in_process(server: &ApiServer, user: UserInfo) -> kube::Client {
    let program = user.username.trim_start_matches("system:");
    let program = HeaderValue::from_str(program).ok();
    let service =
        server
            .clone()
            .map_request(move |mut request: http::Request<kube::client::Body>| {
                request.extensions_mut().insert(user.clone());
                if let Some(program) = &program {
                    request.headers_mut().insert(USER_AGENT, program.clone());
                }
                request
            });
    kube::Client::new(service, "default")
}

/// The client configuration of a kubeconfig file's current context. What it
/// writes belongs to the program of that name.
///
/// # Errors
/// If the file cannot be read or used.
pub async fn config_from_file(path: &Path, program: &'static str) -> Result<kube::Config, Error> {
    let unusable = |cause: String| Error::Setting(format!("{}: {cause}", path.display()));
    let kubeconfig = Kubeconfig::read_from(path).map_err(|e| unusable(e.to_string()))?;
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(|e| unusable(e.to_string()))?;
    let program = HeaderValue::from_static(program);
    config.headers.push((USER_AGENT, program));
    Ok(config)
}

/// A client from a kubeconfig file.
///
/// # Errors
/// If the file cannot be read or used.
pub async fn from_file(path: &Path, program: &'static str) -> Result<kube::Client, Error> {
    Ok(kube::Client::try_from(
        config_from_file(path, program).await?,
    )?)
}
