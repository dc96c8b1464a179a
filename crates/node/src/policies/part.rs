//! What the policies of one namespace come to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use coracle_machinery::LabelSelector;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Selector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::bounds::{self, Bound, Budget};
use super::facts::{Facts, PodFacts, protocol};
use super::held;
use super::model::{Chosen, Direction, Excess, Part, Peers, Policy, Ports, Rule};
use super::ranges::{self, Ranges};
use crate::nft::chain_name;

/// The namespace of the cluster's DNS, as policies name it everywhere.
pub const DNS_NAMESPACE: &str = "kube-system";
/// Its label and ports.
const DNS_LABEL: (&str, &str) = ("k8s-app", "kube-dns");
const DNS_PORTS: [(&str, &str); 2] = [("dns", "udp"), ("dns-tcp", "tcp")];
const DNS_PORT: u16 = 53;

/// Pods that a peer is.
#[derive(Debug)]
pub enum Group {
    /// Of the policy's own namespace.
    Own(BTreeSet<Ipv4Addr>),
    /// Of any namespace.
    Any {
        /// Which namespaces.
        namespaces: LabelSelector,
        /// Which of their pods.
        pods: LabelSelector,
    },
}

impl Group {
    /// The addresses of its pods.
    pub fn members(&self, facts: &Facts<'_>) -> BTreeSet<Ipv4Addr> {
        match self {
            Self::Own(members) => members.clone(),
            Self::Any { namespaces, pods } => facts.members(namespaces, pods).collect(),
        }
    }
}

/// A namespace, and what its policies see.
pub struct Home<'a> {
    namespace: &'a str,
    facts: &'a Facts<'a>,
    pods: &'a [PodFacts<'a>],
    dns: Option<Ipv4Addr>,
}

impl<'a> Home<'a> {
    /// The namespace of this name. `dns` is as in [`super::model::Cache::build`].
    pub fn new(namespace: &'a str, facts: &'a Facts<'a>, dns: Option<Ipv4Addr>) -> Self {
        Self {
            namespace,
            facts,
            pods: facts.pods_in(namespace),
            dns,
        }
    }
}

/// What the policies of a namespace, in order of name, let through.
pub fn build(home: &Home<'_>, policies: &[Arc<NetworkPolicy>]) -> Part {
    bounded(home, policies).unwrap_or_else(|bound| isolated(home, policies, bound))
}

/// Isolates all pods that a policy chooses.
fn isolated(home: &Home<'_>, policies: &[Arc<NetworkPolicy>], bound: Bound) -> Part {
    let mut left: Vec<&PodFacts<'_>> = home.pods.iter().collect();
    let mut chosen = Chosen::new();
    let mut longest: Option<(usize, &Arc<NetworkPolicy>)> = None;
    for policy in policies {
        let Some(spec) = &policy.spec else { continue };
        let terms = held::terms(policy);
        if longest.is_none_or(|(most, _)| terms > most) {
            longest = Some((terms, policy));
        }
        if left.is_empty() {
            continue;
        }
        let pods = chosen_by(spec);
        left.retain(|pod| {
            let leave = !pods.matches(pod.labels);
            if !leave {
                chosen.insert(pod.ip, Vec::new());
            }
            leave
        });
    }
    Part {
        ingress: chosen.clone(),
        egress: chosen,
        excess: longest.map(|(_, policy)| Excess {
            bound,
            longest: Arc::clone(policy),
            is_over: bound == Bound::Terms && total(policies) <= bounds::MAX_TERMS,
        }),
        ..Part::default()
    }
}

/// The part, unless the policies exceed a bound.
fn bounded(home: &Home<'_>, policies: &[Arc<NetworkPolicy>]) -> Result<Part, Bound> {
    // What has lost its rules cannot be enforced, even if there is room again.
    if total(policies) > bounds::MAX_TERMS || policies.iter().any(|p| held::is_emptied(p)) {
        return Err(Bound::Terms);
    }
    let mut builder = Builder {
        home,
        dns_labels: BTreeMap::from([(DNS_LABEL.0.to_owned(), DNS_LABEL.1.to_owned())]),
        part: Part::default(),
        budget: Budget::default(),
        lists: BTreeSet::new(),
    };
    for policy in policies {
        if let (Some(name), Some(spec)) = (&policy.metadata.name, &policy.spec) {
            builder.add(name, spec)?;
        }
    }
    builder.finish()
}

/// How much policies list, all in all.
fn total(policies: &[Arc<NetworkPolicy>]) -> usize {
    let lengths = policies.iter().map(|policy| held::terms(policy));
    lengths.fold(0, usize::saturating_add)
}

struct Builder<'a> {
    home: &'a Home<'a>,
    dns_labels: BTreeMap<String, String>,
    part: Part,
    budget: Budget,
    /// The lists of ranges, each of which becomes a set.
    lists: BTreeSet<Ranges<u32>>,
}

impl Builder<'_> {
    fn add(&mut self, name: &str, spec: &NetworkPolicySpec) -> Result<(), Bound> {
        let pods = chosen_by(spec);
        let pods = self.home.pods.iter().filter(|p| pods.matches(p.labels));
        let chosen: Vec<Ipv4Addr> = pods.map(|p| p.ip).collect();
        if chosen.is_empty() {
            return Ok(());
        }
        let place = self.part.policies.len();
        let mut policy = Policy {
            name: name.to_owned(),
            ingress: Vec::new(),
            egress: Vec::new(),
        };
        let (ingress, egress) = directions(spec);
        if ingress {
            self.budget.members(chosen.len())?;
            for rule in spec.ingress.iter().flatten() {
                let mut rule = self.rule(rule.from.as_deref(), rule.ports.as_deref())?;
                rule.dns.clear();
                self.count(&rule)?;
                policy.ingress.push(rule);
            }
            for ip in &chosen {
                self.part.ingress.entry(*ip).or_default().push(place);
            }
        }
        if egress {
            self.budget.members(chosen.len())?;
            for rule in spec.egress.iter().flatten() {
                let rule = self.rule(rule.to.as_deref(), rule.ports.as_deref())?;
                self.count(&rule)?;
                policy.egress.push(rule);
            }
            for ip in &chosen {
                self.part.egress.entry(*ip).or_default().push(place);
            }
        }
        self.part.policies.push(policy);
        Ok(())
    }

    /// Counts a rule, and the lists that no rule before had.
    fn count(&mut self, rule: &Rule) -> Result<(), Bound> {
        self.budget.rules(rule.count())?;
        let blocks = match &rule.peers {
            Peers::Some { blocks, .. } => Some(blocks.clone()),
            Peers::All => None,
        };
        let numbers = rule.ports.iter().flat_map(|ports| ports.numbers.values());
        let wide = |(a, b): &(u16, u16)| (u32::from(*a), u32::from(*b));
        let numbers = numbers.map(|list| list.iter().map(wide).collect());
        for list in blocks.into_iter().chain(numbers) {
            let length = list.len();
            if length > 1 && self.lists.insert(list) {
                self.budget.sets(1)?;
                self.budget.members(length)?;
            }
        }
        Ok(())
    }

    /// Counts what there is once all policies are known: the chains of pods,
    /// which ask the policies one by one and which pods under the same policies
    /// share, and the ways from each pod through its chain.
    fn finish(mut self) -> Result<Part, Bound> {
        for direction in Direction::BOTH {
            let policies = self.part.policies.iter();
            let counts: Vec<usize> = policies
                .map(|policy| policy.rules(direction).iter().map(Rule::count).sum())
                .collect();
            let mut lists: BTreeMap<&Vec<usize>, usize> = BTreeMap::new();
            for places in self.part.chosen(direction).values() {
                *lists.entry(places).or_default() += 1;
            }
            for (places, pods) in lists {
                self.budget.rules(places.len() + 1)?;
                let rules = places.iter().filter_map(|place| counts.get(*place));
                let rules = places.len() + rules.sum::<usize>();
                self.budget.paths(pods.saturating_mul(rules))?;
            }
        }
        Ok(self.part)
    }

    fn rule(
        &mut self,
        peers: Option<&[NetworkPolicyPeer]>,
        ports: Option<&[NetworkPolicyPort]>,
    ) -> Result<Rule, Bound> {
        let (peers, ports) = (peers.unwrap_or_default(), ports.unwrap_or_default());
        let ports = match ports {
            [] => None,
            ports => Some(self.ports(ports)?),
        };
        let mut dns_is_peer = peers.is_empty();
        let peers = if peers.is_empty() {
            Peers::All
        } else {
            let mut groups = BTreeSet::new();
            let mut blocks = Vec::new();
            for peer in peers {
                if let Some(block) = &peer.ip_block {
                    blocks.extend(block_ranges(block));
                } else if let Some((name, dns)) = self.group(peer)? {
                    groups.insert(name);
                    dns_is_peer |= dns;
                }
            }
            let blocks = ranges::merged(blocks);
            let dns = self.home.dns.map(u32::from);
            dns_is_peer |= dns.is_some_and(|ip| ranges::contain(&blocks, ip));
            Peers::Some { groups, blocks }
        };
        let dns = match dns_is_peer && self.home.dns.is_some() {
            true => dns_protocols(ports.as_ref()),
            false => Vec::new(),
        };
        Ok(Rule { peers, ports, dns })
    }

    /// The name of the group that a peer is, and whether the cluster's DNS is
    /// in it.
    fn group(&mut self, peer: &NetworkPolicyPeer) -> Result<Option<(String, bool)>, Bound> {
        let (namespaces, pods) = (&peer.namespace_selector, &peer.pod_selector);
        if namespaces.is_none() && pods.is_none() {
            return Ok(None);
        }
        let home = self.home;
        let own = namespaces.is_none().then_some(home.namespace);
        let Ok(words) = serde_json::to_string(&(own, namespaces, pods)) else {
            return Ok(None);
        };
        let name = chain_name("peers", &words);
        let every = LabelSelector::everything;
        let pods = pods.as_ref().map_or_else(every, selector);
        let namespaces = namespaces.as_ref().map(selector);
        let with_dns = match &namespaces {
            None => home.namespace == DNS_NAMESPACE,
            Some(namespaces) => home.facts.chooses(namespaces, DNS_NAMESPACE),
        };
        let dns = with_dns && pods.matches(&self.dns_labels);
        if !self.part.groups.contains_key(&name) {
            let group = match namespaces {
                Some(namespaces) => {
                    self.budget.sets(1)?;
                    self.budget.members(bounds::SHARED)?;
                    Group::Any { namespaces, pods }
                }
                None => {
                    let members = home.pods.iter().filter(|p| pods.matches(p.labels));
                    let members: BTreeSet<Ipv4Addr> = members.map(|p| p.ip).collect();
                    self.budget.sets(members.len().min(1))?;
                    self.budget.members(members.len())?;
                    Group::Own(members)
                }
            };
            self.part.groups.insert(name.clone(), group);
        }
        Ok(Some((name, dns)))
    }

    fn ports(&mut self, list: &[NetworkPolicyPort]) -> Result<Ports, Bound> {
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
                    let name = (name.clone(), protocol);
                    if self.part.named_ports.insert(name.clone()) {
                        self.budget.sets(1)?;
                        self.budget.members(bounds::SHARED)?;
                    }
                    named.insert(name);
                }
            }
        }
        let numbers = numbers.into_iter();
        let numbers = numbers.map(|(protocol, list)| (protocol, ranges::merged(list)));
        let numbers = numbers.filter(|(_, list)| !list.is_empty()).collect();
        Ok(Ports { numbers, named })
    }
}

/// The protocols in which ports let the cluster's DNS be asked.
fn dns_protocols(ports: Option<&Ports>) -> Vec<&'static str> {
    let asked = DNS_PORTS.into_iter().filter(|(name, protocol)| {
        ports.is_none_or(|ports| {
            let numbers = ports.numbers.get(protocol);
            numbers.is_some_and(|n| ranges::contain(n, DNS_PORT))
                || ports.named.contains(&((*name).to_owned(), *protocol))
        })
    });
    asked.map(|(_, protocol)| protocol).collect()
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

/// The pods that a policy chooses: without a selector all of the namespace.
fn chosen_by(spec: &NetworkPolicySpec) -> LabelSelector {
    let pods = spec.pod_selector.as_ref();
    pods.map_or_else(LabelSelector::everything, selector)
}

/// A selector that cannot be read chooses nothing; the API server lets none
/// in.
fn selector(selector: &Selector) -> LabelSelector {
    let value = serde_json::to_value(selector).unwrap_or_default();
    LabelSelector::from_value(&value).unwrap_or_else(|_| LabelSelector::nothing())
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
