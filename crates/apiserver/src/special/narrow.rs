//! What the subresources with the body of their parent may change: everything
//! else is put back.

use coracle_machinery::object::{items, metadata_mut, text};
use coracle_machinery::{ApiError, FieldError, FieldPath, GroupKind};
use serde_json::{Map, Value};

use crate::request::RequestInfo;
use crate::write::meta;

/// Takes the present object and the one sent (both in the stored form).
pub(crate) type Narrowing = fn(&Value, Value) -> Result<Value, ApiError>;

/// The narrowing of a subresource.
pub(crate) fn narrowing(info: &RequestInfo) -> Narrowing {
    match info.subresource.as_str() {
        "finalize" => finalize,
        "approval" => approval,
        "ephemeralcontainers" => ephemeral_containers,
        "resize" => resize,
        _ => |_, new| Ok(new),
    }
}

/// The present object with the sent `resourceVersion` and `uid`, so that they
/// are compared.
fn based_on(old: &Value, new: &Value) -> Value {
    let mut object = old.clone();
    for field in ["resourceVersion", "uid"] {
        match new.pointer(&format!("/metadata/{field}")) {
            Some(value) => {
                metadata_mut(&mut object).insert(field.to_owned(), value.clone());
            }
            None => meta::remove(&mut object, &[field]),
        }
    }
    object
}

fn take(object: &mut Value, new: &Value, parent: &str, field: &str) {
    let value = new.pointer(&format!("/{parent}/{field}")).cloned();
    let parent = coracle_machinery::object::child_map(object, parent);
    match value {
        Some(value) => parent.insert(field.to_owned(), value),
        None => parent.remove(field),
    };
}

fn finalize(old: &Value, new: Value) -> Result<Value, ApiError> {
    let mut object = based_on(old, &new);
    take(&mut object, &new, "spec", "finalizers");
    Ok(object)
}

fn approval(old: &Value, new: Value) -> Result<Value, ApiError> {
    let mut object = new.clone();
    for part in ["spec", "status"] {
        match (object.as_object_mut(), old.get(part)) {
            (Some(map), Some(kept)) => map.insert(part.to_owned(), kept.clone()),
            (Some(map), None) => map.remove(part),
            (None, _) => None,
        };
    }
    take(&mut object, &new, "status", "conditions");
    let now = meta::now();
    let conditions = object.pointer_mut("/status/conditions");
    for condition in conditions
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let Some(condition) = condition.as_object_mut() else {
            continue;
        };
        for field in ["lastUpdateTime", "lastTransitionTime"] {
            let time = condition.entry(field).or_insert(Value::Null);
            if time.is_null() {
                *time = now.clone().into();
            }
        }
    }
    Ok(object)
}

fn invalid(old: &Value, error: FieldError) -> ApiError {
    let name = coracle_machinery::object::name(old);
    ApiError::invalid(&GroupKind::new("", "Pod"), name, &[error])
}

/// New ephemeral containers may be added; those that are there stay.
fn ephemeral_containers(old: &Value, new: Value) -> Result<Value, ApiError> {
    let mut object = based_on(old, &new);
    take(&mut object, &new, "spec", "ephemeralContainers");
    let path = FieldPath::new("spec").child("ephemeralContainers");
    let now = items(&object, "/spec/ephemeralContainers");
    for had in items(old, "/spec/ephemeralContainers") {
        let name = text(had, "/name");
        let kept = now.iter().find(|c| text(c, "/name") == name);
        let why = match kept {
            None => format!("existing ephemeral containers {name:?} may not be removed\n"),
            Some(kept) if kept != had => {
                format!("existing ephemeral containers {name:?} may not be changed\n")
            }
            Some(_) => continue,
        };
        return Err(invalid(old, FieldError::forbidden(&path, why)));
    }
    Ok(object)
}

/// Resources and resize policies of containers may change.
fn resize(old: &Value, new: Value) -> Result<Value, ApiError> {
    let mut object = based_on(old, &new);
    for list in ["containers", "initContainers"] {
        let pointer = format!("/spec/{list}");
        let sent = items(&new, &pointer);
        let present = object.pointer_mut(&pointer).and_then(Value::as_array_mut);
        let Some(present) = present else {
            continue;
        };
        if sent.len() != present.len() {
            let path = FieldPath::new("spec").child(list);
            let why = "pod resize may not change the number of containers";
            return Err(invalid(old, FieldError::forbidden(&path, why)));
        }
        for container in present.iter_mut().filter_map(Value::as_object_mut) {
            let name = container.get("name").cloned().unwrap_or_default();
            if let Some(sent) = sent.iter().find(|c| c.get("name") == Some(&name)) {
                copy(container, sent, "resources");
                copy(container, sent, "resizePolicy");
            }
        }
    }
    Ok(object)
}

fn copy(container: &mut Map<String, Value>, sent: &Value, field: &str) {
    match sent.get(field) {
        Some(value) => container.insert(field.to_owned(), value.clone()),
        None => container.remove(field),
    };
}
