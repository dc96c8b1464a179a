//! Volume claims to the host, their binding and status back, and the volumes
//! that appear inside.

use coracle_config::marks;
use coracle_machinery::object;
use serde_json::{Value, json};

use crate::json::{drop_keys, same, set, text};
use crate::metadata::{applied, merge_metadata, same_applied};
use crate::names::Translator;

/// Annotations by which volume controllers talk to each other; those of the
/// host speak to the host's.
const BINDING: &[&str] = &[
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
    SELECTED_NODE,
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
];

/// The node that a scheduler chose for the claim's first pod: there the volume
/// is made.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// Names the class of a claim, from before there was a field for it. Upstream's
/// controllers look at it first.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// The storage class that a claim names; empty if it names none.
pub fn claim_class(claim: &Value) -> &str {
    let field = || object::text(claim, "/spec/storageClassName");
    object::annotation(claim, CLASS_ANNOTATION).unwrap_or_else(field)
}

/// True if a source of data is a claim of the same namespace.
fn is_claim_beside(source: &Value) -> bool {
    text(source, "kind") == "PersistentVolumeClaim" && text(source, "namespace").is_empty()
}

impl Translator {
    /// The host claim. A volume by name or selector is never asked for on the
    /// host: it could be another tenant's, or a path of a node.
    pub fn claim_to_host(&self, claim: &Value) -> Value {
        let namespace = object::namespace(claim);
        let mut host = self.shell("v1", "PersistentVolumeClaim", claim);
        drop_keys(&mut host["metadata"]["annotations"], BINDING);
        drop_keys(&mut host["metadata"]["annotations"], &[CLASS_ANNOTATION]);
        if let Some(node) = self.selected_node(claim) {
            host["metadata"]["annotations"][SELECTED_NODE] = node.into();
        }
        let mut spec = claim.get("spec").cloned().unwrap_or_else(|| json!({}));
        drop_keys(&mut spec, &["volumeName", "selector"]);
        if let Some(class) = self.storage_class(claim) {
            set(&mut spec, "storageClassName", class);
        } else if object::annotation(claim, CLASS_ANNOTATION).is_some() {
            set(&mut spec, "storageClassName", claim_class(claim));
        }
        for field in ["dataSource", "dataSourceRef"] {
            let Some(source) = spec.get_mut(field).filter(|s| s.is_object()) else {
                continue;
            };
            if is_claim_beside(source) {
                let name = self.rename("PersistentVolumeClaim", namespace, text(source, "name"));
                set(source, "name", name);
            } else {
                drop_keys(&mut spec, &[field]);
            }
        }
        host["spec"] = spec;
        applied(host, |v| {
            json!([
                v["metadata"],
                v["spec"]["resources"],
                v["spec"].get("volumeAttributesClassName")
            ])
        })
    }

    /// The node that the scheduler inside chose for the claim. Its pod gets to
    /// the host only once it is bound, and it is bound once its volume is there:
    /// so the host has to hear of the choice from the claim.
    pub fn selected_node<'c>(&self, claim: &'c Value) -> Option<&'c str> {
        let scheduler = &self.config.control_plane.advanced.virtual_scheduler;
        let node = object::annotation(claim, SELECTED_NODE)?;
        scheduler.enabled.then_some(node)
    }

    /// The claim without that choice.
    pub fn without_selected_node(&self, claim: &Value) -> Value {
        let mut claim = claim.clone();
        drop_keys(&mut claim["metadata"]["annotations"], &[SELECTED_NODE]);
        claim
    }

    /// What of a virtual claim cannot be carried over, in words for its user.
    /// `own` is true if it has a volume of the tenant's.
    pub fn claim_warnings(&self, claim: &Value, own: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        // A volume that the host bound is named as well, by the syncer.
        let bound = object::annotation(claim, BINDING[0]).is_some();
        for field in ["volumeName", "selector"] {
            let asked = claim["spec"].get(field).is_some_and(|v| !v.is_null());
            if asked && !bound && !own {
                warnings.push(format!(
                    "spec.{field} is not synced: the host provides a volume by the storage class, \
                     and no volume that is there already"
                ));
            }
        }
        for field in ["dataSource", "dataSourceRef"] {
            let source = &claim["spec"][field];
            if source.is_object() && !is_claim_beside(source) {
                warnings.push(format!(
                    "spec.{field} is not synced: on the host, a volume starts empty or from \
                     another claim of the same namespace"
                ));
            }
        }
        warnings
    }

    /// The host claim with the changes made inside (its size), or `None`.
    pub fn claim_update(&self, host: &Value, desired: &Value) -> Option<Value> {
        if same_applied(host, desired) {
            return None;
        }
        let mut updated = host.clone();
        merge_metadata(&mut updated, desired);
        for field in ["resources", "volumeAttributesClassName"] {
            if let Some(value) = desired["spec"].get(field) {
                set(&mut updated["spec"], field, value.clone());
            }
        }
        Some(updated)
    }

    /// The virtual claim with the volume that the host bound, or `None`. `own`
    /// is the volume of the tenant's that the host claim names.
    pub fn claim_back(&self, host: &Value, claim: &Value, own: Option<&Value>) -> Option<Value> {
        let mut updated = claim.clone();
        if let Some(volume) = own {
            // It is asked for before the host binds it.
            if object::text(host, "/status/phase") != "Bound" {
                return None;
            }
            set(&mut updated["spec"], "volumeName", object::name(volume));
        }
        let fields: &[&str] = match own {
            Some(_) => &[],
            None => &["volumeName", "storageClassName"],
        };
        for field in fields {
            if let Some(value) = host["spec"].get(field)
                && object::text(claim, &format!("/spec/{field}")).is_empty()
            {
                set(&mut updated["spec"], field, value.clone());
            }
        }
        let volume = object::text(&updated, "/spec/volumeName").to_owned();
        if !volume.is_empty() {
            let annotations = object::child_map(&mut updated["metadata"], "annotations");
            for key in &BINDING[..2] {
                annotations.insert((*key).to_owned(), "yes".into());
            }
        }
        (updated != *claim).then_some(updated)
    }

    /// The status that the virtual claim should show, or `None`.
    pub fn claim_status_back(&self, host: &Value, claim: &Value) -> Option<Value> {
        let wanted = host.get("status")?;
        (!same(Some(wanted), claim.get("status"))).then(|| wanted.clone())
    }

    /// The volume that appears inside for a bound claim. It shows what the
    /// claim tells of it; nothing can mount it but through the claim.
    pub fn volume_inside(&self, host: &Value, claim: &Value) -> Option<Value> {
        let volume = object::text(host, "/spec/volumeName");
        if volume.is_empty() {
            return None;
        }
        let mut spec = json!({
            "capacity": host.pointer("/status/capacity")
                .or_else(|| host.pointer("/spec/resources/requests")).cloned().unwrap_or_else(|| json!({})),
            "accessModes": host["spec"].get("accessModes").cloned().unwrap_or_else(|| json!([])),
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": object::namespace(claim), "name": object::name(claim),
                "uid": object::uid(claim),
            },
            "csi": {"driver": "coracle.dev", "volumeHandle": volume},
        });
        // A class of the tenant's has another name on the host.
        let own = self.config.sync.to_host.storage_classes.enabled;
        for (field, of) in [
            ("storageClassName", if own { claim } else { host }),
            ("volumeMode", host),
        ] {
            if let Some(value) = of["spec"].get(field) {
                set(&mut spec, field, value.clone());
            }
        }
        Some(json!({
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": volume, "labels": {marks::IMPORTED: "host"}},
            "spec": spec,
            "status": {"phase": "Bound"},
        }))
    }
}
