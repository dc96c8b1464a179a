//! Which nodes can take a pod, and why others cannot.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::objects::core::{Namespace, Node, Taint};
use crate::objects::pod::Pod;
use crate::placement::{selects, tolerates, untolerated};

use super::affinity::Affinity;
use super::cluster::{Cluster, HostPort, NodeState, host_ports};
use super::needs::{Amounts, of_pod};
use super::spread::Spread;
use super::verdict::{Refusal, Unplaced};
use super::volumes::PodVolumes;

/// Looks up a namespace, for selectors of namespaces.
pub(super) type Namespaces<'a> = dyn Fn(&str) -> Option<Arc<Namespace>> + 'a;

/// What is asked of every node, prepared once for a pod.
pub(super) struct Filter<'a> {
    pod: &'a Pod,
    needs: Amounts,
    ports: Vec<HostPort>,
    affinity: Affinity,
    spread: Spread,
    volumes: &'a PodVolumes,
}

impl<'a> Filter<'a> {
    pub(super) fn new(
        pod: &'a Pod,
        cluster: &Cluster,
        volumes: &'a PodVolumes,
        namespaces: &Namespaces<'_>,
    ) -> Self {
        Self {
            pod,
            needs: of_pod(pod),
            ports: host_ports(pod),
            affinity: Affinity::new(pod, cluster, namespaces),
            spread: Spread::required(pod, cluster),
            volumes,
        }
    }

    /// Whether the node can take the pod. Reasons are looked for in the order
    /// in which upstream's scheduler names them; the first kind decides.
    pub(super) fn check(&self, node: &Node, state: &NodeState) -> Result<(), Refusal> {
        self.check_node(node)?;
        self.check_ports(state)?;
        self.check_fit(state)?;
        if !self.volumes.reach(node) {
            let reason = "node(s) didn't match PersistentVolume's node affinity";
            return Err(Refusal::lasting(reason));
        }
        if !self.volumes.can_prepare(node) {
            let reason = "node(s) didn't find available persistent volumes to bind";
            return Err(Refusal::lasting(reason));
        }
        self.spread.check(node)?;
        self.affinity.check(node)
    }

    fn check_node(&self, node: &Node) -> Result<(), Refusal> {
        let tolerations = &self.pod.spec.tolerations;
        if node.spec.unschedulable {
            let taint = Taint {
                key: "node.kubernetes.io/unschedulable".to_owned(),
                effect: "NoSchedule".to_owned(),
                ..Taint::default()
            };
            if !tolerations
                .iter()
                .any(|toleration| tolerates(toleration, &taint))
            {
                return Err(Refusal::lasting("node(s) were unschedulable"));
            }
        }
        let effects = ["NoSchedule", "NoExecute"];
        if let Some(taint) = untolerated(&node.spec.taints, tolerations, &effects) {
            let reason = format!(
                "node(s) had untolerated taint {{{}: {}}}",
                taint.key, taint.value
            );
            return Err(Refusal::lasting(reason));
        }
        if !selects(&self.pod.spec, node) {
            let reason = "node(s) didn't match Pod's node affinity/selector";
            return Err(Refusal::lasting(reason));
        }
        Ok(())
    }

    fn check_ports(&self, state: &NodeState) -> Result<(), Refusal> {
        let clash = |(address, protocol, number): &HostPort| {
            state.host_ports().any(|used| {
                used.1 == *protocol
                    && used.2 == *number
                    && (used.0.is_empty() || address.is_empty() || used.0 == *address)
            })
        };
        if self.ports.iter().any(clash) {
            let reason = "node(s) didn't have free ports for the requested pod ports";
            return Err(Refusal::passing(reason));
        }
        Ok(())
    }

    fn check_fit(&self, state: &NodeState) -> Result<(), Refusal> {
        let mut refusal = Refusal::default();
        let most = state.allocatable.get("pods");
        if i64::try_from(state.pods.len()).unwrap_or(i64::MAX) >= most {
            refusal.reasons.push("Too many pods".to_owned());
        }
        for (name, needed) in &self.needs.0 {
            let total = state.allocatable.get(name);
            if *needed > total - state.used.get(name) {
                refusal.reasons.push(format!("Insufficient {name}"));
                // More than the node has at all: no removal helps.
                refusal.final_ |= *needed > total;
            }
        }
        if refusal.reasons.is_empty() {
            Ok(())
        } else {
            Err(refusal)
        }
    }
}

/// Names of the nodes that can take the pod, or why none can.
pub(super) fn feasible(
    pod: &Pod,
    cluster: &Cluster,
    volumes: &PodVolumes,
    namespaces: &Namespaces<'_>,
) -> Result<Vec<String>, Unplaced> {
    let filter = Filter::new(pod, cluster, volumes, namespaces);
    let mut fitting = Vec::new();
    let mut refusals = BTreeMap::new();
    for (name, node, state) in cluster.nodes() {
        match filter.check(node, state) {
            Ok(()) => fitting.push(name.to_owned()),
            Err(refusal) => {
                refusals.insert(name.to_owned(), refusal);
            }
        }
    }
    if fitting.is_empty() {
        Err(Unplaced::Nodes(refusals))
    } else {
        Ok(fitting)
    }
}
