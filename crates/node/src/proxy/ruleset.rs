//! Service ports as an nftables table. Pure.
//!
//! The table's base chains look an address and port up in verdict maps and go
//! to the service's chain; that picks an endpoint's chain, which translates
//! the destination. Traffic whose answers would not come back this way is
//! marked on the way and masqueraded at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use coracle_machinery::addresses::AddressRange;

use super::model::{Endpoint, Ports, ServicePort};
use crate::agent::NodeConfig;
use crate::network::{NetworkError, Range};
use crate::nft::{Ruleset, chain_name};

/// Bit of the packet mark that asks for masquerading; the one that
/// Kubernetes' own proxy uses.
const MARK: &str = "0x4000";

/// What the rules need to know of the node.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the table.
    pub table: String,
    /// Addresses of all pods.
    pub pod_cidr: String,
    /// Addresses of services.
    pub service_cidr: String,
    /// The pods' bridge.
    pub bridge: String,
    /// The node's name.
    pub node_name: String,
    /// The node's address.
    pub node_ip: Ipv4Addr,
    /// Addresses that load balancers are given, if they lead to this machine.
    pub balancer_pool: Option<AddressRange>,
}

impl Settings {
    /// The settings that follow from the agent's.
    pub fn new(config: &NodeConfig) -> Result<Self, NetworkError> {
        Ok(Self {
            table: config.rules_table.clone(),
            pod_cidr: Range::parse("cluster CIDR", &config.cluster_cidr)?.to_string(),
            service_cidr: Range::parse("service CIDR", &config.service_cidr)?.to_string(),
            bridge: config.bridge.clone(),
            node_name: config.node_name.clone(),
            node_ip: match config.node_ip {
                IpAddr::V4(ip) => ip,
                IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
            },
            balancer_pool: config.load_balancer_addresses,
        })
    }
}

const SERVICE_IPS: &str = "service-ips";
const NODE_PORTS: &str = "node-ports";
const DEAD_IPS: &str = "dead-service-ips";
const DEAD_PORTS: &str = "dead-node-ports";
const HOST_PORTS: &str = "host-ports";
const HOST_PORTS_BY_IP: &str = "host-ports-by-ip";

/// The table for these ports.
pub fn build(ports: &Ports, settings: &Settings) -> Ruleset {
    let mut rules = Ruleset::default();
    base(&mut rules, settings);
    for service in &ports.services {
        add_service(&mut rules, service, settings);
    }
    for (host_ip, protocol, port, endpoint) in &ports.host_ports {
        let chain = endpoint_chain(&mut rules, "hostport", protocol, endpoint, None);
        let (map, key) = match host_ip {
            Some(ip) => (HOST_PORTS_BY_IP, format!("{ip} . {protocol} . {port}")),
            None => (HOST_PORTS, format!("{protocol} . {port}")),
        };
        rules.element(map, key, format!("goto {chain}"));
    }
    rules
}

fn base(rules: &mut Ruleset, settings: &Settings) {
    let (pods, bridge) = (&settings.pod_cidr, &settings.bridge);
    let by_ip = "type ipv4_addr . inet_proto . inet_service : verdict";
    let by_port = "type inet_proto . inet_service : verdict";
    for (name, kind) in [
        (SERVICE_IPS, by_ip),
        (NODE_PORTS, by_port),
        (DEAD_IPS, by_ip),
        (DEAD_PORTS, by_port),
        (HOST_PORTS, by_port),
        (HOST_PORTS_BY_IP, by_ip),
    ] {
        rules.maps.insert(name, (kind, BTreeMap::new()));
    }
    for (chain, hook) in [
        (
            "nat-prerouting",
            "type nat hook prerouting priority -100; policy accept;",
        ),
        (
            "nat-output",
            "type nat hook output priority -100; policy accept;",
        ),
        (
            "nat-postrouting",
            "type nat hook postrouting priority 100; policy accept;",
        ),
        (
            "filter-input",
            "type filter hook input priority 0; policy accept;",
        ),
        (
            "filter-forward",
            "type filter hook forward priority 0; policy accept;",
        ),
        (
            "filter-output",
            "type filter hook output priority -110; policy accept;",
        ),
    ] {
        rules.hooks.insert(chain, hook);
    }
    let own = |text: &str| text.to_owned();
    rules.chain("nat-prerouting", vec![own("jump services")]);
    rules.chain("nat-output", vec![own("jump services")]);
    rules.chain(
        "services",
        vec![
            format!("ip daddr . meta l4proto . th dport vmap @{SERVICE_IPS}"),
            format!("ip daddr . meta l4proto . th dport vmap @{HOST_PORTS_BY_IP}"),
            format!("fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @{NODE_PORTS}"),
            format!("fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @{HOST_PORTS}"),
        ],
    );
    rules.chain(
        "mark-masquerade",
        vec![format!("meta mark set meta mark or {MARK}")],
    );
    rules.chain(
        "nat-postrouting",
        vec![
            format!("meta mark and {MARK} != 0 jump hide-source"),
            // Pods' traffic to the world, but not among themselves.
            format!("ip saddr {pods} ip daddr != {pods} oifname != \"{bridge}\" oifname != \"lo\" masquerade"),
        ],
    );
    rules.chain(
        "hide-source",
        vec![
            format!("meta mark set meta mark xor {MARK}"),
            own("masquerade fully-random"),
        ],
    );
    let dead = format!("ip daddr . meta l4proto . th dport vmap @{DEAD_IPS}");
    rules.chain("filter-forward", vec![format!("ct state new {dead}")]);
    rules.chain("filter-output", vec![format!("ct state new {dead}")]);
    let mut input = vec![format!(
        "ct state new fib daddr type local meta l4proto . th dport vmap @{DEAD_PORTS}"
    )];
    if let Some(pool) = settings.balancer_pool {
        // What the machine itself offers is not offered at these addresses.
        input.push(format!("ct state new {dead}"));
        input.push(format!(
            "ip daddr {pool} meta l4proto {{ tcp, udp, sctp }} ct state new goto refuse"
        ));
    }
    rules.chain("filter-input", input);
    rules.chain(
        "refuse",
        vec![
            own("meta l4proto tcp reject with tcp reset"),
            own("reject with icmp type port-unreachable"),
        ],
    );
}

fn add_service(rules: &mut Ruleset, service: &ServicePort, settings: &Settings) {
    let protocol = service.protocol;
    let key = |ip: &Ipv4Addr| format!("{ip} . {protocol} . {}", service.port);
    let dead_verdict = |any: bool| {
        if any {
            "drop".to_owned()
        } else {
            "goto refuse".to_owned()
        }
    };
    let inner =
        (!service.endpoints.is_empty()).then(|| balance(rules, service, "svc", &service.endpoints));
    for ip in &service.cluster_ips {
        match &inner {
            Some(_) => {
                let chain = cluster_chain(rules, service, settings);
                rules.element(SERVICE_IPS, key(ip), format!("goto {chain}"));
            }
            None => rules.element(DEAD_IPS, key(ip), dead_verdict(service.any_endpoints)),
        }
    }
    let external = service.external_ips.iter().chain(&service.balancer_ips);
    if external.clone().next().is_none() && service.node_port.is_none() {
        return;
    }
    let outer =
        (!service.external_endpoints.is_empty()).then(|| external_chain(rules, service, settings));
    let guarded = outer
        .as_ref()
        .map(|chain| guard_chain(rules, service, chain, settings));
    // Its load balancer first: the first claim of an address counts.
    let balanced = service.balancer_ips.iter().map(|ip| (ip, &guarded));
    let plain = service.external_ips.iter().map(|ip| (ip, &outer));
    for (ip, chain) in balanced.chain(plain) {
        match chain {
            Some(chain) => rules.element(SERVICE_IPS, key(ip), format!("goto {chain}")),
            None => rules.element(DEAD_IPS, key(ip), dead_verdict(service.any_endpoints)),
        }
    }
    if let Some(port) = service.node_port {
        let key = format!("{protocol} . {port}");
        match &outer {
            Some(chain) => rules.element(NODE_PORTS, key, format!("goto {chain}")),
            None => rules.element(DEAD_PORTS, key, dead_verdict(service.any_endpoints)),
        }
    }
}

/// Chain for traffic to a cluster address: what does not come from a pod may
/// have come a way on which the answer would not go back.
fn cluster_chain(rules: &mut Ruleset, service: &ServicePort, settings: &Settings) -> String {
    let name = chain_name("clu", &service.name);
    let target = chain_name("svc", &service.name);
    rules.chain(
        &name,
        vec![
            format!("ip saddr != {} jump mark-masquerade", settings.pod_cidr),
            format!("goto {target}"),
        ],
    );
    name
}

/// Chain for traffic to an external address or a node port.
fn external_chain(rules: &mut Ruleset, service: &ServicePort, settings: &Settings) -> String {
    let name = chain_name("ext", &service.name);
    let list = if service.external_local {
        let local = balance(rules, service, "svl", &service.external_endpoints);
        let mut list = Vec::new();
        if !service.endpoints.is_empty() {
            // Pods and the node itself are not from outside.
            let all = chain_name("svc", &service.name);
            list.push(format!("ip saddr {} goto {all}", settings.pod_cidr));
        }
        list.push("fib saddr type local jump mark-masquerade".to_owned());
        list.push(format!("goto {local}"));
        list
    } else {
        let all = balance(rules, service, "sve", &service.external_endpoints);
        vec!["jump mark-masquerade".to_owned(), format!("goto {all}")]
    };
    rules.chain(&name, list);
    name
}

/// Chain for traffic to a load balancer, which lets pass whom the service
/// wants and drops the rest; its name.
fn guard_chain(
    rules: &mut Ruleset,
    service: &ServicePort,
    target: &str,
    settings: &Settings,
) -> String {
    let Some(ranges) = &service.source_ranges else {
        return target.to_owned();
    };
    let name = chain_name("fwl", &service.name);
    let mut list = Vec::new();
    for (network, prefix) in ranges {
        list.push(match prefix {
            0 => format!("goto {target}"),
            _ => format!("ip saddr {network}/{prefix} goto {target}"),
        });
        // The node's own traffic comes from the address that it goes to.
        let mask = u32::MAX.checked_shl(32 - u32::from(*prefix)).unwrap_or(0);
        if u32::from(settings.node_ip) & mask == u32::from(*network) {
            let own = service.balancer_ips.iter();
            list.extend(own.map(|ip| format!("ip saddr {ip} goto {target}")));
        }
    }
    list.push("drop".to_owned());
    rules.chain(&name, list);
    name
}

/// Chain that picks one of the endpoints; its name.
fn balance(
    rules: &mut Ruleset,
    service: &ServicePort,
    kind: &str,
    endpoints: &[Endpoint],
) -> String {
    let name = chain_name(kind, &service.name);
    let mut list = Vec::new();
    let mut chains = Vec::new();
    for endpoint in endpoints {
        let chain = endpoint_chain(
            rules,
            &service.name,
            service.protocol,
            endpoint,
            service.affinity,
        );
        if service.affinity.is_some() {
            list.push(format!("ip saddr @{} goto {chain}", affinity_set(&chain)));
        }
        chains.push(chain);
    }
    list.push(match chains.as_slice() {
        [only] => format!("goto {only}"),
        many => {
            let arms: Vec<String> = many
                .iter()
                .enumerate()
                .map(|(i, chain)| format!("{i} : goto {chain}"))
                .collect();
            format!(
                "numgen random mod {} vmap {{ {} }}",
                many.len(),
                arms.join(", ")
            )
        }
    });
    rules.chain(&name, list);
    name
}

fn affinity_set(chain: &str) -> String {
    format!("aff-{chain}")
}

/// Chain that leads to one endpoint; its name.
fn endpoint_chain(
    rules: &mut Ruleset,
    service: &str,
    protocol: &str,
    endpoint: &Endpoint,
    affinity: Option<u32>,
) -> String {
    let Endpoint { ip, port } = endpoint;
    let name = chain_name("ep", &format!("{service}|{protocol}|{ip}|{port}"));
    // A pod that reaches itself through the service must see another source.
    let mut list = vec![format!("ip saddr {ip} jump mark-masquerade")];
    if let Some(seconds) = affinity {
        let set = affinity_set(&name);
        list.push(format!("update @{set} {{ ip saddr }}"));
        let declaration =
            format!("type ipv4_addr; size 65535; flags dynamic,timeout; timeout {seconds}s;");
        rules.set(set, declaration, BTreeSet::new());
    }
    list.push(format!("meta l4proto {protocol} dnat to {ip}:{port}"));
    rules.chain(&name, list);
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::transition;

    fn settings() -> Settings {
        Settings {
            table: "t".into(),
            pod_cidr: "10.244.0.0/24".into(),
            service_cidr: "10.96.0.0/16".into(),
            bridge: "cbr0".into(),
            node_name: "n".into(),
            node_ip: Ipv4Addr::new(10, 244, 0, 1),
            balancer_pool: Some("10.9.0.1-10.9.0.9".parse().unwrap()),
        }
    }

    fn port(endpoints: &[&str]) -> ServicePort {
        let endpoints: Vec<Endpoint> = endpoints
            .iter()
            .map(|ip| Endpoint {
                ip: ip.parse().unwrap(),
                port: 80,
            })
            .collect();
        ServicePort {
            name: "ns/web:".into(),
            protocol: "tcp",
            port: 80,
            cluster_ips: vec!["10.96.0.9".parse().unwrap()],
            external_ips: Vec::new(),
            balancer_ips: Vec::new(),
            source_ranges: None,
            node_port: None,
            any_endpoints: !endpoints.is_empty(),
            external_endpoints: endpoints.clone(),
            endpoints,
            external_local: false,
            affinity: None,
        }
    }

    fn rules(port: ServicePort) -> Ruleset {
        build(
            &Ports {
                services: vec![port],
                host_ports: Vec::new(),
            },
            &settings(),
        )
    }

    fn elements<'a>(rules: &'a Ruleset, map: &str) -> Vec<(&'a str, &'a str)> {
        rules.maps[map]
            .1
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect()
    }

    #[test]
    fn services_with_and_without_endpoints() {
        let alive = rules(port(&["10.244.0.5", "10.244.0.6"]));
        assert_eq!(elements(&alive, SERVICE_IPS)[0].0, "10.96.0.9 . tcp . 80");
        assert!(elements(&alive, DEAD_IPS).is_empty());
        let chain = &alive.chains[&chain_name("svc", "ns/web:")];
        assert!(chain[0].starts_with("numgen random mod 2 vmap { 0 : goto ep-"));
        let dead = rules(port(&[]));
        assert_eq!(
            elements(&dead, DEAD_IPS),
            [("10.96.0.9 . tcp . 80", "goto refuse")]
        );
        let elsewhere = rules(ServicePort {
            any_endpoints: true,
            ..port(&[])
        });
        assert_eq!(
            elements(&elsewhere, DEAD_IPS),
            [("10.96.0.9 . tcp . 80", "drop")]
        );
    }

    #[test]
    fn node_ports_and_policies() {
        let cluster = rules(ServicePort {
            node_port: Some(30080),
            ..port(&["10.244.0.5"])
        });
        assert_eq!(elements(&cluster, NODE_PORTS)[0].0, "tcp . 30080");
        let chain = &cluster.chains[&chain_name("ext", "ns/web:")];
        assert_eq!(chain[0], "jump mark-masquerade");
        let local = rules(ServicePort {
            node_port: Some(30080),
            external_local: true,
            ..port(&["10.244.0.5"])
        });
        let chain = &local.chains[&chain_name("ext", "ns/web:")];
        assert!(chain[0].starts_with("ip saddr 10.244.0.0/24 goto svc-"));
        assert_eq!(chain[1], "fib saddr type local jump mark-masquerade");
    }

    #[test]
    fn load_balancers_let_in_whom_they_want() {
        let balanced = |ranges: Option<Vec<(Ipv4Addr, u8)>>| ServicePort {
            balancer_ips: vec![Ipv4Addr::new(10, 9, 0, 1)],
            source_ranges: ranges,
            ..port(&["10.244.0.5"])
        };
        let open = rules(balanced(None));
        let to = |rules: &Ruleset| rules.maps[SERVICE_IPS].1["10.9.0.1 . tcp . 80"].clone();
        assert!(to(&open).starts_with("goto ext-"));
        let ranges = vec![
            (Ipv4Addr::new(10, 244, 0, 0), 16),
            (Ipv4Addr::new(192, 0, 2, 0), 24),
        ];
        let guarded = rules(balanced(Some(ranges)));
        let chain = &guarded.chains[to(&guarded).trim_start_matches("goto ")];
        let sources: Vec<&str> = chain
            .iter()
            .filter_map(|r| r.split(" goto").next())
            .collect();
        assert_eq!(
            sources,
            [
                "ip saddr 10.244.0.0/16",
                "ip saddr 10.9.0.1",
                "ip saddr 192.0.2.0/24",
                "drop"
            ]
        );
        let anybody = rules(balanced(Some(vec![(Ipv4Addr::UNSPECIFIED, 0)])));
        let chain = &anybody.chains[to(&anybody).trim_start_matches("goto ")];
        assert!(chain[0].starts_with("goto ext-"), "{chain:?}");
        // Nothing of the machine is offered at an address that no service takes.
        assert!(open.chains["filter-input"][2].starts_with("ip daddr 10.9.0.1-10.9.0.9"));
    }

    #[test]
    fn affinity_remembers_clients() {
        let sticky = rules(ServicePort {
            affinity: Some(60),
            ..port(&["10.244.0.5"])
        });
        assert_eq!(sticky.sets.len(), 1);
        let chain = &sticky.chains[&chain_name("svc", "ns/web:")];
        assert!(chain[0].starts_with("ip saddr @aff-ep-"));
    }

    #[test]
    fn steps_touch_only_what_differs() {
        let table = "ip t";
        let one = rules(port(&["10.244.0.5"]));
        assert_eq!(transition(Some(&one), &one, table), "");
        let whole = transition(None, &one, table);
        assert!(whole.starts_with("add table ip t\ndelete table ip t\nadd table ip t\n"));
        let two = rules(port(&["10.244.0.5", "10.244.0.6"]));
        let step = transition(Some(&one), &two, table);
        let kept = chain_name("ep", "ns/web:|tcp|10.244.0.5|80");
        assert!(!step.contains(&format!("chain ip t {kept}")), "{step}");
        assert!(!step.contains("element"), "{step}");
        let back = transition(Some(&two), &one, table);
        let gone = chain_name("ep", "ns/web:|tcp|10.244.0.6|80");
        assert!(
            back.trim_end()
                .ends_with(&format!("delete chain ip t {gone}")),
            "{back}"
        );
        let dead = rules(port(&[]));
        let step = transition(Some(&one), &dead, table);
        let removed = step.find("delete element ip t service-ips").unwrap();
        let deleted = step.find("delete chain").unwrap();
        assert!(removed < deleted);
    }

    #[test]
    fn host_ports_lead_to_pods() {
        let endpoint = Endpoint {
            ip: "10.244.0.5".parse().unwrap(),
            port: 80,
        };
        let ports = Ports {
            services: Vec::new(),
            host_ports: vec![
                (None, "tcp", 8080, endpoint),
                (Some("10.0.0.1".parse().unwrap()), "udp", 53, endpoint),
            ],
        };
        let rules = build(&ports, &settings());
        assert_eq!(elements(&rules, HOST_PORTS)[0].0, "tcp . 8080");
        assert_eq!(
            elements(&rules, HOST_PORTS_BY_IP)[0].0,
            "10.0.0.1 . udp . 53"
        );
    }
}
