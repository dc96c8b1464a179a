//! ConfigMaps and Secrets to the host.

use serde_json::Value;

use crate::json::copy_key;
use crate::metadata::{applied, merge_metadata, same_applied};
use crate::names::Translator;

/// Which of the two kinds that hold data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DataKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl DataKind {
    /// The kind's name.
    pub fn kind(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

/// Secret types that the host's API server or controllers give a meaning of
/// their own: on the host they are plain data.
const OPAQUE_ON_HOST: &[&str] = &[
    "kubernetes.io/service-account-token",
    "bootstrap.kubernetes.io/token",
];

impl Translator {
    /// The host ConfigMap or Secret.
    pub fn data_to_host(&self, kind: DataKind, virtual_object: &Value) -> Value {
        let mut host = self.shell("v1", kind.kind(), virtual_object);
        for field in ["data", "binaryData"] {
            copy_key(virtual_object, &mut host, field);
        }
        if kind == DataKind::Secret {
            copy_key(virtual_object, &mut host, "type");
            if OPAQUE_ON_HOST.contains(&crate::json::text(&host, "type")) {
                host["type"] = "Opaque".into();
            }
        }
        // `immutable` stays behind: inside, a deleted and recreated object may
        // differ, and the host object follows it.
        applied(host, Value::clone)
    }

    /// A host object of any kind whose whole content is replaced when it
    /// changes inside: `fields` are its top-level fields besides metadata.
    /// `None` if nothing changed.
    pub fn replace_update(&self, host: &Value, desired: &Value, fields: &[&str]) -> Option<Value> {
        if same_applied(host, desired) {
            return None;
        }
        let mut updated = host.clone();
        merge_metadata(&mut updated, desired);
        for field in fields {
            copy_key(desired, &mut updated, field);
        }
        Some(updated)
    }
}
