//! WATCH: the stream of one watcher, from the present state or a revision
//! onwards, as lines of JSON.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_machinery::ApiError;
use coracle_store::{ListRequest, Revision, StoreError, WatchMessage, WatchStream};
use futures::{StreamExt, stream};
use http::{Response, StatusCode};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::body::{Body, BoxError, with_body};
use crate::hub::{Change, HubEvent, KeyScope, Subscription, wrap};
use crate::list::{next_page_size, reach};
use crate::query::{ListOptions, Start};
use crate::registry::Resource;
use crate::select::Filter;
use crate::shape::Shaper;
use crate::storage::{Storage, store_error};

/// How often a watcher that wants bookmarks gets one.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// A watch without `timeoutSeconds` ends after this long, or up to twice as
/// long: at random, so that clients do not come back all at once.
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);
/// Keys of the first page of the initial state.
const FIRST_PAGE: usize = 100;

/// Where events come from.
enum Source {
    /// The hub's queue.
    Hub(Subscription),
    /// The store, for a watcher that starts before what the hub holds.
    Store {
        stream: WatchStream,
        /// What the hub would have kept from the watcher.
        scope: KeyScope,
        ready: VecDeque<Arc<HubEvent>>,
        seen: Revision,
    },
}

impl Source {
    /// The next event, or why there is none.
    async fn next(&mut self) -> Result<Arc<HubEvent>, ApiError> {
        match self {
            Self::Hub(subscription) => subscription.next().await.ok_or_else(too_slow),
            Self::Store {
                stream,
                scope,
                ready,
                seen,
            } => loop {
                while let Some(event) = ready.pop_front() {
                    if scope.admits(event.key()) {
                        return Ok(event);
                    }
                }
                match stream.next().await {
                    Some(Ok(WatchMessage::Events(events))) => *ready = wrap(events),
                    Some(Ok(WatchMessage::Progress(revision))) => *seen = revision,
                    Some(Err(error)) => return Err(store_error(error)),
                    None => return Err(store_error(StoreError::Closed)),
                }
            },
        }
    }

    /// The revision up to which nothing is outstanding.
    fn caught_up(&self) -> Option<Revision> {
        match self {
            Self::Hub(subscription) => subscription.caught_up(),
            Self::Store { ready, seen, .. } => ready.is_empty().then_some(*seen),
        }
    }
}

fn too_slow() -> ApiError {
    ApiError::expired("too old resource version: the watcher did not keep up")
}

/// The initial state on its way out.
struct Initial {
    request: ListRequest,
    /// Only the key that equals the prefix is wanted.
    exact: bool,
    mark_end: bool,
}

struct Watching {
    /// What goes out first.
    ready: Bytes,
    storage: Arc<Storage>,
    resource: Arc<Resource>,
    filter: Filter,
    shaper: Shaper,
    source: Source,
    initial: Option<Initial>,
    /// Events up to and with this revision are not told (any more).
    position: Revision,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    columns_sent: bool,
    over: bool,
    stop: CancellationToken,
    /// Counts this watch among the server's.
    _permit: OwnedSemaphorePermit,
}

/// Begins to watch.
///
/// # Errors
/// Bad selectors, or a revision that is no longer held. Later errors are
/// lines of the stream.
#[expect(
    clippy::too_many_arguments,
    reason = "one for each fact of the request"
)]
pub async fn watch(
    storage: Arc<Storage>,
    resource: Arc<Resource>,
    namespace: &str,
    name: &str,
    options: &ListOptions,
    shaper: Shaper,
    permit: OwnedSemaphorePermit,
    stop: CancellationToken,
) -> Result<Response<Body>, ApiError> {
    let filter = Filter::new(options, &resource)?;
    let name = filter.name().unwrap_or(name).to_owned();
    let pinned = !name.is_empty() && (!resource.namespaced() || !namespace.is_empty());
    let scope = if pinned {
        KeyScope::Key(resource.key(namespace, &name))
    } else {
        KeyScope::Prefix(resource.list_prefix(namespace))
    };
    let hub = storage.hubs.get(&resource).await?;
    let mut initial = None;
    let (source, position) = match options.start() {
        Start::After(after) => match hub.subscribe(scope.clone(), Some(after)) {
            Some(subscription) => (Source::Hub(subscription), after),
            None => (
                Source::Store {
                    stream: hub.replay(&scope, after).await?,
                    scope,
                    ready: VecDeque::new(),
                    seen: after,
                },
                after,
            ),
        },
        start => {
            let subscription = hub
                .subscribe(scope.clone(), None)
                .ok_or_else(|| ApiError::internal("the hub refused a watcher"))?;
            let mut position = 0;
            if let Start::State { at_least, mark_end } = start {
                reach(&storage, at_least).await?;
                let prefix = match scope {
                    KeyScope::Prefix(prefix) | KeyScope::Key(prefix) => prefix,
                };
                initial = Some(Initial {
                    request: ListRequest {
                        prefix,
                        // A key sorts before those that it begins.
                        limit: Some(if pinned { 1 } else { FIRST_PAGE }),
                        ..ListRequest::default()
                    },
                    exact: pinned,
                    mark_end,
                });
            } else {
                position = storage.store.revision().await.map_err(store_error)?;
                hub.note_shown(position);
            }
            (Source::Hub(subscription), position)
        }
    };
    let now = Instant::now();
    let timeout = options
        .timeout
        .unwrap_or_else(|| MIN_TIMEOUT.mul_f64(1.0 + rand::random::<f64>()));
    let mut watching = Watching {
        ready: Bytes::new(),
        storage,
        resource,
        filter,
        shaper,
        source,
        initial,
        position,
        bookmarks: options.bookmarks,
        next_bookmark: now + BOOKMARK_INTERVAL.mul_f64(0.9 + 0.2 * rand::random::<f64>()),
        deadline: now + timeout,
        columns_sent: false,
        over: false,
        stop,
        _permit: permit,
    };
    // The state is that of the moment when the watch begins, not of the moment
    // when the client reads.
    if let Some(initial) = watching.initial.take() {
        watching.ready = watching.initial_page(initial).await?;
    }
    let lines = stream::unfold(watching, |mut watching| async move {
        let line = watching.next().await?;
        Some((Ok::<_, BoxError>(line), watching))
    });
    Ok(with_body(
        StatusCode::OK,
        "application/json",
        Body::stream(lines),
    ))
}

impl Watching {
    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        match self.step().await {
            Ok(Some(line)) => Some(line),
            Ok(None) => {
                self.over = true;
                None
            }
            Err(_) if self.stop.is_cancelled() => None,
            Err(error) => {
                self.over = true;
                let line = json!({"type": "ERROR", "object": error.to_status()});
                Some(format!("{line}\n").into())
            }
        }
    }

    async fn step(&mut self) -> Result<Option<Bytes>, ApiError> {
        if !self.ready.is_empty() {
            return Ok(Some(std::mem::take(&mut self.ready)));
        }
        while let Some(initial) = self.initial.take() {
            let bytes = self.initial_page(initial).await?;
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
        loop {
            let tick = if self.bookmarks {
                self.next_bookmark.min(self.deadline)
            } else {
                self.deadline
            };
            let event = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(None),
                event = self.source.next() => event?,
                () = tokio::time::sleep_until(tick) => {
                    if tick == self.deadline {
                        return Ok(None);
                    }
                    self.next_bookmark += BOOKMARK_INTERVAL;
                    if let Some(seen) = self.source.caught_up() {
                        self.position = self.position.max(seen);
                    }
                    let line = self.shaper.bookmark(&self.resource, self.position, false);
                    return Ok(Some(line));
                }
            };
            if event.revision() <= self.position {
                continue;
            }
            self.position = event.revision();
            if let Some(change) = self.filter.admits_event(&event, &self.resource) {
                let first = !std::mem::replace(&mut self.columns_sent, true);
                let line = self
                    .resource
                    .serve_event(&self.shaper, &event, change, first);
                return line.await.map(Some);
            }
        }
    }

    /// A page of the initial state, and the bookmark after the last one.
    async fn initial_page(&mut self, mut initial: Initial) -> Result<Bytes, ApiError> {
        let mut page = self.storage.list(initial.request.clone()).await?;
        if let Source::Hub(subscription) = &self.source {
            subscription.hub().note_shown(page.revision);
        }
        self.resource.serve_items(&mut page.items).await?;
        let mut out = Vec::new();
        for item in &page.items {
            if (!initial.exact || item.key == initial.request.prefix)
                && self
                    .filter
                    .admits_stored(&item.key, &item.value, &self.resource)
            {
                let first = !std::mem::replace(&mut self.columns_sent, true);
                self.shaper.append_event(
                    &mut out,
                    &self.resource,
                    Change::Added,
                    &item.value,
                    item.mod_revision,
                    first,
                )?;
            }
        }
        if page.remaining > 0
            && !initial.exact
            && let Some(last) = page.items.last()
        {
            initial.request.revision = Some(page.revision);
            initial.request.after = Some(last.key.clone());
            initial.request.limit = Some(next_page_size(&page));
            self.initial = Some(initial);
        } else {
            self.position = page.revision;
            if initial.mark_end {
                let end = self.shaper.bookmark(&self.resource, page.revision, true);
                out.extend_from_slice(&end);
            }
        }
        Ok(out.into())
    }
}

/// The error of a server that has as many watches as it allows.
pub fn too_many_watches() -> ApiError {
    ApiError::too_many_requests("too many watches, please try again later.", 1)
}
