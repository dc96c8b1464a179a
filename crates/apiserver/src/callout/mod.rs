//! Calls to services that extend this server: one JSON document there, one
//! back. Admission and conversion webhooks are made of them.

mod endpoint;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use coracle_machinery::object::text;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub use endpoint::{ClusterNetwork, Endpoint, Resolve};

use crate::sync::lock;

/// Bytes of an answer: an object of the greatest size, and as much again for
/// a patch in base64 beside it.
const MAX_ANSWER: usize = 8 << 20;
/// TLS settings kept, one for each bundle of authorities. Configurations have
/// one bundle each; beyond, the settings are made anew.
const MAX_TLS: usize = 64;

/// Why a call brought no answer.
#[derive(Debug)]
pub struct CalloutError(String);

impl fmt::Display for CalloutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CalloutError {}

fn failure(why: impl fmt::Display) -> CalloutError {
    CalloutError(why.to_string())
}

/// Calls the services that a `clientConfig` names.
pub struct Callouts {
    resolve: Arc<dyn Resolve>,
    /// By bundle.
    tls: Mutex<HashMap<String, Arc<ClientConfig>>>,
}

impl Callouts {
    /// Calls over a network.
    pub fn new(resolve: Arc<dyn Resolve>) -> Self {
        Self {
            resolve,
            tls: Mutex::default(),
        }
    }

    /// How it finds addresses.
    pub fn resolver(&self) -> Arc<dyn Resolve> {
        Arc::clone(&self.resolve)
    }

    /// Posts a document to the service of a `clientConfig` (of a webhook or
    /// of a conversion) and reads the one that comes back.
    ///
    /// # Errors
    /// If there is no connection, no success or no JSON within the time.
    pub async fn post(
        &self,
        config: &Value,
        document: &Value,
        timeout: Duration,
    ) -> Result<Value, CalloutError> {
        let (endpoint, path) = Endpoint::of(config).map_err(CalloutError)?;
        let path = with_timeout(&path, timeout);
        let shown = format!("https://{}{path}", endpoint.authority());
        let told = |why: &dyn fmt::Display| failure(format!("Post \"{shown}\": {why}"));
        let call = self.call(config, &endpoint, &path, document);
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(told(&error)),
            Err(_) => Err(told(&"context deadline exceeded")),
        }
    }

    async fn call(
        &self,
        config: &Value,
        endpoint: &Endpoint,
        path: &str,
        document: &Value,
    ) -> Result<Value, CalloutError> {
        let tls = self.tls_config(text(config, "/caBundle"))?;
        let address = self.resolve.resolve(endpoint).await.map_err(CalloutError)?;
        let stream = TcpStream::connect(address).await.map_err(failure)?;
        let _ = stream.set_nodelay(true);
        let name = ServerName::try_from(endpoint.server_name().to_owned()).map_err(failure)?;
        let stream = TlsConnector::from(tls)
            .connect(name, stream)
            .await
            .map_err(|error| failure(format!("tls: {error}")))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(failure)?;
        let connection = tokio::spawn(connection);
        let answer = async {
            let request = request(endpoint, path, document)?;
            let response = sender.send_request(request).await.map_err(failure)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect();
            let bytes = body.await.map_err(failure)?.to_bytes();
            if !status.is_success() {
                return Err(failure(format!("unexpected status {status}")));
            }
            // Whoever chose the address learns nothing of what answers there but
            // that it speaks another language.
            crate::decode::value(&bytes).map_err(|_| failure("the answer is no JSON"))
        }
        .await;
        connection.abort();
        answer
    }

    fn tls_config(&self, bundle: &str) -> Result<Arc<ClientConfig>, CalloutError> {
        if let Some(config) = lock(&self.tls).get(bundle) {
            return Ok(config.clone());
        }
        let pem = read_bundle(bundle)?;
        let config = coracle_pki::tls::client_config(&pem, None).map_err(failure)?;
        let mut all = lock(&self.tls);
        if all.len() >= MAX_TLS {
            all.clear();
        }
        all.insert(bundle.to_owned(), config.clone());
        Ok(config)
    }
}

/// The authorities of a `caBundle`.
///
/// # Errors
/// If it names none.
pub(crate) fn read_bundle(bundle: &str) -> Result<String, CalloutError> {
    STANDARD
        .decode(bundle)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .filter(|pem| !pem.is_empty())
        .ok_or_else(|| failure("x509: certificate signed by unknown authority"))
}

/// The path with the time that the service has.
fn with_timeout(path: &str, timeout: Duration) -> String {
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("{path}{separator}timeout={}s", timeout.as_secs())
}

fn request(
    endpoint: &Endpoint,
    path: &str,
    document: &Value,
) -> Result<Request<Full<Bytes>>, CalloutError> {
    let path: PathAndQuery = path.parse().map_err(failure)?;
    let mut request = Request::new(Full::new(Bytes::from(document.to_string())));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from(path);
    let json = HeaderValue::from_static("application/json");
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, json.clone());
    headers.insert(ACCEPT, json);
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static("kube-apiserver-admission"),
    );
    let host = HeaderValue::try_from(endpoint.authority()).map_err(failure)?;
    headers.insert(HOST, host);
    Ok(request)
}
