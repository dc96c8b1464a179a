//! What an object counts for in a quota.

use std::collections::{BTreeMap, BTreeSet};

use coracle_machinery::resources::of_pod;
use coracle_machinery::{GroupResource, Quantity, object};
use serde_json::Value;

use crate::auth::core;

/// Amounts by the keys of `spec.hard`.
pub(super) type Usage = BTreeMap<String, Quantity>;

/// Resources that old quotas count by their bare name.
const COUNTED: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];

/// The resources whose objects count for one of these keys.
pub(super) fn resources(hard: &Usage) -> BTreeSet<GroupResource> {
    let mut all = BTreeSet::new();
    for key in hard.keys() {
        if let Some(counted) = key.strip_prefix("count/") {
            let (resource, group) = counted.split_once('.').unwrap_or((counted, ""));
            all.insert(GroupResource::new(group.to_owned(), resource.to_owned()));
        } else if key.starts_with("services.") {
            all.insert(core("services"));
        } else if key.contains("storageclass.storage.k8s.io/") || key == "requests.storage" {
            all.insert(core("persistentvolumeclaims"));
        } else if COUNTED.contains(&key.as_str()) {
            all.insert(GroupResource::new("", key.clone()));
        } else {
            all.insert(core("pods"));
        }
    }
    all
}

pub(super) fn add(into: &mut Usage, from: &Usage) {
    for (key, amount) in from {
        if let Some(held) = into.get_mut(key) {
            *held += *amount;
        }
    }
}

/// What one object counts for in a quota.
pub(super) fn usage(resource: &GroupResource, object: &Value, quota: &Value) -> Usage {
    let one = || Quantity::from_units(1);
    let mut usage = Usage::from([(format!("count/{resource}"), one())]);
    if !resource.group.is_empty() {
        return usage;
    }
    let name = resource.resource.as_ref();
    if name == "pods" {
        if !in_scope(object, quota) {
            return Usage::new();
        }
        if ended(object) {
            return usage;
        }
    }
    if COUNTED.contains(&name) {
        usage.insert(name.to_owned(), one());
    }
    match name {
        "pods" => pod_usage(object, &mut usage),
        "services" => service_usage(object, &mut usage),
        "persistentvolumeclaims" => claim_usage(object, &mut usage),
        _ => {}
    }
    usage
}

/// True once a pod holds no resources any more.
fn ended(pod: &Value) -> bool {
    ["Succeeded", "Failed"].contains(&object::text(pod, "/status/phase"))
}

fn pod_usage(pod: &Value, usage: &mut Usage) {
    let (requests, limits) = of_pod(pod);
    for (name, amount) in requests {
        if ["cpu", "memory", "ephemeral-storage"].contains(&name.as_str())
            || name.starts_with("hugepages-")
        {
            usage.insert(name.clone(), amount);
        }
        usage.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in limits {
        usage.insert(format!("limits.{name}"), amount);
    }
}

fn service_usage(service: &Value, usage: &mut Usage) {
    let kind = object::text(service, "/spec/type");
    let ports = object::items(service, "/spec/ports").len();
    let ports = Quantity::from_units(i64::try_from(ports).unwrap_or(i64::MAX));
    let without =
        service.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
    if kind == "LoadBalancer" {
        usage.insert("services.loadbalancers".into(), Quantity::from_units(1));
    }
    if kind == "NodePort" || (kind == "LoadBalancer" && !without) {
        usage.insert("services.nodeports".into(), ports);
    }
}

fn claim_usage(claim: &Value, usage: &mut Usage) {
    let storage = claim.pointer("/spec/resources/requests/storage");
    let storage = storage
        .and_then(|s| Quantity::from_value(s).ok())
        .unwrap_or_default();
    let class = object::text(claim, "/spec/storageClassName");
    if !class.is_empty() {
        let prefix = format!("{class}.storageclass.storage.k8s.io");
        usage.insert(
            format!("{prefix}/persistentvolumeclaims"),
            Quantity::from_units(1),
        );
        usage.insert(format!("{prefix}/requests.storage"), storage);
    }
    usage.insert("requests.storage".into(), storage);
}

/// True if a pod is among those that the quota is about.
pub(super) fn in_scope(pod: &Value, quota: &Value) -> bool {
    let holds = |scope: &str| match scope {
        "Terminating" => pod
            .pointer("/spec/activeDeadlineSeconds")
            .is_some_and(Value::is_number),
        "NotTerminating" => !pod
            .pointer("/spec/activeDeadlineSeconds")
            .is_some_and(Value::is_number),
        "BestEffort" => best_effort(pod),
        "NotBestEffort" => !best_effort(pod),
        "PriorityClass" => !object::text(pod, "/spec/priorityClassName").is_empty(),
        _ => true,
    };
    let plain = object::items(quota, "/spec/scopes")
        .iter()
        .filter_map(Value::as_str)
        .all(holds);
    plain
        && object::items(quota, "/spec/scopeSelector/matchExpressions")
            .iter()
            .all(|e| {
                let scope = object::text(e, "/scopeName");
                let class = object::text(pod, "/spec/priorityClassName");
                let listed = object::items(e, "/values").iter().any(|v| v == class);
                match object::text(e, "/operator") {
                    "In" if scope == "PriorityClass" => listed,
                    "NotIn" if scope == "PriorityClass" => !listed,
                    "DoesNotExist" => !holds(scope),
                    _ => holds(scope),
                }
            })
}

fn best_effort(pod: &Value) -> bool {
    let (requests, limits) = of_pod(pod);
    let set = |amounts: &BTreeMap<String, Quantity>| {
        ["cpu", "memory"]
            .iter()
            .any(|name| amounts.get(*name).is_some_and(|a| !a.is_zero()))
    };
    !set(&requests) && !set(&limits)
}
