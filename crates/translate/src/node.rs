//! Nodes inside: made up from what a pod tells of its node, or imported.

use coracle_config::marks;
use coracle_machinery::object;
use serde_json::{Map, Value, json};

use crate::names::Translator;

/// What a virtual node is made from when the host's nodes cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeNode {
    /// The name, that of the host's node.
    pub name: String,
    /// Where its kubelet endpoint is reached: the syncer.
    pub address: String,
    /// The port of that endpoint.
    pub kubelet_port: u16,
    /// The host's version, as in `v1.36.2`.
    pub version: String,
    /// `amd64`, `arm64`: that of the syncer's own machine.
    pub architecture: String,
    /// Whether the host's node answers, as far as its pods tell.
    pub alive: bool,
    /// The present time, RFC 3339.
    pub now: String,
}

/// True if a host pod was marked not ready by the host's node controller, as
/// happens when its node no longer answers. A kubelet gives a reason whenever
/// it says that a pod is not ready, and says the same of the containers.
pub fn is_marked_lost(pod: &Value) -> bool {
    let condition = |kind: &str| {
        object::items(pod, "/status/conditions")
            .iter()
            .find(|c| crate::json::text(c, "type") == kind)
    };
    let (Some(ready), Some(containers)) = (condition("Ready"), condition("ContainersReady")) else {
        return false;
    };
    crate::json::text(ready, "status") == "False"
        && crate::json::text(ready, "reason").is_empty()
        && crate::json::text(containers, "status") == "True"
        && object::items(pod, "/spec/readinessGates").is_empty()
}

/// What a fake node claims to have: enough for any pod, since the host's
/// scheduler decides where there is room.
fn capacity() -> Value {
    json!({"cpu": "16", "memory": "32Gi", "ephemeral-storage": "100Gi", "pods": "110"})
}

/// A node made up.
pub fn fake_node(fake: &FakeNode) -> Value {
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": fake.now, "lastTransitionTime": fake.now,
        })
    };
    let ready = if fake.alive {
        condition(
            "Ready",
            "True",
            "KubeletReady",
            "the host does not report the node as lost",
        )
    } else {
        condition(
            "Ready",
            "Unknown",
            "NodeStatusUnknown",
            "the host marked the pods of the node as not ready",
        )
    };
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": fake.name,
            "labels": {
                marks::IMPORTED: "host",
                "kubernetes.io/hostname": fake.name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": fake.architecture,
                "beta.kubernetes.io/os": "linux",
                "beta.kubernetes.io/arch": fake.architecture,
            },
        },
        "spec": {},
        "status": {
            "capacity": capacity(),
            "allocatable": capacity(),
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                ready,
            ],
            "addresses": addresses(&fake.address, &fake.name),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": fake.kubelet_port}},
            "nodeInfo": {
                "architecture": fake.architecture, "operatingSystem": "linux",
                "kubeletVersion": fake.version, "kubeProxyVersion": "",
                "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
                "machineID": "", "osImage": "", "systemUUID": "",
            },
        },
    })
}

/// A node of the host as it is, but reached through the syncer.
pub fn real_node(host: &Value, address: &str, kubelet_port: u16) -> Value {
    let mut labels: Map<String, Value> = object::string_map(host, "/metadata/labels")
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    labels.insert(marks::IMPORTED.into(), "host".into());
    let mut spec = json!({});
    for field in ["taints", "unschedulable"] {
        crate::json::copy_key(&host["spec"], &mut spec, field);
    }
    let mut status = host.get("status").cloned().unwrap_or_else(|| json!({}));
    crate::json::drop_keys(
        &mut status,
        &["images", "volumesInUse", "volumesAttached", "config"],
    );
    crate::json::set(
        &mut status,
        "addresses",
        addresses(address, object::name(host)),
    );
    let endpoints = json!({"kubeletEndpoint": {"Port": kubelet_port}});
    crate::json::set(&mut status, "daemonEndpoints", endpoints);
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": object::name(host),
            "labels": labels,
            "annotations": host.pointer("/metadata/annotations").cloned().unwrap_or_else(|| json!({})),
        },
        "spec": spec,
        "status": status,
    })
}

fn addresses(address: &str, name: &str) -> Value {
    json!([
        {"type": "InternalIP", "address": address},
        {"type": "Hostname", "address": name},
    ])
}

impl Translator {
    /// True if a virtual node was put there by us and may be changed or removed.
    pub fn is_imported(&self, virtual_object: &Value) -> bool {
        object::label(virtual_object, marks::IMPORTED) == Some("host")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_node_controller_says_not_ready_without_a_reason() {
        let pod = |ready: Value, containers: &str| json!({"status": {"conditions": [ready, {"type": "ContainersReady", "status": containers}]}});
        let bare = json!({"type": "Ready", "status": "False"});
        let reasoned = json!({"type": "Ready", "status": "False", "reason": "ContainersNotReady"});
        let ready = json!({"type": "Ready", "status": "True"});
        assert!(is_marked_lost(&pod(bare.clone(), "True")));
        assert!(!is_marked_lost(&pod(bare, "False")));
        assert!(!is_marked_lost(&pod(reasoned, "True")));
        assert!(!is_marked_lost(&pod(ready, "True")));
        assert!(!is_marked_lost(&json!({})));
    }
}
