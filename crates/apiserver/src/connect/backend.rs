//! One request to a backend over a connection of its own, upgrades included.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use coracle_machinery::{ApiError, Reason};
use http::header::{CONNECTION, HOST, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::body::Body;

/// How long a backend may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Headers that belong to one connection and are never passed on, besides
/// those of an upgrade.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Credentials for this server, which no backend may see.
const CREDENTIALS: &[&str] = &["authorization", "cookie"];

/// Where a request goes.
pub(crate) struct Backend {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// TLS, if the backend speaks it.
    pub tls: Option<Arc<ClientConfig>>,
    /// The name in its certificate, if not the address.
    pub name: Option<String>,
}

impl Backend {
    /// Sends a request on with another path, and answers with what comes back.
    pub(crate) async fn forward(
        &self,
        mut request: Request<Body>,
        path: &str,
    ) -> Result<Response<Body>, ApiError> {
        let client_upgrade =
            wants_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
        let upgrade = request.headers().get(UPGRADE).cloned();
        let (parts, body) = request.into_parts();
        let mut outgoing = Request::new(body);
        *outgoing.method_mut() = parts.method;
        let path = path
            .parse::<PathAndQuery>()
            .map_err(|_| ApiError::bad_request("the path cannot be passed on"))?;
        *outgoing.uri_mut() = Uri::from(path);
        copy_headers(&parts.headers, outgoing.headers_mut());
        outgoing.headers_mut().insert(HOST, self.host_header());
        if let (Some(_), Some(protocol)) = (&client_upgrade, upgrade) {
            outgoing
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            outgoing.headers_mut().insert(UPGRADE, protocol);
        }
        let mut response = self.send(outgoing).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(client) = client_upgrade else {
                return Err(unavailable("the backend switched protocols unasked"));
            };
            let backend = hyper::upgrade::on(&mut response);
            tokio::spawn(tunnel(client, backend));
            return Ok(response.map(|_| Body::empty()));
        }
        let (mut parts, body) = response.into_parts();
        for name in HOP_BY_HOP {
            parts.headers.remove(*name);
        }
        Ok(Response::from_parts(parts, Body::wrap(body)))
    }

    async fn send(
        &self,
        request: Request<Body>,
    ) -> Result<Response<hyper::body::Incoming>, ApiError> {
        let connect = async {
            let stream = TcpStream::connect((self.address, self.port)).await?;
            let _ = stream.set_nodelay(true);
            let Some(tls) = &self.tls else {
                return Ok(Box::new(stream) as Box<dyn Stream>);
            };
            let connector = TlsConnector::from(tls.clone());
            let stream = connector.connect(self.server_name()?, stream).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .map_err(|_| unavailable(format!("no answer from {}:{}", self.address, self.port)))?
            .map_err(|error: std::io::Error| {
                unavailable(format!(
                    "error dialing backend {}:{}: {error}",
                    self.address, self.port
                ))
            })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(unavailable)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to a backend ended");
            }
        });
        sender.send_request(request).await.map_err(unavailable)
    }

    fn server_name(&self) -> std::io::Result<ServerName<'static>> {
        match &self.name {
            None => Ok(ServerName::from(self.address)),
            Some(name) => ServerName::try_from(name.clone()).map_err(std::io::Error::other),
        }
    }

    /// Address and port, as they stand in a URL.
    pub(crate) fn authority(&self) -> String {
        std::net::SocketAddr::new(self.address, self.port).to_string()
    }

    fn host_header(&self) -> HeaderValue {
        HeaderValue::try_from(self.authority()).expect("addresses are printable")
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    let listed = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok());
    headers.contains_key(UPGRADE)
        && listed
            .flat_map(|v| v.split(','))
            .any(|v| v.trim().eq_ignore_ascii_case("upgrade"))
}

fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        let text = name.as_str();
        let private = HOP_BY_HOP.contains(&text)
            || CREDENTIALS.contains(&text)
            || text.starts_with("impersonate-")
            || name == HOST;
        if !private {
            to.append(HeaderName::clone(name), value.clone());
        }
    }
}

/// Copies bytes both ways until either side ends.
async fn tunnel(client: hyper::upgrade::OnUpgrade, backend: hyper::upgrade::OnUpgrade) {
    let (client, backend) = match tokio::try_join!(client, backend) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "an upgrade failed");
            return;
        }
    };
    let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
        tracing::debug!(%error, "an upgraded connection ended");
    }
}

fn unavailable(cause: impl std::fmt::Display) -> ApiError {
    ApiError::new(Reason::ServiceUnavailable, cause.to_string())
}
