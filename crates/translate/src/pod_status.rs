//! Status of pods, host to virtual, and the conditions of readiness gates,
//! virtual to host.

use std::collections::BTreeSet;

use coracle_machinery::object;
use serde_json::{Value, json};

use crate::json::{drop_keys, list_mut, same, text};
use crate::names::Translator;

impl Translator {
    /// The status that the virtual pod should show, or `None` if it shows it.
    pub fn pod_status_to_virtual(&self, host: &Value, pod: &Value) -> Option<Value> {
        let mut status = host.get("status").cloned().unwrap_or_else(|| json!({}));
        drop_keys(
            &mut status,
            &[
                "nominatedNodeName",
                "resourceClaimStatuses",
                "observedGeneration",
            ],
        );
        without_other_containers(&mut status, pod);
        let gates = gates(pod);
        if let Some(Value::Array(conditions)) = status.get_mut("conditions") {
            conditions.retain(|c| !gates.contains(text(c, "type")));
            for condition in conditions.iter_mut() {
                drop_keys(condition, &["observedGeneration"]);
            }
            conditions.extend(own_conditions(pod, &gates));
        }
        let reversed = &self.config.sync.to_host.pods.translate_image;
        if !reversed.is_empty() {
            for field in [
                "containerStatuses",
                "initContainerStatuses",
                "ephemeralContainerStatuses",
            ] {
                for container in list_mut(&mut status, field) {
                    let image = text(container, "image").to_owned();
                    if let Some((original, _)) = reversed.iter().find(|(_, host)| **host == image) {
                        crate::json::set(container, "image", original.as_str());
                    }
                }
            }
        }
        let mut current = pod.get("status").cloned().unwrap_or_else(|| json!({}));
        drop_keys(&mut current, &["observedGeneration"]);
        for condition in list_mut(&mut current, "conditions") {
            drop_keys(condition, &["observedGeneration"]);
        }
        // A virtual pod keeps the QoS class that its own API server computed.
        if let (Some(qos), Some(status)) = (current.get("qosClass"), status.as_object_mut()) {
            status.insert("qosClass".into(), qos.clone());
        }
        (!same(Some(&status), Some(&current))).then_some(status)
    }

    /// The host pod with the conditions that only its tenant sets (readiness
    /// gates), or `None` if they are there already.
    pub fn gate_conditions_to_host(&self, host: &Value, pod: &Value) -> Option<Value> {
        let gates = gates(pod);
        let wanted: Vec<Value> = own_conditions(pod, &gates);
        if wanted.is_empty() {
            return None;
        }
        let present = object::items(host, "/status/conditions");
        let key = |c: &Value| (text(c, "type").to_owned(), text(c, "status").to_owned());
        let have: BTreeSet<_> = present.iter().map(key).collect();
        if wanted.iter().all(|c| have.contains(&key(c))) {
            return None;
        }
        let mut updated = host.clone();
        let mut conditions: Vec<Value> = present
            .iter()
            .filter(|c| !gates.contains(text(c, "type")))
            .cloned()
            .collect();
        conditions.extend(wanted);
        if !updated["status"].is_object() {
            updated["status"] = json!({});
        }
        updated["status"]["conditions"] = conditions.into();
        Some(updated)
    }
}

/// Removes what the status tells of first containers that the pod does not have
/// inside.
fn without_other_containers(status: &mut Value, pod: &Value) {
    let field = "initContainerStatuses";
    let Some(Value::Array(containers)) = status.get_mut(field) else {
        return;
    };
    containers.retain(|container| crate::hosts::is_inside(text(container, "name"), pod));
    if containers.is_empty() {
        drop_keys(status, &[field]);
    }
}

fn gates(pod: &Value) -> BTreeSet<&str> {
    object::items(pod, "/spec/readinessGates")
        .iter()
        .map(|gate| text(gate, "conditionType"))
        .collect()
}

fn own_conditions(pod: &Value, gates: &BTreeSet<&str>) -> Vec<Value> {
    object::items(pod, "/status/conditions")
        .iter()
        .filter(|c| gates.contains(text(c, "type")))
        .cloned()
        .collect()
}
