//! Defaults, preparation and validation of built-in kinds, after
//! `k8s.io/kubernetes/pkg/apis/*/v1/defaults.go` and `.../validation`.
//! Texts of errors are those of upstream: people search for them.

mod access;
mod addresses;
mod autoscaling;
mod certificates;
mod cluster;
mod config;
mod containers;
mod definitions;
mod endpoints;
mod events;
mod extension;
mod flow;
mod job_policies;
mod jobs;
mod limits;
mod metadata;
mod network;
mod pod;
mod pod_defaults;
mod pod_host;
mod pod_spec;
mod pod_update;
mod policy;
mod probes;
mod quantities;
mod security;
mod selectors;
mod service;
mod storage;
mod text;
mod volumes;
mod workloads;

pub(super) use access::{Binding, Role, RuntimeClass};
pub(super) use addresses::{IpAddressObject, ServiceCidr};
pub(super) use autoscaling::Autoscaler;
pub(super) use certificates::CertificateSigningRequest;
pub(super) use cluster::{Lease, Namespace, Node, PriorityClass};
pub(super) use config::{ConfigMap, Secret, ServiceAccount};
pub(super) use endpoints::{EndpointSlice, Endpoints};
pub(super) use events::CoreEvent;
pub(super) use extension::{
    AdmissionBinding, AdmissionPolicy, ApiService, CustomResourceDefinition, WebhookConfiguration,
};
pub(super) use flow::{FlowSchema, PriorityLevel};
pub(super) use jobs::{CronJob, Job};
pub(super) use limits::{LimitRange, ResourceQuota};
pub(super) use network::{Ingress, IngressClass, NetworkPolicy};
pub(super) use pod::Pod;
pub use pod::validate_ephemeral_containers;
pub(super) use policy::DisruptionBudget;
pub(super) use service::Service;
pub(super) use storage::{
    Claim, CsiDriver, CsiNode, PersistentVolume, StorageClass, VolumeAttachment,
};
pub(super) use workloads::{
    ControllerRevision, DaemonSet, Deployment, PodTemplate, ReplicaSet, ReplicationController,
    StatefulSet,
};

use coracle_machinery::{FieldError, FieldErrorKind, FieldPath};
use serde_json::{Map, Value};

/// What validation finds.
type Errors = Vec<FieldError>;

/// Sets `key` if it is absent or null.
fn default_field(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let slot = map.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = value.into();
    }
}

/// The map at `key`, if there is one.
fn map_mut<'a>(map: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    map.get_mut(key)?.as_object_mut()
}

/// `spec`, if there is one.
fn spec_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object.get_mut("spec")?.as_object_mut()
}

/// The maps in the list at `key`.
fn each_mut<'a>(
    map: &'a mut Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

/// The items of the list at `key`.
fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// The text at `key`, or the empty string.
fn str_at<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// True if `key` holds something.
fn given(value: &Value, key: &str) -> bool {
    !value[key].is_null()
}

/// An error unless the number at `key` is absent or at least zero.
fn non_negative(errors: &mut Errors, value: &Value, key: &str, path: &FieldPath) {
    if let Some(number) = value[key].as_i64()
        && number < 0
    {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(&path.child(key), number, detail));
    }
}

/// An error unless the text at `key` is empty or one of `allowed`.
fn one_of(errors: &mut Errors, value: &Value, key: &str, path: &FieldPath, allowed: &[&str]) {
    let text = str_at(value, key);
    if !text.is_empty() && !allowed.contains(&text) {
        errors.push(FieldError::not_supported(&path.child(key), text, allowed));
    }
}

/// An error if the list has more than `most` items.
fn too_many(errors: &mut Errors, items: &[Value], most: usize, path: &FieldPath) {
    if items.len() > most {
        errors.push(FieldError {
            kind: FieldErrorKind::TooMany,
            path: path.clone(),
            value: Some(items.len().into()),
            detail: format!("must have at most {most} items"),
        });
    }
}

/// An error if `key` differs between the two objects.
fn immutable(errors: &mut Errors, new: &Value, old: &Value, key: &str, path: &FieldPath) {
    if new[key] != old[key] {
        let value = new[key].clone();
        errors.push(FieldError::invalid(
            &path.child(key),
            value,
            "field is immutable",
        ));
    }
}

/// An error if `key` of the spec differs between the two objects.
fn immutable_in_spec(object: &Value, old: &Value, key: &str) -> Errors {
    let mut errors = Vec::new();
    let path = FieldPath::new("spec");
    immutable(&mut errors, &object["spec"], &old["spec"], key, &path);
    errors
}

#[cfg(test)]
mod tests;
