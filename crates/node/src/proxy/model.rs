//! What services want, boiled down to addresses and ports. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::ruleset::Settings;
use crate::pod::manager::HostPort;

/// Most endpoints of one service port: a rule holds them all.
const MAX_ENDPOINTS: usize = 5000;
/// Duration of client affinity that names none, in seconds.
const DEFAULT_AFFINITY: i32 = 10_800;

/// Where a connection may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Address.
    pub ip: Ipv4Addr,
    /// Port.
    pub port: u16,
}

/// One port of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// `NAMESPACE/NAME:PORT`, for the name of its chains.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// Port of the service.
    pub port: u16,
    /// Cluster addresses.
    pub cluster_ips: Vec<Ipv4Addr>,
    /// External addresses.
    pub external_ips: Vec<Ipv4Addr>,
    /// Addresses of its load balancer.
    pub balancer_ips: Vec<Ipv4Addr>,
    /// Who may use its load balancer, as address and length of the prefix; all
    /// if nothing is said.
    pub source_ranges: Option<Vec<(Ipv4Addr, u8)>>,
    /// Port on every node.
    pub node_port: Option<u16>,
    /// Endpoints for traffic from inside the cluster.
    pub endpoints: Vec<Endpoint>,
    /// Endpoints for traffic from outside.
    pub external_endpoints: Vec<Endpoint>,
    /// Traffic from outside stays on the node and keeps its source address.
    pub external_local: bool,
    /// The service has endpoints somewhere, though perhaps not on this node.
    pub any_endpoints: bool,
    /// Seconds for which a client keeps its endpoint.
    pub affinity: Option<u32>,
}

/// Everything that the rules are made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports {
    /// Ports of services, ordered by name.
    pub services: Vec<ServicePort>,
    /// Ports of the node that lead to pods.
    pub host_ports: Vec<(Option<Ipv4Addr>, &'static str, u16, Endpoint)>,
}

/// The ports of all services, seen from this node.
pub fn services(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    node: &Settings,
) -> Ports {
    let mut by_service: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
    for slice in slices.iter().filter(|s| s.address_type == "IPv4") {
        let labels = slice.metadata.labels.as_ref();
        let service = labels.and_then(|l| l.get("kubernetes.io/service-name"));
        if let (Some(namespace), Some(service)) = (&slice.metadata.namespace, service) {
            by_service
                .entry((namespace, service))
                .or_default()
                .push(slice);
        }
    }
    let mut result = Vec::new();
    for service in services {
        let (Some(namespace), Some(name), Some(spec)) = (
            &service.metadata.namespace,
            &service.metadata.name,
            &service.spec,
        ) else {
            continue;
        };
        let slices = by_service.get(&(namespace.as_str(), name.as_str()));
        let slices = slices.map(Vec::as_slice).unwrap_or_default();
        add_service(
            &mut result,
            service,
            spec,
            &format!("{namespace}/{name}"),
            slices,
            node,
        );
    }
    result.sort_by(|a, b| a.name.cmp(&b.name));
    result.dedup_by(|a, b| a.name == b.name);
    Ports {
        services: result,
        host_ports: Vec::new(),
    }
}

/// Adds the node's ports that lead to pods.
pub fn add_host_ports(ports: &mut Ports, host_ports: Vec<HostPort>) {
    for port in host_ports {
        let host_ip = match port.host_ip.as_deref().map(str::parse) {
            None => None,
            Some(Ok(ip)) => Some(ip),
            Some(Err(_)) => continue,
        };
        if let (Ok(ip), Some(protocol)) = (port.pod_ip.parse(), protocol(Some(&port.protocol))) {
            let endpoint = Endpoint {
                ip,
                port: port.pod_port,
            };
            ports
                .host_ports
                .push((host_ip, protocol, port.port, endpoint));
        }
    }
}

fn protocol(name: Option<&str>) -> Option<&'static str> {
    match name.unwrap_or("TCP").to_ascii_lowercase().as_str() {
        "tcp" => Some("tcp"),
        "udp" => Some("udp"),
        "sctp" => Some("sctp"),
        _ => None,
    }
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|n| *n > 0)
}

fn add_service(
    result: &mut Vec<ServicePort>,
    service: &Service,
    spec: &ServiceSpec,
    name: &str,
    slices: &[&EndpointSlice],
    node: &Settings,
) {
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let first = spec.cluster_ip.as_deref().unwrap_or_default();
    if kind == "ExternalName" || first.is_empty() || first == "None" {
        return;
    }
    let cluster_ips: Vec<Ipv4Addr> = std::iter::once(first)
        .chain(spec.cluster_ips.iter().flatten().map(String::as_str))
        .filter_map(|ip| ip.parse().ok())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let balancers = service
        .status
        .iter()
        .filter_map(|s| s.load_balancer.as_ref()?.ingress.as_ref())
        .flatten()
        .filter(|i| i.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|i| i.ip.as_deref());
    let addresses = |texts: &mut dyn Iterator<Item = &str>| -> Vec<Ipv4Addr> {
        let found: BTreeSet<Ipv4Addr> = texts.filter_map(|ip| ip.parse().ok()).collect();
        found.into_iter().collect()
    };
    let balancer_ips = addresses(&mut balancers.into_iter());
    let mut external_ips = addresses(&mut spec.external_ips.iter().flatten().map(String::as_str));
    // Those of the pool belong to the services that were given them, and to
    // nobody who merely names them.
    external_ips.retain(|ip| node.balancer_pool.is_none_or(|pool| !pool.contains(*ip)));
    let source_ranges = source_ranges(spec);
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let seconds = spec
            .session_affinity_config
            .as_ref()
            .and_then(|c| c.client_ip.as_ref()?.timeout_seconds)
            .unwrap_or(DEFAULT_AFFINITY);
        u32::try_from(seconds.clamp(1, 86_400)).unwrap_or(1)
    });
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let internal_local = spec.internal_traffic_policy.as_deref() == Some("Local");
    for port in spec.ports.iter().flatten() {
        let (Some(protocol), Some(number)) =
            (protocol(port.protocol.as_deref()), port_number(port.port))
        else {
            continue;
        };
        let port_name = port.name.as_deref().unwrap_or_default();
        let all = endpoints(slices, port_name, protocol, None);
        let local = endpoints(slices, port_name, protocol, Some(&node.node_name));
        let pick = |only_local: bool| {
            if only_local {
                local.clone()
            } else {
                all.clone()
            }
        };
        result.push(ServicePort {
            name: format!("{name}:{port_name}/{protocol}/{number}"),
            protocol,
            port: number,
            cluster_ips: cluster_ips.clone(),
            external_ips: external_ips.clone(),
            balancer_ips: balancer_ips.clone(),
            source_ranges: source_ranges.clone(),
            node_port: port.node_port.and_then(port_number),
            endpoints: pick(internal_local),
            external_endpoints: pick(external_local),
            external_local,
            any_endpoints: !all.is_empty(),
            affinity,
        });
    }
}

/// Who may use the load balancer of a service. As upstream, ranges of another
/// family of addresses do not restrict this one.
fn source_ranges(spec: &ServiceSpec) -> Option<Vec<(Ipv4Addr, u8)>> {
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    let ranges: Vec<(Ipv4Addr, u8)> = ranges
        .filter_map(|text| {
            let (address, prefix) = text.trim().split_once('/')?;
            let address: Ipv4Addr = address.parse().ok()?;
            let prefix = prefix.parse::<u8>().ok().filter(|p| *p <= 32)?;
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            Some((Ipv4Addr::from(u32::from(address) & mask), prefix))
        })
        .collect();
    (!ranges.is_empty()).then_some(ranges)
}

/// Endpoints of a port: the ready ones, or if there are none those that still
/// serve while they end; all of them or those on one node.
fn endpoints(
    slices: &[&EndpointSlice],
    port_name: &str,
    wanted_protocol: &str,
    node: Option<&str>,
) -> Vec<Endpoint> {
    let (mut ready, mut serving) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices {
        let number = slice.ports.iter().flatten().find_map(|p| {
            let same = p.name.as_deref().unwrap_or_default() == port_name
                && protocol(p.protocol.as_deref()) == Some(wanted_protocol);
            p.port.filter(|_| same).and_then(port_number)
        });
        let Some(port) = number else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            if node.is_some_and(|n| endpoint.node_name.as_deref() != Some(n)) {
                continue;
            }
            let conditions = endpoint.conditions.as_ref();
            let is_ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            let is_serving = conditions.and_then(|c| c.serving).unwrap_or(is_ready);
            // The first address counts; the others are the same endpoint.
            let Some(ip) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else {
                continue;
            };
            let found = Endpoint { ip, port };
            if is_ready {
                ready.insert(found);
            } else if is_serving {
                serving.insert(found);
            }
        }
    }
    let chosen = if ready.is_empty() { serving } else { ready };
    chosen.into_iter().take(MAX_ENDPOINTS).collect()
}

/// Service addresses with the endpoints that UDP flows to them may have; the
/// address alone where there is no endpoint, so that a flow that found none
/// is forgotten once there is one.
pub fn udp_flows(ports: &Ports) -> BTreeSet<(Ipv4Addr, Option<Ipv4Addr>)> {
    let mut result = BTreeSet::new();
    for service in ports.services.iter().filter(|s| s.protocol == "udp") {
        let mut by_address = BTreeMap::new();
        for ip in &service.cluster_ips {
            by_address.insert(*ip, &service.endpoints);
        }
        for ip in service.external_ips.iter().chain(&service.balancer_ips) {
            by_address.insert(*ip, &service.external_endpoints);
        }
        for (ip, endpoints) in by_address {
            if endpoints.is_empty() {
                result.insert((ip, None));
            }
            result.extend(endpoints.iter().map(|e| (ip, Some(e.ip))));
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(spec: serde_json::Value) -> Vec<Arc<Service>> {
        let object = json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": spec});
        vec![Arc::new(serde_json::from_value(object).unwrap())]
    }

    fn settings(node: &str) -> Settings {
        Settings {
            table: String::new(),
            pod_cidr: String::new(),
            service_cidr: String::new(),
            bridge: String::new(),
            node_name: node.to_owned(),
            node_ip: Ipv4Addr::new(10, 1, 0, 1),
            balancer_pool: Some("10.9.0.1-10.9.0.9".parse().unwrap()),
        }
    }

    #[test]
    fn addresses_of_the_pool_belong_to_load_balancers_alone() {
        let object = json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.9", "ports": [{"port": 80}],
            "externalIPs": ["192.0.2.1", "10.9.0.2"],
            "loadBalancerSourceRanges": [" 10.1.2.3/8", "2001:db8::/32", "0.0.0.0/0", "x/y } #"]},
            "status": {"loadBalancer": {"ingress": [{"ip": "10.9.0.1", "ipMode": "VIP"},
                {"ip": "10.9.0.3", "ipMode": "Proxy"}]}}});
        let found = services(
            &[Arc::new(serde_json::from_value(object).unwrap())],
            &[],
            &settings("n"),
        );
        let port = &found.services[0];
        assert_eq!(port.external_ips, [Ipv4Addr::new(192, 0, 2, 1)]);
        assert_eq!(port.balancer_ips, [Ipv4Addr::new(10, 9, 0, 1)]);
        let ranges = [(Ipv4Addr::new(10, 0, 0, 0), 8), (Ipv4Addr::UNSPECIFIED, 0)];
        assert_eq!(port.source_ranges.as_deref(), Some(&ranges[..]));
    }

    fn slice(endpoints: serde_json::Value) -> Vec<Arc<EndpointSlice>> {
        let object = json!({"metadata": {"name": "s", "namespace": "ns",
            "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints});
        vec![Arc::new(serde_json::from_value(object).unwrap())]
    }

    fn ips(list: &[Endpoint]) -> Vec<String> {
        list.iter()
            .map(|e| format!("{}:{}", e.ip, e.port))
            .collect()
    }

    #[test]
    fn readiness_decides() {
        let web = json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]});
        for (endpoints, want) in [
            (json!([{"addresses": ["10.1.0.1"]}]), vec!["10.1.0.1:8080"]),
            (
                json!([{"addresses": ["10.1.0.1"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                       {"addresses": ["10.1.0.2"], "conditions": {"ready": true}}]),
                vec!["10.1.0.2:8080"],
            ),
            (
                json!([{"addresses": ["10.1.0.1"], "conditions": {"ready": false, "serving": true}}]),
                vec!["10.1.0.1:8080"],
            ),
            (
                json!([{"addresses": ["10.1.0.1"], "conditions": {"ready": false}}]),
                vec![],
            ),
        ] {
            let ports = services(
                &service(web.clone()),
                &slice(endpoints.clone()),
                &settings("n"),
            );
            assert_eq!(ips(&ports.services[0].endpoints), want, "{endpoints}");
        }
    }

    #[test]
    fn traffic_policies_keep_to_the_node() {
        let spec = json!({"type": "NodePort", "clusterIP": "10.96.0.9", "externalTrafficPolicy": "Local",
            "internalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30080}]});
        let list = json!([{"addresses": ["10.1.0.1"], "nodeName": "a"},
            {"addresses": ["10.1.0.2"], "nodeName": "b"}]);
        let ports = services(&service(spec), &slice(list), &settings("b"));
        let port = &ports.services[0];
        assert_eq!(ips(&port.endpoints), ["10.1.0.2:8080"]);
        assert_eq!(ips(&port.external_endpoints), ["10.1.0.2:8080"]);
        assert_eq!(port.node_port, Some(30080));
        assert!(port.any_endpoints && port.external_local);
    }

    #[test]
    fn headless_and_external_names_have_no_rules() {
        for spec in [
            json!({"clusterIP": "None", "ports": [{"port": 80}]}),
            json!({"type": "ExternalName", "externalName": "x"}),
            json!({"ports": [{"port": 80}]}),
        ] {
            assert!(
                services(&service(spec), &[], &settings("n"))
                    .services
                    .is_empty()
            );
        }
    }

    #[test]
    fn udp_flows_change_with_endpoints() {
        let spec = json!({"clusterIP": "10.96.0.9", "ports": [{"port": 53, "protocol": "UDP"}]});
        let ports = services(&service(spec), &[], &settings("n"));
        assert_eq!(udp_flows(&ports).len(), 1);
    }
}
