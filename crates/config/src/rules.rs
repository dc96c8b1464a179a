//! The rights of the syncer on the host: what its Role must grant, and no more.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::custom::CustomName;
use crate::mapping::{self, Mapping};
use crate::model::{Config, custom};

/// One rule of a Role, as in `rbac.authorization.k8s.io/v1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRule {
    /// API groups; the core group is the empty text.
    pub api_groups: Vec<Cow<'static, str>>,
    /// Resources and subresources.
    pub resources: Vec<Cow<'static, str>>,
    /// The only objects that the rule is about; empty for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Verbs.
    pub verbs: Vec<&'static str>,
}

/// Rights that are granted outside of the virtual cluster's own namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The host namespace, or `None` for the whole host cluster.
    pub namespace: Option<String>,
    /// The rules.
    pub rules: Vec<PolicyRule>,
}

const WRITE: &[&str] = &[
    "create", "delete", "get", "list", "patch", "update", "watch",
];
const READ: &[&str] = &["get", "list", "watch"];

fn rule(group: &'static str, resources: &[&'static str], verbs: &[&'static str]) -> PolicyRule {
    PolicyRule {
        api_groups: vec![group.into()],
        resources: resources.iter().map(|name| (*name).into()).collect(),
        resource_names: Vec::new(),
        verbs: verbs.to_vec(),
    }
}

fn custom_rule(name: &CustomName, verbs: &[&'static str]) -> PolicyRule {
    PolicyRule {
        api_groups: vec![name.group.clone().into()],
        resources: vec![name.plural.clone().into()],
        ..rule("", &[], verbs)
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
    if to_host.service_accounts.enabled {
        rules.push(rule("", &["serviceaccounts"], WRITE));
    }
    for (name, _) in custom::to_host(&to_host.custom_resources) {
        rules.push(custom_rule(&name, WRITE));
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
        let (beyond, held): (Vec<_>, Vec<_>) = rule
            .resources
            .iter()
            .cloned()
            .partition(|resource| BEYOND.contains(&&**resource));
        if !held.is_empty() {
            within.push(PolicyRule {
                resources: held,
                ..rule.clone()
            });
        }
        let readable: Vec<_> = beyond
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

/// What it needs in the whole host cluster: nothing, unless a feature is on that
/// shows cluster-scoped objects.
fn host_cluster_rules(config: &Config) -> Vec<PolicyRule> {
    let from_host = &config.sync.from_host;
    let mut rules = Vec::new();
    if from_host.nodes.enabled {
        rules.push(rule("", &["nodes"], READ));
        if from_host.nodes.sync_back_changes {
            rules.push(rule("", &["nodes"], &["patch", "update"]));
        }
        // What others use of the nodes is not a scheduler's to give away.
        if config.control_plane.advanced.virtual_scheduler.enabled {
            rules.push(rule("", &["pods"], READ));
        }
    }
    if from_host.ingress_classes.enabled {
        rules.push(rule("networking.k8s.io", &["ingressclasses"], READ));
    }
    if config.shows_storage_classes() {
        rules.push(rule("storage.k8s.io", &["storageclasses"], READ));
    }
    if from_host.runtime_classes.enabled {
        rules.push(rule("node.k8s.io", &["runtimeclasses"], READ));
    }
    if from_host.priority_classes.enabled {
        rules.push(rule("scheduling.k8s.io", &["priorityclasses"], READ));
    }
    let to_host = &config.sync.to_host;
    if to_host.priority_classes.enabled {
        rules.push(rule("scheduling.k8s.io", &["priorityclasses"], WRITE));
    }
    if to_host.storage_classes.enabled {
        rules.push(rule("storage.k8s.io", &["storageclasses"], WRITE));
    }
    if to_host.persistent_volumes.enabled {
        rules.push(rule("", &["persistentvolumes"], WRITE));
    }
    let shown = custom::from_host(&from_host.custom_resources);
    for (name, choice) in &shown {
        if choice.scope == custom::CLUSTER {
            rules.push(custom_rule(name, READ));
        }
    }
    let definitions: BTreeSet<String> = custom::to_host(&to_host.custom_resources)
        .into_iter()
        .map(|(name, _)| name.definition())
        .chain(shown.iter().map(|(name, _)| name.definition()))
        .collect();
    if !definitions.is_empty() {
        rules.push(PolicyRule {
            resource_names: definitions.into_iter().collect(),
            ..rule("apiextensions.k8s.io", &["customresourcedefinitions"], READ)
        });
    }
    rules
}

/// What it needs outside of the host namespace that it lives in, at most one
/// grant for each place. Empty unless a feature is on that looks beyond it, so
/// that who owns just that namespace can create the virtual cluster.
pub fn host_grants(config: &Config, host_namespace: &str) -> Vec<Grant> {
    let mut grants = Vec::new();
    let rules = host_cluster_rules(config);
    if !rules.is_empty() {
        grants.push(Grant {
            namespace: None,
            rules,
        });
    }
    for (namespace, names) in exported(config, host_namespace) {
        // Who creates has no name yet.
        let rules = vec![
            rule("", &["secrets"], &["create"]),
            PolicyRule {
                resource_names: names.into_iter().collect(),
                ..rule("", &["secrets"], &["get", "update"])
            },
        ];
        grants.push(Grant {
            namespace: Some(namespace),
            rules,
        });
    }
    for (namespace, wanted) in sources(config, host_namespace) {
        // The own namespace's Role covers what lies there.
        if namespace == host_namespace {
            continue;
        }
        let rules = wanted.into_iter().map(|(resources, names)| PolicyRule {
            resource_names: names.unwrap_or_default().into_iter().collect(),
            ..rule("", resources, READ)
        });
        grant(&mut grants, namespace, rules);
    }
    for (name, choice) in custom::from_host(&config.sync.from_host.custom_resources) {
        if choice.scope != custom::NAMESPACED {
            continue;
        }
        // In the own namespace as well, whose Role is for what flows there.
        let mut places: BTreeMap<String, Names> = BTreeMap::new();
        for mapping in mapping::custom_from_host(choice, host_namespace) {
            let place = places.entry(mapping.from_namespace.clone());
            add_names(place.or_insert_with(|| Some(BTreeSet::new())), &mapping);
        }
        for (namespace, names) in places {
            let rule = PolicyRule {
                resource_names: names.unwrap_or_default().into_iter().collect(),
                ..custom_rule(&name, READ)
            };
            grant(&mut grants, namespace, [rule]);
        }
    }
    grants
}

/// Adds rules to those of a namespace.
fn grant(grants: &mut Vec<Grant>, namespace: String, rules: impl IntoIterator<Item = PolicyRule>) {
    let namespace = Some(namespace);
    match grants.iter_mut().find(|grant| grant.namespace == namespace) {
        Some(grant) => grant.rules.extend(rules),
        None => grants.push(Grant {
            namespace,
            rules: rules.into_iter().collect(),
        }),
    }
}

/// Adds what a mapping reads.
fn add_names(names: &mut Names, mapping: &Mapping) {
    match &mapping.names {
        Some((from, _)) => {
            if let Some(names) = names {
                names.insert(from.clone());
            }
        }
        None => *names = None,
    }
}

/// By namespace other than the own one: the secrets that are written there.
fn exported(config: &Config, host_namespace: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut secrets: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for secret in &config.export_kube_config.additional_secrets {
        let namespace = secret.namespace_or(host_namespace);
        if namespace != host_namespace {
            let names = secrets.entry(namespace.to_owned()).or_default();
            names.insert(secret.name.clone());
        }
    }
    secrets
}

/// Names of objects, or `None` for all objects.
type Names = Option<BTreeSet<String>>;

/// By namespace: the core resources that are read there by name mappings.
fn sources(
    config: &Config,
    host_namespace: &str,
) -> BTreeMap<String, BTreeMap<&'static [&'static str], Names>> {
    let mut sources: BTreeMap<String, BTreeMap<&'static [&'static str], Names>> = BTreeMap::new();
    let mut add = |resources: &'static [&'static str], mapping: &Mapping| {
        let names = sources
            .entry(mapping.from_namespace.clone())
            .or_default()
            .entry(resources)
            .or_insert_with(|| Some(BTreeSet::new()));
        add_names(names, mapping);
    };
    for mapping in mapping::services_from_host(config, host_namespace) {
        add(&["services", "endpoints"], &mapping);
    }
    for mapping in mapping::config_maps_from_host(config, host_namespace) {
        add(&["configmaps"], &mapping);
    }
    for mapping in mapping::secrets_from_host(config, host_namespace) {
        add(&["secrets"], &mapping);
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespaces_admin_can_grant_the_lesser_rules() {
        let within = within_admin(&host_rules(&Config::default()));
        for rule in &within {
            for resource in &rule.resources {
                assert!(!["pods/status", "pods/resize"].contains(&&**resource));
                let writes = rule.verbs.contains(&"create");
                assert!(!(writes && resource.starts_with("endpoint")), "{rule:?}");
            }
        }
        assert!(
            within
                .iter()
                .any(|rule| rule.resources.contains(&"pods".into()))
        );
    }

    #[test]
    fn by_default_nothing_cluster_wide_and_no_node_proxy() {
        let config = Config::default();
        assert!(host_grants(&config, "demo").is_empty());
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

    #[test]
    fn custom_resources_grant_their_definitions_by_name_and_their_objects_in_the_namespace() {
        let yaml = "sync: {toHost: {customResources: {boats.sea.example.com/v1: {enabled: true}, \
                    ships.sea.example.com: {enabled: false}}}}";
        let (config, _) = Config::from_yaml(&[("v", yaml)]).unwrap();
        let rules = host_rules(&config);
        let last = serde_json::json!(rules.last());
        assert_eq!(
            last,
            serde_json::json!({"apiGroups": ["sea.example.com"], "resources": ["boats"], "verbs": WRITE})
        );
        assert_eq!(rules.len(), host_rules(&Config::default()).len() + 1);
        assert_eq!(within_admin(&rules).last(), rules.last());
        let grants = host_grants(&config, "demo");
        assert_eq!(grants.len(), 1);
        assert_eq!(grants[0].namespace, None);
        assert_eq!(
            serde_json::json!(grants[0].rules),
            serde_json::json!([{"apiGroups": ["apiextensions.k8s.io"],
                "resources": ["customresourcedefinitions"],
                "resourceNames": ["boats.sea.example.com"], "verbs": READ}])
        );
    }

    #[test]
    fn what_is_shown_of_custom_resources_is_read_where_it_lies() {
        let yaml = "sync: {fromHost: {customResources: {seas.sea.example.com: {enabled: true, scope: Cluster}, \
                    boats.sea.example.com: {enabled: true, scope: Namespaced, \
                    mappings: {byName: {'/a': x/a, 'other/b': x/b, 'whole/*': 'y/*'}}}}}}";
        let (config, _) = Config::from_yaml(&[("v", yaml)]).unwrap();
        assert_eq!(host_rules(&config), host_rules(&Config::default()));
        let grants = host_grants(&config, "demo");
        let places: Vec<_> = grants.iter().map(|g| g.namespace.as_deref()).collect();
        assert_eq!(places, [None, Some("demo"), Some("other"), Some("whole")]);
        let group = serde_json::json!(["sea.example.com"]);
        let boats = |names: &[&str]| {
            let mut rule =
                serde_json::json!({"apiGroups": group, "resources": ["boats"], "verbs": READ});
            if !names.is_empty() {
                rule["resourceNames"] = serde_json::json!(names);
            }
            serde_json::json!([rule])
        };
        let rules: Vec<_> = grants.iter().map(|g| serde_json::json!(g.rules)).collect();
        assert_eq!(
            rules[0][0],
            serde_json::json!({"apiGroups": group, "resources": ["seas"], "verbs": READ})
        );
        assert_eq!(
            rules[0][1]["resourceNames"],
            serde_json::json!(["boats.sea.example.com", "seas.sea.example.com"])
        );
        assert_eq!(rules[1..], [boats(&["a"]), boats(&["b"]), boats(&[])]);
    }

    #[test]
    fn a_namespace_of_secrets_and_mappings_has_one_grant() {
        let yaml = "
            networking: {replicateServices: {fromHost: [{from: other/a, to: default/a}]}}
            exportKubeConfig: {additionalSecrets: [{name: a}, {name: b, namespace: other}]}";
        let (config, _) = Config::from_yaml(&[("v", yaml)]).unwrap();
        let grants = host_grants(&config, "demo");
        assert_eq!(grants.len(), 1);
        assert_eq!(grants[0].namespace.as_deref(), Some("other"));
        assert_eq!(
            serde_json::json!(grants[0].rules),
            serde_json::json!([
                {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
                {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["b"],
                 "verbs": ["get", "update"]},
                {"apiGroups": [""], "resources": ["services", "endpoints"], "resourceNames": ["a"],
                 "verbs": ["get", "list", "watch"]},
            ])
        );
    }

    #[test]
    fn mappings_grant_the_named_objects_of_their_namespaces_and_no_more() {
        let yaml = "
            networking: {replicateServices: {fromHost: [
              {from: default/a, to: default/a}, {from: default/b, to: x/b}, {from: own, to: x/own}]}}
            sync: {fromHost: {secrets: {enabled: true, mappings: {byName: {'other/*': 'x/*', '/s': x/s}}},
              configMaps: {enabled: false, mappings: {byName: {'other/c': 'x/c'}}}}}";
        let (config, _) = Config::from_yaml(&[("v", yaml)]).unwrap();
        let grants = host_grants(&config, "demo");
        let texts = serde_json::json!(grants.iter().map(|g| &g.rules).collect::<Vec<_>>());
        let read = serde_json::json!(["get", "list", "watch"]);
        assert_eq!(
            grants
                .iter()
                .map(|g| g.namespace.as_deref())
                .collect::<Vec<_>>(),
            [Some("default"), Some("other")]
        );
        assert_eq!(
            texts,
            serde_json::json!([
                [{"apiGroups": [""], "resources": ["services", "endpoints"],
                  "resourceNames": ["a", "b"], "verbs": read}],
                [{"apiGroups": [""], "resources": ["secrets"], "verbs": read}],
            ])
        );
    }
}
