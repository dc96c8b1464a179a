//! Making and removing pods on behalf of workloads.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::objects::{OwnerReference, pod::Pod};

/// Most pods that are created or deleted at the same time for one workload.
const MAX_BATCH: usize = 64;

/// A pod from a template: its labels, annotations and finalizers, and the
/// whole spec.
pub(crate) fn from_template(template: &Value, owner: &OwnerReference) -> Value {
    let mut metadata = json!({"ownerReferences": [owner.to_value()]});
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template["metadata"]
            .get(field)
            .filter(|value| !value.is_null())
        {
            metadata[field] = value.clone();
        }
    }
    json!({"metadata": metadata, "spec": template["spec"]})
}

/// Runs `count` operations in batches of 1, 2, 4, ... and stops after the
/// first batch with a failure, so that a hopeless template costs one request.
/// Returns how many succeeded, and the first error.
pub(crate) async fn slow_start<F, Fut, E>(count: usize, operation: F) -> (usize, Option<E>)
where
    F: Fn(usize) -> Fut,
    Fut: Future<Output = Result<(), E>>,
{
    let mut done = 0;
    let mut succeeded = 0;
    let mut batch = 1;
    while done < count {
        let size = batch.min(count - done);
        let results = join_all((done..done + size).map(&operation)).await;
        done += size;
        let mut first = None;
        for result in results {
            match result {
                Ok(()) => succeeded += 1,
                Err(error) => first = first.or(Some(error)),
            }
        }
        if first.is_some() {
            return (succeeded, first);
        }
        batch = (batch * 2).min(MAX_BATCH);
    }
    (succeeded, None)
}

/// Sorts pods so that those come first whose loss hurts least. `related` are
/// all pods of the same purpose: of two equal pods, the one with more of them
/// on its node goes first.
pub(crate) fn rank_for_deletion(pods: &mut [Arc<Pod>], related: &[Arc<Pod>]) {
    let mut per_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| pod.is_active()) {
        *per_node.entry(pod.spec.node_name.as_str()).or_default() += 1;
    }
    let crowd = |pod: &Pod| {
        per_node
            .get(pod.spec.node_name.as_str())
            .copied()
            .unwrap_or(0)
    };
    pods.sort_by(|a, b| {
        // `false` sorts first, so each line says what a pod is spared for.
        let assigned = |pod: &Pod| !pod.spec.node_name.is_empty();
        assigned(a)
            .cmp(&assigned(b))
            .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
            .then_with(|| a.is_ready().cmp(&b.is_ready()))
            .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
            .then_with(|| crowd(b).cmp(&crowd(a)))
            .then_with(|| newest_first(ready_since(a), ready_since(b)))
            .then_with(|| b.restarts().cmp(&a.restarts()))
            .then_with(|| {
                newest_first(a.metadata.creation_timestamp, b.metadata.creation_timestamp)
            })
            .then_with(|| a.metadata.name.cmp(&b.metadata.name))
    });
}

fn phase_rank(pod: &Pod) -> u8 {
    match pod.status.phase.as_str() {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    }
}

fn deletion_cost(pod: &Pod) -> i32 {
    let cost = pod
        .metadata
        .annotation("controller.kubernetes.io/pod-deletion-cost");
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    pod.ready_condition()
        .filter(|ready| ready.is_true())
        .and_then(|ready| ready.last_transition_time)
}

fn newest_first(a: Option<Timestamp>, b: Option<Timestamp>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => b.cmp(&a),
        // A pod without a time is the newest of all.
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;

    fn pod(
        name: &str,
        node: &str,
        phase: &str,
        ready: bool,
        created: &str,
        cost: &str,
    ) -> Arc<Pod> {
        Arc::new(object(json!({
            "metadata": {"name": name, "creationTimestamp": created,
                "annotations": {"controller.kubernetes.io/pod-deletion-cost": cost}},
            "spec": {"nodeName": node},
            "status": {"phase": phase, "conditions": [
                {"type": "Ready", "status": if ready { "True" } else { "False" },
                 "lastTransitionTime": created}]},
        })))
    }

    #[test]
    fn ranking() {
        let old = "2026-01-01T00:00:00Z";
        let new = "2026-01-02T00:00:00Z";
        let mut pods = vec![
            pod("old-ready", "n1", "Running", true, old, "0"),
            pod("new-ready", "n2", "Running", true, new, "0"),
            pod("costly", "n2", "Running", true, new, "10"),
            pod("crowded", "n3", "Running", true, old, "0"),
            pod("unready", "n1", "Running", false, old, "0"),
            pod("pending", "n1", "Pending", false, old, "0"),
            pod("unassigned", "", "Pending", false, old, "0"),
        ];
        let mut related = pods.clone();
        for n in 0..9 {
            related.push(pod(&format!("r{n}"), "n3", "Running", true, old, "0"));
        }
        // One pod per node apart from n3.
        related
            .retain(|pod| !["costly", "unready", "pending"].contains(&pod.metadata.name.as_str()));
        rank_for_deletion(&mut pods, &related);
        let names: Vec<_> = pods.iter().map(|pod| pod.metadata.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "unassigned",
                "pending",
                "unready",
                "crowded",
                "new-ready",
                "old-ready",
                "costly"
            ]
        );
    }

    #[tokio::test]
    async fn slow_start_stops_after_a_failing_batch() {
        let attempts = std::cell::Cell::new(0);
        let (succeeded, error) = slow_start(100, |n| {
            attempts.set(attempts.get() + 1);
            async move { if n == 2 { Err("no") } else { Ok(()) } }
        })
        .await;
        assert_eq!((attempts.get(), succeeded, error), (3, 2, Some("no")));
        let (succeeded, error) = slow_start(100, |_| async { Ok::<(), ()>(()) }).await;
        assert_eq!((succeeded, error), (100, None));
    }
}
