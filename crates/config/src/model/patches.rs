//! Changes of single fields on their way from one cluster to the other.

use serde::{Deserialize, Serialize};

use super::{Fragment, FromHost, ToHost};

section!(
    /// What becomes of one field of a kind's objects: just one of
    /// expressions, a reference and labels.
    Patch {
        /// The field, as in `spec.items[*].name`: `[*]` for all items of a
        /// list or all keys of a map, `["a.b/c"]` for a key with dots.
        path: String = String::new(),
        /// Its value on the host, as a CEL expression of `value` and `context`.
        expression: String = String::new(),
        /// Its value inside, likewise, from that of the host.
        reverse_expression: String = String::new(),
        /// It names another object that flows.
        reference: PatchReference = PatchReference::default(),
        /// It is a selector of labels, `{}`; only of custom resources.
        labels: Option<Fragment> = None,
    }
);

section!(
    /// The object that a field names.
    PatchReference {
        /// Its version, as in `v1`.
        api_version: String = String::new(),
        /// Where below the field its version is, if it is told there.
        api_version_path: String = String::new(),
        /// Its kind.
        kind: String = String::new(),
        /// Where below the field its kind is, if it is told there.
        kind_path: String = String::new(),
        /// Where below the field its name is; empty if the field is the name.
        name_path: String = String::new(),
        /// Where below the field its namespace is; empty if it lies in that of
        /// the object.
        namespace_path: String = String::new(),
    }
);

/// The patches of one kind: the key of its section, the kind, and what they are.
pub type KindPatches<'a> = (&'static str, &'static str, &'a [Patch]);

impl ToHost {
    /// Those of each built-in kind.
    pub fn patches(&self) -> Vec<KindPatches<'_>> {
        vec![
            ("pods", "Pod", &self.pods.patches),
            ("services", "Service", &self.services.patches),
            ("endpoints", "Endpoints", &self.endpoints.patches),
            (
                "endpointSlices",
                "EndpointSlice",
                &self.endpoint_slices.patches,
            ),
            (
                "persistentVolumeClaims",
                "PersistentVolumeClaim",
                &self.persistent_volume_claims.patches,
            ),
            ("configMaps", "ConfigMap", &self.config_maps.patches),
            ("secrets", "Secret", &self.secrets.patches),
            ("ingresses", "Ingress", &self.ingresses.patches),
            (
                "networkPolicies",
                "NetworkPolicy",
                &self.network_policies.patches,
            ),
            (
                "podDisruptionBudgets",
                "PodDisruptionBudget",
                &self.pod_disruption_budgets.patches,
            ),
            (
                "serviceAccounts",
                "ServiceAccount",
                &self.service_accounts.patches,
            ),
            (
                "priorityClasses",
                "PriorityClass",
                &self.priority_classes.patches,
            ),
            (
                "storageClasses",
                "StorageClass",
                &self.storage_classes.patches,
            ),
            (
                "persistentVolumes",
                "PersistentVolume",
                &self.persistent_volumes.patches,
            ),
        ]
    }
}

impl FromHost {
    /// Those of each built-in kind.
    pub fn patches(&self) -> Vec<KindPatches<'_>> {
        vec![
            ("configMaps", "ConfigMap", &self.config_maps.patches),
            ("secrets", "Secret", &self.secrets.patches),
            (
                "ingressClasses",
                "IngressClass",
                &self.ingress_classes.patches,
            ),
            (
                "storageClasses",
                "StorageClass",
                &self.storage_classes.patches,
            ),
            (
                "runtimeClasses",
                "RuntimeClass",
                &self.runtime_classes.patches,
            ),
            (
                "priorityClasses",
                "PriorityClass",
                &self.priority_classes.patches,
            ),
        ]
    }
}
