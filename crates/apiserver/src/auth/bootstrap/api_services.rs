//! The APIServices of the groups that this server serves itself.

use coracle_machinery::{GroupResource, time};
use serde_json::{Value, json};

use crate::auth::named;

const GROUP: &str = "apiregistration.k8s.io";

/// Group, version, priority of the group and of the version: which of several
/// a client should prefer.
const SERVED: &[(&str, &str, u32, u32)] = &[
    ("", "v1", 18_000, 1),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("apps", "v1", 17_800, 15),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v1", 17_500, 15),
    ("autoscaling", "v2", 17_500, 30),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("events.k8s.io", "v1", 17_750, 15),
    ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("node.k8s.io", "v1", 16_300, 15),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("resource.k8s.io", "v1", 16_200, 21),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
];

/// The priority of a version among those of its group; `None` for one that this
/// server has not built in.
pub(crate) fn version_priority(group: &str, version: &str) -> Option<u32> {
    let mut all = SERVED.iter();
    all.find(|(g, v, ..)| *g == group && *v == version)
        .map(|(.., priority)| *priority)
}

/// The objects; `now` is in seconds since the epoch.
pub(super) fn objects(now: i64) -> impl Iterator<Item = (GroupResource, Value)> {
    let available = json!({
        "type": "Available",
        "status": "True",
        "reason": "Local",
        "message": "Local APIServices are always available",
        "lastTransitionTime": time::rfc3339(now),
    });
    SERVED
        .iter()
        .map(move |(group, version, group_priority, priority)| {
            let mut spec = json!({
                "version": version,
                "groupPriorityMinimum": group_priority,
                "versionPriority": priority,
            });
            if !group.is_empty() {
                spec["group"] = json!(group);
            }
            let service = json!({
                "apiVersion": format!("{GROUP}/v1"),
                "kind": "APIService",
                "metadata": {
                    "name": format!("{version}.{group}"),
                    "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"},
                },
                "spec": spec,
                "status": {"conditions": [available.clone()]},
            });
            (named(GROUP, "apiservices"), service)
        })
}
