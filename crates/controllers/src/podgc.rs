//! Removal of pods that nobody else will remove: those of nodes that are gone,
//! those that were deleted before they were placed, and finished ones beyond
//! the threshold.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::api::{Api, Delete};
use crate::context::{Context, Task};
use crate::error::{Error, found};
use crate::objects::Kind;
use crate::objects::apps::created;
use crate::objects::core::Node;
use crate::objects::pod::{Pod, node_index};
use crate::queue::{Key, Next, Queue};

/// How long a node must be gone before its pods go: it may come back under the
/// same name.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Key under which the threshold is checked; pods have other keys.
const THRESHOLD: &str = "threshold";
/// How often at most finished pods are counted.
const COUNT_EVERY: Duration = Duration::from_secs(20);

/// Registers the controller and returns its work.
pub(crate) fn start(context: &Context) -> Task {
    let queue = Queue::new();
    let pods = context.store::<Pod>();
    let nodes = context.store::<Node>();
    let threshold = context.options.terminated_pod_threshold;
    {
        let (queue, nodes) = (queue.clone(), nodes.clone());
        pods.subscribe(move |change| {
            let Some(pod) = change.new else { return };
            let node = &pod.spec.node_name;
            let unplaced = node.is_empty() && pod.metadata.is_deleting();
            let orphaned = !node.is_empty() && nodes.get("", node).is_none();
            if unplaced || orphaned {
                queue.add(pod.metadata.key());
            }
            if pod.is_finished() && threshold > 0 {
                queue.add_after(Key::new("", THRESHOLD), COUNT_EVERY);
            }
        });
    }
    {
        let (queue, pods) = (queue.clone(), pods.clone());
        nodes.subscribe(move |change| {
            if change.new.is_none() {
                for pod in pods.indexed(&node_index(&change.latest().metadata.name)) {
                    queue.add(pod.metadata.key());
                }
            }
        });
    }
    let api = context.api.clone();
    let missing: std::sync::Arc<Mutex<HashMap<String, Instant>>> = std::sync::Arc::default();
    context.work("pod-garbage-collector", 4, queue, move |key| {
        let (api, pods, nodes) = (api.clone(), pods.clone(), nodes.clone());
        let missing = missing.clone();
        async move {
            if key.namespace.is_empty() {
                return trim(&api, &pods.all(), threshold).await;
            }
            let Some(pod) = pods.by_key(&key) else {
                return Ok(Next::Wait);
            };
            let node = pod.spec.node_name.as_str();
            if node.is_empty() {
                if pod.metadata.is_deleting() {
                    remove(&api, &pod, None).await?;
                }
                return Ok(Next::Wait);
            }
            if nodes.get("", node).is_some() {
                missing
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .remove(node);
                return Ok(Next::Wait);
            }
            let since = {
                let mut missing = missing
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                let now = Instant::now();
                // Names of nodes that are long gone need not be kept.
                missing
                    .retain(|name, at| name == node || now.duration_since(*at) < QUARANTINE * 10);
                *missing.entry(node.to_owned()).or_insert(now)
            };
            let left = QUARANTINE.saturating_sub(since.elapsed());
            if !left.is_zero() {
                return Ok(Next::After(left));
            }
            // The cache may be behind: ask before killing.
            if found(api.get_metadata(Node::RESOURCE, "", node).await)?.is_none() {
                let message = "PodGC: node no longer exists";
                remove(&api, &pod, Some(message)).await?;
            }
            Ok(Next::Wait)
        }
    })
}

/// Deletes a pod at once, and marks it failed first if it was still counted
/// as running.
async fn remove(api: &Api, pod: &Pod, reason: Option<&str>) -> Result<(), Error> {
    let meta = &pod.metadata;
    if !pod.is_finished() {
        let mut status = json!({"phase": "Failed"});
        if let Some(message) = reason {
            let condition = json!({
                "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                "message": message,
                "lastTransitionTime": crate::objects::time(jiff::Timestamp::now()),
            });
            status["conditions"] = json!([condition]);
        }
        let patch = json!({"metadata": {"uid": meta.uid}, "status": status});
        found(
            api.patch_strategic(Pod::RESOURCE, &meta.namespace, &meta.name, "status", &patch)
                .await,
        )?;
    }
    let options = Delete {
        grace_seconds: Some(0),
        ..Delete::exactly(&meta.uid)
    };
    found(
        api.delete(Pod::RESOURCE, &meta.namespace, &meta.name, &options)
            .await,
    )
    .map(drop)
}

/// Deletes the oldest finished pods beyond the threshold.
async fn trim(api: &Api, pods: &[std::sync::Arc<Pod>], threshold: usize) -> Result<Next, Error> {
    let mut finished: Vec<_> = pods
        .iter()
        .filter(|pod| pod.is_finished() && !pod.metadata.is_deleting())
        .collect();
    if finished.len() <= threshold {
        return Ok(Next::Wait);
    }
    finished.sort_by_key(|pod| created(&pod.metadata));
    for pod in &finished[..finished.len() - threshold] {
        remove(api, pod, None).await?;
    }
    Ok(Next::Wait)
}
