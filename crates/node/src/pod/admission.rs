//! Whether the node takes a pod that it was given: not all come by way of a
//! scheduler that has counted.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, NodeSelector, NodeSelectorRequirement, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::info;
use crate::downward::NodeFacts;
use crate::quantity;

/// Reason and message of a pod that is not taken.
pub type Refusal = (String, String);

/// A port of the node: protocol, number, and the address (empty for all).
type NodePort<'a> = (&'a str, i32, &'a str);

/// Why the node does not take a pod beside those that it has, if so. One that
/// was taken before stays, whatever came since.
pub fn refusal(
    pod: &Pod,
    others: &[Arc<Pod>],
    node: &NodeFacts,
    max_pods: usize,
) -> Option<Refusal> {
    if has_ended(pod) || pod.status.as_ref().is_some_and(|s| s.start_time.is_some()) {
        return None;
    }
    let others: Vec<&Pod> = others.iter().map(Arc::as_ref).collect();
    let others: Vec<&Pod> = others.into_iter().filter(|p| !has_ended(p)).collect();
    let out_of = |resource: &str, requested: i64, used: i64, capacity: i64| {
        let text = format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        (format!("OutOf{resource}"), text)
    };
    if others.len() >= max_pods {
        let used = i64::try_from(others.len()).unwrap_or(i64::MAX);
        let capacity = i64::try_from(max_pods).unwrap_or(i64::MAX);
        return Some(out_of("pods", 1, used, capacity));
    }
    for (resource, capacity, unit) in [
        ("cpu", node.cpu_milli, 1),
        ("memory", node.memory_bytes, 1000),
        ("ephemeral-storage", node.storage_bytes, 1000),
    ] {
        let amount = |pod: &Pod| requested_milli(pod, resource) / unit;
        let requested = amount(pod);
        let used = others
            .iter()
            .fold(0_i64, |sum, other| sum.saturating_add(amount(other)));
        if requested > 0 && requested > capacity.saturating_sub(used) {
            return Some(out_of(resource, requested, used, capacity));
        }
    }
    let taken: Vec<NodePort<'_>> = others.iter().flat_map(|other| node_ports(other)).collect();
    let mut wanted = node_ports(pod);
    if wanted.any(|port| taken.iter().any(|other| collide(port, *other))) {
        let text = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return Some(("NodePorts".to_owned(), text.to_owned()));
    }
    None
}

/// Whether a pod that has not been taken says where it may be: then the labels
/// of the node have to be known.
pub fn is_choosy(pod: &Pod) -> bool {
    let started = pod.status.as_ref().is_some_and(|s| s.start_time.is_some());
    let selector = pod.spec.as_ref().and_then(|s| s.node_selector.as_ref());
    !started && (selector.is_some_and(|s| !s.is_empty()) || required(pod).is_some())
}

/// Why the node is not one that the pod may be on, if so.
pub fn misplaced(pod: &Pod, node: &ObjectMeta) -> Option<Refusal> {
    let empty = BTreeMap::new();
    let labels = node.labels.as_ref().unwrap_or(&empty);
    let selector = pod.spec.as_ref().and_then(|s| s.node_selector.as_ref());
    let selected = selector.is_none_or(|selector| {
        selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    });
    let name = node.name.as_deref();
    let wanted = required(pod).is_none_or(|required| {
        required.node_selector_terms.iter().any(|term| {
            let labels = |key: &str| labels.get(key).map(String::as_str);
            let fields = |key: &str| name.filter(|_| key == "metadata.name");
            let (by_labels, by_fields) = (&term.match_expressions, &term.match_fields);
            let any = by_labels.iter().chain(by_fields).flatten().next().is_some();
            any && all_match(by_labels.as_deref(), labels)
                && all_match(by_fields.as_deref(), fields)
        })
    });
    if selected && wanted {
        return None;
    }
    let text = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    Some(("NodeAffinity".to_owned(), text.to_owned()))
}

fn required(pod: &Pod) -> Option<&NodeSelector> {
    let affinity = pod
        .spec
        .as_ref()?
        .affinity
        .as_ref()?
        .node_affinity
        .as_ref()?;
    affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()
}

fn all_match<'a>(
    requirements: Option<&[NodeSelectorRequirement]>,
    value: impl Fn(&str) -> Option<&'a str>,
) -> bool {
    requirements.unwrap_or_default().iter().all(|requirement| {
        let value = value(&requirement.key);
        let values = requirement.values.as_deref().unwrap_or_default();
        let listed = value.is_some_and(|value| values.iter().any(|other| other == value));
        let compared = || {
            let value: i64 = value?.parse().ok()?;
            let bound: i64 = values.first()?.parse().ok()?;
            Some(value.cmp(&bound))
        };
        match requirement.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => compared() == Some(Ordering::Greater),
            "Lt" => compared() == Some(Ordering::Less),
            _ => false,
        }
    })
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// What a pod asks for, in thousandths: its containers together, or the most
/// that its init containers need before.
fn requested_milli(pod: &Pod, resource: &str) -> i64 {
    let amount = |container: &Container| {
        let resources = container.resources.as_ref();
        let requests = resources.and_then(|r| r.requests.as_ref());
        quantity::milli_of(requests, resource).unwrap_or(0).max(0)
    };
    let spec = info::spec(pod);
    let (mut beside, mut before) = (0_i64, 0_i64);
    for container in spec.init_containers() {
        if info::is_sidecar(container) {
            beside = beside.saturating_add(amount(container));
            before = before.max(beside);
        } else {
            before = before.max(beside.saturating_add(amount(container)));
        }
    }
    let together = spec.containers().iter().fold(beside, |sum, container| {
        sum.saturating_add(amount(container))
    });
    let overhead = pod.spec.as_ref().and_then(|s| s.overhead.as_ref());
    let overhead = quantity::milli_of(overhead, resource).unwrap_or(0);
    together.max(before).saturating_add(overhead.max(0))
}

fn node_ports(pod: &Pod) -> impl Iterator<Item = NodePort<'_>> {
    let spec = info::spec(pod);
    let containers = spec.containers().iter().chain(spec.init_containers());
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let address = port.host_ip.as_deref().unwrap_or_default();
        let all = matches!(address, "" | "0.0.0.0");
        Some((protocol, number, if all { "" } else { address }))
    })
}

fn collide(a: NodePort<'_>, b: NodePort<'_>) -> bool {
    a.0 == b.0 && a.1 == b.1 && (a.2 == b.2 || a.2.is_empty() || b.2.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(containers: Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap())
    }

    fn asking(requests: Value) -> Arc<Pod> {
        pod(json!([{"name": "c", "resources": {"requests": requests}}]))
    }

    fn port(number: u16, protocol: &str, address: &str) -> Arc<Pod> {
        pod(json!([{"name": "c", "ports": [{
            "containerPort": 80, "hostPort": number, "protocol": protocol, "hostIP": address,
        }]}]))
    }

    fn node() -> NodeFacts {
        NodeFacts {
            cpu_milli: 2000,
            memory_bytes: 1 << 30,
            storage_bytes: 1 << 40,
            ..NodeFacts::default()
        }
    }

    fn reason(new: &Arc<Pod>, others: &[Arc<Pod>]) -> String {
        let refusal = refusal(new, others, &node(), 3);
        refusal.map(|(reason, _)| reason).unwrap_or_default()
    }

    #[test]
    fn pods_that_do_not_fit_are_refused() {
        let one = asking(json!({"cpu": "1500m", "memory": "600Mi"}));
        assert_eq!(reason(&one, &[]), "");
        assert_eq!(reason(&one, std::slice::from_ref(&one)), "OutOfcpu");
        let (found, text) = refusal(&one, std::slice::from_ref(&one), &node(), 3).unwrap();
        assert_eq!(found, "OutOfcpu");
        assert_eq!(
            text,
            "Node didn't have enough resource: cpu, requested: 1500, used: 1500, capacity: 2000"
        );
        let memory = asking(json!({"memory": "600Mi"}));
        assert_eq!(reason(&memory, std::slice::from_ref(&one)), "OutOfmemory");
        let nothing = asking(json!({}));
        let many = vec![nothing.clone(); 3];
        assert_eq!(reason(&nothing, &many), "OutOfpods");
        assert_eq!(reason(&nothing, &many[..2]), "");
    }

    #[test]
    fn what_has_ended_needs_nothing_and_what_was_taken_stays() {
        let one = asking(json!({"cpu": "1500m"}));
        let with_status = |status: Value| {
            let mut pod = (*one).clone();
            pod.status = serde_json::from_value(status).unwrap();
            Arc::new(pod)
        };
        let ended = with_status(json!({"phase": "Succeeded"}));
        assert_eq!(reason(&one, &[ended]), "");
        let taken = with_status(json!({"startTime": "2026-01-01T00:00:00Z"}));
        assert_eq!(reason(&taken, std::slice::from_ref(&one)), "");
    }

    #[test]
    fn init_containers_count_as_far_as_they_run_beside() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "overhead": {"cpu": "10m"},
            "initContainers": [
                {"name": "a", "resources": {"requests": {"cpu": "900m"}}},
                {"name": "b", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "c", "resources": {"requests": {"cpu": "850m"}}},
            ],
            "containers": [{"name": "d", "resources": {"requests": {"cpu": "500m"}}}],
        }}))
        .unwrap();
        assert_eq!(requested_milli(&pod, "cpu"), 960);
    }

    #[test]
    fn pods_say_where_they_may_be() {
        let node: ObjectMeta =
            serde_json::from_value(json!({"name": "n", "labels": {"zone": "a", "size": "5"}}))
                .unwrap();
        let spec = |spec: Value| -> Pod { serde_json::from_value(json!({"spec": spec})).unwrap() };
        let term = |term: Value| {
            spec(json!({"containers": [], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]},
            }}}))
        };
        let by_label = |operator: &str, key: &str, values: Value| {
            term(json!({"matchExpressions": [
                {"key": key, "operator": operator, "values": values}]}))
        };
        for (pod, good) in [
            (
                spec(json!({"containers": [], "nodeSelector": {"zone": "a"}})),
                true,
            ),
            (
                spec(json!({"containers": [], "nodeSelector": {"zone": "b"}})),
                false,
            ),
            (by_label("In", "zone", json!(["a", "b"])), true),
            (by_label("NotIn", "zone", json!(["a"])), false),
            (by_label("NotIn", "other", json!(["a"])), true),
            (by_label("Exists", "zone", Value::Null), true),
            (by_label("DoesNotExist", "zone", Value::Null), false),
            (by_label("Gt", "size", json!(["4"])), true),
            (by_label("Lt", "size", json!(["5"])), false),
            (by_label("Gt", "zone", json!(["4"])), false),
            (term(json!({})), false),
            (
                term(json!({"matchFields": [
                    {"key": "metadata.name", "operator": "In", "values": ["n"]}]})),
                true,
            ),
        ] {
            assert!(is_choosy(&pod));
            let found = misplaced(&pod, &node).map(|(reason, _)| reason);
            assert_eq!(found.is_none(), good, "{pod:?}");
            assert!(good || found.as_deref() == Some("NodeAffinity"));
        }
        assert!(!is_choosy(&asking(json!({}))));
    }

    #[test]
    fn ports_of_the_node_are_taken_once() {
        let all = port(8080, "TCP", "");
        for (number, protocol, address, expected) in [
            (8080, "TCP", "", "NodePorts"),
            (8080, "TCP", "10.0.0.1", "NodePorts"),
            (8080, "UDP", "", ""),
            (8081, "TCP", "", ""),
        ] {
            let new = port(number, protocol, address);
            assert_eq!(reason(&new, std::slice::from_ref(&all)), expected);
        }
        let one = port(53, "UDP", "10.0.0.1");
        assert_eq!(reason(&port(53, "UDP", "10.0.0.2"), &[one]), "");
    }
}
