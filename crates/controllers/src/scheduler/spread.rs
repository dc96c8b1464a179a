//! Topology spread constraints.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::objects::core::Node;
use crate::objects::pod::Pod;
use crate::placement::{selects, untolerated};
use crate::selector;

use super::cluster::Cluster;
use super::verdict::Refusal;

/// One constraint with the count of matching pods in each domain.
struct Constraint {
    key: String,
    max_skew: i64,
    min_domains: usize,
    counts: HashMap<String, i64>,
    /// One if the pod itself matches.
    own: i64,
    hostname: bool,
}

/// Constraints of one severity, prepared for one pod.
pub(super) struct Spread {
    constraints: Vec<Constraint>,
}

impl Spread {
    /// The constraints that must hold.
    pub(super) fn required(pod: &Pod, cluster: &Cluster) -> Self {
        Self::new(pod, cluster, "DoNotSchedule")
    }

    /// The constraints that should hold.
    pub(super) fn preferred(pod: &Pod, cluster: &Cluster) -> Self {
        Self::new(pod, cluster, "ScheduleAnyway")
    }

    fn new(pod: &Pod, cluster: &Cluster, severity: &str) -> Self {
        let all: Vec<&TopologySpreadConstraint> = pod
            .spec
            .topology_spread_constraints
            .iter()
            .filter(|constraint| constraint.when_unsatisfiable == severity)
            .collect();
        let keys: Vec<&str> = all.iter().map(|it| it.topology_key.as_str()).collect();
        let constraints = all
            .iter()
            .map(|it| prepare(pod, cluster, it, &keys))
            .collect();
        Self { constraints }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.constraints.is_empty()
    }

    /// Whether the pod may go to the node without exceeding the skew.
    pub(super) fn check(&self, node: &Node) -> Result<(), Refusal> {
        for constraint in &self.constraints {
            let Some(value) = node.metadata.labels.get(&constraint.key) else {
                let reason = "node(s) didn't match pod topology spread constraints (missing \
                              required label)";
                return Err(Refusal::lasting(reason));
            };
            let least = if constraint.counts.len() < constraint.min_domains {
                0
            } else {
                constraint.counts.values().copied().min().unwrap_or(0)
            };
            let count = constraint.counts.get(value).copied().unwrap_or(0);
            if count + constraint.own - least > constraint.max_skew {
                let reason = "node(s) didn't match pod topology spread constraints";
                return Err(Refusal::passing(reason));
            }
        }
        Ok(())
    }

    /// How crowded the node's domains are: the lower, the better. `None` if the
    /// node belongs to no domain of some constraint.
    pub(super) fn crowding(&self, node: &Node) -> Option<f64> {
        let mut total = 0.0;
        for constraint in &self.constraints {
            let value = node.metadata.labels.get(&constraint.key)?;
            let count = constraint.counts.get(value).copied().unwrap_or(0);
            // Domains that are many weigh more, so that zones and hosts count
            // alike.
            let size = if constraint.hostname {
                1.0
            } else {
                constraint.counts.len() as f64
            };
            total += count as f64 * (size + 2.0).ln() + (constraint.max_skew - 1) as f64;
        }
        Some(total)
    }
}

fn prepare(
    pod: &Pod,
    cluster: &Cluster,
    constraint: &TopologySpreadConstraint,
    keys: &[&str],
) -> Constraint {
    let selector = effective_selector(pod, constraint);
    let honours = |policy: &Option<String>, default: bool| match policy.as_deref() {
        Some("Honor") => true,
        Some("Ignore") => false,
        _ => default,
    };
    let by_affinity = honours(&constraint.node_affinity_policy, true);
    let by_taints = honours(&constraint.node_taints_policy, false);
    let mut counts: HashMap<String, i64> = HashMap::new();
    for (_, node, state) in cluster.nodes() {
        let labels = &node.metadata.labels;
        let counted = keys.iter().all(|key| labels.contains_key(*key))
            && (!by_affinity || selects(&pod.spec, node))
            && (!by_taints
                || untolerated(
                    &node.spec.taints,
                    &pod.spec.tolerations,
                    &["NoSchedule", "NoExecute"],
                )
                .is_none());
        let Some(value) = labels.get(&constraint.topology_key).filter(|_| counted) else {
            continue;
        };
        let matching = state.pods.values().filter(|placed| {
            let meta = &placed.pod.metadata;
            meta.namespace == pod.metadata.namespace
                && !meta.is_deleting()
                && selector
                    .as_ref()
                    .is_some_and(|it| selector::matches(it, &meta.labels))
        });
        let matching = i64::try_from(matching.count()).unwrap_or(i64::MAX);
        *counts.entry(value.clone()).or_default() += matching;
    }
    let own = selector.is_some_and(|it| selector::matches(&it, &pod.metadata.labels));
    Constraint {
        key: constraint.topology_key.clone(),
        max_skew: i64::from(constraint.max_skew),
        min_domains: constraint
            .min_domains
            .and_then(|it| usize::try_from(it).ok())
            .unwrap_or(1),
        counts,
        own: i64::from(own),
        hostname: constraint.topology_key == "kubernetes.io/hostname",
    }
}

/// The constraint's selector, narrowed by the labels that the pod shares with
/// its likes.
fn effective_selector(pod: &Pod, constraint: &TopologySpreadConstraint) -> Option<LabelSelector> {
    let mut selector = constraint.label_selector.clone()?;
    for key in constraint.match_label_keys.iter().flatten() {
        if let Some(value) = pod.metadata.labels.get(key) {
            selector
                .match_expressions
                .get_or_insert_default()
                .push(LabelSelectorRequirement {
                    key: key.clone(),
                    operator: "In".to_owned(),
                    values: Some(vec![value.clone()]),
                });
        }
    }
    Some(selector)
}
