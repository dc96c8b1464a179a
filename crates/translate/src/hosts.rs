//! The full name of a pod that has a subdomain: `web-0.web.NS.svc.DOMAIN`.
//!
//! A kubelet writes it into the pod's `/etc/hosts`, where `hostname -f` finds
//! it, and the kubelet of the host knows the host's namespace only. So a first
//! container writes the file anew, and the others get that.

use coracle_machinery::{Quantity, object};
use serde_json::{Map, Value, json};

use crate::env::CONTAINER_LISTS;
use crate::json::{child_list, drop_keys, list, list_mut, text};
use crate::names::Translator;

/// The container that writes the file, and its volume.
pub(crate) const NAME: &str = "coracle-rewrite-hosts";

/// What it runs.
const COMMAND: &str = "rewrite-hosts";

/// Where a kubelet puts the file, and where the others find it.
const FILE: &str = "/etc/hosts";

/// Where the first container writes.
const DIRECTORY: &str = "/hosts";

/// What the first container needs, in bytes: the program is mapped from its
/// image, which counts until it is dropped.
const MEMORY: i64 = 32 << 20;

impl Translator {
    /// Makes the pod know itself by its name inside, if it has a full one.
    /// `spec` has its host name.
    pub(crate) fn rewritten_hosts(&self, spec: &mut Value, pod: &Value) {
        if !self.has_full_name(pod) {
            return;
        }
        let subdomain = text(spec, "subdomain").to_owned();
        let hostname = text(spec, "hostname").to_owned();
        let full = format!(
            "{hostname}.{subdomain}.{}.svc.{}",
            object::namespace(pod),
            self.config.networking.advanced.cluster_domain
        );
        let volume = free_name(list(spec, "volumes"));
        let file = json!({"name": volume, "mountPath": FILE, "subPath": "hosts"});
        for field in CONTAINER_LISTS {
            for container in list_mut(spec, field) {
                let taken = list(container, "volumeMounts")
                    .iter()
                    .any(|mount| text(mount, "mountPath") == FILE);
                if let (false, Some(map)) = (taken, container.as_object_mut()) {
                    child_list(map, "volumeMounts").push(file.clone());
                }
            }
        }
        let first = self.first_container(spec, &volume, &hostname, &full);
        if let Some(map) = spec.as_object_mut() {
            child_list(map, "volumes").push(json!({"name": volume, "emptyDir": {}}));
            child_list(map, "initContainers").insert(0, first);
        }
        // The host's full name means nothing inside.
        drop_keys(spec, &["subdomain", "setHostnameAsFQDN"]);
    }

    /// True for pods with a full name that the host does not know.
    pub(crate) fn has_full_name(&self, pod: &Value) -> bool {
        let on_the_nodes_network = pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true));
        self.config.sync.to_host.pods.rewrite_hosts.enabled
            && !self.image.is_empty()
            && !object::text(pod, "/spec/subdomain").is_empty()
            && !on_the_nodes_network
    }

    fn first_container(&self, spec: &Value, volume: &str, hostname: &str, full: &str) -> Value {
        let policy = &self.config.control_plane.stateful_set.image_pull_policy;
        let policy = if policy.is_empty() {
            "IfNotPresent"
        } else {
            policy
        };
        let resources = list(spec, "containers").first().map(resources);
        json!({
            "name": free_name(list(spec, "initContainers")),
            "image": self.image,
            "imagePullPolicy": policy,
            "args": [
                COMMAND,
                format!("--hostname={hostname}"),
                format!("--name={full}"),
                format!("--to={DIRECTORY}/hosts"),
            ],
            "resources": resources.unwrap_or_default(),
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": true,
                "runAsNonRoot": true,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumeMounts": [{"name": volume, "mountPath": DIRECTORY}],
        })
    }
}

/// True for the container that writes the file.
pub(crate) fn is_ours(container: &Value) -> bool {
    text(container, "name").starts_with(NAME)
        && list(container, "args").first() == Some(&json!(COMMAND))
}

/// True if the pod has a first container of this name inside.
pub(crate) fn is_inside(name: &str, pod: &Value) -> bool {
    let own = object::items(pod, "/spec/initContainers");
    own.iter().any(|container| text(container, "name") == name)
}

/// True if an event of a host pod is about a first container that the pod does
/// not have inside.
pub fn is_of_other_container(event: &Value, pod: &Value) -> bool {
    object::text(event, "/involvedObject/fieldPath")
        .strip_prefix("spec.initContainers{")
        .and_then(|rest| rest.strip_suffix('}'))
        .is_some_and(|name| !is_inside(name, pod))
}

/// A name that none of these has.
fn free_name(others: &[Value]) -> String {
    let taken = |name: &str| others.iter().any(|other| text(other, "name") == name);
    let mut name = NAME.to_owned();
    while taken(&name) {
        name.push('x');
    }
    name
}

/// What the container asks for: as much as one that runs later, so that the pod
/// needs no more for it and stays in its class of quality, but enough to run.
fn resources(other: &Value) -> Value {
    let mut all = Map::new();
    for kind in ["requests", "limits"] {
        let asked = |name: &str| other.pointer(&format!("/resources/{kind}/{name}"));
        let mut part = Map::new();
        if let Some(cpu) = asked("cpu") {
            part.insert("cpu".into(), cpu.clone());
        }
        if let Some(memory) = asked("memory") {
            let enough = Quantity::from_value(memory)
                .is_ok_and(|asked| asked >= Quantity::from_bytes(MEMORY));
            let memory = if enough {
                memory.clone()
            } else {
                json!("32Mi")
            };
            part.insert("memory".into(), memory);
        }
        if !part.is_empty() {
            all.insert(kind.into(), part.into());
        }
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_about_containers_of_the_tenant_are_told() {
        let pod = json!({"spec": {"initContainers": [{"name": "first"}]}});
        let about = |path: &str| json!({"involvedObject": {"fieldPath": path}});
        for (path, other) in [
            ("spec.initContainers{first}", false),
            ("spec.initContainers{coracle-rewrite-hosts}", true),
            ("spec.containers{main}", false),
            ("", false),
        ] {
            assert_eq!(is_of_other_container(&about(path), &pod), other, "{path}");
        }
    }

    #[test]
    fn only_pods_with_a_full_name_have_it_written() {
        let mut t = Translator::new("vc", "demo", std::sync::Arc::default());
        let pod = json!({"spec": {"subdomain": "web"}});
        assert!(!t.has_full_name(&pod), "without an image");
        t.image = "coracle.dev/coracle:1".into();
        assert!(t.has_full_name(&pod));
        for other in [
            json!({"spec": {}}),
            json!({"spec": {"subdomain": "web", "hostNetwork": true}}),
        ] {
            assert!(!t.has_full_name(&other), "{other}");
        }
    }

    #[test]
    fn what_is_told_of_our_container_stays_on_the_host() {
        let t = Translator::new("vc", "demo", std::sync::Arc::default());
        let status = |names: &[&str]| -> Value {
            let all: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
            json!({"status": {"initContainerStatuses": all}})
        };
        let pod = json!({"spec": {"initContainers": [{"name": "first"}]}});
        let shown = t.pod_status_to_virtual(&status(&[NAME, "first"]), &pod);
        assert_eq!(shown.as_ref(), status(&["first"]).get("status"));
        let pod = json!({"spec": {}, "status": {"phase": "Running"}});
        let shown = t.pod_status_to_virtual(&status(&[NAME]), &pod);
        assert_eq!(shown, Some(json!({})));
    }
}
