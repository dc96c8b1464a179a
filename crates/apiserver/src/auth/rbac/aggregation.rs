//! ClusterRoles whose rules are those of other ClusterRoles, chosen by label.
//!
//! The index resolves them each time it is built, so that a new role counts
//! at once; [`reconcile`] writes the resolved rules into the stored objects,
//! where users look for them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use coracle_machinery::{ApiError, object};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{CLUSTER_ROLES, Rbac};
use crate::objects::Objects;

/// Writes of one [`reconcile`] at most: roles may feed each other (edit feeds
/// admin), and a role that takes part in a cycle would never be finished.
const MAX_ROUNDS: usize = 8;

/// When to look after the notice of a write.
const SETTLE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// Roles that choose roles that choose roles: beyond this depth the stored
/// rules are taken, so that a long chain cannot exhaust the stack. Each round
/// of [`reconcile`] carries them that much further.
const MAX_DEPTH: usize = 16;

/// The rules that an aggregated ClusterRole should have, in the order of the
/// names of the roles they come from; `None` if the role does not aggregate.
/// A role that is chosen and aggregates itself contributes what it chooses.
pub fn aggregated_rules(role: &Value, all: &[Arc<Value>]) -> Option<Vec<Value>> {
    role.pointer("/aggregationRule").filter(|r| !r.is_null())?;
    let mut rules = Vec::new();
    let mut seen_rules = HashSet::new();
    let mut visited = HashSet::from([object::name(role)]);
    collect(role, all, MAX_DEPTH, &mut visited, &mut |rule| {
        if seen_rules.insert(rule.to_string()) {
            rules.push(rule.clone());
        }
    });
    Some(rules)
}

fn collect<'a>(
    role: &Value,
    all: &'a [Arc<Value>],
    depth: usize,
    visited: &mut HashSet<&'a str>,
    emit: &mut dyn FnMut(&Value),
) {
    let selectors = object::items(role, "/aggregationRule/clusterRoleSelectors");
    let mut chosen: Vec<&'a Arc<Value>> = all
        .iter()
        .filter(|candidate| selectors.iter().any(|s| selects(s, candidate)))
        .collect();
    chosen.sort_by_key(|candidate| object::name(candidate));
    for candidate in chosen {
        // Each role is looked at once, so that a cycle ends.
        if !visited.insert(object::name(candidate)) {
            continue;
        }
        let aggregates = candidate
            .get("aggregationRule")
            .is_some_and(|r| !r.is_null());
        if aggregates && depth > 0 {
            collect(candidate, all, depth - 1, visited, emit);
        } else {
            object::items(candidate, "/rules")
                .iter()
                .for_each(&mut *emit);
        }
    }
}

/// True if the label selector matches; one without any requirement matches
/// everything.
fn selects(selector: &Value, role: &Value) -> bool {
    let labels = |key: &str| object::label(role, key);
    let equal = object::string_map(selector, "/matchLabels").all(|(k, v)| labels(k) == Some(v));
    equal
        && object::items(selector, "/matchExpressions")
            .iter()
            .all(|e| {
                let value = labels(object::text(e, "/key"));
                let listed = || {
                    let values = object::items(e, "/values");
                    value.is_some_and(|v| values.iter().any(|x| x.as_str() == Some(v)))
                };
                match object::text(e, "/operator") {
                    "In" => listed(),
                    "NotIn" => !listed(),
                    "Exists" => value.is_some(),
                    "DoesNotExist" => value.is_none(),
                    _ => false,
                }
            })
}

/// Keeps the stored rules of aggregated ClusterRoles up to date until
/// cancelled. Sleeps while no ClusterRole is written.
pub async fn run(rbac: Arc<Rbac>, cancel: CancellationToken) {
    keep(rbac, cancel, SETTLE).await;
}

async fn keep(rbac: Arc<Rbac>, cancel: CancellationToken, [soon, later]: [Duration; 2]) {
    let mut again: Option<Instant> = None;
    loop {
        let due = again.unwrap_or_else(Instant::now);
        tokio::select! {
            () = cancel.cancelled() => return,
            () = rbac.role_written.notified() => {
                // The notice comes before the write; by the second look every
                // write has ended one way or the other.
                tokio::time::sleep(soon).await;
                again.get_or_insert_with(|| Instant::now() + later);
            }
            () = tokio::time::sleep_until(due), if again.is_some() => again = None,
        }
        if let Err(error) = reconcile(&*rbac.objects).await {
            // The second look, or the next write, makes good for it.
            tracing::warn!(%error, "aggregated roles could not be updated");
        }
    }
}

/// Brings the stored rules of all aggregated ClusterRoles up to date.
///
/// # Errors
/// If reading or writing fails; a conflict means that it should be run again.
pub async fn reconcile(objects: &dyn Objects) -> Result<(), ApiError> {
    for _ in 0..MAX_ROUNDS {
        let all = objects.list(&CLUSTER_ROLES, "").await?;
        let mut changed = false;
        for role in &all {
            let Some(rules) = aggregated_rules(role, &all) else {
                continue;
            };
            if object::items(role, "/rules") == rules.as_slice() {
                continue;
            }
            let mut updated = (**role).clone();
            updated["rules"] = Value::Array(rules);
            objects.update(&CLUSTER_ROLES, updated).await?;
            changed = true;
        }
        if !changed {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::fake::FakeObjects;

    fn role(name: &str, labels: Value, verb: &str) -> Value {
        json!({"metadata": {"name": name, "labels": labels},
               "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]})
    }

    fn aggregate(name: &str, labels: Value, wants: &str) -> Value {
        json!({"metadata": {"name": name, "labels": labels}, "rules": null,
               "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {wants: "true"}}]}})
    }

    fn verbs(rules: &[Value]) -> Vec<&str> {
        rules
            .iter()
            .map(|r| r["verbs"][0].as_str().unwrap())
            .collect()
    }

    #[tokio::test]
    async fn roles_feed_each_other_and_are_stored() {
        let objects = FakeObjects::new();
        for r in [
            role("b", json!({"to-edit": "true"}), "get"),
            role("a", json!({"to-edit": "true"}), "list"),
            role("z", json!({"to-admin": "true"}), "delete"),
            aggregate("edit", json!({"to-admin": "true"}), "to-edit"),
            aggregate("admin", json!({}), "to-admin"),
        ] {
            objects.put(&CLUSTER_ROLES, r);
        }
        reconcile(&*objects).await.unwrap();
        let admin = objects.get(&CLUSTER_ROLES, "", "admin").await.unwrap();
        let admin = admin.unwrap();
        assert_eq!(
            verbs(object::items(&admin, "/rules")),
            ["list", "get", "delete"]
        );
        let before = objects.generation(&CLUSTER_ROLES);
        reconcile(&*objects).await.unwrap();
        assert_eq!(objects.generation(&CLUSTER_ROLES), before, "settled");
    }

    #[tokio::test]
    async fn a_new_role_is_written_into_those_that_choose_it() {
        let objects = FakeObjects::new();
        objects.put(&CLUSTER_ROLES, aggregate("admin", json!({}), "to-admin"));
        let rbac = Arc::new(Rbac::new(objects.clone()));
        let cancel = CancellationToken::new();
        let task = keep(
            rbac.clone(),
            cancel.clone(),
            [Duration::ZERO, Duration::from_millis(5)],
        );
        let task = tokio::spawn(task);
        rbac.cluster_role_written();
        objects.put(
            &CLUSTER_ROLES,
            role("a", json!({"to-admin": "true"}), "get"),
        );
        let written = async {
            loop {
                let admin = objects
                    .get(&CLUSTER_ROLES, "", "admin")
                    .await
                    .unwrap()
                    .unwrap();
                if verbs(object::items(&admin, "/rules")) == ["get"] {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), written)
            .await
            .unwrap();
        cancel.cancel();
        task.await.unwrap();
    }

    #[test]
    fn a_long_chain_does_not_exhaust_the_stack() {
        let link = |i: usize| {
            let own = format!("l{i}");
            let next = format!("l{}", i + 1);
            Arc::new(aggregate(&own, json!({own.as_str(): "true"}), &next))
        };
        let all: Vec<Arc<Value>> = (0..2000).map(link).collect();
        assert_eq!(aggregated_rules(&all[0], &all), Some(Vec::new()));
    }

    #[test]
    fn a_cycle_ends() {
        let all: Vec<Arc<Value>> = [
            aggregate("x", json!({"l": "true"}), "l"),
            aggregate("y", json!({"l": "true"}), "l"),
            role("r", json!({"l": "true"}), "get"),
        ]
        .into_iter()
        .map(Arc::new)
        .collect();
        assert_eq!(verbs(&aggregated_rules(&all[0], &all).unwrap()), ["get"]);
        assert_eq!(aggregated_rules(&all[2], &all), None);
    }
}
