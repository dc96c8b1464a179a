//! Pods under several policies, in both directions, on one node and on two: what
//! the rules let through against what the policies say, read in the plainest
//! way.

use super::*;
use crate::policies::ranges;

/// Address, namespace and label of each pod. Of both namespaces there are pods
/// on both nodes.
const PODS: [(&str, &str, &str); 6] = [
    ("10.244.0.2", "a", "web"),
    ("10.244.0.3", "a", "client"),
    ("10.244.1.2", "a", "web"),
    ("10.244.1.3", "b", "client"),
    ("10.244.0.4", "b", "web"),
    ("10.244.1.4", "b", "client"),
];
const NODE: &str = "10.244.1.1";
/// Protocols and ports that are tried.
const TRIED: [(&str, u16); 4] = [("tcp", 80), ("tcp", 8080), ("udp", 80), ("icmp", 0)];

fn world(policies: &[(&str, Value)]) -> Observed {
    let mut all = observed(&[]);
    let pods = PODS.iter().enumerate().map(|(i, (ip, namespace, app))| {
        let mut pod = pod(namespace, app, ip);
        pod["metadata"]["name"] = format!("p{i}").into();
        read(pod)
    });
    all.pods = pods.collect();
    let policies = policies.iter().enumerate().map(|(i, (namespace, spec))| {
        read(json!({"metadata": {"namespace": namespace, "name": format!("p{i}")}, "spec": spec}))
    });
    all.policies = policies.collect();
    all
}

/// What policies say, by themselves.
struct Oracle<'a>(&'a [(&'a str, Value)]);

impl Oracle<'_> {
    fn allows(&self, from: &str, to: &str, protocol: &str, port: u16) -> bool {
        from == to
            || (self.side("Egress", from, to, (to, protocol, port))
                && self.side("Ingress", to, from, (to, protocol, port)))
    }

    /// Whether the policies of one end let the other end in or out.
    fn side(&self, kind: &str, own: &str, other: &str, at: (&str, &str, u16)) -> bool {
        let Some((_, namespace, app)) = PODS.iter().find(|(ip, ..)| *ip == own) else {
            return true;
        };
        let here = self.0.iter().filter(|(home, _)| home == namespace);
        let here = here.filter(|(_, spec)| chosen(&spec["podSelector"], "app", app));
        let types = |spec: &Value| {
            spec["policyTypes"]
                .as_array()
                .unwrap()
                .contains(&json!(kind))
        };
        let mut here = here.filter(|(_, spec)| types(spec)).peekable();
        let (list, peers) = match kind {
            "Egress" => ("egress", "to"),
            _ => ("ingress", "from"),
        };
        here.peek().is_none()
            || here.any(|(home, spec)| {
                let mut rules = spec[list].as_array().into_iter().flatten();
                rules.any(|rule| is_peer(home, &rule[peers], other) && is_port(&rule["ports"], at))
            })
    }
}

fn chosen(selector: &Value, key: &str, value: &str) -> bool {
    let mut labels = selector["matchLabels"].as_object().into_iter().flatten();
    labels.all(|(k, v)| k == key && v == value)
}

fn is_peer(home: &str, peers: &Value, other: &str) -> bool {
    let pod = PODS.iter().find(|(ip, ..)| *ip == other);
    let one = |peer: &Value| {
        if let Some(cidr) = peer["ipBlock"]["cidr"].as_str() {
            let within = |block: &str| {
                let other = u32::from(other.parse::<Ipv4Addr>().unwrap());
                ranges::block(block).is_some_and(|(a, b)| (a..=b).contains(&other))
            };
            let mut except = peer["ipBlock"]["except"].as_array().into_iter().flatten();
            return within(cidr) && !except.any(|e| within(e.as_str().unwrap()));
        }
        pod.is_some_and(|(_, namespace, app)| {
            let namespaces = &peer["namespaceSelector"];
            let here = match namespaces {
                Value::Null => *namespace == home,
                _ => chosen(namespaces, "team", namespace),
            };
            here && chosen(&peer["podSelector"], "app", app)
        })
    };
    let peers = peers.as_array().map_or(&[][..], Vec::as_slice);
    peers.is_empty() || peers.iter().any(one)
}

fn is_port(ports: &Value, (to, protocol, number): (&str, &str, u16)) -> bool {
    let one = |port: &Value| {
        let right = port["protocol"].as_str().unwrap_or("TCP");
        let first = match &port["port"] {
            Value::Null => return right.eq_ignore_ascii_case(protocol),
            // The pods of this name serve it there.
            Value::String(name) if name != "http" => return false,
            Value::String(_) => {
                let pod = PODS.iter().find(|(ip, ..)| *ip == to);
                pod.map_or(0, |(.., app)| if *app == "web" { 8080 } else { 8081 })
            }
            number => number.as_u64().unwrap(),
        };
        let last = port["endPort"].as_u64().unwrap_or(first);
        right.eq_ignore_ascii_case(protocol) && (first..=last).contains(&number.into())
    };
    let ports = ports.as_array().map_or(&[][..], Vec::as_slice);
    ports.is_empty() || ports.iter().any(one)
}

/// Compares every connection that can be tried.
#[track_caller]
fn compare(policies: &[(&str, Value)]) {
    let rules = rules_of(&world(policies));
    let ends = || PODS.iter().map(|(ip, ..)| *ip).chain([WORLD, NODE]);
    for (from, to) in ends().flat_map(|from| ends().map(move |to| (from, to))) {
        // What the node sends, and what passes by, is not filtered.
        if from == NODE || (from == WORLD && [WORLD, NODE].contains(&to)) {
            continue;
        }
        let hook = if to == NODE { "input" } else { "forward" };
        for (protocol, port) in TRIED {
            let packet = Packet {
                from,
                to,
                protocol,
                port,
            };
            assert_eq!(
                passes(&rules, hook, packet),
                Oracle(policies).allows(from, to, protocol, port),
                "{from} {to} {protocol}/{port} with {policies:#?}\n{rules:#?}"
            );
        }
    }
}

/// Of either end: no policy, one that lets the other in or out, one that does
/// not, and both of these. A connection is made if both ends have no policy or
/// one that lets it.
#[test]
fn each_end_needs_one_policy_that_agrees() {
    let spec = |kind: &str, app: &str, peer: &str| {
        let (list, peers) = match kind {
            "Egress" => ("egress", "to"),
            _ => ("ingress", "from"),
        };
        let mut spec = json!({"podSelector": {"matchLabels": {"app": app}}, "policyTypes": [kind]});
        spec[list] = json!([{peers: [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": peer}}}]}]);
        spec
    };
    let choices: [(&[&str], bool); 4] = [
        (&[], true),
        (&["right"], true),
        (&["wrong"], false),
        (&["wrong", "right"], true),
    ];
    // From a/client, to a pod of the same namespace and one of another, on the
    // same node and on another.
    let from = "10.244.0.3";
    for (to, namespace) in [
        ("10.244.0.2", "a"),
        ("10.244.1.2", "a"),
        ("10.244.0.4", "b"),
    ] {
        for ((senders, out), (receivers, into)) in choices
            .iter()
            .flat_map(|out| choices.iter().map(move |into| (*out, *into)))
        {
            let peer = |word: &str, right: &str| match word {
                "right" => right.to_owned(),
                _ => "nobody".to_owned(),
            };
            let senders = senders
                .iter()
                .map(|w| ("a", spec("Egress", "client", &peer(w, "web"))));
            let receivers = receivers.iter();
            let receivers =
                receivers.map(|w| (namespace, spec("Ingress", "web", &peer(w, "client"))));
            let policies: Vec<(&str, Value)> = senders.chain(receivers).collect();
            let packet = Packet {
                from,
                to,
                protocol: "tcp",
                port: 80,
            };
            let rules = rules_of(&world(&policies));
            let seen = passes(&rules, "forward", packet);
            assert_eq!(seen, out && into, "{to} with {policies:#?}");
            compare(&policies);
        }
    }
}

/// A small generator: the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn one_of<T: Clone>(&mut self, list: &[T]) -> T {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let count = u64::try_from(list.len()).unwrap();
        list[usize::try_from((self.0 >> 33) % count).unwrap()].clone()
    }

    fn some<T: Clone>(&mut self, most: usize, list: &[T]) -> Vec<T> {
        let counts: Vec<usize> = (0..=most).collect();
        (0..self.one_of(&counts))
            .map(|_| self.one_of(list))
            .collect()
    }
}

#[test]
fn rules_let_through_what_policies_say() {
    let app = |name: &str| json!({"matchLabels": {"app": name}});
    let team = |name: &str| json!({"matchLabels": {"team": name}});
    let selectors = [json!({}), app("web"), app("client"), app("nobody")];
    let peers = [
        json!({"podSelector": {}}),
        json!({"podSelector": app("client")}),
        json!({"podSelector": app("web")}),
        json!({"namespaceSelector": {}}),
        json!({"namespaceSelector": team("b")}),
        json!({"namespaceSelector": team("a"), "podSelector": app("web")}),
        json!({"ipBlock": {"cidr": "10.244.1.0/24", "except": ["10.244.1.3/32"]}}),
        json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.244.0.0/16"]}}),
        json!({"ipBlock": {"cidr": "2001:db8::/32"}}),
    ];
    let ports = [
        json!({"port": 80}),
        json!({"port": "http"}),
        json!({"protocol": "UDP"}),
        json!({"port": 8000, "endPort": 8100}),
        json!({"port": "absent"}),
    ];
    let types = [
        json!(["Ingress"]),
        json!(["Egress"]),
        json!(["Ingress", "Egress"]),
    ];
    let mut numbers = Numbers(5);
    for _ in 0..300 {
        let mut policies = Vec::new();
        for namespace in numbers.some(6, &["a", "b"]) {
            let rule = |numbers: &mut Numbers, list: &str| json!({list: numbers.some(2, &peers), "ports": numbers.some(2, &ports)});
            let spec = json!({
                "podSelector": numbers.one_of(&selectors),
                "policyTypes": numbers.one_of(&types),
                "ingress": [rule(&mut numbers, "from"), rule(&mut numbers, "from")],
                "egress": [rule(&mut numbers, "to")],
            });
            policies.push((namespace, spec));
        }
        compare(&policies);
    }
}
