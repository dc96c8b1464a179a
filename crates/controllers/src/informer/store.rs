//! The in-memory index of one resource.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use super::watch::Sink;
use crate::objects::{Kind, version_number};
use crate::queue::Key;

/// What happened to an object: added (no `old`), changed, removed (no `new`).
pub(crate) struct Change<'a, T> {
    pub old: Option<&'a Arc<T>>,
    pub new: Option<&'a Arc<T>>,
}

impl<'a, T> Change<'a, T> {
    /// The object as it is, or as it last was.
    pub(crate) fn latest(&self) -> &'a Arc<T> {
        self.new.or(self.old).expect("a change has a side")
    }
}

type Handler<T> = Box<dyn Fn(Change<'_, T>) + Send + Sync>;

/// Objects of one kind, as last seen.
pub(crate) struct Store<T> {
    inner: RwLock<Inner<T>>,
    handlers: RwLock<Vec<Handler<T>>>,
    /// The newest version that the cache reflects.
    version: AtomicU64,
    synced: watch::Sender<bool>,
}

struct Inner<T> {
    objects: BTreeMap<Key, Arc<T>>,
    index: HashMap<String, BTreeSet<Key>>,
}

impl<T: Kind> Inner<T> {
    fn insert(&mut self, object: Arc<T>) -> Option<Arc<T>> {
        let key = object.meta().key();
        let old = self.objects.insert(key.clone(), object.clone());
        if let Some(old) = &old {
            self.unindex(&key, old);
        }
        object.index(&mut |name| {
            self.index.entry(name).or_default().insert(key.clone());
        });
        old
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<T>> {
        let old = self.objects.remove(key)?;
        self.unindex(key, &old);
        Some(old)
    }

    fn unindex(&mut self, key: &Key, object: &T) {
        object.index(&mut |name| {
            if let Some(keys) = self.index.get_mut(&name) {
                keys.remove(key);
                if keys.is_empty() {
                    self.index.remove(&name);
                }
            }
        });
    }
}

impl<T: Kind> Store<T> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: RwLock::new(Inner {
                objects: BTreeMap::new(),
                index: HashMap::new(),
            }),
            handlers: RwLock::default(),
            version: AtomicU64::new(0),
            synced: watch::Sender::new(false),
        })
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Inner<T>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `handler` with every later change, in order, from the watch task:
    /// it must be quick and must not block.
    pub(crate) fn subscribe(&self, handler: impl Fn(Change<'_, T>) + Send + Sync + 'static) {
        self.handlers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::new(handler));
    }

    pub(crate) fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.read().objects.get(&Key::new(namespace, name)).cloned()
    }

    pub(crate) fn by_key(&self, key: &Key) -> Option<Arc<T>> {
        self.read().objects.get(key).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        self.read().objects.values().cloned().collect()
    }

    /// The objects of a namespace, by name.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<T>> {
        self.read()
            .objects
            .range(Key::new(namespace, "")..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// The objects under an index name, in the order of their keys.
    pub(crate) fn indexed(&self, name: &str) -> Vec<Arc<T>> {
        let inner = self.read();
        let keys = inner.index.get(name).into_iter().flatten();
        keys.filter_map(|key| inner.objects.get(key).cloned())
            .collect()
    }

    /// Whether the cache reflects everything up to this version.
    pub(crate) fn has_seen(&self, version: u64) -> bool {
        self.version.load(Ordering::Acquire) >= version
    }

    fn saw(&self, version: &str) {
        self.version
            .fetch_max(version_number(version), Ordering::AcqRel);
    }

    fn notify(&self, old: Option<&Arc<T>>, new: Option<&Arc<T>>) {
        for handler in self
            .handlers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            handler(Change { old, new });
        }
    }

    fn upsert(&self, object: T) {
        let object = Arc::new(object);
        let old = {
            let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
            inner.insert(object.clone())
        };
        self.saw(&object.meta().resource_version);
        // Another object of the same name: its predecessor's removal was not
        // seen, and subscribers must not take one for the other.
        match old {
            Some(old) if old.meta().uid != object.meta().uid => {
                self.notify(Some(&old), None);
                self.notify(None, Some(&object));
            }
            Some(old) if old.meta().resource_version == object.meta().resource_version => {}
            old => self.notify(old.as_ref(), Some(&object)),
        }
    }

    fn drop_key(&self, key: &Key) {
        let old = {
            let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
            inner.remove(key)
        };
        if let Some(old) = old {
            self.notify(Some(&old), None);
        }
    }
}

impl<T: Kind> Sink for Store<T> {
    type Object = T;

    fn replace(&self, objects: Vec<T>, version: &str) {
        let listed: HashSet<Key> = objects.iter().map(|object| object.meta().key()).collect();
        for object in objects {
            self.upsert(object);
        }
        let gone: Vec<Key> = {
            let inner = self.read();
            inner
                .objects
                .keys()
                .filter(|key| !listed.contains(key))
                .cloned()
                .collect()
        };
        for key in gone {
            self.drop_key(&key);
        }
        self.saw(version);
        self.synced.send_replace(true);
    }

    fn apply(&self, object: T) {
        self.upsert(object);
    }

    fn remove(&self, object: T) {
        // First the removal, then the version: who waits for the version must
        // not find the object still there.
        self.drop_key(&object.meta().key());
        self.saw(&object.meta().resource_version);
    }

    fn bookmark(&self, version: &str) {
        self.saw(version);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::objects::{object, owner_index, pod::Pod};
    use serde_json::json;

    fn pod(name: &str, uid: &str, version: &str, owner: &str) -> Pod {
        object(json!({"metadata": {
            "name": name, "namespace": "a", "uid": uid, "resourceVersion": version,
            "ownerReferences": [{"uid": owner, "controller": true}],
        }}))
    }

    #[test]
    fn changes_reach_subscribers_and_indices() {
        let store = Store::new();
        let log = Arc::new(Mutex::new(Vec::new()));
        let seen = log.clone();
        store.subscribe(move |change: Change<'_, Pod>| {
            let uid = |object: Option<&Arc<Pod>>| object.map(|pod| pod.metadata.uid.clone());
            seen.lock()
                .unwrap()
                .push((uid(change.old), uid(change.new)));
        });
        store.replace(vec![pod("x", "1", "5", "o"), pod("y", "2", "6", "o")], "7");
        assert!(store.has_seen(7) && !store.has_seen(8));
        assert_eq!(store.indexed(&owner_index("o")).len(), 2);
        store.apply(pod("x", "1", "8", "p"));
        assert_eq!(store.indexed(&owner_index("o")).len(), 1);
        // Replaced by a namesake, then a list without it.
        store.apply(pod("x", "3", "9", "p"));
        store.replace(vec![pod("y", "2", "6", "o")], "10");
        assert!(store.indexed(&owner_index("p")).is_empty());
        let some = |uid: &str| Some(uid.to_owned());
        assert_eq!(
            *log.lock().unwrap(),
            vec![
                (None, some("1")),
                (None, some("2")),
                (some("1"), some("1")),
                (some("1"), None),
                (None, some("3")),
                (some("3"), None),
            ]
        );
    }
}
