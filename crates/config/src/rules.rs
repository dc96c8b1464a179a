//! The rights of the syncer on the host: what its Role must grant, and no more.

use serde::Serialize;

use crate::model::Config;

/// One rule of a Role, as in `rbac.authorization.k8s.io/v1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRule {
    /// API groups; the core group is the empty text.
    pub api_groups: Vec<&'static str>,
    /// Resources and subresources.
    pub resources: Vec<&'static str>,
    /// Verbs.
    pub verbs: Vec<&'static str>,
}

const WRITE: &[&str] = &[
    "create", "delete", "get", "list", "patch", "update", "watch",
];
const READ: &[&str] = &["get", "list", "watch"];

fn rule(group: &'static str, resources: &[&'static str], verbs: &[&'static str]) -> PolicyRule {
    PolicyRule {
        api_groups: vec![group],
        resources: resources.to_vec(),
        verbs: verbs.to_vec(),
    }
}

/// What the syncer needs in the host namespace.
pub fn host_rules(config: &Config) -> Vec<PolicyRule> {
    let to_host = &config.sync.to_host;
    let mut rules = vec![
        rule(
            "",
            &[
                "pods",
                "services",
                "endpoints",
                "configmaps",
                "secrets",
                "persistentvolumeclaims",
            ],
            WRITE,
        ),
        rule(
            "",
            &["pods/status", "pods/ephemeralcontainers", "pods/resize"],
            &["patch", "update"],
        ),
        // Kubernetes asks for create since 1.35, for get before (WebSocket).
        rule(
            "",
            &["pods/exec", "pods/attach", "pods/portforward"],
            &["create", "get"],
        ),
        rule("", &["pods/log"], &["get"]),
        rule("discovery.k8s.io", &["endpointslices"], WRITE),
    ];
    if config.sync.from_host.events.enabled {
        rules.push(rule("", &["events"], READ));
    }
    if to_host.ingresses.enabled {
        rules.push(rule("networking.k8s.io", &["ingresses"], WRITE));
    }
    if to_host.network_policies.enabled {
        rules.push(rule("networking.k8s.io", &["networkpolicies"], WRITE));
    }
    if to_host.pod_disruption_budgets.enabled {
        rules.push(rule("policy", &["poddisruptionbudgets"], WRITE));
    }
    rules
}

/// Those of `rules` that Kubernetes' own `admin` role holds too, so that who
/// owns just a namespace may grant them. What is left out: writing endpoints
/// (which upstream took from the role, CVE-2021-25740) and subresources of pods
/// that only change running ones.
pub fn within_admin(rules: &[PolicyRule]) -> Vec<PolicyRule> {
    const BEYOND: &[&str] = &[
        "endpoints",
        "endpointslices",
        "pods/status",
        "pods/ephemeralcontainers",
        "pods/resize",
    ];
    let mut within = Vec::new();
    for rule in rules {
        let (beyond, held): (Vec<&str>, Vec<&str>) = rule
            .resources
            .iter()
            .partition(|resource| BEYOND.contains(resource));
        if !held.is_empty() {
            within.push(PolicyRule {
                resources: held,
                ..rule.clone()
            });
        }
        let readable: Vec<&str> = beyond
            .into_iter()
            .filter(|resource| !resource.contains('/'))
            .collect();
        if !readable.is_empty() {
            let verbs = READ.to_vec();
            within.push(PolicyRule {
                resources: readable,
                verbs,
                ..rule.clone()
            });
        }
    }
    within
}

/// What it needs in the whole host cluster; empty, and then no ClusterRole is
/// made, unless a feature that shows cluster-scoped objects is on.
pub fn host_cluster_rules(config: &Config) -> Vec<PolicyRule> {
    let from_host = &config.sync.from_host;
    let mut rules = Vec::new();
    if from_host.nodes.enabled {
        rules.push(rule("", &["nodes"], READ));
        if from_host.nodes.sync_back_changes {
            rules.push(rule("", &["nodes"], &["patch", "update"]));
        }
    }
    if from_host.ingress_classes.enabled {
        rules.push(rule("networking.k8s.io", &["ingressclasses"], READ));
    }
    if from_host.storage_classes.enabled {
        rules.push(rule("storage.k8s.io", &["storageclasses"], READ));
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespaces_admin_can_grant_the_lesser_rules() {
        let within = within_admin(&host_rules(&Config::default()));
        for rule in &within {
            for resource in &rule.resources {
                assert!(!["pods/status", "pods/resize"].contains(resource));
                let writes = rule.verbs.contains(&"create");
                assert!(!(writes && resource.starts_with("endpoint")), "{rule:?}");
            }
        }
        assert!(within.iter().any(|rule| rule.resources.contains(&"pods")));
    }

    #[test]
    fn by_default_nothing_cluster_wide_and_no_node_proxy() {
        let config = Config::default();
        assert!(host_cluster_rules(&config).is_empty());
        for rule in host_rules(&config) {
            assert!(
                !rule
                    .resources
                    .iter()
                    .any(|r| r.starts_with("nodes") || r.contains('*'))
            );
            assert!(!rule.verbs.contains(&"*"));
        }
    }
}
