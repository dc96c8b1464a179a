//! A request as webhooks and policies see it: the `request` of an
//! AdmissionReview, in the version that they asked for.

use coracle_machinery::GroupVersionKind;
use coracle_machinery::object;
use coracle_machinery::schema::{self, FieldValidation};
use coracle_machinery::{ApiError, schema::Schema};
use serde_json::{Value, json};

use super::matching::{namespace_of, operation_name};
use crate::access::UserInfo;
use crate::hooks::AdmissionRequest;
use crate::registry::Resource;
use crate::special::{scale_of, scaled};

/// The kind of what a request carries: that of the subresource, if it has one
/// of its own.
fn body_kind(resource: &Resource, subresource: &str) -> GroupVersionKind {
    let mut all = resource.kind.subresources.iter();
    let own = all.find(|s| s.name == subresource);
    own.and_then(|s| s.kind.clone())
        .unwrap_or_else(|| resource.kind.gvk.clone())
}

/// The schema of what a request carries.
fn body_schema(resource: &Resource, subresource: &str) -> Option<Schema> {
    let kind = body_kind(resource, subresource);
    if kind == resource.kind.gvk {
        resource.schema()
    } else {
        schema::builtin().kind(&kind)
    }
}

/// True if the object is of its subresource's kind already.
fn has_own_form(resource: &Resource, subresource: &str) -> bool {
    !subresource.is_empty() && body_kind(resource, subresource) != resource.kind.gvk
}

/// An object of a request in a version of its resource.
pub(super) fn to_version(object: &Value, resource: &Resource, subresource: &str) -> Value {
    if subresource == "scale" {
        return scale_of(resource, &resource.to_served(object.clone()));
    }
    if has_own_form(resource, subresource) {
        return object.clone();
    }
    resource.to_served(object.clone())
}

/// What became of an object in a version, back in the stored form. Fields
/// that its schema does not know are dropped.
///
/// # Errors
/// If the result is not an object of the kind.
pub(super) fn from_version(
    changed: Value,
    before: &Value,
    resource: &Resource,
    subresource: &str,
) -> Result<Value, ApiError> {
    let schema = body_schema(resource, subresource);
    let decoded = schema::decode_value(changed, schema.as_ref(), FieldValidation::Ignore)?;
    if subresource == "scale" {
        let parent = resource.to_served(before.clone());
        return Ok(resource.to_stored(scaled(resource, parent, &decoded.object)?));
    }
    if has_own_form(resource, subresource) {
        return Ok(decoded.object);
    }
    Ok(resource.to_stored(decoded.object))
}

/// The `request` of a review. `resource` is the version that was matched.
pub(super) fn review_request(
    request: &AdmissionRequest<'_>,
    resource: &Resource,
    uid: &str,
) -> Value {
    let seen = |object: &Value| to_version(object, resource, request.subresource);
    let name = match request.name {
        "" => request.object.as_ref().map_or("", object::name),
        name => name,
    };
    let mut review = json!({
        "uid": uid,
        "kind": gvk(&body_kind(resource, request.subresource)),
        "resource": gvr(resource),
        "requestKind": gvk(&body_kind(request.resource, request.subresource)),
        "requestResource": gvr(request.resource),
        "operation": operation_name(request.operation),
        "userInfo": user(request.user),
        "object": request.object.as_ref().map(seen),
        "oldObject": request.old.map(seen),
        "dryRun": request.dry_run,
        "options": request.options,
    });
    for (key, value) in [
        ("name", name),
        ("namespace", namespace_of(request)),
        ("subResource", request.subresource),
        ("requestSubResource", request.subresource),
    ] {
        if !value.is_empty() {
            review[key] = value.into();
        }
    }
    review
}

fn gvk(gvk: &GroupVersionKind) -> Value {
    json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
}

fn gvr(resource: &Resource) -> Value {
    json!({
        "group": resource.group_resource.group,
        "version": resource.kind.gvk.version,
        "resource": resource.group_resource.resource,
    })
}

fn user(user: &UserInfo) -> Value {
    let mut value = json!({"username": user.username, "groups": user.groups});
    if !user.uid.is_empty() {
        value["uid"] = user.uid.clone().into();
    }
    if !user.extra.is_empty() {
        value["extra"] = json!(user.extra);
    }
    value
}
