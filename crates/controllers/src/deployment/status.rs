//! Status and conditions of a deployment.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::context::{plus_seconds, until};
use crate::objects::apps::{Deployment, DeploymentStatus};
use crate::objects::{Condition, condition, time};

use super::plan::Set;
use super::rollout::{limits, replicas};

const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// Sets a condition; its transition time stays if its status does.
pub(super) fn set(
    status: &mut DeploymentStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let old = condition(&status.conditions, kind).cloned();
    if let Some(old) = &old
        && old.status == value
        && old.reason == reason
    {
        return;
    }
    let since = old
        .filter(|old| old.status == value)
        .and_then(|old| old.last_transition_time);
    status.conditions.retain(|condition| condition.kind != kind);
    status.conditions.push(Condition {
        kind: kind.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message,
        last_update_time: Some(now),
        last_transition_time: since.or(Some(now)),
        ..Condition::default()
    });
}

/// Counts replicas and sets `Available`; other conditions are carried over.
pub(super) fn count(
    deployment: &Deployment,
    new: Option<&Set<'_>>,
    old: &[Set<'_>],
    now: Timestamp,
) -> DeploymentStatus {
    let all = || old.iter().chain(new).map(|set| &set.object.status);
    let total = |field: fn(&crate::objects::apps::ReplicaSetStatus) -> i32| {
        all().map(field).fold(0, i32::saturating_add)
    };
    let available = total(|status| status.available_replicas);
    let specified = old
        .iter()
        .chain(new)
        .map(|set| set.replicas)
        .fold(0, i32::saturating_add);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: total(|status| status.replicas),
        updated_replicas: new.map_or(0, |set| set.object.status.replicas),
        ready_replicas: total(|status| status.ready_replicas),
        available_replicas: available,
        unavailable_replicas: (specified - available).max(0),
        terminating_replicas: Some(total(|status| status.terminating_replicas.unwrap_or(0))),
        collision_count: deployment.status.collision_count,
        conditions: deployment.status.conditions.clone(),
    };
    if available >= replicas(deployment) - limits(deployment).unavailable {
        let message = "Deployment has minimum availability.".to_owned();
        set(
            &mut status,
            "Available",
            "True",
            "MinimumReplicasAvailable",
            message,
            now,
        );
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        set(
            &mut status,
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            message,
            now,
        );
    }
    status
}

/// Whether all replicas are of the newest template and available.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = replicas(deployment);
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    new.updated_replicas > old.updated_replicas
        || new.replicas - new.updated_replicas < old.replicas - old.updated_replicas
        || new.ready_replicas > old.ready_replicas
        || new.available_replicas > old.available_replicas
}

fn deadline(deployment: &Deployment) -> Option<i64> {
    // The largest number means: no deadline.
    deployment
        .spec
        .progress_deadline_seconds
        .filter(|seconds| *seconds != i32::MAX)
        .map(i64::from)
}

/// Sets `Progressing` for a rollout under way; returns when to look again for
/// a deadline that passes in silence.
pub(super) fn progress(
    deployment: &Deployment,
    status: &mut DeploymentStatus,
    new_name: Option<&str>,
    now: Timestamp,
) -> Option<std::time::Duration> {
    const KIND: &str = "Progressing";
    let Some(seconds) = deadline(deployment) else {
        status.conditions.retain(|condition| condition.kind != KIND);
        return None;
    };
    let subject = new_name.map_or_else(
        || format!("Deployment \"{}\"", deployment.metadata.name),
        |name| format!("ReplicaSet \"{name}\""),
    );
    let current = condition(&status.conditions, KIND).cloned();
    let was_complete = status.replicas == status.updated_replicas
        && current
            .as_ref()
            .is_some_and(|current| current.reason == NEW_AVAILABLE);
    if !was_complete {
        if is_complete(deployment, status) {
            let message = format!("{subject} has successfully progressed.");
            set(status, KIND, "True", NEW_AVAILABLE, message, now);
        } else if has_progressed(&deployment.status, status) {
            let message = format!("{subject} is progressing.");
            let since = current
                .as_ref()
                .filter(|current| current.is_true())
                .and_then(|current| current.last_transition_time);
            status.conditions.retain(|condition| condition.kind != KIND);
            set(status, KIND, "True", "ReplicaSetUpdated", message, now);
            if let (Some(since), Some(condition)) = (since, status.conditions.last_mut()) {
                condition.last_transition_time = Some(since);
            }
        } else if has_timed_out(current.as_ref(), seconds, now) {
            let message = format!("{subject} has timed out progressing.");
            set(status, KIND, "False", TIMED_OUT, message, now);
        }
    }
    // An `and` of two seconds' precision: one second more than the deadline.
    let pending = condition(&status.conditions, KIND)
        .filter(|current| current.reason != NEW_AVAILABLE && current.reason != TIMED_OUT)?;
    let updated = pending.last_update_time?;
    let again = until(plus_seconds(updated, seconds.saturating_add(1)), now);
    Some(again.max(std::time::Duration::from_secs(1)))
}

fn has_timed_out(current: Option<&Condition>, seconds: i64, now: Timestamp) -> bool {
    let Some(current) = current else { return false };
    match current.reason.as_str() {
        NEW_AVAILABLE => false,
        TIMED_OUT => true,
        _ => current
            .last_update_time
            .is_some_and(|updated| plus_seconds(updated, seconds) < now),
    }
}

/// Marks pauses and resumptions, so that a deadline does not count them.
pub(super) fn pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    const KIND: &str = "Progressing";
    if deadline(deployment).is_none() {
        return;
    }
    let current = condition(&status.conditions, KIND);
    if current.is_some_and(|current| current.reason == TIMED_OUT) {
        return;
    }
    let paused = current.is_some_and(|current| current.reason == "DeploymentPaused");
    if deployment.spec.paused && !paused {
        set(
            status,
            KIND,
            "Unknown",
            "DeploymentPaused",
            "Deployment is paused".to_owned(),
            now,
        );
    } else if !deployment.spec.paused && paused {
        set(
            status,
            KIND,
            "Unknown",
            "DeploymentResumed",
            "Deployment is resumed".to_owned(),
            now,
        );
    }
}

/// Shows a replica set's failure to make pods as the deployment's own.
pub(super) fn inherit_failure(
    status: &mut DeploymentStatus,
    new: Option<&Set<'_>>,
    old: &[Set<'_>],
) {
    const KIND: &str = "ReplicaFailure";
    status.conditions.retain(|condition| condition.kind != KIND);
    let failure = new
        .into_iter()
        .chain(old)
        .find_map(|set| condition(&set.object.status.conditions, KIND));
    if let Some(failure) = failure {
        let mut failure = failure.clone();
        failure.last_update_time = failure.last_transition_time;
        status.conditions.push(failure);
    }
}

/// The status as a merge patch: counts of zero are left out of stored objects.
pub(super) fn to_patch(status: &DeploymentStatus) -> Value {
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
                "lastUpdateTime": condition.last_update_time.map(time),
                "lastTransitionTime": condition.last_transition_time.map(time),
            })
        })
        .collect();
    json!({
        "observedGeneration": status.observed_generation,
        "replicas": some(status.replicas),
        "updatedReplicas": some(status.updated_replicas),
        "readyReplicas": some(status.ready_replicas),
        "availableReplicas": some(status.available_replicas),
        "unavailableReplicas": some(status.unavailable_replicas),
        "terminatingReplicas": status.terminating_replicas,
        "collisionCount": status.collision_count,
        "conditions": conditions,
    })
}
