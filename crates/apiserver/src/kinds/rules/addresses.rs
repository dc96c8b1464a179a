//! The rules of ServiceCIDRs and IPAddresses.

use std::net::IpAddr;

use coracle_machinery::names::{NameRule, dns1123_subdomain_errors, path_segment_errors};
use coracle_machinery::object::name;
use coracle_machinery::{FieldError, FieldPath};
use serde_json::Value;

use super::text::{check, check_required, strict_cidr, strict_ip_address};
use super::{Errors, immutable_in_spec, list, str_at};
use crate::kind::Strategy;

/// The rules of ServiceCIDRs.
pub(in crate::kinds) struct ServiceCidr;
/// The rules of IPAddresses.
pub(in crate::kinds) struct IpAddressObject;

/// One address block for each family.
const MAX_CIDRS: usize = 2;
/// How an object that may not change is refused.
const IMMUTABLE: &str = "field is immutable";

impl Strategy for ServiceCidr {
    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec").child("cidrs");
        let cidrs = list(&object["spec"], "cidrs");
        if cidrs.is_empty() {
            errors.push(FieldError::required(&path, "at least one CIDR required"));
        } else if cidrs.len() > MAX_CIDRS {
            let detail = "may only hold up to 2 values";
            errors.push(FieldError::invalid(&path, object["spec"].clone(), detail));
        } else {
            for (index, cidr) in cidrs.iter().enumerate() {
                let cidr = cidr.as_str().unwrap_or_default();
                check(&mut errors, &path.index(index), cidr, strict_cidr);
            }
            let families: Vec<bool> = cidrs.iter().filter_map(is_v4).collect();
            if families.len() == MAX_CIDRS && families[0] == families[1] {
                let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
                errors.push(FieldError::invalid(&path, cidrs.to_vec(), detail));
            }
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        let path = FieldPath::new("spec").child("cidrs");
        let (new, old) = (list(&object["spec"], "cidrs"), list(&old["spec"], "cidrs"));
        // A second family may be added.
        let added = old.len() == 1 && new.len() == MAX_CIDRS;
        if old.len() != new.len() && !added {
            return vec![FieldError::invalid(&path, new.to_vec(), IMMUTABLE)];
        }
        let pairs = new.iter().zip(old).enumerate();
        let changed = pairs.filter(|(_, (new, old))| new != old);
        changed
            .map(|(index, (new, _))| {
                FieldError::invalid(&path.index(index), new.clone(), IMMUTABLE)
            })
            .collect()
    }
}

fn is_v4(cidr: &Value) -> Option<bool> {
    let (address, _) = cidr.as_str()?.split_once('/')?;
    address
        .parse::<IpAddr>()
        .ok()
        .map(|address| address.is_ipv4())
}

impl Strategy for IpAddressObject {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let at = FieldPath::new("metadata").child("name");
        check(&mut errors, &at, name(object), strict_ip_address);
        let path = FieldPath::new("spec").child("parentRef");
        let parent = &object["spec"]["parentRef"];
        if parent.is_null() {
            errors.push(FieldError::required(&path, ""));
            return errors;
        }
        let segment = |text: &str| path_segment_errors(text, false);
        let group = str_at(parent, "group");
        if !group.is_empty() {
            check(
                &mut errors,
                &path.child("group"),
                group,
                dns1123_subdomain_errors,
            );
        }
        for key in ["resource", "name"] {
            check_required(&mut errors, &path.child(key), str_at(parent, key), segment);
        }
        let namespace = str_at(parent, "namespace");
        check(&mut errors, &path.child("namespace"), namespace, segment);
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        immutable_in_spec(object, old, "parentRef")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: Errors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn address_blocks() {
        let blocks = |cidrs: Value| json!({"spec": {"cidrs": cidrs}});
        let found = |cidrs: Value| texts(ServiceCidr.validate(&blocks(cidrs)));
        assert!(found(json!(["10.0.0.0/24", "fd00::/112"])).is_empty());
        assert_eq!(
            found(json!(["10.200.0.1/24", "x"])),
            [
                "spec.cidrs[0]: Invalid value: \"10.200.0.1/24\": must not have bits set beyond the prefix length",
                "spec.cidrs[1]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ]
        );
        assert_eq!(found(json!(["10.0.0.0/24", "10.1.0.0/24"])).len(), 1);
        assert_eq!(
            found(json!([])),
            ["spec.cidrs: Required value: at least one CIDR required"]
        );
        let change = |new: Value| {
            texts(ServiceCidr.validate_update(&blocks(new), &blocks(json!(["10.0.0.0/24"]))))
        };
        assert!(change(json!(["10.0.0.0/24", "fd00::/112"])).is_empty());
        assert_eq!(
            change(json!(["10.1.0.0/24"])),
            ["spec.cidrs[0]: Invalid value: \"10.1.0.0/24\": field is immutable"]
        );
    }

    #[test]
    fn addresses() {
        let found = |name: &str, parent: Value| {
            let object = json!({"metadata": {"name": name}, "spec": {"parentRef": parent}});
            texts(IpAddressObject.validate(&object))
        };
        let service = json!({"resource": "services", "namespace": "a", "name": "b"});
        assert!(found("2001:db8::1", service.clone()).is_empty());
        assert_eq!(
            found("10.200.0.05", Value::Null),
            [
                "metadata.name: Invalid value: \"10.200.0.05\": must not have leading 0s",
                "spec.parentRef: Required value",
            ]
        );
        assert_eq!(
            found("10.0.0.1", json!({})),
            [
                "spec.parentRef.resource: Required value",
                "spec.parentRef.name: Required value",
            ]
        );
    }
}
