//! The model as an nftables table. Pure.
//!
//! A packet of a connection that is under way passes at once. Of a new one,
//! maps find the chain of the sender and then that of the receiver by their
//! addresses; pods under the same policies share it. It asks the policies one
//! by one, each a chain of its own, and drops what none of them lets through.
//! A sender's policy that lets a packet out sends it on to `enter`, where the
//! receiver's are asked.
//!
//! Translation of services' addresses comes earlier, in `prerouting`: policies
//! see pods. Masquerading comes later, in `postrouting`: they see clients.
//!
//! Traffic between two pods of a bridge is switched, not routed. It passes
//! here because the node has bridged packets call these hooks (br_netfilter),
//! which answers of services need as well.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::model::{Allowed, Model, Peers, PolicyKey, Ports, Rule};
use crate::nft::{Ruleset, chain_name};

/// Most rules of nftables, and ranges in them, for the policies of one
/// namespace, so that nobody fills the kernel or slows down the packets of
/// others. What is beyond lets nothing through.
const MAX_RULES: usize = 4096;

const INGRESS: &str = "ingress";
const EGRESS: &str = "egress";
const ENTER: &str = "enter";

/// What the rules need to know of the node.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Addresses of all pods.
    pub pod_cidr: String,
    /// Names of all bridges of pods, as in `coracle*`.
    pub bridges: String,
    /// Where the cluster's DNS answers, if no pod serves it.
    pub dns: Option<(Ipv4Addr, u16)>,
}

/// The table, and namespaces some of whose policies let nothing through, since
/// they are too many.
pub fn build(model: &Model, settings: &Settings) -> (Ruleset, BTreeSet<String>) {
    let mut builder = Builder {
        model,
        settings,
        rules: Ruleset::default(),
        counts: BTreeMap::new(),
        exceeded: BTreeSet::new(),
    };
    builder.base();
    for (key, allowed) in &model.policies {
        builder.policy(key, allowed);
    }
    builder.pods(INGRESS, "in", &model.ingress);
    builder.pods(EGRESS, "out", &model.egress);
    (builder.rules, builder.exceeded)
}

struct Builder<'a> {
    model: &'a Model,
    settings: &'a Settings,
    rules: Ruleset,
    /// Rules by namespace.
    counts: BTreeMap<&'a str, usize>,
    exceeded: BTreeSet<String>,
}

impl<'a> Builder<'a> {
    fn base(&mut self) {
        let Settings {
            pod_cidr, bridges, ..
        } = self.settings;
        let by_ip = "type ipv4_addr : verdict";
        for map in [INGRESS, EGRESS] {
            self.rules.maps.insert(map, (by_ip, BTreeMap::new()));
        }
        let text = |ip: &Ipv4Addr| ip.to_string();
        let pods = self.model.pods.iter().map(text).collect();
        self.rules
            .set("pods".to_owned(), "type ipv4_addr;".to_owned(), pods);
        let isolated = self.model.ingress.keys().chain(self.model.egress.keys());
        let own = isolated.map(|ip| format!("{ip} . {ip}")).collect();
        let pair = "type ipv4_addr . ipv4_addr;".to_owned();
        self.rules.set("own".to_owned(), pair, own);

        for (chain, hook) in [
            (
                "forward",
                "type filter hook forward priority 10; policy accept;",
            ),
            (
                "input",
                "type filter hook input priority 10; policy accept;",
            ),
        ] {
            self.rules.hooks.insert(chain, hook);
        }
        let line = |text: &str| text.to_owned();
        // Pods have no addresses of this family but those of their links.
        let other_family = format!("meta nfproto ipv6 iifname \"{bridges}\" drop");
        // No policy is found by an address that is no pod's.
        let forged = format!("iifname \"{bridges}\" ip saddr != {pod_cidr} drop");
        let under_way = line("ct state established,related accept");
        // A pod may come to life before the API server tells of its address;
        // until then no policy can be found for it.
        let unknown = format!("ip saddr {pod_cidr} ip saddr != @pods drop");
        self.rules.chain(
            "forward",
            vec![
                other_family.clone(),
                forged.clone(),
                under_way.clone(),
                unknown.clone(),
                format!("ip daddr {pod_cidr} ip daddr != @pods drop"),
                // A pod that reaches itself through a service.
                line("ip saddr . ip daddr @own accept"),
                format!("ip saddr vmap @{EGRESS}"),
                format!("ip daddr vmap @{INGRESS}"),
            ],
        );
        // To the node itself. What the node sends is not filtered at all.
        self.rules.chain(
            "input",
            vec![
                line("iifname \"lo\" accept"),
                other_family,
                forged,
                under_way,
                unknown,
                format!("ip saddr vmap @{EGRESS}"),
            ],
        );
        self.rules.chain(
            ENTER,
            vec![format!("ip daddr vmap @{INGRESS}"), line("accept")],
        );
    }

    fn policy(&mut self, key: &'a PolicyKey, allowed: &Allowed) {
        for (direction, rules) in [(INGRESS, &allowed.ingress), (EGRESS, &allowed.egress)] {
            let mut lines = Vec::new();
            for rule in rules {
                if self.may_add(&key.0, weight(rule)) {
                    self.sets(rule);
                    lines.extend(self.texts(direction, rule));
                }
            }
            self.rules.chain(&policy_chain(direction, key), lines);
        }
    }

    /// Counts rules of a namespace; false if it has too many.
    fn may_add(&mut self, namespace: &'a str, more: usize) -> bool {
        let count = self.counts.entry(namespace).or_default();
        if *count + more > MAX_RULES {
            self.exceeded.insert(namespace.to_owned());
            return false;
        }
        *count += more;
        true
    }

    /// The rules that let through what a rule of a policy allows: one for each
    /// way in which it names the peer and the port.
    fn texts(&self, direction: &str, rule: &Rule) -> Vec<String> {
        let (address, verdict) = match direction {
            INGRESS => ("saddr", "accept".to_owned()),
            _ => ("daddr", format!("goto {ENTER}")),
        };
        let mut peers = Vec::new();
        match &rule.peers {
            Peers::All => peers.push(String::new()),
            Peers::Some { groups, blocks } => {
                let group = |key: &String| format!("ip {address} @{} ", group_set(key));
                peers.extend(groups.iter().map(group));
                if blocks[..] == [(0, u32::MAX)] {
                    peers.push(String::new());
                } else if !blocks.is_empty() {
                    let show = |n: u32| Ipv4Addr::from(n).to_string();
                    peers.push(format!("ip {address} {{ {} }} ", listed(blocks, show)));
                }
            }
        }
        let ports = match &rule.ports {
            None => vec![String::new()],
            Some(ports) => port_texts(ports),
        };
        let mut texts = Vec::new();
        for peer in &peers {
            texts.extend(ports.iter().map(|port| format!("{peer}{port}{verdict}")));
        }
        if let Some((ip, port)) = self.settings.dns {
            let ask = |protocol| format!("ip daddr {ip} {protocol} dport {port} {verdict}");
            texts.extend(rule.dns.iter().map(ask));
        }
        texts
    }

    /// The sets that a rule refers to.
    fn sets(&mut self, rule: &Rule) {
        if let Peers::Some { groups, .. } = &rule.peers {
            for key in groups {
                let members = self.model.groups.get(key).into_iter().flatten();
                let members = members.map(Ipv4Addr::to_string).collect();
                let kind = "type ipv4_addr;".to_owned();
                self.rules.set(group_set(key), kind, members);
            }
        }
        for key in rule.ports.iter().flat_map(|ports| &ports.named) {
            let found = self.model.named_ports.get(key).into_iter().flatten();
            let found = found.map(|(ip, number)| format!("{ip} . {} . {number}", key.1));
            let kind = "type ipv4_addr . inet_proto . inet_service;".to_owned();
            self.rules.set(port_set(key), kind, found.collect());
        }
    }

    /// Leads the isolated pods of one direction to their chains.
    fn pods(
        &mut self,
        direction: &'static str,
        kind: &str,
        pods: &'a BTreeMap<Ipv4Addr, BTreeSet<PolicyKey>>,
    ) {
        for (ip, policies) in pods {
            let words = policies.iter().map(|(a, b)| format!("{a}/{b}"));
            let name = chain_name(kind, &words.collect::<Vec<_>>().join(" "));
            if !self.rules.chains.contains_key(&name) {
                let mut lines = Vec::new();
                for key in policies {
                    if !self.may_add(&key.0, 1) {
                        break;
                    }
                    lines.push(format!("jump {}", policy_chain(direction, key)));
                }
                lines.push("drop".to_owned());
                self.rules.chain(&name, lines);
            }
            let (ip, verdict) = (ip.to_string(), format!("goto {name}"));
            self.rules.element(direction, ip, verdict);
        }
    }
}

/// At least as many rules and ranges as the texts of a rule have.
fn weight(rule: &Rule) -> usize {
    let peers = match &rule.peers {
        Peers::All => 1,
        Peers::Some { groups, blocks } => groups.len() + blocks.len(),
    };
    let ports = rule.ports.as_ref().map_or(1, |ports| {
        ports.named.len() + ports.numbers.values().map(Vec::len).sum::<usize>()
    });
    peers.saturating_mul(ports) + rule.dns.len()
}

fn policy_chain(direction: &str, (namespace, name): &PolicyKey) -> String {
    chain_name(&format!("{direction}-of"), &format!("{namespace}/{name}"))
}

fn group_set(key: &str) -> String {
    chain_name("peers", key)
}

fn port_set((name, protocol): &(String, &str)) -> String {
    chain_name("ports", &format!("{name}/{protocol}"))
}

fn port_texts(ports: &Ports) -> Vec<String> {
    let numbers = ports.numbers.iter().filter(|(_, n)| !n.is_empty());
    let numbers = numbers.map(|(protocol, numbers)| match numbers[..] {
        [(0, u16::MAX)] => format!("meta l4proto {protocol} "),
        _ => format!("{protocol} dport {{ {} }} ", listed(numbers, |n| n)),
    });
    let named = ports
        .named
        .iter()
        .map(|key| format!("ip daddr . meta l4proto . th dport @{} ", port_set(key)));
    numbers.chain(named).collect()
}

fn listed<T: Copy + PartialEq, S: std::fmt::Display>(
    ranges: &[(T, T)],
    show: impl Fn(T) -> S,
) -> String {
    let range = |(a, b): &(T, T)| match a == b {
        true => show(*a).to_string(),
        false => format!("{}-{}", show(*a), show(*b)),
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
