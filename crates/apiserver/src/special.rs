//! Subresources with rules of their own, and resources that are only
//! commands.

mod bind;
mod evict;
mod narrow;
mod scale;

use coracle_machinery::ApiError;
use http::{Response, StatusCode};
use serde_json::json;

use crate::body::{Body, json_value};
use crate::dispatch::{Call, not_allowed};
use crate::write::Part;

pub(crate) use narrow::narrowing;
pub(crate) use scale::{scale_of, scaled};

/// Answers a request to a subresource other than `status`.
///
/// # Errors
/// Those of the subresource.
pub(crate) async fn answer(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let info = &call.context.info;
    match (info.subresource.as_str(), info.verb.as_str()) {
        ("scale", verb) => scale::answer(call, verb, body).await,
        ("binding", "create") => bind::bind(call, call.name(), body).await,
        ("eviction", "create") => evict::evict(call, body).await,
        ("ephemeralcontainers" | "resize", _) => call.object(body, Part::Checked).await,
        ("finalize" | "approval", _) => call.object(body, Part::Special).await,
        _ => Err(not_allowed()),
    }
}

/// Answers a create of a resource that is not stored.
///
/// # Errors
/// Those of the command; `MethodNotAllowed` for one that nobody serves.
pub(crate) async fn create(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let resource = &call.resource.group_resource;
    if resource.group.is_empty() && resource.resource == "bindings" {
        return bind::bind(call, "", body).await;
    }
    Err(not_allowed())
}

/// The Status of a command that was carried out.
fn done() -> Response<Body> {
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "code": 201,
    });
    json_value(StatusCode::CREATED, &status)
}
