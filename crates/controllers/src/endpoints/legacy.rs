//! The content of Endpoints objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::objects::Meta;
use crate::objects::pod::Pod;
use crate::objects::service::Service;

use super::addresses::{hostname, is_headless, target_port};
use super::target;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// Addresses in one object at most, as upstream.
const MAX_ADDRESSES: usize = 1000;

/// Whether this controller made the object.
pub(super) fn is_ours(meta: &Meta) -> bool {
    meta.label(MANAGED_BY) == Some(MANAGER)
}

/// The labels that the service's Endpoints carry.
pub(super) fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone();
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if is_headless(service) {
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    labels
}

/// Addresses that share their ports.
#[derive(Default)]
struct Subset {
    ports: Vec<Value>,
    ready: Vec<Value>,
    unready: Vec<Value>,
}

/// The subsets of a service: addresses by the ports they share.
pub(super) fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<Value> {
    let publish_all = service.spec.publish_not_ready_addresses;
    let mut by_ports: BTreeMap<String, Subset> = BTreeMap::new();
    let mut count = 0;
    for pod in pods {
        if pod.metadata.is_deleting() && !publish_all {
            continue;
        }
        let v6 = service.spec.ip_families.first().map_or_else(
            || service.spec.cluster_ip.contains(':'),
            |family| family == "IPv6",
        );
        let Some(ip) = pod
            .status
            .pod_ips
            .iter()
            .find(|it| it.ip.contains(':') == v6)
        else {
            continue;
        };
        let ports: Vec<Value> = service
            .spec
            .ports
            .iter()
            .filter_map(|port| Some((port, target_port(port, pod)?)))
            .map(|(port, number)| {
                let protocol = if port.protocol.is_empty() {
                    "TCP"
                } else {
                    &port.protocol
                };
                let mut value = json!({"port": number, "protocol": protocol});
                if !port.name.is_empty() {
                    value["name"] = port.name.as_str().into();
                }
                if let Some(application) = &port.app_protocol {
                    value["appProtocol"] = application.as_str().into();
                }
                value
            })
            .collect();
        // Without a port there is nothing to reach, save by name.
        if ports.is_empty() && !is_headless(service) {
            continue;
        }
        count += 1;
        if count > MAX_ADDRESSES {
            break;
        }
        let mut address = json!({"ip": ip.ip, "targetRef": target(&pod.metadata)});
        if !pod.spec.node_name.is_empty() {
            address["nodeName"] = pod.spec.node_name.as_str().into();
        }
        if let Some(hostname) = hostname(service, pod) {
            address["hostname"] = hostname.into();
        }
        let key = Value::from(ports.clone()).to_string();
        let subset = by_ports.entry(key).or_insert_with(|| Subset {
            ports,
            ..Subset::default()
        });
        if pod.is_ready() || publish_all {
            subset.ready.push(address);
        } else {
            subset.unready.push(address);
        }
    }
    let subsets = by_ports.into_values().map(|mut of| {
        let ip = |address: &Value| address["ip"].as_str().unwrap_or_default().to_owned();
        of.ready.sort_by_key(ip);
        of.unready.sort_by_key(ip);
        let mut subset = json!({});
        for (name, list) in [
            ("addresses", of.ready),
            ("notReadyAddresses", of.unready),
            ("ports", of.ports),
        ] {
            if !list.is_empty() {
                subset[name] = list.into();
            }
        }
        subset
    });
    subsets.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;

    #[test]
    fn ready_and_unready_addresses() {
        let service: Service = object(json!({
            "metadata": {"name": "web"},
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80, "protocol": "TCP"}]},
        }));
        let pod = |ip: &str, ready: &str, gone: Option<&str>| -> Arc<Pod> {
            Arc::new(object(json!({
                "metadata": {"name": ip, "uid": ip, "namespace": "a", "deletionTimestamp": gone},
                "status": {"podIPs": [{"ip": ip}],
                           "conditions": [{"type": "Ready", "status": ready}]},
            })))
        };
        let pods = [
            pod("1.0.0.2", "True", None),
            pod("1.0.0.1", "True", None),
            pod("1.0.0.3", "False", None),
            pod("1.0.0.4", "True", Some("2026-01-01T00:00:00Z")),
        ];
        let subsets = subsets(&service, &pods);
        assert_eq!(subsets.len(), 1);
        let ips = |list: &str| -> Vec<&str> {
            subsets[0][list]
                .as_array()
                .unwrap()
                .iter()
                .map(|it| it["ip"].as_str().unwrap())
                .collect()
        };
        assert_eq!(ips("addresses"), ["1.0.0.1", "1.0.0.2"]);
        assert_eq!(ips("notReadyAddresses"), ["1.0.0.3"]);
        assert_eq!(
            subsets[0]["ports"],
            json!([{"port": 80, "protocol": "TCP"}])
        );
    }
}
