//! Volumes of a pod: where they can be reached, and which are to be made.

use std::sync::Arc;

use k8s_openapi::api::core::v1::NodeSelector;

use crate::informer::Store;
use crate::objects::core::Node;
use crate::objects::pod::Pod;
use crate::objects::storage::{Claim, StorageClass, Volume};
use crate::placement::matches_selector;
use crate::queue::Key;

const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";

/// What there is to know about volumes.
pub(super) struct Volumes {
    pub claims: Arc<Store<Claim>>,
    pub volumes: Arc<Store<Volume>>,
    pub classes: Arc<Store<StorageClass>>,
}

/// What a pod's volumes demand.
#[derive(Default)]
pub(super) struct PodVolumes {
    /// Where the bound volumes can be reached.
    affinities: Vec<NodeSelector>,
    /// Claims whose volume waits for the pod's node.
    pub to_prepare: Vec<Arc<Claim>>,
    /// Volumes that could serve each of those claims, by their affinity.
    pub choices: Vec<Vec<Option<NodeSelector>>>,
}

impl PodVolumes {
    /// Whether every bound volume can be reached from the node.
    pub(super) fn reach(&self, node: &Node) -> bool {
        self.affinities
            .iter()
            .all(|affinity| matches_selector(affinity, node))
    }

    /// Whether each waiting claim can be served on the node.
    pub(super) fn can_prepare(&self, node: &Node) -> bool {
        self.choices.iter().all(|volumes| {
            volumes.is_empty()
                || volumes.iter().any(|affinity| {
                    affinity
                        .as_ref()
                        .is_none_or(|affinity| matches_selector(affinity, node))
                })
        })
    }

    /// The node that volumes are being made for already.
    pub(super) fn selected_node(&self) -> Option<&str> {
        self.to_prepare
            .iter()
            .find_map(|claim| claim.metadata.annotation(SELECTED_NODE))
    }

    /// The claims to be told of the node.
    pub(super) fn to_select(&self, node: &str) -> Vec<Key> {
        self.to_prepare
            .iter()
            .filter(|claim| claim.metadata.annotation(SELECTED_NODE) != Some(node))
            .map(|claim| claim.metadata.key())
            .collect()
    }
}

impl Volumes {
    /// Looks up a pod's claims; the error is the reason why it cannot be
    /// placed anywhere.
    pub(super) fn of_pod(&self, pod: &Pod) -> Result<PodVolumes, String> {
        let mut found = PodVolumes::default();
        for volume in &pod.spec.volumes {
            let Some(name) = volume.claim(&pod.metadata.name) else {
                continue;
            };
            let claim = self
                .claims
                .get(&pod.metadata.namespace, &name)
                .ok_or_else(|| format!("persistentvolumeclaim \"{name}\" not found"))?;
            if claim.metadata.is_deleting() {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            if claim.status.phase == "Lost" {
                let volume = &claim.spec.volume_name;
                return Err(format!(
                    "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \
                     \"{volume}\""
                ));
            }
            let bound = claim.metadata.annotation(BIND_COMPLETED).is_some();
            if bound && !claim.spec.volume_name.is_empty() {
                let volume = claim.spec.volume_name.as_str();
                // Without it, nobody knows where it can be reached.
                let volume = self
                    .volumes
                    .get("", volume)
                    .ok_or_else(|| format!("persistentvolume \"{volume}\" not found"))?;
                let affinity = volume.spec.node_affinity.clone();
                found.affinities.extend(affinity.and_then(|it| it.required));
                continue;
            }
            let class = claim.spec.storage_class_name.as_deref().unwrap_or_default();
            let class = self
                .classes
                .get("", class)
                .filter(|class| class.waits_for_consumer());
            let Some(class) = class.filter(|_| claim.spec.volume_name.is_empty()) else {
                return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
            };
            found.choices.push(self.choices(&claim, &class));
            found.to_prepare.push(claim);
        }
        Ok(found)
    }

    /// Affinities of the existing volumes that could serve a claim; none if
    /// its class makes volumes where they are needed.
    fn choices(&self, claim: &Claim, class: &StorageClass) -> Vec<Option<NodeSelector>> {
        if class.provisioner != "kubernetes.io/no-provisioner" {
            return Vec::new();
        }
        let volumes = self.volumes.all();
        let fitting = volumes.iter().filter(|volume| {
            volume.spec.storage_class_name == class.metadata.name
                && volume.spec.claim_ref.as_ref().is_none_or(|reference| {
                    reference.namespace == claim.metadata.namespace
                        && reference.name == claim.metadata.name
                })
        });
        let mut choices: Vec<Option<NodeSelector>> = fitting
            .map(|volume| volume.spec.node_affinity.clone().and_then(|it| it.required))
            .collect();
        if choices.is_empty() {
            // A selector without terms matches no node at all.
            choices.push(Some(NodeSelector {
                node_selector_terms: Vec::new(),
            }));
        }
        choices
    }
}
