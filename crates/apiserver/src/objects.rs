//! Reading and writing objects from inside the API server: what admission,
//! authentication, authorisation and the built-in special resources use in
//! place of the HTTP interface.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_machinery::{ApiError, GroupResource};
use serde_json::Value;

/// The objects of this server, without authentication, authorisation or
/// admission: for the server's own parts only.
#[async_trait]
pub trait Objects: Send + Sync + 'static {
    /// One object, or `None`. `namespace` is empty for cluster-scoped kinds.
    async fn get(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Value>>, ApiError>;

    /// All objects of a resource, in one namespace or (empty) in all.
    async fn list(
        &self,
        resource: &GroupResource,
        namespace: &str,
    ) -> Result<Vec<Arc<Value>>, ApiError>;

    /// A number that grows whenever any object of the resource changes: the
    /// key to caches that are derived from `list`. Never blocks.
    fn generation(&self, resource: &GroupResource) -> u64;

    /// Creates an object as the server itself (defaults and validation apply,
    /// admission does not).
    async fn create(&self, resource: &GroupResource, object: Value) -> Result<Value, ApiError>;

    /// Replaces an object as the server itself; `metadata.resourceVersion` is
    /// compared if it is given.
    async fn update(&self, resource: &GroupResource, object: Value) -> Result<Value, ApiError>;
}
