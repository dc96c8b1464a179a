//! The rules of events, which two groups serve and the core group stores.

use coracle_machinery::object::text;
use coracle_machinery::{FieldError, FieldPath};
use serde_json::Value;

use super::{Errors, str_at};
use crate::kind::Strategy;

/// The rules of `v1` events.
pub(in crate::kinds) struct CoreEvent;

impl Strategy for CoreEvent {
    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value) -> Errors {
        let involved = str_at(&object["involvedObject"], "namespace");
        namespace(object, involved, "involvedObject")
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "reason",
            "reportingComponent",
            "reportingController",
            "source",
            "type",
        ]
    }

    fn selectable_field(&self, object: &Value, path: &str) -> String {
        core_field(object, path)
    }
}

/// Takes the names of both groups.
fn core_field(object: &Value, path: &str) -> String {
    if path == "source" {
        let component = text(object, "/source/component");
        let component = if component.is_empty() {
            text(object, "/reportingComponent")
        } else {
            component
        };
        return component.to_owned();
    }
    let pointer = match path {
        "reportingController" => "/reportingComponent".to_owned(),
        _ => format!(
            "/{}",
            path.replace("regarding.", "involvedObject.")
                .replace('.', "/")
        ),
    };
    text(object, &pointer).to_owned()
}

/// An event lives where its object does; those of cluster-scoped objects
/// live in `default`.
fn namespace(object: &Value, involved: &str, field: &str) -> Errors {
    let own = text(object, "/metadata/namespace");
    if own == involved || involved.is_empty() && matches!(own, "" | "default" | "kube-system") {
        return Vec::new();
    }
    let path = FieldPath::new(field).child("namespace");
    let detail = "does not match event.namespace";
    vec![FieldError::invalid(&path, involved, detail)]
}
