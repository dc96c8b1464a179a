//! Volumes, claims and storage classes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;

use super::{Meta, kind, nullable};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Claim {
    pub metadata: Meta,
    pub spec: ClaimSpec,
    pub status: ClaimStatus,
}
kind!(
    Claim,
    "",
    "v1",
    "PersistentVolumeClaim",
    "persistentvolumeclaims",
    true
);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClaimSpec {
    pub volume_name: String,
    pub storage_class_name: Option<String>,
    pub volume_mode: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub access_modes: Vec<String>,
    pub selector: Option<LabelSelector>,
    pub resources: super::pod::ResourceNeeds,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ClaimStatus {
    pub phase: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Volume {
    pub metadata: Meta,
    pub spec: VolumeSpec,
    pub status: ClaimStatus,
}
kind!(
    Volume,
    "",
    "v1",
    "PersistentVolume",
    "persistentvolumes",
    false
);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct VolumeSpec {
    #[serde(deserialize_with = "nullable")]
    pub capacity: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub access_modes: Vec<String>,
    pub storage_class_name: String,
    pub volume_mode: Option<String>,
    pub persistent_volume_reclaim_policy: String,
    pub claim_ref: Option<ClaimReference>,
    pub node_affinity: Option<VolumeNodeAffinity>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ClaimReference {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct VolumeNodeAffinity {
    pub required: Option<NodeSelector>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct StorageClass {
    pub metadata: Meta,
    pub provisioner: String,
    pub volume_binding_mode: String,
}
kind!(
    StorageClass,
    "storage.k8s.io",
    "v1",
    "StorageClass",
    "storageclasses",
    false
);

impl StorageClass {
    /// Volumes are chosen once a pod that needs them is placed.
    pub(crate) fn waits_for_consumer(&self) -> bool {
        self.volume_binding_mode == "WaitForFirstConsumer"
    }
}
