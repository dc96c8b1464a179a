//! Which objects a pod (or an ingress) refers to: only those flow to the host.

use std::collections::BTreeSet;

use coracle_machinery::object;
use serde_json::Value;

use crate::data::DataKind;
use crate::env::containers;
use crate::ingress::{names_secret, secret_reference};
use crate::json::{list, text};

/// A ConfigMap or Secret that something refers to, in its own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Which of the two.
    pub kind: DataKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Volume sources with a secret: the pointer to its name.
const SECRET_POINTERS: &[&str] = &[
    "/secret/secretName",
    "/csi/nodePublishSecretRef/name",
    "/azureFile/secretName",
    "/cephfs/secretRef/name",
    "/cinder/secretRef/name",
    "/flexVolume/secretRef/name",
    "/iscsi/secretRef/name",
    "/rbd/secretRef/name",
    "/scaleIO/secretRef/name",
    "/storageos/secretRef/name",
];

/// The ConfigMaps and Secrets that a pod or an ingress refers to.
pub fn references(virtual_object: &Value) -> BTreeSet<Reference> {
    let mut found = Found {
        namespace: object::namespace(virtual_object),
        references: BTreeSet::new(),
    };
    for tls in object::items(virtual_object, "/spec/tls") {
        found.add(DataKind::Secret, text(tls, "secretName"));
    }
    if object::text(virtual_object, "/kind") == "Ingress" {
        let annotations = object::string_map(virtual_object, "/metadata/annotations");
        for (_, value) in annotations.filter(|(key, _)| names_secret(key)) {
            if let Some((namespace, name)) = secret_reference(found.namespace, value) {
                found.references.insert(Reference {
                    kind: DataKind::Secret,
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                });
            }
        }
    }
    let Some(spec) = virtual_object.get("spec") else {
        return found.references;
    };
    for secret in list(spec, "imagePullSecrets") {
        found.add(DataKind::Secret, text(secret, "name"));
    }
    for container in containers(spec) {
        for source in list(container, "envFrom") {
            found.add(
                DataKind::ConfigMap,
                object::text(source, "/configMapRef/name"),
            );
            found.add(DataKind::Secret, object::text(source, "/secretRef/name"));
        }
        for variable in list(container, "env") {
            let config_map = object::text(variable, "/valueFrom/configMapKeyRef/name");
            found.add(DataKind::ConfigMap, config_map);
            found.add(
                DataKind::Secret,
                object::text(variable, "/valueFrom/secretKeyRef/name"),
            );
        }
    }
    for volume in list(spec, "volumes") {
        found.add(DataKind::ConfigMap, object::text(volume, "/configMap/name"));
        for pointer in SECRET_POINTERS {
            found.add(DataKind::Secret, object::text(volume, pointer));
        }
        for source in object::items(volume, "/projected/sources") {
            found.add(DataKind::ConfigMap, object::text(source, "/configMap/name"));
            found.add(DataKind::Secret, object::text(source, "/secret/name"));
        }
    }
    found.references
}

struct Found<'a> {
    namespace: &'a str,
    references: BTreeSet<Reference>,
}

impl Found<'_> {
    fn add(&mut self, kind: DataKind, name: &str) {
        if !name.is_empty() {
            self.references.insert(Reference {
                kind,
                namespace: self.namespace.to_owned(),
                name: name.to_owned(),
            });
        }
    }
}
