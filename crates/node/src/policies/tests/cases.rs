//! What single features of policies let through.

use std::collections::BTreeSet;

use super::*;

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
    let rules = ruleset::build(&Model::default(), &settings());
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
    for hook in ["forward", "input"] {
        let first = walker::base(&rules, hook)[0];
        let at = |text: &str| rules.chains[first].iter().position(|r| r.contains(text));
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
        all.pods.push(read(pod));
    };
    more("ended", "/status", "phase", json!("Succeeded"));
    more("host", "/spec", "hostNetwork", json!(true));
    let created = json!("2026-01-01T00:00:00Z");
    more("newer", "/metadata", "creationTimestamp", created);
    let policy = json!({"metadata": {"namespace": "c", "name": "p"}, "spec": {"podSelector": {}}});
    all.policies.push(read(policy));
    let model = model(&all);
    assert_eq!(model.pods.len(), 4);
    let isolated = model.namespaces["c"].ingress.keys();
    let isolated: Vec<String> = isolated.map(Ipv4Addr::to_string).collect();
    assert_eq!(isolated, [A_WEB]);
}

#[test]
fn pods_under_the_same_policies_share_a_chain() {
    let rules = rules(&[json!({"podSelector": {}}), json!({"podSelector": {}})]);
    let chains: BTreeSet<&String> = rules.maps["ingress"].1.values().collect();
    assert_eq!(rules.maps["ingress"].1.len(), 2);
    assert_eq!(chains.len(), 1);
}
