//! Conditions and taints of a node: pure.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::objects::core::{Node, NodeCondition, Taint};
use crate::objects::time;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Conditions that a kubelet reports, and must no longer be believed.
const REPORTED: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Conditions that keep new pods away while they hold.
const PRESSURES: &[(&str, &str)] = &[
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "node.kubernetes.io/network-unavailable",
    ),
];

fn find<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status
        .conditions
        .iter()
        .find(|condition| condition.kind == kind)
}

pub(super) fn is_ready(node: &Node) -> bool {
    find(node, "Ready").is_some_and(|ready| ready.status == "True")
}

/// The latest time that the node's own status tells.
pub(super) fn last_heartbeat(node: &Node) -> Option<Timestamp> {
    node.status
        .conditions
        .iter()
        .filter_map(|condition| condition.last_heartbeat_time)
        .max()
}

/// Conditions to write for a node that fell silent; none if they stand.
pub(super) fn silent_conditions(node: &Node, now: Timestamp) -> Vec<Value> {
    let mut conditions = Vec::new();
    for kind in REPORTED {
        let condition = find(node, kind);
        if condition.is_some_and(|condition| condition.status == "Unknown") {
            continue;
        }
        let (reason, message) = if condition.is_some() {
            ("NodeStatusUnknown", "Kubelet stopped posting node status.")
        } else {
            (
                "NodeStatusNeverUpdated",
                "Kubelet never posted node status.",
            )
        };
        let mut value = json!({
            "type": kind, "status": "Unknown", "reason": reason, "message": message,
            "lastTransitionTime": time(now),
        });
        let heartbeat = condition.and_then(|condition| condition.last_heartbeat_time);
        value["lastHeartbeatTime"] = time(heartbeat.unwrap_or(now)).into();
        conditions.push(value);
    }
    conditions
}

/// The taints that a node should have, or `None` if it has them. Taints that
/// other people set stay.
pub(super) fn taints(node: &Node, silent: bool, now: Timestamp) -> Option<Vec<Value>> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let status = find(node, "Ready").map(|ready| ready.status.as_str());
    if silent || status == Some("Unknown") {
        wanted.extend([(UNREACHABLE, "NoExecute"), (UNREACHABLE, "NoSchedule")]);
    } else if status != Some("True") {
        wanted.extend([(NOT_READY, "NoExecute"), (NOT_READY, "NoSchedule")]);
    }
    for (kind, taint) in PRESSURES {
        if find(node, kind).is_some_and(|condition| condition.status == "True") {
            wanted.push((taint, "NoSchedule"));
        }
    }
    if node.spec.unschedulable {
        wanted.push(("node.kubernetes.io/unschedulable", "NoSchedule"));
    }
    let managed = |taint: &Taint| {
        taint.key == NOT_READY
            || taint.key == UNREACHABLE
            || taint.key == "node.kubernetes.io/unschedulable" && taint.effect == "NoSchedule"
            || PRESSURES
                .iter()
                .any(|(_, key)| taint.key == *key && taint.effect == "NoSchedule")
    };
    let mut taints: Vec<Taint> = node
        .spec
        .taints
        .iter()
        .filter(|taint| {
            !managed(taint) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str()))
        })
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !taints
            .iter()
            .any(|taint| taint.key == key && taint.effect == effect)
        {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                time_added: Some(now),
                ..Taint::default()
            });
        }
    }
    if taints == node.spec.taints {
        return None;
    }
    let values = taints.iter().map(|taint| {
        let mut value = json!({"key": taint.key, "effect": taint.effect});
        if !taint.value.is_empty() {
            value["value"] = taint.value.as_str().into();
        }
        if let Some(at) = taint.time_added {
            value["timeAdded"] = time(at).into();
        }
        value
    });
    Some(values.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;

    fn node(ready: &str, taints: Value, unschedulable: bool) -> Node {
        object(json!({
            "metadata": {"name": "n"},
            "spec": {"taints": taints, "unschedulable": unschedulable},
            "status": {"conditions": [
                {"type": "Ready", "status": ready},
                {"type": "DiskPressure", "status": "True"}]},
        }))
    }

    fn keys(taints: Option<Vec<Value>>) -> Option<Vec<String>> {
        taints.map(|taints| {
            taints
                .iter()
                .map(|it| format!("{}:{}", it["key"], it["effect"]).replace('"', ""))
                .map(|it| it.replace("node.kubernetes.io/", ""))
                .collect()
        })
    }

    #[test]
    fn taints_follow_conditions() {
        let now = Timestamp::UNIX_EPOCH;
        let disk = json!({"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"});
        let mine = json!({"key": "mine", "effect": "NoExecute"});
        for (node, silent, expected) in [
            (node("True", json!([disk]), false), false, None),
            (
                node("False", json!([disk, mine]), false),
                false,
                Some(vec![
                    "disk-pressure:NoSchedule",
                    "mine:NoExecute",
                    "not-ready:NoExecute",
                    "not-ready:NoSchedule",
                ]),
            ),
            (
                node("True", json!([disk]), true),
                true,
                Some(vec![
                    "disk-pressure:NoSchedule",
                    "unreachable:NoExecute",
                    "unreachable:NoSchedule",
                    "unschedulable:NoSchedule",
                ]),
            ),
            (
                node(
                    "True",
                    json!([disk, {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]),
                    false,
                ),
                false,
                Some(vec!["disk-pressure:NoSchedule"]),
            ),
        ] {
            let expected = expected.map(|it| it.into_iter().map(str::to_owned).collect());
            assert_eq!(keys(taints(&node, silent, now)), expected);
        }
    }

    #[test]
    fn silence_makes_conditions_unknown_once() {
        let now = Timestamp::UNIX_EPOCH;
        let conditions = silent_conditions(&node("True", json!([]), false), now);
        let reasons: Vec<&str> = conditions
            .iter()
            .map(|it| it["reason"].as_str().unwrap())
            .collect();
        assert_eq!(
            reasons,
            [
                "NodeStatusUnknown",
                "NodeStatusNeverUpdated",
                "NodeStatusUnknown",
                "NodeStatusNeverUpdated",
            ]
        );
        let stored = object(json!({"status": {"conditions": conditions}}));
        assert!(silent_conditions(&stored, now).is_empty());
    }
}
