//! Slices of Endpoints that somebody wrote for a service without a selector.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::addresses::Group;
use super::slices::{Head, MANAGED_BY};
use crate::objects::service::{Endpoints, SERVICE_NAME_LABEL};
use crate::objects::{Kind, Meta, controller_reference};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// The label of Endpoints whose slices are written by somebody else.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// The annotation of Endpoints that only elect a leader.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Addresses of one subset that are mirrored, as upstream.
const MAX_ADDRESSES: usize = 1000;

/// Whether this controller made the slice.
pub(super) fn is_ours(meta: &Meta) -> bool {
    meta.label(MANAGED_BY) == Some(MANAGER)
}

/// Whether Endpoints are to be mirrored at all.
pub(super) fn is_wanted(endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    meta.label(SKIP) != Some("true") && !meta.annotations.contains_key(LEADER)
}

/// What the slices have in common.
pub(super) fn head(endpoints: &Endpoints) -> Head {
    let meta = &endpoints.metadata;
    let mut labels = meta.labels.clone();
    labels.insert(SERVICE_NAME_LABEL.to_owned(), meta.name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    Head {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        owner: controller_reference(Endpoints::RESOURCE, meta),
        labels,
    }
}

/// The endpoints of all subsets by their ports and kind of address.
pub(super) fn groups(endpoints: &Endpoints) -> Vec<Group> {
    let mut groups: BTreeMap<(String, &'static str), Group> = BTreeMap::new();
    for subset in &endpoints.subsets {
        let ports = subset["ports"].as_array().cloned().unwrap_or_default();
        let mut seen = BTreeSet::new();
        let ready = addresses(subset, "addresses").map(|address| (address, true));
        let unready = addresses(subset, "notReadyAddresses").map(|address| (address, false));
        for (address, ready) in ready.chain(unready) {
            let ip = address["ip"].as_str().unwrap_or_default();
            if seen.len() == MAX_ADDRESSES || !seen.insert(ip) {
                continue;
            }
            let kind = if ip.contains(':') { "IPv6" } else { "IPv4" };
            let key = (Value::from(ports.clone()).to_string(), kind);
            let group = groups.entry(key).or_insert_with(|| Group {
                address_type: kind,
                ports: ports.clone(),
                endpoints: Vec::new(),
            });
            group.endpoints.push(endpoint(address, ready));
        }
    }
    groups.into_values().collect()
}

fn addresses<'v>(subset: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> {
    subset[field].as_array().into_iter().flatten()
}

fn endpoint(address: &Value, ready: bool) -> Value {
    let mut endpoint = json!({
        "addresses": [address["ip"]], "conditions": {"ready": ready},
    });
    for field in ["hostname", "nodeName", "targetRef"] {
        if !address[field].is_null() {
            endpoint[field] = address[field].clone();
        }
    }
    endpoint
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;

    #[test]
    fn subsets_become_groups() {
        let endpoints: Endpoints = object(json!({
            "metadata": {"name": "db", "namespace": "a", "labels": {"x": "y"}},
            "subsets": [
                {"addresses": [{"ip": "1.2.3.4", "hostname": "h"}, {"ip": "::1"}],
                    "notReadyAddresses": [{"ip": "1.2.3.5"}, {"ip": "1.2.3.4"}],
                    "ports": [{"port": 80}]},
                {"addresses": [{"ip": "1.2.3.6"}], "ports": [{"port": 80}]},
                {"addresses": [{"ip": "1.2.3.4"}], "ports": [{"port": 81}]},
            ],
        }));
        let groups = groups(&endpoints);
        let shown: Vec<(&str, i64, usize)> = groups
            .iter()
            .map(|it| {
                (
                    it.address_type,
                    it.ports[0]["port"].as_i64().unwrap(),
                    it.endpoints.len(),
                )
            })
            .collect();
        assert_eq!(shown, [("IPv4", 80, 3), ("IPv6", 80, 1), ("IPv4", 81, 1)]);
        assert_eq!(
            groups[0].endpoints[..2],
            [
                json!({"addresses": ["1.2.3.4"], "conditions": {"ready": true}, "hostname": "h"}),
                json!({"addresses": ["1.2.3.5"], "conditions": {"ready": false}}),
            ]
        );
        assert_eq!(head(&endpoints).labels["x"], "y");
        assert!(is_wanted(&endpoints));
        let skipped: Endpoints = object(json!({"metadata": {"labels": {SKIP: "true"}}}));
        assert!(!is_wanted(&skipped));
    }
}
