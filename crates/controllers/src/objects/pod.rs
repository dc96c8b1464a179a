//! Pods, as controllers and the scheduler see them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Affinity, Toleration, TopologySpreadConstraint};
use serde::Deserialize;

use super::{Condition, Kind, Meta, condition, nullable};
use crate::api::Resource;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Pod {
    pub metadata: Meta,
    pub spec: PodSpec,
    pub status: PodStatus,
}

impl Kind for Pod {
    const RESOURCE: &'static Resource = &Resource::new("", "v1", "Pod", "pods", true);

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn index(&self, add: &mut dyn FnMut(String)) {
        add(self.metadata.owner_index());
        if !self.spec.node_name.is_empty() {
            add(node_index(&self.spec.node_name));
        }
    }
}

/// Index name of the pods that are bound to a node.
pub(crate) fn node_index(node: &str) -> String {
    format!("n/{node}")
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    pub node_name: String,
    pub hostname: String,
    pub subdomain: String,
    pub scheduler_name: String,
    pub priority: Option<i32>,
    pub preemption_policy: Option<String>,
    pub restart_policy: String,
    pub host_network: bool,
    #[serde(deserialize_with = "nullable")]
    pub containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    pub init_containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    pub overhead: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub node_selector: BTreeMap<String, String>,
    pub affinity: Option<Box<Affinity>>,
    #[serde(deserialize_with = "nullable")]
    pub tolerations: Vec<Toleration>,
    #[serde(deserialize_with = "nullable")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    #[serde(deserialize_with = "nullable")]
    pub scheduling_gates: Vec<Named>,
    #[serde(deserialize_with = "nullable")]
    pub volumes: Vec<Volume>,
    /// Needs of the whole pod, which stand for those of its containers.
    pub resources: Option<ResourceNeeds>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Named {
    pub name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Container {
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ContainerPort>,
    pub resources: ResourceNeeds,
    /// `Always` marks a sidecar among the init containers.
    pub restart_policy: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerPort {
    pub name: String,
    pub container_port: i32,
    pub host_port: i32,
    #[serde(rename = "hostIP")]
    pub host_ip: String,
    pub protocol: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ResourceNeeds {
    #[serde(deserialize_with = "nullable")]
    pub requests: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub limits: BTreeMap<String, String>,
}

/// A volume; only claims matter to controllers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Volume {
    pub name: String,
    pub persistent_volume_claim: Option<ClaimName>,
    /// Present (with anything inside) for a generic ephemeral volume, whose
    /// claim is called after pod and volume.
    pub ephemeral: Option<serde::de::IgnoredAny>,
}

impl Volume {
    /// Name of the claim that the volume uses in this pod.
    pub(crate) fn claim(&self, pod: &str) -> Option<String> {
        match (&self.persistent_volume_claim, &self.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{pod}-{}", self.name)),
            (None, None) => None,
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClaimName {
    pub claim_name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStatus {
    pub phase: String,
    pub reason: String,
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pub pod_ips: Vec<PodIp>,
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
    #[serde(deserialize_with = "nullable")]
    pub container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "nullable")]
    pub init_container_statuses: Vec<ContainerStatus>,
    pub start_time: Option<Timestamp>,
    pub nominated_node_name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PodIp {
    pub ip: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerStatus {
    pub name: String,
    pub restart_count: i32,
    pub state: ContainerState,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerState {
    pub terminated: Option<Terminated>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Terminated {
    pub exit_code: i32,
    pub finished_at: Option<Timestamp>,
}

impl Pod {
    /// Neither finished nor being deleted.
    pub(crate) fn is_active(&self) -> bool {
        !self.is_finished() && !self.metadata.is_deleting()
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.status.phase == "Succeeded" || self.status.phase == "Failed"
    }

    pub(crate) fn ready_condition(&self) -> Option<&Condition> {
        condition(&self.status.conditions, "Ready")
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready_condition().is_some_and(Condition::is_true)
    }

    /// Ready for at least `min_ready_seconds`.
    pub(crate) fn is_available(&self, min_ready_seconds: i32, now: Timestamp) -> bool {
        self.available_at(min_ready_seconds)
            .is_some_and(|at| at <= now)
    }

    /// When a ready pod becomes (or became) available.
    pub(crate) fn available_at(&self, min_ready_seconds: i32) -> Option<Timestamp> {
        let ready = self
            .ready_condition()
            .filter(|condition| condition.is_true())?;
        if min_ready_seconds <= 0 {
            return Some(Timestamp::UNIX_EPOCH);
        }
        let since = ready.last_transition_time?;
        since
            .checked_add(jiff::SignedDuration::from_secs(i64::from(
                min_ready_seconds,
            )))
            .ok()
    }

    pub(crate) fn restarts(&self) -> i32 {
        let most = |statuses: &[ContainerStatus]| {
            statuses
                .iter()
                .map(|status| status.restart_count)
                .max()
                .unwrap_or(0)
        };
        most(&self.status.container_statuses).max(most(&self.status.init_container_statuses))
    }
}
