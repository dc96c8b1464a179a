//! The rules of Endpoints and EndpointSlices.

use coracle_machinery::names::{dns1123_label_errors, dns1123_subdomain_errors};
use coracle_machinery::{FieldError, FieldPath};
use serde_json::Value;

use super::text::{check, non_special_address, port_number};
use super::{Errors, default_field, each_mut, immutable, list, one_of, str_at};
use crate::kind::Strategy;

/// Upstream's bounds on a slice.
const SLICE_ENDPOINTS_MAX: usize = 1000;
const SLICE_PORTS_MAX: usize = 20_000;
const ENDPOINT_ADDRESSES_MAX: usize = 100;

/// The rules of Endpoints.
pub(in crate::kinds) struct Endpoints;
/// The rules of EndpointSlices.
pub(in crate::kinds) struct EndpointSlice;

impl Strategy for Endpoints {
    fn default(&self, object: &mut Value) {
        let Some(map) = object.as_object_mut() else {
            return;
        };
        for subset in each_mut(map, "subsets") {
            for port in each_mut(subset, "ports") {
                default_field(port, "protocol", "TCP");
            }
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        for (index, subset) in list(object, "subsets").iter().enumerate() {
            let path = FieldPath::new("subsets").index(index);
            let keys = ["addresses", "notReadyAddresses"];
            if keys.iter().all(|key| list(subset, key).is_empty()) {
                let detail = "must specify `addresses` or `notReadyAddresses`";
                errors.push(FieldError::required(&path, detail));
            }
            for key in keys {
                for (index, address) in list(subset, key).iter().enumerate() {
                    let at = path.child(key).index(index).child("ip");
                    check(&mut errors, &at, str_at(address, "ip"), non_special_address);
                }
            }
            let ports = list(subset, "ports");
            for (index, port) in ports.iter().enumerate() {
                let at = path.child("ports").index(index);
                endpoint_port(&mut errors, port, &at, ports.len() > 1);
                port_number(
                    &mut errors,
                    &at.child("port"),
                    port["port"].as_i64().unwrap_or(0),
                );
            }
        }
        errors
    }
}

fn endpoint_port(errors: &mut Errors, port: &Value, path: &FieldPath, name_required: bool) {
    let name = str_at(port, "name");
    if !name.is_empty() {
        check(errors, &path.child("name"), name, dns1123_label_errors);
    } else if name_required {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    one_of(errors, port, "protocol", path, &["SCTP", "TCP", "UDP"]);
}

impl Strategy for EndpointSlice {
    fn default(&self, object: &mut Value) {
        let Some(map) = object.as_object_mut() else {
            return;
        };
        for port in each_mut(map, "ports") {
            default_field(port, "name", "");
            default_field(port, "protocol", "TCP");
        }
    }

    fn tracks_generation(&self, _object: &Value) -> bool {
        true
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let kind = str_at(object, "addressType");
        let allowed = ["FQDN", "IPv4", "IPv6"];
        let at = FieldPath::new("addressType");
        if kind.is_empty() {
            errors.push(FieldError::required(&at, ""));
        } else {
            one_of(
                &mut errors,
                object,
                "addressType",
                &FieldPath::default(),
                &allowed,
            );
        }
        let endpoints = list(object, "endpoints");
        let at = FieldPath::new("endpoints");
        if endpoints.len() > SLICE_ENDPOINTS_MAX {
            errors.push(too_many(&at, SLICE_ENDPOINTS_MAX));
            return errors;
        }
        for (index, endpoint) in endpoints.iter().enumerate() {
            addresses(&mut errors, endpoint, &at.index(index), kind);
        }
        let ports = list(object, "ports");
        let at = FieldPath::new("ports");
        if ports.len() > SLICE_PORTS_MAX {
            errors.push(too_many(&at, SLICE_PORTS_MAX));
            return errors;
        }
        let mut names = std::collections::BTreeSet::new();
        for (index, port) in ports.iter().enumerate() {
            let at = at.index(index);
            endpoint_port(&mut errors, port, &at, false);
            if !names.insert(str_at(port, "name")) {
                errors.push(FieldError::duplicate(
                    &at.child("name"),
                    str_at(port, "name"),
                ));
            }
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        let mut errors = Vec::new();
        immutable(
            &mut errors,
            object,
            old,
            "addressType",
            &FieldPath::default(),
        );
        errors
    }
}

fn too_many(path: &FieldPath, most: usize) -> FieldError {
    FieldError {
        kind: coracle_machinery::FieldErrorKind::TooMany,
        path: path.clone(),
        value: None,
        detail: format!("must have at most {most} items"),
    }
}

fn addresses(errors: &mut Errors, endpoint: &Value, path: &FieldPath, kind: &str) {
    let addresses = list(endpoint, "addresses");
    let at = path.child("addresses");
    if addresses.is_empty() {
        errors.push(FieldError::required(&at, "must contain at least 1 address"));
    } else if addresses.len() > ENDPOINT_ADDRESSES_MAX {
        errors.push(too_many(&at, ENDPOINT_ADDRESSES_MAX));
        return;
    }
    for (index, address) in addresses.iter().enumerate() {
        let at = at.index(index);
        let text = address.as_str().unwrap_or_default();
        match kind {
            "IPv4" if text.parse::<std::net::Ipv4Addr>().is_err() => {
                errors.push(FieldError::invalid(&at, text, "must be an IPv4 address"));
            }
            "IPv6" if text.parse::<std::net::Ipv6Addr>().is_err() => {
                errors.push(FieldError::invalid(&at, text, "must be an IPv6 address"));
            }
            "IPv4" | "IPv6" => check(errors, &at, text, non_special_address),
            "FQDN" => check(errors, &at, text, dns1123_subdomain_errors),
            _ => {}
        }
    }
}
