//! What the scheduler knows of nodes and of the pods on them, its own
//! decisions included.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::objects::core::Node;
use crate::objects::pod::Pod;

use super::needs::{Amounts, load_of_pod, of_pod};

/// A host port in use: address (empty for all), protocol, number.
pub(super) type HostPort = (String, String, i32);

/// A pod on a node.
#[derive(Clone)]
pub(super) struct Placed {
    pub pod: Arc<Pod>,
    pub needs: Amounts,
    pub load: (i64, i64),
    pub assumed: bool,
}

impl Placed {
    fn new(pod: Arc<Pod>, assumed: bool) -> Self {
        Self {
            needs: of_pod(&pod),
            load: load_of_pod(&pod),
            pod,
            assumed,
        }
    }
}

/// A node with its pods. The node is absent while only pods name it.
#[derive(Clone, Default)]
pub(super) struct NodeState {
    pub node: Option<Arc<Node>>,
    pub allocatable: Amounts,
    pub pods: BTreeMap<String, Placed>,
    pub used: Amounts,
    pub load: (i64, i64),
}

impl NodeState {
    pub(super) fn add(&mut self, placed: Placed) {
        self.used.add(&placed.needs);
        self.load.0 = self.load.0.saturating_add(placed.load.0);
        self.load.1 = self.load.1.saturating_add(placed.load.1);
        self.pods.insert(placed.pod.metadata.uid.clone(), placed);
    }

    pub(super) fn remove(&mut self, uid: &str) {
        if let Some(placed) = self.pods.remove(uid) {
            self.used.subtract(&placed.needs);
            self.load.0 = self.load.0.saturating_sub(placed.load.0);
            self.load.1 = self.load.1.saturating_sub(placed.load.1);
        }
    }

    pub(super) fn host_ports(&self) -> impl Iterator<Item = HostPort> + '_ {
        self.pods
            .values()
            .flat_map(|placed| host_ports(&placed.pod))
    }
}

/// The host ports that a pod takes.
pub(super) fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let sidecars = pod
        .spec
        .init_containers
        .iter()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = pod
        .spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| &container.ports);
    ports
        .filter(|port| port.host_port > 0)
        .map(|port| {
            let all = port.host_ip.is_empty() || port.host_ip == "0.0.0.0" || port.host_ip == "::";
            let address = if all {
                String::new()
            } else {
                port.host_ip.clone()
            };
            let protocol = if port.protocol.is_empty() {
                "TCP"
            } else {
                &port.protocol
            };
            (address, protocol.to_owned(), port.host_port)
        })
        .collect()
}

/// All nodes, and where each pod is.
#[derive(Default)]
pub(super) struct Cluster {
    nodes: BTreeMap<String, NodeState>,
    places: HashMap<String, String>,
}

impl Cluster {
    /// Nodes that exist, by name.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&str, &Node, &NodeState)> {
        self.nodes
            .iter()
            .filter_map(|(name, state)| Some((name.as_str(), state.node.as_deref()?, state)))
    }

    pub(super) fn node(&self, name: &str) -> Option<&NodeState> {
        self.nodes.get(name)
    }

    pub(super) fn set_node(&mut self, node: Arc<Node>) {
        let state = self.nodes.entry(node.metadata.name.clone()).or_default();
        state.allocatable = Amounts::parse(&node.status.allocatable);
        state.node = Some(node);
    }

    pub(super) fn remove_node(&mut self, name: &str) {
        if let Some(state) = self.nodes.get_mut(name) {
            state.node = None;
            if state.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }

    /// Notes a pod that is bound.
    pub(super) fn add_pod(&mut self, pod: Arc<Pod>) {
        self.place(Placed::new(pod.clone(), false), pod.spec.node_name.clone());
    }

    /// Takes a place for a pod that is about to be bound.
    pub(super) fn assume(&mut self, pod: Arc<Pod>, node: &str) {
        self.place(Placed::new(pod, true), node.to_owned());
    }

    fn place(&mut self, placed: Placed, node: String) {
        let uid = placed.pod.metadata.uid.clone();
        self.remove_pod(&uid);
        self.nodes.entry(node.clone()).or_default().add(placed);
        self.places.insert(uid, node);
    }

    /// Gives an assumed place back.
    pub(super) fn forget(&mut self, uid: &str) {
        let place = self
            .places
            .get(uid)
            .and_then(|node| self.nodes.get(node)?.pods.get(uid));
        if place.is_some_and(|placed| placed.assumed) {
            self.remove_pod(uid);
        }
    }

    pub(super) fn remove_pod(&mut self, uid: &str) {
        let Some(node) = self.places.remove(uid) else {
            return;
        };
        if let Some(state) = self.nodes.get_mut(&node) {
            state.remove(uid);
            if state.pods.is_empty() && state.node.is_none() {
                self.nodes.remove(&node);
            }
        }
    }

    pub(super) fn has_place(&self, uid: &str) -> bool {
        self.places.contains_key(uid)
    }

    /// Replaces what is known of one node; for trying out a removal of pods.
    pub(super) fn with_node(&self, name: &str, state: NodeState) -> Self {
        let mut nodes = self.nodes.clone();
        nodes.insert(name.to_owned(), state);
        Self {
            nodes,
            places: HashMap::new(),
        }
    }
}
