//! A container as the container runtime wants it described. Pure.

use std::collections::HashMap;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod, SecurityContext};

use super::info::{self, Qos};
use super::sandbox;
use crate::cri::{LABEL_CONTAINER_NAME, LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID};
use crate::downward::NodeFacts;
use crate::env::expand;
use crate::quantity;

/// Annotation with the hash of the part of the specification that, when
/// changed, calls for a new container: its image.
pub const ANNOTATION_HASH: &str = "io.kubernetes.container.hash";
/// Annotation with the host path of the termination message file.
pub const ANNOTATION_MESSAGE: &str = "io.coracle.terminationMessageFile";

/// Shares of the CPU that a container gets at least, and one core's shares.
const MIN_SHARES: i64 = 2;
const SHARES_PER_CORE: i64 = 1024;
const MAX_SHARES: i64 = 262_144;
/// Length of a CPU quota period, and the least quota the kernel takes.
const QUOTA_PERIOD_MICROS: i64 = 100_000;
const MIN_QUOTA_MICROS: i64 = 1000;

/// Paths that are hidden or read-only in an unprivileged container.
const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Why a container's configuration cannot be made. The container waits with
/// reason `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ConfigError {
    /// The pod forbids root and the image or pod asks for root.
    #[error("container's runAsUser breaks non-root policy")]
    RootUser,
    /// The pod forbids root and the image runs as root.
    #[error("container has runAsNonRoot and image will run as root")]
    RootImage,
    /// The pod forbids root and the image names its user, whose number is
    /// not known.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({0}), cannot verify user is non-root"
    )]
    NamedUser(String),
}

/// What a container's configuration is made from.
pub struct Input<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// How many times this container was started before.
    pub attempt: u32,
    /// The image, as the runtime has it.
    pub image: &'a cri::Image,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// Mounts, in the order in which they are to be made.
    pub mounts: Vec<cri::Mount>,
    /// Host path of the termination message file.
    pub message_file: String,
    /// Facts about the node.
    pub node: &'a NodeFacts,
    /// Id of the container whose process namespace is to be joined.
    pub target_id: Option<String>,
}

/// The container's configuration.
pub fn config(input: Input<'_>) -> Result<cri::ContainerConfig, ConfigError> {
    let Input { pod, container, .. } = input;
    let security = security(pod, container, input.image, input.target_id)?;
    let lookup = |name: &str| {
        input
            .env
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.clone())
    };
    let expand_all = |list: Option<&Vec<String>>| -> Vec<String> {
        list.into_iter()
            .flatten()
            .map(|text| expand(text, lookup))
            .collect()
    };
    let labels = [
        (LABEL_CONTAINER_NAME, container.name.as_str()),
        (LABEL_POD_NAME, info::name(pod)),
        (LABEL_POD_NAMESPACE, info::namespace(pod)),
        (LABEL_POD_UID, info::uid(pod)),
    ];
    let annotations = [
        (ANNOTATION_HASH, spec_hash(container)),
        (ANNOTATION_MESSAGE, input.message_file),
        (
            "io.kubernetes.container.restartCount",
            input.attempt.to_string(),
        ),
    ];
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: container.name.clone(),
            attempt: input.attempt,
        }),
        image: Some(cri::ImageSpec {
            image: input.image.id.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expand_all(container.command.as_ref()),
        args: expand_all(container.args.as_ref()),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts: input.mounts,
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        annotations: HashMap::from(annotations.map(|(k, v)| (k.to_owned(), v))),
        log_path: log_path(&container.name, input.attempt),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources(pod, container, input.node)),
            security_context: Some(security),
        }),
        envs: input
            .env
            .into_iter()
            .map(|(key, value)| cri::KeyValue { key, value })
            .collect(),
        ..Default::default()
    })
}

/// Path of a container's log below its pod's log directory.
pub fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

/// Hash of what, when changed in a running pod, calls for a new container.
pub fn spec_hash(container: &Container) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(container.image.as_deref().unwrap_or_default());
    digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn resources(pod: &Pod, container: &Container, node: &NodeFacts) -> cri::LinuxContainerResources {
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|r| r.limits.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    let cpu_limit = quantity::milli_of(limits, "cpu").filter(|v| *v > 0);
    let cpu_request = quantity::milli_of(requests, "cpu")
        .or(cpu_limit)
        .unwrap_or(0);
    let memory_limit = quantity::units_of(limits, "memory").unwrap_or(0);
    let memory_request = quantity::units_of(requests, "memory").unwrap_or(memory_limit);
    let shares = cpu_request.saturating_mul(SHARES_PER_CORE) / 1000;
    cri::LinuxContainerResources {
        cpu_period: QUOTA_PERIOD_MICROS,
        cpu_quota: cpu_limit.map_or(0, |milli| {
            (milli.saturating_mul(QUOTA_PERIOD_MICROS) / 1000).max(MIN_QUOTA_MICROS)
        }),
        cpu_shares: shares.clamp(MIN_SHARES, MAX_SHARES),
        memory_limit_in_bytes: memory_limit,
        oom_score_adj: oom_score(info::qos(pod), memory_request, node.memory_bytes),
        ..Default::default()
    }
}

/// How readily the kernel kills the container when memory runs out: the less
/// it asked for in relation to the node, the sooner.
fn oom_score(qos: Qos, request: i64, capacity: i64) -> i64 {
    match qos {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let share = request.saturating_mul(1000) / capacity.max(1);
            (1000 - share).clamp(3, 999)
        }
    }
}

fn security(
    pod: &Pod,
    container: &Container,
    image: &cri::Image,
    target_id: Option<String>,
) -> Result<cri::LinuxContainerSecurityContext, ConfigError> {
    let shared = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let empty = SecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&empty);
    let user = own.run_as_user.or(shared.and_then(|s| s.run_as_user));
    let group = own.run_as_group.or(shared.and_then(|s| s.run_as_group));
    let non_root = own
        .run_as_non_root
        .or(shared.and_then(|s| s.run_as_non_root))
        .unwrap_or(false);
    if non_root {
        check_non_root(user, image)?;
    }
    let privileged = own.privileged.unwrap_or(false);
    let image_uid = image.uid.map(|v| v.value);
    let mut namespaces = sandbox::namespaces(pod);
    if let Some(id) = target_id {
        namespaces.pid = cri::NamespaceMode::Target.into();
        namespaces.target_id = id;
    }
    let profile = own
        .seccomp_profile
        .as_ref()
        .or(shared.and_then(|s| s.seccomp_profile.as_ref()));
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| -> Vec<String> {
        if unmasked {
            Vec::new()
        } else {
            list.iter().map(|p| (*p).to_owned()).collect()
        }
    };
    Ok(cri::LinuxContainerSecurityContext {
        capabilities: Some(cri::Capability {
            add_capabilities: capability_names(own, |c| c.add.as_ref()),
            drop_capabilities: capability_names(own, |c| c.drop.as_ref()),
            ..Default::default()
        }),
        privileged,
        namespace_options: Some(namespaces),
        // A group alone needs a user beside it: the image's.
        run_as_user: user
            .or(group.and(image_uid.or(Some(0)).filter(|_| image.username.is_empty())))
            .map(|value| cri::Int64Value { value }),
        run_as_group: group.map(|value| cri::Int64Value { value }),
        run_as_username: match user {
            None => image.username.clone(),
            Some(_) => String::new(),
        },
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: sandbox::supplemental_groups(shared),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: Some(if privileged {
            sandbox::seccomp(None)
        } else {
            sandbox::seccomp(profile)
        }),
        ..Default::default()
    })
}

fn capability_names(
    context: &SecurityContext,
    pick: impl Fn(&k8s_openapi::api::core::v1::Capabilities) -> Option<&Vec<String>>,
) -> Vec<String> {
    context
        .capabilities
        .as_ref()
        .and_then(pick)
        .into_iter()
        .flatten()
        .map(|name| {
            let upper = name.to_uppercase();
            upper
                .strip_prefix("CAP_")
                .map(str::to_owned)
                .unwrap_or(upper)
        })
        .collect()
}

fn check_non_root(user: Option<i64>, image: &cri::Image) -> Result<(), ConfigError> {
    match user {
        Some(0) => Err(ConfigError::RootUser),
        Some(_) => Ok(()),
        None => match image.uid.as_ref().map(|v| v.value) {
            Some(0) => Err(ConfigError::RootImage),
            Some(_) => Ok(()),
            None if image.username.is_empty() => Err(ConfigError::RootImage),
            None => Err(ConfigError::NamedUser(image.username.clone())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn make(
        pod_spec: serde_json::Value,
        image: cri::Image,
    ) -> Result<cri::ContainerConfig, ConfigError> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": pod_spec
        }))
        .unwrap();
        let container = info::spec(&pod).containers()[0].clone();
        config(Input {
            pod: &pod,
            container: &container,
            attempt: 3,
            image: &image,
            env: vec![("A".into(), "x".into())],
            mounts: Vec::new(),
            message_file: "/m".into(),
            node: &NodeFacts {
                memory_bytes: 1 << 34,
                ..Default::default()
            },
            target_id: None,
        })
    }

    fn image() -> cri::Image {
        cri::Image {
            id: "sha256:1".into(),
            uid: Some(cri::Int64Value { value: 0 }),
            ..Default::default()
        }
    }

    #[test]
    fn commands_and_resources() {
        let config = make(
            json!({"containers": [{"name": "c", "image": "i", "command": ["run", "$(A)"],
                "args": ["$(B)"], "resources": {"limits": {"cpu": "500m", "memory": "64Mi"},
                "requests": {"cpu": "250m"}}}]}),
            image(),
        )
        .unwrap();
        assert_eq!(config.command, ["run", "x"]);
        assert_eq!(config.args, ["$(B)"]);
        assert_eq!(config.log_path, "c/3.log");
        let resources = config.linux.unwrap().resources.unwrap();
        assert_eq!(resources.cpu_quota, 50_000);
        assert_eq!(resources.cpu_shares, 256);
        assert_eq!(resources.memory_limit_in_bytes, 64 << 20);
        assert_eq!(resources.oom_score_adj, 997);
    }

    #[test]
    fn security_contexts() {
        let config = make(
            json!({"securityContext": {"runAsUser": 5, "fsGroup": 7, "supplementalGroups": [6]},
                "containers": [{"name": "c", "securityContext": {"runAsUser": 9,
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"add": ["NET_ADMIN"], "drop": ["CAP_CHOWN"]},
                "seccompProfile": {"type": "RuntimeDefault"}}}]}),
            image(),
        )
        .unwrap();
        let security = config.linux.unwrap().security_context.unwrap();
        assert_eq!(security.run_as_user.unwrap().value, 9);
        assert_eq!(security.supplemental_groups, [6, 7]);
        assert!(security.no_new_privs && security.readonly_rootfs);
        let capabilities = security.capabilities.unwrap();
        assert_eq!(capabilities.add_capabilities, ["NET_ADMIN"]);
        assert_eq!(capabilities.drop_capabilities, ["CHOWN"]);
        assert!(!security.masked_paths.is_empty());
    }

    #[test]
    fn non_root() {
        let spec = |user: serde_json::Value| {
            json!({"containers": [{"name": "c",
                "securityContext": {"runAsNonRoot": true, "runAsUser": user}}]})
        };
        assert_eq!(
            make(spec(json!(0)), image()).unwrap_err(),
            ConfigError::RootUser
        );
        assert_eq!(
            make(spec(json!(null)), image()).unwrap_err(),
            ConfigError::RootImage
        );
        assert!(make(spec(json!(5)), image()).is_ok());
        let named = cri::Image {
            username: "www".into(),
            ..Default::default()
        };
        assert_eq!(
            make(spec(json!(null)), named).unwrap_err(),
            ConfigError::NamedUser("www".into())
        );
    }
}
