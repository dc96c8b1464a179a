//! Objects of kinds whose versions a webhook converts. They are stored at the
//! version that was the stored one when they were written, and are brought to
//! the version that is needed once they are read and before they are written.

mod webhook;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_machinery::ApiError;
use coracle_machinery::object::text;
use coracle_store::{KeyValue, Revision};
use serde_json::Value;

use crate::codec;
use crate::hub::{Change, HubEvent};
use crate::registry::Resource;
use crate::shape::Shaper;
use crate::write::Written;

pub use webhook::converter_of;

/// Converts objects between the versions of their kind by asking somebody.
#[async_trait]
pub trait Converter: Send + Sync + 'static {
    /// The objects at another version, in their order.
    ///
    /// # Errors
    /// If nobody answers, or not with these objects.
    async fn convert(&self, objects: Vec<Value>, api_version: &str)
    -> Result<Vec<Value>, ApiError>;
}

/// Objects at a version, those that have it already as they are.
async fn at_version(
    converter: &Arc<dyn Converter>,
    mut objects: Vec<Value>,
    api_version: &str,
) -> Result<Vec<Value>, ApiError> {
    let other = |object: &Value| text(object, "/apiVersion") != api_version;
    let places: Vec<usize> = (0..objects.len()).filter(|i| other(&objects[*i])).collect();
    if places.is_empty() {
        return Ok(objects);
    }
    let asked = places.iter().map(|i| objects[*i].take()).collect();
    let converted = converter.convert(asked, api_version).await?;
    for (place, object) in places.into_iter().zip(converted) {
        objects[place] = object;
    }
    Ok(objects)
}

impl Resource {
    async fn one_at(&self, object: Value, api_version: &str) -> Result<Value, ApiError> {
        let Some(converter) = &self.kind.converter else {
            return Ok(object);
        };
        let mut objects = at_version(converter, vec![object], api_version).await?;
        objects
            .pop()
            .ok_or_else(|| ApiError::internal("conversion lost the object"))
    }

    /// An object at the version that is stored.
    pub(crate) async fn at_stored_version(&self, object: Value) -> Result<Value, ApiError> {
        self.one_at(object, &self.stored_api_version).await
    }

    /// An object at the version that is served.
    pub(crate) async fn at_served_version(&self, object: Value) -> Result<Value, ApiError> {
        self.one_at(object, &self.api_version).await
    }

    /// Stored bytes at the version that is served.
    async fn bytes_at_served_version(
        &self,
        stored: &[u8],
        revision: Revision,
    ) -> Result<Bytes, ApiError> {
        let object = codec::parse(stored, revision)?;
        Ok(codec::encode(&self.at_served_version(object).await?).into())
    }

    /// Brings what was read to the version that is served, in one call.
    pub(crate) async fn serve_items(&self, items: &mut [KeyValue]) -> Result<(), ApiError> {
        let Some(converter) = &self.kind.converter else {
            return Ok(());
        };
        let parsed = items
            .iter()
            .map(|item| codec::parse(&item.value, item.mod_revision))
            .collect::<Result<Vec<_>, _>>()?;
        let objects = at_version(converter, parsed, &self.api_version).await?;
        for (item, object) in items.iter_mut().zip(&objects) {
            item.value = codec::encode(object).into();
        }
        Ok(())
    }

    /// Brings what was written to the version that is served.
    pub(crate) async fn serve_written(&self, mut written: Written) -> Result<Written, ApiError> {
        if self.kind.converter.is_some() {
            let (stored, revision) = (&written.stored, written.revision);
            written.stored = self.bytes_at_served_version(stored, revision).await?;
        }
        Ok(written)
    }

    /// The line of a watch event at the version that is served.
    pub(crate) async fn serve_event(
        &self,
        shaper: &Shaper,
        event: &HubEvent,
        change: Change,
        first: bool,
    ) -> Result<Bytes, ApiError> {
        if self.kind.converter.is_none() {
            return shaper.event(self, event, change, first);
        }
        let stored = if change == Change::Deleted {
            event.previous().unwrap_or_default()
        } else {
            event.stored()
        };
        let revision = event.revision();
        let object = self.bytes_at_served_version(stored, revision).await?;
        let mut out = Vec::with_capacity(object.len() + 128);
        shaper.append_event(&mut out, self, change, &object, revision, first)?;
        Ok(out.into())
    }
}
