//! The columns of nodes, namespaces and plain data.

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_machinery::object::{self, items, string_map};
use serde_json::Value;

use super::{KindName, NONE, UNKNOWN, age, count, name, number, table, text, text_or};
use crate::kind::TableConvertor;

#[expect(clippy::too_many_lines, reason = "one table, a row a kind")]
pub(super) fn of(kind: KindName<'_>) -> Option<Arc<dyn TableConvertor>> {
    Some(match kind {
        ("", "Node") => nodes(),
        ("", "Namespace") => table(
            &[
                ("Name", "string", 0),
                ("Status", "string", 0),
                ("Age", "string", 0),
            ],
            |o, now| vec![name(o), text(o, "/status/phase"), age(o, now)],
        ),
        ("", "ConfigMap") => table(
            &[
                ("Name", "string", 0),
                ("Data", "string", 0),
                ("Age", "string", 0),
            ],
            |o, now| {
                let size = count(o, "/data").saturating_add(count(o, "/binaryData"));
                vec![name(o), size.into(), age(o, now)]
            },
        ),
        ("", "Secret") => table(
            &[
                ("Name", "string", 0),
                ("Type", "string", 0),
                ("Data", "string", 0),
                ("Age", "string", 0),
            ],
            |o, now| {
                vec![
                    name(o),
                    text(o, "/type"),
                    count(o, "/data").into(),
                    age(o, now),
                ]
            },
        ),
        ("", "ServiceAccount") => table(
            &[
                ("Name", "string", 0),
                ("Secrets", "string", 0),
                ("Age", "string", 0),
            ],
            |o, now| vec![name(o), count(o, "/secrets").into(), age(o, now)],
        ),
        ("", "ResourceQuota") => quotas(),
        ("", "ComponentStatus") => table(
            &[
                ("Name", "string", 0),
                ("Status", "string", 0),
                ("Message", "string", 0),
                ("Error", "string", 0),
            ],
            component,
        ),
        ("coordination.k8s.io", "Lease") => table(
            &[
                ("Name", "string", 0),
                ("Holder", "string", 0),
                ("Age", "string", 0),
            ],
            |o, now| vec![name(o), text(o, "/spec/holderIdentity"), age(o, now)],
        ),
        ("scheduling.k8s.io", "PriorityClass") => table(
            &[
                ("Name", "string", 0),
                ("Value", "integer", 0),
                ("Global-Default", "boolean", 0),
                ("Age", "string", 0),
                ("PreemptionPolicy", "string", 0),
            ],
            |o, now| {
                vec![
                    name(o),
                    number(o, "/value").into(),
                    (o["globalDefault"] == true).into(),
                    age(o, now),
                    text(o, "/preemptionPolicy"),
                ]
            },
        ),
        ("node.k8s.io", "RuntimeClass") => table(
            &[
                ("Name", "string", 0),
                ("Handler", "string", 0),
                ("Age", "string", 0),
            ],
            |o, now| vec![name(o), text(o, "/handler"), age(o, now)],
        ),
        ("resource.k8s.io", "DeviceClass" | "ResourceClaimTemplate") => {
            table(&[("Name", "string", 0), ("Age", "string", 0)], |o, now| {
                vec![name(o), age(o, now)]
            })
        }
        ("resource.k8s.io", "ResourceClaim") => table(
            &[
                ("Name", "string", 0),
                ("State", "string", 0),
                ("Age", "string", 0),
            ],
            |o, now| vec![name(o), claim_state(o).into(), age(o, now)],
        ),
        ("resource.k8s.io", "ResourceSlice") => table(
            &[
                ("Name", "string", 0),
                ("Node", "string", 0),
                ("Driver", "string", 0),
                ("Pool", "string", 0),
                ("Age", "string", 0),
            ],
            |o, now| {
                vec![
                    name(o),
                    text_or(o, "/spec/nodeName", NONE),
                    text(o, "/spec/driver"),
                    text(o, "/spec/pool/name"),
                    age(o, now),
                ]
            },
        ),
        _ => return None,
    })
}

fn claim_state(o: &Value) -> String {
    let mut states = Vec::new();
    if object::is_terminating(o) {
        states.push("deleted");
    }
    if o["status"]["allocation"].is_object() {
        states.push("allocated");
        if count(o, "/status/reservedFor") > 0 {
            states.push("reserved");
        }
    }
    if states.is_empty() {
        states.push("pending");
    }
    states.join(",")
}

fn component(o: &Value, _now: i64) -> Vec<Value> {
    let conditions = items(o, "/conditions");
    let healthy = conditions
        .iter()
        .find(|c| object::text(c, "/type") == "Healthy");
    let status = match healthy.map(|c| object::text(c, "/status")) {
        Some("True") => "Healthy",
        Some("False") => "Unhealthy",
        _ => "Unknown",
    };
    let healthy = healthy.unwrap_or(&Value::Null);
    vec![
        name(o),
        status.into(),
        text(healthy, "/message"),
        text(healthy, "/error"),
    ]
}

fn nodes() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Status", "string", 0),
            ("Roles", "string", 0),
            ("Age", "string", 0),
            ("Version", "string", 0),
            ("Internal-IP", "string", 1),
            ("External-IP", "string", 1),
            ("OS-Image", "string", 1),
            ("Kernel-Version", "string", 1),
            ("Container-Runtime", "string", 1),
        ],
        |o, now| {
            let info = |key: &str| text_or(o, &format!("/status/nodeInfo/{key}"), UNKNOWN);
            vec![
                name(o),
                node_status(o).into(),
                node_roles(o).into(),
                age(o, now),
                text(o, "/status/nodeInfo/kubeletVersion"),
                node_address(o, "InternalIP"),
                node_address(o, "ExternalIP"),
                info("osImage"),
                info("kernelVersion"),
                info("containerRuntimeVersion"),
            ]
        },
    )
}

fn node_status(o: &Value) -> String {
    let conditions = items(o, "/status/conditions");
    let ready = conditions
        .iter()
        .find(|c| object::text(c, "/type") == "Ready");
    let mut status = match ready.map(|c| object::text(c, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if o["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(o: &Value) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in string_map(o, "/metadata/labels") {
        if let Some(role) = key.strip_prefix("node-role.kubernetes.io/") {
            if !role.is_empty() {
                roles.insert(role);
            }
        } else if key == "kubernetes.io/role" && !value.is_empty() {
            roles.insert(value);
        }
    }
    if roles.is_empty() {
        NONE.to_owned()
    } else {
        roles.into_iter().collect::<Vec<_>>().join(",")
    }
}

fn node_address(o: &Value, r#type: &str) -> Value {
    let addresses = items(o, "/status/addresses");
    match addresses
        .iter()
        .find(|a| object::text(a, "/type") == r#type)
    {
        Some(address) => text(address, "/address"),
        None => NONE.into(),
    }
}

fn quotas() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Request", "string", 0),
            ("Limit", "string", 0),
            ("Age", "string", 0),
        ],
        |o, now| {
            let mut requests = Vec::new();
            let mut limits = Vec::new();
            for (key, hard) in o["status"]["hard"].as_object().into_iter().flatten() {
                let plain = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
                let used = match &o["status"]["used"][key.as_str()] {
                    Value::Null => "0".to_owned(),
                    used => plain(used),
                };
                let entry = format!("{key}: {used}/{}", plain(hard));
                if key.starts_with("limits.") {
                    limits.push(entry);
                } else {
                    requests.push(entry);
                }
            }
            vec![
                name(o),
                requests.join(", ").into(),
                limits.join(", ").into(),
                age(o, now),
            ]
        },
    )
}
