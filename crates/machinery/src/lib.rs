//! Kubernetes API machinery, pure: objects, group/version/kind names, errors,
//! selectors, quantities, patches, server-side apply and schemas.
//!
//! Nothing here knows of async, of I/O or of a clock: callers hand in bytes,
//! values and the present time.

pub mod addresses;
pub mod apply;
pub mod cel;
pub mod error;
pub mod field;
pub mod gvk;
pub mod meta;
pub mod names;
pub mod object;
pub mod patch;
pub mod pod_security;
pub mod protobuf;
pub mod quantity;
pub mod resources;
pub mod schema;
pub mod selector;
pub mod time;

pub use error::{ApiError, Reason};
pub use field::{FieldError, FieldErrorKind, FieldPath};
pub use gvk::{GroupKind, GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource};
pub use quantity::Quantity;
pub use schema::Schema;
pub use selector::{FieldSelector, LabelSelector};
