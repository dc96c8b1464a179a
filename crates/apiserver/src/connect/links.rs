//! Links in pages that come through a proxy of this server: a page of a pod
//! knows nothing of the path that it is shown under, so paths in it that begin
//! with a slash get that path in front, as upstream's proxies do
//! (`k8s.io/apimachinery/pkg/util/proxy`).

use std::convert::Infallible;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use html5gum::Tokenizer;
use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use http_body_util::BodyExt;

use crate::body::{Body, BoxError};

/// Bytes of a page whose links are changed: it is held as a whole meanwhile. A
/// longer one is passed on as it is.
const MAX_PAGE: usize = 4 << 20;

/// Where links are, as HTML has them: attributes of elements.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// The path that something is shown under, without a slash at its end.
pub(super) struct Shown {
    path: String,
    /// Whether the answer has a page to change.
    has_page: bool,
}

impl Shown {
    /// What is asked for under `whole`, of which `rest` is passed on.
    pub(super) fn new(method: &Method, whole: &str, rest: &str) -> Self {
        let rest = rest.split('?').next().unwrap_or_default();
        let path = whole.strip_suffix(rest).unwrap_or(whole);
        Self {
            path: path.trim_end_matches('/').to_owned(),
            has_page: *method != Method::HEAD,
        }
    }

    /// Tells the backend where it is shown, and asks it for what can be read
    /// here.
    pub(super) fn announce(&self, headers: &mut HeaderMap, rest: &str) {
        headers.remove(ACCEPT_ENCODING);
        let host = headers.get(HOST).cloned();
        let rest = rest.split('?').next().unwrap_or_default();
        let told = [
            (
                "x-forwarded-uri",
                HeaderValue::try_from(format!("{}{rest}", self.path)).ok(),
            ),
            ("x-forwarded-host", host),
            ("x-forwarded-proto", Some(HeaderValue::from_static("https"))),
        ];
        for (name, value) in told {
            if let Some(value) = value {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }

    /// The answer of the backend at `authority` with its links changed.
    pub(super) async fn answer(&self, response: Response<Body>, authority: &str) -> Response<Body> {
        let (mut parts, body) = response.into_parts();
        if let Some(location) = parts.headers.get(LOCATION)
            && let Some(changed) = self.location(location, authority)
        {
            parts.headers.insert(LOCATION, changed);
        }
        let page = self.has_page && is_page(&parts.headers);
        if !page || !self.is_plain() {
            return Response::from_parts(parts, body);
        }
        parts.headers.remove(CONTENT_LENGTH);
        let body = match held(body).await {
            Ok(page) => Body::full(self.page(&page)),
            Err(body) => body,
        };
        Response::from_parts(parts, body)
    }

    /// Where a redirect leads to here, if it leads to the backend itself.
    fn location(&self, location: &HeaderValue, authority: &str) -> Option<HeaderValue> {
        let text = location.to_str().ok()?;
        let own = ["http://", "https://"].iter().find_map(|scheme| {
            let path = text.strip_prefix(scheme)?.strip_prefix(authority)?;
            (path.is_empty() || path.starts_with('/')).then_some(path)
        });
        let path = own.unwrap_or(text);
        if own.is_none() && !self.leads_out(path.as_bytes()) {
            return None;
        }
        HeaderValue::try_from(format!("{}{path}", self.path)).ok()
    }

    /// The page with the path in front of what begins with a slash.
    fn page(&self, page: &[u8]) -> Bytes {
        let mut changed = Vec::with_capacity(page.len() + page.len() / 16);
        let mut done = 0;
        for link in links(page) {
            if self.leads_out(&page[link.clone()]) {
                changed.extend_from_slice(&page[done..link.start]);
                changed.extend_from_slice(self.path.as_bytes());
                done = link.start;
            }
        }
        changed.extend_from_slice(&page[done..]);
        changed.into()
    }

    /// True for the path of a link that would leave what is shown.
    fn leads_out(&self, link: &[u8]) -> bool {
        link.starts_with(b"/")
            && !link.starts_with(b"//")
            && !link.starts_with(self.path.as_bytes())
    }

    /// True if the path can stand in a page as it is: names of objects, schemes
    /// and ports are made of nothing else.
    fn is_plain(&self) -> bool {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:/".contains(c);
        self.path.chars().all(plain)
    }
}

fn is_page(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind
        .and_then(|kind| kind.split(';').next())
        .unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("text/html") && !headers.contains_key(CONTENT_ENCODING)
}

/// All of a body, or a body of what was read and what follows.
async fn held(mut body: Body) -> Result<Bytes, Body> {
    let mut page = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let broken = match frame {
            Ok(frame) => {
                if let Ok(data) = frame.into_data() {
                    page.extend_from_slice(&data);
                }
                None
            }
            Err(error) => Some(error),
        };
        if broken.is_some() || page.len() > MAX_PAGE {
            let read = stream::iter([Ok::<_, BoxError>(page.freeze())]);
            let end = stream::iter(broken.map(Err));
            let rest = body.into_data_stream();
            return Err(Body::stream(read.chain(end).chain(rest)));
        }
    }
    Ok(page.freeze())
}

/// Where the links of a page are, in order.
fn links(page: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut attributes: &[&str] = &[];
    let mut is_link = false;
    let mut emitter = CallbackEmitter::new(
        |event: CallbackEvent<'_>, span: html5gum::Span<usize>| -> Option<Infallible> {
            match event {
                CallbackEvent::OpenStartTag { name } => {
                    let known = LINKS.iter().find(|(element, _)| element.as_bytes() == name);
                    attributes = known.map_or(&[], |(_, attributes)| attributes);
                    is_link = false;
                }
                CallbackEvent::AttributeName { name } => {
                    is_link = attributes.iter().any(|link| link.as_bytes() == name);
                }
                CallbackEvent::AttributeValue { .. } if is_link => found.push(span.start..span.end),
                CallbackEvent::EndTag { .. } => attributes = &[],
                _ => {}
            }
            None
        },
    );
    // Scripts and the like hold no elements.
    emitter.naively_switch_states(true);
    let Ok(()) = Tokenizer::new_with_emitter(page, emitter).finish();
    found.retain(|link: &Range<usize>| page.get(link.clone()).is_some());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/api/v1/namespaces/n/pods/http:p:80/proxy";

    fn shown() -> Shown {
        Shown::new(&Method::GET, &format!("{PATH}/a/b"), "/a/b?c=d")
    }

    #[test]
    fn the_path_is_what_comes_before_the_rest() {
        assert_eq!(shown().path, PATH);
        let root = Shown::new(&Method::GET, &format!("{PATH}/"), "/");
        assert_eq!(root.path, PATH);
        let root = Shown::new(&Method::GET, PATH, "/");
        assert_eq!(root.path, PATH);
    }

    #[test]
    fn links_that_lead_out_get_the_path_in_front() {
        for (page, changed) in [
            (
                r#"<a href="/rewriteme">test</a>"#,
                r#"<a href="PATH/rewriteme">test</a>"#,
            ),
            ("<a class=x href=/a>/a</a>", "<a class=x href=PATH/a>/a</a>"),
            (
                "<IMG alt='' SRC='/a?b=c&amp;d#e'/>",
                "<IMG alt='' SRC='PATH/a?b=c&amp;d#e'/>",
            ),
            (
                "<p>é<link rel=x href = \"/s.css\" >",
                "<p>é<link rel=x href = \"PATH/s.css\" >",
            ),
            (
                "<form action=/go><input formaction='/x' value='/y'>",
                "<form action=PATH/go><input formaction='PATH/x' value='/y'>",
            ),
            (
                "<script src=/s.js>'<a href=\"/x\">'</script><a href=/>",
                "<script src=PATH/s.js>'<a href=\"/x\">'</script><a href=PATH/>",
            ),
            (
                "<!-- <a href=\"/x\"> --><video poster=/p src=/v>",
                "<!-- <a href=\"/x\"> --><video poster=PATH/p src=PATH/v>",
            ),
        ] {
            let page = shown().page(page.as_bytes());
            let expected = changed.replace("PATH", PATH);
            assert_eq!(String::from_utf8_lossy(&page), expected);
        }
        for same in [
            "",
            "plain /text",
            "<a href=relative><a href='//host/x'><a href='http://host/x'><a href=''><a href>",
            "<a title=\"/x\"><p href=\"/x\">",
            "<a href=\"PATH/x\">",
            "</a href=\"/x\"><a href=\"/unclosed",
        ] {
            let same = same.replace("PATH", PATH);
            assert_eq!(shown().page(same.as_bytes()), same);
        }
    }

    #[test]
    fn redirects_of_the_backend_stay_under_the_path() {
        let location = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            let changed = shown().location(&value, "10.1.2.3:80")?;
            Some(changed.to_str().unwrap().replace(PATH, "PATH"))
        };
        for (from, to) in [
            ("/login?next=/", Some("PATH/login?next=/")),
            ("http://10.1.2.3:80/login", Some("PATH/login")),
            ("https://10.1.2.3:80", Some("PATH")),
            ("http://10.1.2.3:8080/login", None),
            ("https://example.com/", None),
            ("//example.com/", None),
            ("login", None),
        ] {
            assert_eq!(location(from).as_deref(), to, "{from}");
        }
    }

    #[tokio::test]
    async fn only_pages_are_held_and_those_that_are_too_long_pass() {
        let answer = |kind: &str, body: Vec<u8>| {
            let mut response = Response::new(Body::full(body));
            let kind = HeaderValue::from_str(kind).unwrap();
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        };
        let read = async |response: Response<Body>| {
            let response = shown().answer(response, "10.1.2.3:80").await;
            response.into_body().read(MAX_PAGE * 2).await.unwrap()
        };
        let link = b"<a href=/x>".to_vec();
        let page = read(answer("text/html; charset=utf-8", link.clone())).await;
        assert_eq!(page, format!("<a href={PATH}/x>"));
        assert_eq!(read(answer("text/plain", link.clone())).await, link);
        let mut long = link;
        long.resize(MAX_PAGE + 1, b' ');
        assert_eq!(read(answer("text/html", long.clone())).await, long);
    }
}
