//! Which of several nodes suits a pod best.

use crate::objects::core::Node;
use crate::objects::pod::Pod;
use crate::placement::{matches_term, tolerates};

use super::affinity::preferences;
use super::cluster::{Cluster, NodeState};
use super::filter::Namespaces;
use super::needs::load_of_pod;
use super::spread::Spread;

/// Weights of the scores, each of which runs from 0 to 100.
const TAINTS: f64 = 3.0;
const NODE_AFFINITY: f64 = 2.0;
const POD_AFFINITY: f64 = 2.0;
const SPREAD: f64 = 2.0;
const FREE: f64 = 1.0;
const BALANCE: f64 = 1.0;

/// The best of these nodes, of which there is at least one. Of equals one is
/// drawn by lot.
pub(super) fn best(
    pod: &Pod,
    cluster: &Cluster,
    nodes: &[String],
    namespaces: &Namespaces<'_>,
) -> String {
    if let [only] = nodes {
        return only.clone();
    }
    let known: Vec<(&String, &Node, &NodeState)> = nodes
        .iter()
        .filter_map(|name| {
            let state = cluster.node(name)?;
            Some((name, state.node.as_deref()?, state))
        })
        .collect();
    let spread = Spread::preferred(pod, cluster);
    let wishes = preferences(pod, cluster, namespaces);
    let column = |score: &dyn Fn(&Node, &NodeState) -> f64| -> Vec<f64> {
        known
            .iter()
            .map(|(_, node, state)| score(node, state))
            .collect()
    };
    let near = column(&|node, _| {
        let labels = &node.metadata.labels;
        let hits = wishes
            .iter()
            .filter(|((key, value), _)| labels.get(key) == Some(value));
        hits.map(|(_, weight)| *weight as f64).sum()
    });
    let crowding = column(&|node, state| {
        if spread.is_empty() {
            return siblings(pod, state);
        }
        spread.crowding(node).unwrap_or(f64::MAX)
    });
    let load = load_of_pod(pod);
    let columns = [
        (
            TAINTS,
            invert(normalize(column(&|node, _| unwelcome(pod, node)))),
        ),
        (
            NODE_AFFINITY,
            normalize(column(&|node, _| preference(pod, node))),
        ),
        (POD_AFFINITY, stretch(near)),
        (SPREAD, invert(stretch(crowding))),
        (FREE, column(&|_, state| free(state, load))),
        (BALANCE, column(&|_, state| balance(state, load))),
    ];
    let total = |n: usize| -> f64 { columns.iter().map(|(weight, it)| weight * it[n]).sum() };
    let mut ranked: Vec<(f64, &String)> = known
        .iter()
        .enumerate()
        .map(|(n, (name, ..))| (total(n), *name))
        .collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    let top = ranked.first().map_or(0.0, |(score, _)| *score);
    let equals = ranked
        .iter()
        .take_while(|(score, _)| top - *score < 1e-6)
        .count();
    let lot = if equals > 1 {
        rand::random_range(0..equals)
    } else {
        0
    };
    ranked
        .get(lot)
        .map_or_else(|| nodes[0].clone(), |(_, name)| (*name).clone())
}

/// Scales so that the largest is 100.
fn normalize(scores: Vec<f64>) -> Vec<f64> {
    let most = scores.iter().copied().fold(0.0, f64::max);
    scores
        .into_iter()
        .map(|it| if most > 0.0 { it * 100.0 / most } else { 0.0 })
        .collect()
}

/// Scales so that the smallest is 0 and the largest is 100.
fn stretch(scores: Vec<f64>) -> Vec<f64> {
    let least = scores.iter().copied().fold(f64::MAX, f64::min);
    let range = scores.iter().copied().fold(f64::MIN, f64::max) - least;
    scores
        .into_iter()
        .map(|it| {
            if range > 0.0 {
                (it - least) * 100.0 / range
            } else {
                0.0
            }
        })
        .collect()
}

fn invert(scores: Vec<f64>) -> Vec<f64> {
    scores.into_iter().map(|it| 100.0 - it).collect()
}

/// Soft taints that the pod does not tolerate.
fn unwelcome(pod: &Pod, node: &Node) -> f64 {
    let taints = node.spec.taints.iter().filter(|taint| {
        taint.effect == "PreferNoSchedule"
            && !pod
                .spec
                .tolerations
                .iter()
                .any(|toleration| tolerates(toleration, taint))
    });
    taints.count() as f64
}

/// Weights of the node affinities that the node fulfils.
fn preference(pod: &Pod, node: &Node) -> f64 {
    let affinity = pod
        .spec
        .affinity
        .as_ref()
        .and_then(|it| it.node_affinity.as_ref());
    let terms = affinity.and_then(|it| {
        it.preferred_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let met = terms.into_iter().flatten().filter(|it| {
        let empty = it
            .preference
            .match_expressions
            .as_ref()
            .is_none_or(Vec::is_empty)
            && it
                .preference
                .match_fields
                .as_ref()
                .is_none_or(Vec::is_empty);
        empty || matches_term(&it.preference, node)
    });
    met.map(|it| f64::from(it.weight)).sum()
}

/// Pods of the same owner on the node.
fn siblings(pod: &Pod, state: &NodeState) -> f64 {
    let Some(owner) = pod.metadata.controller() else {
        return 0.0;
    };
    let same = state
        .pods
        .values()
        .filter(|it| it.pod.metadata.is_controlled_by(&owner.uid));
    same.count() as f64
}

/// Shares of CPU and memory in use once the pod is there, from 0 to 1.
fn shares(state: &NodeState, load: (i64, i64)) -> (f64, f64) {
    let share = |used: i64, more: i64, total: i64| {
        if total <= 0 {
            1.0
        } else {
            ((used + more) as f64 / total as f64).clamp(0.0, 1.0)
        }
    };
    (
        share(state.load.0, load.0, state.allocatable.get("cpu")),
        share(state.load.1, load.1, state.allocatable.get("memory")),
    )
}

fn free(state: &NodeState, load: (i64, i64)) -> f64 {
    let (cpu, memory) = shares(state, load);
    (2.0 - cpu - memory) * 50.0
}

fn balance(state: &NodeState, load: (i64, i64)) -> f64 {
    let (cpu, memory) = shares(state, load);
    (1.0 - (cpu - memory).abs() / 2.0) * 100.0
}
