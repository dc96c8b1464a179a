//! Who enforces network policies on the embedded host: the first node's agent,
//! for the pods of all nodes. It needs to know of all pods and namespaces,
//! which a node must not, so it has an identity of its own for this.

use std::path::PathBuf;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde_json::{Value, json};

use super::nodes::NodeLayout;
use super::storage::make;
use crate::Error;

/// The user who reads policies and what they name.
pub(super) const USER: &str = "coracle:network-policies";
/// The name of the role and of its binding.
const ROLE: &str = "coracle:network-policies";

/// The kubeconfig of that user, beside the node's own.
pub(super) fn kubeconfig(node: &NodeLayout) -> PathBuf {
    node.data().join("policies.kubeconfig")
}

/// Makes what is missing.
///
/// # Errors
/// If the control plane refuses.
pub(super) async fn install(client: &kube::Client) -> Result<(), Error> {
    make::<ClusterRole>(client, role()).await?;
    make::<ClusterRoleBinding>(client, binding()).await
}

fn role() -> Value {
    let read = ["get", "list", "watch"];
    json!({
        "metadata": {"name": ROLE},
        "rules": [
            {"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": read},
            {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": read},
        ],
    })
}

fn binding() -> Value {
    let api_group = "rbac.authorization.k8s.io";
    json!({
        "metadata": {"name": ROLE},
        "roleRef": {"apiGroup": api_group, "kind": "ClusterRole", "name": ROLE},
        "subjects": [{"apiGroup": api_group, "kind": "User", "name": USER}],
    })
}
