//! NodeRestriction: a node writes its own objects and those of its pods.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_machinery::{ApiError, object};
use serde_json::Value;

use super::{forbidden, is};
use crate::auth::core;
use crate::auth::node::node_name;
use crate::hooks::{Admission, AdmissionRequest, Operation};
use crate::objects::Objects;
use crate::registry::Resource;

const MIRROR: &str = "kubernetes.io/config.mirror";

/// Labels in the namespaces of Kubernetes that a node may set on itself.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const OWN_LABEL_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];
const RESTRICTED_DOMAIN: &str = "node-restriction.kubernetes.io";

pub(super) struct NodeRestriction {
    objects: Arc<dyn Objects>,
}

impl NodeRestriction {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    async fn pod(&self, request: &AdmissionRequest<'_>, node: &str) -> Result<(), ApiError> {
        let nowhere = Value::Null;
        match (request.operation, request.subresource) {
            (Operation::Create, "") => create_pod(request, node),
            (Operation::Delete, "") => {
                let old = request.old.unwrap_or(&nowhere);
                if object::text(old, "/spec/nodeName") == node {
                    return Ok(());
                }
                let why =
                    format!("node {node:?} can only delete pods with spec.nodeName set to itself");
                Err(forbidden(request, &why))
            }
            (Operation::Update, "status") => {
                let old = request.old.unwrap_or(&nowhere);
                if object::text(old, "/spec/nodeName") == node {
                    return Ok(());
                }
                let why = format!(
                    "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
                );
                Err(forbidden(request, &why))
            }
            (Operation::Create, "eviction") => {
                let pod = self
                    .objects
                    .get(&core("pods"), request.namespace, request.name)
                    .await?;
                let runs_here = pod.is_some_and(|p| object::text(&p, "/spec/nodeName") == node);
                if runs_here {
                    return Ok(());
                }
                let why =
                    format!("node {node:?} can only evict pods with spec.nodeName set to itself");
                Err(forbidden(request, &why))
            }
            (operation, subresource) => {
                let why =
                    format!("unexpected operation {operation:?} of {subresource:?} by a node");
                Err(forbidden(request, &why))
            }
        }
    }
}

#[async_trait]
impl Admission for NodeRestriction {
    fn handles(&self, _operation: Operation, resource: &Resource, _subresource: &str) -> bool {
        [
            ("", "pods"),
            ("", "nodes"),
            ("coordination.k8s.io", "leases"),
            ("storage.k8s.io", "csinodes"),
        ]
        .iter()
        .any(|(group, plural)| is(resource, group, plural))
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        let Some(node) = node_name(request.user) else {
            return Ok(());
        };
        let node = node.to_owned();
        if request.operation == Operation::Connect {
            return Ok(());
        }
        if is(request.resource, "", "pods") {
            return self.pod(request, &node).await;
        }
        let either = request.object.as_ref().or(request.old);
        let name = either.map_or(request.name, object::name);
        if is(request.resource, "", "nodes") {
            return check_node(request, &node, name);
        }
        let same = name == node;
        if is(request.resource, "storage.k8s.io", "csinodes") {
            if !same {
                let why = "can only access CSINode with the same name as the requesting node";
                return Err(forbidden(request, why));
            }
        } else if request.namespace != "kube-node-lease" {
            let why = format!(
                "can only access leases in the {:?} system namespace",
                "kube-node-lease"
            );
            return Err(forbidden(request, &why));
        } else if !same {
            let why = "can only access node lease with the same name as the requesting node";
            return Err(forbidden(request, why));
        }
        Ok(())
    }
}

/// A node creates only mirrors of the pods that it runs by itself.
fn create_pod(request: &AdmissionRequest<'_>, node: &str) -> Result<(), ApiError> {
    let Some(pod) = request.object.as_ref() else {
        return Ok(());
    };
    if object::annotation(pod, MIRROR).is_none() {
        let why = format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        );
        return Err(forbidden(request, &why));
    }
    if object::text(pod, "/spec/nodeName") != node {
        let why = format!("node {node:?} can only create pods with spec.nodeName set to itself");
        return Err(forbidden(request, &why));
    }
    Ok(())
}

fn check_node(request: &AdmissionRequest<'_>, node: &str, name: &str) -> Result<(), ApiError> {
    if name != node {
        let why = format!("node {node:?} is not allowed to modify node {name:?}");
        return Err(forbidden(request, &why));
    }
    let (Some(object), Operation::Create | Operation::Update) =
        (request.object.as_ref(), request.operation)
    else {
        return Ok(());
    };
    let bad: Vec<&str> = object::string_map(object, "/metadata/labels")
        .filter(|(key, value)| {
            let before = request.old.and_then(|old| object::label(old, key));
            before != Some(value) && !may_label(key)
        })
        .map(|(key, _)| key)
        .collect();
    if !bad.is_empty() {
        let why = format!("is not allowed to modify labels: {}", bad.join(", "));
        return Err(forbidden(request, &why));
    }
    if let Some(old) = request.old
        && object::items(old, "/spec/taints") != object::items(object, "/spec/taints")
        && request.subresource.is_empty()
    {
        let why = format!("node {node:?} is not allowed to modify taints");
        return Err(forbidden(request, &why));
    }
    Ok(())
}

fn may_label(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else {
        return true;
    };
    let within = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    if within(RESTRICTED_DOMAIN) {
        return false;
    }
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    OWN_LABELS.contains(&key) || OWN_LABEL_DOMAINS.iter().any(|domain| within(domain))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::access::UserInfo;
    use crate::admission::testing::Try;
    use crate::auth::fake::FakeObjects;

    #[tokio::test]
    async fn a_node_keeps_to_itself() {
        let rule = NodeRestriction::new(FakeObjects::new());
        let node = UserInfo::authenticated("system:node:a", &["system:nodes"]);
        let of = |operation, resource, subresource| Try {
            user: node.clone(),
            operation,
            subresource,
            ..Try::create(&rule, resource)
        };
        let named =
            |name: &str| json!({"metadata": {"name": name, "namespace": "kube-node-lease"}});
        let labelled = |label: &str| json!({"metadata": {"name": "a", "labels": {label: "x"}}});
        let mirror = |on: &str| {
            json!({"metadata": {"name": "p", "annotations": {MIRROR: "x"}},
            "spec": {"nodeName": on}})
        };
        let on = |on: &str| json!({"metadata": {"name": "p"}, "spec": {"nodeName": on}});
        use Operation::{Create, Delete, Update};
        let leases = "coordination.k8s.io/leases";
        let cases = [
            (of(Create, "nodes", ""), Some(named("a")), None, true),
            (of(Create, "nodes", ""), Some(named("b")), None, false),
            (
                of(Update, "nodes", "status"),
                Some(named("b")),
                Some(named("b")),
                false,
            ),
            (
                of(Create, "nodes", ""),
                Some(labelled("kubernetes.io/hostname")),
                None,
                true,
            ),
            (of(Create, "nodes", ""), Some(labelled("mine")), None, true),
            (
                of(Create, "nodes", ""),
                Some(labelled("node-role.kubernetes.io/control-plane")),
                None,
                false,
            ),
            (
                of(Update, "nodes", ""),
                Some(labelled("x.node-restriction.kubernetes.io/y")),
                Some(named("a")),
                false,
            ),
            (
                of(Update, leases, ""),
                Some(named("a")),
                Some(named("a")),
                true,
            ),
            (
                of(Update, leases, ""),
                Some(named("b")),
                Some(named("b")),
                false,
            ),
            (of(Create, "pods", ""), Some(mirror("a")), None, true),
            (of(Create, "pods", ""), Some(mirror("b")), None, false),
            (of(Create, "pods", ""), Some(on("a")), None, false),
            (
                of(Update, "pods", "status"),
                Some(on("a")),
                Some(on("a")),
                true,
            ),
            (
                of(Update, "pods", "status"),
                Some(on("a")),
                Some(on("b")),
                false,
            ),
            (of(Delete, "pods", ""), None, Some(on("a")), true),
            (of(Delete, "pods", ""), None, Some(on("b")), false),
            (of(Update, "pods", ""), Some(on("a")), Some(on("a")), false),
        ];
        for (attempt, object, old, allowed) in cases {
            let what = format!("{:?} {} {object:?}", attempt.operation, attempt.resource);
            let got = attempt.run(object, old.as_ref()).await;
            assert_eq!(got.is_ok(), allowed, "{what}: {got:?}");
        }
        // Others are not concerned.
        assert!(Try::create(&rule, "nodes").pass(named("b")).await.is_ok());
    }
}
