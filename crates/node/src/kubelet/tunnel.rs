//! Byte tunnels: a client's upgrade request is passed on to the runtime's
//! streaming server, and after its 101 nobody looks at the bytes any more.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Body, Failure};

/// Passes an upgrade request on to `url` and joins the two connections. An
/// answer other than 101 goes back as it is.
pub(super) async fn pass(
    mut request: Request<Incoming>,
    url: &str,
) -> Result<Response<Body>, Failure> {
    if !request.headers().contains_key(header::UPGRADE) {
        return Err(Failure(
            StatusCode::BAD_REQUEST,
            "Upgrade request required".to_owned(),
        ));
    }
    let (address, path) = target(url)?;
    let failed = |error: &dyn std::fmt::Display| {
        Failure(
            StatusCode::BAD_GATEWAY,
            format!("the runtime's streaming server: {error}"),
        )
    };
    let stream = TcpStream::connect(&address).await.map_err(|e| failed(&e))?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed(&e))?;
    tokio::spawn(connection.with_upgrades());
    let mut onward = Request::builder()
        .method(request.method().clone())
        .uri(path)
        .header(header::HOST, &address)
        .body(Empty::<Bytes>::new())
        .map_err(|e| failed(&e))?;
    copy_headers(request.headers(), onward.headers_mut());
    let response = sender.send_request(onward).await.map_err(|e| failed(&e))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response.map(|body| body.map_err(std::io::Error::other).boxed()));
    }
    let mut answer = Response::new(super::full(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = response.headers().clone();
    let near = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (near, far) = match tokio::try_join!(near, hyper::upgrade::on(response)) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "upgrade not completed");
                return;
            }
        };
        let (mut near, mut far) = (TokioIo::new(near), TokioIo::new(far));
        if let Err(error) = tokio::io::copy_bidirectional(&mut near, &mut far).await {
            tracing::debug!(%error, "tunnel ended");
        }
    });
    Ok(answer)
}

/// Address and path of the streaming server's URL.
fn target(url: &str) -> Result<(String, String), Failure> {
    let bad = || {
        let text = format!("the runtime gave an unusable streaming address: {url}");
        Failure(StatusCode::BAD_GATEWAY, text)
    };
    let uri: Uri = url.parse().map_err(|_| bad())?;
    let authority = uri.authority().ok_or_else(bad)?;
    let port = authority.port_u16().unwrap_or(80);
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    Ok((format!("{}:{port}", authority.host()), path.to_owned()))
}

/// The headers that negotiate the upgrade, with all their values.
fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        let text = name.as_str();
        // Not the origin: it would be checked against the runtime's address.
        let wanted = matches!(text, "connection" | "upgrade" | "x-stream-protocol-version")
            || text.starts_with("sec-websocket-");
        if wanted {
            to.append(name.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let (address, path) = target("http://127.0.0.1:4000/exec/abc").unwrap();
        assert_eq!(
            (address.as_str(), path.as_str()),
            ("127.0.0.1:4000", "/exec/abc")
        );
        assert!(target("/exec/abc").is_err());
    }

    #[test]
    fn only_upgrade_headers_pass() {
        let mut from = HeaderMap::new();
        for (name, value) in [
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ("x-stream-protocol-version", "v3.channel.k8s.io"),
            ("authorization", "secret"),
            ("sec-websocket-key", "k"),
        ] {
            from.append(http::HeaderName::from_static(name), value.parse().unwrap());
        }
        let mut to = HeaderMap::new();
        copy_headers(&from, &mut to);
        assert_eq!(to.get_all("x-stream-protocol-version").iter().count(), 2);
        assert!(to.contains_key("sec-websocket-key") && !to.contains_key("authorization"));
    }
}
