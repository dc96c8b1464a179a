//! Classes of the tenant's that go to the host: PriorityClasses and
//! StorageClasses, and the names of what else of it lies in no namespace. They lie in no namespace there, so nothing owns them; marks
//! tell whose they are.

use coracle_config::{host_cluster_name, marks};
use coracle_machinery::object;
use serde_json::{Value, json};

use crate::json::{copy_key, drop_keys};
use crate::metadata::applied;
use crate::names::{Translator, VirtualName};

/// The highest priority that users may give on any cluster: what is above is
/// kept for the cluster's own pods.
const MAX_PRIORITY: i64 = 1_000_000_000;

/// Classes that every cluster has of its own.
const OF_EVERY_CLUSTER: &str = "system-";

/// The fields of a class that are carried over.
const FIELDS: &[&str] = &[
    "value",
    "preemptionPolicy",
    "description",
    "provisioner",
    "parameters",
    "reclaimPolicy",
    "mountOptions",
    "allowVolumeExpansion",
    "volumeBindingMode",
    "allowedTopologies",
];

/// Annotations by which a class is the default one: on the host it is nobody's.
const DEFAULT: &[&str] = &[
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];

impl Translator {
    /// The host name of a class or volume of the tenant's.
    pub fn class_name(&self, name: &str) -> String {
        host_cluster_name(name, &self.host_namespace, &self.vc)
    }

    /// A host object of the tenant's that lies in no namespace, without content.
    pub(crate) fn cluster_shell(&self, api_version: &str, kind: &str, object: &Value) -> Value {
        let mut host = self.shell(api_version, kind, object);
        let name = self.class_name(object::name(object));
        let metadata = &mut host["metadata"];
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.remove("namespace");
            // An owner would have to lie in no namespace either.
            metadata.remove("ownerReferences");
        }
        for (field, mark) in [
            ("labels", marks::NAMESPACE),
            ("annotations", marks::OBJECT_NAMESPACE),
        ] {
            drop_keys(&mut metadata[field], &[mark]);
        }
        metadata["name"] = name.as_str().into();
        metadata["annotations"][marks::HOST_NAME] = name.into();
        metadata["labels"][marks::HOST_NAMESPACE] = self.host_namespace.as_str().into();
        host
    }

    /// The host class.
    pub fn class_to_host(&self, api_version: &str, kind: &str, class: &Value) -> Value {
        let mut host = self.cluster_shell(api_version, kind, class);
        drop_keys(&mut host["metadata"]["annotations"], DEFAULT);
        for field in FIELDS {
            copy_key(class, &mut host, field);
        }
        if let Some(value) = host.get("value").and_then(Value::as_i64) {
            host["value"] = value.min(MAX_PRIORITY).into();
        }
        applied(host, Value::clone)
    }

    /// The host class with the changes made inside, or `None`.
    pub fn class_update(&self, host: &Value, desired: &Value) -> Option<Value> {
        self.replace_update(host, desired, FIELDS)
    }

    /// The tenant's class or volume that one of the host stands for, or `None` if it is not
    /// ours.
    pub fn our_class(&self, kind: &str, host: &Value) -> Option<VirtualName> {
        let name = object::annotation(host, marks::OBJECT_NAME)?;
        let is_ours = object::label(host, marks::MANAGED_BY) == Some(self.vc.as_str())
            && object::label(host, marks::HOST_NAMESPACE) == Some(self.host_namespace.as_str())
            && object::annotation(host, marks::OBJECT_KIND) == Some(kind)
            && self.class_name(name) == object::name(host);
        is_ours.then(|| VirtualName::new("", name))
    }

    /// True if a class inside is one that goes to the host.
    pub fn is_tenants_class(&self, class: &Value) -> bool {
        !self.is_imported(class) && !object::name(class).starts_with(OF_EVERY_CLUSTER)
    }

    /// Why a class cannot go to the host, in words for its user.
    pub fn class_obstacle(&self, class: &Value) -> Option<String> {
        let secret = object::string_map(class, "/parameters")
            .map(|(key, _)| key)
            .find(|key| key.to_lowercase().contains("secret"))?;
        Some(format!(
            "parameter {secret:?} names a secret of the host, which a virtual cluster may not \
             choose: the class is not synced"
        ))
    }

    /// The labels by which the host classes of this virtual cluster are found.
    pub fn class_selector(&self) -> String {
        format!(
            "{}={},{}={}",
            marks::MANAGED_BY,
            self.vc,
            marks::HOST_NAMESPACE,
            self.host_namespace
        )
    }

    /// The storage class that a claim asks for on the host.
    pub(crate) fn storage_class(&self, claim: &Value) -> Option<Value> {
        // Volumes name theirs alike.
        let class = crate::claim::claim_class(claim);
        let mapped = self.config.sync.to_host.storage_classes.enabled && !class.is_empty();
        mapped.then(|| json!(self.class_name(class)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_config::Config;
    use std::sync::Arc;

    fn translator() -> Translator {
        let yaml =
            "sync: {toHost: {storageClasses: {enabled: true}, priorityClasses: {enabled: true}}}";
        let (config, _) = Config::from_yaml(&[("v", yaml)]).unwrap();
        let mut t = Translator::new("vc", "demo", Arc::new(config));
        t.owner = Some(json!({"kind": "Service"}));
        t
    }

    #[test]
    fn a_priority_class_is_bounded_and_nobodys_default() {
        let t = translator();
        let class = json!({"metadata": {"name": "high", "uid": "u"}, "value": 2_000_000_000,
            "globalDefault": true, "preemptionPolicy": "Never"});
        let host = t.class_to_host("scheduling.k8s.io/v1", "PriorityClass", &class);
        assert_eq!(host["metadata"]["name"], "coracle-high-x-demo-x-vc");
        assert_eq!(host["value"], 1_000_000_000);
        assert_eq!(host["preemptionPolicy"], "Never");
        assert!(host.get("globalDefault").is_none());
        for field in ["namespace", "ownerReferences"] {
            assert!(host["metadata"].get(field).is_none(), "{field}");
        }
        assert_eq!(
            t.our_class("PriorityClass", &host),
            Some(VirtualName::new("", "high"))
        );
        assert_eq!(t.our_class("StorageClass", &host), None);
        let other = Translator::new("vc", "other", Arc::default());
        assert_eq!(other.our_class("PriorityClass", &host), None);
        assert_eq!(t.class_update(&host, &host), None);
    }

    #[test]
    fn a_storage_class_is_no_default_and_names_no_secret_of_the_host() {
        let t = translator();
        let mut class = json!({"metadata": {"name": "fast", "annotations": {
                "storageclass.kubernetes.io/is-default-class": "true", "note": "a"}},
            "provisioner": "p", "parameters": {"type": "ssd"}, "reclaimPolicy": "Delete"});
        let host = t.class_to_host("storage.k8s.io/v1", "StorageClass", &class);
        let annotations = &host["metadata"]["annotations"];
        assert!(annotations.get(DEFAULT[0]).is_none());
        assert_eq!(annotations["note"], "a");
        assert_eq!(host["parameters"]["type"], "ssd");
        assert_eq!(t.class_obstacle(&class), None);
        class["parameters"] = json!({"csi.storage.k8s.io/provisioner-secret-name": "s"});
        assert!(t.class_obstacle(&class).unwrap().contains("secret"));
    }

    #[test]
    fn claims_ask_for_the_tenants_class() {
        let claim = json!({"metadata": {"name": "a", "namespace": "b"},
            "spec": {"storageClassName": "fast"}});
        let host = translator().claim_to_host(&claim);
        assert_eq!(host["spec"]["storageClassName"], "coracle-fast-x-demo-x-vc");
        let plain = Translator::new("vc", "demo", Arc::default()).claim_to_host(&claim);
        assert_eq!(plain["spec"]["storageClassName"], "fast");
    }
}
