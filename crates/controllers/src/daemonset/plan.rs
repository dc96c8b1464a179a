//! Which nodes get or lose a daemon pod: pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::context::{sooner, until};
use crate::error::Error;
use crate::intstr::{Round, resolve};
use crate::objects::apps::{DaemonSet, DaemonSetStatus, created};
use crate::objects::core::Node;
use crate::objects::pod::{Pod, PodSpec};
use crate::placement::{selects, untolerated};
use crate::revisions::HASH_LABEL;

/// Conditions of nodes that daemons put up with.
const TOLERATED: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// One more for pods on the host's network, which need no pod network.
const TOLERATED_ON_HOST: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// Adds the tolerations of daemons to a pod spec.
pub(super) fn add_tolerations(spec: &mut Value) {
    let on_host = spec["hostNetwork"] == true;
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    let wanted = TOLERATED
        .iter()
        .chain(on_host.then_some(&TOLERATED_ON_HOST));
    for (key, effect) in wanted {
        let toleration = json!({"key": key, "operator": "Exists", "effect": effect});
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    spec["tolerations"] = tolerations.into();
}

/// The spec of a template as the rules for placement see it.
pub(super) fn with_daemon_tolerations(template: &Value) -> Result<PodSpec, Error> {
    let mut spec = template["spec"].clone();
    add_tolerations(&mut spec);
    serde_json::from_value(spec).map_err(|source| Error::Decode {
        what: "a pod template".to_owned(),
        source,
    })
}

/// Binds a pod to one node through its affinity, in place of whatever the
/// template's required affinity said: the node was found to satisfy it.
pub(super) fn pin(spec: &mut Value, node: &str) {
    let term = json!({"matchFields": [
        {"key": "metadata.name", "operator": "In", "values": [node]}]});
    spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
        json!({"nodeSelectorTerms": [term]});
}

/// The node that a daemon pod is for, whether it runs there yet or not.
fn node_of(pod: &Pod) -> Option<&str> {
    if !pod.spec.node_name.is_empty() {
        return Some(&pod.spec.node_name);
    }
    let affinity = pod.spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let fields = required
        .node_selector_terms
        .iter()
        .flat_map(|it| it.match_fields.iter().flatten());
    let mut names = fields
        .filter(|field| field.key == "metadata.name" && field.operator == "In")
        .flat_map(|field| field.values.iter().flatten());
    names.next().map(String::as_str)
}

/// What is known.
pub(super) struct View<'a> {
    pub set: &'a DaemonSet,
    /// Spec of the template, with the tolerations of daemons.
    pub spec: &'a PodSpec,
    pub nodes: &'a [Arc<Node>],
    pub pods: &'a [Arc<Pod>],
    /// Hash of the present template.
    pub hash: &'a str,
    pub is_deleted: &'a (dyn Fn(&Pod) -> bool + Sync),
    pub now: Timestamp,
}

/// What to write.
pub(super) struct Plan {
    /// Nodes that get a pod.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    pub status: DaemonSetStatus,
    pub look_again: Option<Duration>,
}

/// Whether a daemon is to start on a node, and whether one may stay there.
fn suits(spec: &PodSpec, node: &Node) -> (bool, bool) {
    if !selects(spec, node) {
        return (false, false);
    }
    let refuses =
        |effects: &[&str]| untolerated(&node.spec.taints, &spec.tolerations, effects).is_some();
    (
        !refuses(&["NoSchedule", "NoExecute"]),
        !refuses(&["NoExecute"]),
    )
}

/// Decides the next writes.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in view.pods.iter().filter(|pod| !(view.is_deleted)(pod)) {
        if let Some(node) = node_of(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    let mut planner = Planner {
        view,
        create: Vec::new(),
        delete: Vec::new(),
    };
    planner.place(&by_node);
    // Placement settles before anything rolls.
    let rolling = view.set.spec.update_strategy.kind != "OnDelete";
    if rolling && planner.create.is_empty() && planner.delete.is_empty() {
        planner.roll(&by_node);
    }
    let soonest = view.pods.iter().fold(None, |soonest, pod| {
        let at = pod.available_at(view.set.spec.min_ready_seconds);
        let at = at.filter(|at| *at > view.now);
        sooner(soonest, at.map(|at| until(at, view.now)))
    });
    Plan {
        create: planner.create,
        delete: planner.delete,
        status: status(view, &by_node),
        look_again: soonest,
    }
}

struct Planner<'a> {
    view: &'a View<'a>,
    create: Vec<String>,
    delete: Vec<Arc<Pod>>,
}

impl Planner<'_> {
    fn is_new(&self, pod: &Pod) -> bool {
        pod.metadata.label(HASH_LABEL) == Some(self.view.hash)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pod.is_active() && pod.is_available(self.view.set.spec.min_ready_seconds, self.view.now)
    }

    fn surge(&self) -> i32 {
        self.limit(|rolling| rolling.max_surge.as_ref(), 0)
    }

    fn limit(
        &self,
        field: impl Fn(
            &crate::objects::apps::RollingUpdate,
        ) -> Option<&k8s_openapi::apimachinery::pkg::util::intstr::IntOrString>,
        default: i32,
    ) -> i32 {
        let desired = self
            .view
            .nodes
            .iter()
            .filter(|it| suits(self.view.spec, it).0)
            .count();
        let desired = i32::try_from(desired).unwrap_or(i32::MAX);
        let rolling = self.view.set.spec.update_strategy.rolling_update.as_ref();
        let value = rolling.and_then(field);
        value
            .map_or(default, |value| {
                resolve(value, desired, Round::Up).unwrap_or(default)
            })
            .max(0)
    }

    /// One pod on each node that suits, none elsewhere.
    fn place(&mut self, by_node: &BTreeMap<&str, Vec<&Arc<Pod>>>) {
        let none = Vec::new();
        for node in self.view.nodes {
            let pods = by_node.get(node.metadata.name.as_str()).unwrap_or(&none);
            let (start, stay) = suits(self.view.spec, node);
            let live: Vec<&Arc<Pod>> = pods
                .iter()
                .copied()
                .filter(|pod| !pod.metadata.is_deleting())
                .collect();
            if !stay {
                self.delete.extend(live.into_iter().cloned());
                continue;
            }
            let (ended, mut running): (Vec<_>, Vec<_>) =
                live.into_iter().partition(|pod| pod.is_finished());
            self.delete.extend(ended.into_iter().cloned());
            if pods.is_empty() {
                if start {
                    self.create.push(node.metadata.name.clone());
                }
                continue;
            }
            // The oldest pod stays; during a surge, the oldest of each side.
            running.sort_by_key(|pod| created(&pod.metadata));
            let surging = self.surge() > 0;
            let mut kept = [false, false];
            for pod in running {
                let side = usize::from(surging && self.is_new(pod));
                if kept[side] {
                    self.delete.push(Arc::clone(pod));
                }
                kept[side] = true;
            }
        }
        // Pods for nodes that do not exist can never start.
        for (name, pods) in by_node {
            let known = self
                .view
                .nodes
                .iter()
                .any(|node| node.metadata.name == *name);
            if !known {
                let pending = pods
                    .iter()
                    .filter(|pod| pod.spec.node_name.is_empty() && !pod.metadata.is_deleting());
                self.delete.extend(pending.map(|pod| Arc::clone(pod)));
            }
        }
    }

    /// Replaces pods of old templates.
    fn roll(&mut self, by_node: &BTreeMap<&str, Vec<&Arc<Pod>>>) {
        let surge = self.surge();
        let default = if surge > 0 { 0 } else { 1 };
        let most = self.limit(|rolling| rolling.max_unavailable.as_ref(), default);
        let most = usize::try_from(if surge == 0 { most.max(1) } else { most }).unwrap_or(0);
        let mut surge = usize::try_from(surge).unwrap_or(0);
        let (mut unavailable, mut candidates) = (0, Vec::new());
        let none = Vec::new();
        for node in self.view.nodes {
            if !suits(self.view.spec, node).0 {
                continue;
            }
            let pods = by_node.get(node.metadata.name.as_str()).unwrap_or(&none);
            let new = pods.iter().find(|pod| self.is_new(pod) && pod.is_active());
            let old = pods.iter().find(|pod| !self.is_new(pod) && pod.is_active());
            let up = pods.iter().any(|pod| self.is_available(pod));
            unavailable += usize::from(!up);
            match (old, new) {
                (Some(old), None) if !self.is_available(old) => {
                    // It is down already: replacing it costs nothing.
                    self.delete.push(Arc::clone(old));
                }
                (Some(old), None) => candidates.push((node, Arc::clone(old))),
                (Some(old), Some(new)) if self.is_available(new) => {
                    self.delete.push(Arc::clone(old));
                }
                // The new one is coming up beside the old.
                (Some(_), Some(_)) => surge = surge.saturating_sub(1),
                (None, _) => {}
            }
        }
        if self.surge() > 0 {
            for (node, _) in candidates.into_iter().take(surge) {
                self.create.push(node.metadata.name.clone());
            }
            return;
        }
        let budget = most.saturating_sub(unavailable);
        self.delete
            .extend(candidates.into_iter().take(budget).map(|(_, pod)| pod));
    }
}

fn status(view: &View<'_>, by_node: &BTreeMap<&str, Vec<&Arc<Pod>>>) -> DaemonSetStatus {
    let mut status = DaemonSetStatus {
        observed_generation: view.set.metadata.generation,
        collision_count: view.set.status.collision_count,
        ..DaemonSetStatus::default()
    };
    let none = Vec::new();
    for node in view.nodes {
        let pods = by_node.get(node.metadata.name.as_str()).unwrap_or(&none);
        let live = || pods.iter().filter(|pod| !pod.metadata.is_deleting());
        if !suits(view.spec, node).0 {
            status.number_misscheduled += i32::from(live().next().is_some());
            continue;
        }
        status.desired_number_scheduled += 1;
        if live().next().is_none() {
            continue;
        }
        status.current_number_scheduled += 1;
        let ready = live().any(|pod| pod.is_ready());
        let available =
            live().any(|pod| pod.is_available(view.set.spec.min_ready_seconds, view.now));
        let updated = live().any(|pod| pod.metadata.label(HASH_LABEL) == Some(view.hash));
        status.number_ready += i32::from(ready);
        status.number_available += i32::from(available);
        status.updated_number_scheduled += i32::from(updated);
    }
    status.number_unavailable = status.desired_number_scheduled - status.number_available;
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;

    fn node(name: &str, taint: Option<(&str, &str)>) -> Arc<Node> {
        let taints: Vec<Value> = taint
            .iter()
            .map(|(key, effect)| json!({"key": key, "effect": effect}))
            .collect();
        Arc::new(object(
            json!({"metadata": {"name": name}, "spec": {"taints": taints}}),
        ))
    }

    fn pod(name: &str, node: &str, hash: &str, ready: bool) -> Arc<Pod> {
        Arc::new(object(json!({
            "metadata": {"name": name, "uid": name, "labels": {HASH_LABEL: hash}},
            "spec": {"nodeName": node},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        })))
    }

    fn run(set: Value, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> (Vec<String>, Vec<String>, Plan) {
        let set: DaemonSet = object(json!({"metadata": {"name": "ds"}, "spec": set}));
        let spec = with_daemon_tolerations(&json!({"spec": {}})).unwrap();
        let plan = plan(&View {
            set: &set,
            spec: &spec,
            nodes,
            pods,
            hash: "new",
            is_deleted: &|_| false,
            now: Timestamp::UNIX_EPOCH,
        });
        let deleted = plan
            .delete
            .iter()
            .map(|pod| pod.metadata.name.clone())
            .collect();
        (plan.create.clone(), deleted, plan)
    }

    #[test]
    fn one_pod_per_suitable_node() {
        let nodes = [
            node("a", None),
            node("b", Some(("node.kubernetes.io/not-ready", "NoExecute"))),
            node("c", Some(("dedicated", "NoSchedule"))),
            node("d", Some(("dedicated", "NoExecute"))),
        ];
        let pods = [
            pod("a-1", "a", "new", true),
            pod("a-2", "a", "new", true),
            pod("c-1", "c", "new", true),
            pod("d-1", "d", "new", true),
        ];
        let (create, delete, plan) = run(json!({}), &nodes, &pods);
        assert_eq!(create, ["b"]);
        assert_eq!(delete, ["a-2", "d-1"]);
        assert_eq!(plan.status.desired_number_scheduled, 2);
        assert_eq!(plan.status.number_misscheduled, 2);
    }

    #[test]
    fn rolling_updates_respect_what_may_be_down() {
        let nodes = [node("a", None), node("b", None), node("c", None)];
        let old = |name: &str, ready| pod(name, name, "old", ready);
        let (_, delete, _) = run(
            json!({}),
            &nodes,
            &[old("a", true), old("b", true), old("c", true)],
        );
        assert_eq!(delete.len(), 1);
        let broken = [old("a", true), old("b", false), old("c", true)];
        let (_, delete, _) = run(json!({}), &nodes, &broken);
        assert_eq!(
            delete,
            ["b"],
            "what is down goes first, and uses the budget up"
        );
        let coming = [pod("a", "a", "new", false), old("b", true), old("c", true)];
        let (_, delete, _) = run(json!({}), &nodes, &coming);
        assert!(delete.is_empty());
        let on_delete = json!({"updateStrategy": {"type": "OnDelete"}});
        let (_, delete, _) = run(on_delete, &nodes, &broken);
        assert!(delete.is_empty());
    }

    #[test]
    fn a_surge_starts_the_new_beside_the_old() {
        let surge =
            json!({"updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}});
        let nodes = [node("a", None), node("b", None)];
        let both = [pod("a", "a", "old", true), pod("b", "b", "old", true)];
        let (create, delete, _) = run(surge.clone(), &nodes, &both);
        assert_eq!((create.len(), delete.len()), (1, 0));
        let beside = [
            both[0].clone(),
            pod("a2", "a", "new", false),
            both[1].clone(),
        ];
        let (create, delete, _) = run(surge.clone(), &nodes, &beside);
        assert_eq!((create.len(), delete.len()), (0, 0));
        let up = [
            both[0].clone(),
            pod("a2", "a", "new", true),
            both[1].clone(),
        ];
        let (create, delete, _) = run(surge, &nodes, &up);
        assert_eq!(
            (create, delete),
            (vec!["b".to_owned()], vec!["a".to_owned()])
        );
    }

    #[test]
    fn pinned_pods_are_known_by_their_node() {
        let mut spec = json!({});
        pin(&mut spec, "n");
        let pod: Pod = object(json!({"spec": spec}));
        assert_eq!(node_of(&pod), Some("n"));
    }
}
