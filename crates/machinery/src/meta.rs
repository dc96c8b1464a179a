//! The rules of `metadata`, after `k8s.io/apimachinery/pkg/api/validation`.

use std::collections::HashSet;

use serde_json::Value;

use crate::field::{FieldError, FieldErrorKind, FieldPath};
use crate::names::{self, NameRule};
use crate::object::{items, string_map, text};

/// The most bytes that all annotations, keys and values, may have together.
pub const ANNOTATIONS_MAX: usize = 256 * 1024;

/// Errors of a new object's `metadata`. The name is expected to be generated
/// already.
pub fn validate_object_meta(object: &Value, namespaced: bool, rule: NameRule) -> Vec<FieldError> {
    let path = FieldPath::new("metadata");
    let mut errors = Vec::new();
    let refuse = |path: &FieldPath, value: &str, reasons: Vec<String>| {
        reasons
            .into_iter()
            .map(|why| FieldError::invalid(path, value, why))
            .collect::<Vec<_>>()
    };
    let prefix = text(object, "/metadata/generateName");
    if !prefix.is_empty() {
        let at = path.child("generateName");
        errors.extend(refuse(&at, prefix, rule.errors(prefix, true)));
    }
    let name = text(object, "/metadata/name");
    if name.is_empty() {
        let why = "name or generateName is required";
        errors.push(FieldError::required(&path.child("name"), why));
    } else {
        errors.extend(refuse(&path.child("name"), name, rule.errors(name, false)));
    }
    let (namespace, at) = (text(object, "/metadata/namespace"), path.child("namespace"));
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.push(FieldError::required(&at, "")),
        (true, false) => {
            errors.extend(refuse(
                &at,
                namespace,
                names::dns1123_label_errors(namespace),
            ));
        }
        (false, false) => errors.push(FieldError::forbidden(&at, "not allowed on this type")),
        (false, true) => {}
    }
    errors.extend(validate_shared(object, &path));
    errors
}

/// Errors of a changed object's `metadata`: what may not change, and the rules
/// for what may.
pub fn validate_object_meta_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let path = FieldPath::new("metadata");
    let mut errors = Vec::new();
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let pointer = format!("/metadata/{field}");
        let (new, old) = (text(object, &pointer), text(old, &pointer));
        if new != old {
            let value = new.to_owned();
            errors.push(FieldError::invalid(
                &path.child(field),
                value,
                "field is immutable",
            ));
        }
    }
    let number = |object: &Value, pointer: &str| object.pointer(pointer).and_then(Value::as_i64);
    let generation = number(object, "/metadata/generation").unwrap_or(0);
    if generation < number(old, "/metadata/generation").unwrap_or(0) {
        let at = path.child("generation");
        errors.push(FieldError::invalid(
            &at,
            generation,
            "must not be decremented",
        ));
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        let pointer = format!("/metadata/{field}");
        let (new, old) = (object.pointer(&pointer), old.pointer(&pointer));
        if new.filter(|v| !v.is_null()) != old.filter(|v| !v.is_null()) {
            let value = new.cloned().unwrap_or_default();
            errors.push(FieldError::invalid(
                &path.child(field),
                value,
                "field is immutable",
            ));
        }
    }
    if crate::object::is_terminating(old) {
        let had: HashSet<&str> = finalizers(old).collect();
        let added: Vec<&str> = finalizers(object).filter(|f| !had.contains(f)).collect();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new \
                 finalizers []string{{{}}}",
                list.join(", ")
            );
            errors.push(FieldError::forbidden(&path.child("finalizers"), why));
        }
    }
    errors.extend(validate_shared(object, &path));
    errors
}

/// What holds for new and for changed objects.
fn validate_shared(object: &Value, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let generation = object
        .pointer("/metadata/generation")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    if generation < 0 {
        let why = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(
            &path.child("generation"),
            generation,
            why,
        ));
    }
    errors.extend(validate_labels(
        object.pointer("/metadata/labels").unwrap_or(&Value::Null),
        &path.child("labels"),
    ));
    errors.extend(validate_annotations(object, &path.child("annotations")));
    errors.extend(validate_owner_references(
        object,
        &path.child("ownerReferences"),
    ));
    errors.extend(validate_finalizers(object, &path.child("finalizers")));
    errors
}

/// Errors of a map of labels.
pub fn validate_labels(labels: &Value, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        for why in names::qualified_name_errors(key) {
            errors.push(FieldError::invalid(path, key.as_str(), why));
        }
        let value = value.as_str().unwrap_or_default();
        for why in names::label_value_errors(value) {
            errors.push(FieldError::invalid(&path.key(key), value, why));
        }
    }
    errors
}

fn validate_annotations(object: &Value, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in string_map(object, "/metadata/annotations") {
        size += key.len() + value.len();
        for why in names::qualified_name_errors(&key.to_lowercase()) {
            errors.push(FieldError::invalid(path, key, why));
        }
    }
    if size > ANNOTATIONS_MAX {
        errors.push(FieldError {
            kind: FieldErrorKind::TooLong,
            path: path.clone(),
            value: None,
            detail: format!("may not be more than {ANNOTATIONS_MAX} bytes"),
        });
    }
    errors
}

fn validate_owner_references(object: &Value, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controller: Option<&str> = None;
    for (index, owner) in items(object, "/metadata/ownerReferences")
        .iter()
        .enumerate()
    {
        let at = path.index(index);
        for (field, why) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            let value = owner.get(field).and_then(Value::as_str).unwrap_or_default();
            let version = value.rsplit('/').next().unwrap_or_default();
            if version.is_empty() {
                errors.push(FieldError::invalid(&at.child(field), value, why));
            }
        }
        if text(owner, "/apiVersion") == "v1" && text(owner, "/kind") == "Event" {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(&at, owner.clone(), why));
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            let name = text(owner, "/name");
            match controller {
                None => controller = Some(name),
                Some(first) => {
                    let why = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in \
                         references for {first} and {name}"
                    );
                    errors.push(FieldError::invalid(path, owner.clone(), why));
                }
            }
        }
    }
    errors
}

fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    items(object, "/metadata/finalizers")
        .iter()
        .filter_map(Value::as_str)
}

fn validate_finalizers(object: &Value, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (mut orphan, mut foreground) = (false, false);
    for finalizer in finalizers(object) {
        orphan |= finalizer == "orphan";
        foreground |= finalizer == "foregroundDeletion";
        for why in names::qualified_name_errors(finalizer) {
            errors.push(FieldError::invalid(path, finalizer, why));
        }
    }
    if orphan && foreground {
        let list = object.pointer("/metadata/finalizers").cloned();
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path, list.unwrap_or_default(), why));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn good_metadata_passes() {
        let object = json!({"metadata": {
            "name": "a", "namespace": "b", "labels": {"x.y/z": "v"},
            "annotations": {"X.y/Z": "any text"}, "finalizers": ["a.b/c", "orphan"],
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "D", "name": "d", "uid": "u", "controller": true}],
        }});
        assert_eq!(validate_object_meta(&object, true, NameRule::Subdomain), []);
        assert_eq!(validate_object_meta_update(&object, &object), []);
    }

    #[test]
    fn faults_are_named() {
        let object = json!({"metadata": {"labels": {"a": "b c"}, "ownerReferences": [
            {"apiVersion": "", "kind": "D", "name": "d", "uid": "u", "controller": true},
            {"apiVersion": "v1", "kind": "E", "name": "e", "uid": "u", "controller": true}]}});
        let texts = texts(&validate_object_meta(&object, true, NameRule::Subdomain));
        assert_eq!(
            texts[0],
            "metadata.name: Required value: name or generateName is required"
        );
        assert_eq!(texts[1], "metadata.namespace: Required value");
        assert!(texts[2].starts_with("metadata.labels[a]: Invalid value: \"b c\": a valid label"));
        assert!(texts[3].starts_with("metadata.ownerReferences[0].apiVersion"));
        assert!(texts[4].ends_with("references for d and e"));
    }

    #[test]
    fn size_and_scope_are_bounded() {
        let object = json!({"metadata": {"name": "a", "namespace": "x",
            "annotations": {"a": "v".repeat(ANNOTATIONS_MAX)}}});
        assert_eq!(
            texts(&validate_object_meta(&object, false, NameRule::Label)),
            [
                "metadata.namespace: Forbidden: not allowed on this type",
                "metadata.annotations: Too long: may not be more than 262144 bytes"
            ]
        );
    }

    #[test]
    fn immutable_fields_stay() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "generation": 2,
            "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a/b"]}});
        let new = json!({"metadata": {"name": "a", "uid": "2", "generation": 1, "finalizers": ["a/b", "c/d"]}});
        let texts = texts(&validate_object_meta_update(&new, &old));
        assert_eq!(
            texts[0],
            "metadata.uid: Invalid value: \"2\": field is immutable"
        );
        assert_eq!(
            texts[1],
            "metadata.generation: Invalid value: 1: must not be decremented"
        );
        assert!(texts[2].starts_with("metadata.deletionTimestamp: Invalid value: null"));
        assert!(texts[3].ends_with("found new finalizers []string{\"c/d\"}"));
    }
}
