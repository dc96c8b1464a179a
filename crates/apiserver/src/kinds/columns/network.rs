//! The columns of services, endpoints, ingresses and policies.

use std::sync::Arc;

use coracle_machinery::object::{self, items};
use serde_json::Value;

use super::{
    KindName, NONE, UNSET, age, joined, labels, name, selector, some_of, table, text, text_or,
    texts,
};
use crate::kind::TableConvertor;

/// Most endpoints, ports or hosts that are shown.
const SHOWN: usize = 3;

pub(super) fn of(kind: KindName<'_>) -> Option<Arc<dyn TableConvertor>> {
    Some(match kind {
        ("", "Service") => services(),
        ("", "Endpoints") => table(
            &[
                ("Name", "string", 0),
                ("Endpoints", "string", 0),
                ("Age", "string", 0),
            ],
            |o, now| vec![name(o), endpoints(o).into(), age(o, now)],
        ),
        ("discovery.k8s.io", "EndpointSlice") => endpoint_slices(),
        ("networking.k8s.io", "Ingress") => ingresses(),
        ("networking.k8s.io", "IngressClass") => table(
            &[
                ("Name", "string", 0),
                ("Controller", "string", 0),
                ("Parameters", "string", 0),
                ("Age", "string", 0),
            ],
            |o, now| {
                vec![
                    name(o),
                    text(o, "/spec/controller"),
                    parameters(o).into(),
                    age(o, now),
                ]
            },
        ),
        ("networking.k8s.io", "NetworkPolicy") => table(
            &[
                ("Name", "string", 0),
                ("Pod-Selector", "string", 0),
                ("Age", "string", 0),
            ],
            |o, now| vec![name(o), selector(o, "/spec/podSelector"), age(o, now)],
        ),
        ("networking.k8s.io", "ServiceCIDR") => table(
            &[
                ("Name", "string", 0),
                ("CIDRs", "string", 0),
                ("Age", "string", 0),
            ],
            |o, now| vec![name(o), joined(texts(o, "/spec/cidrs")), age(o, now)],
        ),
        ("networking.k8s.io", "IPAddress") => table(
            &[
                ("Name", "string", 0),
                ("ParentRef", "string", 0),
                ("Age", "string", 0),
            ],
            |o, now| vec![name(o), parent(o).into(), age(o, now)],
        ),
        _ => return None,
    })
}

fn parent(o: &Value) -> String {
    let part = |key: &str| object::text(o, &format!("/spec/parentRef/{key}"));
    if part("name").is_empty() {
        return NONE.to_owned();
    }
    let resource = match part("group") {
        "" => part("resource").to_owned(),
        group => format!("{}.{group}", part("resource")),
    };
    match part("namespace") {
        "" => format!("{resource}/{}", part("name")),
        namespace => format!("{resource}/{namespace}/{}", part("name")),
    }
}

fn parameters(o: &Value) -> String {
    let part = |key: &str| object::text(o, &format!("/spec/parameters/{key}"));
    match (part("name"), part("apiGroup")) {
        ("", _) => NONE.to_owned(),
        (name, "") => format!("{}/{name}", part("kind")),
        (name, group) => format!("{}.{group}/{name}", part("kind")),
    }
}

fn services() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Type", "string", 0),
            ("Cluster-IP", "string", 0),
            ("External-IP", "string", 0),
            ("Port(s)", "string", 0),
            ("Age", "string", 0),
            ("Selector", "string", 1),
        ],
        |o, now| {
            vec![
                name(o),
                text(o, "/spec/type"),
                text_or(o, "/spec/clusterIP", NONE),
                external_address(o),
                service_ports(o),
                age(o, now),
                labels(o, "/spec/selector"),
            ]
        },
    )
}

fn external_address(o: &Value) -> Value {
    let external = texts(o, "/spec/externalIPs");
    match object::text(o, "/spec/type") {
        "ClusterIP" | "NodePort" => joined(external),
        "LoadBalancer" => {
            let mut addresses = balancer_addresses(o);
            addresses.extend(external.map(str::to_owned));
            match joined(addresses.iter().map(String::as_str)) {
                Value::String(text) if text == NONE => "<pending>".into(),
                found => found,
            }
        }
        "ExternalName" => text(o, "/spec/externalName"),
        _ => super::UNKNOWN.into(),
    }
}

fn balancer_addresses(o: &Value) -> Vec<String> {
    items(o, "/status/loadBalancer/ingress")
        .iter()
        .map(|i| match object::text(i, "/ip") {
            "" => object::text(i, "/hostname").to_owned(),
            ip => ip.to_owned(),
        })
        .filter(|a| !a.is_empty())
        .collect()
}

fn service_ports(o: &Value) -> Value {
    let ports: Vec<String> = items(o, "/spec/ports")
        .iter()
        .map(|p| {
            let (port, protocol) = (&p["port"], object::text(p, "/protocol"));
            match p["nodePort"].as_i64().unwrap_or(0) {
                0 => format!("{port}/{protocol}"),
                node_port => format!("{port}:{node_port}/{protocol}"),
            }
        })
        .collect();
    joined(ports.iter().map(String::as_str))
}

fn with_port(ip: &str, port: &Value) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

fn endpoints(o: &Value) -> String {
    let mut list = Vec::new();
    for subset in items(o, "/subsets") {
        let addresses = items(subset, "/addresses")
            .iter()
            .map(|a| object::text(a, "/ip"));
        let ports = items(subset, "/ports");
        if ports.is_empty() {
            list.extend(addresses.map(str::to_owned));
            continue;
        }
        for port in ports {
            list.extend(addresses.clone().map(|ip| with_port(ip, &port["port"])));
        }
    }
    if list.is_empty() {
        NONE.to_owned()
    } else {
        some_of(&list, SHOWN)
    }
}

fn endpoint_slices() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("AddressType", "string", 0),
            ("Ports", "string", 0),
            ("Endpoints", "string", 0),
            ("Age", "string", 0),
        ],
        |o, now| {
            let ports: Vec<String> = items(o, "/ports")
                .iter()
                .map(|p| match &p["port"] {
                    Value::Null => "*".to_owned(),
                    port => port.to_string(),
                })
                .collect();
            let addresses: Vec<String> = items(o, "/endpoints")
                .iter()
                .flat_map(|e| texts(e, "/addresses"))
                .map(str::to_owned)
                .collect();
            let shown = |list: &[String]| match list {
                [] => UNSET.to_owned(),
                list => some_of(list, SHOWN),
            };
            vec![
                name(o),
                text(o, "/addressType"),
                shown(&ports).into(),
                shown(&addresses).into(),
                age(o, now),
            ]
        },
    )
}

fn ingresses() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Class", "string", 0),
            ("Hosts", "string", 0),
            ("Address", "string", 0),
            ("Ports", "string", 0),
            ("Age", "string", 0),
        ],
        |o, now| {
            let rules = items(o, "/spec/rules").iter();
            let hosts: Vec<String> = rules
                .map(|r| object::text(r, "/host").to_owned())
                .filter(|h| !h.is_empty())
                .collect();
            let hosts = if hosts.is_empty() {
                "*".to_owned()
            } else {
                some_of(&hosts, SHOWN)
            };
            let ports = if items(o, "/spec/tls").is_empty() {
                "80"
            } else {
                "80, 443"
            };
            vec![
                name(o),
                text_or(o, "/spec/ingressClassName", NONE),
                hosts.into(),
                balancer_addresses(o).join(",").into(),
                ports.into(),
                age(o, now),
            ]
        },
    )
}
