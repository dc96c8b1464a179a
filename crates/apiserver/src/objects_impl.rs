//! [`Objects`] over the store: the server's own way to its objects.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_machinery::{ApiError, GroupResource, object};
use serde_json::Value;

use crate::access::UserInfo;
use crate::objects::Objects;
use crate::registry::Resource;
use crate::storage::Storage;
use crate::write::options::WriteOptions;
use crate::write::{Part, Writer, Written};

/// The objects of one server.
pub(crate) struct ServerObjects {
    storage: Arc<Storage>,
    user: UserInfo,
    options: WriteOptions,
}

impl ServerObjects {
    pub(crate) fn new(storage: Arc<Storage>) -> Self {
        Self {
            storage,
            user: UserInfo::system_masters("system:apiserver"),
            options: WriteOptions::default(),
        }
    }

    fn resource(&self, resource: &GroupResource) -> Result<Arc<Resource>, ApiError> {
        let row = self.storage.registry.storage(resource);
        row.ok_or_else(ApiError::no_such_path)
    }

    fn writer<'a>(&'a self, resource: &'a Resource) -> Writer<'a> {
        Writer {
            storage: &self.storage,
            resource,
            subresource: "",
            user: &self.user,
            admission: &[],
            options: &self.options,
            warn: &|_| {},
        }
    }
}

fn served(resource: &Resource, written: &Written) -> Result<Value, ApiError> {
    Ok(resource.to_served(written.object()?))
}

#[async_trait]
impl Objects for ServerObjects {
    async fn get(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Value>>, ApiError> {
        self.storage.object(resource, namespace, name).await
    }

    async fn list(
        &self,
        resource: &GroupResource,
        namespace: &str,
    ) -> Result<Vec<Arc<Value>>, ApiError> {
        self.storage.objects(resource, namespace).await
    }

    fn generation(&self, resource: &GroupResource) -> u64 {
        self.storage.generation(resource)
    }

    async fn create(&self, resource: &GroupResource, object: Value) -> Result<Value, ApiError> {
        let resource = self.resource(resource)?;
        let object = resource.to_stored(object);
        let namespace = object::namespace(&object).to_owned();
        let written = self.writer(&resource).create(&namespace, object).await?;
        served(&resource, &written)
    }

    async fn update(&self, resource: &GroupResource, object: Value) -> Result<Value, ApiError> {
        let resource = self.resource(resource)?;
        let object = resource.to_stored(object);
        let (namespace, name) = (object::namespace(&object), object::name(&object));
        let written = self
            .writer(&resource)
            .update(namespace, name, Part::Special, &mut |_| Ok(object.clone()))
            .await?;
        served(&resource, &written)
    }
}
