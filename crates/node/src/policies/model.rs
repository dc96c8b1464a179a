//! Who may talk to whom, boiled down to addresses and ports. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use coracle_machinery::LabelSelector;
use k8s_openapi::api::core::v1::{Container, Namespace, Pod};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Selector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::ranges::{self, Ranges};

/// Most ranges of addresses or ports of one rule: its text names them all. The
/// rest is not allowed.
const MAX_RANGES: usize = 2000;

/// Namespace, label and ports of the cluster's DNS, under which policies name
/// it everywhere.
const DNS_NAMESPACE: &str = "kube-system";
const DNS_LABEL: (&str, &str) = ("k8s-app", "kube-dns");
const DNS_PORTS: [(&str, &str); 2] = [("dns", "udp"), ("dns-tcp", "tcp")];
const DNS_PORT: u16 = 53;

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
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// The addresses of all pods.
    pub pods: BTreeSet<Ipv4Addr>,
    /// What each policy lets in and out, by namespace and name.
    pub policies: BTreeMap<PolicyKey, Allowed>,
    /// Pods that only get what the policies named here let in.
    pub ingress: BTreeMap<Ipv4Addr, BTreeSet<PolicyKey>>,
    /// Pods that only reach what the policies named here let out.
    pub egress: BTreeMap<Ipv4Addr, BTreeSet<PolicyKey>>,
    /// Addresses of the pods that a selector chooses, by the selector.
    pub groups: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    /// Pods' addresses and numbers of a named port, by name and protocol.
    pub named_ports: BTreeMap<(String, &'static str), BTreeSet<(Ipv4Addr, u16)>>,
}

/// Namespace and name.
pub type PolicyKey = (String, String);

/// The rules of a policy.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Who may come in.
    pub ingress: Vec<Rule>,
    /// What may be reached.
    pub egress: Vec<Rule>,
}

/// Traffic with some peers at some ports.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// The other end.
    pub peers: Peers,
    /// The ports; `None` for all traffic, also of protocols without ports.
    pub ports: Option<Ports>,
    /// Protocols in which the cluster's DNS may be asked, where it is no pod.
    pub dns: Vec<&'static str>,
}

/// The other end of allowed traffic.
#[derive(Debug, PartialEq, Eq)]
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
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Ranges of numbers by protocol.
    pub numbers: BTreeMap<&'static str, Ranges<u16>>,
    /// Keys of [`Model::named_ports`].
    pub named: BTreeSet<(String, &'static str)>,
}

/// A pod that policies apply to.
struct PodFacts<'a> {
    namespace: &'a str,
    labels: &'a BTreeMap<String, String>,
    ip: Ipv4Addr,
    pod: &'a Pod,
}

/// The model of what is observed. `dns` is the address at which the cluster's
/// DNS is served, if no pod serves it.
pub fn build(observed: &Observed, dns: Option<Ipv4Addr>) -> Model {
    let none = BTreeMap::new();
    let mut builder = Builder {
        pods: pods(&observed.pods, &none),
        namespaces: observed
            .namespaces
            .iter()
            .filter_map(|n| {
                let labels = n.metadata.labels.as_ref().unwrap_or(&none);
                Some((n.metadata.name.as_deref()?, labels))
            })
            .collect(),
        dns,
        dns_labels: BTreeMap::from([(DNS_LABEL.0.to_owned(), DNS_LABEL.1.to_owned())]),
        none: &none,
        model: Model::default(),
    };
    builder.model.pods = builder.pods.iter().map(|p| p.ip).collect();
    for policy in &observed.policies {
        if let (Some(namespace), Some(name), Some(spec)) = (
            &policy.metadata.namespace,
            &policy.metadata.name,
            &policy.spec,
        ) {
            builder.add(namespace, name, spec);
        }
    }
    builder.model
}

/// Pods by address: those on the network of their node are no pods to
/// policies, and those that have ended may have left their address to others.
fn pods<'a>(all: &'a [Arc<Pod>], none: &'a BTreeMap<String, String>) -> Vec<PodFacts<'a>> {
    let mut by_ip = BTreeMap::new();
    for pod in all {
        let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else {
            continue;
        };
        if spec.host_network == Some(true)
            || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
        {
            continue;
        }
        let Some(ip) = status.pod_ip.as_deref().and_then(|ip| ip.parse().ok()) else {
            continue;
        };
        let facts = PodFacts {
            namespace: pod.metadata.namespace.as_deref().unwrap_or_default(),
            labels: pod.metadata.labels.as_ref().unwrap_or(none),
            ip,
            pod,
        };
        // Of two with one address the newer has it.
        let age = |p: &PodFacts<'_>| p.pod.metadata.creation_timestamp.clone();
        match by_ip.entry(ip) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(facts);
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                if age(entry.get()) < age(&facts) {
                    entry.insert(facts);
                }
            }
        }
    }
    by_ip.into_values().collect()
}

struct Builder<'a> {
    pods: Vec<PodFacts<'a>>,
    namespaces: BTreeMap<&'a str, &'a BTreeMap<String, String>>,
    dns: Option<Ipv4Addr>,
    dns_labels: BTreeMap<String, String>,
    none: &'a BTreeMap<String, String>,
    model: Model,
}

impl Builder<'_> {
    fn add(&mut self, namespace: &str, name: &str, spec: &NetworkPolicySpec) {
        let key = (namespace.to_owned(), name.to_owned());
        // An absent selector chooses all pods of the namespace.
        let pods = match &spec.pod_selector {
            Some(pods) => selector(pods),
            None => LabelSelector::everything(),
        };
        let chosen: Vec<Ipv4Addr> = self
            .pods
            .iter()
            .filter(|p| p.namespace == namespace && pods.matches(p.labels))
            .map(|p| p.ip)
            .collect();
        if chosen.is_empty() {
            return;
        }
        let (ingress, egress) = directions(spec);
        let mut allowed = Allowed::default();
        if ingress {
            for rule in spec.ingress.iter().flatten() {
                let from = rule.from.as_deref().unwrap_or_default();
                let ports = rule.ports.as_deref().unwrap_or_default();
                let mut rule = self.rule(namespace, from, ports);
                rule.dns.clear();
                allowed.ingress.push(rule);
            }
            for ip in &chosen {
                let policies = self.model.ingress.entry(*ip).or_default();
                policies.insert(key.clone());
            }
        }
        if egress {
            for rule in spec.egress.iter().flatten() {
                let to = rule.to.as_deref().unwrap_or_default();
                let ports = rule.ports.as_deref().unwrap_or_default();
                allowed.egress.push(self.rule(namespace, to, ports));
            }
            for ip in &chosen {
                let policies = self.model.egress.entry(*ip).or_default();
                policies.insert(key.clone());
            }
        }
        self.model.policies.insert(key, allowed);
    }

    fn rule(
        &mut self,
        namespace: &str,
        peers: &[NetworkPolicyPeer],
        ports: &[NetworkPolicyPort],
    ) -> Rule {
        let ports = (!ports.is_empty()).then(|| self.ports(ports));
        let mut dns_is_peer = peers.is_empty();
        let peers = if peers.is_empty() {
            Peers::All
        } else {
            let mut groups = BTreeSet::new();
            let mut blocks = Vec::new();
            for peer in peers {
                if let Some(block) = &peer.ip_block {
                    blocks.extend(block_ranges(block));
                } else if let Some((key, dns)) = self.group(namespace, peer) {
                    groups.insert(key);
                    dns_is_peer |= dns;
                }
            }
            let blocks = ranges::merged(blocks, MAX_RANGES);
            let dns = self.dns.map(u32::from);
            dns_is_peer |= dns.is_some_and(|ip| ranges::contain(&blocks, ip));
            Peers::Some { groups, blocks }
        };
        let dns = match dns_is_peer && self.dns.is_some() {
            true => DNS_PORTS
                .into_iter()
                .filter(|(name, protocol)| match &ports {
                    None => true,
                    Some(ports) => {
                        let numbers = ports.numbers.get(protocol);
                        numbers.is_some_and(|n| ranges::contain(n, DNS_PORT))
                            || ports.named.contains(&((*name).to_owned(), *protocol))
                    }
                })
                .map(|(_, protocol)| protocol)
                .collect(),
            false => Vec::new(),
        };
        Rule { peers, ports, dns }
    }

    /// The group that a peer is; its key, and whether the cluster's DNS is in
    /// it.
    fn group(&mut self, namespace: &str, peer: &NetworkPolicyPeer) -> Option<(String, bool)> {
        let (namespaces, pods) = (&peer.namespace_selector, &peer.pod_selector);
        if namespaces.is_none() && pods.is_none() {
            return None;
        }
        let home = namespaces.is_none().then_some(namespace);
        let key = serde_json::to_string(&(home, namespaces, pods)).ok()?;
        let every = LabelSelector::everything;
        let pods = pods.as_ref().map_or_else(every, selector);
        let namespaces = namespaces.as_ref().map(selector);
        let within = |candidate: &str| match &namespaces {
            None => candidate == namespace,
            Some(chosen) => {
                let labels = self.namespaces.get(candidate).copied();
                chosen.matches(labels.unwrap_or(self.none))
                    && (labels.is_some() || chosen.is_everything())
            }
        };
        let dns = within(DNS_NAMESPACE) && pods.matches(&self.dns_labels);
        if !self.model.groups.contains_key(&key) {
            let members = self
                .pods
                .iter()
                .filter(|p| within(p.namespace) && pods.matches(p.labels))
                .map(|p| p.ip)
                .collect();
            self.model.groups.insert(key.clone(), members);
        }
        Some((key, dns))
    }

    fn ports(&mut self, list: &[NetworkPolicyPort]) -> Ports {
        let mut numbers: BTreeMap<&'static str, Vec<(u16, u16)>> = BTreeMap::new();
        let mut named = BTreeSet::new();
        for port in list {
            let Some(protocol) = protocol(port.protocol.as_deref()) else {
                continue;
            };
            match &port.port {
                None => numbers.entry(protocol).or_default().push((0, u16::MAX)),
                Some(IntOrString::Int(first)) => {
                    let last = port.end_port.unwrap_or(*first);
                    if let (Ok(first), Ok(last)) = (u16::try_from(*first), u16::try_from(last)) {
                        numbers.entry(protocol).or_default().push((first, last));
                    }
                }
                Some(IntOrString::String(name)) => {
                    self.named_port(name, protocol);
                    named.insert((name.clone(), protocol));
                }
            }
        }
        let numbers = numbers
            .into_iter()
            .map(|(protocol, list)| (protocol, ranges::merged(list, MAX_RANGES)))
            .collect();
        Ports { numbers, named }
    }

    fn named_port(&mut self, name: &str, wanted: &'static str) {
        let key = (name.to_owned(), wanted);
        if self.model.named_ports.contains_key(&key) {
            return;
        }
        let mut found = BTreeSet::new();
        for facts in &self.pods {
            let ports = containers(facts.pod).flat_map(|c| c.ports.iter().flatten());
            let number = ports
                .filter(|p| p.name.as_deref() == Some(name))
                .filter(|p| protocol(p.protocol.as_deref()) == Some(wanted))
                .find_map(|p| u16::try_from(p.container_port).ok());
            found.extend(number.map(|number| (facts.ip, number)));
        }
        self.model.named_ports.insert(key, found);
    }
}

/// Containers whose ports count: the main ones and those that run beside them.
fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| {
        let beside = spec.init_containers.iter().flatten();
        let beside = beside.filter(|c| c.restart_policy.as_deref() == Some("Always"));
        spec.containers.iter().chain(beside)
    })
}

/// Whether a policy isolates in each direction. Where it does not say, its
/// egress counts only if it has some.
fn directions(spec: &NetworkPolicySpec) -> (bool, bool) {
    match spec.policy_types.as_deref() {
        None | Some([]) => (true, spec.egress.as_ref().is_some_and(|e| !e.is_empty())),
        Some(types) => {
            let named = |name: &str| types.iter().any(|t| t == name);
            (named("Ingress"), named("Egress"))
        }
    }
}

/// A selector that cannot be read chooses nothing; the API server lets none
/// in.
fn selector(selector: &Selector) -> LabelSelector {
    let value = serde_json::to_value(selector).unwrap_or_default();
    LabelSelector::from_value(&value).unwrap_or_else(|_| LabelSelector::nothing())
}

fn protocol(name: Option<&str>) -> Option<&'static str> {
    match name.unwrap_or("TCP") {
        "TCP" => Some("tcp"),
        "UDP" => Some("udp"),
        "SCTP" => Some("sctp"),
        _ => None,
    }
}

/// The addresses of a block. Those of another family are none of ours.
fn block_ranges(block: &IPBlock) -> Vec<(u32, u32)> {
    let Some(whole) = ranges::block(&block.cidr) else {
        return Vec::new();
    };
    let except = block.except.iter().flatten();
    let except = except.filter_map(|text| ranges::block(text)).collect();
    ranges::without(whole, except)
}
