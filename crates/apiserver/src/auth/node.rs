//! The authoriser of nodes: a node reads the secrets, config maps, claims and
//! tokens of the pods that run on it, and nobody else's.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_machinery::{ApiError, object};
use serde_json::Value;

use super::rbac::{PolicyRule, Rbac};
use super::{SYSTEM_MASTERS, bootstrap, core};
use crate::access::{Attributes, Authorizer, Decision, UserInfo};
use crate::objects::Objects;

const NODE_PREFIX: &str = "system:node:";
const NODES_GROUP: &str = "system:nodes";

/// The name of the node that a user is, if it is one.
pub fn node_name(user: &UserInfo) -> Option<&str> {
    let name = user.username.strip_prefix(NODE_PREFIX)?;
    user.groups.iter().any(|g| g == NODES_GROUP).then_some(name)
}

/// The authorisers of the server: `system:masters` may do everything, then
/// nodes are judged by what they run, and everybody by RBAC.
pub struct Authorizers {
    nodes: NodeAuthorizer,
    rbac: Arc<Rbac>,
}

impl Authorizers {
    /// Over the roles, bindings and pods of these objects.
    pub fn new(objects: Arc<dyn Objects>, rbac: Arc<Rbac>) -> Self {
        Self {
            nodes: NodeAuthorizer::new(objects),
            rbac,
        }
    }
}

#[async_trait]
impl Authorizer for Authorizers {
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        let mut node_reason = String::new();
        if !user.groups.iter().any(|g| g == SYSTEM_MASTERS)
            && let Some(node) = node_name(user)
        {
            match self.nodes.decide(node, attributes).await {
                Decision::NoOpinion { reason } => node_reason = reason,
                allow => return allow,
            }
        }
        match self.rbac.decide(user, attributes).await {
            Decision::NoOpinion { reason } if reason.is_empty() => Decision::NoOpinion {
                reason: node_reason,
            },
            Decision::NoOpinion { reason } if !node_reason.is_empty() => Decision::NoOpinion {
                reason: format!("{node_reason}, {reason}"),
            },
            decision => decision,
        }
    }
}

struct NodeAuthorizer {
    objects: Arc<dyn Objects>,
    rules: Vec<PolicyRule>,
}

impl NodeAuthorizer {
    fn new(objects: Arc<dyn Objects>) -> Self {
        // The agent of a node is its service proxy as well.
        let roles = ["system:node", "system:node-proxier"];
        Self {
            objects,
            rules: roles
                .into_iter()
                .flat_map(bootstrap::cluster_role_rules)
                .collect(),
        }
    }

    async fn decide(&self, node: &str, a: &Attributes) -> Decision {
        if !self.rules.iter().any(|rule| rule.allows(a)) {
            return no(format!("node '{node}' cannot {} {}", a.verb, a.resource));
        }
        match self.concerns(node, a).await {
            Ok(true) => Decision::Allow {
                reason: String::new(),
            },
            Ok(false) => no(format!(
                "no relationship found between node '{node}' and this object"
            )),
            Err(error) => no(error.to_string()),
        }
    }

    /// True if the object is the node's own, is used by one of its pods, or
    /// is of a kind where that does not matter.
    async fn concerns(&self, node: &str, a: &Attributes) -> Result<bool, ApiError> {
        match (&*a.group, &*a.resource, &*a.subresource) {
            ("", "secrets" | "configmaps" | "persistentvolumeclaims", "" | "status") => {
                self.pod_of(node, &a.namespace, |pod| {
                    references(pod, &a.resource, &a.name)
                })
                .await
            }
            ("", "serviceaccounts", "token") => {
                self.pod_of(node, &a.namespace, |pod| {
                    object::text(pod, "/spec/serviceAccountName") == a.name
                })
                .await
            }
            ("", "persistentvolumes", _) => self.volume(node, &a.name).await,
            ("", "nodes", "") if ["get", "list", "watch"].contains(&&*a.verb) => {
                Ok(a.name == node || a.name.is_empty())
            }
            // The names of created objects are not known yet: the admission
            // of nodes checks them.
            ("coordination.k8s.io", "leases", _) => {
                Ok(a.namespace == "kube-node-lease" && (a.name == node || a.verb == "create"))
            }
            ("storage.k8s.io", "csinodes", _) | ("", "nodes", _) => {
                Ok(a.name == node || a.verb == "create")
            }
            _ => Ok(true),
        }
    }

    async fn pod_of(
        &self,
        node: &str,
        namespace: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<bool, ApiError> {
        if namespace.is_empty() {
            return Ok(false);
        }
        let pods = self.objects.list(&core("pods"), namespace).await?;
        let runs = |pod: &&Arc<Value>| object::text(pod, "/spec/nodeName") == node;
        Ok(pods.iter().filter(runs).any(|pod| wanted(pod)))
    }

    async fn volume(&self, node: &str, name: &str) -> Result<bool, ApiError> {
        let volume = self
            .objects
            .get(&core("persistentvolumes"), "", name)
            .await?;
        let Some(volume) = volume else {
            return Ok(false);
        };
        let namespace = object::text(&volume, "/spec/claimRef/namespace");
        let claim = object::text(&volume, "/spec/claimRef/name");
        self.pod_of(node, namespace, |pod| {
            references(pod, "persistentvolumeclaims", claim)
        })
        .await
    }
}

fn no(reason: String) -> Decision {
    Decision::NoOpinion { reason }
}

/// True if the pod uses an object of that name as a volume, for its
/// environment, or to pull images.
fn references(pod: &Value, resource: &str, name: &str) -> bool {
    if name.is_empty() {
        return false;
    }
    let is = |value: &Value, pointer: &str| object::text(value, pointer) == name;
    let volumes = object::items(pod, "/spec/volumes");
    if resource == "persistentvolumeclaims" {
        let pod_name = object::name(pod);
        return volumes.iter().any(|v| {
            is(v, "/persistentVolumeClaim/claimName")
                || (v.get("ephemeral").is_some()
                    && format!("{pod_name}-{}", object::text(v, "/name")) == name)
        });
    }
    let secret = resource == "secrets";
    let in_volume = |v: &Value| {
        let (direct, projected) = if secret {
            (is(v, "/secret/secretName"), "/secret/name")
        } else {
            (is(v, "/configMap/name"), "/configMap/name")
        };
        let sources = object::items(v, "/projected/sources");
        direct || sources.iter().any(|s| is(s, projected)) || (secret && driver_secret(v, name))
    };
    if volumes.iter().any(in_volume) {
        return true;
    }
    if secret
        && object::items(pod, "/spec/imagePullSecrets")
            .iter()
            .any(|s| is(s, "/name"))
    {
        return true;
    }
    let (from, key) = if secret {
        ("/secretRef/name", "/valueFrom/secretKeyRef/name")
    } else {
        ("/configMapRef/name", "/valueFrom/configMapKeyRef/name")
    };
    ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|list| object::items(pod, &format!("/spec/{list}")))
        .any(|c| {
            object::items(c, "/env").iter().any(|e| is(e, key))
                || object::items(c, "/envFrom").iter().any(|e| is(e, from))
        })
}

/// True if the volume's driver reads the secret.
fn driver_secret(volume: &Value, name: &str) -> bool {
    [
        "/csi/nodePublishSecretRef/name",
        "/flexVolume/secretRef/name",
        "/cephfs/secretRef/name",
        "/rbd/secretRef/name",
        "/iscsi/secretRef/name",
        "/scaleIO/secretRef/name",
        "/storageos/secretRef/name",
        "/azureFile/secretName",
    ]
    .iter()
    .any(|pointer| object::text(volume, pointer) == name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::fake::FakeObjects;

    fn ask(verb: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let (group, resource) = resource.split_once(':').unwrap_or(("", resource));
        Attributes {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        }
    }

    #[tokio::test]
    async fn a_node_reaches_what_its_pods_use_and_no_more() {
        let objects = FakeObjects::new();
        let pod = |name: &str, node: &str| {
            json!({
                "metadata": {"name": name, "namespace": "n"},
                "spec": {"nodeName": node, "serviceAccountName": format!("sa-{node}"),
                    "imagePullSecrets": [{"name": format!("pull-{node}")}],
                    "volumes": [
                        {"name": "v", "secret": {"secretName": format!("vol-{node}")}},
                        {"name": "p", "projected": {"sources": [{"configMap": {"name": format!("cm-{node}")}}]}},
                        {"name": "c", "persistentVolumeClaim": {"claimName": format!("claim-{node}")}}],
                    "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": format!("env-{node}")}}]}]},
            })
        };
        objects.put(&core("pods"), pod("one", "a"));
        objects.put(&core("pods"), pod("two", "b"));
        objects.put(
            &core("persistentvolumes"),
            json!({"metadata": {"name": "pv-a"},
            "spec": {"claimRef": {"namespace": "n", "name": "claim-a"}}}),
        );
        let rbac = Arc::new(Rbac::new(objects.clone()));
        let authorizers = Authorizers::new(objects, rbac);
        let node = UserInfo::authenticated("system:node:a", &["system:nodes"]);
        let cases = [
            (ask("get", "secrets", "n", "vol-a"), true),
            (ask("watch", "secrets", "n", "pull-a"), true),
            (ask("get", "secrets", "n", "env-a"), true),
            (ask("get", "secrets", "n", "vol-b"), false),
            (ask("get", "secrets", "m", "vol-a"), false),
            (ask("list", "secrets", "n", ""), false),
            (ask("list", "secrets", "", ""), false),
            (ask("delete", "secrets", "n", "vol-a"), false),
            (ask("get", "configmaps", "n", "cm-a"), true),
            (ask("get", "configmaps", "n", "cm-b"), false),
            (ask("get", "persistentvolumeclaims", "n", "claim-a"), true),
            (ask("get", "persistentvolumes", "", "pv-a"), true),
            (ask("create", "serviceaccounts/token", "n", "sa-a"), true),
            (ask("create", "serviceaccounts/token", "n", "sa-b"), false),
            (
                ask(
                    "update",
                    "coordination.k8s.io:leases",
                    "kube-node-lease",
                    "a",
                ),
                true,
            ),
            (
                ask(
                    "update",
                    "coordination.k8s.io:leases",
                    "kube-node-lease",
                    "b",
                ),
                false,
            ),
            (ask("patch", "nodes/status", "", "a"), true),
            (ask("patch", "nodes/status", "", "b"), false),
            (ask("get", "nodes", "", "b"), false),
            (ask("list", "services", "", ""), true),
            (
                ask("watch", "discovery.k8s.io:endpointslices", "", ""),
                true,
            ),
            (ask("delete", "namespaces", "", "n"), false),
        ];
        for (what, allowed) in cases {
            let got = authorizers.authorize(&node, &what).await;
            assert_eq!(
                matches!(got, Decision::Allow { .. }),
                allowed,
                "{what:?} {got:?}"
            );
        }
        // The name alone does not make a node.
        let impostor = UserInfo::authenticated("system:node:a", &[]);
        let got = authorizers
            .authorize(&impostor, &ask("get", "secrets", "n", "vol-a"))
            .await;
        assert!(matches!(got, Decision::NoOpinion { .. }));
    }
}
