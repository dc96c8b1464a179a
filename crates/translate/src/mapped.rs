//! Objects that appear on the other side by the user's mapping, under a name of
//! the user's choice: services both ways, ConfigMaps and Secrets of the host
//! inside.

use coracle_config::marks;
use coracle_machinery::object;
use serde_json::{Map, Value, json};

use crate::data::DataKind;
use crate::endpoints::written_endpoints;
use crate::json::{copy_key, drop_keys, list, list_mut, set, text};
use crate::metadata::{applied, merge_metadata};
use crate::names::{Translator, VirtualName};
use crate::service::digested;

/// The kind that host services of the user's name are marked with: they are
/// not the host objects of their virtual services, which have those as well.
const ALIAS: &str = "ServiceAlias";

/// Host objects that are never shown inside: each namespace has its own.
const NEVER_SHOWN: &[&str] = &["kube-root-ca.crt"];

impl Translator {
    /// The Service inside that stands for one of the host. It has no address
    /// of its own, so that its name leads straight to that of the host.
    pub fn replica_service(&self, name: &VirtualName, host: &Value) -> Value {
        let external = text(&host["spec"], "type") == "ExternalName";
        let mut ports = list(&host["spec"], "ports").to_vec();
        for port in &mut ports {
            drop_keys(port, &["nodePort"]);
            copy_number(port, "port", "targetPort");
        }
        let mut spec = if external {
            json!({"type": "ExternalName"})
        } else {
            json!({"type": "ClusterIP", "clusterIP": "None", "ports": ports})
        };
        if external {
            copy_key(&host["spec"], &mut spec, "externalName");
        }
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": name.name, "namespace": name.namespace,
                "labels": {marks::IMPORTED: "host"},
                "annotations": {marks::SHOWN_AS: shown_as(name)},
            },
            "spec": spec,
        })
    }

    /// Endpoints and EndpointSlice of that Service: the host Service's address,
    /// or those of its own `endpoints` if it is headless.
    pub fn replica_endpoints(
        &self,
        name: &VirtualName,
        host: &Value,
        endpoints: Option<&Value>,
    ) -> [Value; 2] {
        let address = text(&host["spec"], "clusterIP");
        let mut subsets = json!([]);
        if address == "None" {
            if let Some(found) = endpoints.and_then(|e| e.get("subsets")) {
                subsets = found.clone();
            }
            for subset in subsets.as_array_mut().into_iter().flatten() {
                drop_keys(subset, &["notReadyAddresses"]);
                for address in list_mut(subset, "addresses") {
                    drop_keys(address, &["targetRef", "nodeName", "hostname"]);
                }
            }
            if let Some(items) = subsets.as_array_mut() {
                items.retain(|subset| !list(subset, "addresses").is_empty());
            }
        } else if !address.is_empty() {
            let ports: Vec<Value> = list(&host["spec"], "ports")
                .iter()
                .map(|port| {
                    let mut copy = json!({});
                    for key in ["name", "port", "protocol", "appProtocol"] {
                        copy_key(port, &mut copy, key);
                    }
                    copy
                })
                .collect();
            subsets = json!([{"addresses": [{"ip": address}], "ports": ports}]);
        }
        written_endpoints(name, &subsets)
    }

    /// The Service inside, brought up to date, or `None` if it is. A change of
    /// its type takes a new Service.
    ///
    /// # Errors
    /// If the type changed.
    pub fn replica_update(&self, inside: &Value, wanted: &Value) -> Result<Option<Value>, NewType> {
        if inside.pointer("/spec/type") != wanted.pointer("/spec/type") {
            return Err(NewType);
        }
        let mut updated = inside.clone();
        for key in ["ports", "externalName"] {
            copy_key(&wanted["spec"], &mut updated["spec"], key);
        }
        Ok((updated != *inside).then_some(updated))
    }

    /// The host Service of the user's name that leads to the pods of a virtual
    /// Service.
    pub fn service_alias(&self, service: &Value, host_name: &str) -> Value {
        let mut host = self.shell("v1", "Service", service);
        host["metadata"]["name"] = host_name.into();
        host["metadata"]["annotations"][marks::HOST_NAME] = host_name.into();
        host["metadata"]["annotations"][marks::OBJECT_KIND] = ALIAS.into();
        let inside = &service["spec"];
        let mut spec = json!({});
        if text(inside, "type") == "ExternalName" {
            for key in ["type", "externalName", "ports"] {
                copy_key(inside, &mut spec, key);
            }
        } else {
            for key in ["ports", "publishNotReadyAddresses"] {
                copy_key(inside, &mut spec, key);
            }
            set(&mut spec, "type", "ClusterIP");
            if text(inside, "clusterIP") == "None" {
                set(&mut spec, "clusterIP", "None");
            }
            let selector = inside.get("selector").cloned().unwrap_or_else(|| json!({}));
            let selector = self.map_selector(&selector, object::namespace(service));
            set(&mut spec, "selector", selector);
        }
        for port in list_mut(&mut spec, "ports") {
            drop_keys(port, &["nodePort"]);
        }
        host["spec"] = spec;
        applied(host, digested)
    }

    /// Why a virtual Service cannot have a host Service of the user's name.
    pub fn alias_obstacle(&self, service: &Value) -> Option<&'static str> {
        let no_selector = object::string_map(service, "/spec/selector")
            .next()
            .is_none();
        (no_selector && object::text(service, "/spec/type") != "ExternalName")
            .then_some("it has no selector, so the host cannot find its endpoints")
    }

    /// The virtual Service that a host Service of the user's name leads to, if
    /// it is one of ours.
    pub fn alias_of(&self, host: &Value) -> Option<VirtualName> {
        let ours = object::namespace(host) == self.host_namespace
            && object::label(host, marks::MANAGED_BY) == Some(self.vc.as_str())
            && object::annotation(host, marks::OBJECT_KIND) == Some(ALIAS)
            && object::annotation(host, marks::HOST_NAME) == Some(object::name(host));
        let namespace = object::label(host, marks::NAMESPACE).filter(|_| ours)?;
        let name = object::annotation(host, marks::OBJECT_NAME)?;
        Some(VirtualName::new(namespace, name))
    }

    /// True if an object inside was put there from the host, under the name that
    /// it has, and may be changed or removed.
    pub fn is_shown(&self, inside: &Value) -> bool {
        let name = shown_as(&VirtualName::of(inside));
        self.is_imported(inside)
            && object::annotation(inside, marks::SHOWN_AS) == Some(name.as_str())
    }

    /// True if a ConfigMap or Secret of the host may be shown inside by a
    /// mapping: not what came from inside, and not the keys of the control
    /// plane or of the host's accounts.
    pub fn may_be_shown(&self, host: &Value) -> bool {
        let marked =
            object::string_map(host, "/metadata/labels").any(|(key, _)| marks::is_mark(key));
        // Of any virtual cluster: its kubeconfig is among them.
        let control_plane = object::label(host, "app") == Some(marks::APP)
            && object::label(host, marks::RELEASE).is_some();
        !marked
            && !control_plane
            && !NEVER_SHOWN.contains(&object::name(host))
            && text(host, "type") != "kubernetes.io/service-account-token"
    }

    /// The ConfigMap or Secret as it appears inside.
    pub fn shown(&self, kind: DataKind, name: &VirtualName, host: &Value) -> Value {
        let metadata = |field: &str| -> Map<String, Value> {
            object::string_map(host, &format!("/metadata/{field}"))
                .filter(|(key, _)| *key != LAST_APPLIED)
                .map(|(key, value)| (key.to_owned(), value.into()))
                .collect()
        };
        let mut labels = metadata("labels");
        labels.insert(marks::IMPORTED.into(), "host".into());
        let mut annotations = metadata("annotations");
        annotations.insert(marks::SHOWN_AS.into(), shown_as(name).into());
        let mut inside = json!({
            "apiVersion": "v1",
            "kind": match kind { DataKind::ConfigMap => "ConfigMap", DataKind::Secret => "Secret" },
            "metadata": {
                "name": name.name, "namespace": name.namespace,
                "labels": labels, "annotations": annotations,
            },
        });
        for key in ["data", "binaryData", "type", "immutable"] {
            copy_key(host, &mut inside, key);
        }
        applied(inside, Value::clone)
    }

    /// The ConfigMap or Secret inside, brought up to date, or `None` if it is.
    pub fn shown_update(&self, inside: &Value, wanted: &Value) -> Option<Value> {
        let mut updated = inside.clone();
        for key in ["data", "binaryData", "immutable"] {
            copy_key(wanted, &mut updated, key);
        }
        merge_metadata(&mut updated, wanted);
        let same = |key: &str| crate::json::same(inside.get(key), updated.get(key));
        let metadata = |field: &str| {
            let pointer = format!("/metadata/{field}");
            crate::json::same(inside.pointer(&pointer), updated.pointer(&pointer))
        };
        let unchanged = ["data", "binaryData", "immutable"].into_iter().all(same)
            && ["labels", "annotations"].into_iter().all(metadata);
        (!unchanged).then_some(updated)
    }
}

pub(crate) fn shown_as(name: &VirtualName) -> String {
    format!("{}/{}", name.namespace, name.name)
}

/// The Service has to be made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewType;

/// The history of an object elsewhere.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn copy_number(port: &mut Value, from: &str, to: &str) {
    let number = port.get(from).cloned().unwrap_or(Value::Null);
    set(port, to, number);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn translator() -> Translator {
        Translator::new("vc", "demo", Arc::default())
    }

    fn host_service() -> Value {
        json!({
            "metadata": {"name": "hostsvc", "namespace": "default", "labels": {"app": "web"}},
            "spec": {
                "type": "NodePort", "clusterIP": "10.96.0.7", "selector": {"app": "web"},
                "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP",
                           "nodePort": 30080}],
            },
        })
    }

    #[test]
    fn a_replica_leads_to_the_host_services_address() {
        let t = translator();
        let name = VirtualName::new("default", "virtualsvc");
        let service = t.replica_service(&name, &host_service());
        assert_eq!(
            service["spec"],
            json!({
                "type": "ClusterIP", "clusterIP": "None",
                "ports": [{"name": "http", "port": 80, "targetPort": 80, "protocol": "TCP"}],
            })
        );
        assert!(t.is_shown(&service));
        let [endpoints, slice] = t.replica_endpoints(&name, &host_service(), None);
        assert_eq!(
            endpoints["subsets"],
            json!([{
                "addresses": [{"ip": "10.96.0.7"}],
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            }])
        );
        assert_eq!(slice["endpoints"][0]["addresses"], json!(["10.96.0.7"]));
        assert_eq!(
            slice["metadata"]["labels"]["kubernetes.io/service-name"],
            "virtualsvc"
        );
        let shown = t.replica_update(&service, &service);
        assert_eq!(shown, Ok(None));
    }

    #[test]
    fn a_headless_services_ready_addresses_are_copied() {
        let t = translator();
        let name = VirtualName::new("default", "v");
        let mut host = host_service();
        host["spec"]["clusterIP"] = "None".into();
        let ports = json!([{"port": 8080, "protocol": "TCP"}]);
        let endpoints = json!({"subsets": [
            {"addresses": [{"ip": "10.1.0.1", "nodeName": "n", "targetRef": {"kind": "Pod"}}],
             "notReadyAddresses": [{"ip": "10.1.0.2"}], "ports": ports},
            {"notReadyAddresses": [{"ip": "10.1.0.3"}]},
        ]});
        let [copy, slice] = t.replica_endpoints(&name, &host, Some(&endpoints));
        assert_eq!(
            copy["subsets"],
            json!([{"addresses": [{"ip": "10.1.0.1"}], "ports": ports}])
        );
        assert_eq!(slice["ports"], ports);
        let [none, slice] = t.replica_endpoints(&name, &host, None);
        assert_eq!(none["subsets"], json!([]));
        assert_eq!(slice["endpoints"], json!([]));
    }

    #[test]
    fn names_elsewhere_stay_names() {
        let t = translator();
        let name = VirtualName::new("default", "v");
        let host = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
        let replica = t.replica_service(&name, &host);
        assert_eq!(replica["spec"], host["spec"]);
        let other = t.replica_service(&name, &host_service());
        assert_eq!(t.replica_update(&other, &replica), Err(NewType));
        assert_eq!(t.alias_obstacle(&replica), None);
        assert!(t.alias_obstacle(&other).is_some());
    }

    #[test]
    fn an_alias_selects_only_pods_of_its_namespace_and_is_known_again() {
        let t = translator();
        let service = json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u"},
            "spec": {"type": "NodePort", "selector": {"app": "web"}, "clusterIP": "10.96.0.9",
                     "ports": [{"port": 80, "nodePort": 30000}]},
        });
        let mut alias = t.service_alias(&service, "shop-web");
        assert_eq!(alias["metadata"]["name"], "shop-web");
        assert_eq!(
            alias["spec"],
            json!({
                "type": "ClusterIP",
                "ports": [{"port": 80}],
                "selector": {"app": "web", "coracle.dev/managed-by": "vc",
                             "coracle.dev/namespace": "shop"},
            })
        );
        assert_eq!(t.alias_of(&alias), Some(VirtualName::new("shop", "web")));
        assert_eq!(t.ours("Service", &alias), None);
        assert_eq!(t.alias_of(&t.service_to_host(&service)), None);
        alias["metadata"]["name"] = "other".into();
        assert_eq!(t.alias_of(&alias), None);
    }

    #[test]
    fn what_is_shown_of_the_host_is_neither_ours_nor_a_key_of_the_host() {
        let t = translator();
        let shown = |object: Value| t.may_be_shown(&object);
        assert!(shown(
            json!({"metadata": {"name": "a", "labels": {"app": "web", "release": "x"}}})
        ));
        let other = json!({"app": "coracle", "release": "x"});
        assert!(!shown(
            json!({"metadata": {"name": "vc-x", "labels": other}})
        ));
        assert!(!shown(
            json!({"metadata": {"name": "a", "labels": {"coracle.dev/managed-by": "x"}}})
        ));
        assert!(!shown(json!({"metadata": {"name": "kube-root-ca.crt"}})));
        assert!(!shown(
            json!({"metadata": {"name": "a"}, "type": "kubernetes.io/service-account-token"})
        ));
    }

    #[test]
    fn shown_data_follows_the_host_and_keeps_the_tenants_labels() {
        let t = translator();
        let name = VirtualName::new("x", "y");
        let mut host = json!({"metadata": {"name": "a", "labels": {"l": "1"}}, "data": {"k": "v"}});
        let mut inside = t.shown(DataKind::ConfigMap, &name, &host);
        assert_eq!(t.shown_update(&inside, &inside), None);
        inside["metadata"]["labels"]["own"] = "1".into();
        host["data"] = json!({"k": "w"});
        host["metadata"]["labels"] = json!({});
        let wanted = t.shown(DataKind::ConfigMap, &name, &host);
        let updated = t.shown_update(&inside, &wanted).unwrap();
        assert_eq!(updated["data"], json!({"k": "w"}));
        assert_eq!(object::label(&updated, "own"), Some("1"));
        assert_eq!(object::label(&updated, "l"), None);
        assert!(t.is_shown(&updated));
        inside["metadata"]["name"] = "copy".into();
        assert!(!t.is_shown(&inside));
    }
}
