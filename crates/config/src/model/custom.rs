//! Custom resources that flow.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Mappings, Patch};
use crate::custom::CustomName;

/// Custom resources by name: `plural.group`, or `plural.group/version`.
pub type Named<T> = BTreeMap<String, T>;

section!(
    /// A custom resource of the virtual cluster that flows to the host.
    CustomToHost {
        /// Whether it does; the host has to have its definition, and the right
        /// to read that takes a ClusterRole.
        enabled: bool = false,
        /// `Namespaced`, the one there is.
        scope: String = NAMESPACED.to_owned(),
        /// What becomes of single fields.
        patches: Vec<Patch> = Vec::new(),
    }
);

section!(
    /// A custom resource of the host of which objects are shown inside.
    CustomFromHost {
        /// Whether they are; the host has to have its definition, and the right
        /// to read that takes a ClusterRole.
        enabled: bool = false,
        /// `Cluster` for what lies in no namespace, all of which is shown, or
        /// `Namespaced`.
        scope: String = String::new(),
        /// Which of those that lie in namespaces.
        mappings: Mappings = Mappings::default(),
        /// What becomes of single fields, by `reverseExpression`.
        patches: Vec<Patch> = Vec::new(),
    }
);

/// The scope of what lies in namespaces.
pub const NAMESPACED: &str = "Namespaced";
/// The scope of what does not.
pub const CLUSTER: &str = "Cluster";

/// Those that are shown of the host, with their names.
pub fn from_host(all: &Named<CustomFromHost>) -> Vec<(CustomName, &CustomFromHost)> {
    let on = all.iter().filter(|(_, choice)| choice.enabled);
    on.filter_map(|(name, choice)| Some((CustomName::parse(name).ok()?, choice)))
        .collect()
}

/// Those that flow to the host, with their names.
pub fn to_host(all: &Named<CustomToHost>) -> Vec<(CustomName, &CustomToHost)> {
    let on = all.iter().filter(|(_, choice)| choice.enabled);
    on.filter_map(|(name, choice)| Some((CustomName::parse(name).ok()?, choice)))
        .collect()
}
