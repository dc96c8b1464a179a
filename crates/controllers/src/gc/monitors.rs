//! One metadata watch for each deletable resource that no other controller
//! caches, following discovery as custom resources come and go.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, Resource};
use crate::context::Context;
use crate::discovery::{Catalogue, discover};
use crate::informer::{Selection, Sink, watch};
use crate::objects::core::MetadataOnly;
use crate::objects::{Meta, kind};
use crate::queue::Queue;

use super::Job;
use super::graph::Graph;

/// Pause between a change of the definitions and the question what is served:
/// definitions come in bunches, and take a moment to be served.
const SETTLE: Duration = Duration::from_millis(500);
/// Pause before discovery is asked again after it failed.
const RETRY: Duration = Duration::from_secs(10);

/// Definitions of custom resources, for the sake of noticing changes.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Definition {
    metadata: Meta,
}
kind!(
    Definition,
    "apiextensions.k8s.io",
    "v1",
    "CustomResourceDefinition",
    "customresourcedefinitions",
    false
);

/// Extensions of the API by other servers, likewise.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Service {
    metadata: Meta,
}
kind!(
    Service,
    "apiregistration.k8s.io",
    "v1",
    "APIService",
    "apiservices",
    false
);

/// What the workers need to find an owner's resource.
pub(super) type SharedCatalogue = Arc<RwLock<Arc<Catalogue>>>;

/// Keeps the watches in line with what is served.
pub(super) struct Monitors {
    api: Api,
    shutdown: CancellationToken,
    graph: Arc<Mutex<Graph>>,
    queue: Arc<Queue<Job>>,
    catalogue: SharedCatalogue,
    changed: Arc<Notify>,
    /// Resources that other controllers cache whole.
    shared: Vec<Resource>,
}

impl Monitors {
    pub(super) fn new(context: &Context, graph: Arc<Mutex<Graph>>, queue: Arc<Queue<Job>>) -> Self {
        let changed = Arc::new(Notify::new());
        let notify = changed.clone();
        context
            .store::<Definition>()
            .subscribe(move |_| notify.notify_one());
        let notify = changed.clone();
        context
            .store::<Service>()
            .subscribe(move |_| notify.notify_one());
        let shared = context.informers.subscribe_to_all(|resource| {
            let resource = Arc::new(resource.clone());
            let (graph, queue) = (graph.clone(), queue.clone());
            move |_old: Option<&Meta>, new: Option<&Meta>| {
                let latest = new.or(_old);
                if let Some(meta) = latest {
                    note(&graph, &queue, &resource, meta, new.is_some());
                }
            }
        });
        Self {
            api: context.api.clone(),
            shutdown: context.shutdown.clone(),
            graph,
            queue,
            catalogue: SharedCatalogue::default(),
            changed,
            shared,
        }
    }

    pub(super) fn catalogue(&self) -> SharedCatalogue {
        self.catalogue.clone()
    }

    pub(super) async fn run(self) {
        let mut running: HashMap<Resource, CancellationToken> = HashMap::new();
        loop {
            let complete = match discover(&self.api).await {
                Ok(catalogue) => {
                    let complete = catalogue.failures.is_empty();
                    self.follow(&catalogue, &mut running);
                    *self
                        .catalogue
                        .write()
                        .unwrap_or_else(PoisonError::into_inner) = Arc::new(catalogue);
                    complete
                }
                Err(error) => {
                    tracing::warn!(%error, "discovery failed");
                    false
                }
            };
            let retry = async {
                if complete {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(RETRY).await;
            };
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = retry => {}
                () = self.changed.notified() => tokio::time::sleep(SETTLE).await,
            }
        }
    }

    /// Starts watches of new resources and ends those of vanished ones.
    fn follow(&self, catalogue: &Catalogue, running: &mut HashMap<Resource, CancellationToken>) {
        let wanted: Vec<Resource> = catalogue
            .resources
            .iter()
            .filter(|served| served.can("list") && served.can("watch") && served.can("delete"))
            .map(|served| served.resource.clone())
            .filter(|it| {
                let shared =
                    |other: &Resource| other.group == it.group && other.plural == it.plural;
                it.plural != "events" && !self.shared.iter().any(shared)
            })
            .collect();
        let failed = !catalogue.failures.is_empty();
        running.retain(|resource, stop| {
            // A group that could not be read is not therefore gone.
            let keep = failed || wanted.contains(resource);
            if !keep {
                stop.cancel();
                self.forget(resource);
            }
            keep
        });
        for resource in wanted {
            if running.contains_key(&resource) {
                continue;
            }
            let stop = self.shutdown.child_token();
            running.insert(resource.clone(), stop.clone());
            let feed = Feed {
                resource: Arc::new(resource),
                graph: self.graph.clone(),
                queue: self.queue.clone(),
            };
            let api = self.api.clone();
            tokio::spawn(async move {
                let selection = Selection {
                    metadata: true,
                    ..Selection::default()
                };
                watch(&api, &feed.resource, selection, &feed, &stop).await;
            });
        }
    }

    fn forget(&self, resource: &Resource) {
        let mut graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
        let jobs: Vec<Job> = graph
            .uids_of(resource)
            .iter()
            .flat_map(|uid| graph.remove(uid))
            .collect();
        drop(graph);
        jobs.into_iter().for_each(|job| self.queue.add(job));
    }
}

fn note(
    graph: &Mutex<Graph>,
    queue: &Queue<Job>,
    resource: &Arc<Resource>,
    meta: &Meta,
    exists: bool,
) {
    let jobs = {
        let mut graph = graph.lock().unwrap_or_else(PoisonError::into_inner);
        if exists {
            graph.upsert(resource, meta)
        } else {
            graph.remove(&meta.uid)
        }
    };
    jobs.into_iter().for_each(|job| queue.add(job));
}

/// Puts what a metadata watch finds into the graph.
struct Feed {
    resource: Arc<Resource>,
    graph: Arc<Mutex<Graph>>,
    queue: Arc<Queue<Job>>,
}

impl Sink for Feed {
    type Object = MetadataOnly;

    fn replace(&self, objects: Vec<MetadataOnly>, _version: &str) {
        let present: std::collections::HashSet<&str> = objects
            .iter()
            .map(|object| object.metadata.uid.as_str())
            .collect();
        let known = self
            .graph
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .uids_of(&self.resource);
        for uid in known.iter().filter(|uid| !present.contains(uid.as_str())) {
            let jobs = self
                .graph
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(uid);
            jobs.into_iter().for_each(|job| self.queue.add(job));
        }
        for object in &objects {
            note(
                &self.graph,
                &self.queue,
                &self.resource,
                &object.metadata,
                true,
            );
        }
    }

    fn apply(&self, object: MetadataOnly) {
        note(
            &self.graph,
            &self.queue,
            &self.resource,
            &object.metadata,
            true,
        );
    }

    fn remove(&self, object: MetadataOnly) {
        note(
            &self.graph,
            &self.queue,
            &self.resource,
            &object.metadata,
            false,
        );
    }

    fn bookmark(&self, _version: &str) {}
}
