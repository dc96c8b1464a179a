//! What a fresh control plane holds: namespaces, the default RBAC policy,
//! priority classes, flow schemas and priority levels, and the services of its
//! own API groups.

mod api_services;
mod cluster_roles;
mod controller_roles;
mod flow_control;
mod notation;
mod policy;

use std::sync::Arc;

use coracle_machinery::{ApiError, GroupResource, Reason, object};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

pub(crate) use api_services::version_priority;

use super::rbac::{self, PolicyRule, aggregation};
use super::{core, named};
use crate::objects::Objects;

/// Set to `"false"` on a default role or binding, this annotation keeps an
/// administrator's changes.
pub const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Attempts to update one object that someone else changes at the same time.
const MAX_ATTEMPTS: usize = 5;

/// Objects written at once: the store commits together what comes together.
const MAX_AT_ONCE: usize = 64;

const NAMESPACES: &[&str] = &["default", "kube-node-lease", "kube-public", "kube-system"];

const PRIORITY_CLASSES: &[(&str, i64, &str)] = &[
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
];

/// The objects of a fresh control plane, namespaces first. Aggregated roles
/// come without rules; [`ensure`] fills them in.
pub fn objects() -> Vec<(GroupResource, Value)> {
    let mut all = Vec::new();
    for name in NAMESPACES {
        let namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        });
        all.push((core("namespaces"), namespace));
    }
    all.extend(policy::objects());
    for (name, value, description) in PRIORITY_CLASSES {
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": description,
            "preemptionPolicy": "PreemptLowerPriority",
        });
        all.push((named("scheduling.k8s.io", "priorityclasses"), class));
    }
    all.extend(flow_control::objects());
    all.extend(api_services::objects(jiff::Timestamp::now().as_second()));
    all
}

/// The rules of a default ClusterRole that does not aggregate; none for another
/// name.
pub fn cluster_role_rules(name: &str) -> Vec<PolicyRule> {
    let role = cluster_roles::CLUSTER_ROLES.iter().find(|r| r.name == name);
    let rules = role.map_or(Value::Null, |role| notation::rules(role.rules));
    object::items(&rules, "")
        .iter()
        .map(|rule| PolicyRule::from_value(rule, &mut |text| text.into()))
        .collect()
}

/// Creates what is missing, adds what default roles and bindings lack (unless
/// their autoupdate annotation is `"false"`), and writes the rules of
/// aggregated roles. Kinds that the server does not serve are left out.
///
/// # Errors
/// If reading or writing fails.
pub async fn ensure(objects: &dyn Objects) -> Result<(), ApiError> {
    let namespaces = core("namespaces");
    let (first, rest): (Vec<_>, Vec<_>) = self::objects()
        .into_iter()
        .partition(|(resource, _)| *resource == namespaces);
    for part in [first, rest] {
        let each = part.into_iter().map(|(resource, wanted)| async move {
            match ensure_one(objects, &resource, wanted).await {
                Err(error) if error.reason == Reason::NotFound => {
                    tracing::debug!(%resource, "not served, so its defaults are left out");
                    Ok(())
                }
                result => result,
            }
        });
        stream::iter(each)
            .buffer_unordered(MAX_AT_ONCE)
            .try_collect::<()>()
            .await?;
    }
    aggregation::reconcile(objects).await
}

async fn ensure_one(
    objects: &dyn Objects,
    resource: &GroupResource,
    wanted: Value,
) -> Result<(), ApiError> {
    let name = object::name(&wanted).to_owned();
    let namespace = object::namespace(&wanted).to_owned();
    for _ in 0..MAX_ATTEMPTS {
        let Some(current) = objects.get(resource, &namespace, &name).await? else {
            match objects.create(resource, wanted.clone()).await {
                Err(error) if error.reason == Reason::AlreadyExists => continue,
                result => return add_status(objects, resource, result?, &wanted).await,
            }
        };
        let Some(updated) = reconciled(resource, &current, &wanted) else {
            return Ok(());
        };
        match objects.update(resource, updated).await {
            Err(error) if error.reason == Reason::Conflict => {}
            result => return result.map(|_| ()),
        }
    }
    Err(ApiError::conflict(resource, &name, "it keeps changing"))
}

/// Writes the status, which a create leaves out.
async fn add_status(
    objects: &dyn Objects,
    resource: &GroupResource,
    mut created: Value,
    wanted: &Value,
) -> Result<(), ApiError> {
    match wanted.get("status") {
        Some(status) if created.get("status") != Some(status) => {
            created["status"] = status.clone();
            objects.update(resource, created).await.map(|_| ())
        }
        _ => Ok(()),
    }
}

/// The stored role or binding with what it lacks of the default one, or `None`
/// if it lacks nothing. Additions of an administrator stay.
fn reconciled(resource: &GroupResource, current: &Arc<Value>, wanted: &Value) -> Option<Value> {
    let list = if *resource == rbac::CLUSTER_ROLES || *resource == rbac::ROLES {
        "rules"
    } else if *resource == rbac::CLUSTER_ROLE_BINDINGS || *resource == rbac::ROLE_BINDINGS {
        "subjects"
    } else {
        return None;
    };
    if object::annotation(current, AUTOUPDATE) == Some("false") {
        return None;
    }
    let mut updated = (**current).clone();
    if current.get("aggregationRule").is_none_or(Value::is_null) {
        let pointer = format!("/{list}");
        let held = object::items(current, &pointer);
        let lacking: Vec<Value> = object::items(wanted, &pointer)
            .iter()
            .filter(|item| !held.iter().any(|h| same_item(h, item)))
            .cloned()
            .collect();
        if !lacking.is_empty() {
            updated[list] = held.iter().cloned().chain(lacking).collect();
        }
    }
    for map in ["labels", "annotations"] {
        for (key, value) in object::string_map(wanted, &format!("/metadata/{map}")) {
            let present = current
                .pointer(&format!("/metadata/{map}"))
                .and_then(|m| m.get(key));
            if present.is_none() {
                object::metadata_mut(&mut updated)
                    .entry(map)
                    .or_insert_with(|| json!({}))[key] = json!(value);
            }
        }
    }
    (updated != **current).then_some(updated)
}

/// Equality of rules and subjects: absent, null and empty fields are equal.
fn same_item(a: &Value, b: &Value) -> bool {
    let blank = |v: &Value| match v {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else {
        return a == b;
    };
    let within = |x: &serde_json::Map<String, Value>, y: &serde_json::Map<String, Value>| {
        x.iter()
            .all(|(key, value)| blank(value) || y.get(key) == Some(value))
    };
    within(a, b) && within(b, a)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::auth::fake::FakeObjects;

    async fn fresh() -> Arc<FakeObjects> {
        let objects = FakeObjects::new();
        ensure(&*objects).await.unwrap();
        objects
    }

    #[tokio::test]
    async fn running_twice_changes_nothing() {
        let objects = fresh().await;
        let before: Vec<u64> = self::objects()
            .iter()
            .map(|(r, _)| objects.generation(r))
            .collect();
        ensure(&*objects).await.unwrap();
        let after: Vec<u64> = self::objects()
            .iter()
            .map(|(r, _)| objects.generation(r))
            .collect();
        assert_eq!(before, after);
    }

    #[tokio::test]
    async fn what_a_role_lacks_is_added_unless_it_opted_out() {
        let objects = fresh().await;
        for (name, autoupdate) in [("system:discovery", "true"), ("system:basic-user", "false")] {
            let mut role = (*objects
                .get(&rbac::CLUSTER_ROLES, "", name)
                .await
                .unwrap()
                .unwrap())
            .clone();
            role["rules"] = json!([{"verbs": ["get"], "nonResourceURLs": ["/mine"]}]);
            role["metadata"]["annotations"][AUTOUPDATE] = json!(autoupdate);
            objects.put(&rbac::CLUSTER_ROLES, role);
        }
        ensure(&*objects).await.unwrap();
        for (name, count) in [("system:discovery", 2), ("system:basic-user", 1)] {
            let role = objects
                .get(&rbac::CLUSTER_ROLES, "", name)
                .await
                .unwrap()
                .unwrap();
            assert_eq!(object::items(&role, "/rules").len(), count, "{name}");
            assert_eq!(role["rules"][0]["nonResourceURLs"][0], "/mine");
        }
    }

    /// Kind, namespace and name, and the object without what a server adds.
    fn comparable(value: &Value) -> ((String, String, String), Value) {
        let mut value = value.clone();
        let key = (
            object::text(&value, "/kind").to_owned(),
            object::namespace(&value).to_owned(),
            object::name(&value).to_owned(),
        );
        let map = value.as_object_mut().unwrap();
        map.remove("status");
        let metadata = map["metadata"].as_object_mut().unwrap();
        for added in [
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "generation",
            "managedFields",
        ] {
            metadata.remove(added);
        }
        (key, value)
    }

    /// Compares with the objects of a real control plane, where a dump of
    /// them lies beside the repository.
    #[tokio::test]
    async fn the_defaults_are_those_of_upstream() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/kubernetes/");
        let mut reference = BTreeMap::new();
        for file in ["bootstrap-objects.json", "bootstrap-roles.json"] {
            // Nothing to compare with elsewhere.
            let Ok(text) = std::fs::read_to_string(format!("{folder}{file}")) else {
                return;
            };
            let list: Value = serde_json::from_str(&text).unwrap();
            reference.extend(list["items"].as_array().unwrap().iter().map(comparable));
        }
        let objects = fresh().await;
        let mut ours = BTreeMap::new();
        for (resource, wanted) in self::objects() {
            let (namespace, name) = (object::namespace(&wanted), object::name(&wanted));
            let stored = objects
                .get(&resource, namespace, name)
                .await
                .unwrap()
                .unwrap();
            if object::text(&stored, "/kind") != "Namespace" {
                let (key, value) = comparable(&stored);
                ours.insert(key, value);
            }
        }
        assert_eq!(
            ours.keys().collect::<Vec<_>>(),
            reference.keys().collect::<Vec<_>>()
        );
        for (key, value) in &reference {
            assert_eq!(&ours[key], value, "{key:?}");
        }
    }
}
