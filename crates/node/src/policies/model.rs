//! Who may talk to whom, boiled down to addresses and ports. Pure.
//!
//! Namespace by namespace: what the policies of one come to is a [`Part`] of
//! the model, made again only when they or its pods change, and bounded
//! ([`super::bounds`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::bounds::Bound;
use super::facts::{Facts, PodFacts, PortName};
use super::part::{self, Group, Home};
use super::ranges::Ranges;

/// The objects that count.
#[derive(Debug, Default)]
pub struct Observed {
    /// All policies.
    pub policies: Vec<Arc<NetworkPolicy>>,
    /// All pods.
    pub pods: Vec<Arc<Pod>>,
    /// All namespaces.
    pub namespaces: Vec<Arc<Namespace>>,
}

/// What traffic is let through.
#[derive(Debug, Default)]
pub struct Model {
    /// The addresses of all pods.
    pub pods: BTreeSet<Ipv4Addr>,
    /// What the policies of each namespace let through.
    pub namespaces: BTreeMap<String, Arc<Part>>,
    /// Addresses of the pods of each group that a rule names.
    pub groups: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    /// Pods' addresses and numbers of each named port.
    pub named_ports: BTreeMap<PortName, BTreeSet<(Ipv4Addr, u16)>>,
}

impl Model {
    /// Whether both are of the same parts, groups and ports, as after changes
    /// that policies do not see.
    pub fn is_like(&self, other: &Self) -> bool {
        let both = || self.namespaces.values().zip(other.namespaces.values());
        self.namespaces.keys().eq(other.namespaces.keys())
            && both().all(|(a, b)| Arc::ptr_eq(a, b))
            && self.pods == other.pods
            && self.groups == other.groups
            && self.named_ports == other.named_ports
    }
}

/// What the policies of a namespace let through.
#[derive(Debug, Default)]
pub struct Part {
    /// The policies that choose pods.
    pub policies: Vec<Policy>,
    /// Pods that only get what the policies at these places let in.
    pub ingress: Chosen,
    /// Pods that only reach what the policies at these places let out.
    pub egress: Chosen,
    /// The groups that rules name, by name.
    pub groups: BTreeMap<String, Group>,
    /// The named ports that rules name.
    pub named_ports: BTreeSet<PortName>,
    /// Set if the policies are too many. Those pods that they choose are
    /// isolated, by no policy.
    pub excess: Option<Excess>,
}

impl Part {
    /// The pods that policies isolate in a direction.
    pub fn chosen(&self, direction: Direction) -> &Chosen {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// A direction of traffic, seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Into it.
    Ingress,
    /// Out of it.
    Egress,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];
}

/// Pods by address, and the places in [`Part::policies`] of those policies that
/// choose them, in order.
pub type Chosen = BTreeMap<Ipv4Addr, Vec<usize>>;

/// Too many policies.
#[derive(Debug)]
pub struct Excess {
    /// The bound that they exceed.
    pub bound: Bound,
    /// The longest of them.
    pub longest: Arc<NetworkPolicy>,
    /// There are fewer by now, but the rules of some have been dropped: they
    /// have to be read again.
    pub is_over: bool,
}

/// The rules of a policy.
#[derive(Debug)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Who may come in.
    pub ingress: Vec<Rule>,
    /// What may be reached.
    pub egress: Vec<Rule>,
}

impl Policy {
    /// What it lets through in a direction.
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// Traffic with some peers at some ports.
#[derive(Debug)]
pub struct Rule {
    /// The other end.
    pub peers: Peers,
    /// The ports; `None` for all traffic, also of protocols without ports.
    pub ports: Option<Ports>,
    /// Protocols in which the cluster's DNS may be asked, where it is no pod.
    pub dns: Vec<&'static str>,
}

impl Rule {
    /// How many rules of nftables it becomes at most: one for each way in which
    /// it names the peer and the port.
    pub fn count(&self) -> usize {
        let peers = match &self.peers {
            Peers::All => 1,
            Peers::Some { groups, blocks } => groups.len() + usize::from(!blocks.is_empty()),
        };
        let ports = self.ports.as_ref();
        let ports = ports.map_or(1, |ports| ports.named.len() + ports.numbers.len());
        peers.saturating_mul(ports).saturating_add(self.dns.len())
    }
}

/// The other end of allowed traffic.
#[derive(Debug)]
pub enum Peers {
    /// Anybody.
    All,
    /// Pods of groups, and ranges of addresses.
    Some {
        /// Keys of [`Model::groups`].
        groups: BTreeSet<String>,
        /// Addresses.
        blocks: Ranges<u32>,
    },
}

/// Allowed ports.
#[derive(Debug, Default)]
pub struct Ports {
    /// Ranges of numbers by protocol; none of them is empty.
    pub numbers: BTreeMap<&'static str, Ranges<u16>>,
    /// Keys of [`Model::named_ports`].
    pub named: BTreeSet<PortName>,
}

/// Parts of the last model, and what they were made of.
#[derive(Default)]
pub struct Cache {
    parts: BTreeMap<String, Made>,
    dns_labels: Option<BTreeMap<String, String>>,
}

struct Made {
    policies: Vec<Arc<NetworkPolicy>>,
    pods: Vec<Arc<Pod>>,
    part: Arc<Part>,
}

impl Made {
    /// Whether a part made of these would be the same.
    fn holds(&self, policies: &[Arc<NetworkPolicy>], pods: &[PodFacts<'_>]) -> bool {
        let same = |(a, b): (&Arc<NetworkPolicy>, &Arc<NetworkPolicy>)| Arc::ptr_eq(a, b);
        let alike = |(a, b): (&Arc<Pod>, &PodFacts<'_>)| {
            Arc::ptr_eq(a, b.pod)
                || (a.metadata.labels == b.pod.metadata.labels
                    && a.spec == b.pod.spec
                    && a.status == b.pod.status)
        };
        self.policies.len() == policies.len()
            && self.pods.len() == pods.len()
            && self.policies.iter().zip(policies).all(same)
            && self.pods.iter().zip(pods).all(alike)
    }
}

impl Cache {
    /// The model of what is observed. `dns` is the address at which the
    /// cluster's DNS is served, if no pod serves it; always the same one.
    pub fn build(&mut self, observed: &Observed, dns: Option<Ipv4Addr>) -> Model {
        let facts = Facts::new(&observed.pods, &observed.namespaces);
        let dns_labels = facts.labels_of(part::DNS_NAMESPACE).cloned();
        if self.dns_labels != dns_labels {
            self.parts.clear();
            self.dns_labels = dns_labels;
        }
        let mut model = Model {
            pods: facts.addresses().collect(),
            ..Model::default()
        };
        let mut parts = BTreeMap::new();
        for (namespace, policies) in by_namespace(&observed.policies) {
            let pods = facts.pods_in(namespace);
            let made = match self.parts.remove(namespace) {
                Some(made) if made.holds(&policies, pods) => made,
                _ => {
                    let home = Home::new(namespace, &facts, dns);
                    Made {
                        part: Arc::new(part::build(&home, &policies)),
                        pods: pods.iter().map(|p| Arc::clone(p.pod)).collect(),
                        policies,
                    }
                }
            };
            let part = Arc::clone(&made.part);
            parts.insert(namespace.to_owned(), made);
            for (name, group) in &part.groups {
                if !model.groups.contains_key(name) {
                    model.groups.insert(name.clone(), group.members(&facts));
                }
            }
            for port in &part.named_ports {
                if !model.named_ports.contains_key(port) {
                    let found = facts.ports_named(port).iter().copied().collect();
                    model.named_ports.insert(port.clone(), found);
                }
            }
            model.namespaces.insert(namespace.to_owned(), part);
        }
        self.parts = parts;
        model
    }
}

/// Policies by namespace, in order of name.
fn by_namespace(policies: &[Arc<NetworkPolicy>]) -> BTreeMap<&str, Vec<Arc<NetworkPolicy>>> {
    let mut all: BTreeMap<&str, Vec<Arc<NetworkPolicy>>> = BTreeMap::new();
    for policy in policies {
        let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
        all.entry(namespace).or_default().push(Arc::clone(policy));
    }
    for list in all.values_mut() {
        list.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    }
    all
}
