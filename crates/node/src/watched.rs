//! Objects of the API server, kept up to date in memory.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Most objects that are read at once: each may have two MiB, and of many only
/// a small part is kept.
const PAGE: u32 = 100;

/// All objects of a kind, and word of their changes.
pub(crate) struct Watched<K: Resource<DynamicType = ()> + 'static> {
    pub store: Store<K>,
    /// Told after each change; changes in between become one.
    pub changed: Arc<Notify>,
    /// Ends with the token that the watch was given.
    pub task: JoinHandle<()>,
}

/// Watches all objects of a kind, through interruptions, until `stop`.
pub(crate) fn watch<K>(client: &kube::Client, stop: &CancellationToken) -> Watched<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync,
    K: 'static,
{
    watch_parts(client, stop, |_| {})
}

/// As [`watch`], and keeps of each object what `trim` leaves.
pub(crate) fn watch_parts<K>(
    client: &kube::Client,
    stop: &CancellationToken,
    trim: fn(&mut K),
) -> Watched<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync,
    K: 'static,
{
    watch_edited(client, stop, move |event| match event {
        Event::Apply(object) | Event::Delete(object) | Event::InitApply(object) => trim(object),
        Event::Init | Event::InitDone => {}
    })
}

/// As [`watch`], and keeps what `edit` leaves of what happens, in order.
pub(crate) fn watch_edited<K>(
    client: &kube::Client,
    stop: &CancellationToken,
    mut edit: impl FnMut(&mut Event<K>) + Send + 'static,
) -> Watched<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync,
    K: 'static,
{
    let (store, writer) = reflector::store();
    let changed = Arc::new(Notify::new());
    let config = watcher::Config::default().page_size(PAGE);
    let stream = watcher(Api::<K>::all(client.clone()), config)
        .default_backoff()
        .modify(|object| object.managed_fields_mut().clear())
        .map_ok(move |mut event| {
            edit(&mut event);
            event
        })
        .reflect(writer);
    let (stop, notify) = (stop.clone(), Arc::clone(&changed));
    let task = tokio::spawn(async move {
        futures::pin_mut!(stream);
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                () = stop.cancelled() => return,
            };
            match event {
                Some(Ok(_)) => notify.notify_one(),
                Some(Err(error)) => {
                    tracing::warn!(kind = %K::kind(&()), %error, "watch interrupted");
                }
                None => return,
            }
        }
    });
    Watched {
        store,
        changed,
        task,
    }
}
