//! The node's own object: registration, conditions, lease.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
    NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::events::Kind;
use crate::pod::status::merge_patch;
use crate::pod::worker::Shared;

/// Version that this agent's behaviour follows.
const KUBELET_VERSION: &str = "v1.36.2";
/// How often the lease is renewed, and how long it counts.
const LEASE_EVERY: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
/// An unchanged status is written this often.
const STATUS_EVERY: i64 = 300;
/// Memory and disk below this share of the whole count as pressure.
const LOW_MEMORY_BYTES: i64 = 100 << 20;
const LOW_DISK_DIVISOR: i64 = 20;

/// What the machine offers.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Processors.
    pub cpus: i64,
    /// Memory in bytes.
    pub memory_bytes: i64,
    /// Size of the file system of the data directory in bytes.
    pub storage_bytes: i64,
    data_dir: PathBuf,
}

impl Machine {
    /// Reads the machine's sizes.
    pub fn read(data_dir: &Path) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            cpus: i64::try_from(cpus).unwrap_or(1),
            memory_bytes: meminfo("MemTotal:").unwrap_or(0),
            storage_bytes: storage(data_dir).map_or(0, |(total, _)| total),
            data_dir: data_dir.to_owned(),
        }
    }
}

fn meminfo(key: &str) -> Option<i64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with(key))?;
    let kib: i64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib.saturating_mul(1024))
}

/// Total and available bytes of the file system at `path`.
fn storage(path: &Path) -> Option<(i64, i64)> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let bytes = |blocks: u64| {
        i64::try_from(blocks.saturating_mul(stat.fragment_size())).unwrap_or(i64::MAX)
    };
    Some((bytes(stat.blocks()), bytes(stat.blocks_available())))
}

/// Keeps the node's object and lease current.
pub struct Keeper {
    shared: Arc<Shared>,
    machine: Machine,
    kubelet_port: u16,
    written_at: Option<Timestamp>,
    was_ready: Option<bool>,
}

impl Keeper {
    /// A keeper for a node whose kubelet endpoint listens on this port.
    pub fn new(shared: Arc<Shared>, machine: Machine, kubelet_port: u16) -> Self {
        Self {
            shared,
            machine,
            kubelet_port,
            written_at: None,
            was_ready: None,
        }
    }

    /// Registers the node and keeps it current until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        /// Pause after a failure.
        const RETRY: Duration = Duration::from_secs(1);
        loop {
            let pass = async {
                let node = self.keep_node().await?;
                self.renew_lease(&node).await
            };
            let result = tokio::select! {
                result = pass => result,
                () = shutdown.cancelled() => return,
            };
            let pause = match result {
                // A node that is not ready yet (the runtime starts) is looked
                // at more often, so that pods start without delay.
                Ok(()) if self.was_ready == Some(true) => LEASE_EVERY,
                Ok(()) => RETRY,
                Err(error) => {
                    tracing::debug!(%error, "node not written");
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Creates the node if it is missing, and writes what has changed.
    async fn keep_node(&mut self) -> Result<Node, kube::Error> {
        let api: Api<Node> = Api::all(self.shared.client.clone());
        let name = &self.shared.config.node_name;
        let now = Timestamp::now();
        let mut node = match api.get_opt(name).await? {
            Some(node) => node,
            None => {
                let node = api.create(&PostParams::default(), &self.new_node()).await?;
                let text = format!("Node {name} event: Registered Node {name} in Controller");
                self.shared
                    .events
                    .node(&node, Kind::Normal, "RegisteredNode", text);
                node
            }
        };
        let labels = self.labels();
        let present = node.metadata.labels.clone().unwrap_or_default();
        if labels.iter().any(|(k, v)| present.get(k) != Some(v)) {
            let patch = json!({"metadata": {"labels": labels}});
            node = api
                .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
                .await?;
        }
        let old = node.status.clone().unwrap_or_default();
        let due = self
            .written_at
            .is_none_or(|at| now.as_second() - at.as_second() >= STATUS_EVERY);
        let new = self.status(&old, now, due).await;
        let ready = new
            .conditions
            .iter()
            .flatten()
            .any(|c| c.type_ == "Ready" && c.status == "True");
        let encode = |s: &NodeStatus| serde_json::to_value(s).map_err(kube::Error::SerdeError);
        if let Some(change) = merge_patch(&encode(&old)?, &encode(&new)?) {
            let patch = json!({"status": change});
            node = api
                .patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))
                .await?;
            self.written_at = Some(now);
        }
        if self.was_ready != Some(ready) {
            let (reason, text) = if ready {
                ("NodeReady", format!("Node {name} status is now: NodeReady"))
            } else {
                (
                    "NodeNotReady",
                    format!("Node {name} status is now: NodeNotReady"),
                )
            };
            self.shared.events.node(&node, Kind::Normal, reason, text);
            self.was_ready = Some(ready);
        }
        Ok(node)
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let config = &self.shared.config;
        let mut labels = config.labels.clone();
        let arch = architecture();
        for (key, value) in [
            ("kubernetes.io/hostname", config.node_name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", arch),
        ] {
            labels
                .entry(key.to_owned())
                .or_insert_with(|| value.to_owned());
        }
        labels
    }

    fn new_node(&self) -> Node {
        let config = &self.shared.config;
        Node {
            metadata: ObjectMeta {
                name: Some(config.node_name.clone()),
                labels: Some(self.labels()),
                ..Default::default()
            },
            spec: Some(NodeSpec {
                pod_cidr: Some(config.pod_cidr.clone()),
                pod_cidrs: Some(vec![config.pod_cidr.clone()]),
                ..Default::default()
            }),
            status: None,
        }
    }

    async fn status(&self, old: &NodeStatus, now: Timestamp, heartbeat: bool) -> NodeStatus {
        let config = &self.shared.config;
        let machine = &self.machine;
        let resources: BTreeMap<String, Quantity> = [
            ("cpu", machine.cpus.to_string()),
            ("memory", format!("{}Ki", machine.memory_bytes / 1024)),
            (
                "ephemeral-storage",
                format!("{}Ki", machine.storage_bytes / 1024),
            ),
            ("pods", config.max_pods.to_string()),
        ]
        .map(|(k, v)| (k.to_owned(), Quantity(v)))
        .into();
        let mut status = old.clone();
        status.capacity = Some(merge(old.capacity.as_ref(), &resources));
        status.allocatable = Some(merge(old.allocatable.as_ref(), &resources));
        status.addresses = Some(vec![
            NodeAddress {
                type_: "InternalIP".to_owned(),
                address: config.node_ip.to_string(),
            },
            NodeAddress {
                type_: "Hostname".to_owned(),
                address: config.node_name.clone(),
            },
        ]);
        status.daemon_endpoints = Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(self.kubelet_port),
            }),
        });
        let runtime = self.shared.cri.version().await;
        let before = old.node_info.as_ref();
        status.node_info = Some(NodeSystemInfo {
            architecture: architecture().to_owned(),
            operating_system: "linux".to_owned(),
            kubelet_version: KUBELET_VERSION.to_owned(),
            kube_proxy_version: String::new(),
            kernel_version: kernel_version(),
            os_image: os_image(),
            boot_id: first_line("/proc/sys/kernel/random/boot_id"),
            machine_id: first_line("/etc/machine-id"),
            system_uuid: first_line("/sys/class/dmi/id/product_uuid"),
            container_runtime_version: match &runtime {
                Ok(version) => version.clone(),
                Err(_) => before
                    .map(|b| b.container_runtime_version.clone())
                    .unwrap_or_default(),
            },
            ..Default::default()
        });
        status.conditions = Some(self.conditions(old, now, heartbeat).await);
        status
    }

    async fn conditions(
        &self,
        old: &NodeStatus,
        now: Timestamp,
        heartbeat: bool,
    ) -> Vec<NodeCondition> {
        let before = old.conditions.clone().unwrap_or_default();
        let free = meminfo("MemAvailable:").unwrap_or(i64::MAX);
        let (total, available) = storage(&self.machine.data_dir).unwrap_or((0, i64::MAX));
        let low_disk = available < total / LOW_DISK_DIVISOR;
        let (ready, reason, message) = self.readiness().await;
        let verdicts = [
            pressure(
                "MemoryPressure",
                free < LOW_MEMORY_BYTES,
                "Memory",
                "memory available",
            ),
            pressure("DiskPressure", low_disk, "Disk", "disk space available"),
            pressure("PIDPressure", false, "PID", "PID available"),
            ("Ready", ready, reason.to_owned(), message),
        ];
        let mut result: Vec<NodeCondition> = Vec::new();
        for (kind, yes, reason, message) in verdicts {
            let status = if yes { "True" } else { "False" };
            let old = before.iter().find(|c| c.type_ == kind);
            let same = old.filter(|c| c.status == status);
            let changed = same.is_none() || heartbeat;
            let beat = match same.and_then(|c| c.last_heartbeat_time.clone()) {
                Some(time) if !changed => time,
                _ => Time(seconds(now)),
            };
            result.push(NodeCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason),
                message: Some(message),
                last_heartbeat_time: Some(beat),
                last_transition_time: same
                    .and_then(|c| c.last_transition_time.clone())
                    .or(Some(Time(seconds(now)))),
            });
        }
        let own: Vec<&str> = result.iter().map(|c| c.type_.as_str()).collect();
        let others: Vec<NodeCondition> = before
            .iter()
            .filter(|c| !own.contains(&c.type_.as_str()))
            .cloned()
            .collect();
        result.extend(others);
        result
    }

    async fn readiness(&self) -> (bool, &'static str, String) {
        match self.shared.cri.conditions().await {
            Ok(conditions) => match conditions.iter().find(|c| !c.status) {
                None => (
                    true,
                    "KubeletReady",
                    "kubelet is posting ready status".to_owned(),
                ),
                Some(bad) => (
                    false,
                    "KubeletNotReady",
                    format!(
                        "{} is false: reason:{} message:{}",
                        bad.r#type, bad.reason, bad.message
                    ),
                ),
            },
            Err(error) => (
                false,
                "KubeletNotReady",
                format!("container runtime is down: {error}"),
            ),
        }
    }

    async fn renew_lease(&self, node: &Node) -> Result<(), kube::Error> {
        let api: Api<Lease> = Api::namespaced(self.shared.client.clone(), "kube-node-lease");
        let name = &self.shared.config.node_name;
        let now = MicroTime(Timestamp::now());
        let patch = json!({"spec": {
            "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now,
        }});
        match api
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => return other.map(|_| ()),
        }
        let owner = node.metadata.uid.clone().map(|uid| OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: name.clone(),
            uid,
            ..Default::default()
        });
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some("kube-node-lease".to_owned()),
                owner_references: owner.map(|o| vec![o]),
                ..Default::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(name.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(now),
                ..Default::default()
            }),
        };
        api.create(&PostParams::default(), &lease).await.map(|_| ())
    }
}

/// Own resources over those that others (device plugins) have added.
fn merge(
    old: Option<&BTreeMap<String, Quantity>>,
    own: &BTreeMap<String, Quantity>,
) -> BTreeMap<String, Quantity> {
    let mut result = old.cloned().unwrap_or_default();
    result.extend(own.clone());
    result
}

type Verdict = (&'static str, bool, String, String);

fn pressure(kind: &'static str, yes: bool, what: &str, thing: &str) -> Verdict {
    if yes {
        let message = format!("kubelet has insufficient {thing}");
        (kind, true, format!("KubeletHas{what}Pressure"), message)
    } else {
        let sufficient = match what {
            "Disk" => "KubeletHasNoDiskPressure".to_owned(),
            other => format!("KubeletHasSufficient{other}"),
        };
        let message = match what {
            "Disk" => "kubelet has no disk pressure".to_owned(),
            _ => format!("kubelet has sufficient {thing}"),
        };
        (kind, false, sufficient, message)
    }
}

fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn first_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

fn kernel_version() -> String {
    first_line("/proc/sys/kernel/osrelease")
}

fn os_image() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .unwrap_or_else(|| "Linux".to_owned())
}
