//! Disruption budgets: how many pods may be evicted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::context::{Context, Task, Written, enqueue_self, next, plus_seconds, sooner, until};
use crate::error::{Error, found};
use crate::informer::Store;
use crate::intstr::{Round, resolve};
use crate::objects::apps::{Deployment, ReplicaSet, StatefulSet};
use crate::objects::batch::{DisruptionBudget, DisruptionBudgetStatus};
use crate::objects::core::ReplicationController;
use crate::objects::pod::Pod;
use crate::objects::{Kind, OwnerReference, condition, time};
use crate::queue::{Key, Next, Queue};
use crate::selector;

/// Budgets that are worked on at once.
const WORKERS: usize = 4;
/// How long an eviction may take until its pod counts as there again.
const EVICTION_SECONDS: i64 = 120;

/// Workloads, whose wanted size is the base of a percentage.
struct Workloads {
    deployments: Arc<Store<Deployment>>,
    replica_sets: Arc<Store<ReplicaSet>>,
    stateful_sets: Arc<Store<StatefulSet>>,
    controllers: Arc<Store<ReplicationController>>,
}

impl Workloads {
    /// Uid and size of the workload that a pod's owner stands for; `None` if
    /// its size is not known.
    fn size(&self, namespace: &str, owner: &OwnerReference) -> Option<(String, i32)> {
        let name = owner.name.as_str();
        match owner.kind.as_str() {
            "ReplicaSet" => {
                let set = self.replica_sets.get(namespace, name)?;
                let above = set
                    .metadata
                    .controller()
                    .filter(|it| it.kind == "Deployment");
                match above {
                    Some(above) => {
                        let deployment = self.deployments.get(namespace, &above.name)?;
                        let replicas = deployment.spec.replicas.unwrap_or(1);
                        Some((above.uid.clone(), replicas))
                    }
                    None => Some((owner.uid.clone(), set.spec.replicas.unwrap_or(1))),
                }
            }
            "StatefulSet" => {
                let set = self.stateful_sets.get(namespace, name)?;
                Some((owner.uid.clone(), set.spec.replicas.unwrap_or(1)))
            }
            "ReplicationController" => {
                let controller = self.controllers.get(namespace, name)?;
                Some((owner.uid.clone(), controller.spec.replicas.unwrap_or(1)))
            }
            _ => None,
        }
    }
}

/// Registers the controller and returns its work.
pub(crate) fn start(context: &Context) -> Task {
    let queue = Queue::new();
    let budgets = context.store::<DisruptionBudget>();
    let pods = context.store::<Pod>();
    enqueue_self(&budgets, &queue);
    {
        let (budgets, queue) = (budgets.clone(), queue.clone());
        pods.subscribe(move |change| {
            for budget in budgets.in_namespace(&change.latest().metadata.namespace) {
                let concerned = [change.old, change.new].into_iter().flatten().any(|pod| {
                    let selector = budget.spec.selector.as_ref();
                    selector.is_some_and(|it| selector::matches(it, &pod.metadata.labels))
                });
                if concerned {
                    queue.add(budget.metadata.key());
                }
            }
        });
    }
    let workloads = Arc::new(Workloads {
        deployments: context.store(),
        replica_sets: context.store(),
        stateful_sets: context.store(),
        controllers: context.store(),
    });
    let api = context.api.clone();
    let own = Arc::new(Written::new(budgets.clone()));
    context.work("disruption-controller", WORKERS, queue, move |key: Key| {
        let (api, budgets, pods) = (api.clone(), budgets.clone(), pods.clone());
        let (workloads, own) = (workloads.clone(), own.clone());
        async move {
            let Some(budget) = budgets.by_key(&key) else {
                return Ok(Next::Wait);
            };
            if !own.is_seen(&key) || budget.metadata.is_deleting() {
                return Ok(Next::Wait);
            }
            let all = pods.in_namespace(&key.namespace);
            let size = |owner: &OwnerReference| workloads.size(&key.namespace, owner);
            let (status, look_again) = observe(&budget, &all, &size, Timestamp::now());
            if status != budget.status {
                let patch = patch(&budget, &status);
                let (namespace, name) = (&key.namespace, &key.name);
                let kind = DisruptionBudget::RESOURCE;
                let patched = api.patch(kind, namespace, name, "status", &patch).await;
                if let Some(answer) = found::<Value>(patched)? {
                    own.note(&key, &answer);
                }
            }
            Ok::<Next, Error>(next(look_again))
        }
    })
}

/// The status of a budget, and when time alone will change it.
fn observe(
    budget: &DisruptionBudget,
    pods: &[Arc<Pod>],
    size: &dyn Fn(&OwnerReference) -> Option<(String, i32)>,
    now: Timestamp,
) -> (DisruptionBudgetStatus, Option<Duration>) {
    let selector = budget.spec.selector.as_ref();
    let covered: Vec<&Arc<Pod>> = pods
        .iter()
        .filter(|pod| {
            selector.is_some_and(|it| selector::matches(it, &pod.metadata.labels))
                && !pod.is_finished()
        })
        .collect();
    let mut status = budget.status.clone();
    status.observed_generation = budget.metadata.generation;
    let mut look_again = None;
    // Evictions under way, until the pod is seen to go or never did.
    status.disrupted_pods.retain(|name, at| {
        let pod = covered.iter().find(|pod| pod.metadata.name == *name);
        let waiting = pod.is_some_and(|pod| !pod.metadata.is_deleting());
        let expires = plus_seconds(*at, EVICTION_SECONDS);
        if waiting && expires > now {
            look_again = sooner(look_again, Some(until(expires, now)));
            return true;
        }
        false
    });
    let healthy = covered.iter().filter(|pod| {
        pod.is_ready()
            && !pod.metadata.is_deleting()
            && !status.disrupted_pods.contains_key(&pod.metadata.name)
    });
    status.current_healthy = count(healthy.count());
    match expected(budget, &covered, size) {
        Ok((expected, desired)) => {
            status.expected_pods = expected;
            status.desired_healthy = desired.max(0);
            status.disruptions_allowed = if expected > 0 {
                (status.current_healthy - desired).max(0)
            } else {
                0
            };
            let sufficient = status.disruptions_allowed > 0;
            let reason = if sufficient {
                "SufficientPods"
            } else {
                "InsufficientPods"
            };
            set_condition(budget, &mut status, sufficient, reason, "", now);
        }
        Err(message) => {
            status.disruptions_allowed = 0;
            set_condition(budget, &mut status, false, "SyncFailed", &message, now);
        }
    }
    (status, look_again)
}

/// How many pods there should be, and how many of them must be healthy.
fn expected(
    budget: &DisruptionBudget,
    covered: &[&Arc<Pod>],
    size: &dyn Fn(&OwnerReference) -> Option<(String, i32)>,
) -> Result<(i32, i32), String> {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    let scale = || -> Result<i32, String> {
        let mut sizes: BTreeMap<String, i32> = BTreeMap::new();
        for pod in covered {
            let name = &pod.metadata.name;
            let owner = pod
                .metadata
                .controller()
                .ok_or_else(|| format!("found no controller ref for pod {name:?}"))?;
            let (uid, replicas) = size(owner).ok_or_else(|| {
                format!(
                    "{}.{} does not implement the scale subresource",
                    owner.kind, owner.api_version
                )
            })?;
            sizes.insert(uid, replicas);
        }
        Ok(sizes.values().copied().fold(0, i32::saturating_add))
    };
    let bad = |value: &IntOrString| format!("invalid value {value:?}");
    if let Some(most) = &budget.spec.max_unavailable {
        let expected = scale()?;
        let most = resolve(most, expected, Round::Up).ok_or_else(|| bad(most))?;
        return Ok((expected, (expected - most).max(0)));
    }
    match &budget.spec.min_available {
        Some(IntOrString::Int(least)) => Ok((count(covered.len()), *least)),
        Some(least) => {
            let expected = scale()?;
            let desired = resolve(least, expected, Round::Up).ok_or_else(|| bad(least))?;
            Ok((expected, desired))
        }
        None => Ok((count(covered.len()), 0)),
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn set_condition(
    budget: &DisruptionBudget,
    status: &mut DisruptionBudgetStatus,
    allowed: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    const KIND: &str = "DisruptionAllowed";
    let value = if allowed { "True" } else { "False" };
    let old = condition(&status.conditions, KIND).cloned();
    let generation = Some(budget.metadata.generation);
    if old.as_ref().is_some_and(|old| {
        old.status == value
            && old.reason == reason
            && old.message == message
            && old.observed_generation == generation
    }) {
        return;
    }
    let since = old
        .filter(|old| old.status == value)
        .and_then(|old| old.last_transition_time);
    status.conditions.retain(|it| it.kind != KIND);
    status.conditions.push(crate::objects::Condition {
        kind: KIND.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since.or(Some(now)),
        observed_generation: generation,
        ..Default::default()
    });
}

fn patch(budget: &DisruptionBudget, status: &DisruptionBudgetStatus) -> Value {
    let mut disrupted = json!({});
    for name in budget.status.disrupted_pods.keys() {
        disrupted[name] = Value::Null;
    }
    for (name, at) in &status.disrupted_pods {
        disrupted[name] = time(*at).into();
    }
    let conditions: Vec<Value> = status
        .conditions
        .iter()
        .map(|it| {
            let mut value = it.to_value();
            value["message"] = it.message.as_str().into();
            value
        })
        .collect();
    let meta = &budget.metadata;
    json!({
        "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
        "status": {
            "observedGeneration": status.observed_generation,
            "currentHealthy": status.current_healthy,
            "desiredHealthy": status.desired_healthy,
            "expectedPods": status.expected_pods,
            "disruptionsAllowed": status.disruptions_allowed,
            "disruptedPods": disrupted,
            "conditions": conditions,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;

    fn pods(ready: usize, unready: usize) -> Vec<Arc<Pod>> {
        let pod = |n: usize, ready: bool| -> Arc<Pod> {
            Arc::new(object(json!({
                "metadata": {"name": format!("p{n}"), "labels": {"app": "web"},
                    "ownerReferences": [{"kind": "ReplicaSet", "uid": "rs", "controller": true}]},
                "status": {"phase": "Running", "conditions": [
                    {"type": "Ready", "status": if ready { "True" } else { "False" }}]},
            })))
        };
        (0..ready + unready).map(|n| pod(n, n < ready)).collect()
    }

    #[test]
    fn what_may_be_evicted() {
        for (spec, ready, unready, expected) in [
            (json!({"minAvailable": 2}), 3, 0, (3, 2, 1)),
            (json!({"minAvailable": 2}), 2, 1, (3, 2, 0)),
            (json!({"minAvailable": "50%"}), 4, 0, (5, 3, 1)),
            (json!({"maxUnavailable": 1}), 5, 0, (5, 4, 1)),
            (json!({"maxUnavailable": "30%"}), 5, 0, (5, 3, 2)),
            (json!({"maxUnavailable": 1}), 3, 1, (5, 4, 0)),
        ] {
            let mut body = json!({"metadata": {"name": "b"}, "spec": spec});
            body["spec"]["selector"] = json!({"matchLabels": {"app": "web"}});
            let budget: DisruptionBudget = object(body);
            let size = |_: &OwnerReference| Some(("d".to_owned(), 5));
            let (status, _) = observe(&budget, &pods(ready, unready), &size, Timestamp::UNIX_EPOCH);
            let found = (
                status.expected_pods,
                status.desired_healthy,
                status.disruptions_allowed,
            );
            assert_eq!(found, expected, "{:?}", budget.spec);
        }
    }

    #[test]
    fn an_eviction_under_way_counts_until_it_expires() {
        let budget: DisruptionBudget = object(json!({
            "spec": {"minAvailable": 1, "selector": {}},
            "status": {"disruptedPods": {"p0": "2026-01-01T00:00:00Z", "gone": "2026-01-01T00:00:00Z"}},
        }));
        let at = |text: &str| observe(&budget, &pods(3, 0), &|_| None, text.parse().unwrap());
        let (status, look_again) = at("2026-01-01T00:01:00Z");
        assert_eq!(
            (status.current_healthy, status.disrupted_pods.len()),
            (2, 1)
        );
        assert_eq!(look_again, Some(Duration::from_secs(60)));
        let (status, _) = at("2026-01-01T00:03:00Z");
        assert_eq!(
            (status.current_healthy, status.disrupted_pods.len()),
            (3, 0)
        );
    }

    #[test]
    fn pods_without_a_known_size_allow_nothing() {
        let budget: DisruptionBudget =
            object(json!({"spec": {"maxUnavailable": 1, "selector": {}}}));
        let (status, _) = observe(&budget, &pods(3, 0), &|_| None, Timestamp::UNIX_EPOCH);
        assert_eq!(status.disruptions_allowed, 0);
        assert_eq!(status.conditions[0].reason, "SyncFailed");
    }
}
