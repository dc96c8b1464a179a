//! Which volume a claim gets.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_machinery::Quantity;

use crate::objects::core::Node;
use crate::objects::storage::{Claim, Volume};
use crate::placement::matches_selector;
use crate::selector;

/// What is to be done for a claim.
pub(super) enum Step {
    /// Nothing, until something changes.
    Done,
    /// Nothing, until the scheduler has placed a pod that uses it.
    AwaitConsumer,
    /// There is no volume for it: one has to be made.
    Provision,
    /// Its volume is gone for good.
    Lost,
    /// Bind it to this one.
    Bind(Arc<Volume>),
}

/// What the class of a claim and the scheduler say about it.
#[derive(Default)]
pub(super) struct Policy {
    /// The class leaves the choice to the scheduler, who has to place the pod
    /// first.
    pub waits: bool,
    /// The node that the scheduler has chosen.
    pub selected: Option<Arc<Node>>,
}

/// Decides about a claim.
pub(super) fn choose(claim: &Claim, volumes: &[Arc<Volume>], policy: &Policy) -> Step {
    let bound = claim.status.phase == "Bound";
    let wanted = claim.spec.volume_name.as_str();
    if !wanted.is_empty() {
        let volume = volumes.iter().find(|v| v.metadata.name == wanted);
        return match volume {
            None if bound => Step::Lost,
            Some(volume) if !bound && is_free_for(claim, volume) => Step::Bind(volume.clone()),
            _ => Step::Done,
        };
    }
    if bound || claim.metadata.is_deleting() {
        return Step::Done;
    }
    let reserved = volumes
        .iter()
        .find(|v| v.spec.claim_ref.is_some() && is_free_for(claim, v));
    if let Some(volume) = reserved {
        return Step::Bind(volume.clone());
    }
    if policy.waits && policy.selected.is_none() {
        return Step::AwaitConsumer;
    }
    let reachable = |volume: &Volume| {
        let affinity = volume.spec.node_affinity.as_ref();
        let affinity = affinity.and_then(|affinity| affinity.required.as_ref());
        match (affinity, &policy.selected) {
            (Some(affinity), Some(node)) => matches_selector(affinity, node),
            _ => true,
        }
    };
    let fitting = volumes.iter().filter(|v| fits(claim, v) && reachable(v));
    let smallest = fitting.min_by_key(|v| (storage(&v.spec.capacity), v.metadata.name.clone()));
    smallest.map_or(Step::Provision, |volume| Step::Bind(volume.clone()))
}

/// True if nobody else has the volume.
fn is_free_for(claim: &Claim, volume: &Volume) -> bool {
    volume.spec.claim_ref.as_ref().is_none_or(|reserved| {
        reserved.namespace == claim.metadata.namespace
            && reserved.name == claim.metadata.name
            && (reserved.uid.is_empty() || reserved.uid == claim.metadata.uid)
    })
}

fn fits(claim: &Claim, volume: &Volume) -> bool {
    let (asked, offered) = (&claim.spec, &volume.spec);
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    offered.claim_ref.is_none()
        && !volume.metadata.is_deleting()
        && asked.storage_class_name.as_deref().unwrap_or_default() == offered.storage_class_name
        && mode(&asked.volume_mode) == mode(&offered.volume_mode)
        && asked
            .access_modes
            .iter()
            .all(|m| offered.access_modes.contains(m))
        && storage(&offered.capacity) >= storage(&asked.resources.requests)
        && asked
            .selector
            .as_ref()
            .is_none_or(|s| selector::matches(s, &volume.metadata.labels))
}

fn storage(amounts: &BTreeMap<String, String>) -> Quantity {
    let text = amounts.get("storage");
    text.and_then(|t| Quantity::parse(t).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(spec: Value, phase: &str) -> Claim {
        serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": "c", "uid": "u"},
            "spec": spec, "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn volume(name: &str, spec: Value) -> Arc<Volume> {
        let volume = json!({"metadata": {"name": name, "labels": {"l": name}}, "spec": spec});
        serde_json::from_value(volume).unwrap()
    }

    fn chosen(claim: &Claim, volumes: &[Arc<Volume>], policy: &Policy) -> String {
        match choose(claim, volumes, policy) {
            Step::Done => "done".to_owned(),
            Step::AwaitConsumer => "await".to_owned(),
            Step::Provision => "provision".to_owned(),
            Step::Lost => "lost".to_owned(),
            Step::Bind(volume) => volume.metadata.name.clone(),
        }
    }

    #[test]
    fn claims_get_the_smallest_volume_that_fits() {
        let of =
            |size: &str| json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"]});
        let mut taken = of("2Gi");
        taken["claimRef"] = json!({"namespace": "n", "name": "other"});
        let mut block = of("2Gi");
        block["volumeMode"] = json!("Block");
        let mut class = of("2Gi");
        class["storageClassName"] = json!("fast");
        let mut all = vec![
            volume("big", of("10Gi")),
            volume("fits", of("3Gi")),
            volume("small", of("1Gi")),
            volume("taken", taken),
            volume("block", block),
            volume("class", class),
        ];
        let asks = |more: Value| {
            let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}});
            for (key, value) in more.as_object().unwrap() {
                spec[key] = value.clone();
            }
            spec
        };
        let now = Policy::default();
        for (more, expected) in [
            (json!({}), "fits"),
            (json!({"storageClassName": "fast"}), "class"),
            (json!({"volumeMode": "Block"}), "block"),
            (json!({"accessModes": ["ReadWriteMany"]}), "provision"),
            (json!({"selector": {"matchLabels": {"l": "big"}}}), "big"),
            (json!({"volumeName": "big"}), "big"),
            (json!({"volumeName": "taken"}), "done"),
            (json!({"volumeName": "gone"}), "done"),
        ] {
            assert_eq!(
                chosen(&claim(asks(more.clone()), ""), &all, &now),
                expected,
                "{more}"
            );
        }
        let lost = claim(asks(json!({"volumeName": "gone"})), "Bound");
        assert_eq!(chosen(&lost, &all, &now), "lost");
        let waits = Policy {
            waits: true,
            selected: None,
        };
        let pending = claim(asks(json!({})), "");
        assert_eq!(chosen(&pending, &all, &waits), "await");
        let mut reserved = of("9Gi");
        reserved["claimRef"] = json!({"namespace": "n", "name": "c"});
        all.push(volume("reserved", reserved));
        assert_eq!(chosen(&pending, &all, &waits), "reserved");
    }

    #[test]
    fn volumes_elsewhere_do_not_serve_the_selected_node() {
        let on = |node: &str| {
            let here = json!([{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]},
            ]}]);
            json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
                "nodeAffinity": {"required": {"nodeSelectorTerms": here}}})
        };
        let all = [volume("a", on("node-a")), volume("b", on("node-b"))];
        let asks = claim(
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}),
            "Pending",
        );
        for (node, expected) in [("node-b", "b"), ("node-c", "provision")] {
            let node =
                json!({"metadata": {"name": node, "labels": {"kubernetes.io/hostname": node}}});
            let policy = Policy {
                waits: true,
                selected: Some(serde_json::from_value(node).unwrap()),
            };
            assert_eq!(chosen(&asks, &all, &policy), expected);
        }
    }
}
