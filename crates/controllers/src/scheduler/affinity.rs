//! Pods that want to be near, or far from, other pods.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::{PodAffinityTerm, WeightedPodAffinityTerm};

use crate::objects::core::Node;
use crate::objects::pod::Pod;
use crate::selector;

use super::cluster::Cluster;
use super::filter::Namespaces;
use super::verdict::Refusal;

/// A label of nodes and its value: one domain of a topology.
type Domain = (String, String);

/// Whether a term that belongs to a pod of `owner_namespace` means this pod.
/// A term without a selector means none.
fn means(
    term: &PodAffinityTerm,
    owner_namespace: &str,
    pod: &Pod,
    namespaces: &Namespaces<'_>,
) -> bool {
    let name = pod.metadata.namespace.as_str();
    let listed = term.namespaces.as_deref().unwrap_or_default();
    let in_namespace = match &term.namespace_selector {
        None if listed.is_empty() => name == owner_namespace,
        None => listed.iter().any(|other| other == name),
        Some(selector) => {
            listed.iter().any(|other| other == name)
                || selector::is_empty(selector)
                || namespaces(name).is_some_and(|namespace| {
                    selector::matches(selector, &namespace.metadata.labels)
                })
        }
    };
    in_namespace
        && term
            .label_selector
            .as_ref()
            .is_some_and(|selector| selector::matches(selector, &pod.metadata.labels))
}

fn required(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod
        .spec
        .affinity
        .as_ref()
        .and_then(|it| it.pod_affinity.as_ref());
    let terms = affinity.and_then(|it| {
        it.required_during_scheduling_ignored_during_execution
            .as_deref()
    });
    terms.unwrap_or_default()
}

fn required_anti(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod
        .spec
        .affinity
        .as_ref()
        .and_then(|it| it.pod_anti_affinity.as_ref());
    let terms = affinity.and_then(|it| {
        it.required_during_scheduling_ignored_during_execution
            .as_deref()
    });
    terms.unwrap_or_default()
}

/// Preferred terms with their signed weights.
fn preferred(pod: &Pod) -> Vec<(&PodAffinityTerm, i64)> {
    let Some(affinity) = pod.spec.affinity.as_ref() else {
        return Vec::new();
    };
    fn terms(
        list: Option<&Vec<WeightedPodAffinityTerm>>,
        sign: i64,
    ) -> impl Iterator<Item = (&PodAffinityTerm, i64)> {
        let list = list.map(Vec::as_slice).unwrap_or_default();
        list.iter()
            .map(move |it| (&it.pod_affinity_term, sign * i64::from(it.weight)))
    }
    let near = affinity.pod_affinity.as_ref();
    let far = affinity.pod_anti_affinity.as_ref();
    let near = near.and_then(|it| {
        it.preferred_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let far = far.and_then(|it| {
        it.preferred_during_scheduling_ignored_during_execution
            .as_ref()
    });
    terms(near, 1).chain(terms(far, -1)).collect()
}

/// Required affinity, prepared for one pod.
pub(super) struct Affinity {
    /// For each term: its topology and the domains that hold such a pod.
    near: Vec<(String, HashSet<String>)>,
    /// The pod is the first of its kind, and means itself.
    first: bool,
    /// Domains that the pod keeps away from.
    far: HashSet<Domain>,
    /// Domains that pods there keep it away from.
    refused: HashSet<Domain>,
}

impl Affinity {
    pub(super) fn new(pod: &Pod, cluster: &Cluster, namespaces: &Namespaces<'_>) -> Self {
        let (wanted, unwanted) = (required(pod), required_anti(pod));
        let own = pod.metadata.namespace.as_str();
        let mut near: Vec<(String, HashSet<String>)> = wanted
            .iter()
            .map(|term| (term.topology_key.clone(), HashSet::new()))
            .collect();
        let (mut far, mut refused) = (HashSet::new(), HashSet::new());
        for (_, node, state) in cluster.nodes() {
            let labels = &node.metadata.labels;
            for placed in state.pods.values() {
                let other = placed.pod.as_ref();
                // All terms must mean the same pod.
                if !wanted.is_empty() && wanted.iter().all(|it| means(it, own, other, namespaces)) {
                    for (key, domains) in &mut near {
                        domains.extend(labels.get(key.as_str()).cloned());
                    }
                }
                for term in unwanted
                    .iter()
                    .filter(|it| means(it, own, other, namespaces))
                {
                    let value = labels.get(&term.topology_key);
                    far.extend(value.map(|value| (term.topology_key.clone(), value.clone())));
                }
                for term in required_anti(other) {
                    if let Some(value) = labels.get(&term.topology_key)
                        && means(term, &other.metadata.namespace, pod, namespaces)
                    {
                        refused.insert((term.topology_key.clone(), value.clone()));
                    }
                }
            }
        }
        let first = !near.is_empty()
            && near.iter().all(|(_, domains)| domains.is_empty())
            && wanted.iter().all(|term| means(term, own, pod, namespaces));
        Self {
            near,
            first,
            far,
            refused,
        }
    }

    pub(super) fn check(&self, node: &Node) -> Result<(), Refusal> {
        let labels = &node.metadata.labels;
        let hit = |domains: &HashSet<Domain>| {
            domains
                .iter()
                .any(|(key, value)| labels.get(key) == Some(value))
        };
        let near = self.near.iter().all(|(key, domains)| {
            labels
                .get(key)
                .is_some_and(|value| self.first || domains.contains(value))
        });
        if !near {
            return Err(Refusal::lasting("node(s) didn't match pod affinity rules"));
        }
        if hit(&self.far) {
            return Err(Refusal::passing(
                "node(s) didn't match pod anti-affinity rules",
            ));
        }
        if hit(&self.refused) {
            let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
            return Err(Refusal::passing(reason));
        }
        Ok(())
    }
}

/// Preferred affinity, both ways: the sum of weights for each domain.
pub(super) fn preferences(
    pod: &Pod,
    cluster: &Cluster,
    namespaces: &Namespaces<'_>,
) -> HashMap<Domain, i64> {
    let mut sums: HashMap<Domain, i64> = HashMap::new();
    let own = preferred(pod);
    let namespace = pod.metadata.namespace.as_str();
    for (_, node, state) in cluster.nodes() {
        let labels = &node.metadata.labels;
        let mut add = |key: &str, weight: i64| {
            if let Some(value) = labels.get(key) {
                *sums.entry((key.to_owned(), value.clone())).or_default() += weight;
            }
        };
        for placed in state.pods.values() {
            let other = placed.pod.as_ref();
            for (term, weight) in &own {
                if means(term, namespace, other, namespaces) {
                    add(&term.topology_key, *weight);
                }
            }
            for (term, weight) in preferred(other) {
                if means(term, &other.metadata.namespace, pod, namespaces) {
                    add(&term.topology_key, weight);
                }
            }
            // Who must be near such a pod likes it to come.
            for term in required(other) {
                if means(term, &other.metadata.namespace, pod, namespaces) {
                    add(&term.topology_key, 1);
                }
            }
        }
    }
    sums
}
