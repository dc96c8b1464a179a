//! Slim views of Kubernetes objects: only the fields that some controller
//! reads are decoded, so that caches stay small. Pod templates stay raw JSON
//! and are passed on with every field they came with.

pub(crate) mod apps;
pub(crate) mod batch;
pub(crate) mod certificates;
pub(crate) mod core;
pub(crate) mod pod;
pub(crate) mod service;
pub(crate) mod storage;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::api::Resource;
use crate::queue::Key;

/// A kind that can be cached.
pub(crate) trait Kind: DeserializeOwned + Send + Sync + 'static {
    /// Where the API serves it.
    const RESOURCE: &'static Resource;
    /// Only objects of this namespace are cached; all if empty.
    const NAMESPACE: &'static str = "";
    /// Only objects that match this field selector are cached.
    const FIELDS: &'static str = "";

    fn meta(&self) -> &Meta;

    /// Names under which the object is found through `Store::indexed`.
    fn index(&self, add: &mut dyn FnMut(String)) {
        add(self.meta().owner_index());
    }
}

/// Implements [`Kind`] for a struct with a field `metadata`.
macro_rules! kind {
    ($type:ty, $group:literal, $version:literal, $kind:literal, $plural:literal, $scoped:literal) => {
        impl $crate::objects::Kind for $type {
            const RESOURCE: &'static $crate::api::Resource =
                &$crate::api::Resource::new($group, $version, $kind, $plural, $scoped);
            fn meta(&self) -> &$crate::objects::Meta {
                &self.metadata
            }
        }
    };
}
pub(crate) use kind;

/// Object metadata, without managed fields and without kubectl's copy of the
/// last applied configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Meta {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub resource_version: String,
    pub generation: i64,
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "annotations")]
    pub annotations: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub owner_references: Vec<OwnerReference>,
    #[serde(deserialize_with = "nullable")]
    pub finalizers: Vec<String>,
    pub creation_timestamp: Option<Timestamp>,
    pub deletion_timestamp: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct OwnerReference {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    pub controller: Option<bool>,
    pub block_owner_deletion: Option<bool>,
}

impl OwnerReference {
    pub(crate) fn to_value(&self) -> Value {
        let mut value = json!({
            "apiVersion": self.api_version, "kind": self.kind,
            "name": self.name, "uid": self.uid,
        });
        if let Some(controller) = self.controller {
            value["controller"] = controller.into();
        }
        if let Some(block) = self.block_owner_deletion {
            value["blockOwnerDeletion"] = block.into();
        }
        value
    }
}

impl Meta {
    pub(crate) fn key(&self) -> Key {
        Key::new(self.namespace.clone(), self.name.clone())
    }

    pub(crate) fn is_deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// The owner that manages this object, if any.
    pub(crate) fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references
            .iter()
            .find(|owner| owner.controller == Some(true))
    }

    pub(crate) fn is_controlled_by(&self, uid: &str) -> bool {
        self.controller().is_some_and(|owner| owner.uid == uid)
    }

    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }

    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    pub(crate) fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().any(|finalizer| finalizer == name)
    }

    /// Index entry: under the controlling owner, or among the namespace's
    /// objects without one.
    fn owner_index(&self) -> String {
        match self.controller() {
            Some(owner) => owner_index(&owner.uid),
            None => orphan_index(&self.namespace),
        }
    }
}

/// Index name of the objects that the owner with this uid controls.
pub(crate) fn owner_index(uid: &str) -> String {
    format!("o/{uid}")
}

/// Index name of the objects of a namespace that nobody controls.
pub(crate) fn orphan_index(namespace: &str) -> String {
    format!("-/{namespace}")
}

/// A controller reference to an object.
pub(crate) fn controller_reference(resource: &Resource, meta: &Meta) -> OwnerReference {
    OwnerReference {
        api_version: resource.api_version(),
        kind: resource.kind.to_string(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What identifies an object in an event or a reference.
pub(crate) fn object_reference(resource: &Resource, meta: &Meta) -> Value {
    let mut reference = json!({
        "kind": resource.kind, "apiVersion": resource.api_version(),
        "name": meta.name, "uid": meta.uid, "resourceVersion": meta.resource_version,
    });
    if !meta.namespace.is_empty() {
        reference["namespace"] = meta.namespace.as_str().into();
    }
    reference
}

/// A condition of a status, in the shape most kinds share.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
    pub last_transition_time: Option<Timestamp>,
    pub last_update_time: Option<Timestamp>,
    pub last_probe_time: Option<Timestamp>,
    /// Of pods only: which generation the condition speaks of.
    pub observed_generation: Option<i64>,
}

impl Condition {
    pub(crate) fn is_true(&self) -> bool {
        self.status == "True"
    }

    /// The condition as JSON, without the fields that are not set.
    pub(crate) fn to_value(&self) -> Value {
        let mut value = json!({"type": self.kind, "status": self.status});
        for (name, text) in [("reason", &self.reason), ("message", &self.message)] {
            if !text.is_empty() {
                value[name] = text.as_str().into();
            }
        }
        if let Some(generation) = self.observed_generation {
            value["observedGeneration"] = generation.into();
        }
        for (name, at) in [
            ("lastTransitionTime", self.last_transition_time),
            ("lastUpdateTime", self.last_update_time),
            ("lastProbeTime", self.last_probe_time),
        ] {
            if let Some(at) = at {
                value[name] = time(at).into();
            }
        }
        value
    }
}

/// Finds a condition by its type.
pub(crate) fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.kind == kind)
}

/// Seconds-precision RFC 3339, as the API writes its times.
pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The version of an object as the number that the API makes comparable.
pub(crate) fn version_number(version: &str) -> u64 {
    version.parse().unwrap_or(0)
}

/// The version number in a response to a write.
pub(crate) fn written_version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .map_or(0, version_number)
}

/// Go writes an empty list or map as `null` now and then.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn annotations<'de, D>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error>
where
    D: Deserializer<'de>,
{
    let mut map: BTreeMap<String, String> = nullable(deserializer)?;
    map.remove("kubectl.kubernetes.io/last-applied-configuration");
    Ok(map)
}

#[cfg(test)]
pub(crate) fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_str(&value.to_string()).expect("a well-formed object")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_api_s_precision() {
        let at: Timestamp = "2026-01-02T03:04:05.678901Z".parse().unwrap();
        assert_eq!(time(at), "2026-01-02T03:04:05Z");
    }

    #[test]
    fn nulls_read_as_empty() {
        let meta: Meta = object(json!({"name": "a", "labels": null, "finalizers": null}));
        assert!(meta.labels.is_empty() && meta.finalizers.is_empty());
    }
}
