//! The status of a replica set, from its pods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::objects::apps::ReplicaSetStatus;
use crate::objects::pod::Pod;
use crate::objects::{Condition, Meta, condition, time};
use crate::selector::matches_map;

/// Why pods could not be created or deleted.
pub(super) struct Failure {
    pub reason: &'static str,
    pub message: String,
}

/// A computed status, and when time alone will change it.
pub(super) struct Observed {
    pub status: ReplicaSetStatus,
    pub look_again: Option<Duration>,
}

/// Counts pods.
pub(super) fn observe(
    active: &[Arc<Pod>],
    terminating: usize,
    template_labels: &BTreeMap<String, String>,
    min_ready_seconds: i32,
    now: Timestamp,
) -> Observed {
    let count =
        |matches: &dyn Fn(&Pod) -> bool| number(active.iter().filter(|pod| matches(pod)).count());
    let status = ReplicaSetStatus {
        replicas: number(active.len()),
        fully_labeled_replicas: count(&|pod| matches_map(template_labels, &pod.metadata.labels)),
        ready_replicas: count(&Pod::is_ready),
        available_replicas: count(&|pod| pod.is_available(min_ready_seconds, now)),
        terminating_replicas: Some(number(terminating)),
        ..ReplicaSetStatus::default()
    };
    Observed {
        status,
        look_again: super::next_available(active, min_ready_seconds, now),
    }
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Carries conditions over and sets or clears `ReplicaFailure`.
pub(super) fn set_failure(
    status: &mut ReplicaSetStatus,
    old: &ReplicaSetStatus,
    failure: Option<&Failure>,
    now: Timestamp,
) {
    const KIND: &str = "ReplicaFailure";
    status.conditions = old
        .conditions
        .iter()
        .filter(|condition| condition.kind != KIND)
        .cloned()
        .collect();
    let before = condition(&old.conditions, KIND);
    match (failure, before) {
        (None, _) => {}
        (Some(failure), Some(before)) if before.reason == failure.reason => {
            status.conditions.push(before.clone());
        }
        (Some(failure), _) => status.conditions.push(Condition {
            kind: KIND.to_owned(),
            status: "True".to_owned(),
            reason: failure.reason.to_owned(),
            message: failure.message.clone(),
            last_transition_time: Some(now),
            ..Condition::default()
        }),
    }
}

/// A merge patch that makes the stored status equal to this one. Counts of
/// zero are left out of stored objects, but for `replicas`.
pub(super) fn status_patch(meta: &Meta, status: &ReplicaSetStatus) -> Value {
    let some = |count: i32| {
        if count == 0 {
            Value::Null
        } else {
            count.into()
        }
    };
    let conditions: Vec<Value> = status
        .conditions
        .iter()
        .map(|condition| {
            json!({
                "type": condition.kind, "status": condition.status, "reason": condition.reason,
                "message": condition.message,
                "lastTransitionTime": condition.last_transition_time.map(time),
            })
        })
        .collect();
    let conditions = if conditions.is_empty() {
        Value::Null
    } else {
        conditions.into()
    };
    json!({
        "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
        "status": {
            "replicas": status.replicas,
            "fullyLabeledReplicas": some(status.fully_labeled_replicas),
            "readyReplicas": some(status.ready_replicas),
            "availableReplicas": some(status.available_replicas),
            "terminatingReplicas": status.terminating_replicas,
            "observedGeneration": some_generation(status.observed_generation),
            "conditions": conditions,
        }
    })
}

fn some_generation(generation: i64) -> Value {
    if generation == 0 {
        Value::Null
    } else {
        generation.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;

    fn pod(label: &str, ready_at: Option<&str>) -> Arc<Pod> {
        let conditions = ready_at
            .map(|at| json!([{"type": "Ready", "status": "True", "lastTransitionTime": at}]));
        Arc::new(object(json!({
            "metadata": {"labels": {"app": label}}, "status": {"conditions": conditions},
        })))
    }

    #[test]
    fn counting() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let pods = [
            pod("web", Some("2026-01-01T00:00:00Z")),
            pod("web", Some("2026-01-01T00:00:50Z")),
            pod("old", None),
        ];
        let Observed { status, look_again } = observe(&pods, 2, &labels, 30, now);
        assert_eq!(
            status,
            ReplicaSetStatus {
                replicas: 3,
                fully_labeled_replicas: 2,
                ready_replicas: 2,
                available_replicas: 1,
                terminating_replicas: Some(2),
                ..ReplicaSetStatus::default()
            }
        );
        assert_eq!(look_again, Some(Duration::from_secs(20)));
    }

    #[test]
    fn failures_come_and_go() {
        let now = Timestamp::UNIX_EPOCH;
        let failure = Failure {
            reason: "FailedCreate",
            message: "quota".to_owned(),
        };
        let mut first = ReplicaSetStatus::default();
        set_failure(
            &mut first,
            &ReplicaSetStatus::default(),
            Some(&failure),
            now,
        );
        assert_eq!(first.conditions[0].message, "quota");
        let mut second = ReplicaSetStatus::default();
        set_failure(&mut second, &first, Some(&failure), Timestamp::MAX);
        assert_eq!(
            second.conditions, first.conditions,
            "the first time and message stay"
        );
        let mut third = ReplicaSetStatus::default();
        set_failure(&mut third, &second, None, now);
        assert!(third.conditions.is_empty());
    }
}
