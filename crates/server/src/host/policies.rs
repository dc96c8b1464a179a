//! Who enforces network policies on the embedded host: the first node's agent,
//! for the pods of all nodes. It needs to know of all pods and namespaces,
//! which a node must not, so it has an identity of its own for this.

use std::path::PathBuf;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use super::CLUSTER_CIDR;
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

/// Shuts pods off, if there are policies and the kernel has no rules of them,
/// as after a reboot. To be called before any agent starts pods; the first
/// node's opens what the policies let through.
///
/// # Errors
/// If the control plane does not answer, or rules cannot be written.
pub(super) async fn close(client: &kube::Client, first: &NodeLayout) -> Result<(), Error> {
    let policies: Api<NetworkPolicy> = Api::all(client.clone());
    let one = ListParams::default().limit(1);
    let found = policies.list_metadata(&one).await;
    let found = found.map_err(|error| Error::Program {
        program: "control-plane".to_owned(),
        why: format!("cannot list network policies: {error}"),
    })?;
    if found.items.is_empty() {
        return Ok(());
    }
    coracle_node::policies::close(&first.rules_table(), CLUSTER_CIDR, &first.bridge())
        .await
        .map_err(|error| Error::Program {
            program: "nft".to_owned(),
            why: format!("cannot shut off pods: {error}"),
        })
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
