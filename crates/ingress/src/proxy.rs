//! A request's way: from its host name and path to an endpoint, and the answer
//! back.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::body::{BoxError, Shared, Timed};
use crate::path;
use crate::table::{Table, Target};

/// The body of an answer.
pub type Body = BoxBody<Bytes, BoxError>;

/// How long an endpoint may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an endpoint may take to begin its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection to an endpoint is kept for the next request.
const KEEP_IDLE: Duration = Duration::from_secs(60);
/// Most connections to one endpoint that are kept so.
const MAX_IDLE: usize = 32;
/// Most endpoints that are tried for one request.
const MAX_ATTEMPTS: usize = 3;
/// Most bytes of an answer's head.
const MAX_HEAD: usize = 64 * 1024;

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The client's address.
    pub peer: IpAddr,
    /// It came over TLS.
    pub secure: bool,
}

/// Sends requests along the routes of the newest table.
pub struct Proxy {
    table: watch::Receiver<Arc<Table>>,
    client: Client<HttpConnector, Shared>,
}

/// What is answered in the place of an endpoint.
struct Refusal(StatusCode, &'static str);

impl Proxy {
    /// One that looks routes up in what `table` shows.
    pub fn new(table: watch::Receiver<Arc<Table>>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEEP_IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .http1_max_buf_size(MAX_HEAD)
            .set_host(false)
            .build(connector);
        Self { table, client }
    }

    /// The newest table.
    pub fn table(&self) -> Arc<Table> {
        self.table.borrow().clone()
    }

    /// Answers a request.
    ///
    /// # Errors
    /// Never: what cannot be answered well is answered with an error.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        origin: Origin,
    ) -> Result<Response<Body>, Infallible> {
        let answer = self.forward(request, origin).await;
        Ok(answer.unwrap_or_else(|Refusal(status, text)| {
            let body = Full::new(Bytes::from(format!("{text}\n")));
            let mut response = Response::new(body.map_err(|never| match never {}).boxed());
            *response.status_mut() = status;
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, plain);
            response
        }))
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        origin: Origin,
    ) -> Result<Response<Body>, Refusal> {
        if request.method() == Method::CONNECT {
            let text = "this is no proxy for tunnels";
            return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, text));
        }
        let wrong = |text| Refusal(StatusCode::BAD_REQUEST, text);
        let authority = authority(&request).ok_or(wrong("the request names no host"))?;
        let host = authority.host().to_ascii_lowercase();
        let path = path::normal(request.uri().path()).ok_or(wrong("the path cannot be read"))?;
        let table = self.table();
        let found = table.find(host.trim_end_matches('.'), &path);
        let target = found.ok_or(Refusal(StatusCode::NOT_FOUND, "no ingress has this path"))?;
        if target.secured && !origin.secure {
            return redirect(authority.host(), request.uri());
        }
        if target.tunnelled {
            let text = "this host is reached by a connection that asks for its name";
            return Err(Refusal(StatusCode::MISDIRECTED_REQUEST, text));
        }
        let upgrade = websocket(&request);
        let client_side = upgrade.then(|| hyper::upgrade::on(&mut request));
        let (answer, place) = self
            .ask(target, request, &authority, origin, upgrade)
            .await?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let client_side = client_side.ok_or(bad_gateway())?;
            return Ok(switch(client_side, answer, place));
        }
        let (mut parts, body) = answer.into_parts();
        parts.version = Version::default();
        remove_hop_by_hop(&mut parts.headers);
        Ok(Response::from_parts(
            parts,
            Timed::new(body, Some(place)).boxed(),
        ))
    }

    /// The answer of the first endpoint that takes the connection.
    async fn ask(
        &self,
        target: &Target,
        request: Request<Incoming>,
        authority: &Authority,
        origin: Origin,
        upgrade: bool,
    ) -> Result<(Response<Incoming>, OwnedSemaphorePermit), Refusal> {
        let unavailable = |text| Refusal(StatusCode::SERVICE_UNAVAILABLE, text);
        let place = target.backend.places.clone().try_acquire_owned();
        let place = place.map_err(|_| unavailable("the service has too much to do"))?;
        let (mut parts, body) = request.into_parts();
        prepare(&mut parts.headers, authority, origin, upgrade)
            .ok_or(Refusal(StatusCode::BAD_REQUEST, "a header cannot be read"))?;
        let rest = parts.uri.path_and_query().cloned();
        let rest = rest.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let body = Shared::new(Timed::new(body, None));
        let mut last = unavailable("the service has no endpoints");
        for endpoint in target.backend.in_turn().take(MAX_ATTEMPTS) {
            let mut attempt = Request::new(body.clone());
            *attempt.method_mut() = parts.method.clone();
            *attempt.headers_mut() = parts.headers.clone();
            *attempt.uri_mut() = uri(endpoint, rest.clone()).ok_or(bad_gateway())?;
            let answered = tokio::time::timeout(ANSWER_TIMEOUT, self.client.request(attempt));
            match answered.await {
                Ok(Ok(answer)) => return Ok((answer, place)),
                Ok(Err(error)) => {
                    tracing::debug!(%endpoint, %error, "no answer");
                    last = bad_gateway();
                    if !error.is_connect() || body.is_touched() {
                        break;
                    }
                }
                Err(_) => {
                    let text = "the service does not answer";
                    return Err(Refusal(StatusCode::GATEWAY_TIMEOUT, text));
                }
            }
        }
        Err(last)
    }
}

fn bad_gateway() -> Refusal {
    Refusal(StatusCode::BAD_GATEWAY, "the service cannot be reached")
}

/// The host that a request is for, as its client wrote it.
fn authority(request: &Request<Incoming>) -> Option<Authority> {
    let named = match request.uri().authority() {
        // HTTP/2, or a whole address in the request line: it counts.
        Some(authority) => authority.clone(),
        None => {
            let mut hosts = request.headers().get_all(header::HOST).iter();
            let only = hosts.next().filter(|_| hosts.next().is_none())?;
            Authority::try_from(only.as_bytes()).ok()?
        }
    };
    (!named.as_str().contains('@')).then_some(named)
}

fn uri(endpoint: SocketAddr, rest: PathAndQuery) -> Option<Uri> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Authority::try_from(endpoint.to_string()).ok();
    parts.path_and_query = Some(rest);
    Uri::from_parts(parts).ok()
}

/// To the same place over TLS. The method stays.
fn redirect(host: &str, uri: &Uri) -> Result<Response<Body>, Refusal> {
    let rest = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let place = HeaderValue::try_from(format!("https://{host}{rest}"))
        .map_err(|_| Refusal(StatusCode::BAD_REQUEST, "the path cannot be read"))?;
    let empty = Full::new(Bytes::new()).map_err(|never| match never {});
    let mut response = Response::new(empty.boxed());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(header::LOCATION, place);
    Ok(response)
}

/// True if a client wants to speak WebSocket. Other protocols would carry
/// requests past the routes.
fn websocket(request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    let protocol = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok());
    let wanted = tokens(headers, header::CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade"));
    let websocket = protocol.is_some_and(|p| p.eq_ignore_ascii_case("websocket"));
    request.version() == Version::HTTP_11 && wanted && websocket
}

/// The words of a header that is a list.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(str::trim)
}

/// What concerns one connection and not the way from end to end.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, header::CONNECTION)
        .filter_map(|name| HeaderName::try_from(name).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Makes the headers those of a request to an endpoint: what it is told of the
/// client is what was seen, and not what the client says.
fn prepare(
    headers: &mut HeaderMap,
    authority: &Authority,
    origin: Origin,
    upgrade: bool,
) -> Option<()> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // It alone counts, and two readers must not differ about that.
        headers.remove(header::CONTENT_LENGTH);
    }
    remove_hop_by_hop(headers);
    // It has been answered here.
    headers.remove(header::EXPECT);
    for untrusted in [
        "forwarded",
        "x-original-uri",
        "x-forwarded-prefix",
        "x-forwarded-server",
    ] {
        headers.remove(untrusted);
    }
    let (scheme, port) = if origin.secure {
        ("https", "443")
    } else {
        ("http", "80")
    };
    let peer = origin.peer.to_canonical().to_string();
    let host = HeaderValue::from_str(authority.as_str()).ok()?;
    for (name, value) in [
        ("x-forwarded-for", HeaderValue::from_str(&peer).ok()?),
        ("x-real-ip", HeaderValue::from_str(&peer).ok()?),
        ("x-forwarded-host", host.clone()),
        ("x-forwarded-proto", HeaderValue::from_static(scheme)),
        ("x-forwarded-scheme", HeaderValue::from_static(scheme)),
        ("x-scheme", HeaderValue::from_static(scheme)),
        ("x-forwarded-port", HeaderValue::from_static(port)),
    ] {
        headers.insert(HeaderName::from_static(name), value);
    }
    headers.insert(header::HOST, host);
    if upgrade {
        let protocol = HeaderValue::from_static("websocket");
        headers.insert(header::UPGRADE, protocol);
        let connection = HeaderValue::from_static("upgrade");
        headers.insert(header::CONNECTION, connection);
    }
    // HTTP/2 may split them; endpoints of HTTP/1.1 expect one.
    let cookies: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1 {
        let joined = HeaderValue::from_bytes(&cookies.join(&b"; "[..])).ok()?;
        headers.insert(header::COOKIE, joined);
    }
    Some(())
}

/// Answers that the protocol changes, and passes on what both sides say then.
fn switch(
    client_side: hyper::upgrade::OnUpgrade,
    answer: Response<Incoming>,
    place: OwnedSemaphorePermit,
) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::new()).map_err(|n| match n {}).boxed());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.headers().clone();
    tokio::spawn(async move {
        let (client, endpoint) = match tokio::try_join!(client_side, hyper::upgrade::on(answer)) {
            Ok(sides) => sides,
            Err(error) => return tracing::debug!(%error, "the protocol did not change"),
        };
        let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
        let ended = tokio::io::copy_bidirectional(&mut client, &mut endpoint).await;
        if let Err(error) = ended {
            tracing::debug!(%error, "a tunnel broke");
        }
        drop(place);
    });
    response
}

#[cfg(test)]
mod tests;
