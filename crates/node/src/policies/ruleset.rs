//! The model as an nftables table. Pure.
//!
//! A packet of a connection that is under way passes at once. A new one meets
//! two chains in turn, that of senders and that of receivers, each of which can
//! drop it. There, a map finds the chain of the pod by its address; pods under
//! the same policies share it. It asks the policies one by one, each a chain of
//! its own, and drops what none of them lets through.
//!
//! Two, since many a kernel walks along all ways through a chain whenever
//! something changes. Were receivers asked where a sender's policy lets a packet
//! out, there would be a way for each rule of the one and each of the other.
//!
//! Translation of services' addresses comes earlier, in `prerouting`: policies
//! see pods. Masquerading comes later, in `postrouting`: they see clients.
//!
//! Traffic between two pods of a bridge is switched, not routed. It passes
//! here because the node has bridged packets call these hooks (br_netfilter),
//! which answers of services need as well.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::facts::PortName;
use super::model::{Direction, Model, Part, Peers, Policy, Ports, Rule};
use crate::nft::{Ruleset, chain_name};

/// What pods send, and what others send to them.
const FROM: &str = "from-pods";
/// What pods get, of that which those let pass.
const TO: &str = "to-pods";
/// What the node gets. What it sends is not filtered at all.
const NODE: &str = "to-node";

/// Words for a direction: the name of its map, the kind of chains of pods, that
/// of chains of policies, and where packets carry the peer.
fn words(direction: Direction) -> (&'static str, &'static str, &'static str, &'static str) {
    match direction {
        Direction::Ingress => ("ingress", "in", "ingress-of", "saddr"),
        Direction::Egress => ("egress", "out", "egress-of", "daddr"),
    }
}

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

/// The table.
pub fn build(model: &Model, settings: &Settings) -> Ruleset {
    let mut builder = Builder {
        model,
        settings,
        rules: Ruleset::default(),
    };
    builder.base();
    for (namespace, part) in &model.namespaces {
        for policy in &part.policies {
            builder.policy(namespace, policy);
        }
        for direction in Direction::BOTH {
            builder.pods(direction, namespace, part);
        }
    }
    builder.rules
}

struct Builder<'a> {
    model: &'a Model,
    settings: &'a Settings,
    rules: Ruleset,
}

impl Builder<'_> {
    fn base(&mut self) {
        let Settings {
            pod_cidr, bridges, ..
        } = self.settings;
        let by_ip = "type ipv4_addr : verdict";
        for direction in Direction::BOTH {
            let map = words(direction).0;
            self.rules.maps.insert(map, (by_ip, BTreeMap::new()));
        }
        let text = |ip: &Ipv4Addr| ip.to_string();
        let pods = self.model.pods.iter().map(text).collect();
        self.rules
            .set("pods".to_owned(), "type ipv4_addr;".to_owned(), pods);
        let parts = self.model.namespaces.values();
        let isolated = parts.flat_map(|part| part.ingress.keys().chain(part.egress.keys()));
        let own = isolated.map(|ip| format!("{ip} . {ip}")).collect();
        let pair = "type ipv4_addr . ipv4_addr;".to_owned();
        self.rules.set("own".to_owned(), pair, own);

        self.rules.hooks.extend([
            (FROM, "type filter hook forward priority 10; policy accept;"),
            (TO, "type filter hook forward priority 11; policy accept;"),
            (NODE, "type filter hook input priority 10; policy accept;"),
        ]);
        let line = |text: &str| text.to_owned();
        // Pods have no addresses of this family but those of their links.
        let other_family = format!("meta nfproto ipv6 iifname \"{bridges}\" drop");
        // No policy is found by an address that is no pod's.
        let forged = format!("iifname \"{bridges}\" ip saddr != {pod_cidr} drop");
        let under_way = line("ct state established,related accept");
        // A pod may come to life before the API server tells of its address;
        // until then no policy can be found for it.
        let unknown = format!("ip saddr {pod_cidr} ip saddr != @pods drop");
        // A pod that reaches itself through a service.
        let own = line("ip saddr . ip daddr @own accept");
        let senders = line("ip saddr vmap @egress");
        self.rules.chain(
            FROM,
            vec![
                other_family.clone(),
                forged.clone(),
                under_way.clone(),
                unknown.clone(),
                format!("ip daddr {pod_cidr} ip daddr != @pods drop"),
                own.clone(),
                senders.clone(),
            ],
        );
        let receivers = line("ip daddr vmap @ingress");
        self.rules
            .chain(TO, vec![under_way.clone(), own, receivers]);
        self.rules.chain(
            NODE,
            vec![
                line("iifname \"lo\" accept"),
                other_family,
                forged,
                under_way,
                unknown,
                senders,
            ],
        );
    }

    fn policy(&mut self, namespace: &str, policy: &Policy) {
        for direction in Direction::BOTH {
            let mut lines = Vec::new();
            for rule in policy.rules(direction) {
                self.rule(direction, rule, &mut lines);
            }
            if !lines.is_empty() {
                let chain = policy_chain(direction, namespace, policy);
                self.rules.chain(&chain, lines);
            }
        }
    }

    /// The rules that let through what a rule of a policy allows: one for each
    /// way in which it names the peer and the port.
    fn rule(&mut self, direction: Direction, rule: &Rule, lines: &mut Vec<String>) {
        let (.., address) = words(direction);
        let peers = match &rule.peers {
            Peers::All => vec![String::new()],
            Peers::Some { groups, blocks } => {
                let groups = groups.iter().filter_map(|name| self.group(name));
                let mut peers: Vec<String> =
                    groups.map(|who| format!("ip {address} {who} ")).collect();
                if blocks[..] == [(0, u32::MAX)] {
                    peers.push(String::new());
                } else if !blocks.is_empty() {
                    let ip = |n: u32| Ipv4Addr::from(n).to_string();
                    let who = self.list("blocks", "ipv4_addr", blocks, ip);
                    peers.push(format!("ip {address} {who} "));
                }
                peers
            }
        };
        let ports = match &rule.ports {
            None => vec![String::new()],
            Some(ports) => self.ports(ports),
        };
        for peer in &peers {
            lines.extend(ports.iter().map(|port| format!("{peer}{port}accept")));
        }
        if let Some((ip, port)) = self.settings.dns {
            let ask = |protocol| format!("ip daddr {ip} {protocol} dport {port} accept");
            lines.extend(rule.dns.iter().map(ask));
        }
    }

    /// The pods of a group, as an operand; `None` if there are none.
    fn group(&mut self, name: &str) -> Option<String> {
        let members = self.model.groups.get(name)?;
        let texts = members.iter().map(Ipv4Addr::to_string);
        self.set(name, "type ipv4_addr;", texts)
    }

    /// A set of these elements as an operand. One element stands for itself:
    /// the kernel looks through all sets of a table for each that is made or
    /// named, so the fewer there are the better.
    fn set(
        &mut self,
        name: &str,
        declaration: &str,
        mut elements: impl ExactSizeIterator<Item = String>,
    ) -> Option<String> {
        if elements.len() <= 1 {
            return elements.next();
        }
        if !self.rules.sets.contains_key(name) {
            let declaration = declaration.to_owned();
            self.rules
                .set(name.to_owned(), declaration, elements.collect());
        }
        Some(format!("@{name}"))
    }

    /// Ranges as an operand. Equal lists share a set, whoever wrote them. Sets
    /// without names, in the rules themselves, cost the kernel most of all.
    fn list<T: Copy + PartialEq, S: std::fmt::Display>(
        &mut self,
        kind: &str,
        of: &str,
        ranges: &[(T, T)],
        show: impl Fn(T) -> S,
    ) -> String {
        let text = |(a, b): &(T, T)| match a == b {
            true => show(*a).to_string(),
            false => format!("{}-{}", show(*a), show(*b)),
        };
        let texts: Vec<String> = ranges.iter().map(text).collect();
        let name = chain_name(kind, &texts.join(" "));
        let declaration = format!("type {of}; flags interval;");
        let operand = self.set(&name, &declaration, texts.into_iter());
        operand.unwrap_or_default()
    }

    /// Conditions that are the ports, one for each way in which they are named.
    fn ports(&mut self, ports: &Ports) -> Vec<String> {
        let mut texts = Vec::new();
        for (protocol, numbers) in &ports.numbers {
            texts.push(match numbers[..] {
                [(0, u16::MAX)] => format!("meta l4proto {protocol} "),
                _ => {
                    let which = self.list("numbers", "inet_service", numbers, |n| n);
                    format!("{protocol} dport {which} ")
                }
            });
        }
        for name in &ports.named {
            let Some(found) = self.model.named_ports.get(name) else {
                continue;
            };
            let found = found
                .iter()
                .map(|(ip, number)| format!("{ip} . {} . {number}", name.1));
            let kind = "type ipv4_addr . inet_proto . inet_service;";
            if let Some(which) = self.set(&port_set(name), kind, found) {
                texts.push(format!("ip daddr . meta l4proto . th dport {which} "));
            }
        }
        texts
    }

    /// Leads the isolated pods of one direction to their chains.
    fn pods(&mut self, direction: Direction, namespace: &str, part: &Part) {
        let (map, kind, ..) = words(direction);
        let mut chains: BTreeMap<&[usize], String> = BTreeMap::new();
        for (ip, places) in part.chosen(direction) {
            let verdict = chains.entry(places).or_insert_with(|| {
                let policies = places.iter().filter_map(|place| part.policies.get(*place));
                let chains = policies.map(|policy| policy_chain(direction, namespace, policy));
                // Those that let nothing through have none.
                let chains = chains.filter(|chain| self.rules.chains.contains_key(chain));
                let mut lines: Vec<String> = chains.map(|c| format!("jump {c}")).collect();
                lines.push("drop".to_owned());
                let name = chain_name(kind, &lines.join(" "));
                let verdict = format!("goto {name}");
                self.rules.chain(&name, lines);
                verdict
            });
            let verdict = verdict.clone();
            self.rules.element(map, ip.to_string(), verdict);
        }
    }
}

fn policy_chain(direction: Direction, namespace: &str, policy: &Policy) -> String {
    let (_, _, kind, _) = words(direction);
    chain_name(kind, &format!("{namespace}/{}", policy.name))
}

fn port_set((name, protocol): &PortName) -> String {
    chain_name("ports", &format!("{name}/{protocol}"))
}
