//! Endpoint slices and the older Endpoints of services with a selector.

mod addresses;
mod legacy;
mod mirror;
mod slices;

use std::sync::Arc;

use serde_json::json;

use crate::api::{Api, Delete};
use crate::context::{Context, Task, Written, enqueue_self};
use crate::error::{Error, found};
use crate::informer::Store;
use crate::objects::core::Node;
use crate::objects::pod::Pod;
use crate::objects::service::{EndpointSlice, Endpoints, SERVICE_NAME_LABEL, Service, slice_index};
use crate::objects::{Kind, Meta};
use crate::queue::{Key, Next, Queue};
use crate::selector::matches_map;

/// Services that are worked on at once.
const WORKERS: usize = 8;

/// What both kinds are made from.
#[derive(Clone)]
struct Sources {
    services: Arc<Store<Service>>,
    pods: Arc<Store<Pod>>,
    nodes: Arc<Store<Node>>,
}

impl Sources {
    fn new(context: &Context) -> Self {
        Self {
            services: context.store(),
            pods: context.store(),
            nodes: context.store(),
        }
    }

    /// The service's pods that have an address and still run.
    fn pods_of(&self, service: &Service) -> Vec<Arc<Pod>> {
        let mut pods = self.pods.in_namespace(&service.metadata.namespace);
        pods.retain(|pod| {
            matches_map(&service.spec.selector, &pod.metadata.labels)
                && !pod.is_finished()
                && !pod.status.pod_ips.is_empty()
        });
        pods
    }

    fn zone(&self, node: &str) -> Option<String> {
        let node = self.nodes.get("", node)?;
        node.metadata
            .label("topology.kubernetes.io/zone")
            .map(str::to_owned)
    }

    /// Queues the services of every pod whose endpoint may have changed.
    fn enqueue_services_of_pods(&self, queue: &Arc<Queue>) {
        let (services, queue) = (self.services.clone(), queue.clone());
        self.pods.subscribe(move |change| {
            if let (Some(old), Some(new)) = (change.old, change.new)
                && !differs(old, new)
            {
                return;
            }
            let latest = change.latest();
            for service in services.in_namespace(&latest.metadata.namespace) {
                let selector = &service.spec.selector;
                let concerned = !selector.is_empty()
                    && [change.old, change.new]
                        .into_iter()
                        .flatten()
                        .any(|pod| matches_map(selector, &pod.metadata.labels));
                if concerned {
                    queue.add(service.metadata.key());
                }
            }
        });
    }
}

/// Whether a change of a pod can change its endpoints.
fn differs(old: &Pod, new: &Pod) -> bool {
    let ips = |pod: &Pod| {
        pod.status
            .pod_ips
            .iter()
            .map(|ip| ip.ip.clone())
            .collect::<Vec<_>>()
    };
    old.is_ready() != new.is_ready()
        || old.is_finished() != new.is_finished()
        || old.metadata.is_deleting() != new.metadata.is_deleting()
        || old.metadata.labels != new.metadata.labels
        || old.spec.node_name != new.spec.node_name
        || ips(old) != ips(new)
}

/// The controller of endpoint slices.
pub(crate) fn start_slices(context: &Context) -> Task {
    let queue = Queue::new();
    let sources = Sources::new(context);
    let store = context.store::<EndpointSlice>();
    enqueue_self(&sources.services, &queue);
    sources.enqueue_services_of_pods(&queue);
    {
        let queue = queue.clone();
        store.subscribe(move |change| {
            let meta = &change.latest().metadata;
            if let Some(service) = meta
                .label(SERVICE_NAME_LABEL)
                .filter(|_| slices::is_ours(meta))
            {
                queue.add(Key::new(meta.namespace.clone(), service));
            }
        });
    }
    let api = context.api.clone();
    let written = Arc::new(Written::new(store.clone()));
    context.work("endpointslice-controller", WORKERS, queue, move |key| {
        let (api, sources, store) = (api.clone(), sources.clone(), store.clone());
        let written = written.clone();
        async move { reconcile_slices(&api, &sources, &store, &written, key).await }
    })
}

async fn reconcile_slices(
    api: &Api,
    sources: &Sources,
    store: &Store<EndpointSlice>,
    written: &Written<EndpointSlice>,
    key: Key,
) -> Result<Next, Error> {
    // Without the service, the garbage collector removes its slices.
    let Some(service) = sources.services.by_key(&key) else {
        return Ok(Next::Wait);
    };
    if service.metadata.is_deleting()
        || service.spec.selector.is_empty()
        || service.spec.kind == "ExternalName"
    {
        return Ok(Next::Wait);
    }
    if !written.is_seen(&key) {
        return Ok(Next::Wait);
    }
    let existing: Vec<Arc<EndpointSlice>> = store
        .indexed(&slice_index(&key.namespace, &key.name))
        .into_iter()
        .filter(|slice| slices::is_ours(&slice.metadata) && !slice.metadata.is_deleting())
        .filter(|slice| !written.is_deleted(&key, &slice.metadata.uid))
        .collect();
    written.keep_deleted(&key, &existing);
    let pods = sources.pods_of(&service);
    let groups = addresses::groups(&service, &pods, |node| sources.zone(node));
    let changes = slices::changes(&slices::Head::of(&service), &existing, groups);
    write_slices(api, written, &key, changes).await
}

async fn write_slices(
    api: &Api,
    written: &Written<EndpointSlice>,
    key: &Key,
    changes: slices::Changes,
) -> Result<Next, Error> {
    for body in changes.create {
        match api
            .create(EndpointSlice::RESOURCE, &key.namespace, body)
            .await
        {
            Ok(slice) => written.note(key, &slice),
            Err(error) if error.is_namespace_terminating() => return Ok(Next::Wait),
            Err(error) => return Err(error),
        }
    }
    for (name, patch) in changes.update {
        let slice = api
            .patch(EndpointSlice::RESOURCE, &key.namespace, &name, "", &patch)
            .await?;
        written.note(key, &slice);
    }
    for (name, uid) in changes.delete {
        let options = Delete::exactly(&uid);
        found(
            api.delete(EndpointSlice::RESOURCE, &key.namespace, &name, &options)
                .await,
        )?;
        written.note_deleted(key, &uid);
    }
    Ok(Next::Wait)
}

/// The controller of slices that mirror Endpoints.
pub(crate) fn start_mirror(context: &Context) -> Task {
    let queue = Queue::new();
    let services = context.store::<Service>();
    let endpoints = context.store::<Endpoints>();
    let store = context.store::<EndpointSlice>();
    enqueue_self(&services, &queue);
    enqueue_self(&endpoints, &queue);
    {
        let queue = queue.clone();
        store.subscribe(move |change| {
            let meta = &change.latest().metadata;
            if let Some(service) = meta
                .label(SERVICE_NAME_LABEL)
                .filter(|_| mirror::is_ours(meta))
            {
                queue.add(Key::new(meta.namespace.clone(), service));
            }
        });
    }
    let api = context.api.clone();
    let written = Arc::new(Written::new(store.clone()));
    context.work(
        "endpointslicemirroring-controller",
        WORKERS,
        queue,
        move |key| {
            let (api, services, endpoints) = (api.clone(), services.clone(), endpoints.clone());
            let (store, written) = (store.clone(), written.clone());
            async move {
                if !written.is_seen(&key) {
                    return Ok(Next::Wait);
                }
                let existing: Vec<Arc<EndpointSlice>> = store
                    .indexed(&slice_index(&key.namespace, &key.name))
                    .into_iter()
                    .filter(|slice| mirror::is_ours(&slice.metadata))
                    .filter(|slice| !slice.metadata.is_deleting())
                    .filter(|slice| !written.is_deleted(&key, &slice.metadata.uid))
                    .collect();
                written.keep_deleted(&key, &existing);
                // A service with a selector has Endpoints of its pods.
                let service = services.by_key(&key).filter(|service| {
                    service.spec.selector.is_empty() && !service.metadata.is_deleting()
                });
                let source = endpoints
                    .by_key(&key)
                    .filter(|it| !it.metadata.is_deleting() && mirror::is_wanted(it));
                let changes = match (service, source) {
                    (Some(_), Some(source)) => {
                        slices::changes(&mirror::head(&source), &existing, mirror::groups(&source))
                    }
                    _ => slices::none_of(&existing),
                };
                write_slices(&api, &written, &key, changes).await
            }
        },
    )
}

/// The controller of Endpoints.
pub(crate) fn start_endpoints(context: &Context) -> Task {
    let queue = Queue::new();
    let sources = Sources::new(context);
    let store = context.store::<Endpoints>();
    enqueue_self(&sources.services, &queue);
    enqueue_self(&store, &queue);
    sources.enqueue_services_of_pods(&queue);
    let api = context.api.clone();
    context.work("endpoints-controller", WORKERS, queue, move |key| {
        let (api, sources, store) = (api.clone(), sources.clone(), store.clone());
        async move { reconcile_endpoints(&api, &sources, &store, key).await }
    })
}

async fn reconcile_endpoints(
    api: &Api,
    sources: &Sources,
    store: &Store<Endpoints>,
    key: Key,
) -> Result<Next, Error> {
    let existing = store.by_key(&key);
    let Some(service) = sources.services.by_key(&key) else {
        if let Some(existing) = existing.filter(|it| legacy::is_ours(&it.metadata)) {
            let options = Delete::exactly(&existing.metadata.uid);
            found(
                api.delete(Endpoints::RESOURCE, &key.namespace, &key.name, &options)
                    .await,
            )?;
        }
        return Ok(Next::Wait);
    };
    if service.spec.selector.is_empty() || service.spec.kind == "ExternalName" {
        return Ok(Next::Wait);
    }
    let pods = sources.pods_of(&service);
    let subsets = legacy::subsets(&service, &pods);
    let labels = legacy::labels(&service);
    let metadata = json!({"name": key.name, "namespace": key.namespace, "labels": labels});
    let result = match existing {
        Some(existing) if is_current(&existing, &subsets, &labels) => return Ok(Next::Wait),
        Some(existing) => {
            let mut patch = json!({"metadata": {"labels": labels}, "subsets": subsets});
            for stale in existing
                .metadata
                .labels
                .keys()
                .filter(|it| !labels.contains_key(*it))
            {
                patch["metadata"]["labels"][stale] = serde_json::Value::Null;
            }
            patch["metadata"]["resourceVersion"] =
                existing.metadata.resource_version.as_str().into();
            api.patch(Endpoints::RESOURCE, &key.namespace, &key.name, "", &patch)
                .await
        }
        None => {
            let body = json!({"metadata": metadata, "subsets": subsets});
            api.create(Endpoints::RESOURCE, &key.namespace, body).await
        }
    };
    match result {
        Err(error) if error.is_namespace_terminating() => Ok(Next::Wait),
        other => other.map(|_| Next::Wait),
    }
}

fn is_current(
    existing: &Endpoints,
    subsets: &[serde_json::Value],
    labels: &std::collections::BTreeMap<String, String>,
) -> bool {
    existing.subsets == subsets && existing.metadata.labels == *labels
}

/// A reference from an endpoint to its pod.
fn target(meta: &Meta) -> serde_json::Value {
    json!({"kind": "Pod", "namespace": meta.namespace, "name": meta.name, "uid": meta.uid})
}
