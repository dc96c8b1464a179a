//! Room for important pods at the cost of less important ones.

use std::sync::Arc;

use crate::objects::pod::Pod;

use super::cluster::{Cluster, NodeState, Placed};
use super::filter::{Filter, Namespaces};
use super::verdict::Unplaced;
use super::volumes::PodVolumes;

/// Nodes that are tried at most for one pod.
const MAX_NODES: usize = 100;

/// Where room is to be made, and who has to go.
pub(super) struct Nomination {
    pub node: String,
    pub victims: Vec<Arc<Pod>>,
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.priority.unwrap_or(0)
}

/// Finds the node where the least important pods would have to go.
pub(super) fn nominate(
    pod: &Pod,
    cluster: &Cluster,
    volumes: &PodVolumes,
    namespaces: &Namespaces<'_>,
    unplaced: &Unplaced,
) -> Option<Nomination> {
    let Unplaced::Nodes(refusals) = unplaced else {
        return None;
    };
    if pod.spec.preemption_policy.as_deref() == Some("Never") {
        return None;
    }
    // Room that is being made already is waited for.
    let nominated = pod.status.nominated_node_name.as_str();
    if let Some(state) = cluster.node(nominated).filter(|_| !nominated.is_empty()) {
        let leaving = state.pods.values().any(|placed| {
            placed.pod.metadata.is_deleting() && priority(&placed.pod) < priority(pod)
        });
        if leaving {
            return Some(Nomination {
                node: nominated.to_owned(),
                victims: Vec::new(),
            });
        }
    }
    let mut best: Option<(Cost, Nomination)> = None;
    let candidates = refusals.iter().filter(|(_, refusal)| !refusal.final_);
    for (name, _) in candidates.take(MAX_NODES) {
        let Some(state) = cluster.node(name) else {
            continue;
        };
        let Some(victims) = victims(pod, cluster, name, state, volumes, namespaces) else {
            continue;
        };
        let cost = Cost::of(&victims);
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((
                cost,
                Nomination {
                    node: name.clone(),
                    victims,
                },
            ));
        }
    }
    best.map(|(_, nomination)| nomination)
}

/// What a preemption costs; compared field by field.
#[derive(Debug, PartialEq, PartialOrd)]
struct Cost {
    highest: i32,
    sum: i64,
    count: usize,
}

impl Cost {
    fn of(victims: &[Arc<Pod>]) -> Self {
        Self {
            highest: victims
                .iter()
                .map(|pod| priority(pod))
                .max()
                .unwrap_or(i32::MIN),
            sum: victims.iter().map(|pod| i64::from(priority(pod))).sum(),
            count: victims.len(),
        }
    }
}

/// The pods that must leave a node, or `None` if that would not do.
fn victims(
    pod: &Pod,
    cluster: &Cluster,
    name: &str,
    state: &NodeState,
    volumes: &PodVolumes,
    namespaces: &Namespaces<'_>,
) -> Option<Vec<Arc<Pod>>> {
    let mut emptied = state.clone();
    let mut lesser: Vec<Placed> = state
        .pods
        .values()
        .filter(|placed| priority(&placed.pod) < priority(pod))
        .cloned()
        .collect();
    if lesser.is_empty() {
        return None;
    }
    for placed in &lesser {
        emptied.remove(&placed.pod.metadata.uid);
    }
    let fits = |state: &NodeState| {
        let tried = cluster.with_node(name, state.clone());
        let filter = Filter::new(pod, &tried, volumes, namespaces);
        let node = state.node.as_deref();
        node.is_some_and(|node| filter.check(node, state).is_ok())
    };
    if !fits(&emptied) {
        return None;
    }
    // The most important are spared first.
    lesser.sort_by_key(|placed| std::cmp::Reverse(priority(&placed.pod)));
    let mut victims = Vec::new();
    for placed in lesser {
        let uid = placed.pod.metadata.uid.clone();
        let pod = placed.pod.clone();
        emptied.add(placed);
        if !fits(&emptied) {
            emptied.remove(&uid);
            victims.push(pod);
        }
    }
    (!victims.is_empty()).then_some(victims)
}
