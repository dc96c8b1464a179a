//! The default flow schemas and priority levels. Clients look for them; what
//! this server really bounds is in its own limits.

use coracle_machinery::GroupResource;
use serde_json::{Value, json};

use crate::auth::named;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// Number of queues, their length and hand size.
type Queues = (u32, u32, u32);

/// Levels: name, shares, percent that may be lent, and queues (none: requests
/// beyond the share are refused).
const LEVELS: &[(&str, u32, u32, Option<Queues>)] = &[
    ("catch-all", 5, 0, None),
    ("global-default", 20, 50, Some((128, 50, 6))),
    ("leader-election", 10, 0, Some((16, 50, 4))),
    ("node-high", 40, 25, Some((64, 50, 6))),
    ("system", 30, 33, Some((64, 50, 6))),
    ("workload-high", 40, 50, Some((128, 50, 6))),
    ("workload-low", 100, 90, Some((128, 50, 6))),
];

/// Which requests a schema is about.
#[derive(Clone, Copy)]
enum Match {
    Everything,
    Probes,
    Leases,
    Nodes,
}

struct Schema {
    name: &'static str,
    level: &'static str,
    precedence: u32,
    /// `ByUser`, `ByNamespace` or nothing.
    distinguisher: &'static str,
    subjects: &'static [&'static str],
    matches: Match,
}

const EVERYBODY: &[&str] = &["Group:system:unauthenticated", "Group:system:authenticated"];

macro_rules! schema {
    ($name:literal, $level:literal, $precedence:literal, $by:literal, $subjects:expr, $matches:ident) => {
        Schema {
            name: $name,
            level: $level,
            precedence: $precedence,
            distinguisher: $by,
            subjects: $subjects,
            matches: Match::$matches,
        }
    };
}

const SCHEMAS: &[Schema] = &[
    schema!(
        "catch-all",
        "catch-all",
        10000,
        "ByUser",
        EVERYBODY,
        Everything
    ),
    schema!(
        "exempt",
        "exempt",
        1,
        "",
        &["Group:system:masters"],
        Everything
    ),
    schema!(
        "global-default",
        "global-default",
        9900,
        "ByUser",
        EVERYBODY,
        Everything
    ),
    schema!(
        "kube-controller-manager",
        "workload-high",
        800,
        "ByNamespace",
        &["User:system:kube-controller-manager"],
        Everything
    ),
    schema!(
        "kube-scheduler",
        "workload-high",
        800,
        "ByNamespace",
        &["User:system:kube-scheduler"],
        Everything
    ),
    schema!(
        "kube-system-service-accounts",
        "workload-high",
        900,
        "ByNamespace",
        &["ServiceAccounts:kube-system"],
        Everything
    ),
    schema!("probes", "exempt", 2, "", EVERYBODY, Probes),
    schema!(
        "service-accounts",
        "workload-low",
        9000,
        "ByUser",
        &["Group:system:serviceaccounts"],
        Everything
    ),
    schema!(
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        &[
            "User:system:kube-controller-manager",
            "User:system:kube-scheduler",
            "ServiceAccounts:kube-system"
        ],
        Leases
    ),
    schema!(
        "system-node-high",
        "node-high",
        400,
        "ByUser",
        &["Group:system:nodes"],
        Nodes
    ),
    schema!(
        "system-nodes",
        "system",
        500,
        "ByUser",
        &["Group:system:nodes"],
        Everything
    ),
];

/// The objects.
pub(super) fn objects() -> Vec<(GroupResource, Value)> {
    let levels = named(GROUP, "prioritylevelconfigurations");
    let exempt = json!({"type": "Exempt",
        "exempt": {"lendablePercent": 0, "nominalConcurrencyShares": 0}});
    let mut all = vec![(
        levels.clone(),
        object("PriorityLevelConfiguration", "exempt", exempt),
    )];
    for (name, shares, lendable, queues) in LEVELS {
        let response = match queues {
            None => json!({"type": "Reject"}),
            Some((queues, length, hand)) => json!({"type": "Queue", "queuing":
                {"queues": queues, "queueLengthLimit": length, "handSize": hand}}),
        };
        let spec = json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": shares,
            "lendablePercent": lendable,
            "limitResponse": response,
        }});
        let level = object("PriorityLevelConfiguration", name, spec);
        all.push((levels.clone(), level));
    }
    for schema in SCHEMAS {
        let flow = object("FlowSchema", schema.name, schema.spec());
        all.push((named(GROUP, "flowschemas"), flow));
    }
    all
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}},
        "spec": spec,
    })
}

impl Schema {
    fn spec(&self) -> Value {
        let mut rule = self.matches.rule();
        rule["subjects"] = self.subjects.iter().map(|s| subject(s)).collect();
        let mut spec = json!({
            "matchingPrecedence": self.precedence,
            "priorityLevelConfiguration": {"name": self.level},
            "rules": [rule],
        });
        if !self.distinguisher.is_empty() {
            spec["distinguisherMethod"] = json!({"type": self.distinguisher});
        }
        spec
    }
}

impl Match {
    fn rule(self) -> Value {
        match self {
            Self::Everything => json!({
                "resourceRules": [{"apiGroups": ["*"], "clusterScope": true,
                    "namespaces": ["*"], "resources": ["*"], "verbs": ["*"]}],
                "nonResourceRules": [{"nonResourceURLs": ["*"], "verbs": ["*"]}],
            }),
            Self::Probes => json!({"nonResourceRules": [
                {"nonResourceURLs": ["/healthz", "/readyz", "/livez"], "verbs": ["get"]},
            ]}),
            Self::Leases => json!({"resourceRules": [leases(&["get", "create", "update"])]}),
            Self::Nodes => json!({"resourceRules": [
                {"apiGroups": [""], "clusterScope": true, "namespaces": ["*"],
                 "resources": ["nodes", "nodes/status"], "verbs": ["*"]},
                leases(&["*"]),
            ]}),
        }
    }
}

fn leases(verbs: &[&str]) -> Value {
    json!({"apiGroups": ["coordination.k8s.io"], "namespaces": ["*"],
           "resources": ["leases"], "verbs": verbs})
}

fn subject(text: &str) -> Value {
    match text.split_once(':') {
        Some(("Group", name)) => json!({"kind": "Group", "group": {"name": name}}),
        Some(("ServiceAccounts", namespace)) => json!({"kind": "ServiceAccount",
            "serviceAccount": {"name": "*", "namespace": namespace}}),
        Some((_, name)) => json!({"kind": "User", "user": {"name": name}}),
        None => Value::Null,
    }
}
