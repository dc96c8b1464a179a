//! The paths that describe the server: discovery and OpenAPI.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_machinery::schema::Schema;
use coracle_machinery::{ApiError, GroupVersion, Reason};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use serde_json::Value;

use crate::aggregation::Aggregation;
use crate::body::{Body, error_response};
use crate::discovery::{self, Elsewhere, Form};
use crate::hooks::{RequestContext, Route};
use crate::kind::Kind;
use crate::openapi;
use crate::registry::Registry;

/// Finds the schema of a kind.
pub type FindSchema = Arc<dyn Fn(&Kind) -> Option<Schema> + Send + Sync>;

/// Answers `/api`, `/apis`, `/openapi` and what lies below, from the registry
/// as it is at that moment. Nothing is kept between requests: clients cache
/// these documents themselves and send their validators.
pub struct Documents {
    registry: Arc<Registry>,
    schema_of: FindSchema,
    aggregation: Option<Arc<Aggregation>>,
}

impl Documents {
    /// Documents about the kinds of `registry`. `schema_of` finds the schemas
    /// of custom kinds; built-in kinds need none.
    pub fn new(registry: Arc<Registry>, schema_of: FindSchema) -> Self {
        Self {
            registry,
            schema_of,
            aggregation: None,
        }
    }

    /// Tells of what other servers serve as well.
    #[must_use]
    pub fn aggregating(mut self, aggregation: Arc<Aggregation>) -> Self {
        self.aggregation = Some(aggregation);
        self
    }

    fn kinds(&self) -> Vec<Arc<Kind>> {
        let all = self.registry.all();
        all.iter().map(|r| Arc::clone(&r.kind)).collect()
    }

    /// The document at `path`, `None` if there is none.
    fn document(&self, context: &RequestContext, request: &Request<Body>) -> Option<Document> {
        let headers = request.headers();
        let path = context.info.path.trim_matches('/');
        let parts: Vec<&str> = path.split('/').collect();
        let accept = accept(headers);
        let form = Form::negotiate(accept);
        let kinds = || self.kinds();
        let remotes = self.aggregation.as_ref().map(|a| a.all());
        let remotes = remotes.iter().flat_map(|all| all.iter());
        let elsewhere: Vec<&Elsewhere> = remotes.map(|r| &r.listed).collect();
        let plain = |value| Some(Document::Json(value));
        match parts.as_slice() {
            [""] => plain(discovery::paths(&kinds(), &elsewhere)),
            ["api" | "apis"] if form != Form::Plain => {
                let core = parts == ["api"];
                Some(Document::Aggregated(
                    discovery::aggregated(&kinds(), &elsewhere, form, core),
                    form,
                ))
            }
            ["api"] => plain(discovery::core_versions(host(request))),
            ["apis"] => plain(discovery::group_list(&kinds(), &elsewhere)),
            ["api", version] => plain(discovery::resource_list(&kinds(), "", version)?),
            ["apis", group] => plain(discovery::group(&kinds(), &elsewhere, group)?),
            ["apis", group, version] => plain(discovery::resource_list(&kinds(), group, version)?),
            ["openapi", "v2"] if takes_protobuf(accept) => {
                let schema_of = |kind: &Kind| self.schema(kind);
                let document = openapi::v2(&kinds(), &schema_of);
                Some(Document::Protobuf(openapi::protobuf::encode(&document)))
            }
            ["openapi", ..] if !takes_json(accept) => Some(Document::NotAcceptable),
            ["openapi", "v2"] => {
                let schema_of = |kind: &Kind| self.schema(kind);
                plain(openapi::v2(&kinds(), &schema_of))
            }
            ["openapi", "v3"] => {
                let schema_of = |kind: &Kind| self.schema(kind);
                plain(openapi::v3_index(&kinds(), &elsewhere, &schema_of))
            }
            ["openapi", "v3", rest @ ..] => {
                let gv = openapi::parse_v3_path(&rest.join("/"))?;
                self.v3(context, &gv)
            }
            _ => None,
        }
    }

    fn v3(&self, context: &RequestContext, gv: &GroupVersion) -> Option<Document> {
        let schema_of = |kind: &Kind| self.schema(kind);
        let document = openapi::v3(&self.kinds(), &schema_of, gv)?;
        // The hash in the address names this very content.
        Some(if context.query.get("hash").is_some() {
            Document::Immutable(document)
        } else {
            Document::Json(document)
        })
    }

    fn schema(&self, kind: &Kind) -> Option<Schema> {
        let own = kind.strategy.schema();
        own.or_else(|| openapi::builtin_schema(kind))
            .or_else(|| (self.schema_of)(kind))
    }
}

enum Document {
    Json(Value),
    Immutable(Value),
    Aggregated(Value, Form),
    Protobuf(Vec<u8>),
    NotAcceptable,
}

fn accept(headers: &HeaderMap) -> &str {
    let value = headers.get(ACCEPT).and_then(|v| v.to_str().ok());
    value.unwrap_or("*/*")
}

/// The address that the client used: HTTP/2 has it in the target.
fn host(request: &Request<Body>) -> &str {
    if let Some(authority) = request.uri().authority() {
        return authority.as_str();
    }
    let value = request.headers().get(HOST);
    value.and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// True if the client wants the document as protobuf: it is what it names
/// first.
fn takes_protobuf(accept: &str) -> bool {
    let first = accept.split([',', ';']).next().unwrap_or_default().trim();
    openapi::protobuf::MEDIA_TYPES.contains(&first)
}

/// True if the client reads JSON.
fn takes_json(accept: &str) -> bool {
    accept.split(',').any(|part| {
        let media = part.split(';').next().unwrap_or_default().trim();
        matches!(media, "" | "*/*" | "application/*" | "application/json")
    })
}

#[async_trait]
impl Route for Documents {
    async fn route(
        &self,
        context: &RequestContext,
        request: Request<Body>,
    ) -> Result<Response<Body>, Request<Body>> {
        if !matches!(context.info.verb.as_str(), "get" | "head") {
            return Err(request);
        }
        let Some(document) = self.document(context, &request) else {
            return Err(request);
        };
        Ok(respond(document, request.headers()))
    }
}

fn respond(document: Document, headers: &HeaderMap) -> Response<Body> {
    let (bytes, content_type, keep) = match document {
        Document::NotAcceptable => {
            let message = "only the following media types are accepted: application/json";
            return error_response(&ApiError::new(Reason::NotAcceptable, message));
        }
        Document::Json(value) => (value.to_string().into_bytes(), "application/json", false),
        Document::Immutable(value) => (value.to_string().into_bytes(), "application/json", true),
        Document::Aggregated(value, form) => {
            (value.to_string().into_bytes(), form.content_type(), false)
        }
        Document::Protobuf(bytes) => (bytes, openapi::protobuf::CONTENT_TYPE, false),
    };
    let etag = discovery::etag(&bytes);
    let known = headers.get(IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let unchanged = known.is_some_and(|known| known.split(',').any(|tag| tag.trim() == etag));
    let mut response = Response::new(if unchanged {
        Body::empty()
    } else {
        Body::full(bytes)
    });
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let cache = if keep {
        "public, immutable"
    } else {
        "no-cache, private"
    };
    let out = response.headers_mut();
    out.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    out.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    out.insert(VARY, HeaderValue::from_static("Accept"));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        out.insert(ETAG, etag);
    }
    response
}
