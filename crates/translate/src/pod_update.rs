//! What may still change in a pod, and how it reaches the host.

use coracle_config::marks;
use coracle_machinery::object;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::json::{list, list_mut, same, set, text};
use crate::metadata::{merge_metadata, same_applied};
use crate::names::Translator;
use crate::pod::{PodContext, copy_keys};

/// Annotation: digest of the resources that were last asked for inside.
const RESOURCES: &str = "coracle.dev/resources";

/// The parts of a host pod that an update can still change.
pub(crate) fn digested(pod: &Value) -> Value {
    let images = |field: &str| -> Value {
        // Ours has run already: another version of it changes no pod.
        object::items(pod, &format!("/spec/{field}"))
            .iter()
            .filter(|c| !crate::hosts::is_ours(c))
            .map(|c| json!([c.get("name"), c.get("image")]))
            .collect()
    };
    let spec = &pod["spec"];
    json!([
        pod["metadata"]["labels"],
        pod["metadata"]["annotations"],
        images("containers"),
        images("initContainers"),
        spec.get("activeDeadlineSeconds"),
        spec.get("tolerations"),
        spec.get("schedulingGates"),
    ])
}

impl Translator {
    /// The host pod with the changes made inside, or `None` if there are none.
    /// `desired` comes from [`Translator::pod_to_host`].
    pub fn pod_update(&self, host: &Value, desired: &Value) -> Option<Value> {
        if same_applied(host, desired) {
            return None;
        }
        let mut updated = host.clone();
        let resources = object::annotation(host, RESOURCES).map(str::to_owned);
        merge_metadata(&mut updated, desired);
        if let Some(resources) = resources {
            updated["metadata"]["annotations"][RESOURCES] = resources.into();
        }
        let wanted = &desired["spec"];
        let spec = &mut updated["spec"];
        for field in ["containers", "initContainers"] {
            for container in list_mut(spec, field) {
                if crate::hosts::is_ours(container) {
                    continue;
                }
                let name = text(container, "name").to_owned();
                let other = list(wanted, field).iter().find(|c| text(c, "name") == name);
                if let Some(image) = other.and_then(|c| c.get("image")) {
                    set(container, "image", image.clone());
                }
            }
        }
        copy_keys(wanted, spec, &["activeDeadlineSeconds"]);
        // Tolerations can only be added, gates only be removed.
        let mut tolerations = list(spec, "tolerations").to_vec();
        for toleration in list(wanted, "tolerations") {
            if !tolerations.contains(toleration) {
                tolerations.push(toleration.clone());
            }
        }
        if !tolerations.is_empty() {
            set(spec, "tolerations", tolerations);
        }
        if let Some(Value::Array(gates)) = spec.get_mut("schedulingGates") {
            gates.retain(|gate| list(wanted, "schedulingGates").contains(gate));
        }
        Some(updated)
    }

    /// The host pod with ephemeral containers that are new inside, for its
    /// `ephemeralcontainers` subresource.
    pub fn ephemeral_update(
        &self,
        host: &Value,
        pod: &Value,
        context: &PodContext<'_>,
    ) -> Option<Value> {
        let present = object::items(host, "/spec/ephemeralContainers");
        let known = |name: &str| present.iter().any(|c| text(c, "name") == name);
        let new: Vec<Value> = self
            .ephemeral_to_host(pod, context)
            .into_iter()
            .filter(|c| !known(text(c, "name")))
            .collect();
        if new.is_empty() {
            return None;
        }
        let mut updated = host.clone();
        let all = [present, &new].concat();
        set(&mut updated["spec"], "ephemeralContainers", all);
        Some(updated)
    }

    /// The host pod with resources that were changed inside since the pod was
    /// created, for its `resize` subresource. The host may have filled in
    /// resources of its own, so what is compared is what was asked for inside.
    pub fn resize_update(&self, host: &Value, pod: &Value) -> Option<Value> {
        if object::annotation(host, RESOURCES) == Some(resources_digest(pod).as_str()) {
            return None;
        }
        let mut updated = host.clone();
        let mut changed = false;
        for field in ["containers", "initContainers"] {
            for container in list_mut(&mut updated["spec"], field) {
                let name = text(container, "name").to_owned();
                let other = object::items(pod, &format!("/spec/{field}"))
                    .iter()
                    .find(|c| text(c, "name") == name);
                let wanted = other.and_then(|c| c.get("resources"));
                let asks = wanted.is_some_and(|w| !same(Some(w), None));
                if asks && !same(container.get("resources"), wanted) {
                    changed = true;
                    set(container, "resources", wanted.cloned().unwrap_or_default());
                }
            }
        }
        changed.then_some(updated)
    }

    /// The host pod with the note of which resources were asked for, or `None`
    /// if the note is right. Written after a resize, which cannot carry it.
    pub fn resize_record(&self, host: &Value, pod: &Value) -> Option<Value> {
        let asked = resources_digest(pod);
        if object::annotation(host, RESOURCES) == Some(asked.as_str()) {
            return None;
        }
        let mut updated = host.clone();
        record_resources(&mut updated, pod);
        Some(updated)
    }

    /// True if the marks of a host pod belong to another incarnation of the
    /// virtual object than the one given.
    pub fn is_stale(&self, host: &Value, virtual_object: &Value) -> bool {
        object::annotation(host, marks::OBJECT_UID) != Some(object::uid(virtual_object))
    }
}

/// Notes which resources were asked for inside.
pub(crate) fn record_resources(host: &mut Value, pod: &Value) {
    host["metadata"]["annotations"][RESOURCES] = resources_digest(pod).into();
}

fn resources_digest(pod: &Value) -> String {
    let mut all = Vec::new();
    for field in ["containers", "initContainers"] {
        for container in object::items(pod, &format!("/spec/{field}")) {
            all.push(json!([container.get("name"), container.get("resources")]));
        }
    }
    let digest = Sha256::digest(Value::Array(all).to_string().as_bytes());
    digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
}
