//! Plain facts about a pod's specification.

use k8s_openapi::api::core::v1::{
    Container, EphemeralContainer, Pod, PodSpec, ResourceRequirements,
};

use crate::quantity;

/// Role of a container in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to completion before the next one starts.
    Init,
    /// An init container that keeps running beside the main containers.
    Sidecar,
    /// A main container.
    Main,
    /// Added to a running pod for debugging; never restarted.
    Ephemeral,
}

/// The pod's uid; empty for an object that never was stored.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// The pod's name.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The pod's namespace.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// The pod's specification. Every stored pod has one.
pub fn spec(pod: &Pod) -> PodSpecRef<'_> {
    PodSpecRef(pod.spec.as_ref())
}

/// A specification that may be absent: reads as an empty one.
#[derive(Clone, Copy)]
pub struct PodSpecRef<'a>(pub Option<&'a PodSpec>);

impl<'a> PodSpecRef<'a> {
    /// Init containers in order, sidecars included.
    pub fn init_containers(self) -> &'a [Container] {
        self.0
            .and_then(|s| s.init_containers.as_deref())
            .unwrap_or_default()
    }

    /// Main containers.
    pub fn containers(self) -> &'a [Container] {
        self.0.map(|s| s.containers.as_slice()).unwrap_or_default()
    }

    /// Ephemeral containers.
    pub fn ephemeral_containers(self) -> &'a [EphemeralContainer] {
        self.0
            .and_then(|s| s.ephemeral_containers.as_deref())
            .unwrap_or_default()
    }

    /// The pod's restart policy.
    pub fn restart_policy(self) -> &'a str {
        self.0
            .and_then(|s| s.restart_policy.as_deref())
            .unwrap_or("Always")
    }

    /// Whether the pod uses the node's network.
    pub fn host_network(self) -> bool {
        self.0.and_then(|s| s.host_network).unwrap_or(false)
    }

    /// Seconds that containers get to stop.
    pub fn grace_seconds(self) -> i64 {
        self.0
            .and_then(|s| s.termination_grace_period_seconds)
            .unwrap_or(30)
    }
}

/// Whether an init container is a sidecar.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The role of a container listed under `initContainers`.
pub fn init_role(container: &Container) -> Role {
    if is_sidecar(container) {
        Role::Sidecar
    } else {
        Role::Init
    }
}

/// An ephemeral container seen as an ordinary one.
pub fn as_container(ephemeral: &EphemeralContainer) -> Container {
    Container {
        args: ephemeral.args.clone(),
        command: ephemeral.command.clone(),
        env: ephemeral.env.clone(),
        env_from: ephemeral.env_from.clone(),
        image: ephemeral.image.clone(),
        image_pull_policy: ephemeral.image_pull_policy.clone(),
        name: ephemeral.name.clone(),
        resources: ephemeral.resources.clone(),
        security_context: ephemeral.security_context.clone(),
        stdin: ephemeral.stdin,
        stdin_once: ephemeral.stdin_once,
        termination_message_path: ephemeral.termination_message_path.clone(),
        termination_message_policy: ephemeral.termination_message_policy.clone(),
        tty: ephemeral.tty,
        volume_devices: ephemeral.volume_devices.clone(),
        volume_mounts: ephemeral.volume_mounts.clone(),
        working_dir: ephemeral.working_dir.clone(),
        ..Default::default()
    }
}

/// The init or main container with this name.
pub fn find_container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = spec(pod);
    spec.containers()
        .iter()
        .chain(spec.init_containers())
        .find(|c| c.name == name)
}

/// Quality-of-service classes: how the node treats a pod under pressure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Every container's CPU and memory limits equal its requests.
    Guaranteed,
    /// Some request or limit is set.
    Burstable,
    /// Nothing is requested.
    BestEffort,
}

impl Qos {
    /// The class's name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The pod's quality-of-service class.
pub fn qos(pod: &Pod) -> Qos {
    let spec = spec(pod);
    let all: Vec<Option<&ResourceRequirements>> = spec
        .containers()
        .iter()
        .chain(spec.init_containers())
        .map(|c| c.resources.as_ref())
        .collect();
    let amounts = |resources: Option<&ResourceRequirements>, name: &str| {
        let limit = quantity::milli_of(resources.and_then(|r| r.limits.as_ref()), name);
        let request = quantity::milli_of(resources.and_then(|r| r.requests.as_ref()), name);
        (limit.filter(|l| *l > 0), request.filter(|r| *r > 0))
    };
    let anything = all.iter().any(|r| {
        ["cpu", "memory"]
            .iter()
            .any(|n| amounts(*r, n) != (None, None))
    });
    if !anything {
        return Qos::BestEffort;
    }
    let guaranteed = all.iter().all(|r| {
        ["cpu", "memory"].iter().all(|n| {
            let (limit, request) = amounts(*r, n);
            limit.is_some() && (request.is_none() || request == limit)
        })
    });
    if guaranteed {
        Qos::Guaranteed
    } else {
        Qos::Burstable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn qos_classes() {
        let both = json!({"cpu": "1", "memory": "1Gi"});
        for (resources, want) in [
            (json!([{}]), Qos::BestEffort),
            (json!([{"requests": {"cpu": "0"}}]), Qos::BestEffort),
            (json!([{"limits": both}]), Qos::Guaranteed),
            (json!([{"limits": both, "requests": both}]), Qos::Guaranteed),
            (json!([{"limits": both}, {}]), Qos::Burstable),
            (
                json!([{"limits": both, "requests": {"cpu": "500m"}}]),
                Qos::Burstable,
            ),
            (json!([{"requests": {"memory": "1Mi"}}]), Qos::Burstable),
        ] {
            let containers: Vec<_> = resources
                .as_array()
                .unwrap()
                .iter()
                .enumerate()
                .map(|(i, r)| json!({"name": format!("c{i}"), "resources": r}))
                .collect();
            let pod: Pod =
                serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap();
            assert_eq!(qos(&pod), want, "{resources}");
        }
    }
}
