//! What claims and volumes say, without I/O.

use std::path::Path;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::PROVISIONER;

const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// Keeps a volume until its data is gone; the name by which all provisioners
/// outside of the controllers know it.
pub(super) const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

/// A volume to make, or why there can be none.
pub(super) enum Wish {
    Volume(Box<PersistentVolume>),
    Unsupported(&'static str),
}

/// What is to be done with a volume of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reclaim {
    /// Nothing.
    Keep,
    /// Remove its data and the object.
    Remove,
    /// Let the object go; the data stays, as its policy says.
    LetGo,
}

/// The name of the volume that a claim waits for on this node, if it does.
pub(super) fn asks_for(claim: &PersistentVolumeClaim, node: &str) -> Option<String> {
    let annotation = |key: &str| claim.annotations().get(key).map(String::as_str);
    let bound = claim
        .spec
        .as_ref()
        .and_then(|s| s.volume_name.as_deref())
        .is_some_and(|name| !name.is_empty());
    let here = annotation(SELECTED_NODE) == Some(node)
        && annotation(STORAGE_PROVISIONER) == Some(PROVISIONER);
    if !here || bound || claim.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let name = format!("pvc-{}", claim.metadata.uid.as_deref()?);
    is_volume_name(&name).then_some(name)
}

/// True for `pvc-` and a uid: no separator, nothing that leads elsewhere.
pub(super) fn is_volume_name(name: &str) -> bool {
    /// Of a uid: hexadecimal digits and hyphens.
    const LENGTH: usize = 36;
    name.strip_prefix("pvc-").is_some_and(|uid| {
        uid.len() == LENGTH && uid.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
    })
}

/// The volume for a claim.
pub(super) fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    name: &str,
    path: &Path,
    node: &str,
) -> Wish {
    let spec = claim.spec.clone().unwrap_or_default();
    if spec.volume_mode.as_deref() == Some("Block") {
        return Wish::Unsupported("only volumes of mode Filesystem are supported");
    }
    if spec.selector.is_some() {
        return Wish::Unsupported("a selector is not supported");
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Wish::Unsupported("a data source is not supported");
    }
    let modes = spec.access_modes.unwrap_or_default();
    let one_node = ["ReadWriteOnce", "ReadWriteOncePod"];
    if modes.iter().any(|mode| !one_node.contains(&mode.as_str())) {
        return Wish::Unsupported(
            "only the access modes ReadWriteOnce and ReadWriteOncePod are supported",
        );
    }
    let requests = spec.resources.and_then(|r| r.requests).unwrap_or_default();
    let volume = json!({
        "metadata": {
            "name": name,
            "annotations": {PROVISIONED_BY: PROVISIONER},
            "finalizers": [FINALIZER],
        },
        "spec": {
            "capacity": {"storage": requests.get("storage")},
            "accessModes": modes,
            "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": class.name_any(),
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": claim.namespace(), "name": claim.name_any(),
                "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
            },
            "local": {"path": path},
            "nodeAffinity": affinity(node),
        },
    });
    match serde_json::from_value(volume) {
        Ok(volume) => Wish::Volume(Box::new(volume)),
        Err(_) => Wish::Unsupported("the claim asks for no amount of storage"),
    }
}

fn affinity(node: &str) -> Value {
    json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]},
    ]}]}})
}

/// True if the volume is exactly what this node's agent would have made at
/// this path: nothing else may lead to a removal.
pub(super) fn is_own(volume: &PersistentVolume, path: &Path, node: &str) -> bool {
    let Some(spec) = &volume.spec else {
        return false;
    };
    let is = |text: Option<&String>, wanted: &str| text.is_some_and(|text| text == wanted);
    let here = spec
        .node_affinity
        .as_ref()
        .and_then(|affinity| serde_json::to_value(affinity).ok())
        .is_some_and(|present| present == affinity(node));
    is_volume_name(&volume.name_any())
        && is(volume.annotations().get(PROVISIONED_BY), PROVISIONER)
        && is(
            spec.local.as_ref().map(|local| &local.path),
            &path.display().to_string(),
        )
        && here
}

/// What is to be done with a volume of ours.
pub(super) fn reclaim(volume: &PersistentVolume) -> Reclaim {
    let status = volume.status.as_ref();
    let phase = status.and_then(|s| s.phase.as_deref()).unwrap_or_default();
    let spec = volume.spec.as_ref();
    let policy = spec.and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
    let deleting = volume.metadata.deletion_timestamp.is_some();
    match (phase, policy) {
        ("Released" | "Failed", Some("Delete")) => Reclaim::Remove,
        // Deleted by hand, before or after it had a claim.
        ("Released" | "Failed" | "Available", _) if deleting => match policy {
            Some("Delete") => Reclaim::Remove,
            _ => Reclaim::LetGo,
        },
        _ => Reclaim::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0bd1a3c5-6f0e-4c57-9f61-2a4f3a9a7c11";

    fn claim(change: impl FnOnce(&mut Value)) -> PersistentVolumeClaim {
        let mut claim = json!({
            "metadata": {"name": "data", "namespace": "n", "uid": UID, "annotations": {
                SELECTED_NODE: "here", STORAGE_PROVISIONER: PROVISIONER,
            }},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "standard",
                "resources": {"requests": {"storage": "1Gi"}}},
        });
        change(&mut claim);
        serde_json::from_value(claim).unwrap()
    }

    fn made(claim: &PersistentVolumeClaim) -> PersistentVolume {
        let class = json!({"metadata": {"name": "standard"}, "provisioner": PROVISIONER});
        let class = serde_json::from_value(class).unwrap();
        let name = asks_for(claim, "here").unwrap();
        let path = Path::new("/volumes").join(&name);
        match volume(claim, &class, &name, &path, "here") {
            Wish::Volume(volume) => *volume,
            Wish::Unsupported(why) => panic!("{why}"),
        }
    }

    #[test]
    fn claims_are_served_where_their_pod_is_placed() {
        let name = format!("pvc-{UID}");
        assert_eq!(asks_for(&claim(|_| ()), "here"), Some(name));
        let others: [fn(&mut Value); 5] = [
            |c| c["metadata"]["annotations"][SELECTED_NODE] = json!("there"),
            |c| c["metadata"]["annotations"][STORAGE_PROVISIONER] = json!("example.com/x"),
            |c| c["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
            |c| c["spec"]["volumeName"] = json!("other"),
            |c| c["metadata"]["uid"] = json!("../../../../../../../../etc/passwd/x"),
        ];
        for change in others {
            assert_eq!(asks_for(&claim(change), "here"), None);
        }
    }

    #[test]
    fn what_a_directory_cannot_be_is_refused() {
        let class = serde_json::from_value(json!({"provisioner": PROVISIONER})).unwrap();
        let others: [fn(&mut Value); 5] = [
            |c| c["spec"]["volumeMode"] = json!("Block"),
            |c| c["spec"]["accessModes"] = json!(["ReadWriteMany"]),
            |c| c["spec"]["selector"] = json!({}),
            |c| c["spec"]["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": "x"}),
            |c| c["spec"]["resources"] = json!({}),
        ];
        for change in others {
            let wish = volume(&claim(change), &class, "n", Path::new("/v/n"), "here");
            assert!(matches!(wish, Wish::Unsupported(_)));
        }
    }

    #[test]
    fn only_a_volume_as_it_was_made_is_removed() {
        let volume = made(&claim(|_| ()));
        let path = Path::new("/volumes").join(volume.name_any());
        assert!(is_own(&volume, &path, "here"));
        assert!(!is_own(&volume, &path, "there"));
        let changes: [fn(&mut PersistentVolume); 4] = [
            |v| v.metadata.name = Some("pvc-x".into()),
            |v| v.metadata.annotations = None,
            |v| v.spec.as_mut().unwrap().local.as_mut().unwrap().path = "/etc".into(),
            |v| v.spec.as_mut().unwrap().node_affinity = None,
        ];
        for change in changes {
            let mut other = volume.clone();
            change(&mut other);
            let path = Path::new("/volumes").join(other.name_any());
            assert!(!is_own(&other, &path, "here"));
        }
    }

    #[test]
    fn data_goes_when_its_claim_is_gone() {
        for (phase, policy, deleting, expected) in [
            ("", "Delete", false, Reclaim::Keep),
            ("Bound", "Delete", false, Reclaim::Keep),
            ("Bound", "Delete", true, Reclaim::Keep),
            ("Released", "Delete", false, Reclaim::Remove),
            ("Released", "Delete", true, Reclaim::Remove),
            ("Released", "Retain", false, Reclaim::Keep),
            ("Released", "Retain", true, Reclaim::LetGo),
            ("Available", "Delete", false, Reclaim::Keep),
            ("Available", "Delete", true, Reclaim::Remove),
        ] {
            let mut volume = json!({
                "metadata": {}, "spec": {"persistentVolumeReclaimPolicy": policy},
                "status": {"phase": phase},
            });
            if deleting {
                volume["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            let volume = serde_json::from_value(volume).unwrap();
            assert_eq!(reclaim(&volume), expected, "{phase} {policy} {deleting}");
        }
    }
}
