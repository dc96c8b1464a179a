//! Pods and namespaces as policies see them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use coracle_machinery::LabelSelector;
use k8s_openapi::api::core::v1::{Container, Namespace, Pod};

/// Name and protocol of a port.
pub type PortName = (String, &'static str);

/// Who has a port of a name, and its number there.
type Found = Vec<(Ipv4Addr, u16)>;

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

/// Pods by namespace and by protocol and names of their ports, and namespaces' labels.
pub struct Facts<'a> {
    pods: BTreeMap<&'a str, Vec<PodFacts<'a>>>,
    ports: BTreeMap<&'static str, BTreeMap<&'a str, Found>>,
    namespaces: BTreeMap<&'a str, &'a BTreeMap<String, String>>,
}

/// A pod that policies apply to.
pub struct PodFacts<'a> {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The object.
    pub pod: &'a Arc<Pod>,
}

impl<'a> Facts<'a> {
    /// Orders what is observed.
    pub fn new(pods: &'a [Arc<Pod>], namespaces: &'a [Arc<Namespace>]) -> Self {
        let mut facts = Self {
            pods: BTreeMap::new(),
            ports: BTreeMap::new(),
            namespaces: namespaces.iter().filter_map(named).collect(),
        };
        for (ip, pod) in by_address(pods) {
            for ((name, protocol), number) in ports(pod) {
                let found = facts.ports.entry(protocol).or_default();
                let found = found.entry(name).or_default();
                // Of two ports of a pod with one name the first counts.
                if found.last().is_none_or(|(last, _)| *last != ip) {
                    found.push((ip, number));
                }
            }
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let labels = pod.metadata.labels.as_ref().unwrap_or(&NO_LABELS);
            let all = facts.pods.entry(namespace).or_default();
            all.push(PodFacts { ip, labels, pod });
        }
        facts
    }

    /// The addresses of all pods.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.pods.values().flatten().map(|pod| pod.ip)
    }

    /// The pods of a namespace, by address.
    pub fn pods_in(&self, namespace: &str) -> &[PodFacts<'a>] {
        self.pods.get(namespace).map_or(&[], Vec::as_slice)
    }

    /// The labels of a namespace that exists.
    pub fn labels_of(&self, namespace: &str) -> Option<&'a BTreeMap<String, String>> {
        self.namespaces.get(namespace).copied()
    }

    /// Whether a selector of namespaces chooses one. Of one that is not known
    /// yet nothing is known but that it is one.
    pub fn chooses(&self, namespaces: &LabelSelector, namespace: &str) -> bool {
        match self.labels_of(namespace) {
            Some(labels) => namespaces.matches(labels),
            None => namespaces.is_everything(),
        }
    }

    /// The addresses of chosen pods in chosen namespaces.
    pub fn members(
        &self,
        namespaces: &LabelSelector,
        pods: &LabelSelector,
    ) -> impl Iterator<Item = Ipv4Addr> {
        let within = self.pods.iter();
        let within = within.filter(|(name, _)| self.chooses(namespaces, name));
        let all = within.flat_map(|(_, all)| all);
        all.filter(|pod| pods.matches(pod.labels)).map(|pod| pod.ip)
    }

    /// Who has a port of this name, and its number there.
    pub fn ports_named(&self, (name, protocol): &PortName) -> &[(Ipv4Addr, u16)] {
        let found = self.ports.get(protocol);
        found
            .and_then(|found| found.get(name.as_str()))
            .map_or(&[], Vec::as_slice)
    }
}

fn named(namespace: &Arc<Namespace>) -> Option<(&str, &BTreeMap<String, String>)> {
    let labels = namespace.metadata.labels.as_ref().unwrap_or(&NO_LABELS);
    Some((namespace.metadata.name.as_deref()?, labels))
}

/// Pods by address: those on the network of their node are no pods to
/// policies, and those that have ended may have left their address to others.
fn by_address(all: &[Arc<Pod>]) -> BTreeMap<Ipv4Addr, &Arc<Pod>> {
    let mut by_ip: BTreeMap<Ipv4Addr, &Arc<Pod>> = BTreeMap::new();
    for pod in all {
        let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else {
            continue;
        };
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if spec.host_network == Some(true) || ended {
            continue;
        }
        let Some(ip) = status.pod_ip.as_deref().and_then(|ip| ip.parse().ok()) else {
            continue;
        };
        // Of two with one address the newer has it.
        let age = |pod: &Pod| pod.metadata.creation_timestamp.clone();
        let holder = by_ip.entry(ip).or_insert(pod);
        if age(holder) < age(pod) {
            *holder = pod;
        }
    }
    by_ip
}

/// The ports of a pod that have a name, in order.
fn ports(pod: &Pod) -> impl Iterator<Item = ((&str, &'static str), u16)> {
    let all = containers(pod).flat_map(|c| c.ports.iter().flatten());
    all.filter_map(|port| {
        let number = u16::try_from(port.container_port).ok()?;
        let protocol = protocol(port.protocol.as_deref())?;
        Some(((port.name.as_deref()?, protocol), number))
    })
}

/// Containers whose ports count: the main ones and those that run beside them.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| {
        let beside = spec.init_containers.iter().flatten();
        let beside = beside.filter(|c| c.restart_policy.as_deref() == Some("Always"));
        spec.containers.iter().chain(beside)
    })
}

/// A protocol as nftables names it.
pub fn protocol(name: Option<&str>) -> Option<&'static str> {
    match name.unwrap_or("TCP") {
        "TCP" => Some("tcp"),
        "UDP" => Some("udp"),
        "SCTP" => Some("sctp"),
        _ => None,
    }
}
