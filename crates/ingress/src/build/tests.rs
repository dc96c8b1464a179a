use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coracle_pki::CertificateAuthority;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

fn object<T: DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

/// An ingress of a namespace, made at a second, with a spec.
fn ingress(name: &str, namespace: &str, second: u8, spec: Value) -> Value {
    let mut spec = spec;
    if spec.get("ingressClassName").is_none() {
        spec["ingressClassName"] = json!("nginx");
    }
    json!({"metadata": {"name": name, "namespace": namespace, "uid": format!("{namespace}/{name}"),
        "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")}, "spec": spec})
}

fn path(path: &str, kind: &str, service: &str) -> Value {
    json!({"path": path, "pathType": kind,
        "backend": {"service": {"name": service, "port": {"number": 80}}}})
}

fn rule(host: &str, paths: &[Value]) -> Value {
    json!({"host": host, "http": {"paths": paths}})
}

/// Services `a` to `d` in two namespaces; each has an endpoint of its own.
fn cluster(ingresses: &[Value]) -> Objects {
    let class = |name: &str, controller: &str| {
        object(json!({"metadata": {"name": name}, "spec": {"controller": controller}}))
    };
    let mut objects = Objects {
        ingresses: ingresses.iter().cloned().map(object).collect(),
        classes: vec![class("nginx", CONTROLLER), class("other", "example.com/x")],
        ..Objects::default()
    };
    for (net, namespace) in ["one", "two"].into_iter().enumerate() {
        for (host, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
            objects.services.push(object(json!({
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"ports": [{"name": "web", "port": 80, "targetPort": 8080}]}})));
            objects.slices.push(object(json!({
                "metadata": {"name": format!("{name}-x"), "namespace": namespace,
                    "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4", "ports": [{"name": "web", "port": 8080}],
                "endpoints": [{"addresses": [format!("10.{net}.0.{host}")]},
                    {"addresses": ["127.0.0.1"]}, {"addresses": ["100.100.100.200"]}]})));
        }
    }
    objects
}

/// Where a request goes: an endpoint, or nothing.
fn way(built: &Built, host: &str, path: &str) -> String {
    match built.table.find(host, path) {
        Some(target) => {
            let ends = target.backend.endpoints.iter().map(|e| e.ip().to_string());
            ends.collect::<Vec<_>>().join(",")
        }
        None => "404".to_owned(),
    }
}

fn reasons(built: &Built) -> Vec<String> {
    let told = built.complaints.iter();
    told.map(|c| format!("{}: {}", c.ingress.name_any(), c.reason))
        .collect()
}

#[test]
fn the_best_route_of_the_best_site_is_taken() {
    let objects = cluster(&[
        ingress(
            "all",
            "one",
            1,
            json!({"rules": [
                rule("foo.example.com", &[path("/", "Prefix", "a"), path("/img", "Prefix", "b"),
                    path("/img", "Exact", "c")]),
                rule("*.example.com", &[path("/", "Prefix", "d")]),
            ]}),
        ),
        ingress(
            "default",
            "one",
            2,
            json!({"defaultBackend":
            {"service": {"name": "b", "port": {"name": "web"}}}}),
        ),
    ]);
    let built = Builder::default().build(&objects);
    for (host, path, wanted) in [
        ("foo.example.com", "/", "10.0.0.0"),
        ("foo.example.com", "/img", "10.0.0.2"),
        ("foo.example.com", "/img/1", "10.0.0.1"),
        ("foo.example.com", "/imgs", "10.0.0.0"),
        ("bar.example.com", "/", "10.0.0.3"),
        ("a.b.example.com", "/", "10.0.0.1"),
        ("example.com", "/", "10.0.0.1"),
        ("", "/", "10.0.0.1"),
    ] {
        assert_eq!(way(&built, host, path), wanted, "{host}{path}");
    }
    assert!(built.complaints.is_empty(), "{:?}", reasons(&built));
}

#[test]
fn paths_without_a_route_go_to_the_default_backend_of_their_host() {
    let spec = json!({"defaultBackend": {"service": {"name": "d", "port": {"number": 80}}},
        "rules": [rule("foo.example.com", &[path("/a", "Prefix", "a")]), {"host": "bar.example.com"}]});
    let built = Builder::default().build(&cluster(&[ingress("i", "one", 1, spec)]));
    assert_eq!(way(&built, "foo.example.com", "/a"), "10.0.0.0");
    assert_eq!(way(&built, "foo.example.com", "/b"), "10.0.0.3");
    assert_eq!(way(&built, "bar.example.com", "/b"), "10.0.0.3");
    assert_eq!(way(&built, "other.example.com", "/"), "404");
}

#[test]
fn a_host_belongs_to_whoever_named_it_first() {
    let frontend = |service: &str| {
        json!({"rules":
        [rule("foo.example.com", &[path("/", "Prefix", service)])]})
    };
    let login = json!({"rules": [rule("Foo.Example.com", &[path("/login", "Exact", "b")])]});
    let mut neighbour = ingress("same-namespace", "one", 2, login.clone());
    neighbour["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Service", "name": "vc", "uid": "another"}]);
    let objects = cluster(&[
        ingress("thief", "two", 3, login.clone()),
        ingress("web", "one", 1, frontend("a")),
        neighbour,
        ingress("twin", "one", 4, frontend("c")),
        ingress("own", "one", 5, login),
    ]);
    let built = Builder::default().build(&objects);
    assert_eq!(way(&built, "foo.example.com", "/"), "10.0.0.0");
    assert_eq!(way(&built, "foo.example.com", "/login"), "10.0.0.1");
    assert_eq!(
        reasons(&built),
        [
            "same-namespace: HostTaken",
            "thief: HostTaken",
            "twin: PathTaken"
        ]
    );
    // Once the first is gone, the next has it.
    let rest = cluster(&[ingress("thief", "two", 3, frontend("d"))]);
    let built = Builder::default().build(&rest);
    assert_eq!(way(&built, "foo.example.com", "/"), "10.1.0.3");
}

#[test]
fn only_ingresses_of_our_classes_count() {
    let spec = |class: Value| {
        json!({"ingressClassName": class,
            "rules": [rule("foo.example.com", &[path("/", "Prefix", "a")])]})
    };
    let mut annotated = ingress("annotated", "one", 1, spec(Value::Null));
    annotated["metadata"]["annotations"] = json!({CLASS_ANNOTATION: "nginx"});
    for (ingress, ours) in [
        (ingress("i", "one", 1, spec(json!("nginx"))), 1),
        (ingress("i", "one", 1, spec(json!("other"))), 0),
        (ingress("i", "one", 1, spec(json!("unknown"))), 0),
        (ingress("i", "one", 1, spec(Value::Null)), 0),
        (annotated, 1),
    ] {
        let built = Builder::default().build(&cluster(std::slice::from_ref(&ingress)));
        assert_eq!(built.ours.len(), ours, "{ingress}");
        assert_eq!(built.table.sites.len(), ours, "{ingress}");
    }
}

#[test]
fn bad_backends_are_told_and_harm_nobody() {
    let port = |name: &str, port: Value| {
        json!({"path": format!("/{name}"), "pathType": "Prefix",
            "backend": {"service": {"name": name, "port": port}}})
    };
    let resource = json!({"path": "/r", "pathType": "Prefix",
        "backend": {"resource": {"kind": "Bucket", "name": "b"}}});
    let mut objects = cluster(&[
        ingress(
            "bad",
            "one",
            1,
            json!({"rules": [rule("foo.example.com", &[
                port("nobody", json!({"number": 80})), port("a", json!({"number": 81})),
                port("b", json!({"name": "nope"})), port("outside", json!({"number": 80})), resource,
            ])]}),
        ),
        ingress(
            "good",
            "one",
            2,
            json!({"rules": [rule("good.example.com",
            &[path("/", "Prefix", "a")])]}),
        ),
    ]);
    objects.services.push(object(json!({
        "metadata": {"name": "outside", "namespace": "one"},
        "spec": {"type": "ExternalName", "externalName": "kubernetes.default",
            "ports": [{"port": 80}]}})));
    let built = Builder::default().build(&objects);
    let messages: Vec<&str> = built
        .complaints
        .iter()
        .map(|c| c.message.as_str())
        .collect();
    assert_eq!(
        messages,
        [
            "there is no service nobody",
            "service a has no port 81",
            "service b has no port nope",
            "service outside is only a name for something outside",
            "backends that are no services are not served",
        ]
    );
    assert_eq!(way(&built, "foo.example.com", "/nobody"), "");
    assert_eq!(way(&built, "foo.example.com", "/r"), "404");
    assert_eq!(way(&built, "good.example.com", "/"), "10.0.0.0");
}

#[test]
fn certificates_belong_to_hosts() {
    let authority = CertificateAuthority::generate("test").unwrap();
    let secret = |name: &str, namespace: &str, key: Option<&str>| {
        let hour = Duration::from_secs(3600);
        let pair = authority
            .issue_server("s", &["foo.example.com".into()], hour)
            .unwrap();
        let key = key.map_or(pair.key_pem, str::to_owned);
        object::<Secret>(json!({
            "metadata": {"name": name, "namespace": namespace, "resourceVersion": "1"},
            "data": {"tls.crt": STANDARD.encode(pair.cert_pem), "tls.key": STANDARD.encode(key)}}))
    };
    let tls = |hosts: Value, secret: &str, host: &str| {
        json!({"tls": [{"hosts": hosts, "secretName": secret}],
            "rules": [rule(host, &[path("/", "Prefix", "a")])]})
    };
    let mut plain = ingress(
        "plain",
        "one",
        5,
        tls(json!(["plain.example.com"]), "good", "plain.example.com"),
    );
    plain["metadata"]["annotations"] = json!({REDIRECT: "false",
        "nginx.ingress.kubernetes.io/configuration-snippet": "return 200;"});
    let mut objects = cluster(&[
        ingress(
            "named",
            "one",
            1,
            tls(json!(["FOO.example.com"]), "good", "foo.example.com"),
        ),
        ingress("all", "one", 2, tls(json!([]), "good", "all.example.com")),
        ingress(
            "other",
            "one",
            3,
            tls(json!(["foo.example.com"]), "good", "other.example.com"),
        ),
        ingress(
            "broken",
            "one",
            4,
            tls(json!([]), "broken", "broken.example.com"),
        ),
        plain,
        // A secret of another namespace is none of its own.
        ingress(
            "absent",
            "two",
            6,
            tls(json!(["*.example.com"]), "good", "absent.example.com"),
        ),
    ]);
    objects.secrets = vec![
        secret("good", "one", None),
        secret("broken", "one", Some("{{ x }}")),
    ];
    let mut builder = Builder::default();
    let built = builder.build(&objects);
    for (host, certificate, secured) in [
        ("foo.example.com", true, true),
        ("all.example.com", true, true),
        ("other.example.com", false, false),
        ("broken.example.com", false, true),
        ("plain.example.com", true, false),
        ("absent.example.com", false, true),
        ("unknown.example.com", false, false),
    ] {
        assert_eq!(
            built.table.certificate(host).is_some(),
            certificate,
            "{host}"
        );
        let target = built.table.find(host, "/");
        assert_eq!(target.is_some_and(|t| t.secured), secured, "{host}");
    }
    assert_eq!(
        reasons(&built),
        [
            "broken: CertificateUnusable",
            "plain: UnknownAnnotation",
            "absent: CertificateMissing"
        ]
    );
    // A secret that stays is not read again, and one that changes is.
    objects.secrets[1] = Arc::new(Secret {
        metadata: kube::core::ObjectMeta {
            resource_version: Some("2".into()),
            ..objects.secrets[1].metadata.clone()
        },
        ..(*secret("broken", "one", None)).clone()
    });
    let built = builder.build(&objects);
    assert!(built.table.certificate("broken.example.com").is_some());
}

#[test]
fn complaints_and_paths_are_bounded() {
    let paths: Vec<Value> = (0..MAX_ROUTES + 5)
        .map(|i| path(&format!("/{i}"), "Exact", &format!("missing-{i}")))
        .collect();
    let spec = json!({"rules": [rule("foo.example.com", &paths)]});
    let built = Builder::default().build(&cluster(&[ingress("i", "one", 1, spec)]));
    assert_eq!(built.complaints.len(), MAX_COMPLAINTS);
    assert_eq!(
        built.table.sites["foo.example.com"].routes.len(),
        MAX_ROUTES
    );
}

#[test]
fn connections_are_passed_on_by_host_name() {
    let spec = json!({"rules": [
        rule("api.example.com", &[path("/x", "Prefix", "a"), path("/", "Prefix", "b")]),
        {"http": {"paths": [path("/", "Prefix", "c")]}},
    ]});
    let mut through = ingress("api", "one", 1, spec);
    through["metadata"]["annotations"] = json!({
        "nginx.ingress.kubernetes.io/ssl-passthrough": "true",
        "nginx.ingress.kubernetes.io/backend-protocol": "HTTPS",
    });
    let usual = json!({"rules": [rule("api.example.com", &[path("/", "Prefix", "d")])]});
    let built = Builder::default().build(&cluster(&[through, ingress("thief", "two", 2, usual)]));
    let backend = built.table.tunnel("api.example.com").unwrap();
    assert_eq!(backend.endpoints[0].ip().to_string(), "10.0.0.1");
    assert!(built.table.tunnel("other.example.com").is_none());
    // Plain requests are sent to TLS, and no other ingress gets them.
    let target = built.table.find("api.example.com", "/x").unwrap();
    assert!(target.secured && target.tunnelled);
    assert_eq!(reasons(&built), ["api: HostMissing", "thief: HostTaken"]);
}

#[test]
fn names_under_a_wildcard_are_its_claimants() {
    let wide = json!({"rules": [rule("*.shop.example.com", &[path("/", "Prefix", "a")])]});
    let narrow = |service: &str| json!({"rules": [rule("admin.shop.example.com", &[path("/", "Prefix", service)])]});
    let built = Builder::default().build(&cluster(&[
        ingress("wide", "one", 1, wide.clone()),
        ingress("thief", "two", 2, narrow("b")),
        ingress("own", "one", 3, narrow("c")),
    ]));
    assert_eq!(way(&built, "admin.shop.example.com", "/"), "10.0.0.2");
    assert_eq!(reasons(&built), ["thief: HostTaken"]);
    // Whoever was there before the wildcard keeps its name.
    let built = Builder::default().build(&cluster(&[
        ingress("first", "two", 1, narrow("b")),
        ingress("wide", "one", 2, wide),
    ]));
    assert_eq!(way(&built, "admin.shop.example.com", "/"), "10.1.0.1");
    assert_eq!(way(&built, "other.shop.example.com", "/"), "10.0.0.0");
}
