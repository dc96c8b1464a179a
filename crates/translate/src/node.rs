//! Nodes inside: made up from what a pod tells of its node, or imported.

use std::collections::BTreeMap;

use coracle_config::marks;
use coracle_machinery::object;
use serde_json::{Map, Value, json};

use crate::metadata::{applied, merge_metadata};

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

/// Which addresses a node of the host has inside.
#[derive(Clone, Copy, Debug)]
pub struct ShownAddresses<'a> {
    /// The syncer's in place of its own, where kubelets are proxied by address.
    pub syncer: Option<&'a str>,
    /// Its name in place of its own host names.
    pub name_only: bool,
}

impl ShownAddresses<'_> {
    fn of(&self, host: &Value) -> Value {
        let own = object::items(host, "/status/addresses").iter();
        let is_name = |address: &&Value| {
            let kind = address.get("type").and_then(Value::as_str);
            !kind.is_some_and(|kind| kind.ends_with("IP"))
        };
        let (names, ips): (Vec<&Value>, Vec<&Value>) = own.partition(is_name);
        let mut shown = match self.syncer {
            Some(address) => vec![json!({"type": "InternalIP", "address": address})],
            None => ips.into_iter().cloned().collect(),
        };
        if self.name_only {
            shown.push(json!({"type": "Hostname", "address": object::name(host)}));
        } else {
            shown.extend(names.into_iter().cloned());
        }
        shown.into()
    }
}

/// A node of the host as it is, but with the addresses that are shown; its
/// kubelet is the syncer's.
pub fn real_node(host: &Value, addresses: ShownAddresses<'_>, kubelet_port: u16) -> Value {
    let mut labels: Map<String, Value> = object::string_map(host, "/metadata/labels")
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    labels.retain(|key, _| !marks::is_mark(key));
    labels.insert(marks::IMPORTED.into(), "host".into());
    let mut annotations: Map<String, Value> = object::string_map(host, "/metadata/annotations")
        .filter(|(key, _)| !marks::is_mark(key))
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    annotations.insert(marks::SHOWN.into(), Settings::of(host).record().into());
    let mut spec = json!({});
    for field in ["taints", "unschedulable"] {
        crate::json::copy_key(&host["spec"], &mut spec, field);
    }
    let mut status = host.get("status").cloned().unwrap_or_else(|| json!({}));
    crate::json::drop_keys(
        &mut status,
        &["images", "volumesInUse", "volumesAttached", "config"],
    );
    crate::json::set(&mut status, "addresses", addresses.of(host));
    let endpoints = json!({"kubeletEndpoint": {"Port": kubelet_port}});
    crate::json::set(&mut status, "daemonEndpoints", endpoints);
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": object::name(host),
            "labels": labels,
            "annotations": annotations,
        },
        "spec": spec,
        "status": status,
    });
    applied(node, |node| node["metadata"].clone())
}

/// Adds the images that the host's node has to the one inside.
pub fn show_images(inside: &mut Value, host: &Value) {
    crate::json::copy_key(&host["status"], &mut inside["status"], "images");
}

/// What a real node inside and its host should become.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeChanges {
    /// The node inside, if it changes.
    pub inside: Option<Value>,
    /// A merge patch for the host's, if changes made inside are written there.
    pub host: Option<Value>,
}

/// Brings a real node inside, `wanted` as [`real_node`] makes it, together with
/// changes that were made inside since it was last shown: these stay, and with
/// `back` they are written to the host.
pub fn node_changes(host: &Value, inside: &Value, wanted: &Value, back: bool) -> NodeChanges {
    let theirs = Settings::of(host);
    let mine = Settings::of(inside);
    let shown = object::annotation(inside, marks::SHOWN)
        .and_then(Settings::from_record)
        .unwrap_or_else(|| mine.clone());
    let kept = theirs.with_changes(&shown, &mine, |_| true);
    if back {
        let written = theirs.with_changes(&shown, &mine, Settings::may_be_written);
        if written != theirs {
            // What the host makes of it comes back and is shown then.
            return NodeChanges {
                inside: None,
                host: Some(written.patch_from(&theirs, host)),
            };
        }
    }
    let mut updated = inside.clone();
    merge_metadata(&mut updated, wanted);
    let labels = object::child_map(&mut updated["metadata"], "labels");
    labels.retain(|key, _| marks::is_mark(key));
    labels.extend(kept.labels.clone());
    let taints: Vec<Value> = kept.taints.values().cloned().collect();
    if crate::json::list(&updated["spec"], "taints") != taints {
        crate::json::set(&mut updated["spec"], "taints", taints);
    }
    crate::json::copy_key(&wanted["spec"], &mut updated["spec"], "unschedulable");
    NodeChanges {
        inside: (updated != *inside).then_some(updated),
        host: None,
    }
}

/// Labels and taints of a node, without marks.
#[derive(Clone, Debug, Default, PartialEq)]
struct Settings {
    labels: BTreeMap<String, Value>,
    taints: BTreeMap<String, Value>,
}

/// Taints that controllers set by the state of a node. Each side has its own.
const STATE_TAINTS: &[&str] = &["node.kubernetes.io/", "node.cloudprovider.kubernetes.io/"];

impl Settings {
    fn of(node: &Value) -> Self {
        let labels = object::string_map(node, "/metadata/labels")
            .filter(|(key, _)| !marks::is_mark(key))
            .map(|(key, value)| (key.to_owned(), value.into()))
            .collect();
        let mut settings = Self {
            labels,
            ..Self::default()
        };
        for taint in object::items(node, "/spec/taints") {
            let text = |key: &str| crate::json::text(taint, key);
            let key = format!("{}:{}", text("key"), text("effect"));
            settings.taints.insert(key, taint.clone());
        }
        settings
    }

    fn record(&self) -> String {
        json!({"labels": self.labels, "taints": self.taints}).to_string()
    }

    fn from_record(text: &str) -> Option<Self> {
        let mut record: Value = serde_json::from_str(text).ok()?;
        let mut part = |key: &str| match record.get_mut(key).map(Value::take) {
            Some(Value::Object(map)) => map.into_iter().collect(),
            _ => BTreeMap::new(),
        };
        Some(Self {
            labels: part("labels"),
            taints: part("taints"),
        })
    }

    /// These, and what changed from `shown` to `mine` where `counts`.
    fn with_changes(&self, shown: &Self, mine: &Self, counts: fn(&str) -> bool) -> Self {
        let part = |theirs: &BTreeMap<String, Value>,
                    shown: &BTreeMap<String, Value>,
                    mine: &BTreeMap<String, Value>| {
            let mut merged = theirs.clone();
            for key in shown.keys().chain(mine.keys()).filter(|key| counts(key)) {
                match mine.get(key) {
                    same if same == shown.get(key) => {}
                    Some(value) => {
                        merged.insert(key.clone(), value.clone());
                    }
                    None => {
                        merged.remove(key);
                    }
                }
            }
            merged
        };
        Self {
            labels: part(&self.labels, &shown.labels, &mine.labels),
            taints: part(&self.taints, &shown.taints, &mine.taints),
        }
    }

    fn may_be_written(key: &str) -> bool {
        !STATE_TAINTS.iter().any(|prefix| key.starts_with(prefix))
    }

    /// The merge patch that makes `before`, which `host` has, into these.
    fn patch_from(&self, before: &Self, host: &Value) -> Value {
        let mut labels = Map::new();
        for key in before.labels.keys().chain(self.labels.keys()) {
            if self.labels.get(key) != before.labels.get(key) {
                let value = self.labels.get(key).cloned().unwrap_or(Value::Null);
                labels.insert(key.clone(), value);
            }
        }
        let mut patch = json!({
            "metadata": {"resourceVersion": object::resource_version(host), "labels": labels},
        });
        if self.taints != before.taints {
            let taints: Vec<&Value> = self.taints.values().collect();
            patch["spec"] = json!({"taints": taints});
        }
        patch
    }
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

    const PROXIED: ShownAddresses<'_> = ShownAddresses {
        syncer: Some("10.0.0.1"),
        name_only: true,
    };

    #[test]
    fn addresses_are_the_syncers_or_the_nodes_own() {
        let host = json!({"metadata": {"name": "n"}, "status": {"addresses": [
            {"type": "Hostname", "address": "n.example.com"},
            {"type": "InternalIP", "address": "192.168.0.2"},
            {"type": "ExternalIP", "address": "203.0.113.2"},
            {"type": "InternalDNS", "address": "n.internal"},
        ]}});
        let shown = |syncer: Option<&str>, name_only: bool| {
            let addresses = ShownAddresses { syncer, name_only };
            let node = real_node(&host, addresses, 10250);
            let all = object::items(&node, "/status/addresses").iter();
            all.map(|a| {
                format!(
                    "{} {}",
                    crate::json::text(a, "type"),
                    crate::json::text(a, "address")
                )
            })
            .collect::<Vec<_>>()
            .join(", ")
        };
        assert_eq!(
            shown(Some("10.0.0.1"), true),
            "InternalIP 10.0.0.1, Hostname n"
        );
        assert_eq!(
            shown(None, true),
            "InternalIP 192.168.0.2, ExternalIP 203.0.113.2, Hostname n"
        );
        assert_eq!(
            shown(Some("10.0.0.1"), false),
            "InternalIP 10.0.0.1, Hostname n.example.com, InternalDNS n.internal"
        );
    }

    #[test]
    fn images_of_a_node_are_shown_only_on_demand() {
        let host = json!({"metadata": {"name": "n"}, "status": {"images": [{"names": ["a"]}]}});
        let mut inside = real_node(&host, PROXIED, 10250);
        assert!(inside["status"].get("images").is_none());
        show_images(&mut inside, &host);
        assert_eq!(inside["status"]["images"][0]["names"][0], "a");
    }

    fn node(labels: Value, taints: Value) -> Value {
        json!({
            "metadata": {"name": "n", "resourceVersion": "7", "labels": labels},
            "spec": {"taints": taints},
        })
    }

    fn taint(key: &str) -> Value {
        json!({"key": key, "effect": "NoSchedule"})
    }

    /// The inside node brought up to date with the host's.
    fn shown(host: &Value, inside: &Value) -> Value {
        let wanted = real_node(host, PROXIED, 10250);
        let changes = node_changes(host, inside, &wanted, false);
        assert_eq!(changes.host, None);
        let updated = changes.inside.unwrap_or_else(|| inside.clone());
        assert_eq!(
            node_changes(host, &updated, &wanted, false),
            NodeChanges::default()
        );
        updated
    }

    #[test]
    fn changes_made_inside_stay_beside_those_of_the_host() {
        let host = node(json!({"zone": "a", "env": "dev"}), json!([taint("x")]));
        let mut inside = real_node(&host, PROXIED, 10250);
        assert_eq!(shown(&host, &inside), inside);
        inside["metadata"]["labels"]["own"] = "1".into();
        inside["metadata"]["labels"]["env"] = "test".into();
        inside["spec"]["taints"] = json!([taint("y")]);
        let host = node(
            json!({"zone": "b", "env": "dev"}),
            json!([taint("x"), taint("z")]),
        );
        let inside = shown(&host, &inside);
        let label = |key: &str| object::label(&inside, key);
        assert_eq!(label("zone"), Some("b"));
        assert_eq!(label("own"), Some("1"));
        assert_eq!(label("env"), Some("test"));
        assert_eq!(label(marks::IMPORTED), Some("host"));
        assert_eq!(inside["spec"]["taints"], json!([taint("y"), taint("z")]));
        // What goes on the host goes inside.
        let inside = shown(&node(json!({"env": "dev"}), json!([])), &inside);
        assert_eq!(object::label(&inside, "zone"), None);
        assert_eq!(inside["spec"]["taints"], json!([taint("y")]));
    }

    #[test]
    fn changes_made_inside_are_written_back_but_for_the_state_of_nodes() {
        let host = node(json!({"zone": "a", "env": "dev"}), json!([taint("x")]));
        let mut inside = real_node(&host, PROXIED, 10250);
        let labels = inside["metadata"]["labels"].as_object_mut().unwrap();
        labels.remove("zone");
        labels.insert("env".into(), "test".into());
        labels.insert("coracle.dev/forged".into(), "1".into());
        let lost = taint("node.kubernetes.io/unreachable");
        inside["spec"]["taints"] = json!([lost, taint("x"), taint("y")]);
        let wanted = real_node(&host, PROXIED, 10250);
        let changes = node_changes(&host, &inside, &wanted, true);
        assert_eq!(changes.inside, None);
        assert_eq!(
            changes.host.unwrap(),
            json!({
                "metadata": {"resourceVersion": "7", "labels": {"zone": null, "env": "test"}},
                "spec": {"taints": [taint("x"), taint("y")]},
            })
        );
        // Once the host has it, nothing is left to do there.
        let host = node(json!({"env": "test"}), json!([taint("x"), taint("y")]));
        let wanted = real_node(&host, PROXIED, 10250);
        let changes = node_changes(&host, &inside, &wanted, true);
        assert_eq!(changes.host, None);
        let inside = changes.inside.unwrap();
        assert_eq!(
            node_changes(&host, &inside, &wanted, true),
            NodeChanges::default()
        );
        // A later change of the host is one.
        let host = node(json!({}), json!([]));
        let wanted = real_node(&host, PROXIED, 10250);
        let changes = node_changes(&host, &inside, &wanted, true);
        assert_eq!(changes.host, None);
        assert_eq!(object::label(&changes.inside.unwrap(), "env"), None);
    }
}
