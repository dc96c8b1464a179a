//! The user's configuration of a virtual cluster, and the names and marks of
//! host objects.
//!
//! Pure: it knows no client. [`Config`] is what a user may choose, with the
//! keys of today's `vcluster.yaml`; [`load`] reads it strictly and accepts the
//! keys of 0.15 with a hint. [`names`] holds every rule by which host objects
//! are named, [`marks`] every label and annotation they carry.

pub mod convert;
pub mod custom;
mod legacy;
pub mod load;
pub mod mapping;
pub mod marks;
pub mod model;
pub mod names;
pub mod patch;
pub mod refused;
pub mod rules;
mod schema;
mod semantics;
mod set;
mod shape;

pub use convert::convert;
pub use custom::CustomName;
pub use load::{ConfigError, Hint, Problem};
pub use model::Config;
pub use names::{NameError, host_cluster_name, host_name, validate_name};
pub use rules::{Grant, PolicyRule, host_grants, host_rules};
pub use schema::schema;
pub use semantics::parse_toleration;

/// The version of Kubernetes that the control plane offers.
pub const KUBERNETES_VERSION: &str = "v1.36.2";

/// What a user may write for it.
pub const KUBERNETES_VERSION_NAMES: &[&str] = &["1.36", "v1.36", "1.36.2", "v1.36.2"];
