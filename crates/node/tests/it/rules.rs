//! The rules of services and policies in a real kernel: any step from one state
//! to the next must leave the table as if it had been written whole.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::support::sandbox::enter;
use coracle_node::nft::transition;
use coracle_node::policies::{model, ruleset};
use coracle_node::proxy::model::{Endpoint, Ports, ServicePort};
use coracle_node::proxy::ruleset::{Settings, build};
use serde_json::{Value, json};

const TABLE: &str = "ip coracle-node";
pub const POLICIES: &str = "inet coracle-node-policies";

pub fn nft(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nft (Debian package nftables)");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}\n{input}");
    String::from_utf8(output.stdout).unwrap()
}

/// The table as the kernel has it: its chains, maps and sets in order of name.
fn listing(table: &str) -> Vec<String> {
    let (family, name) = table.split_once(' ').unwrap();
    let text = nft(&["list", "table", family, name], "");
    let mut parts: Vec<String> = Vec::new();
    for line in text.lines().skip(1) {
        if line.starts_with('\t') && !line.starts_with("\t\t") && line.ends_with('{') {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    for part in &mut parts {
        // Elements of a map come in any order.
        let mut words: Vec<String> = part
            .split([',', '{', '}', '\n'])
            .map(|w| w.trim().trim_start_matches("elements = ").to_owned())
            .filter(|w| !w.is_empty())
            .collect();
        if part.contains("elements") {
            words[1..].sort();
        }
        *part = words.join("\n");
    }
    parts.sort();
    parts
}

/// A small generator: the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 1
    }
}

fn endpoints(numbers: &mut Numbers) -> Vec<Endpoint> {
    let mut list: Vec<Endpoint> = (0..numbers.below(4))
        .map(|_| Endpoint {
            ip: [10, 244, 0, u8::try_from(numbers.below(6) + 2).unwrap()].into(),
            port: 8080,
        })
        .collect();
    list.sort();
    list.dedup();
    list
}

fn ports(numbers: &mut Numbers) -> Ports {
    let mut services = Vec::new();
    for index in 0..6_u8 {
        if numbers.below(3) == 0 {
            continue;
        }
        let endpoints_now = endpoints(numbers);
        services.push(ServicePort {
            name: format!("ns/s{index}:"),
            protocol: ["tcp", "udp", "sctp"][usize::from(index) % 3],
            port: 80,
            cluster_ips: vec![[10, 96, 0, index + 1].into()],
            external_ips: if numbers.flag() {
                vec![[192, 0, 2, index + 1].into()]
            } else {
                Vec::new()
            },
            balancer_ips: if numbers.flag() {
                vec![[10, 9, 0, index + 1].into()]
            } else {
                Vec::new()
            },
            source_ranges: numbers.flag().then(|| {
                vec![
                    ([10, 244, 0, 0].into(), 16),
                    (
                        [10, 244, 0, 0].into(),
                        u8::try_from(numbers.below(17) + 16).unwrap(),
                    ),
                    ([0, 0, 0, 0].into(), 0),
                ]
            }),
            node_port: numbers.flag().then(|| 30_000 + u16::from(index)),
            external_local: numbers.flag(),
            any_endpoints: numbers.flag() || !endpoints_now.is_empty(),
            external_endpoints: if numbers.flag() {
                endpoints_now.clone()
            } else {
                endpoints(numbers)
            },
            endpoints: endpoints_now,
            affinity: numbers.flag().then_some(60),
        });
    }
    let mut host_ports = Vec::new();
    for port in 0..3 {
        if numbers.flag() {
            let host_ip = numbers.flag().then(|| [10, 0, 0, 1].into());
            let endpoint = Endpoint {
                ip: [10, 244, 0, 9].into(),
                port: 80,
            };
            host_ports.push((host_ip, "tcp", 9000 + port, endpoint));
        }
    }
    Ports {
        services,
        host_ports,
    }
}

#[test]
fn steps_lead_to_the_same_table() {
    if enter("rules::steps_lead_to_the_same_table").is_none() {
        return;
    }
    let settings = Settings {
        table: "coracle-node".into(),
        pod_cidr: "10.244.0.0/24".into(),
        service_cidr: "10.96.0.0/16".into(),
        bridge: "cbr0".into(),
        node_name: "n".into(),
        node_ip: [10, 244, 0, 1].into(),
        balancer_pool: Some("10.9.0.1-10.9.0.9".parse().unwrap()),
    };
    let mut numbers = Numbers(7);
    let mut before = None;
    for step in 0..40 {
        let wanted = build(&ports(&mut numbers), &settings);
        nft(&["-f", "-"], &transition(before.as_ref(), &wanted, TABLE));
        let by_steps = listing(TABLE);
        assert!(!by_steps.is_empty());
        if step % 4 == 3 {
            nft(&["-f", "-"], &transition(None, &wanted, TABLE));
            assert_eq!(by_steps, listing(TABLE), "step {step}");
        }
        before = Some(wanted);
    }
}

fn selector(numbers: &mut Numbers) -> Value {
    match numbers.below(3) {
        0 => json!({}),
        _ => json!({"matchLabels": {"app": format!("a{}", numbers.below(3))}}),
    }
}

fn policy_ports(numbers: &mut Numbers) -> Value {
    let protocol = ["TCP", "UDP", "SCTP"][usize::try_from(numbers.below(3)).unwrap()];
    let one = match numbers.below(4) {
        0 => json!({"protocol": protocol}),
        1 => json!({"protocol": protocol, "port": "http"}),
        2 => json!({"protocol": protocol, "port": 80, "endPort": 90}),
        _ => json!({"protocol": protocol, "port": 85}),
    };
    match numbers.below(3) {
        0 => json!([]),
        1 => json!([one]),
        _ => json!([one, {"protocol": protocol, "port": 443}]),
    }
}

fn policy_peers(numbers: &mut Numbers) -> Value {
    match numbers.below(5) {
        0 => json!([]),
        1 => json!([{"podSelector": selector(numbers)}]),
        2 => json!([{"namespaceSelector": {}, "podSelector": selector(numbers)}]),
        3 => json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]),
        _ => json!([{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.3.0.1/32"]}},
            {"podSelector": selector(numbers)}]),
    }
}

fn observed(numbers: &mut Numbers) -> model::Observed {
    let pods = (0..numbers.below(6)).map(|index| {
        json!({"metadata": {"name": format!("p{index}"), "namespace": "ns",
                "labels": {"app": format!("a{}", numbers.below(3))}},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"podIP": format!("10.244.0.{}", index + 2)}})
    });
    let pods = pods.collect::<Vec<_>>();
    let policies = (0..numbers.below(4)).map(|index| {
        json!({"metadata": {"name": format!("n{index}"), "namespace": "ns"}, "spec": {
            "podSelector": selector(numbers), "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": policy_peers(numbers), "ports": policy_ports(numbers)}],
            "egress": [{"to": policy_peers(numbers), "ports": policy_ports(numbers)}]}})
    });
    let policies = policies.collect::<Vec<_>>();
    let read = |value: &Value| Arc::new(serde_json::from_value(value.clone()).unwrap());
    model::Observed {
        policies: policies
            .iter()
            .map(|p| Arc::new(serde_json::from_value(p.clone()).unwrap()))
            .collect(),
        pods: pods.iter().map(read).collect(),
        namespaces: Vec::new(),
    }
}

#[test]
fn policies_lead_to_the_same_table() {
    if enter("rules::policies_lead_to_the_same_table").is_none() {
        return;
    }
    let settings = ruleset::Settings {
        pod_cidr: "10.244.0.0/24".into(),
        bridges: "cbr*".into(),
        dns: Some(([10, 244, 0, 1].into(), 1053)),
    };
    let mut numbers = Numbers(11);
    let mut before = None;
    for step in 0..40 {
        let dns = settings.dns.map(|(ip, _)| ip);
        let model = model::Cache::default().build(&observed(&mut numbers), dns);
        let wanted = ruleset::build(&model, &settings);
        nft(
            &["-f", "-"],
            &transition(before.as_ref(), &wanted, POLICIES),
        );
        if step % 4 == 3 {
            let by_steps = listing(POLICIES);
            nft(&["-f", "-"], &transition(None, &wanted, POLICIES));
            assert_eq!(by_steps, listing(POLICIES), "step {step}");
        }
        before = Some(wanted);
    }
}

#[test]
fn only_a_kernel_without_rules_is_closed() {
    if enter("rules::only_a_kernel_without_rules_is_closed").is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let close = || {
        let closed = coracle_node::policies::close("coracle-node", "10.244.0.0/16", "coracle0");
        runtime.block_on(closed).unwrap();
    };
    close();
    let closed = listing(POLICIES);
    assert!(
        closed.iter().any(|part| part.contains("hook forward")),
        "{closed:?}"
    );
    let known = "add element inet coracle-node-policies pods { 10.244.0.2 }";
    nft(&["-f", "-"], known);
    let opened = listing(POLICIES);
    assert_ne!(opened, closed);
    close();
    assert_eq!(listing(POLICIES), opened, "rules that are there are kept");
}
