//! What traffic a set of policies lets through, by a reader of the ruleset
//! that knows as much of nftables as the ruleset uses.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::policies::model::{self, Observed};

const DNS: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 244, 0, 1), 1053);
const WORLD: &str = "198.51.100.7";
/// No pod's address, in a packet that a pod sends nonetheless.
const FORGED: &str = "8.8.8.8";

fn settings() -> Settings {
    Settings {
        pod_cidr: "10.244.0.0/16".into(),
        bridges: "coracle*".into(),
        dns: Some(DNS),
    }
}

fn pod(namespace: &str, name: &str, ip: &str) -> Value {
    json!({
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "a", "ports": [
            {"name": "http", "containerPort": if name == "web" { 8080 } else { 8081 }},
            {"name": "dns", "containerPort": 5353, "protocol": "UDP"}]}]},
        "status": {"phase": "Running", "podIP": ip},
    })
}

/// `a/web` is 10.244.0.2, `a/client` .3, `b/web` 10.244.1.2, `b/client` .3.
fn observed(policies: &[Value]) -> Observed {
    let pods = [
        pod("a", "web", "10.244.0.2"),
        pod("a", "client", "10.244.0.3"),
        pod("b", "web", "10.244.1.2"),
        pod("b", "client", "10.244.1.3"),
    ];
    let namespace = |name: &str| json!({"metadata": {"name": name, "labels": {"team": name, "kubernetes.io/metadata.name": name}}});
    Observed {
        policies: policies
            .iter()
            .enumerate()
            .map(|(i, spec)| {
                let meta = json!({"namespace": "a", "name": format!("p{i}")});
                let policy = json!({"metadata": meta, "spec": spec});
                Arc::new(serde_json::from_value(policy).unwrap())
            })
            .collect(),
        pods: pods
            .into_iter()
            .map(|p| Arc::new(serde_json::from_value(p).unwrap()))
            .collect(),
        namespaces: ["a", "b", "kube-system"]
            .map(|n| Arc::new(serde_json::from_value(namespace(n)).unwrap()))
            .into(),
    }
}

fn rules(policies: &[Value]) -> Ruleset {
    let model = model::build(&observed(policies), Some(DNS.0));
    build(&model, &settings()).0
}

#[derive(Clone, Copy)]
struct Packet<'a> {
    from: &'a str,
    to: &'a str,
    protocol: &'a str,
    port: u16,
}

/// Whether the first packet of a connection passes a base chain.
fn passes(rules: &Ruleset, base: &str, packet: Packet<'_>) -> bool {
    walk(rules, base, packet).unwrap_or(true)
}

fn walk(rules: &Ruleset, chain: &str, packet: Packet<'_>) -> Option<bool> {
    for rule in &rules.chains[chain] {
        let mut words = rule.split_whitespace().collect::<Vec<_>>();
        if words[0] == "ct" || rule.contains("ipv6") || rule.contains("\"lo\"") {
            continue;
        }
        if words[0] == "iifname" {
            if packet.from != FORGED && !packet.from.starts_with("10.244.") {
                continue;
            }
            words.drain(..2);
        }
        let verdict: Vec<&str>;
        if let Some(at) = words.iter().position(|w| *w == "vmap") {
            let key = if words[1] == "saddr" {
                packet.from
            } else {
                packet.to
            };
            let map = words[at + 1].trim_start_matches('@');
            let Some(found) = rules.maps[map].1.get(key) else {
                continue;
            };
            verdict = found.split_whitespace().collect();
        } else {
            let count = match words[words.len().saturating_sub(2)] {
                "goto" | "jump" => 2,
                _ => 1,
            };
            verdict = words.split_off(words.len() - count);
            if !matches(rules, &words, packet) {
                continue;
            }
        }
        match verdict[..] {
            ["accept"] => return Some(true),
            ["drop"] => return Some(false),
            ["goto", target] => return walk(rules, target, packet),
            ["jump", target] => {
                if let Some(end) = walk(rules, target, packet) {
                    return Some(end);
                }
            }
            _ => panic!("{rule}"),
        }
    }
    None
}

fn matches(rules: &Ruleset, words: &[&str], packet: Packet<'_>) -> bool {
    let text = words.join(" ");
    let member = |set: &str, element: &str| rules.sets[set].1.contains(element);
    let (mut rest, mut good) = (text.as_str(), true);
    while !rest.is_empty() {
        let (subject, after) = [
            "ip saddr . ip daddr",
            "ip daddr . meta l4proto . th dport",
            "ip saddr",
            "ip daddr",
            "meta l4proto",
            "tcp dport",
            "udp dport",
            "sctp dport",
        ]
        .into_iter()
        .find_map(|s| Some((s, rest.strip_prefix(s)?.trim_start())))
        .unwrap_or_else(|| panic!("{rest}"));
        let (negated, after) = match after.strip_prefix("!= ") {
            Some(after) => (true, after),
            None => (false, after),
        };
        let (operand, after) = match after.strip_prefix("{ ") {
            Some(list) => list.split_once(" }").unwrap(),
            None => after.split_once(' ').unwrap_or((after, "")),
        };
        let (value, right_protocol) = match subject {
            "ip saddr . ip daddr" => (format!("{} . {}", packet.from, packet.to), true),
            "ip daddr . meta l4proto . th dport" => (
                format!("{} . {} . {}", packet.to, packet.protocol, packet.port),
                true,
            ),
            "ip saddr" => (packet.from.to_owned(), true),
            "ip daddr" => (packet.to.to_owned(), true),
            "meta l4proto" => (packet.protocol.to_owned(), true),
            _ => (
                packet.port.to_string(),
                subject.starts_with(packet.protocol),
            ),
        };
        let holds = right_protocol
            && match operand.strip_prefix('@') {
                Some(set) => member(set, &value),
                None => operand.split(", ").any(|part| within(&value, part)),
            };
        good &= holds != negated;
        rest = after.trim_start();
    }
    good
}

fn within(value: &str, part: &str) -> bool {
    let number = |text: &str| -> Option<u64> {
        match text.parse::<Ipv4Addr>() {
            Ok(ip) => Some(u32::from(ip).into()),
            Err(_) => text.parse().ok(),
        }
    };
    if let Some((first, last)) = crate::policies::ranges::block(part) {
        return (u64::from(first)..=u64::from(last)).contains(&number(value).unwrap());
    }
    match part.split_once('-') {
        Some((a, b)) => (number(a)..=number(b)).contains(&number(value)),
        None => part == value,
    }
}

const A_WEB: &str = "10.244.0.2";
const A_CLIENT: &str = "10.244.0.3";
const B_WEB: &str = "10.244.1.2";
const B_CLIENT: &str = "10.244.1.3";

/// Connections by words: `FROM TO PROTOCOL/PORT`, and whether they succeed.
#[track_caller]
fn check(policies: &[Value], expected: &[(&str, bool)]) {
    let rules = rules(policies);
    for (text, wanted) in expected {
        let words: Vec<&str> = text.split_whitespace().collect();
        let ip = |name: &str| match name {
            "a/web" => A_WEB,
            "a/client" => A_CLIENT,
            "b/web" => B_WEB,
            "b/client" => B_CLIENT,
            "world" => WORLD,
            "forger" => FORGED,
            "dns" => "10.244.0.1",
            "node" => "10.244.1.1",
            "stranger" => "10.244.5.5",
            other => panic!("{other}"),
        };
        let (protocol, port) = words[2].split_once('/').unwrap();
        let packet = Packet {
            from: ip(words[0]),
            to: ip(words[1]),
            protocol,
            port: port.parse().unwrap(),
        };
        let base = match words[1] {
            "dns" | "node" => "input",
            _ => "forward",
        };
        let seen = passes(&rules, base, packet);
        assert_eq!(seen, *wanted, "{text} with {policies:?}\n{rules:#?}");
    }
}

#[test]
fn deny_all() {
    let none = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    check(
        &[none],
        &[
            ("a/client a/web tcp/80", false),
            ("b/client a/web tcp/80", false),
            ("world a/web tcp/80", false),
            ("a/client b/web tcp/80", false),
            ("a/client world tcp/80", false),
            ("a/client world icmp/0", false),
            ("a/client dns udp/1053", false),
            ("a/client node tcp/6443", false),
            // Itself, through a service.
            ("a/web a/web tcp/80", true),
            // Nobody isolates these.
            ("b/client b/web tcp/80", true),
            ("b/client world icmp/0", true),
            ("b/client node tcp/6443", true),
            // Not known yet.
            ("stranger b/web tcp/80", false),
            ("stranger node tcp/6443", false),
            ("world stranger tcp/80", false),
        ],
    );
}

/// The rules of a host that does not know its policies yet.
#[test]
fn unknown_pods_talk_to_nobody() {
    let (rules, _) = build(&Model::default(), &settings());
    for (from, to, base) in [
        (A_CLIENT, B_WEB, "forward"),
        (A_CLIENT, WORLD, "forward"),
        (WORLD, A_WEB, "forward"),
        (A_CLIENT, "10.244.0.1", "input"),
        (A_CLIENT, "169.254.169.254", "forward"),
    ] {
        let packet = Packet {
            from,
            to,
            protocol: "tcp",
            port: 80,
        };
        assert!(!passes(&rules, base, packet), "{from} {to}");
    }
}

#[test]
fn pods_send_under_addresses_of_pods() {
    let egress = json!({"podSelector": {}, "policyTypes": ["Egress"]});
    check(
        std::slice::from_ref(&egress),
        &[
            ("forger world udp/53", false),
            ("forger b/web tcp/80", false),
            ("forger node udp/1053", false),
            ("world b/web tcp/80", true),
            ("b/client world udp/53", true),
        ],
    );
    // Also where a connection is under way.
    let rules = rules(&[egress]);
    for base in ["forward", "input"] {
        let at = |text: &str| rules.chains[base].iter().position(|r| r.contains(text));
        assert!(at("ip saddr != 10.244.0.0/16 drop") < at("ct state"));
        assert!(at("ip saddr != 10.244.0.0/16 drop").is_some());
    }
}

#[test]
fn types_default_by_what_is_there() {
    let nothing = json!({"podSelector": {}});
    check(
        &[nothing],
        &[
            ("a/client world tcp/80", true),
            ("world a/client tcp/80", false),
        ],
    );
    let egress = json!({"podSelector": {}, "egress": [{}]});
    check(
        &[egress],
        &[
            ("a/client world tcp/80", true),
            ("a/client node tcp/80", true),
            ("world a/client tcp/80", false),
            ("b/client a/client tcp/80", false),
        ],
    );
    let out = json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [{}]});
    check(
        &[out],
        &[
            ("a/client world tcp/80", false),
            ("world a/client tcp/80", true),
        ],
    );
    let all = json!({"podSelector": {}, "ingress": [{}]});
    check(&[all], &[("world a/client icmp/0", true)]);
}

#[test]
fn peers() {
    let from = |peers: Value| json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": peers}]});
    let client = json!({"matchLabels": {"app": "client"}});
    check(
        &[from(json!([{"podSelector": client}]))],
        &[
            ("a/client a/web tcp/80", true),
            ("b/client a/web tcp/80", false),
            ("world a/client tcp/80", true),
        ],
    );
    let team_b = json!({"matchLabels": {"team": "b"}});
    check(
        &[from(json!([{"namespaceSelector": team_b}]))],
        &[
            ("a/client a/web tcp/80", false),
            ("b/client a/web tcp/80", true),
            ("b/web a/web tcp/80", true),
        ],
    );
    check(
        &[from(
            json!([{"namespaceSelector": team_b, "podSelector": client}]),
        )],
        &[
            ("b/client a/web tcp/80", true),
            ("b/web a/web tcp/80", false),
            ("a/client a/web tcp/80", false),
        ],
    );
    // Two peers are either.
    check(
        &[from(
            json!([{"namespaceSelector": team_b}, {"podSelector": client}]),
        )],
        &[
            ("b/web a/web tcp/80", true),
            ("a/client a/web tcp/80", true),
            ("world a/web tcp/80", false),
        ],
    );
    let everywhere = json!([{"namespaceSelector": {}}]);
    check(
        &[from(everywhere)],
        &[("b/web a/web tcp/80", true), ("world a/web tcp/80", false)],
    );
    let odd = json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]});
    check(
        &[from(json!([{"podSelector": odd}]))],
        &[
            ("a/client a/web tcp/80", true),
            ("b/client a/web tcp/80", false),
        ],
    );
}

#[test]
fn blocks() {
    let block = |cidr: &str, except: Value| {
        json!({"podSelector": {}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"ipBlock": {"cidr": cidr, "except": except}}]}]})
    };
    check(
        &[block("0.0.0.0/0", json!(["10.0.0.0/8", "169.254.0.0/16"]))],
        &[
            ("a/client world tcp/80", true),
            ("a/client b/web tcp/80", false),
            ("a/client node tcp/80", false),
        ],
    );
    check(
        &[block("0.0.0.0/0", json!([]))],
        &[
            ("a/client b/web tcp/80", true),
            ("a/client dns tcp/1053", true),
        ],
    );
    check(
        &[block("10.244.1.3/32", json!([]))],
        &[
            ("a/client b/client tcp/1", true),
            ("a/client b/web tcp/1", false),
        ],
    );
    check(
        &[block("2001:db8::/32", json!([]))],
        &[("a/client world tcp/80", false)],
    );
    check(
        &[block("10.0.0.0/8", json!(["10.0.0.0/8"]))],
        &[("a/client b/web tcp/80", false)],
    );
}

#[test]
fn ports() {
    let to = |ports: Value| json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"ports": ports}]});
    check(
        &[to(
            json!([{"port": 80}, {"port": 443}, {"port": 8000, "endPort": 8010}]),
        )],
        &[
            ("world a/web tcp/80", true),
            ("world a/web tcp/443", true),
            ("world a/web tcp/8005", true),
            ("world a/web tcp/8011", false),
            ("world a/web udp/80", false),
            ("world a/web icmp/80", false),
        ],
    );
    check(
        &[to(
            json!([{"protocol": "UDP"}, {"port": 9, "protocol": "SCTP"}]),
        )],
        &[
            ("world a/web udp/77", true),
            ("world a/web tcp/77", false),
            ("world a/web sctp/9", true),
            ("world a/web sctp/8", false),
        ],
    );
    check(
        &[to(json!([{"port": "http"}]))],
        &[
            ("world a/web tcp/8080", true),
            ("world a/web tcp/8081", false),
        ],
    );
    check(
        &[to(
            json!([{"port": "dns", "protocol": "UDP"}, {"port": "absent"}]),
        )],
        &[
            ("world a/web udp/5353", true),
            ("world a/web tcp/5353", false),
        ],
    );
    // A named port is the receiver's.
    let out = json!({"podSelector": {}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}],
            "ports": [{"port": "http"}]}]});
    check(
        &[out],
        &[
            ("a/client b/web tcp/8080", true),
            ("a/client b/client tcp/8080", false),
            ("a/client b/client tcp/8081", true),
            ("a/client a/web tcp/8080", false),
        ],
    );
}

#[test]
fn both_ends_must_agree_and_policies_add_up() {
    let deny = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let out = json!({"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]});
    let r#in = json!({"podSelector": {"matchLabels": {"app": "web"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": 80}]}]});
    check(
        &[deny.clone(), out.clone()],
        &[("a/client a/web tcp/80", false)],
    );
    check(
        &[deny, out, r#in],
        &[
            ("a/client a/web tcp/80", true),
            ("a/client a/web tcp/81", false),
            ("a/web a/client tcp/80", false),
            ("a/client b/web tcp/80", false),
        ],
    );
}

#[test]
fn dns_of_the_host_counts_as_the_usual_pod() {
    let to = |rule: Value| json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [rule]});
    let dns = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}});
    for (rule, udp, tcp) in [
        (json!({"to": [dns]}), true, true),
        (
            json!({"to": [dns], "ports": [{"port": 53, "protocol": "UDP"}]}),
            true,
            false,
        ),
        (
            json!({"ports": [{"port": 53, "protocol": "TCP"}]}),
            false,
            true,
        ),
        (
            json!({"ports": [{"port": "dns", "protocol": "UDP"}]}),
            true,
            false,
        ),
        (json!({"ports": [{"port": 443}]}), false, false),
        (json!({"to": [{"podSelector": {}}]}), false, false),
        (
            json!({"to": [{"ipBlock": {"cidr": "10.244.0.1/32"}}], "ports": [{"port": 53, "protocol": "UDP"}]}),
            true,
            false,
        ),
    ] {
        check(
            &[to(rule)],
            &[
                ("a/client dns udp/1053", udp),
                ("a/client dns tcp/1053", tcp),
                ("a/client dns tcp/6443", false),
            ],
        );
    }
}

#[test]
fn addresses_belong_to_the_pods_that_have_them_now() {
    let mut all = observed(&[]);
    let mut more = |name: &str, pointer: &str, key: &str, value: Value| {
        let mut pod = pod("c", name, "10.244.0.2");
        pod.pointer_mut(pointer).unwrap()[key] = value;
        all.pods
            .push(Arc::new(serde_json::from_value(pod).unwrap()));
    };
    more("ended", "/status", "phase", json!("Succeeded"));
    more("host", "/spec", "hostNetwork", json!(true));
    let created = json!("2026-01-01T00:00:00Z");
    more("newer", "/metadata", "creationTimestamp", created);
    let policy = json!({"metadata": {"namespace": "c", "name": "p"}, "spec": {"podSelector": {}}});
    all.policies
        .push(Arc::new(serde_json::from_value(policy).unwrap()));
    let model = model::build(&all, None);
    assert_eq!(model.pods.len(), 4);
    let isolated: Vec<String> = model.ingress.keys().map(Ipv4Addr::to_string).collect();
    assert_eq!(isolated, [A_WEB]);
}

#[test]
fn too_many_rules_let_nothing_through() {
    let ports: Vec<Value> = (0..2000).map(|n| json!({"port": n * 2})).collect();
    let peers: Vec<Value> = (0..3000)
        .map(|n| json!({"podSelector": {"matchLabels": {"app": format!("x{n}")}}}))
        .collect();
    let policy = |extra: Value| json!({"podSelector": {}, "ingress": [{"from": peers, "ports": ports}, {"from": peers}, extra]});
    let port = |n: u16| json!({"ports": [{"port": n}]});
    let many = [policy(port(1)), policy(json!({"from": peers}))];
    let model = model::build(&observed(&many), None);
    let (rules, exceeded) = build(&model, &settings());
    assert_eq!(exceeded.len(), 1);
    let count: usize = rules.chains.values().map(Vec::len).sum();
    assert!(count < MAX_RULES + 100, "{count}");
    let packet = Packet {
        from: WORLD,
        to: A_WEB,
        protocol: "tcp",
        port: 1,
    };
    assert!(passes(&rules, "forward", packet), "the first still counts");
    let packet = Packet { port: 3, ..packet };
    assert!(!passes(&rules, "forward", packet));
}

#[test]
fn pods_under_the_same_policies_share_a_chain() {
    let rules = rules(&[json!({"podSelector": {}}), json!({"podSelector": {}})]);
    let chains: BTreeSet<&String> = rules.maps[INGRESS].1.values().collect();
    assert_eq!(rules.maps[INGRESS].1.len(), 2);
    assert_eq!(chains.len(), 1);
}
