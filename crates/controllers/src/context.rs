//! What every controller is given, and the helpers that most of them share.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::Options;
use crate::api::Api;
use crate::error::Error;
use crate::events::Recorder;
use crate::informer::{Change, Informers, Store};
use crate::objects::{Kind, written_version};
use crate::queue::{Key, Next, Queue};

/// A running controller.
pub(crate) type Task = BoxFuture<'static, ()>;

/// What a controller needs of the world.
#[derive(Clone)]
pub(crate) struct Context {
    pub api: Api,
    pub informers: Arc<Informers>,
    pub events: Recorder,
    pub options: Arc<Options>,
    pub shutdown: CancellationToken,
}

impl Context {
    pub(crate) fn store<T: Kind>(&self) -> Arc<Store<T>> {
        self.informers.store::<T>()
    }

    /// Works on a queue once the caches are filled.
    pub(crate) fn work<K, F, Fut>(
        &self,
        name: &'static str,
        workers: usize,
        queue: Arc<Queue<K>>,
        reconcile: F,
    ) -> Task
    where
        K: Clone + Eq + std::hash::Hash + std::fmt::Debug + Send + Sync + 'static,
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Next, Error>> + Send + 'static,
    {
        let (informers, shutdown) = (self.informers.clone(), self.shutdown.clone());
        Box::pin(async move {
            informers.synced().await;
            queue.run(name, workers, &shutdown, reconcile).await;
        })
    }
}

/// Queues the key of every object that changes.
pub(crate) fn enqueue_self<T: Kind>(store: &Store<T>, queue: &Arc<Queue>) {
    let queue = queue.clone();
    store.subscribe(move |change: Change<'_, T>| queue.add(change.latest().meta().key()));
}

/// Queues the controlling owner of a kind for every change of its dependents,
/// the former owner included.
pub(crate) fn enqueue_owner<T: Kind>(store: &Store<T>, kind: &'static str, queue: &Arc<Queue>) {
    let queue = queue.clone();
    store.subscribe(move |change: Change<'_, T>| {
        for meta in [change.old, change.new]
            .into_iter()
            .flatten()
            .map(|object| object.meta())
        {
            if let Some(owner) = meta.controller().filter(|owner| owner.kind == kind) {
                queue.add(Key::new(meta.namespace.clone(), owner.name.clone()));
            }
        }
    });
}

/// Remembers what a controller wrote until its cache has seen it.
///
/// A reconciliation that starts before that would repeat what it just did.
pub(crate) struct Written<T> {
    store: Arc<Store<T>>,
    newest: Mutex<HashMap<Key, u64>>,
    /// Dependents whose deletion was asked for, by the key of their owner.
    deleted: Mutex<HashMap<Key, HashSet<String>>>,
}

impl<T: Kind> Written<T> {
    pub(crate) fn new(store: Arc<Store<T>>) -> Self {
        Self {
            store,
            newest: Mutex::default(),
            deleted: Mutex::default(),
        }
    }

    /// Notes the answer to a write made for `key`.
    pub(crate) fn note(&self, key: &Key, response: &Value) {
        let version = written_version(response);
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = newest.entry(key.clone()).or_insert(0);
        *entry = version.max(*entry);
    }

    /// Whether the cache shows every write made for `key`; until it does, the
    /// event that is still to come queues the key again.
    pub(crate) fn is_seen(&self, key: &Key) -> bool {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        match newest.get(key) {
            Some(version) if !self.store.has_seen(*version) => false,
            _ => {
                newest.remove(key);
                true
            }
        }
    }

    /// Notes that the dependent with this uid is as good as gone.
    pub(crate) fn note_deleted(&self, key: &Key, uid: &str) {
        let mut deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        deleted
            .entry(key.clone())
            .or_default()
            .insert(uid.to_owned());
    }

    /// Whether the dependent's deletion was asked for already.
    pub(crate) fn is_deleted(&self, key: &Key, uid: &str) -> bool {
        let deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        deleted.get(key).is_some_and(|uids| uids.contains(uid))
    }

    /// Forgets deletions of dependents that the cache no longer holds.
    pub(crate) fn keep_deleted(&self, key: &Key, present: &[Arc<T>]) {
        let mut deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(uids) = deleted.get_mut(key) {
            uids.retain(|uid| present.iter().any(|object| object.meta().uid == *uid));
            if uids.is_empty() {
                deleted.remove(key);
            }
        }
    }
}

/// The earlier of two pending looks.
pub(crate) fn sooner(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Waits for a change, or looks again after the given time.
pub(crate) fn next(after: Option<Duration>) -> Next {
    after.map_or(Next::Wait, Next::After)
}

/// Time from `now` until `at`; zero if it has passed.
pub(crate) fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}

/// Adds seconds to a time; the far future if that does not fit.
pub(crate) fn plus_seconds(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(jiff::SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}
