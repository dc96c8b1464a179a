//! From pods to endpoints: which ports, which addresses, in which condition.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use crate::objects::pod::{Container, Pod};
use crate::objects::service::{Service, ServicePort};

use super::target;

/// Endpoints that share their ports.
#[derive(Debug, PartialEq)]
pub(super) struct Group {
    pub address_type: &'static str,
    pub ports: Vec<Value>,
    pub endpoints: Vec<Value>,
}

/// The address families of a service.
fn families(service: &Service) -> Vec<&'static str> {
    let families: Vec<&'static str> = service
        .spec
        .ip_families
        .iter()
        .filter_map(|family| match family.as_str() {
            "IPv4" => Some("IPv4"),
            "IPv6" => Some("IPv6"),
            _ => None,
        })
        .collect();
    if !families.is_empty() {
        return families;
    }
    if service.spec.cluster_ip.contains(':') {
        vec!["IPv6"]
    } else {
        vec!["IPv4"]
    }
}

pub(super) fn is_headless(service: &Service) -> bool {
    service.spec.cluster_ip == "None"
}

/// The name that DNS gives a pod of a headless service.
pub(super) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let named = !pod.spec.hostname.is_empty() && pod.spec.subdomain == service.metadata.name;
    named.then(|| pod.spec.hostname.clone())
}

/// The container port that a service port means in this pod.
pub(super) fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let is_sidecar =
                |container: &&Container| container.restart_policy.as_deref() == Some("Always");
            let sidecars = pod.spec.init_containers.iter().filter(is_sidecar);
            let ports = pod
                .spec
                .containers
                .iter()
                .chain(sidecars)
                .flat_map(|it| &it.ports);
            let protocol = |text: &str| if text.is_empty() { "TCP" } else { text }.to_owned();
            ports
                .into_iter()
                .find(|it| it.name == *name && protocol(&it.protocol) == protocol(&port.protocol))
                .map(|it| it.container_port)
        }
    }
}

fn slice_ports(service: &Service, pod: &Pod) -> Vec<Value> {
    let resolved = service.spec.ports.iter().filter_map(|port| {
        let number = target_port(port, pod)?;
        let mut value = json!({"name": port.name, "protocol": port.protocol, "port": number});
        if port.protocol.is_empty() {
            value["protocol"] = "TCP".into();
        }
        if let Some(application) = &port.app_protocol {
            value["appProtocol"] = application.as_str().into();
        }
        Some(value)
    });
    resolved.collect()
}

/// The endpoints of a service, by address type and ports. A service without
/// any has one empty group per address type.
pub(super) fn groups(
    service: &Service,
    pods: &[Arc<Pod>],
    zone: impl Fn(&str) -> Option<String>,
) -> Vec<Group> {
    let mut groups = Vec::new();
    for address_type in families(service) {
        let mut by_ports: BTreeMap<String, Group> = BTreeMap::new();
        for pod in pods {
            let wants_v6 = address_type == "IPv6";
            let address = pod
                .status
                .pod_ips
                .iter()
                .find(|it| it.ip.contains(':') == wants_v6);
            let Some(address) = address else { continue };
            let ports = slice_ports(service, pod);
            let group = by_ports
                .entry(Value::from(ports.clone()).to_string())
                .or_insert(Group {
                    address_type,
                    ports,
                    endpoints: Vec::new(),
                });
            group
                .endpoints
                .push(endpoint(service, pod, &address.ip, &zone));
        }
        if by_ports.is_empty() {
            groups.push(Group {
                address_type,
                ports: Vec::new(),
                endpoints: Vec::new(),
            });
        }
        groups.extend(by_ports.into_values());
    }
    groups
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    address: &str,
    zone: &impl Fn(&str) -> Option<String>,
) -> Value {
    let serving = pod.is_ready();
    let terminating = pod.metadata.is_deleting();
    let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
    let mut value = json!({
        "addresses": [address],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": target(&pod.metadata),
    });
    if !pod.spec.node_name.is_empty() {
        value["nodeName"] = pod.spec.node_name.as_str().into();
        if let Some(zone) = zone(&pod.spec.node_name) {
            value["zone"] = zone.into();
        }
    }
    if let Some(hostname) = hostname(service, pod) {
        value["hostname"] = hostname.into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;

    fn pod(name: &str, ip: &str, ready: bool, port: i32) -> Arc<Pod> {
        Arc::new(object(json!({
            "metadata": {"name": name, "namespace": "a", "uid": name},
            "spec": {"nodeName": "n", "hostname": name, "subdomain": "web", "containers": [
                {"name": "c", "ports": [
                    {"name": "http", "containerPort": port, "protocol": "TCP"}]}]},
            "status": {"podIP": ip, "podIPs": [{"ip": ip}], "conditions": [
                {"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        })))
    }

    fn service(spec: Value) -> Service {
        object(json!({"metadata": {"name": "web", "namespace": "a", "uid": "s"}, "spec": spec}))
    }

    #[test]
    fn named_ports_split_groups() {
        let service = service(json!({
            "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
            "ports": [{"name": "h", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        }));
        let pods = [
            pod("a", "1.0.0.1", true, 80),
            pod("b", "1.0.0.2", false, 81),
        ];
        let groups = groups(&service, &pods, |_| Some("z".to_owned()));
        let ports: Vec<&Value> = groups.iter().map(|group| &group.ports[0]["port"]).collect();
        assert_eq!(ports, [80, 81]);
        assert_eq!(
            groups[1].endpoints[0],
            json!({
                "addresses": ["1.0.0.2"], "nodeName": "n", "zone": "z", "hostname": "b",
                "conditions": {"ready": false, "serving": false, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": "a", "name": "b", "uid": "b"},
            })
        );
    }

    #[test]
    fn unready_addresses_may_be_published() {
        let service = service(json!({"clusterIP": "None", "publishNotReadyAddresses": true}));
        let groups = groups(&service, &[pod("a", "1.0.0.1", false, 1)], |_| None);
        assert_eq!(groups[0].endpoints[0]["conditions"]["ready"], true);
        assert_eq!(groups[0].endpoints[0]["conditions"]["serving"], false);
    }

    #[test]
    fn without_pods_there_is_an_empty_group_for_each_family() {
        let service = service(json!({"clusterIP": "fd00::1", "ipFamilies": ["IPv6", "IPv4"]}));
        let groups = groups(&service, &[], |_| None);
        let types: Vec<_> = groups.iter().map(|group| group.address_type).collect();
        assert_eq!(types, ["IPv6", "IPv4"]);
    }
}
