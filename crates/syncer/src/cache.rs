//! What is known of one kind on one side: listed once, then watched.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use coracle_translate::VirtualName;
use futures::{StreamExt, pin_mut};
use kube::core::WatchEvent;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::api::{ApiError, Cluster, Narrow, Resource};

/// Pause before the first and after the last of many failed attempts to list
/// or watch.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How much of an object is kept in memory. Field managers never are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// All else.
    Whole,
    /// Not the content of a ConfigMap or Secret, which is read again when it is
    /// needed.
    Frame,
    /// What a pod needs, and where it is.
    Needs,
}

/// What a cache watches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watched<'a> {
    pub(crate) resource: Resource<'a>,
    pub(crate) kept: Kept,
}

impl Watched<'_> {
    fn slim(self, object: &mut Value) {
        if self.kept == Kept::Needs {
            return crate::sync::usage::slim(object);
        }
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        if self.kept == Kept::Frame
            && let Some(map) = object.as_object_mut()
        {
            map.remove("data");
            map.remove("binaryData");
        }
    }
}

/// Objects of one kind by namespace and name.
pub(crate) struct Cache {
    objects: RwLock<HashMap<VirtualName, Arc<Value>>>,
    synced: watch::Sender<bool>,
}

/// A change that the watch told: the object as it was before and is now.
pub(crate) struct Change {
    pub(crate) old: Option<Arc<Value>>,
    pub(crate) new: Option<Arc<Value>>,
}

impl Change {
    /// The object as it is, or was last.
    pub(crate) fn object(&self) -> Option<&Arc<Value>> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self {
            objects: RwLock::default(),
            synced: watch::Sender::new(false),
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<VirtualName, Arc<Value>>> {
        // The map is whole at every point where a holder could panic.
        self.objects
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<VirtualName, Arc<Value>>> {
        self.objects
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn get(&self, name: &VirtualName) -> Option<Arc<Value>> {
        self.read().get(name).cloned()
    }

    /// All objects that `keep` chooses.
    pub(crate) fn select(&self, keep: impl Fn(&VirtualName, &Value) -> bool) -> Vec<Arc<Value>> {
        let objects = self.read();
        let chosen = objects.iter().filter(|(name, object)| keep(name, object));
        chosen.map(|(_, object)| object.clone()).collect()
    }

    pub(crate) fn any(&self, test: impl Fn(&Value) -> bool) -> bool {
        self.read().values().any(|object| test(object))
    }

    pub(crate) fn names(&self) -> Vec<VirtualName> {
        self.read().keys().cloned().collect()
    }

    /// True once the first complete list is there.
    pub(crate) fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits for the first complete list.
    pub(crate) async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as the cache itself.
        let _ = synced.wait_for(|done| *done).await;
    }

    fn put(&self, object: Value) -> Change {
        let new = Arc::new(object);
        let old = self.write().insert(VirtualName::of(&new), new.clone());
        Change {
            old,
            new: Some(new),
        }
    }

    fn remove(&self, name: &VirtualName) -> Change {
        let old = self.write().remove(name);
        Change { old, new: None }
    }

    /// Lists and watches until stopped; tells every change.
    pub(crate) async fn run(
        &self,
        watched: Watched<'_>,
        cluster: Cluster,
        narrow: Narrow,
        stop: CancellationToken,
        tell: impl Fn(Change) + Send,
    ) {
        let mut version = String::new();
        let mut pause = FIRST_PAUSE;
        loop {
            let round = async {
                if version.is_empty() {
                    version = self.relist(watched, &cluster, &narrow, &tell).await?;
                }
                self.follow(watched, &cluster, &narrow, &mut version, &tell, &mut pause)
                    .await
            };
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = round => outcome,
            };
            match outcome {
                // The server closed the stream: go on where it ended.
                Ok(()) => continue,
                Err(error) if error.is_gone() => version.clear(),
                Err(error @ ApiError::Refused { .. }) => {
                    warn!(kind = watched.resource.kind, %error, "cannot list or watch");
                    version.clear();
                }
                Err(error) => debug!(kind = watched.resource.kind, %error, "the watch broke off"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
        }
    }

    async fn relist(
        &self,
        watched: Watched<'_>,
        cluster: &Cluster,
        narrow: &Narrow,
        tell: &impl Fn(Change),
    ) -> Result<String, ApiError> {
        let resource = watched.resource;
        let (items, version) = cluster.list(resource, narrow).await?;
        let mut gone: std::collections::HashSet<VirtualName> = self.names().into_iter().collect();
        for mut item in items {
            watched.slim(&mut item);
            if let Some(map) = item.as_object_mut() {
                // Items of a list do not say what they are.
                map.insert("apiVersion".into(), resource.api_version.into());
                map.insert("kind".into(), resource.kind.into());
            }
            gone.remove(&VirtualName::of(&item));
            tell(self.put(item));
        }
        for name in gone {
            tell(self.remove(&name));
        }
        self.synced.send_replace(true);
        Ok(version)
    }

    async fn follow(
        &self,
        watched: Watched<'_>,
        cluster: &Cluster,
        narrow: &Narrow,
        version: &mut String,
        tell: &impl Fn(Change),
        pause: &mut Duration,
    ) -> Result<(), ApiError> {
        let stream = cluster.watch(watched.resource, narrow, version).await?;
        pin_mut!(stream);
        let mut seen = false;
        while let Some(event) = stream.next().await {
            let (mut object, deleted) = match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
                WatchEvent::Deleted(object) => (object, true),
                WatchEvent::Bookmark(bookmark) => {
                    version.clone_from(&bookmark.metadata.resource_version);
                    continue;
                }
                WatchEvent::Error(status) => {
                    return Err(ApiError::from(kube::Error::Api(status)));
                }
            };
            seen = true;
            *pause = FIRST_PAUSE;
            coracle_machinery::object::resource_version(&object).clone_into(version);
            if deleted {
                tell(self.remove(&VirtualName::of(&object)));
            } else {
                watched.slim(&mut object);
                tell(self.put(object));
            }
        }
        if seen {
            return Ok(());
        }
        // A server that closes at once must not be asked again at once.
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}
