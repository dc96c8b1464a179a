//! Kinds of the core group and leases, without pods and services.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Condition, Kind, Meta, kind, nullable};
use crate::api::Resource;

/// An object of which only the metadata matters.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct MetadataOnly {
    pub metadata: Meta,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Namespace {
    pub metadata: Meta,
    pub spec: NamespaceSpec,
    pub status: NamespaceStatus,
}
kind!(Namespace, "", "v1", "Namespace", "namespaces", false);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NamespaceSpec {
    #[serde(deserialize_with = "nullable")]
    pub finalizers: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NamespaceStatus {
    pub phase: String,
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceAccount {
    pub metadata: Meta,
}
kind!(
    ServiceAccount,
    "",
    "v1",
    "ServiceAccount",
    "serviceaccounts",
    true
);

/// The ConfigMap of every namespace that holds the cluster's CA; no other
/// ConfigMap is cached.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RootCa {
    pub metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    pub data: BTreeMap<String, String>,
}

impl Kind for RootCa {
    const RESOURCE: &'static Resource = &Resource::new("", "v1", "ConfigMap", "configmaps", true);
    const FIELDS: &'static str = "metadata.name=kube-root-ca.crt";

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// A secret for the token of a service account; no other secret is cached.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TokenSecret {
    pub metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    pub data: BTreeMap<String, String>,
}

impl Kind for TokenSecret {
    const RESOURCE: &'static Resource = &Resource::new("", "v1", "Secret", "secrets", true);
    const FIELDS: &'static str = "type=kubernetes.io/service-account-token";

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    pub metadata: Meta,
    pub spec: NodeSpec,
    pub status: NodeStatus,
}
kind!(Node, "", "v1", "Node", "nodes", false);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeSpec {
    pub unschedulable: bool,
    #[serde(deserialize_with = "nullable")]
    pub taints: Vec<Taint>,
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
    pub time_added: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeStatus {
    #[serde(deserialize_with = "nullable")]
    pub allocatable: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<NodeCondition>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeCondition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub last_heartbeat_time: Option<Timestamp>,
}

/// A node's heartbeat; leases of other namespaces are not cached.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeLease {
    pub metadata: Meta,
    pub spec: LeaseSpec,
}

impl Kind for NodeLease {
    const RESOURCE: &'static Resource =
        &Resource::new("coordination.k8s.io", "v1", "Lease", "leases", true);
    const NAMESPACE: &'static str = "kube-node-lease";

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LeaseSpec {
    pub renew_time: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ReplicationController {
    pub metadata: Meta,
    pub spec: ReplicationControllerSpec,
    pub status: super::apps::ReplicaSetStatus,
}
kind!(
    ReplicationController,
    "",
    "v1",
    "ReplicationController",
    "replicationcontrollers",
    true
);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ReplicationControllerSpec {
    pub replicas: Option<i32>,
    pub min_ready_seconds: i32,
    #[serde(deserialize_with = "nullable")]
    pub selector: BTreeMap<String, String>,
    pub template: Option<Box<RawValue>>,
}
