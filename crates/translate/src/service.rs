//! Services to the host, and what the host allocates for them back.

use coracle_config::{marks, names};
use coracle_machinery::object;
use serde_json::{Map, Value, json};

use crate::json::{drop_keys, list, list_mut, same, set, text};
use crate::metadata::{applied, merge_metadata, same_applied};
use crate::names::{Translator, VirtualName};

/// The port that the virtual API server's Service offers.
pub const API_PORT: u16 = 443;
/// The port that the control plane answers DNS on.
pub const DNS_PORT: u16 = 1053;

/// What the host decides and the virtual object shows.
const ALLOCATED: &[&str] = &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];

/// Annotation: the addresses that the virtual Service claims, and the host's
/// does not.
const EXTERNAL_IPS: &str = "coracle.dev/external-ips";

fn external_ips(service: &Value) -> String {
    let all = object::items(service, "/spec/externalIPs");
    let all: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
    all.join(",")
}

impl Translator {
    /// The host Service of a virtual Service. Addresses outside the cluster
    /// (`externalIPs`) are never claimed: on the host they would redirect
    /// other tenants' traffic.
    pub fn service_to_host(&self, service: &Value) -> Value {
        let mut host = self.shell("v1", "Service", service);
        let mut spec = service.get("spec").cloned().unwrap_or_else(|| json!({}));
        let external = external_ips(service);
        if !external.is_empty() {
            host["metadata"]["annotations"][EXTERNAL_IPS] = external.into();
        }
        drop_keys(&mut spec, &["externalIPs"]);
        if let Some(selector) = spec.get("selector") {
            let selector = self.map_selector(selector, object::namespace(service));
            set(&mut spec, "selector", selector);
        }
        host["spec"] = spec;
        applied(host, digested)
    }

    /// What of a virtual Service cannot be carried over, in words for its user.
    pub fn service_warnings(&self, service: &Value) -> Vec<String> {
        if external_ips(service).is_empty() {
            return Vec::new();
        }
        vec![
            "spec.externalIPs is not synced: on the host it would redirect traffic of others"
                .to_owned(),
        ]
    }

    /// The host Service of the virtual cluster's DNS: it leads to the control
    /// plane's pod, whatever the virtual Service says.
    pub fn dns_service_to_host(&self, service: &Value) -> Value {
        let mut host = self.shell("v1", "Service", service);
        let selector: Map<String, Value> = marks::control_plane_labels(&self.vc)
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.into()))
            .collect();
        host["spec"] = json!({
            "type": "ClusterIP",
            "selector": selector,
            // The pod that answers may not be ready yet when others start.
            "publishNotReadyAddresses": true,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": DNS_PORT},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": DNS_PORT},
            ],
        });
        for field in ["clusterIP", "clusterIPs"] {
            crate::json::copy_key(&service["spec"], &mut host["spec"], field);
        }
        applied(host, digested)
    }

    /// The host Service with the changes made inside, or `None`.
    pub fn service_update(&self, host: &Value, desired: &Value) -> Option<Value> {
        if same_applied(host, desired) {
            return None;
        }
        let mut updated = host.clone();
        merge_metadata(&mut updated, desired);
        let mut spec = desired["spec"].clone();
        let kind = text(&spec, "type").to_owned();
        if kind != "ExternalName" {
            for field in ALLOCATED {
                if spec.get(field).is_none_or(Value::is_null)
                    && let Some(value) = host["spec"].get(field)
                {
                    set(&mut spec, field, value.clone());
                }
            }
        }
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            let old = list(&host["spec"], "ports");
            for port in list_mut(&mut spec, "ports") {
                if node_port(port).is_none()
                    && let Some(number) =
                        old.iter().find(|p| same_port(p, port)).and_then(node_port)
                {
                    set(port, "nodePort", number);
                }
            }
        }
        updated["spec"] = spec;
        Some(updated)
    }

    /// The virtual Service with what the host allocated, or `None` if it shows
    /// that already.
    pub fn service_back(&self, host: &Value, service: &Value) -> Option<Value> {
        let kind = object::text(service, "/spec/type");
        if kind == "ExternalName" {
            return None;
        }
        let mut updated = service.clone();
        for field in ALLOCATED {
            if let Some(value) = host["spec"].get(field) {
                set(&mut updated["spec"], field, value.clone());
            }
        }
        if matches!(kind, "NodePort" | "LoadBalancer") {
            for port in list_mut(&mut updated["spec"], "ports") {
                let other = list(&host["spec"], "ports")
                    .iter()
                    .find(|p| same_port(p, port));
                if let Some(number) = other.and_then(node_port) {
                    set(port, "nodePort", number);
                }
            }
            if let Some(number) = host["spec"].get("healthCheckNodePort") {
                set(&mut updated["spec"], "healthCheckNodePort", number.clone());
            }
        }
        (updated != *service).then_some(updated)
    }

    /// The status that the virtual Service should show, or `None`.
    pub fn service_status_back(&self, host: &Value, service: &Value) -> Option<Value> {
        let wanted = host.get("status").cloned().unwrap_or_else(|| json!({}));
        let load_balancer =
            |status: Option<&Value>| status.and_then(|s| s.get("loadBalancer")).cloned();
        let same = same(
            load_balancer(Some(&wanted)).as_ref(),
            load_balancer(service.get("status")).as_ref(),
        ) && same(
            wanted.get("conditions"),
            service.pointer("/status/conditions"),
        );
        (!same).then_some(wanted)
    }

    /// True for the Service by which the virtual cluster's DNS is reached.
    pub fn is_dns(&self, name: &VirtualName) -> bool {
        self.config.control_plane.coredns.enabled
            && name.namespace == "kube-system"
            && name.name == "kube-dns"
    }

    /// The host name of the DNS Service.
    pub fn dns_host_name(&self) -> String {
        self.host_name("Service", &VirtualName::new("kube-system", "kube-dns"))
    }

    /// The virtual Service of DNS, to be created if it is missing.
    pub fn dns_service(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "kube-dns", "namespace": "kube-system",
                "labels": {
                    "k8s-app": "kube-dns",
                    "kubernetes.io/cluster-service": "true",
                    "kubernetes.io/name": "CoreDNS",
                },
            },
            "spec": {
                "type": "ClusterIP",
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": DNS_PORT},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": DNS_PORT},
                ],
            },
        })
    }

    /// The virtual Service `default/kubernetes`, to be created if it is
    /// missing.
    pub fn kubernetes_service(&self, host: &Value) -> Value {
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": {"component": "apiserver", "provider": "kubernetes"},
            },
            "spec": {
                "type": "ClusterIP",
                "ports": [{"name": "https", "port": API_PORT, "protocol": "TCP", "targetPort": 8443}],
            },
        });
        for field in ALLOCATED {
            if let Some(value) = host["spec"].get(field) {
                service["spec"][*field] = value.clone();
            }
        }
        service
    }

    /// The host Service of the virtual cluster itself: checks that this is it.
    pub fn is_own_service(&self, host: &Value) -> bool {
        object::name(host) == names::service(&self.vc)
            && object::label(host, marks::RELEASE) == Some(self.vc.as_str())
    }
}

pub(crate) fn digested(service: &Value) -> Value {
    json!([service["metadata"], strip_allocated(&service["spec"])])
}

/// The spec without what the host allocates: that comes back from there and is
/// no change.
fn strip_allocated(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let headless = spec.get("clusterIP") == Some(&Value::from("None"));
    drop_keys(&mut spec, ALLOCATED);
    drop_keys(&mut spec, &["healthCheckNodePort"]);
    set(&mut spec, "headless", headless);
    spec
}

fn node_port(port: &Value) -> Option<i64> {
    port.get("nodePort")
        .and_then(Value::as_i64)
        .filter(|n| *n != 0)
}

fn same_port(left: &Value, right: &Value) -> bool {
    let protocol = |port: &Value| match text(port, "protocol") {
        "" => "TCP".to_owned(),
        other => other.to_owned(),
    };
    left.get("port") == right.get("port") && protocol(left) == protocol(right)
}
