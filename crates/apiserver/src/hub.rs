//! Watching: one hub per resource fans the store's changes out to watchers.
//!
//! A hub starts when first asked for and follows the store's watch on the
//! resource's prefix. It holds the last events for watchers that resume; a
//! watcher that asks for older ones follows the store by itself. Every
//! watcher has a bounded queue. One that does not keep up is cut off and told
//! `410 Gone`; the others notice nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock};
use std::time::Duration;

use bytes::Bytes;
use coracle_machinery::{ApiError, GroupResource};
use coracle_store::{Event, Revision, Store, StoreError, WatchMessage, WatchStream};
use futures::StreamExt;
use tokio::sync::{OnceCell, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::registry::Resource;
use crate::select::Facets;
use crate::storage::{append_object, store_error};
use crate::sync::{lock, read, write};

/// Events kept per resource for watchers that resume. Clients that lost their
/// connection come back within seconds; older ones are read from the store.
const RING_EVENTS: usize = 512;
/// Bytes kept per resource, so that large objects do not add up.
const RING_BYTES: usize = 1 << 20;
/// How long they are kept at most: an idle server holds none.
const RING_AGE: Duration = Duration::from_secs(30);
/// Events waiting for one watcher: what a client may lag behind.
const QUEUE_EVENTS: usize = 1024;
/// Bytes waiting for one watcher.
const QUEUE_BYTES: usize = 16 << 20;
/// Pause before following the store anew after it failed.
const RETRY: Duration = Duration::from_secs(1);

/// What happened to an object, as watchers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those on the wire")]
pub enum Change {
    Added,
    Modified,
    Deleted,
}

impl Change {
    /// What a line of a watch starts with.
    fn opening(self) -> &'static [u8] {
        match self {
            Self::Added => b"{\"type\":\"ADDED\",\"object\":",
            Self::Modified => b"{\"type\":\"MODIFIED\",\"object\":",
            Self::Deleted => b"{\"type\":\"DELETED\",\"object\":",
        }
    }

    /// The value of `type` on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// A change on its way to the watchers. What is derived from it is derived
/// once for all of them.
#[derive(Debug)]
pub struct HubEvent {
    event: Arc<Event>,
    line: OnceLock<Bytes>,
    facets: OnceLock<Arc<FacetPair>>,
}

/// Facets after and before a change.
type FacetPair = (Option<Facets>, Option<Facets>);

impl HubEvent {
    fn new(event: Arc<Event>) -> Self {
        Self {
            event,
            line: OnceLock::new(),
            facets: OnceLock::new(),
        }
    }

    /// The key of the object.
    pub fn key(&self) -> &str {
        &self.event.entry.key
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        self.event.entry.mod_revision
    }

    /// What happened, to someone who sees all objects.
    pub fn change(&self) -> Change {
        if self.event.deleted {
            Change::Deleted
        } else if self.event.previous.is_none() {
            Change::Added
        } else {
            Change::Modified
        }
    }

    /// The stored bytes after the change; for a delete those before it.
    pub fn stored(&self) -> &[u8] {
        if self.event.deleted {
            self.previous().unwrap_or_default()
        } else {
            &self.event.entry.value
        }
    }

    /// The stored bytes before the change.
    pub fn previous(&self) -> Option<&[u8]> {
        self.event.previous.as_ref().map(|kv| &*kv.value)
    }

    /// What selectors look at, after and before the change; found out once
    /// for all watchers.
    pub fn facets(&self, resource: &Resource) -> Arc<FacetPair> {
        let read = || {
            let of = |bytes: &[u8]| Facets::read(bytes, resource);
            let new = (!self.event.deleted).then(|| of(&self.event.entry.value));
            Arc::new((new, self.previous().map(of)))
        };
        Arc::clone(self.facets.get_or_init(read))
    }

    /// The line on the wire for this event, told as `change`. The ordinary
    /// line is made once and shared by all watchers of the stored version.
    ///
    /// # Errors
    /// Stored bytes that cannot be converted to the watcher's version.
    pub fn line(&self, resource: &Resource, change: Change) -> Result<Bytes, ApiError> {
        let shared = change == self.change() && !resource.converts();
        if shared && let Some(line) = self.line.get() {
            let version = &resource.api_version;
            let at = change.opening().len() + "{\"apiVersion\":\"".len();
            if line.get(at..at + version.len()) == Some(version.as_bytes())
                && line.get(at + version.len()) == Some(&b'"')
            {
                return Ok(line.clone());
            }
        }
        // What left a selector is shown as it was, but at the new revision.
        let stored = if change == Change::Deleted {
            self.previous().unwrap_or_default()
        } else {
            self.stored()
        };
        let mut out = Vec::with_capacity(stored.len() + 96);
        out.extend_from_slice(change.opening());
        append_object(&mut out, resource, stored, self.revision())?;
        out.extend_from_slice(b"}\n");
        let line = Bytes::from(out);
        if shared {
            // The first version asked for is the one that is shared.
            let _ = self.line.set(line.clone());
        }
        Ok(line)
    }

    fn size(&self) -> usize {
        let event = &self.event;
        256 + 2 * event.entry.value.len() + event.previous.as_ref().map_or(0, |p| p.value.len())
    }
}

/// Which keys a watcher wants: decided before anything is queued for it.
#[derive(Clone, Debug)]
pub enum KeyScope {
    /// All that start so.
    Prefix(String),
    /// Exactly one.
    Key(String),
}

impl KeyScope {
    /// Whether a watcher of this scope may be told of the key.
    pub fn admits(&self, key: &str) -> bool {
        match self {
            Self::Prefix(prefix) => key.starts_with(prefix.as_str()),
            Self::Key(wanted) => key == wanted,
        }
    }
}

struct Watcher {
    scope: KeyScope,
    queue: mpsc::Sender<Arc<HubEvent>>,
    queued_bytes: Arc<AtomicUsize>,
}

struct State {
    /// The last events and when they came.
    ring: VecDeque<(Instant, Arc<HubEvent>)>,
    ring_bytes: usize,
    /// The ring holds every event after this revision.
    floor: Revision,
    watchers: HashMap<u64, Watcher>,
    next_id: u64,
}

/// The fan-out of one resource.
pub struct Hub {
    state: Mutex<State>,
    /// All changes up to and with this revision have been handed out.
    seen: AtomicU64,
    generation: AtomicU64,
    store: Arc<dyn Store>,
    prefix: String,
}

/// Told of every changed key, before the watchers are.
pub type KeyListener = Arc<dyn Fn(&GroupResource, &str) + Send + Sync>;

impl Hub {
    async fn start(
        store: Arc<dyn Store>,
        resource: GroupResource,
        prefix: String,
        listener: KeyListener,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, StoreError> {
        let revision = store.revision().await?;
        let stream = store.watch(&prefix, revision).await?;
        let hub = Arc::new(Self {
            state: Mutex::new(State {
                ring: VecDeque::new(),
                ring_bytes: 0,
                floor: revision,
                watchers: HashMap::new(),
                next_id: 0,
            }),
            seen: AtomicU64::new(revision),
            generation: AtomicU64::new(revision),
            store,
            prefix,
        });
        let follower = Arc::clone(&hub);
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = follower.follow(stream, &resource, &listener) => {}
            }
            follower.lock().watchers.clear();
        });
        Ok(hub)
    }

    async fn follow(
        &self,
        mut stream: WatchStream,
        resource: &GroupResource,
        listener: &KeyListener,
    ) {
        loop {
            let cause = loop {
                match stream.next().await {
                    Some(Ok(WatchMessage::Events(events))) => {
                        self.publish(events, resource, listener);
                    }
                    Some(Ok(WatchMessage::Progress(revision))) => {
                        self.seen.fetch_max(revision, Ordering::AcqRel);
                        self.lock().trim(Instant::now());
                    }
                    Some(Err(StoreError::Closed)) => return,
                    Some(Err(error)) => break error.to_string(),
                    None => break "the stream ended".to_owned(),
                }
            };
            tracing::warn!(%resource, %cause, "lost the store's watch, watchers have to list again");
            self.lock().watchers.clear();
            stream = loop {
                tokio::time::sleep(RETRY).await;
                match self.restart().await {
                    Ok(stream) => break stream,
                    Err(StoreError::Closed) => return,
                    Err(error) => tracing::warn!(%resource, %error, "cannot watch the store"),
                }
            };
        }
    }

    /// Begins anew at the present revision, with nothing to resume from.
    async fn restart(&self) -> Result<WatchStream, StoreError> {
        let revision = self.store.revision().await?;
        let stream = self.store.watch(&self.prefix, revision).await?;
        let mut state = self.lock();
        state.watchers.clear();
        state.ring.clear();
        state.ring_bytes = 0;
        state.floor = revision;
        self.seen.store(revision, Ordering::Release);
        // Not beyond: a number that the next change has as well would hide it.
        self.generation.fetch_max(revision, Ordering::AcqRel);
        Ok(stream)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn publish(&self, events: Vec<Arc<Event>>, resource: &GroupResource, listener: &KeyListener) {
        let Some(last) = events.last().map(|e| e.entry.mod_revision) else {
            return;
        };
        self.generation.fetch_max(last, Ordering::AcqRel);
        for event in &events {
            listener(resource, &event.entry.key);
        }
        let mut state = self.lock();
        let now = Instant::now();
        for event in events {
            let event = Arc::new(HubEvent::new(event));
            state.watchers.retain(|_, w| w.offer(&event));
            state.keep(now, event);
        }
        self.seen.fetch_max(last, Ordering::AcqRel);
    }

    /// Everything up to and with this revision is in the watchers' queues.
    pub fn seen(&self) -> Revision {
        self.seen.load(Ordering::Acquire)
    }

    /// Grows with every change.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Notes a write by this server before its event arrives, so that caches
    /// never serve what the writer knows to be stale.
    pub fn note_write(&self, revision: Revision) {
        self.generation.fetch_max(revision, Ordering::AcqRel);
    }

    /// Notes that somebody was shown the state at this revision, perhaps before
    /// its event arrived, so that caches do not serve what is older: a watcher
    /// is not told of that change again, and whoever reads for it must find it.
    pub fn note_shown(&self, revision: Revision) {
        if self.seen() < revision {
            self.generation.fetch_max(revision, Ordering::AcqRel);
        }
    }

    /// How many watchers there are.
    pub fn watchers(&self) -> usize {
        self.lock().watchers.len()
    }

    /// Begins to queue the changes of `scope`. With `after`, the changes
    /// since that revision come first; `None` if they are no longer held.
    pub fn subscribe(
        self: &Arc<Self>,
        scope: KeyScope,
        after: Option<Revision>,
    ) -> Option<Subscription> {
        let mut state = self.lock();
        let backlog = match after {
            Some(after) if after < state.floor => return None,
            Some(after) => {
                let wanted = |e: &&Arc<HubEvent>| e.revision() > after && scope.admits(e.key());
                let held = state.ring.iter().map(|(_, event)| event);
                held.filter(wanted).cloned().collect()
            }
            None => VecDeque::new(),
        };
        let (queue, receiver) = mpsc::channel(QUEUE_EVENTS);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let id = state.next_id;
        state.next_id += 1;
        state.watchers.insert(
            id,
            Watcher {
                scope,
                queue,
                queued_bytes: Arc::clone(&queued_bytes),
            },
        );
        Some(Subscription {
            hub: Arc::clone(self),
            id,
            backlog,
            receiver,
            queued_bytes,
        })
    }

    /// Changes after a revision straight from the store, for a watcher that
    /// starts before what the hub holds. They may go beyond a scope of one
    /// key, to keys that begin with it: the caller asks the scope of each.
    ///
    /// # Errors
    /// `Expired` if the store no longer has them either.
    pub async fn replay(&self, scope: &KeyScope, after: Revision) -> Result<WatchStream, ApiError> {
        let (KeyScope::Prefix(prefix) | KeyScope::Key(prefix)) = scope;
        self.store.watch(prefix, after).await.map_err(store_error)
    }
}

impl State {
    fn keep(&mut self, now: Instant, event: Arc<HubEvent>) {
        self.ring_bytes += event.size();
        self.ring.push_back((now, event));
        self.trim(now);
    }

    /// Lets go of events that are too old or too many.
    fn trim(&mut self, now: Instant) {
        let too_much = |state: &Self, came: Instant| {
            state.ring.len() > RING_EVENTS
                || state.ring_bytes > RING_BYTES
                || now.duration_since(came) >= RING_AGE
        };
        while let Some((came, old)) = self.ring.front()
            && too_much(self, *came)
        {
            self.ring_bytes -= old.size();
            self.floor = old.revision();
            self.ring.pop_front();
        }
        if self.ring.is_empty() {
            self.ring.shrink_to_fit();
        }
    }
}

impl Watcher {
    /// False if the watcher is gone or too slow.
    fn offer(&self, event: &Arc<HubEvent>) -> bool {
        if !self.scope.admits(event.key()) {
            return true;
        }
        let size = event.size();
        if self.queued_bytes.fetch_add(size, Ordering::AcqRel) > QUEUE_BYTES {
            return false;
        }
        self.queue.try_send(Arc::clone(event)).is_ok()
    }
}

/// One watcher's end of its queue.
pub struct Subscription {
    hub: Arc<Hub>,
    id: u64,
    backlog: VecDeque<Arc<HubEvent>>,
    receiver: mpsc::Receiver<Arc<HubEvent>>,
    queued_bytes: Arc<AtomicUsize>,
}

impl Subscription {
    /// The next change; `None` once the watcher was cut off.
    pub async fn next(&mut self) -> Option<Arc<HubEvent>> {
        if let Some(event) = self.backlog.pop_front() {
            return Some(event);
        }
        let event = self.receiver.recv().await?;
        self.queued_bytes.fetch_sub(event.size(), Ordering::AcqRel);
        Some(event)
    }

    /// The hub that it is of.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The revision up to which this watcher has seen everything, if nothing
    /// waits for it.
    pub fn caught_up(&self) -> Option<Revision> {
        let seen = self.hub.seen();
        (self.backlog.is_empty() && self.receiver.is_empty()).then_some(seen)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.lock().watchers.remove(&self.id);
    }
}

/// Turns a message of the store into hub events.
pub fn wrap(events: Vec<Arc<Event>>) -> VecDeque<Arc<HubEvent>> {
    events
        .into_iter()
        .map(|e| Arc::new(HubEvent::new(e)))
        .collect()
}

/// The hubs of all resources that were asked for.
pub struct Hubs {
    store: Arc<dyn Store>,
    hubs: RwLock<HashMap<GroupResource, Arc<OnceCell<Arc<Hub>>>>>,
    listener: KeyListener,
    stop: CancellationToken,
}

impl Hubs {
    /// None yet. All stop with the token.
    pub fn new(store: Arc<dyn Store>, listener: KeyListener, stop: CancellationToken) -> Self {
        Self {
            store,
            hubs: RwLock::default(),
            listener,
            stop,
        }
    }

    /// The hub of a resource, started if need be.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn get(&self, resource: &Resource) -> Result<Arc<Hub>, ApiError> {
        let cell = self.cell(&resource.storage);
        let hub = cell
            .get_or_try_init(|| {
                Hub::start(
                    Arc::clone(&self.store),
                    resource.storage.clone(),
                    resource.prefix.clone(),
                    Arc::clone(&self.listener),
                    self.stop.clone(),
                )
            })
            .await
            .map_err(store_error)?;
        Ok(Arc::clone(hub))
    }

    /// The hub of a resource if it runs.
    pub fn running(&self, storage: &GroupResource) -> Option<Arc<Hub>> {
        let hubs = read(&self.hubs);
        hubs.get(storage)?.get().cloned()
    }

    /// How many watchers there are, over all resources.
    pub fn watchers(&self) -> Vec<(GroupResource, usize)> {
        let hubs = read(&self.hubs);
        hubs.iter()
            .filter_map(|(key, cell)| Some((key.clone(), cell.get()?.watchers())))
            .collect()
    }

    fn cell(&self, storage: &GroupResource) -> Arc<OnceCell<Arc<Hub>>> {
        {
            if let Some(cell) = read(&self.hubs).get(storage) {
                return Arc::clone(cell);
            }
        }
        Arc::clone(write(&self.hubs).entry(storage.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_store::KeyValue;

    fn event(revision: Revision) -> Arc<HubEvent> {
        let entry = KeyValue {
            key: "/registry/pods/a".into(),
            value: Bytes::from_static(b"{}"),
            create_revision: revision,
            mod_revision: revision,
        };
        Arc::new(HubEvent::new(Arc::new(Event {
            entry,
            previous: None,
            deleted: false,
        })))
    }

    #[tokio::test(start_paused = true)]
    async fn old_events_are_let_go() {
        let mut state = State {
            ring: VecDeque::new(),
            ring_bytes: 0,
            floor: 1,
            watchers: HashMap::new(),
            next_id: 0,
        };
        state.keep(Instant::now(), event(2));
        tokio::time::advance(RING_AGE / 2).await;
        state.keep(Instant::now(), event(3));
        assert_eq!((state.ring.len(), state.floor), (2, 1));
        tokio::time::advance(RING_AGE / 2).await;
        state.trim(Instant::now());
        assert_eq!((state.ring.len(), state.floor), (1, 2));
        tokio::time::advance(RING_AGE).await;
        state.trim(Instant::now());
        assert_eq!((state.ring.len(), state.floor), (0, 3));
        assert_eq!(state.ring_bytes, 0);
    }
}
