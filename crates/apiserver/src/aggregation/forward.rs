//! Passing requests on to the server behind an APIService.

use std::sync::Arc;
use std::time::Duration;

use coracle_machinery::{ApiError, Reason};
use http::header::LOCATION;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};

use super::{Aggregation, Remote};
use crate::access::UserInfo;
use crate::body::{Body, with_body};
use crate::connect::{Backend, percent_encode_path};
use crate::decode::MAX_BODY;
use crate::hooks::RequestContext;

/// How long a server may take to begin its answer, watches and the like
/// excepted: as upstream's `--request-timeout`.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// What names the caller. None of these is taken over from a client.
const IDENTITY_HEADERS: &str = "x-remote-";

impl Aggregation {
    /// Answers with what the other server says.
    pub(crate) async fn forward(
        &self,
        remote: &Remote,
        context: &RequestContext,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        if !remote.available {
            return Ok(plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "service unavailable\n",
            ));
        }
        let busy = || ApiError::too_many_requests("too many requests, please try again later.", 1);
        let permit = Arc::clone(&remote.requests)
            .try_acquire_owned()
            .map_err(|_| busy())?;
        if http_body::Body::size_hint(request.body()).lower() > MAX_BODY as u64 {
            return Err(ApiError::new(
                Reason::RequestEntityTooLarge,
                format!("Request entity too large: limit is {MAX_BODY}"),
            ));
        }
        identify(&context.user, request.headers_mut())?;
        // What was authorised is what is asked for: the path as it was read.
        let mut path = String::new();
        for part in context.info.path.split('/').skip(1) {
            path.push('/');
            percent_encode_path(part, &mut path);
        }
        if let Some(query) = request.uri().query() {
            path.push('?');
            path.push_str(query);
        }
        let request = request.map(|body| Body::wrap(Limited::new(body, MAX_BODY)));
        let backend = self.backend(remote).await?;
        let answer = backend.forward(request, &path);
        let response = if context.info.long_running() {
            answer.await?
        } else {
            let late = || ApiError::new(Reason::Timeout, "request did not complete within 60s");
            let answer = tokio::time::timeout(ANSWER_TIMEOUT, answer);
            answer.await.map_err(|_| late())??
        };
        if response.status().is_redirection() && response.headers().contains_key(LOCATION) {
            let text = "the backend attempted to redirect this request, which is not permitted";
            return Ok(plain(StatusCode::BAD_GATEWAY, text));
        }
        // The request counts until the last byte of its answer is read.
        Ok(response.map(|body| {
            Body::wrap(body.map_frame(move |frame| {
                let _under_way = &permit;
                frame
            }))
        }))
    }

    /// A connection to be made to the server behind an APIService.
    pub(super) async fn backend(&self, remote: &Remote) -> Result<Backend, ApiError> {
        let unavailable = |why: String| ApiError::new(Reason::ServiceUnavailable, why);
        let tls = remote.tls.clone().map_err(unavailable)?;
        let found = self.resolve.resolve(&remote.endpoint).await;
        let address = found.map_err(unavailable)?;
        Ok(Backend {
            address: address.ip(),
            port: address.port(),
            tls: Some(tls),
            name: Some(remote.endpoint.server_name().to_owned()),
        })
    }
}

/// Names the caller in the headers, and nobody else.
///
/// # Errors
/// If a name cannot be put into a header.
pub(super) fn identify(user: &UserInfo, headers: &mut HeaderMap) -> Result<(), ApiError> {
    let told: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(IDENTITY_HEADERS))
        .cloned()
        .collect();
    for name in told {
        headers.remove(name);
    }
    let value = |text: &str| {
        HeaderValue::from_bytes(text.as_bytes())
            .map_err(|_| ApiError::internal("the name of the user cannot be passed on"))
    };
    headers.insert("x-remote-user", value(&user.username)?);
    if !user.uid.is_empty() {
        headers.insert("x-remote-uid", value(&user.uid)?);
    }
    for group in &user.groups {
        headers.append("x-remote-group", value(group)?);
    }
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", escaped(key));
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| ApiError::internal("a fact about the user cannot be passed on"))?;
        for text in values {
            headers.append(name.clone(), value(text)?);
        }
    }
    Ok(())
}

/// A key as the name of a header has it: what cannot stand there in percent
/// notation.
fn escaped(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    with_body(status, "text/plain; charset=utf-8", Body::full(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_caller_is_named() {
        let mut headers = HeaderMap::new();
        for name in [
            "x-remote-user",
            "x-remote-group",
            "x-remote-extra-a",
            "x-remote-uid",
        ] {
            headers.insert(HeaderName::from_static(name), "forged".parse().unwrap());
        }
        let user = UserInfo {
            extra: [(
                "example.com/role".to_owned(),
                vec!["a".to_owned(), "b".to_owned()],
            )]
            .into(),
            ..UserInfo::authenticated("jürgen", &["dev"])
        };
        identify(&user, &mut headers).unwrap();
        let all = |name: &str| -> Vec<&[u8]> {
            headers
                .get_all(name)
                .iter()
                .map(HeaderValue::as_bytes)
                .collect()
        };
        assert_eq!(all("x-remote-user"), ["jürgen".as_bytes()]);
        assert_eq!(
            all("x-remote-group"),
            [&b"dev"[..], b"system:authenticated"]
        );
        assert_eq!(all("x-remote-extra-example.com%2Frole"), [b"a", b"b"]);
        assert!(all("x-remote-extra-a").is_empty() && all("x-remote-uid").is_empty());
        let user = UserInfo::authenticated("a\r\nx-remote-group: system:masters", &[]);
        assert!(identify(&user, &mut HeaderMap::new()).is_err());
    }
}
