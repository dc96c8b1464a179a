//! What many network policies cost: to make rules of them, and to write these.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::rules::{POLICIES, nft};
use crate::support::sandbox::enter;
use coracle_node::nft::{Ruleset, transition};
use coracle_node::policies::{model, ruleset};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Pods of each namespace.
const PODS: usize = 10;

fn read<T: DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

/// A policy as people write them: some pods, peers by label, block and
/// namespace, and a few ports.
fn policy(namespace: usize, index: usize) -> Value {
    let app = |n: usize| json!({"matchLabels": {"app": format!("a{}", n % PODS)}});
    let ports =
        json!([{"port": 80}, {"port": 8000 + index % 1000, "protocol": "UDP"}, {"port": "http"}]);
    json!({"metadata": {"name": format!("p{index}"), "namespace": format!("ns{namespace}")},
        "spec": {"podSelector": app(index), "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": app(index + 1)},
                {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}], "ports": ports}],
            "egress": [{"to": [{"podSelector": app(index + 2)}], "ports": ports},
                {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}],
                 "ports": [{"port": 53, "protocol": "UDP"}]}]}})
}

fn pod(namespace: usize, index: usize) -> Value {
    let number = namespace * PODS + index + 2;
    json!({"metadata": {"name": format!("p{index}"), "namespace": format!("ns{namespace}"),
            "labels": {"app": format!("a{index}"), "tier": "x"}},
        "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"podIP": format!("10.244.{}.{}", number / 256, number % 256)}})
}

fn observed(namespaces: usize, policies: usize) -> model::Observed {
    let each = |count: usize, make: fn(usize, usize) -> Value| {
        (0..namespaces).flat_map(move |n| (0..count).map(move |i| make(n, i)))
    };
    model::Observed {
        policies: each(policies, policy).map(read).collect(),
        pods: each(PODS, pod).map(read).collect(),
        namespaces: (0..namespaces)
            .map(|n| read(json!({"metadata": {"name": format!("ns{n}")}})))
            .collect(),
    }
}

fn rules(observed: &model::Observed, cache: &mut model::Cache) -> Ruleset {
    let settings = ruleset::Settings {
        pod_cidr: "10.244.0.0/16".into(),
        bridges: "cbr*".into(),
        dns: Some(([10, 244, 0, 1].into(), 1053)),
    };
    let dns = settings.dns.map(|(ip, _)| ip);
    ruleset::build(&cache.build(observed, dns), &settings)
}

/// Chains, rules, sets and elements.
fn size(rules: &Ruleset) -> usize {
    let sets = rules.sets.values().map(|(_, elements)| 1 + elements.len());
    let maps = rules.maps.values().map(|(_, elements)| elements.len());
    let chains = rules.chains.values().map(|lines| 1 + lines.len());
    sets.chain(maps).chain(chains).sum()
}

#[test]
fn cost_grows_with_what_there_is() {
    if enter("policy_cost::cost_grows_with_what_there_is").is_none() {
        return;
    }
    let mut one = None;
    for namespaces in [1, 10, 100] {
        let mut all = observed(namespaces, 100);
        let mut cache = model::Cache::default();
        let (before, built) = timed(|| rules(&all, &mut cache));
        // Namespaces share what they have alike.
        let most = namespaces * *one.get_or_insert(size(&before));
        assert!(size(&before) <= most, "{} > {most}", size(&before));
        let text = transition(None, &before, POLICIES);
        let ((), written) = timed(|| drop(nft(&["-f", "-"], &text)));
        let mut other = policy(0, 0);
        other["metadata"]["name"] = json!("other");
        other["spec"]["ingress"][0]["ports"][0]["port"] = json!(81);
        all.policies.push(read(other));
        let (after, rebuilt) = timed(|| rules(&all, &mut cache));
        let (step, compared) = timed(|| transition(Some(&before), &after, POLICIES));
        let ((), stepped) = timed(|| drop(nft(&["-f", "-"], &step)));
        assert!(step.len() < 10_000, "one policy more takes {}", step.len());
        println!(
            "{namespaces} x 100: built in {built:?}, {} KiB written in {written:?}; one more: \
             built in {rebuilt:?}, compared in {compared:?}, {} B written in {stepped:?}",
            text.len() / 1024,
            step.len(),
        );
    }
}

/// The kernel takes what the bounds let through, and hardly notices what they
/// do not.
#[test]
fn what_is_at_the_bounds_is_written() {
    if enter("policy_cost::what_is_at_the_bounds_is_written").is_none() {
        return;
    }
    let spec = |n: usize| {
        let far: Vec<Value> = (0..8_000)
            .map(|n| json!({"ipBlock": {"cidr": format!("11.{}.{}.0/25", n / 200, n % 200)}}))
            .collect();
        let lists = |n: usize| json!({"ports": [{"port": n}, {"port": n + 2}]});
        match n {
            0 => json!({"podSelector": {}, "ingress": [{"from": far}]}),
            1 => json!({"podSelector": {}, "ingress": (0..100).map(lists).collect::<Vec<_>>()}),
            _ => {
                let peers: Vec<Value> = (0..400).map(peer).collect();
                let rule = |n: usize| {
                    let port = |protocol| json!({"port": n + 1, "protocol": protocol});
                    let ports = ["TCP", "UDP", "SCTP"].map(port);
                    json!({"to": peers, "ports": ports})
                };
                json!({"podSelector": {}, "egress": [rule(1), rule(2), rule(3)]})
            }
        }
    };
    let mut full = observed(1, 0);
    for n in 0..3 {
        let name = json!({"name": format!("full{n}"), "namespace": "ns0"});
        full.policies
            .push(read(json!({"metadata": name, "spec": spec(n)})));
    }
    let (cases, written) = ([full, observed(1, 5000)], [true, false]);
    for (all, wanted) in cases.into_iter().zip(written) {
        let mut cache = model::Cache::default();
        let (rules, built) = timed(|| rules(&all, &mut cache));
        let enforced = rules.chains.len() > 5;
        assert_eq!(enforced, wanted, "{:?}", rules.chains.keys());
        let text = transition(None, &rules, POLICIES);
        let ((), written) = timed(|| drop(nft(&["-f", "-"], &text)));
        println!(
            "built in {built:?}, {} KiB written in {written:?}",
            text.len() / 1024
        );
    }
}

/// A peer that is two pods.
fn peer(n: usize) -> Value {
    json!({"podSelector": {"matchExpressions": [
        {"key": "app", "operator": "In", "values": ["a0", "a1"]},
        {"key": format!("x{n}"), "operator": "DoesNotExist"}]}})
}

fn timed<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = run();
    (result, start.elapsed())
}
