//! The parts of `metadata` that the server fills in and keeps.

use coracle_machinery::object::{self, metadata_mut};
use coracle_machinery::{ApiError, time};
use serde_json::Value;

use crate::registry::Resource;

/// The present time as `metadata` has it.
pub fn now() -> String {
    time::rfc3339(jiff::Timestamp::now().as_second())
}

/// A random UUID (version 4).
pub fn new_uid() -> String {
    let random: u128 = rand::random();
    let bits = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// Removes fields of `metadata`.
pub fn remove(object: &mut Value, fields: &[&str]) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in fields {
            metadata.remove(*field);
        }
    }
}

/// Sets or (with `None`) removes a field of `metadata`.
fn set(object: &mut Value, field: &str, value: Option<&Value>) {
    match value {
        Some(value) if !value.is_null() => {
            metadata_mut(object).insert(field.to_owned(), value.clone());
        }
        _ => remove(object, &[field]),
    }
}

/// Puts the request's namespace into the object, or compares them.
///
/// # Errors
/// `BadRequest` if they differ.
pub fn claim_namespace(
    resource: &Resource,
    object: &mut Value,
    namespace: &str,
) -> Result<(), ApiError> {
    if !resource.namespaced() {
        remove(object, &["namespace"]);
        return Ok(());
    }
    let own = object::namespace(object);
    if own.is_empty() {
        metadata_mut(object).insert("namespace".into(), namespace.into());
    } else if own != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Puts the request's name into the object, or compares them.
///
/// # Errors
/// `BadRequest` if they differ.
pub fn claim_name(object: &mut Value, name: &str) -> Result<(), ApiError> {
    let own = object::name(object);
    if own.is_empty() {
        metadata_mut(object).insert("name".into(), name.into());
    } else if own != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({own}) does not match the name on the URL ({name})"
        )));
    }
    Ok(())
}

/// Gives a new object what only the server may choose.
pub fn fill_new(object: &mut Value) {
    remove(
        object,
        &[
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "resourceVersion",
            "selfLink",
        ],
    );
    let metadata = metadata_mut(object);
    metadata.insert("uid".into(), new_uid().into());
    metadata.insert("creationTimestamp".into(), now().into());
}

/// Keeps in a changed object what only the server may change.
pub fn keep_system_fields(object: &mut Value, old: &Value) {
    remove(object, &["selfLink"]);
    for field in [
        "generation",
        "creationTimestamp",
        "uid",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        let pointer = format!("/metadata/{field}");
        set(object, field, old.pointer(&pointer));
    }
    for field in ["resourceVersion", "generateName"] {
        let pointer = format!("/metadata/{field}");
        if field == "resourceVersion" || object.pointer(&pointer).is_none() {
            set(object, field, old.pointer(&pointer));
        }
    }
}

/// `metadata.generation`, 0 if it has none.
pub fn generation(object: &Value) -> i64 {
    let generation = object.pointer("/metadata/generation");
    generation.and_then(Value::as_i64).unwrap_or(0)
}

/// Sets `metadata.generation`; 0 removes it.
pub fn set_generation(object: &mut Value, generation: i64) {
    if generation == 0 {
        remove(object, &["generation"]);
    } else {
        metadata_mut(object).insert("generation".into(), generation.into());
    }
}

/// True if anything but metadata and status differs.
pub fn spec_changed(object: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (object.as_object(), old.as_object()) else {
        return object != old;
    };
    let counts = |key: &str| !matches!(key, "metadata" | "status" | "apiVersion" | "kind");
    let differs = |(key, value): (&String, &Value)| {
        counts(key) && !value.is_null() && old.get(key) != Some(value)
    };
    new.iter().any(differs)
        || old
            .iter()
            .any(|(k, v)| counts(k) && !v.is_null() && new.get(k).is_none_or(Value::is_null))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn uids_are_version_4() {
        let uid = new_uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(&uid[14..15], "4");
        assert!(matches!(&uid[19..20], "8" | "9" | "a" | "b"), "{uid}");
        assert_ne!(uid, new_uid());
    }

    #[test]
    fn only_the_body_counts_as_change() {
        let old = json!({"metadata": {"name": "a"}, "spec": {"x": 1}, "status": {"y": 1}});
        for (new, wanted) in [
            (json!({"metadata": {"name": "b"}, "spec": {"x": 1}}), false),
            (json!({"spec": {"x": 1}, "data": null}), false),
            (json!({"spec": {"x": 2}}), true),
            (json!({}), true),
            (json!({"spec": {"x": 1}, "data": {}}), true),
        ] {
            assert_eq!(spec_changed(&new, &old), wanted, "{new}");
        }
    }
}
