//! Hands committed changes to watchers. Knows nothing of the backend: it
//! relays what it is given, in order, and ends the streams of watchers that
//! do not keep up.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures::Stream;

use crate::{Event, Revision, StoreError, WatchMessage};

/// Events a watcher may leave unread before it is dropped: over a second of
/// the fastest writes one machine can make durable.
const MAX_UNREAD_EVENTS: usize = 8192;

/// Bytes of values a watcher may leave unread before it is dropped. Events are
/// shared between watchers, so slow ones do not add up.
const MAX_UNREAD_BYTES: usize = 16 * 1024 * 1024;

/// The watchers of one store.
pub(crate) struct Hub {
    /// How long watchers of quiet prefixes wait to hear how far the rest of
    /// the store has come.
    progress_interval: Duration,
    state: Mutex<State>,
}

struct State {
    /// The revision up to which changes have been handed out.
    published: Revision,
    /// Since when some watcher has not heard of `published`.
    quiet_since: Option<Instant>,
    closed: bool,
    watchers: BTreeMap<String, Vec<Arc<Watcher>>>,
}

struct Watcher {
    inbox: Mutex<Inbox>,
}

struct Inbox {
    /// Changes up to this revision are known to the watcher already.
    after: Revision,
    events: Vec<Arc<Event>>,
    bytes: usize,
    /// What a progress message would say, if one is due.
    progress: Option<Revision>,
    /// Why the stream ends, once what is in the inbox has been read.
    end: Option<StoreError>,
    finished: bool,
    waker: Option<Waker>,
}

impl Hub {
    /// A hub of a store whose latest revision is `published`.
    pub(crate) fn new(published: Revision, progress_interval: Duration) -> Self {
        Self {
            progress_interval,
            state: Mutex::new(State {
                published,
                quiet_since: None,
                closed: false,
                watchers: BTreeMap::new(),
            }),
        }
    }

    /// Starts to collect the changes of `prefix` that are published from now
    /// on and are later than `after`. Returns the revision up to which changes
    /// had been published before: those will not come.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        prefix: &str,
        after: Revision,
    ) -> (Subscription, Revision) {
        let mut state = self.lock();
        let watcher = Arc::new(Watcher {
            inbox: Mutex::new(Inbox {
                after: after.max(state.published),
                events: Vec::new(),
                bytes: 0,
                progress: None,
                end: state.closed.then_some(StoreError::Closed),
                finished: false,
                waker: None,
            }),
        });
        state
            .watchers
            .entry(prefix.to_owned())
            .or_default()
            .push(Arc::clone(&watcher));
        let subscription = Subscription {
            hub: Arc::clone(self),
            prefix: prefix.to_owned(),
            watcher,
        };
        (subscription, state.published)
    }

    /// Hands out changes, which must continue where the last ones ended.
    pub(crate) fn publish(&self, events: &[Arc<Event>]) {
        let Some(last) = events.last() else { return };
        let mut state = self.lock();
        state.published = last.entry.mod_revision;
        let mut somebody_is_quiet = false;
        for (prefix, watchers) in &state.watchers {
            let matching: Vec<&Arc<Event>> = events
                .iter()
                .filter(|event| event.entry.key.starts_with(prefix.as_str()))
                .collect();
            let up_to_date = matching
                .last()
                .is_some_and(|event| event.entry.mod_revision == state.published);
            somebody_is_quiet |= !up_to_date;
            if !matching.is_empty() {
                for watcher in watchers {
                    watcher.deliver(&matching);
                }
            }
        }
        if somebody_is_quiet {
            state.quiet_since.get_or_insert_with(Instant::now);
        }
    }

    /// When [`Hub::tell_progress`] should be called, if at all.
    pub(crate) fn progress_due(&self) -> Option<Instant> {
        let since = self.lock().quiet_since?;
        Some(since + self.progress_interval)
    }

    /// Tells every watcher how far the store has come.
    pub(crate) fn tell_progress(&self) {
        let mut state = self.lock();
        state.quiet_since = None;
        for watcher in state.watchers.values().flatten() {
            watcher.tell_progress(state.published);
        }
    }

    /// Ends all streams, present and future.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for watcher in state.watchers.values().flatten() {
            watcher.end(StoreError::Closed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, events: &[&Arc<Event>]) {
        let mut inbox = self.lock();
        if inbox.end.is_some() || inbox.finished {
            return;
        }
        let after = inbox.after;
        let fresh = || {
            events
                .iter()
                .filter(move |event| event.entry.mod_revision > after)
        };
        let count = fresh().count();
        let bytes: usize = fresh().map(|event| event.bytes()).sum();
        // One batch is taken whatever its size: batches are bounded by those
        // who make them.
        let overflows = inbox.events.len() + count > MAX_UNREAD_EVENTS
            || inbox.bytes + bytes > MAX_UNREAD_BYTES;
        if overflows && !inbox.events.is_empty() {
            let oldest_unread = inbox.events[0].entry.mod_revision;
            inbox.events = Vec::new();
            inbox.end = Some(StoreError::Compacted {
                requested: oldest_unread,
                oldest: events[0].entry.mod_revision,
            });
        } else {
            inbox.events.extend(fresh().map(|event| Arc::clone(event)));
            inbox.bytes += bytes;
        }
        inbox.wake();
    }

    fn tell_progress(&self, revision: Revision) {
        let mut inbox = self.lock();
        let last_sent = inbox
            .events
            .last()
            .map_or(inbox.after, |event| event.entry.mod_revision);
        if revision > last_sent {
            inbox.progress = Some(revision);
            inbox.wake();
        }
    }

    fn end(&self, reason: StoreError) {
        let mut inbox = self.lock();
        inbox.end.get_or_insert(reason);
        inbox.wake();
    }
}

impl Inbox {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn take(&mut self) -> Option<Result<WatchMessage, StoreError>> {
        if let Some(last) = self.events.last() {
            self.after = last.entry.mod_revision;
            self.bytes = 0;
            return Some(Ok(WatchMessage::Events(std::mem::take(&mut self.events))));
        }
        if let Some(reason) = self.end.take() {
            self.finished = true;
            return Some(Err(reason));
        }
        let revision = self.progress.take()?;
        if revision <= self.after {
            return None;
        }
        self.after = revision;
        Some(Ok(WatchMessage::Progress(revision)))
    }
}

/// A watcher's end of the hub: a stream that ends after an error.
pub(crate) struct Subscription {
    hub: Arc<Hub>,
    prefix: String,
    watcher: Arc<Watcher>,
}

impl Stream for Subscription {
    type Item = Result<WatchMessage, StoreError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut inbox = self.watcher.lock();
        if inbox.finished {
            return Poll::Ready(None);
        }
        if let Some(message) = inbox.take() {
            return Poll::Ready(Some(message));
        }
        inbox.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        if let Some(watchers) = state.watchers.get_mut(&self.prefix) {
            watchers.retain(|other| !Arc::ptr_eq(other, &self.watcher));
            if watchers.is_empty() {
                state.watchers.remove(&self.prefix);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyValue;
    use bytes::Bytes;
    use futures::{FutureExt, StreamExt};

    fn event(key: &str, revision: Revision, size: usize) -> Arc<Event> {
        Arc::new(Event {
            entry: KeyValue {
                key: key.to_owned(),
                value: Bytes::from(vec![0; size]),
                create_revision: revision,
                mod_revision: revision,
            },
            previous: None,
            deleted: false,
        })
    }

    fn next(subscription: &mut Subscription) -> Option<Option<Result<WatchMessage, StoreError>>> {
        subscription.next().now_or_never()
    }

    fn revisions(message: Option<Option<Result<WatchMessage, StoreError>>>) -> Vec<Revision> {
        match message {
            Some(Some(Ok(WatchMessage::Events(events)))) => events
                .iter()
                .map(|event| event.entry.mod_revision)
                .collect(),
            other => panic!("expected events, got {other:?}"),
        }
    }

    #[test]
    fn watchers_get_what_matches_and_is_new() {
        let hub = Arc::new(Hub::new(4, Duration::from_secs(5)));
        let (mut all, published) = hub.subscribe("", 0);
        let (mut some, _) = hub.subscribe("a/", 6);
        assert_eq!(published, 4);
        assert!(next(&mut all).is_none());
        hub.publish(&[event("a/1", 5, 1), event("b/1", 6, 1), event("a/2", 7, 1)]);
        hub.publish(&[event("a", 8, 1)]);
        assert_eq!(revisions(next(&mut all)), [5, 6, 7, 8]);
        assert_eq!(revisions(next(&mut some)), [7]);
        assert!(next(&mut some).is_none());
    }

    #[test]
    fn quiet_watchers_hear_of_progress_once() {
        let hub = Arc::new(Hub::new(0, Duration::from_secs(5)));
        let (mut quiet, _) = hub.subscribe("q/", 0);
        assert!(hub.progress_due().is_none());
        hub.publish(&[event("a/1", 1, 1)]);
        assert!(hub.progress_due().is_some());
        hub.tell_progress();
        assert!(matches!(
            next(&mut quiet),
            Some(Some(Ok(WatchMessage::Progress(1))))
        ));
        hub.tell_progress();
        assert!(next(&mut quiet).is_none());
        assert!(hub.progress_due().is_none());
    }

    #[test]
    fn a_watcher_that_does_not_read_is_told_to_list_again() {
        for (size, count) in [(1, MAX_UNREAD_EVENTS), (MAX_UNREAD_BYTES / 4, 4)] {
            let hub = Arc::new(Hub::new(0, Duration::from_secs(5)));
            let (mut slow, _) = hub.subscribe("", 0);
            for revision in 1..=count as u64 {
                hub.publish(&[event("k", revision, size)]);
            }
            hub.publish(&[event("k", count as u64 + 1, size)]);
            assert!(matches!(
                next(&mut slow),
                Some(Some(Err(StoreError::Compacted { requested: 1, .. })))
            ));
            assert!(matches!(next(&mut slow), Some(None)));
        }
    }

    #[test]
    fn closing_ends_streams_after_what_they_were_sent() {
        let hub = Arc::new(Hub::new(0, Duration::from_secs(5)));
        let (mut early, _) = hub.subscribe("", 0);
        hub.publish(&[event("k", 1, 1)]);
        hub.close();
        assert_eq!(revisions(next(&mut early)), [1]);
        let (mut late, _) = hub.subscribe("", 0);
        for stream in [&mut early, &mut late] {
            assert!(matches!(next(stream), Some(Some(Err(StoreError::Closed)))));
            assert!(matches!(next(stream), Some(None)));
        }
    }

    #[test]
    fn dropping_unsubscribes() {
        let hub = Arc::new(Hub::new(0, Duration::from_secs(5)));
        drop(hub.subscribe("a", 0));
        assert!(hub.lock().watchers.is_empty());
    }
}
