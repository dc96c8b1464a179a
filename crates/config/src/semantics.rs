//! What the types of the configuration cannot say.

use serde_json::{Map, Value};

use crate::custom::CustomName;
use crate::load::Problem;
use crate::mapping;
use crate::model::custom::{self as model_custom, CLUSTER, NAMESPACED};
use crate::model::{Config, Texts, TokenAccount};
use crate::patch::{self, Way};

/// Reports every choice that has the right type and still makes no sense.
pub(crate) fn check(config: &Config, problems: &mut Vec<Problem>) {
    let mut problem = |path: &str, message: String| {
        problems.push(Problem {
            source: "values".into(),
            path: path.into(),
            message,
        });
    };
    let domain = &config.networking.advanced.cluster_domain;
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if domain.is_empty() || domain.len() > 200 || !domain.chars().all(letter) {
        problem(
            "networking.advanced.clusterDomain",
            format!("{domain:?} is no DNS domain"),
        );
    }
    let tolerations = &config.sync.to_host.pods.enforce_tolerations;
    for (at, text) in tolerations.iter().enumerate() {
        if parse_toleration(text).is_none() {
            problem(
                &format!("sync.toHost.pods.enforceTolerations[{at}]"),
                format!("{text:?} is no toleration: write key=value:Effect or key:Effect"),
            );
        }
    }
    let ingress = &config.control_plane.ingress;
    if ingress.enabled && !is_subdomain(&ingress.host) {
        let message = format!("expected the name of a host, found {:?}", ingress.host);
        problem("controlPlane.ingress.host", message);
    }
    let public = &config.policies.network_policy.workload.public_egress;
    let path = "policies.networkPolicy.workload.publicEgress";
    let mut range = |path: String, text: &str| {
        if !is_range(text) {
            problem(&path, format!("{text:?} is no range of addresses"));
        }
    };
    range(format!("{path}.cidr"), &public.cidr);
    for (at, text) in public.except.iter().enumerate() {
        range(format!("{path}.except[{at}]"), text);
    }
    services(config, &mut problem);
    selectors(config, &mut problem);
    together(config, &mut problem);
    exported(config, &mut problem);
    custom(config, &mut problem);
    custom_from_host(config, &mut problem);
    patches(config, &mut problem);
    let from_host = &config.sync.from_host;
    for (kind, imports) in [
        ("configMaps", &from_host.config_maps),
        ("secrets", &from_host.secrets),
    ] {
        let path = format!("sync.fromHost.{kind}.mappings.byName");
        by_name(&path, &imports.mappings.by_name, &mut problem);
    }
}

/// Custom resources that can flow in one direction at most: each is two watches
/// and the objects that they show, which are kept in memory.
const MAX_CUSTOM: usize = 50;

fn custom(config: &Config, problem: &mut impl FnMut(&str, String)) {
    let path = "sync.toHost.customResources";
    let to_host = &config.sync.to_host.custom_resources;
    custom_names(path, to_host.keys(), problem);
    for (name, choice) in to_host {
        if choice.enabled && choice.scope == CLUSTER {
            let message = "only what lies in a namespace flows to the host: the host has one place for \
                           what does not, which would be everybody's";
            problem(&format!("{path}[{name}].scope"), message.into());
        }
    }
}

fn custom_from_host(config: &Config, problem: &mut impl FnMut(&str, String)) {
    let path = "sync.fromHost.customResources";
    let from_host = &config.sync.from_host.custom_resources;
    custom_names(path, from_host.keys(), problem);
    for (name, choice) in from_host.iter().filter(|(_, choice)| choice.enabled) {
        let here = format!("{path}[{name}]");
        let mappings = &choice.mappings.by_name;
        match choice.scope.as_str() {
            CLUSTER if !mappings.is_empty() => {
                let message = "what lies in no namespace is shown under its own names";
                problem(&format!("{here}.mappings"), message.into());
            }
            NAMESPACED if mappings.is_empty() => {
                let message = "expected which objects of the host are shown where";
                problem(&format!("{here}.mappings.byName"), message.into());
            }
            CLUSTER | NAMESPACED => {}
            _ => problem(
                &format!("{here}.scope"),
                "expected Cluster or Namespaced".into(),
            ),
        }
        by_name(&format!("{here}.mappings.byName"), mappings, problem);
    }
    let versions = |name: &CustomName| (name.definition(), name.version.clone());
    let others = model_custom::to_host(&config.sync.to_host.custom_resources);
    for (name, _) in model_custom::from_host(from_host) {
        let same = |(other, _): &(CustomName, _)| other.definition() == name.definition();
        let other = others.iter().find(|other| same(other));
        if other.is_some_and(|(other, _)| versions(other) != versions(&name)) {
            let message = "a custom resource flows in one version only, both ways".into();
            problem(&format!("{path}[{}]", name.definition()), message);
        }
    }
}

fn patches(config: &Config, problem: &mut impl FnMut(&str, String)) {
    let (to_host, from_host) = (&config.sync.to_host, &config.sync.from_host);
    for (key, _, patches) in to_host.patches() {
        let place = format!("sync.toHost.{key}.patches");
        patch::check(config, &place, patches, Way::ToHost, problem);
    }
    for (name, choice) in &to_host.custom_resources {
        let place = format!("sync.toHost.customResources[{name}].patches");
        patch::check(config, &place, &choice.patches, Way::CustomToHost, problem);
    }
    for (name, choice) in &from_host.custom_resources {
        let place = format!("sync.fromHost.customResources[{name}].patches");
        patch::check(config, &place, &choice.patches, Way::ShownReverse, problem);
    }
    for (key, _, patches) in from_host.patches() {
        let place = format!("sync.fromHost.{key}.patches");
        // As upstream has it.
        let way = match key {
            "configMaps" | "secrets" => Way::ShownReverse,
            _ => Way::Shown,
        };
        patch::check(config, &place, patches, way, problem);
    }
}

fn custom_names<'a>(
    path: &str,
    names: impl ExactSizeIterator<Item = &'a String>,
    problem: &mut impl FnMut(&str, String),
) {
    if names.len() > MAX_CUSTOM {
        problem(path, format!("more than {MAX_CUSTOM} custom resources"));
        return;
    }
    let mut definitions = std::collections::BTreeSet::new();
    for name in names {
        let here = format!("{path}[{name}]");
        match CustomName::parse(name) {
            Err(message) => problem(&here, message),
            Ok(parsed) if !definitions.insert(parsed.definition()) => {
                problem(&here, "a custom resource flows in one version only".into());
            }
            Ok(_) => {}
        }
    }
}

fn exported(config: &Config, problem: &mut impl FnMut(&str, String)) {
    let export = &config.export_kube_config;
    token_account(
        "exportKubeConfig.serviceAccount",
        &export.service_account,
        problem,
    );
    let all = &config.export_kube_config.additional_secrets;
    for (at, secret) in all.iter().enumerate() {
        let path = format!("exportKubeConfig.additionalSecrets[{at}]");
        if !is_subdomain(&secret.name) {
            let message = format!("expected the name of a secret, found {:?}", secret.name);
            problem(&format!("{path}.name"), message);
        }
        if !secret.namespace.is_empty() && !is_label(&secret.namespace) {
            let message = format!(
                "expected the name of a namespace, found {:?}",
                secret.namespace
            );
            problem(&format!("{path}.namespace"), message);
        }
        let path = format!("{path}.serviceAccount");
        token_account(&path, &secret.service_account, problem);
    }
}

fn token_account(path: &str, account: &TokenAccount, problem: &mut impl FnMut(&str, String)) {
    let TokenAccount {
        name,
        namespace,
        cluster_role,
    } = account;
    if name.is_empty() {
        if !namespace.is_empty() || !cluster_role.is_empty() {
            problem(
                &format!("{path}.name"),
                "expected the name of an account".into(),
            );
        }
    } else if !is_subdomain(name) {
        let message = format!("expected the name of an account, found {name:?}");
        problem(&format!("{path}.name"), message);
    }
    if !namespace.is_empty() && !is_label(namespace) {
        let message = format!("expected the name of a namespace, found {namespace:?}");
        problem(&format!("{path}.namespace"), message);
    }
    // As Kubernetes has it for roles: a part of a path.
    if cluster_role.contains(['/', '%']) || matches!(cluster_role.as_str(), "." | "..") {
        let message = format!("expected the name of a cluster role, found {cluster_role:?}");
        problem(&format!("{path}.clusterRole"), message);
    }
}

/// Selectors of classes.
fn selectors(config: &Config, problem: &mut impl FnMut(&str, String)) {
    let from_host = &config.sync.from_host;
    for (kind, selector) in [
        ("ingressClasses", &from_host.ingress_classes.selector),
        ("priorityClasses", &from_host.priority_classes.selector),
        ("runtimeClasses", &from_host.runtime_classes.selector),
        ("storageClasses", &from_host.storage_classes.selector),
    ] {
        if let Err(error) = selector.parsed() {
            problem(&format!("sync.fromHost.{kind}.selector"), error.to_string());
        }
    }
}

/// Choices that make sense only one without the other.
fn together(config: &Config, problem: &mut impl FnMut(&str, String)) {
    let (to_host, from_host) = (&config.sync.to_host, &config.sync.from_host);
    let proxied = &config.networking.advanced.proxy_kubelets;
    for (key, on) in [("byIP", proxied.by_ip), ("byHostname", proxied.by_hostname)] {
        if !on && !from_host.nodes.enabled {
            let message = "nodes have addresses of their own only with sync.fromHost.nodes.enabled";
            problem(
                &format!("networking.advanced.proxyKubelets.{key}"),
                message.into(),
            );
        }
    }
    if to_host.network_policies.enabled && config.policies.network_policy.enabled {
        let message = "not together with policies.networkPolicy: what policies allow adds up on the \
                       host, so those of the tenant would open what that closes, and could not close \
                       what it opens";
        problem("sync.toHost.networkPolicies.enabled", message.into());
    }
    let classes = [
        (
            "priorityClasses",
            to_host.priority_classes.enabled && from_host.priority_classes.enabled,
        ),
        (
            "storageClasses",
            to_host.storage_classes.enabled && config.shows_storage_classes(),
        ),
    ];
    for (kind, both) in classes {
        if both {
            let message = format!(
                "not together with sync.fromHost.{kind}: classes are either the host's or the tenant's"
            );
            problem(&format!("sync.toHost.{kind}.enabled"), message);
        }
    }
}

fn services(config: &Config, problem: &mut impl FnMut(&str, String)) {
    let replicate = &config.networking.replicate_services;
    let full = |text: &str| mapping::pair(text).is_some_and(|(ns, n)| is_label(ns) && is_label(n));
    for (at, mapping) in replicate.to_host.iter().enumerate() {
        let path = format!("networking.replicateServices.toHost[{at}]");
        if !full(&mapping.from) {
            problem(&format!("{path}.from"), expected_pair(&mapping.from));
        }
        if !is_label(&mapping.to) {
            let message = format!(
                "expected the name of a service in the host namespace of the virtual cluster, found {:?}",
                mapping.to
            );
            problem(&format!("{path}.to"), message);
        }
    }
    for (at, mapping) in replicate.from_host.iter().enumerate() {
        let path = format!("networking.replicateServices.fromHost[{at}]");
        if !full(&mapping.from) && !is_label(&mapping.from) {
            problem(&format!("{path}.from"), expected_pair(&mapping.from));
        }
        if !full(&mapping.to) {
            problem(&format!("{path}.to"), expected_pair(&mapping.to));
        }
    }
}

fn by_name(path: &str, mappings: &Texts, problem: &mut impl FnMut(&str, String)) {
    for (from, to) in mappings {
        let source = match mapping::pair(from) {
            Some((ns, name)) => {
                (ns.is_empty() || is_label(ns)) && (name == "*" || is_subdomain(name))
            }
            None => from.is_empty(),
        };
        let path = format!("{path}.{from}");
        if !source {
            let message = format!(
                "expected namespace/name, namespace/*, /name or the empty text, found {from:?}"
            );
            problem(&path, message);
            continue;
        }
        let all = from.is_empty() || from.ends_with("/*");
        let bare = from.is_empty() && is_label(to);
        let target = bare
            || mapping::pair(to).is_some_and(|(ns, name)| {
                is_label(ns) && if all { name == "*" } else { is_subdomain(name) }
            });
        if !target && all {
            problem(&path, format!("expected namespace/*, found {to:?}"));
        } else if !target {
            problem(&path, expected_pair(to));
        }
    }
}

fn expected_pair(found: &str) -> String {
    format!("expected namespace/name, found {found:?}")
}

/// True for a range of addresses, as in `10.0.0.0/8`.
fn is_range(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    let longest = match address.parse() {
        Ok(std::net::IpAddr::V4(_)) => 32,
        Ok(std::net::IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= longest)
}

/// True for what may name a namespace or a service.
pub(crate) fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty()
        && text.len() <= 63
        && text.chars().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// True for what may name most other objects.
pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Reads `key=value:Effect`, `key:Effect` or `key=value` as a toleration of a
/// pod.
pub fn parse_toleration(text: &str) -> Option<Value> {
    let (pair, effect) = match text.rsplit_once(':') {
        Some((pair, effect)) => (pair, Some(effect)),
        None => (text, None),
    };
    let (key, value) = match pair.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (pair, None),
    };
    if key.is_empty() {
        return None;
    }
    let mut toleration = Map::new();
    toleration.insert("key".into(), key.into());
    match value {
        Some(value) => {
            toleration.insert("operator".into(), "Equal".into());
            toleration.insert("value".into(), value.into());
        }
        None => {
            toleration.insert("operator".into(), "Exists".into());
        }
    }
    if let Some(effect) = effect {
        if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            return None;
        }
        toleration.insert("effect".into(), effect.into());
    }
    Some(Value::Object(toleration))
}
