//! The default roles and bindings as objects.

use coracle_machinery::GroupResource;
use serde_json::{Value, json};

use super::cluster_roles::CLUSTER_ROLES;
use super::controller_roles::CONTROLLER_ROLES;
use super::notation::{binding, policy_object, rules, with};
use crate::auth::rbac;

const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";

/// Roles whose rules are those of others: name, the role that they feed, if
/// any.
const AGGREGATED: &[(&str, &str)] = &[("admin", ""), ("edit", "admin"), ("view", "edit")];

/// Roles that feed an aggregated one.
const FEEDERS: &[(&str, &str)] = &[
    ("system:aggregate-to-admin", "admin"),
    ("system:aggregate-to-edit", "edit"),
    ("system:aggregate-to-view", "view"),
];

/// ClusterRoleBindings: name, which is also the role's, and subjects.
const CLUSTER_BINDINGS: &[(&str, &[&str])] = &[
    ("cluster-admin", &["Group:system:masters"]),
    ("system:basic-user", &["Group:system:authenticated"]),
    ("system:discovery", &["Group:system:authenticated"]),
    (
        "system:kube-controller-manager",
        &["User:system:kube-controller-manager"],
    ),
    ("system:kube-dns", &["kube-dns"]),
    ("system:kube-scheduler", &["User:system:kube-scheduler"]),
    ("system:monitoring", &["Group:system:monitoring"]),
    // Nodes are judged by the node authoriser; the binding stays empty.
    ("system:node", &[]),
    ("system:node-proxier", &["User:system:kube-proxy"]),
    (
        "system:public-info-viewer",
        &["Group:system:authenticated", "Group:system:unauthenticated"],
    ),
    (
        "system:service-account-issuer-discovery",
        &["Group:system:serviceaccounts"],
    ),
    ("system:volume-scheduler", &["User:system:kube-scheduler"]),
];

/// Roles of a namespace: namespace, name, rules.
const NAMESPACED: &[(&str, &str, &[&str])] = &[
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        &[
            "read core:configmaps",
            "update core:configmaps =cluster-info",
            "create,patch,update core,events.k8s.io:events",
        ],
    ),
    (
        "kube-system",
        "extension-apiserver-authentication-reader",
        &["read core:configmaps =extension-apiserver-authentication"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        LEADER,
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        LEADER,
    ),
    (
        "kube-system",
        "system:controller:bootstrap-signer",
        &["read core:secrets"],
    ),
    (
        "kube-system",
        "system:controller:cloud-provider",
        &["create,get,list,watch core:configmaps"],
    ),
    (
        "kube-system",
        "system:controller:token-cleaner",
        &[
            "delete,get,list,watch core:secrets",
            "create,patch,update core,events.k8s.io:events",
        ],
    ),
];

const LEADER: &[&str] = &[
    "create,get,list,update,watch coordination.k8s.io:leases",
    "create,get,list,update,watch coordination.k8s.io:leasecandidates",
];

/// RoleBindings: namespace, name, role, subjects.
const NAMESPACED_BINDINGS: &[(&str, &str, &str, &[&str])] = &[
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &["bootstrap-signer"],
    ),
    (
        "kube-system",
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        &[
            "User:system:kube-controller-manager",
            "User:system:kube-scheduler",
        ],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        "system::leader-locking-kube-controller-manager",
        &[
            "User:system:kube-controller-manager",
            "kube-controller-manager",
            "leader-election-controller",
        ],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        "system::leader-locking-kube-scheduler",
        &["User:system:kube-scheduler", "kube-scheduler"],
    ),
    (
        "kube-system",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &["bootstrap-signer"],
    ),
    (
        "kube-system",
        "system:controller:cloud-provider",
        "system:controller:cloud-provider",
        &["cloud-provider"],
    ),
    (
        "kube-system",
        "system:controller:token-cleaner",
        "system:controller:token-cleaner",
        &["token-cleaner"],
    ),
];

/// Every role and binding of the default policy.
pub(super) fn objects() -> Vec<(GroupResource, Value)> {
    let mut all = Vec::new();
    for role in CLUSTER_ROLES {
        let mut object = policy_object("ClusterRole", "", role.name);
        if let Some((_, feeds)) = FEEDERS.iter().find(|(name, _)| *name == role.name) {
            object["metadata"]["labels"][format!("{AGGREGATE}{feeds}")] = json!("true");
        }
        all.push((
            rbac::CLUSTER_ROLES,
            with(object, "rules", rules(role.rules)),
        ));
    }
    for role in CONTROLLER_ROLES {
        let name = format!("system:controller:{}", role.name);
        let object = policy_object("ClusterRole", "", &name);
        all.push((
            rbac::CLUSTER_ROLES,
            with(object, "rules", rules(role.rules)),
        ));
        let binding = binding("", &name, &name, &[role.name]);
        all.push((rbac::CLUSTER_ROLE_BINDINGS, binding));
    }
    for (name, feeds) in AGGREGATED {
        let mut object = policy_object("ClusterRole", "", name);
        if !feeds.is_empty() {
            object["metadata"]["labels"][format!("{AGGREGATE}{feeds}")] = json!("true");
        }
        object["aggregationRule"] = json!({"clusterRoleSelectors": [
            {"matchLabels": {format!("{AGGREGATE}{name}"): "true"}},
        ]});
        // The rules follow from the others: see `aggregation::reconcile`.
        all.push((rbac::CLUSTER_ROLES, with(object, "rules", Value::Null)));
    }
    for (name, subjects) in CLUSTER_BINDINGS {
        let binding = binding("", name, name, subjects);
        all.push((rbac::CLUSTER_ROLE_BINDINGS, binding));
    }
    for (namespace, name, list) in NAMESPACED {
        let object = policy_object("Role", namespace, name);
        all.push((rbac::ROLES, with(object, "rules", rules(list))));
    }
    for (namespace, name, role, subjects) in NAMESPACED_BINDINGS {
        let binding = binding(namespace, name, role, subjects);
        all.push((rbac::ROLE_BINDINGS, binding));
    }
    all
}
