//! Objects in memory, for tests of whatever reads or writes through
//! [`Objects`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use coracle_machinery::{ApiError, GroupResource, object};
use serde_json::{Value, json};

use crate::objects::Objects;

type Key = (GroupResource, String, String);

/// A store without a pipeline: uids and resource versions are given out,
/// nothing is defaulted or validated.
#[derive(Default)]
pub(crate) struct FakeObjects {
    held: Mutex<BTreeMap<Key, Arc<Value>>>,
    changes: Mutex<BTreeMap<GroupResource, u64>>,
    clock: AtomicU64,
    /// How often `list` was called.
    pub(crate) lists: AtomicU64,
}

impl FakeObjects {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Stores an object, whether it exists or not.
    pub(crate) fn put(&self, resource: &GroupResource, mut value: Value) -> Arc<Value> {
        let version = self.clock.fetch_add(1, Ordering::SeqCst) + 1;
        let metadata = object::metadata_mut(&mut value);
        metadata.insert("resourceVersion".into(), json!(version.to_string()));
        metadata
            .entry("uid")
            .or_insert_with(|| json!(format!("uid-{version}")));
        let value = Arc::new(value);
        let mut held = self.held.lock().unwrap();
        held.insert(key(resource, &value), value.clone());
        *self
            .changes
            .lock()
            .unwrap()
            .entry(resource.clone())
            .or_default() += 1;
        value
    }

    pub(crate) fn remove(&self, resource: &GroupResource, namespace: &str, name: &str) {
        let key = (resource.clone(), namespace.to_owned(), name.to_owned());
        self.held.lock().unwrap().remove(&key);
        *self
            .changes
            .lock()
            .unwrap()
            .entry(resource.clone())
            .or_default() += 1;
    }
}

fn key(resource: &GroupResource, value: &Value) -> Key {
    (
        resource.clone(),
        object::namespace(value).to_owned(),
        object::name(value).to_owned(),
    )
}

#[async_trait]
impl Objects for FakeObjects {
    async fn get(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Value>>, ApiError> {
        let key = (resource.clone(), namespace.to_owned(), name.to_owned());
        Ok(self.held.lock().unwrap().get(&key).cloned())
    }

    async fn list(
        &self,
        resource: &GroupResource,
        namespace: &str,
    ) -> Result<Vec<Arc<Value>>, ApiError> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        let held = self.held.lock().unwrap();
        Ok(held
            .iter()
            .filter(|((r, ns, _), _)| r == resource && (namespace.is_empty() || ns == namespace))
            .map(|(_, value)| value.clone())
            .collect())
    }

    fn generation(&self, resource: &GroupResource) -> u64 {
        *self.changes.lock().unwrap().get(resource).unwrap_or(&0)
    }

    async fn create(&self, resource: &GroupResource, object: Value) -> Result<Value, ApiError> {
        if self
            .held
            .lock()
            .unwrap()
            .contains_key(&key(resource, &object))
        {
            return Err(ApiError::already_exists(resource, object::name(&object)));
        }
        Ok((*self.put(resource, object)).clone())
    }

    async fn update(&self, resource: &GroupResource, object: Value) -> Result<Value, ApiError> {
        let name = object::name(&object).to_owned();
        let current = self
            .held
            .lock()
            .unwrap()
            .get(&key(resource, &object))
            .cloned();
        let Some(current) = current else {
            return Err(ApiError::not_found(resource, &name));
        };
        let wanted = object::resource_version(&object);
        if !wanted.is_empty() && wanted != object::resource_version(&current) {
            return Err(ApiError::conflict(resource, &name, "it changed"));
        }
        Ok((*self.put(resource, object)).clone())
    }
}
