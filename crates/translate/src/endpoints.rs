//! Endpoints and EndpointSlices: to the host only for services without a
//! selector; those of the control plane's own services inside.

use coracle_machinery::object;
use serde_json::{Value, json};

use crate::json::{copy_key, drop_keys, list, list_mut, text};
use crate::metadata::applied;
use crate::names::{Translator, VirtualName};
use crate::service::DNS_PORT;

/// The label that ties a slice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that says who looks after a slice.
const SLICE_MANAGER: &str = "endpointslice.kubernetes.io/managed-by";

/// True if a slice was made by a controller of the virtual cluster from a
/// selector or from Endpoints: the host makes its own.
pub fn is_controller_made_slice(slice: &Value) -> bool {
    object::label(slice, SLICE_MANAGER).is_some_and(|manager| {
        manager.starts_with("endpointslice-controller")
            || manager.starts_with("endpointslicemirroring")
    })
}

impl Translator {
    /// The host Endpoints. Targets are addresses alone: names and nodes inside
    /// mean nothing on the host.
    pub fn endpoints_to_host(&self, endpoints: &Value) -> Value {
        let mut host = self.shell("v1", "Endpoints", endpoints);
        let mut subsets = endpoints
            .get("subsets")
            .cloned()
            .unwrap_or_else(|| json!([]));
        for subset in subsets.as_array_mut().into_iter().flatten() {
            for field in ["addresses", "notReadyAddresses"] {
                for address in list_mut(subset, field) {
                    drop_keys(address, &["targetRef", "nodeName"]);
                }
            }
        }
        host["subsets"] = subsets;
        applied(host, Value::clone)
    }

    /// The host EndpointSlice, likewise; `None` if it belongs to no Service.
    pub fn slice_to_host(&self, slice: &Value) -> Option<Value> {
        let namespace = object::namespace(slice);
        let service = object::label(slice, SERVICE_NAME)?;
        let mut host = self.shell("discovery.k8s.io/v1", "EndpointSlice", slice);
        host["metadata"]["labels"][SERVICE_NAME] =
            self.rename("Service", namespace, service).into();
        // Not one of the host's controllers: they would delete it.
        host["metadata"]["labels"][SLICE_MANAGER] = "coracle.dev".into();
        for field in ["addressType", "ports", "endpoints"] {
            copy_key(slice, &mut host, field);
        }
        for endpoint in list_mut(&mut host, "endpoints") {
            drop_keys(endpoint, &["targetRef", "nodeName", "hints", "zone"]);
        }
        Some(applied(host, Value::clone))
    }

    /// The Service that a slice belongs to.
    pub fn slice_service<'a>(&self, slice: &'a Value) -> Option<&'a str> {
        object::label(slice, SERVICE_NAME)
    }

    /// The virtual Endpoints and EndpointSlice of one of the control plane's
    /// own services, `default/kubernetes` or `kube-system/kube-dns`.
    pub fn own_endpoints(&self, name: &str, namespace: &str, ip: &str) -> [Value; 2] {
        let ports = if name == "kubernetes" {
            json!([{"name": "https", "port": 8443, "protocol": "TCP"}])
        } else {
            json!([
                {"name": "dns", "port": DNS_PORT, "protocol": "UDP"},
                {"name": "dns-tcp", "port": DNS_PORT, "protocol": "TCP"},
            ])
        };
        let subsets = json!([{"addresses": [{"ip": ip}], "ports": ports}]);
        written_endpoints(&VirtualName::new(namespace, name), &subsets)
    }
}

/// Endpoints and EndpointSlice inside that the syncer writes, with these
/// subsets. The slice has the ready addresses of the first one's family, and
/// the first subset's ports.
pub(crate) fn written_endpoints(name: &VirtualName, subsets: &Value) -> [Value; 2] {
    let items = subsets.as_array().map(Vec::as_slice).unwrap_or_default();
    let addresses: Vec<&str> = items
        .iter()
        .flat_map(|subset| list(subset, "addresses"))
        .map(|address| text(address, "ip"))
        .collect();
    let is_v6 = |address: &str| address.contains(':');
    let v6 = addresses.first().is_some_and(|first| is_v6(first));
    let endpoints: Vec<Value> = addresses
        .into_iter()
        .filter(|address| is_v6(address) == v6)
        .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
        .collect();
    let ports = items.first().and_then(|subset| subset.get("ports"));
    [
        json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {
                "name": name.name, "namespace": name.namespace,
                // Its slice is written here as well, not mirrored.
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
            },
            "subsets": items,
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": name.name, "namespace": name.namespace,
                "labels": {SERVICE_NAME: name.name, SLICE_MANAGER: "coracle.dev"},
            },
            "addressType": if v6 { "IPv6" } else { "IPv4" },
            "endpoints": endpoints,
            "ports": ports.cloned().unwrap_or_else(|| json!([])),
        }),
    ]
}
