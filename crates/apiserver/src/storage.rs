//! Objects in the store: keys, bytes, errors, and the parsed-object cache
//! behind [`Objects`](crate::objects::Objects).

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle_machinery::{ApiError, GroupResource, Reason};
use coracle_store::{
    Expect, KeyValue, ListRequest, Outcome, Page, Revision, Store, StoreError, Write,
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::codec;
use crate::hub::{Hub, Hubs};
use crate::registry::{Registry, Resource};
use crate::sync::lock;

/// Parsed objects kept for the server's own parts (RBAC, namespaces, service
/// accounts). A parsed object takes about ten times its bytes.
const CACHED_OBJECTS: usize = 4096;
/// Objects larger than this are not kept parsed.
const CACHED_OBJECT_BYTES: usize = 64 << 10;
/// Lists of more objects than this are not kept.
const CACHED_LIST: usize = 2048;
/// Lists kept: a few cluster-wide ones, and one for each busy namespace.
const CACHED_LISTS: usize = 256;
/// How long parsed objects are kept without use: at least so long, and until
/// the next change of any object after twice as long. Heartbeats of nodes, each
/// ten seconds, look at the same objects again.
const CACHED_UNUSED: Duration = Duration::from_secs(20);
/// Keys read at a time where a whole resource is walked.
const WALK_PAGE: usize = 500;

/// The API's words for the store's errors.
pub fn store_error(error: StoreError) -> ApiError {
    match error {
        StoreError::Compacted { requested, oldest } => {
            ApiError::expired(format!("too old resource version: {requested} ({oldest})"))
        }
        StoreError::Future { requested, latest } => too_large_revision(requested, latest),
        StoreError::TooLarge { .. } => {
            ApiError::new(Reason::RequestEntityTooLarge, error.to_string())
        }
        StoreError::InvalidKey { .. } => ApiError::bad_request(error.to_string()),
        StoreError::Closed => ApiError::new(Reason::ServiceUnavailable, error.to_string()),
        StoreError::Backend(_) => ApiError::internal(error),
    }
}

/// The caller knows a revision that this server has not reached.
pub fn too_large_revision(requested: Revision, latest: Revision) -> ApiError {
    ApiError {
        reason: Reason::Timeout,
        message: format!("Too large resource version: {requested}, current: {latest}"),
        details: json!({
            "causes": [{
                "reason": "ResourceVersionTooLarge",
                "message": "Too large resource version",
            }],
            "retryAfterSeconds": 1,
        }),
    }
}

/// Appends an object as a version of its resource serves it.
///
/// # Errors
/// Stored bytes that cannot be converted to that version.
pub fn append_object(
    out: &mut Vec<u8>,
    resource: &Resource,
    stored: &[u8],
    revision: Revision,
) -> Result<(), ApiError> {
    if resource.converts() {
        let object = parse_served(resource, stored, revision)?;
        codec::append_served(
            out,
            &codec::encode(&object),
            revision,
            &resource.api_version,
        );
    } else {
        codec::append_served(out, stored, revision, &resource.api_version);
    }
    Ok(())
}

/// The parsed object in the served form, with `resourceVersion`.
///
/// # Errors
/// Damaged bytes.
pub fn parse_served(
    resource: &Resource,
    stored: &[u8],
    revision: Revision,
) -> Result<Value, ApiError> {
    Ok(resource.to_served(codec::parse(stored, revision)?))
}

struct Cache {
    objects: HashMap<String, Kept<Arc<Value>>>,
    /// By storage name and namespace: the generation that it was read at.
    lists: HashMap<(GroupResource, String), Kept<CachedList>>,
    /// When what was not used was last let go.
    swept: Instant,
}

struct CachedList {
    generation: u64,
    objects: Vec<Arc<Value>>,
}

/// Something cached.
struct Kept<T> {
    value: T,
    /// Since the last sweep.
    used: bool,
}

impl<T> Kept<T> {
    fn new(value: T) -> Self {
        let used = true;
        Self { value, used }
    }

    fn get(&mut self) -> &T {
        self.used = true;
        &self.value
    }

    fn stays(&mut self) -> bool {
        std::mem::take(&mut self.used)
    }
}

/// What a sweep has let go of. Dropping it takes a while.
#[must_use]
struct Swept {
    _objects: Vec<Kept<Arc<Value>>>,
    _lists: Vec<Kept<CachedList>>,
}

impl Cache {
    fn new() -> Self {
        Self {
            objects: HashMap::new(),
            lists: HashMap::new(),
            swept: Instant::now(),
        }
    }

    /// Now and then, takes out what was not used since the last time: what a
    /// start looked at once would stay for good.
    fn sweep(&mut self) -> Option<Swept> {
        let now = Instant::now();
        if now.duration_since(self.swept) < CACHED_UNUSED {
            return None;
        }
        self.swept = now;
        let swept = Swept {
            _objects: unused(&mut self.objects),
            _lists: unused(&mut self.lists),
        };
        Some(swept)
    }
}

fn unused<K: Eq + Hash, T>(kept: &mut HashMap<K, Kept<T>>) -> Vec<Kept<T>> {
    let gone = kept.extract_if(|_, kept| !kept.stays());
    let gone = gone.map(|(_, value)| value).collect();
    kept.shrink_to_fit();
    gone
}

/// The store with what the pipeline keeps beside it.
pub struct Storage {
    /// The store itself.
    pub store: Arc<dyn Store>,
    /// What is served.
    pub registry: Arc<Registry>,
    /// The watch hubs.
    pub hubs: Hubs,
    cache: Arc<Mutex<Cache>>,
    /// Counts invalidations, so that a read that raced one is not cached.
    epoch: Arc<AtomicU64>,
}

impl Storage {
    /// Serves the registry's resources out of the store until `stop`.
    pub fn new(store: Arc<dyn Store>, registry: Arc<Registry>, stop: CancellationToken) -> Self {
        let cache = Arc::new(Mutex::new(Cache::new()));
        let epoch = Arc::new(AtomicU64::new(0));
        let (forgetful, counter) = (Arc::clone(&cache), Arc::clone(&epoch));
        let listener = Arc::new(move |_: &GroupResource, key: &str| {
            counter.fetch_add(1, Ordering::AcqRel);
            let swept = {
                let mut cache = lock(&forgetful);
                cache.objects.remove(key);
                cache.sweep()
            };
            drop(swept);
        });
        Self {
            hubs: Hubs::new(Arc::clone(&store), listener, stop),
            store,
            registry,
            cache,
            epoch,
        }
    }

    /// An object's bytes.
    ///
    /// # Errors
    /// The store's.
    pub async fn get(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<KeyValue>, ApiError> {
        if !key_part(name) || (resource.namespaced() && !key_part(namespace)) {
            return Ok(None);
        }
        self.store
            .get(&resource.key(namespace, name))
            .await
            .map_err(store_error)
    }

    /// A page of a resource.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self, request: ListRequest) -> Result<Page, ApiError> {
        self.store.list(request).await.map_err(store_error)
    }

    /// Writes, and lets caches know at once.
    ///
    /// # Errors
    /// The store's.
    pub async fn write(
        &self,
        resource: &Resource,
        key: &str,
        expect: Expect,
        write: Write,
    ) -> Result<Outcome, ApiError> {
        let outcome = self
            .store
            .write(key, expect, write)
            .await
            .map_err(store_error)?;
        if let Outcome::Done { revision, .. } = &outcome {
            if let Some(hub) = self.hubs.running(&resource.storage) {
                hub.note_write(*revision);
            }
            self.epoch.fetch_add(1, Ordering::AcqRel);
            lock(&self.cache).objects.remove(key);
        }
        Ok(outcome)
    }

    fn resource(&self, resource: &GroupResource) -> Result<Arc<Resource>, ApiError> {
        self.registry
            .storage(resource)
            .ok_or_else(ApiError::no_such_path)
    }

    /// A parsed object, cached while it does not change.
    ///
    /// # Errors
    /// The store's, or a resource that is not served.
    pub async fn object(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Value>>, ApiError> {
        let resource = self.resource(resource)?;
        if !key_part(name) || (resource.namespaced() && !key_part(namespace)) {
            return Ok(None);
        }
        // The hub's events keep the cache true.
        self.hubs.get(&resource).await?;
        let key = resource.key(namespace, name);
        if let Some(object) = lock(&self.cache).objects.get_mut(&key) {
            return Ok(Some(Arc::clone(object.get())));
        }
        let epoch = self.epoch.load(Ordering::Acquire);
        let Some(kv) = self.store.get(&key).await.map_err(store_error)? else {
            return Ok(None);
        };
        let object = Arc::new(parse_served(&resource, &kv.value, kv.mod_revision)?);
        if kv.value.len() <= CACHED_OBJECT_BYTES {
            let mut cache = lock(&self.cache);
            if self.epoch.load(Ordering::Acquire) == epoch {
                if cache.objects.len() >= CACHED_OBJECTS {
                    cache.objects.clear();
                }
                let object = Kept::new(Arc::clone(&object));
                cache.objects.insert(key, object);
            }
        }
        Ok(Some(object))
    }

    /// All parsed objects of a resource, cached while none of them changes.
    ///
    /// # Errors
    /// The store's, or a resource that is not served.
    pub async fn objects(
        &self,
        resource: &GroupResource,
        namespace: &str,
    ) -> Result<Vec<Arc<Value>>, ApiError> {
        let resource = self.resource(resource)?;
        let hub: Arc<Hub> = self.hubs.get(&resource).await?;
        let generation = hub.generation();
        let cache_key = (resource.storage.clone(), namespace.to_owned());
        if let Some(list) = lock(&self.cache).lists.get_mut(&cache_key)
            && list.value.generation == generation
        {
            return Ok(list.get().objects.clone());
        }
        let mut list = Vec::new();
        let mut request = ListRequest {
            prefix: resource.list_prefix(namespace),
            limit: Some(WALK_PAGE),
            ..ListRequest::default()
        };
        loop {
            let page = self.list(request.clone()).await?;
            request.revision = Some(page.revision);
            request.after = page.items.last().map(|kv| kv.key.clone());
            for kv in &page.items {
                list.push(Arc::new(parse_served(
                    &resource,
                    &kv.value,
                    kv.mod_revision,
                )?));
            }
            if page.remaining == 0 || page.items.is_empty() {
                break;
            }
        }
        if list.len() <= CACHED_LIST {
            let mut cache = lock(&self.cache);
            let held: usize = cache.lists.values().map(|l| l.value.objects.len()).sum();
            if cache.lists.len() >= CACHED_LISTS || held + list.len() > CACHED_OBJECTS {
                cache.lists.clear();
            }
            let objects = list.clone();
            let list = CachedList {
                generation,
                objects,
            };
            cache.lists.insert(cache_key, Kept::new(list));
        }
        Ok(list)
    }

    /// See [`Objects::generation`](crate::objects::Objects::generation). A
    /// resource without a hub gets a new number each time, so that nothing is
    /// cached on it.
    pub fn generation(&self, resource: &GroupResource) -> u64 {
        let storage = self.registry.storage(resource);
        match storage.and_then(|r| self.hubs.running(&r.storage)) {
            Some(hub) => hub.generation(),
            None => (1 << 63) | self.epoch.fetch_add(1, Ordering::AcqRel),
        }
    }
}

/// True if the text can be one segment of a key.
pub fn key_part(text: &str) -> bool {
    !text.is_empty() && !text.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_not_used_is_let_go() {
        let mut cache = Cache::new();
        let object = || Kept::new(Arc::new(json!({})));
        for name in ["used", "unused"] {
            cache.objects.insert(name.into(), object());
        }
        let key = (GroupResource::new("", "pods"), String::new());
        let list = CachedList {
            generation: 1,
            objects: Vec::new(),
        };
        cache.lists.insert(key, Kept::new(list));
        assert!(cache.sweep().is_none(), "too soon");
        tokio::time::advance(CACHED_UNUSED).await;
        drop(cache.sweep());
        assert_eq!((cache.objects.len(), cache.lists.len()), (2, 1));
        tokio::time::advance(CACHED_UNUSED).await;
        cache.objects.get_mut("used").unwrap().get();
        drop(cache.sweep());
        assert!(cache.objects.contains_key("used"));
        assert_eq!((cache.objects.len(), cache.lists.len()), (1, 0));
    }
}
