//! The service proxy's rules in a real kernel: any step from one state to the
//! next must leave the table as if it had been written whole.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::support::sandbox::enter;
use coracle_node::proxy::model::{Endpoint, Ports, ServicePort};
use coracle_node::proxy::ruleset::{Settings, build, transition};

const TABLE: &str = "coracle-node";

fn nft(arguments: &[&str], input: &str) -> String {
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
fn listing() -> Vec<String> {
    let text = nft(&["list", "table", "ip", TABLE], "");
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
        table: TABLE.into(),
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
        let by_steps = listing();
        assert!(!by_steps.is_empty());
        if step % 4 == 3 {
            nft(&["-f", "-"], &transition(None, &wanted, TABLE));
            assert_eq!(by_steps, listing(), "step {step}");
        }
        before = Some(wanted);
    }
}
