//! The shared caches: one list and watch for each resource in use, feeding an
//! in-memory store and whoever subscribed to its changes.

mod store;
mod watch;

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::watch::Receiver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Api, Resource};
use crate::objects::{Kind, Meta};

pub(crate) use store::{Change, Store};
pub(crate) use watch::{Selection, Sink, watch};

type Start = Box<dyn FnOnce(Api, CancellationToken) -> BoxFuture<'static, ()> + Send>;
type MetaHandler = Arc<dyn Fn(Option<&Meta>, Option<&Meta>) + Send + Sync>;
type Subscribe = Box<dyn Fn(MetaHandler) + Send>;

struct Registered {
    store: Arc<dyn Any + Send + Sync>,
    resource: Resource,
    complete: bool,
    subscribe: Subscribe,
    synced: Receiver<bool>,
    start: Option<Start>,
}

/// All caches of a process. Ask for stores and subscribe to them first, then
/// call [`Informers::start`] once.
pub(crate) struct Informers {
    api: Api,
    shutdown: CancellationToken,
    stores: Mutex<HashMap<TypeId, Registered>>,
    tasks: TaskTracker,
}

impl Informers {
    pub(crate) fn new(api: Api, shutdown: CancellationToken) -> Self {
        Self {
            api,
            shutdown,
            stores: Mutex::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// The cache of a kind.
    pub(crate) fn store<T: Kind>(&self) -> Arc<Store<T>> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let registered = stores.entry(TypeId::of::<T>()).or_insert_with(|| {
            let store = Store::<T>::new();
            let (for_start, for_subscribe) = (store.clone(), store.clone());
            Registered {
                synced: store.synced(),
                store,
                resource: T::RESOURCE.clone(),
                complete: T::NAMESPACE.is_empty() && T::FIELDS.is_empty(),
                subscribe: Box::new(move |handler| {
                    for_subscribe.subscribe(move |change: Change<'_, T>| {
                        handler(
                            change.old.map(|object| object.meta()),
                            change.new.map(|object| object.meta()),
                        );
                    });
                }),
                start: Some(Box::new(move |api, shutdown| {
                    let selection = Selection {
                        namespace: T::NAMESPACE,
                        fields: T::FIELDS,
                        metadata: false,
                    };
                    Box::pin(async move {
                        watch(&api, T::RESOURCE, selection, for_start.as_ref(), &shutdown).await;
                    })
                })),
            }
        });
        registered
            .store
            .clone()
            .downcast::<Store<T>>()
            .expect("stores are registered under the type they hold")
    }

    /// Subscribes to the metadata of every resource that is cached whole, and
    /// returns those resources.
    pub(crate) fn subscribe_to_all<F>(&self, make: impl Fn(&Resource) -> F) -> Vec<Resource>
    where
        F: Fn(Option<&Meta>, Option<&Meta>) + Send + Sync + 'static,
    {
        let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = stores.values().filter(|registered| registered.complete);
        whole
            .map(|registered| {
                (registered.subscribe)(Arc::new(make(&registered.resource)));
                registered.resource.clone()
            })
            .collect()
    }

    /// Starts every watch that is registered and not yet running.
    pub(crate) fn start(&self) {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        for registered in stores.values_mut() {
            if let Some(start) = registered.start.take() {
                self.tasks
                    .spawn(start(self.api.clone(), self.shutdown.clone()));
            }
        }
        self.tasks.close();
    }

    /// Waits until every cache holds its first list, or until shutdown.
    pub(crate) async fn synced(&self) {
        let waits: Vec<_> = {
            let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
            stores
                .values()
                .map(|registered| registered.synced.clone())
                .collect()
        };
        for mut wait in waits {
            tokio::select! {
                _ = wait.wait_for(|synced| *synced) => {}
                () = self.shutdown.cancelled() => return,
            }
        }
    }

    /// Waits until the watches have ended, after shutdown.
    pub(crate) async fn stopped(&self) {
        self.tasks.wait().await;
    }
}
