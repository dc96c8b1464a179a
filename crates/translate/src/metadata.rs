//! Metadata of host objects: marks, the user's labels and annotations, and the
//! record of what came from inside.

use std::collections::BTreeSet;

use coracle_config::marks;
use coracle_machinery::object;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::names::{Translator, VirtualName};

/// Annotations that describe the virtual object's history and would be wrong,
/// or huge, on the host.
const NOT_COPIED: &[&str] = &["kubectl.kubernetes.io/last-applied-configuration"];

/// Annotation: keys of the labels that came from the virtual object.
const MANAGED_LABELS: &str = "coracle.dev/managed-labels";

impl Translator {
    /// A host object without content: type, name, marks, labels, annotations
    /// and owner.
    pub(crate) fn shell(&self, api_version: &str, kind: &str, virtual_object: &Value) -> Value {
        let name = VirtualName::of(virtual_object);
        let host_name = self.host_name(kind, &name);
        let mut labels = self.labels(virtual_object);
        labels.insert(marks::MANAGED_BY.into(), self.vc.as_str().into());
        labels.insert(marks::NAMESPACE.into(), name.namespace.as_str().into());
        let mut annotations: Map<String, Value> = annotations(virtual_object);
        for (key, value) in [
            (marks::OBJECT_NAME, name.name.as_str()),
            (marks::OBJECT_NAMESPACE, name.namespace.as_str()),
            (marks::OBJECT_UID, object::uid(virtual_object)),
            (marks::OBJECT_KIND, kind),
            (marks::HOST_NAME, host_name.as_str()),
        ] {
            annotations.insert(key.to_owned(), value.into());
        }
        let mut host = json!({
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {
                "name": host_name,
                "namespace": self.host_namespace,
                "labels": labels,
                "annotations": annotations,
            },
        });
        if let Some(owner) = &self.owner {
            host["metadata"]["ownerReferences"] = json!([owner]);
        }
        host
    }

    /// The user's labels under their host keys.
    pub(crate) fn labels(&self, virtual_object: &Value) -> Map<String, Value> {
        object::string_map(virtual_object, "/metadata/labels")
            .map(|(key, value)| (marks::host_label_key(key), value.into()))
            .collect()
    }
}

fn annotations(virtual_object: &Value) -> Map<String, Value> {
    object::string_map(virtual_object, "/metadata/annotations")
        .filter(|(key, _)| !marks::is_mark(key) && !NOT_COPIED.contains(key))
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect()
}

/// Completes a desired host object: records which labels and annotations came
/// from inside, and a digest of the whole, by which [`same_applied`] knows
/// later that nothing changed inside. `digested` chooses what counts (the parts
/// that can be changed at all).
#[must_use]
pub fn applied(mut desired: Value, digested: impl Fn(&Value) -> Value) -> Value {
    let keys = |pointer: &str| -> String {
        let keys: Vec<&str> = object::string_map(&desired, pointer)
            .map(|(k, _)| k)
            .collect();
        keys.join("\n")
    };
    let labels = keys("/metadata/labels");
    let annotations = keys("/metadata/annotations");
    let digest = Sha256::digest(digested(&desired).to_string().as_bytes());
    let digest: String = digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
    let map = object::child_map(
        desired.get_mut("metadata").expect("a shell has metadata"),
        "annotations",
    );
    map.insert(MANAGED_LABELS.into(), labels.into());
    map.insert(marks::MANAGED_ANNOTATIONS.into(), annotations.into());
    map.insert(marks::APPLIED.into(), digest.into());
    desired
}

/// As `applied`, of an object that was and has since become another by these
/// `changes`.
pub(crate) fn reapplied(mut object: Value, changes: &Value) -> Value {
    let earlier = object::annotation(&object, marks::APPLIED).map(str::to_owned);
    let annotations = object::child_map(&mut object["metadata"], "annotations");
    for key in [MANAGED_LABELS, marks::MANAGED_ANNOTATIONS, marks::APPLIED] {
        annotations.remove(key);
    }
    applied(object, |_| json!([earlier, changes]))
}

/// True if the host object was last written from the same desired state.
pub fn same_applied(host: &Value, desired: &Value) -> bool {
    object::annotation(host, marks::APPLIED) == object::annotation(desired, marks::APPLIED)
}

/// Brings the desired labels, annotations and owner into a host object that
/// exists. What others put there stays; what came from inside and is gone
/// there goes.
pub fn merge_metadata(host: &mut Value, desired: &Value) {
    for (field, record) in [
        ("labels", MANAGED_LABELS),
        ("annotations", marks::MANAGED_ANNOTATIONS),
    ] {
        let earlier: BTreeSet<String> = object::annotation(host, record)
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect();
        let map = object::child_map(&mut host["metadata"], field);
        map.retain(|key, _| !earlier.contains(key));
        let wanted = object::string_map(desired, &format!("/metadata/{field}"))
            .map(|(key, value)| (key.to_owned(), Value::from(value)));
        map.extend(wanted);
    }
    if let Some(owners) = desired.pointer("/metadata/ownerReferences") {
        host["metadata"]["ownerReferences"] = owners.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn forged_marks_do_not_reach_the_host() {
        let t = Translator::new("vc", "demo", Arc::default());
        let pod = json!({"metadata": {"name": "a", "namespace": "default", "uid": "u",
            "labels": {"app": "x", "coracle.dev/managed-by": "other", "release": "other"},
            "annotations": {"a": "b", "coracle.dev/object-name": "other",
                            "kubectl.kubernetes.io/last-applied-configuration": "{}"}}});
        let host = t.shell("v1", "Pod", &pod);
        assert_eq!(object::label(&host, "coracle.dev/managed-by"), Some("vc"));
        assert_eq!(object::label(&host, "release"), None);
        assert_eq!(object::label(&host, "app"), Some("x"));
        assert_eq!(
            object::annotation(&host, "coracle.dev/object-name"),
            Some("a")
        );
        assert_eq!(object::annotation(&host, "a"), Some("b"));
        assert_eq!(t.ours("Pod", &host), Some(VirtualName::new("default", "a")));
    }

    #[test]
    fn what_others_set_stays_and_what_was_removed_inside_goes() {
        let t = Translator::new("vc", "demo", Arc::default());
        let whole = |v: &Value| v.clone();
        let first = json!({"metadata": {"name": "a", "namespace": "b", "labels": {"old": "1"}}});
        let mut host = applied(t.shell("v1", "Pod", &first), whole);
        host["metadata"]["labels"]["injected"] = "yes".into();
        let second = json!({"metadata": {"name": "a", "namespace": "b", "labels": {"new": "1"}}});
        let desired = applied(t.shell("v1", "Pod", &second), whole);
        assert!(!same_applied(&host, &desired));
        merge_metadata(&mut host, &desired);
        assert_eq!(object::label(&host, "old"), None);
        assert_eq!(object::label(&host, "new"), Some("1"));
        assert_eq!(object::label(&host, "injected"), Some("yes"));
        assert!(same_applied(&host, &desired));
    }
}
