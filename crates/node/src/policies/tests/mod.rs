//! What traffic a set of policies lets through.

mod bounds;
mod cases;
mod verdicts;
mod walker;

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::model::{Cache, Model, Observed};
use super::ruleset::{self, Settings};
use crate::nft::Ruleset;
use walker::{Packet, passes};

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
    let policies = policies.iter().enumerate();
    let policies = policies.map(
        |(i, spec)| json!({"metadata": {"namespace": "a", "name": format!("p{i}")}, "spec": spec}),
    );
    Observed {
        policies: policies.map(read).collect(),
        pods: pods.into_iter().map(read).collect(),
        namespaces: ["a", "b", "kube-system"].map(namespace).map(read).into(),
    }
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn rules(policies: &[Value]) -> Ruleset {
    rules_of(&observed(policies))
}

fn model(observed: &Observed) -> Model {
    Cache::default().build(observed, Some(DNS.0))
}

fn rules_of(observed: &Observed) -> Ruleset {
    ruleset::build(&model(observed), &settings())
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
