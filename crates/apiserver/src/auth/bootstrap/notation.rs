//! The shorthand in which the default roles are written, and the objects that
//! it stands for.
//!
//! A rule is `VERBS GROUPS:RESOURCES [=NAMES]` or `VERBS url:PATHS`, each a
//! list with commas. `read` stands for get, list and watch, `all` for every
//! verb of an ordinary resource, and `core` for the group without a name.

use serde_json::{Map, Value, json};

use crate::auth::RBAC_GROUP;

/// A role by its name and rules.
pub(super) struct Role {
    pub(super) name: &'static str,
    pub(super) rules: &'static [&'static str],
}

/// The rules of a role, written out.
pub(super) fn rules(rules: &[&str]) -> Value {
    rules.iter().map(|rule| self::rule(rule)).collect()
}

fn rule(text: &str) -> Value {
    let mut words = text.split(' ');
    let verbs = match words.next().unwrap_or_default() {
        "read" => "get,list,watch",
        "all" => "create,delete,deletecollection,get,list,patch,update,watch",
        verbs => verbs,
    };
    let (groups, things) = words
        .next()
        .and_then(|word| word.split_once(':'))
        .unwrap_or_default();
    if groups == "url" {
        return json!({"nonResourceURLs": list(things), "verbs": list(verbs)});
    }
    let groups: Vec<&str> = groups
        .split(',')
        .map(|g| if g == "core" { "" } else { g })
        .collect();
    let mut rule = json!({"apiGroups": groups, "resources": list(things), "verbs": list(verbs)});
    if let Some(names) = words.next() {
        rule["resourceNames"] = list(names.trim_start_matches('='));
    }
    rule
}

fn list(text: &str) -> Value {
    text.split(',').collect()
}

/// `apiVersion`, `kind` and the metadata that marks a default of the policy.
pub(super) fn policy_object(kind: &str, namespace: &str, name: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "annotations": {super::AUTOUPDATE: "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    });
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    json!({"apiVersion": format!("{RBAC_GROUP}/v1"), "kind": kind, "metadata": metadata})
}

/// A binding of a role of the same scope, or of a ClusterRole.
pub(super) fn binding(namespace: &str, name: &str, role: &str, subjects: &[&str]) -> Value {
    let (kind, role_kind) = if namespace.is_empty() {
        ("ClusterRoleBinding", "ClusterRole")
    } else {
        ("RoleBinding", "Role")
    };
    let mut binding = policy_object(kind, namespace, name);
    binding["roleRef"] = json!({"apiGroup": RBAC_GROUP, "kind": role_kind, "name": role});
    if !subjects.is_empty() {
        binding["subjects"] = subjects.iter().map(|s| subject(s)).collect();
    }
    binding
}

/// `User:name`, `Group:name`, or a service account of kube-system by its name.
fn subject(text: &str) -> Value {
    for kind in ["User", "Group"] {
        if let Some(name) = text.strip_prefix(kind).and_then(|t| t.strip_prefix(':')) {
            return json!({"apiGroup": RBAC_GROUP, "kind": kind, "name": name});
        }
    }
    json!({"kind": "ServiceAccount", "name": text, "namespace": "kube-system"})
}

/// A copy of a map without one key, for tables that name the key apart.
pub(super) fn with(mut object: Value, key: &str, value: Value) -> Value {
    if let Some(map) = object.as_object_mut() {
        map.insert(key.to_owned(), value);
    } else {
        object = Value::Object(Map::from_iter([(key.to_owned(), value)]));
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorthand_is_written_out() {
        assert_eq!(
            rule("read core,events.k8s.io:events,pods/log =a,b"),
            json!({"verbs": ["get", "list", "watch"], "apiGroups": ["", "events.k8s.io"],
                   "resources": ["events", "pods/log"], "resourceNames": ["a", "b"]})
        );
        assert_eq!(
            rule("get url:/api,/api/*"),
            json!({"verbs": ["get"], "nonResourceURLs": ["/api", "/api/*"]})
        );
    }
}
