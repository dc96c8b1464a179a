//! Namespaces with too many policies, and those beside them.

use std::time::Duration;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::runtime::watcher::Event;

use super::*;
use crate::policies::bounds::{Bound, MAX_MEMBERS, MAX_RULES, MAX_SETS, MAX_TERMS, SHARED, terms};
use crate::policies::held::Lengths;
use crate::policies::{COALESCE, MAX_PAUSE, keep_of_pod, pause};

fn policy(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

fn app(name: &str) -> Value {
    json!({"matchLabels": {"app": name}})
}

fn labelled(count: usize) -> Vec<Value> {
    let peer = |n| json!({"podSelector": {"matchLabels": {"app": format!("x{n}")}}});
    (0..count).map(peer).collect()
}

fn numbered(count: usize) -> Vec<Value> {
    (0..count).map(|n| json!({"port": 2 * n + 1})).collect()
}

/// Pods of namespace `a` beside those that are there.
fn crowd(count: usize) -> Vec<Value> {
    let ip = |n: usize| format!("10.244.{}.{}", 10 + n / 250, 2 + n % 250);
    (0..count)
        .map(|n| pod("a", &format!("c{n}"), &ip(n)))
        .collect()
}

/// Policies of `a`, pods of `a` that are there besides, and the bound that is
/// exceeded.
fn excessive() -> Vec<(Vec<Value>, Vec<Value>, Bound)> {
    let web = json!({"podSelector": app("web")});
    let with = |key: &str, value: Value| {
        let mut spec = web.clone();
        spec[key] = value;
        spec
    };
    let many = |count: usize, spec: &Value| vec![spec.clone(); count];
    let everyone =
        json!({"podSelector": {"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}});
    let blocks: Vec<Value> = (0..30_000)
        .map(|n| json!({"ipBlock": {"cidr": format!("10.{}.{}.0/32", n / 200, n % 200)}}))
        .collect();
    let values: Vec<String> = (0..30_000).map(|n| format!("x{n}")).collect();
    let foreign: Vec<Value> = (0..MAX_MEMBERS / SHARED + 1)
        .map(|n| json!({"namespaceSelector": {}, "podSelector": app(&format!("x{n}"))}))
        .collect();
    let by_name: Vec<Value> = (0..MAX_MEMBERS / SHARED + 1)
        .map(|n| json!({"port": format!("n{n}")}))
        .collect();
    let own: Vec<Value> = (0..400)
        .map(|n| json!({"podSelector": {"matchExpressions": [{"key": format!("x{n}"), "operator": "DoesNotExist"}]}}))
        .collect();
    let pairs = (0..=MAX_SETS).map(|n| json!({"ports": [{"port": n}, {"port": n + 2}]}));
    vec![
        (many(MAX_TERMS, &web), vec![], Bound::Terms),
        (
            vec![with("ingress", json!([{"from": blocks}]))],
            vec![],
            Bound::Terms,
        ),
        (
            vec![
                web.clone(),
                json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": values}]}}),
            ],
            vec![],
            Bound::Terms,
        ),
        (many(600, &everyone), crowd(120), Bound::Members),
        (
            vec![with("ingress", json!([{"from": own}]))],
            crowd(200),
            Bound::Members,
        ),
        (
            vec![with("ingress", json!([{"from": foreign}]))],
            vec![],
            Bound::Members,
        ),
        (
            vec![with("ingress", json!([{"ports": by_name}]))],
            vec![],
            Bound::Members,
        ),
        (
            vec![with("ingress", Value::Array(pairs.collect()))],
            vec![],
            Bound::Sets,
        ),
        (many(MAX_RULES, &web), vec![], Bound::Rules),
        (
            vec![with("ingress", json!([{"from": labelled(MAX_RULES + 1)}]))],
            vec![],
            Bound::Rules,
        ),
        (
            vec![
                with(
                    "ingress",
                    json!([{"from": labelled(400), "ports": [{"port": 1}, {"port": 1, "protocol": "UDP"}, {"port": "http"}]}])
                );
                4
            ],
            vec![],
            Bound::Rules,
        ),
        (
            vec![
                json!({"podSelector": {}, "ingress": [{"from": labelled(3000), "ports": [{"port": 1}]}]}),
            ],
            crowd(120),
            Bound::Paths,
        ),
    ]
}

#[test]
fn too_many_policies_isolate_the_pods_that_they_choose_and_nobody_else() {
    for (specs, crowd, bound) in excessive() {
        let mut all = observed(&specs);
        all.pods.extend(crowd.into_iter().map(read));
        let fair = json!({"podSelector": app("web"), "ingress": [{"from": [{"podSelector": app("client")}, {"namespaceSelector": {"matchLabels": {"team": "a"}}}]}]});
        all.policies.push(read(policy("b", "fair", &fair)));
        let model = model(&all);
        let found = model.namespaces["a"]
            .excess
            .as_ref()
            .map(|excess| excess.bound);
        assert_eq!(found, Some(bound));
        let only = observed(&[]);
        let alone = Observed {
            policies: vec![read(policy("b", "fair", &fair))],
            pods: all.pods.clone(),
            ..only
        };
        let (rules, alone) = (ruleset::build(&model, &settings()), rules_of(&alone));
        for (name, lines) in &alone.chains {
            assert_eq!(rules.chains.get(name), Some(lines), "{name} of b");
        }
        let size = |rules: &Ruleset| {
            let sets = rules.sets.values().map(|(_, elements)| elements.len());
            rules.chains.values().map(Vec::len).sum::<usize>() + sets.sum::<usize>()
        };
        assert!(size(&rules) < size(&alone) + 200, "little is left of them");
        for (from, to, hook, wanted) in [
            (A_CLIENT, A_WEB, "forward", false),
            (WORLD, A_WEB, "forward", false),
            (A_WEB, WORLD, "forward", false),
            (A_WEB, B_WEB, "forward", false),
            (A_WEB, "10.244.1.1", "input", false),
            (B_CLIENT, B_WEB, "forward", true),
            (WORLD, B_WEB, "forward", false),
            (B_WEB, WORLD, "forward", true),
        ] {
            let packet = Packet {
                from,
                to,
                protocol: "tcp",
                port: 1,
            };
            assert_eq!(
                passes(&rules, hook, packet),
                wanted,
                "{bound:?} {from} {to}"
            );
        }
        // No policy of theirs chooses this one.
        if specs.iter().all(|spec| spec["podSelector"] == app("web")) {
            let packet = Packet {
                from: A_CLIENT,
                to: B_WEB,
                protocol: "tcp",
                port: 1,
            };
            assert!(passes(&rules, "forward", packet), "{bound:?}");
        }
    }
}

#[test]
fn what_is_within_the_bounds_is_enforced() {
    let rule = json!({"from": labelled(MAX_RULES - 10)});
    let spec = json!({"podSelector": app("web"), "ingress": [rule, {"ports": numbered(5000)}]});
    let all = observed(&[spec]);
    let model = model(&all);
    assert!(model.namespaces["a"].excess.is_none());
    let rules = ruleset::build(&model, &settings());
    for (port, wanted) in [(1, true), (2, false), (9_999, true), (10_001, false)] {
        let packet = Packet {
            from: WORLD,
            to: A_WEB,
            protocol: "tcp",
            port,
        };
        assert_eq!(passes(&rules, "forward", packet), wanted, "{port}");
    }
}

#[test]
fn no_neighbour_pushes_a_namespace_over_its_bounds() {
    let peers: Vec<Value> = (0..100)
        .map(|n| json!({"namespaceSelector": {}, "podSelector": {"matchExpressions": [{"key": format!("x{n}"), "operator": "DoesNotExist"}]}}))
        .collect();
    let spec =
        json!({"podSelector": {}, "ingress": [{"from": peers, "ports": [{"port": "http"}]}]});
    let mut all = observed(&[spec]);
    let ip = |n: usize| format!("10.244.{}.{}", 10 + n / 250, 2 + n % 250);
    let others = (0..2000).map(|n| pod("b", &format!("c{n}"), &ip(n)));
    all.pods.extend(others.map(read));
    assert!(model(&all).namespaces["a"].excess.is_none());
}

/// What is kept of too many policies still tells which pods they choose, also
/// when most of them have gone.
#[test]
fn policies_whose_rules_were_dropped_isolate() {
    let spec = json!({"podSelector": app("web"), "ingress": [{}, {"from": labelled(4000)}]});
    let mut lengths = Lengths::default();
    let mut watched = |policy: &Arc<NetworkPolicy>| {
        let mut event = Event::Apply((**policy).clone());
        lengths.trim(&mut event);
        match event {
            Event::Apply(policy) => Arc::new(policy),
            _ => panic!(),
        }
    };
    let mut all = observed(&[spec.clone(), spec.clone(), spec]);
    let whole = all.policies.clone();
    let mut isolated = |policies: &[Arc<NetworkPolicy>]| {
        all.policies = policies.to_vec();
        let model = model(&all);
        let excess = model.namespaces["a"].excess.as_ref();
        let rules = ruleset::build(&model, &settings());
        let packet = Packet {
            from: WORLD,
            to: A_WEB,
            protocol: "tcp",
            port: 1,
        };
        assert_eq!(passes(&rules, "forward", packet), excess.is_none());
        excess.map(|excess| (excess.bound, excess.is_over))
    };
    let kept: Vec<_> = whole.iter().map(&mut watched).collect();
    assert_eq!(isolated(&kept), Some((Bound::Terms, false)));
    assert_eq!(isolated(&kept[2..]), Some((Bound::Terms, true)));
    assert_eq!(isolated(&whole[2..]), None);
}

#[test]
fn everything_that_a_policy_lists_counts() {
    let count = |spec: Value| terms(&serde_json::from_value(spec).unwrap());
    let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]}]});
    for (spec, wanted) in [
        (json!({}), 1),
        (json!({"podSelector": selector}), 5),
        (
            json!({"podSelector": {}, "ingress": [{}, {}], "egress": [{}]}),
            4,
        ),
        (
            json!({"ingress": [{"from": [{"podSelector": selector}, {"namespaceSelector": selector}], "ports": [{}, {"port": 1}]}]}),
            1 + 1 + 5 + 5 + 2,
        ),
        (
            json!({"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/9"]}}]}]}),
            1 + 1 + 1 + 1,
        ),
    ] {
        assert_eq!(count(spec.clone()), wanted, "{spec}");
    }
}

#[test]
fn only_what_changed_is_made_again() {
    let open = json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]});
    let mut all = observed(std::slice::from_ref(&open));
    all.policies.push(read(policy("b", "p", &open)));
    let mut cache = Cache::default();
    let mut last = cache.build(&all, Some(DNS.0));
    let mut step = |all: &Observed| {
        let next = cache.build(all, Some(DNS.0));
        let same = ["a", "b"].map(|n| Arc::ptr_eq(&last.namespaces[n], &next.namespaces[n]));
        let rules = |model: &Model| ruleset::build(model, &settings());
        assert!(!last.is_like(&next) || rules(&last) == rules(&next));
        assert!(last.is_like(&next) || same != [true, true] || rules(&last) != rules(&next));
        let fresh = ruleset::build(&model(all), &settings());
        assert_eq!(ruleset::build(&next, &settings()), fresh);
        last = next;
        same
    };
    assert_eq!(step(&all), [true, true]);
    // The same again, as after a new list of pods.
    all.pods = observed(&[]).pods;
    assert_eq!(step(&all), [true, true]);
    all.pods.push(read(pod("b", "more", "10.244.1.9")));
    assert_eq!(step(&all), [true, false]);
    let mut changed = pod("a", "web", A_WEB);
    changed["metadata"]["labels"]["app"] = "other".into();
    all.pods[0] = read(changed);
    assert_eq!(step(&all), [false, true]);
    all.policies[1] = read(policy("b", "p", &open));
    assert_eq!(step(&all), [true, false]);
    // The labels of a namespace count where rules select by them.
    all.namespaces[1] = read(json!({"metadata": {"name": "b", "labels": {"team": "c"}}}));
    assert_eq!(step(&all), [true, true]);
    all.namespaces[2] = read(json!({"metadata": {"name": "kube-system"}}));
    assert_eq!(step(&all), [false, false]);
}

#[test]
fn changes_without_end_take_a_share_of_the_time() {
    let ms = Duration::from_millis;
    for (spent, wanted) in [(ms(0), ms(0)), (ms(100), ms(300)), (ms(60_000), MAX_PAUSE)] {
        assert_eq!(pause(spent), wanted);
    }
    assert!(COALESCE < MAX_PAUSE);
}

#[test]
fn of_pods_only_what_policies_see_is_kept() {
    let ports: Vec<Value> = (0..400)
        .map(|n| json!({"name": format!("n{n}"), "containerPort": n + 1}))
        .collect();
    let mut all = observed(&[
        json!({"podSelector": {}, "ingress": [{"ports": [{"port": "n255"}, {"port": "n256"}, {"port": "aside"}]}]}),
    ]);
    let mut web: k8s_openapi::api::core::v1::Pod = serde_json::from_value(json!({
        "metadata": {"namespace": "a", "name": "web", "annotations": {"a": "b"}},
        "spec": {"containers": [{"name": "a", "image": "i", "ports": ports}],
            "initContainers": [{"name": "b", "restartPolicy": "Always", "ports": [{"name": "aside", "containerPort": 9}]},
                {"name": "c", "ports": [{"name": "never", "containerPort": 10}]}]},
        "status": {"phase": "Running", "podIP": A_WEB, "message": "m"}}))
    .unwrap();
    keep_of_pod(&mut web);
    assert!(web.metadata.annotations.is_none() && web.status.as_ref().unwrap().message.is_none());
    all.pods = vec![Arc::new(web)];
    let rules = rules_of(&all);
    for (port, wanted) in [(256, true), (257, false), (9, false), (10, false)] {
        let packet = Packet {
            from: WORLD,
            to: A_WEB,
            protocol: "tcp",
            port,
        };
        assert_eq!(passes(&rules, "forward", packet), wanted, "{port}");
    }
}
