//! Cluster-scoped objects of the host that are shown inside as they are:
//! ingress classes and storage classes.

use coracle_config::marks;
use coracle_machinery::object;
use serde_json::{Value, json};

use crate::json::copy_key;
use crate::mapped::shown_as;
use crate::names::{Translator, VirtualName};

impl Translator {
    /// The object as it appears inside.
    pub fn imported(&self, api_version: &str, kind: &str, host: &Value) -> Value {
        let mut inside = json!({});
        let fields: Vec<String> = host
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, _)| key.clone())
            .collect();
        for field in fields
            .iter()
            .filter(|f| !matches!(f.as_str(), "metadata" | "status"))
        {
            copy_key(host, &mut inside, field);
        }
        inside["apiVersion"] = api_version.into();
        inside["kind"] = kind.into();
        inside["metadata"] = json!({"name": object::name(host)});
        for field in ["labels", "annotations"] {
            if let Some(map) = host.pointer(&format!("/metadata/{field}")) {
                inside["metadata"][field] = map.clone();
            }
        }
        object::child_map(&mut inside["metadata"], "labels")
            .insert(marks::IMPORTED.into(), "host".into());
        let shown_as = shown_as(&VirtualName::new("", object::name(host)));
        object::child_map(&mut inside["metadata"], "annotations")
            .insert(marks::SHOWN_AS.into(), shown_as.into());
        inside
    }

    /// The object inside, brought up to date, or `None` if it is.
    pub fn imported_update(&self, inside: &Value, wanted: &Value) -> Option<Value> {
        let mut updated = inside.clone();
        for (field, value) in wanted.as_object().into_iter().flatten() {
            if field == "metadata" {
                for part in ["labels", "annotations"] {
                    copy_key(value, &mut updated["metadata"], part);
                }
            } else {
                updated[field.as_str()] = value.clone();
            }
        }
        (updated != *inside).then_some(updated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn an_import_is_up_to_date_at_once() {
        let t = Translator::new("vc", "demo", Arc::default());
        let host = json!({
            "metadata": {"name": "fast", "uid": "u", "annotations": {"a": "b"}},
            "provisioner": "local", "status": {},
        });
        let inside = t.imported("storage.k8s.io/v1", "StorageClass", &host);
        assert_eq!(inside["provisioner"], "local");
        assert!(inside.get("status").is_none() && inside["metadata"].get("uid").is_none());
        assert!(t.is_imported(&inside));
        assert!(t.imported_update(&inside, &inside).is_none());
        let mut changed = host;
        changed["provisioner"] = "other".into();
        let wanted = t.imported("storage.k8s.io/v1", "StorageClass", &changed);
        assert_eq!(
            t.imported_update(&inside, &wanted).unwrap()["provisioner"],
            "other"
        );
    }
}
