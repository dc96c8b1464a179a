//! `scale`: the number of replicas of an object, as `autoscaling/v1`.

use coracle_machinery::object;
use coracle_machinery::schema;
use coracle_machinery::selector::LabelSelector;
use coracle_machinery::{ApiError, FieldError, FieldPath, GroupKind};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::body::{Body, json_value};
use crate::decode::{self, MAX_BODY};
use crate::dispatch::{Call, body_kind, not_allowed};
use crate::negotiate::content_type;
use crate::patch::Patch;
use crate::registry::Resource;
use crate::storage::parse_served;
use crate::write::{Part, meta};

pub(super) async fn answer(
    call: &Call<'_>,
    verb: &str,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let (namespace, name) = (call.namespace(), call.name());
    let resource = &call.resource;
    match verb {
        "get" => {
            let found = call.server.storage.get(resource, namespace, name).await?;
            let kv = found.ok_or_else(|| ApiError::not_found(&resource.group_resource, name))?;
            let object = parse_served(resource, &kv.value, kv.mod_revision)?;
            Ok(json_value(StatusCode::OK, &scale_of(resource, &object)))
        }
        "update" => {
            let mut scale = call.read_own(body).await?;
            meta::claim_namespace(resource, &mut scale, namespace)?;
            meta::claim_name(&mut scale, name)?;
            write(call, "UpdateOptions", &|_| Ok(scale.clone())).await
        }
        "patch" => {
            let form = content_type(&call.headers, true)?;
            let bytes = body.read(MAX_BODY).await?;
            let gvk = body_kind(call.context, resource);
            let patch = Patch::read_by(form, &bytes, schema::builtin().kind(&gvk))?;
            let options = call
                .options("PatchOptions")?
                .for_patch(&call.context.query, false)?;
            write(call, "PatchOptions", &|current| {
                let mut scale = patch.apply(current, &options, "scale", &|text| {
                    call.context.warn(text);
                })?;
                decode::claim_kind(&mut scale, &gvk)?;
                Ok(scale)
            })
            .await
        }
        _ => Err(not_allowed()),
    }
}

/// Writes the number that `make` yields out of the present scale.
async fn write(
    call: &Call<'_>,
    kind: &'static str,
    make: &(dyn Fn(&Value) -> Result<Value, ApiError> + Send + Sync),
) -> Result<Response<Body>, ApiError> {
    let resource = &call.resource;
    let options = call.options(kind)?;
    let warn = |text: String| call.context.warn(text);
    let writer = call.writer(&options, &warn);
    let mut change = |old: &Value| {
        let object = resource.to_served(old.clone());
        let scale = make(&scale_of(resource, &object))?;
        Ok(resource.to_stored(scaled(resource, object, &scale)?))
    };
    let written = writer
        .update(call.namespace(), call.name(), Part::Main, &mut change)
        .await?;
    let object = resource.to_served(written.object()?);
    Ok(json_value(StatusCode::OK, &scale_of(resource, &object)))
}

/// The scale of an object.
pub(crate) fn scale_of(resource: &Resource, object: &Value) -> Value {
    let paths = resource.kind.strategy.scale_paths();
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64).unwrap_or(0);
    let mut metadata = Map::new();
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(value) = object.pointer(&format!("/metadata/{field}")) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let mut status = json!({"replicas": number(&paths.status_replicas)});
    let selector = object.pointer(&paths.selector).map(selector_text);
    if let Some(selector) = selector.filter(|s| !s.is_empty()) {
        status["selector"] = selector.into();
    }
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": number(&paths.spec_replicas)},
        "status": status,
    })
}

fn selector_text(selector: &Value) -> String {
    if let Some(text) = selector.as_str() {
        return text.to_owned();
    }
    let structured =
        selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    if structured {
        LabelSelector::from_value(selector).map_or_else(|_| String::new(), |s| s.to_string())
    } else {
        LabelSelector::from_map(selector).to_string()
    }
}

/// The object with the number of replicas, `resourceVersion` and `uid` of a
/// scale.
pub(crate) fn scaled(
    resource: &Resource,
    mut object: Value,
    scale: &Value,
) -> Result<Value, ApiError> {
    let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64);
    let replicas = replicas.unwrap_or(0);
    if replicas < 0 {
        let path = FieldPath::new("spec").child("replicas");
        let why = "must be greater than or equal to 0";
        let error = FieldError::invalid(&path, replicas, why);
        let kind = GroupKind::new("autoscaling", "Scale");
        return Err(ApiError::invalid(&kind, object::name(&object), &[error]));
    }
    for field in ["resourceVersion", "uid"] {
        match scale.pointer(&format!("/metadata/{field}")) {
            Some(value) => {
                object::metadata_mut(&mut object).insert(field.to_owned(), value.clone());
            }
            None => meta::remove(&mut object, &[field]),
        }
    }
    let path = resource.kind.strategy.scale_paths().spec_replicas;
    set(&mut object, &path, replicas.into());
    Ok(object)
}

/// Sets the value at a JSON pointer, making the maps on the way.
fn set(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for key in pointer.split('/').skip(1) {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[key];
    }
    *at = value;
}
