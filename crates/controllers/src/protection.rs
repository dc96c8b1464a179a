//! Claims and volumes that are deleted stay until nobody uses them any more:
//! a claim until its pods are gone, a volume until it is not bound.

use std::sync::Arc;

use serde_json::json;

use crate::api::Api;
use crate::context::{Context, Task, enqueue_self};
use crate::error::{Error, found};
use crate::informer::Store;
use crate::objects::pod::Pod;
use crate::objects::storage::{Claim, Volume};
use crate::objects::{Kind, Meta};
use crate::queue::{Key, Next, Queue};

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
/// Claims or volumes let go at once.
const WORKERS: usize = 2;

/// Lets claims go that no pod uses.
pub(crate) fn start_claims(context: &Context) -> Task {
    let queue = Queue::new();
    let claims = context.store::<Claim>();
    let pods = context.store::<Pod>();
    enqueue_self(&claims, &queue);
    let (of_pods, held) = (queue.clone(), claims.clone());
    pods.subscribe(move |change| {
        // Only the end of a pod's use matters.
        if change.new.is_some_and(|pod| uses_volumes(pod)) {
            return;
        }
        let pod = change.latest();
        for claim in claims_of(pod) {
            let key = Key::new(pod.metadata.namespace.clone(), claim);
            if held.by_key(&key).is_some_and(|c| c.metadata.is_deleting()) {
                of_pods.add(key);
            }
        }
    });
    let api = context.api.clone();
    context.work(
        "persistentvolumeclaim-protection-controller",
        WORKERS,
        queue,
        move |key| {
            let (api, claims, pods) = (api.clone(), claims.clone(), pods.clone());
            async move {
                let Some(claim) = claims.by_key(&key) else {
                    return Ok(Next::Wait);
                };
                let meta = &claim.metadata;
                if meta.is_deleting() && meta.has_finalizer(CLAIM_FINALIZER) && !in_use(&pods, meta)
                {
                    release::<Claim>(&api, meta, CLAIM_FINALIZER).await?;
                }
                Ok(Next::Wait)
            }
        },
    )
}

/// Lets volumes go that are not bound.
pub(crate) fn start_volumes(context: &Context) -> Task {
    let queue = Queue::new();
    let volumes = context.store::<Volume>();
    enqueue_self(&volumes, &queue);
    let api = context.api.clone();
    context.work(
        "persistentvolume-protection-controller",
        WORKERS,
        queue,
        move |key| {
            let (api, volumes) = (api.clone(), volumes.clone());
            async move {
                let Some(volume) = volumes.by_key(&key) else {
                    return Ok(Next::Wait);
                };
                let meta = &volume.metadata;
                let bound = volume.status.phase == "Bound";
                if meta.is_deleting() && meta.has_finalizer(VOLUME_FINALIZER) && !bound {
                    release::<Volume>(&api, meta, VOLUME_FINALIZER).await?;
                }
                Ok(Next::Wait)
            }
        },
    )
}

/// True while a pod may have volumes mounted.
fn uses_volumes(pod: &Pod) -> bool {
    !pod.spec.node_name.is_empty() && !pod.is_finished()
}

fn claims_of(pod: &Pod) -> impl Iterator<Item = String> + '_ {
    let name = &pod.metadata.name;
    pod.spec.volumes.iter().filter_map(|v| v.claim(name))
}

fn in_use(pods: &Arc<Store<Pod>>, claim: &Meta) -> bool {
    let pods = pods.in_namespace(&claim.namespace);
    pods.iter()
        .any(|pod| uses_volumes(pod) && claims_of(pod).any(|name| name == claim.name))
}

async fn release<T: Kind>(api: &Api, meta: &Meta, finalizer: &str) -> Result<(), Error> {
    let rest: Vec<&String> = meta.finalizers.iter().filter(|f| *f != finalizer).collect();
    let patch = json!({"metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": rest,
    }});
    let patched = api.patch(T::RESOURCE, &meta.namespace, &meta.name, "", &patch);
    match found(patched.await) {
        // It changed meanwhile, which brings it back here.
        Err(error) if error.is_conflict() => Ok(()),
        outcome => outcome.map(drop),
    }
}
