//! The rules of Ingresses, IngressClasses and NetworkPolicies.

use coracle_machinery::names::{dns1123_subdomain_errors, wildcard_subdomain_errors};
use coracle_machinery::{FieldError, FieldPath};
use serde_json::{Map, Value, json};

use super::probes::port as check_port;
use super::text::{check, check_required, cidr, domain_prefixed_path};
use super::{
    Errors, default_field, each_mut, given, immutable_in_spec, list, map_mut, one_of, selectors,
    spec_mut, str_at,
};
use crate::kind::Strategy;

/// The rules of Ingresses.
pub(in crate::kinds) struct Ingress;
/// The rules of IngressClasses.
pub(in crate::kinds) struct IngressClass;
/// The rules of NetworkPolicies.
pub(in crate::kinds) struct NetworkPolicy;

impl Strategy for Ingress {
    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &object["spec"];
        let rules = list(spec, "rules");
        if rules.is_empty() && !given(spec, "defaultBackend") {
            let detail = "either `defaultBackend` or `rules` must be specified";
            errors.push(FieldError::invalid(&path, json!({}), detail));
        }
        if given(spec, "defaultBackend") {
            backend(
                &mut errors,
                &spec["defaultBackend"],
                &path.child("defaultBackend"),
            );
        }
        let class = str_at(spec, "ingressClassName");
        if !class.is_empty() {
            check(
                &mut errors,
                &path.child("ingressClassName"),
                class,
                dns1123_subdomain_errors,
            );
        }
        for (index, rule) in rules.iter().enumerate() {
            ingress_rule(&mut errors, rule, &path.child("rules").index(index));
        }
        for (index, tls) in list(spec, "tls").iter().enumerate() {
            let at = path.child("tls").index(index).child("hosts");
            for (index, host) in list(tls, "hosts").iter().enumerate() {
                hostname(
                    &mut errors,
                    host.as_str().unwrap_or_default(),
                    &at.index(index),
                );
            }
        }
        errors
    }
}

fn hostname(errors: &mut Errors, host: &str, path: &FieldPath) {
    if host.contains('*') {
        check(errors, path, host, wildcard_subdomain_errors);
    } else {
        check(errors, path, host, dns1123_subdomain_errors);
    }
}

fn ingress_rule(errors: &mut Errors, rule: &Value, path: &FieldPath) {
    let host = str_at(rule, "host");
    if !host.is_empty() {
        if host.parse::<std::net::IpAddr>().is_ok() {
            let detail = "must be a DNS name, not an IP address";
            errors.push(FieldError::invalid(&path.child("host"), host, detail));
        }
        hostname(errors, host, &path.child("host"));
    }
    if !given(rule, "http") {
        return;
    }
    let at = path.child("http").child("paths");
    let paths = list(&rule["http"], "paths");
    if paths.is_empty() {
        errors.push(FieldError::required(&at, ""));
    }
    for (index, entry) in paths.iter().enumerate() {
        let at = at.index(index);
        let text = str_at(entry, "path");
        let allowed = ["Exact", "ImplementationSpecific", "Prefix"];
        match str_at(entry, "pathType") {
            "" => errors.push(FieldError::required(
                &at.child("pathType"),
                "pathType must be specified",
            )),
            "Exact" | "Prefix" if !text.starts_with('/') => {
                errors.push(FieldError::invalid(
                    &at.child("path"),
                    text,
                    "must be an absolute path",
                ));
            }
            "ImplementationSpecific" if !text.is_empty() && !text.starts_with('/') => {
                errors.push(FieldError::invalid(
                    &at.child("path"),
                    text,
                    "must be an absolute path",
                ));
            }
            kind if !allowed.contains(&kind) => {
                errors.push(FieldError::not_supported(
                    &at.child("pathType"),
                    kind,
                    &allowed,
                ));
            }
            _ => {}
        }
        backend(errors, &entry["backend"], &at.child("backend"));
    }
}

fn backend(errors: &mut Errors, backend: &Value, path: &FieldPath) {
    let (service, resource) = (&backend["service"], &backend["resource"]);
    match (service.is_null(), resource.is_null()) {
        (false, false) => {
            let detail = "cannot set both resource and service backends";
            errors.push(FieldError::invalid(path, "", detail));
        }
        (true, true) => errors.push(FieldError::required(
            path,
            "port name or number is required",
        )),
        (true, false) => {}
        (false, true) => {
            let at = path.child("service");
            if str_at(service, "name").is_empty() {
                errors.push(FieldError::required(&at.child("name"), ""));
            }
            let (name, number) = (&service["port"]["name"], &service["port"]["number"]);
            let named = name.as_str().is_some_and(|n| !n.is_empty());
            let numbered = number.as_i64().is_some_and(|n| n != 0);
            let at = at.child("port");
            match (named, numbered) {
                (true, true) => {
                    let detail = "cannot set both port name & port number";
                    errors.push(FieldError::invalid(path, "", detail));
                }
                (false, false) => {
                    errors.push(FieldError::required(
                        path,
                        "port name or number is required",
                    ));
                }
                (true, false) => check_port(errors, name, &at.child("name")),
                (false, true) => check_port(errors, number, &at.child("number")),
            }
        }
    }
}

impl Strategy for IngressClass {
    fn default(&self, object: &mut Value) {
        if let Some(parameters) = spec_mut(object).and_then(|s| map_mut(s, "parameters")) {
            default_field(parameters, "scope", "Cluster");
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec").child("controller");
        let controller = str_at(&object["spec"], "controller");
        domain_prefixed_path(&mut errors, &path, controller);
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        immutable_in_spec(object, old, "controller")
    }
}

impl Strategy for NetworkPolicy {
    fn default(&self, object: &mut Value) {
        let Some(spec) = spec_mut(object) else {
            return;
        };
        for direction in ["ingress", "egress"] {
            for rule in each_mut(spec, direction) {
                for port in each_mut(rule, "ports") {
                    default_field(port, "protocol", "TCP");
                }
            }
        }
        let has_egress = spec
            .get("egress")
            .and_then(Value::as_array)
            .is_some_and(|l| !l.is_empty());
        let types = if has_egress {
            json!(["Ingress", "Egress"])
        } else {
            json!(["Ingress"])
        };
        let unset = |spec: &Map<String, Value>| {
            spec.get("policyTypes")
                .and_then(Value::as_array)
                .is_none_or(Vec::is_empty)
        };
        if unset(spec) {
            spec.insert("policyTypes".into(), types);
        }
        default_field(spec, "podSelector", json!({}));
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &object["spec"];
        selectors::label_selector(
            &mut errors,
            &spec["podSelector"],
            &path.child("podSelector"),
        );
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for (index, rule) in list(spec, direction).iter().enumerate() {
                let at = path.child(direction).index(index);
                for (index, port) in list(rule, "ports").iter().enumerate() {
                    policy_port(&mut errors, port, &at.child("ports").index(index));
                }
                for (index, peer) in list(rule, peers).iter().enumerate() {
                    policy_peer(&mut errors, peer, &at.child(peers).index(index));
                }
            }
        }
        for (index, kind) in list(spec, "policyTypes").iter().enumerate() {
            if kind != "Ingress" && kind != "Egress" {
                let at = path.child("policyTypes").index(index);
                errors.push(FieldError::not_supported(
                    &at,
                    kind.clone(),
                    &["Egress", "Ingress"],
                ));
            }
        }
        errors
    }
}

fn policy_port(errors: &mut Errors, port: &Value, path: &FieldPath) {
    one_of(errors, port, "protocol", path, &["SCTP", "TCP", "UDP"]);
    if given(port, "port") {
        check_port(errors, &port["port"], &path.child("port"));
    }
    let Some(end) = port["endPort"].as_i64() else {
        return;
    };
    let at = path.child("endPort");
    match port["port"].as_i64() {
        Some(first) if end < first => {
            let detail = "must be greater than or equal to `port`";
            errors.push(FieldError::invalid(&at, end, detail));
        }
        Some(_) => {}
        None if given(port, "port") => {
            let detail = "may not be specified when `port` is non-numeric";
            errors.push(FieldError::invalid(&at, end, detail));
        }
        None => {
            let detail = "may not be specified when `port` is not specified";
            errors.push(FieldError::invalid(&at, end, detail));
        }
    }
}

fn policy_peer(errors: &mut Errors, peer: &Value, path: &FieldPath) {
    let mut count = 0;
    for key in ["podSelector", "namespaceSelector"] {
        if given(peer, key) {
            count += 1;
            selectors::label_selector(errors, &peer[key], &path.child(key));
        }
    }
    if given(peer, "ipBlock") {
        let at = path.child("ipBlock");
        if count > 0 {
            let detail = "may not specify both ipBlock and another peer";
            errors.push(FieldError::forbidden(path, detail));
        }
        count += 1;
        check_required(
            errors,
            &at.child("cidr"),
            str_at(&peer["ipBlock"], "cidr"),
            cidr,
        );
        for (index, except) in list(&peer["ipBlock"], "except").iter().enumerate() {
            let at = at.child("except").index(index);
            check(errors, &at, except.as_str().unwrap_or_default(), cidr);
        }
    }
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a peer"));
    }
}
