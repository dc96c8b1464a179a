//! Which host object belongs to which virtual one, and the test whether a host
//! object is ours.

use std::collections::HashMap;
use std::sync::Arc;

use coracle_config::{Config, host_name, marks, names};
use coracle_machinery::object;
use serde_json::Value;

use crate::patch::AllPatches;

/// Namespace and name of a virtual object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VirtualName {
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl VirtualName {
    /// Namespace and name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Those of an object.
    pub fn of(virtual_object: &Value) -> Self {
        Self::new(
            object::namespace(virtual_object),
            object::name(virtual_object),
        )
    }
}

/// What is fixed for one virtual cluster.
#[derive(Clone, Debug)]
pub struct Translator {
    /// The name of the virtual cluster.
    pub vc: String,
    /// The namespace that it lives in.
    pub host_namespace: String,
    /// What the user chose.
    pub config: Arc<Config>,
    /// The image of this program; empty to put none of its containers into
    /// pods.
    pub image: String,
    /// What becomes of single fields of built-in kinds.
    pub patches: AllPatches,
    /// Owner reference of everything that is created: the host Service.
    pub owner: Option<Value>,
    /// Host names that deviate from the naming rule, by kind and virtual name:
    /// asked first.
    exceptions: HashMap<(String, VirtualName), String>,
}

impl Translator {
    /// A translator with the exceptions that every virtual cluster has.
    pub fn new(vc: &str, host_namespace: &str, config: Arc<Config>) -> Self {
        let mut exceptions = HashMap::new();
        for kind in ["Service", "Endpoints"] {
            exceptions.insert(
                (kind.to_owned(), VirtualName::new("default", "kubernetes")),
                names::service(vc),
            );
        }
        Self {
            vc: vc.to_owned(),
            host_namespace: host_namespace.to_owned(),
            patches: AllPatches::new(&config),
            config,
            image: String::new(),
            owner: None,
            exceptions,
        }
    }

    /// Remembers a host name that deviates from the rule.
    pub fn add_exception(&mut self, kind: &str, name: VirtualName, host: String) {
        self.exceptions.insert((kind.to_owned(), name), host);
    }

    /// The host name of a virtual object.
    pub fn host_name(&self, kind: &str, name: &VirtualName) -> String {
        if let Some(host) = self.exceptions.get(&(kind.to_owned(), name.clone())) {
            return host.clone();
        }
        host_name(&name.name, &name.namespace, &self.vc)
    }

    /// The host name of an object of the given virtual namespace; the empty
    /// name stays empty.
    pub(crate) fn rename(&self, kind: &str, namespace: &str, name: &str) -> String {
        if name.is_empty() {
            return String::new();
        }
        self.host_name(kind, &VirtualName::new(namespace, name))
    }

    /// The virtual object that a host object stands for, or `None` if the host
    /// object is not ours. Only what lies in the right namespace, carries our
    /// marks, and is named as those marks say is ours.
    pub fn ours(&self, kind: &str, host: &Value) -> Option<VirtualName> {
        if object::namespace(host) != self.host_namespace
            || object::label(host, marks::MANAGED_BY) != Some(self.vc.as_str())
        {
            return None;
        }
        let name = VirtualName::new(
            object::label(host, marks::NAMESPACE)?,
            object::annotation(host, marks::OBJECT_NAME)?,
        );
        let annotated = object::annotation(host, marks::OBJECT_NAMESPACE)?;
        let is_ours = annotated == name.namespace
            && object::annotation(host, marks::OBJECT_KIND) == Some(kind)
            && self.host_name(kind, &name) == object::name(host);
        is_ours.then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn translator() -> Translator {
        Translator::new("vc", "demo", Arc::default())
    }

    fn host_pod(name: &str, vname: &str, vns: &str) -> Value {
        json!({"metadata": {
            "name": name, "namespace": "demo",
            "labels": {"coracle.dev/managed-by": "vc", "coracle.dev/namespace": vns},
            "annotations": {
                "coracle.dev/object-name": vname, "coracle.dev/object-namespace": vns,
                "coracle.dev/object-kind": "Pod",
            },
        }})
    }

    #[test]
    fn ours_needs_place_marks_and_the_name_they_give() {
        let t = translator();
        let good = host_pod("a-x-default-x-vc", "a", "default");
        assert_eq!(t.ours("Pod", &good), Some(VirtualName::new("default", "a")));
        assert_eq!(t.ours("Secret", &good), None);
        // Marks that name another object than this one.
        assert_eq!(
            t.ours("Pod", &host_pod("b-x-default-x-vc", "a", "default")),
            None
        );
        for (pointer, value) in [
            ("/metadata/namespace", "other"),
            ("/metadata/labels/coracle.dev~1managed-by", "vc2"),
            ("/metadata/labels/coracle.dev~1namespace", "kube-system"),
            ("/metadata/annotations/coracle.dev~1object-namespace", "x"),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(pointer).unwrap() = value.into();
            assert_eq!(t.ours("Pod", &bad), None, "{pointer}");
        }
    }

    #[test]
    fn the_api_service_is_the_virtual_clusters_own() {
        let name = VirtualName::new("default", "kubernetes");
        assert_eq!(translator().host_name("Service", &name), "vc");
    }
}
