//! Kubernetes API machinery, pure: objects, group/version/kind names, errors,
//! selectors, quantities, patches, server-side apply and schemas.
//!
//! Nothing here knows of async, of I/O or of a clock: callers hand in bytes,
//! values and the present time.

pub mod error;
pub mod field;
pub mod gvk;
pub mod object;

pub use error::{ApiError, Reason};
pub use field::{FieldError, FieldErrorKind, FieldPath};
pub use gvk::{GroupKind, GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource};
