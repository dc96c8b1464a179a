//! Pure mapping between virtual and host objects.
//!
//! Every function takes objects and settings and gives objects back: no I/O,
//! no clock, no client. [`Translator`] holds what is fixed for one virtual
//! cluster; each module adds the rules of one kind.

mod affinity;
mod claim;
mod classes;
mod custom;
mod data;
mod endpoints;
mod env;
mod event;
mod hosts;
mod imports;
mod ingress;
mod json;
mod mapped;
mod metadata;
mod names;
pub mod node;
mod patch;
mod persistent;
mod pod;
mod pod_status;
mod pod_update;
mod policy;
mod refs;
mod selector;
mod service;
pub mod usage;
mod volumes;

pub use claim::claim_class;
pub use custom::{CustomKind, definition_inside, definition_update, established};
pub use data::DataKind;
pub use endpoints::is_controller_made_slice;
pub use hosts::is_of_other_container;
pub use mapped::NewType;
pub use metadata::{applied, merge_metadata, same_applied};
pub use names::{Translator, VirtualName};
pub use patch::{AllPatches, PatchError, Patches};
pub use persistent::Wish;
pub use pod::{HostPod, PodContext, Token, token_secret_name};
pub use refs::{Reference, references};
pub use service::{API_PORT, DNS_PORT};
