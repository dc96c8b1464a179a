//! Which volume a claim gets.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_machinery::Quantity;

use crate::objects::storage::{Claim, Volume};
use crate::selector;

/// What is to be done for a claim.
pub(super) enum Step {
    /// Nothing, until something changes.
    Wait,
    /// Its volume is gone for good.
    Lost,
    /// Bind it to this one.
    Bind(Arc<Volume>),
}

/// Decides about a claim. `waits` says that its class leaves the choice to the
/// scheduler, who has to place the pod first.
pub(super) fn choose(claim: &Claim, volumes: &[Arc<Volume>], waits: bool) -> Step {
    let bound = claim.status.phase == "Bound";
    let wanted = claim.spec.volume_name.as_str();
    if !wanted.is_empty() {
        let volume = volumes.iter().find(|v| v.metadata.name == wanted);
        return match volume {
            None if bound => Step::Lost,
            Some(volume) if !bound && is_free_for(claim, volume) => Step::Bind(volume.clone()),
            _ => Step::Wait,
        };
    }
    if bound || claim.metadata.is_deleting() {
        return Step::Wait;
    }
    let reserved = volumes
        .iter()
        .find(|v| v.spec.claim_ref.is_some() && is_free_for(claim, v));
    if let Some(volume) = reserved {
        return Step::Bind(volume.clone());
    }
    if waits {
        return Step::Wait;
    }
    let fitting = volumes.iter().filter(|v| fits(claim, v));
    let smallest = fitting.min_by_key(|v| (storage(&v.spec.capacity), v.metadata.name.clone()));
    smallest.map_or(Step::Wait, |volume| Step::Bind(volume.clone()))
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

    fn chosen(claim: &Claim, volumes: &[Arc<Volume>], waits: bool) -> String {
        match choose(claim, volumes, waits) {
            Step::Wait => "wait".to_owned(),
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
        for (more, expected) in [
            (json!({}), "fits"),
            (json!({"storageClassName": "fast"}), "class"),
            (json!({"volumeMode": "Block"}), "block"),
            (json!({"accessModes": ["ReadWriteMany"]}), "wait"),
            (json!({"selector": {"matchLabels": {"l": "big"}}}), "big"),
            (json!({"volumeName": "big"}), "big"),
            (json!({"volumeName": "taken"}), "wait"),
            (json!({"volumeName": "gone"}), "wait"),
        ] {
            assert_eq!(
                chosen(&claim(asks(more.clone()), ""), &all, false),
                expected,
                "{more}"
            );
        }
        assert_eq!(chosen(&claim(asks(json!({})), ""), &all, true), "wait");
        assert_eq!(
            chosen(
                &claim(asks(json!({"volumeName": "gone"})), "Bound"),
                &all,
                false
            ),
            "lost"
        );
        let mut reserved = of("9Gi");
        reserved["claimRef"] = json!({"namespace": "n", "name": "c"});
        all.push(volume("reserved", reserved));
        assert_eq!(chosen(&claim(asks(json!({})), ""), &all, true), "reserved");
    }
}
