//! The rules of Services. Addresses and node ports are allocated elsewhere.

use std::collections::BTreeSet;

use coracle_machinery::names::{
    NameRule, dns1123_label_errors, dns1123_subdomain_errors, qualified_name_errors,
};
use coracle_machinery::{FieldError, FieldPath};
use serde_json::{Map, Value, json};

use super::probes::port as check_port;
use super::text::{check, cidr, ip_address, non_special_address, port_number};
use super::{
    Errors, default_field, each_mut, given, list, map_mut, one_of, selectors, spec_mut, str_at,
};
use crate::kind::Strategy;

/// Seconds that a client stays with its endpoint: three hours.
const AFFINITY_SECONDS: i64 = 10_800;
/// The longest that upstream allows: one day.
const AFFINITY_SECONDS_MAX: i64 = 86_400;

/// The rules of Services.
pub(in crate::kinds) struct Service;

impl Strategy for Service {
    fn name_rule(&self) -> NameRule {
        NameRule::Rfc1035Label
    }

    fn tracks_generation(&self, _object: &Value) -> bool {
        false
    }

    fn default(&self, object: &mut Value) {
        if let Some(spec) = spec_mut(object) {
            defaults(spec);
        }
    }

    fn prepare_for_create(&self, object: &mut Value) {
        if let Some(spec) = spec_mut(object) {
            one_and_many_addresses(spec);
            clear_external_name(spec);
        }
    }

    fn prepare_for_update(&self, object: &mut Value, old: &Value) {
        if let Some(spec) = spec_mut(object) {
            one_and_many_addresses(spec);
            keep_allocated(spec, &old["spec"]);
            drop_unneeded(spec, &old["spec"]);
            clear_external_name(spec);
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        validate_spec(&mut errors, &object["spec"], &FieldPath::new("spec"));
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        let mut errors = Vec::new();
        let (new, old) = (&object["spec"], &old["spec"]);
        let external = new["type"] == "ExternalName" || old["type"] == "ExternalName";
        let before = str_at(old, "clusterIP");
        if !external && !before.is_empty() && str_at(new, "clusterIP") != before {
            let at = FieldPath::new("spec").child("clusterIPs").index(0);
            let value = new["clusterIPs"].clone();
            errors.push(FieldError::invalid(&at, value, "may not change once set"));
        }
        let balanced = |spec: &Value| str_at(spec, "type") == "LoadBalancer";
        let class = "loadBalancerClass";
        if balanced(old) && balanced(new) && str_at(new, class) != str_at(old, class) {
            let at = FieldPath::new("spec").child(class);
            let value = new[class].clone();
            errors.push(FieldError::invalid(&at, value, "field is immutable"));
        }
        errors
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.clusterIP", "spec.type"]
    }
}

fn defaults(spec: &mut Map<String, Value>) {
    default_field(spec, "sessionAffinity", "None");
    default_field(spec, "type", "ClusterIP");
    if spec["sessionAffinity"] == "None" {
        spec.remove("sessionAffinityConfig");
    }
    if spec["sessionAffinity"] == "ClientIP" {
        default_field(spec, "sessionAffinityConfig", json!({}));
        if let Some(config) = map_mut(spec, "sessionAffinityConfig") {
            default_field(config, "clientIP", json!({}));
            if let Some(client) = map_mut(config, "clientIP") {
                default_field(client, "timeoutSeconds", AFFINITY_SECONDS);
            }
        }
    }
    for port in each_mut(spec, "ports") {
        default_field(port, "protocol", "TCP");
        let unset = port
            .get("targetPort")
            .is_none_or(|p| p.is_null() || p == 0 || p == "");
        if unset && let Some(number) = port.get("port").cloned() {
            port.insert("targetPort".into(), number);
        }
    }
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    let external_ips = spec
        .get("externalIPs")
        .and_then(Value::as_array)
        .is_some_and(|l| !l.is_empty());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || kind == "ClusterIP" && external_ips {
        default_field(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        default_field(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default_field(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// `clusterIPs` follows `clusterIP`, which old clients set alone.
fn one_and_many_addresses(spec: &mut Map<String, Value>) {
    let one = spec
        .get("clusterIP")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let many = spec
        .get("clusterIPs")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    if !one.is_empty() && many == 0 {
        spec.insert("clusterIPs".into(), json!([one]));
    }
}

fn needs_address(kind: &str) -> bool {
    matches!(kind, "" | "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn needs_node_port(spec: &Map<String, Value>) -> bool {
    match spec.get("type").and_then(Value::as_str) {
        Some("NodePort") => true,
        Some("LoadBalancer") => {
            spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false))
        }
        _ => false,
    }
}

/// Carries over what was allocated where the client left it out.
fn keep_allocated(spec: &mut Map<String, Value>, old: &Value) {
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default();
    if !needs_address(kind) || !needs_address(str_at(old, "type")) {
        return;
    }
    let blank = |v: Option<&Value>| v.is_none_or(|v| v.is_null() || v == "" || v == &json!([]));
    if blank(spec.get("clusterIP")) && blank(spec.get("clusterIPs")) {
        for key in ["clusterIP", "clusterIPs"] {
            if let Some(value) = old.get(key) {
                spec.insert(key.to_owned(), value.clone());
            }
        }
    }
    for key in ["ipFamilies", "ipFamilyPolicy"] {
        if blank(spec.get(key))
            && let Some(value) = old.get(key)
        {
            spec.insert(key.to_owned(), value.clone());
        }
    }
    if !needs_node_port(spec) {
        return;
    }
    let same_type = spec.get("type") == old.get("type");
    let old_ports = list(old, "ports");
    for port in each_mut(spec, "ports") {
        let unset = port.get("nodePort").is_none_or(|p| p.is_null() || p == 0);
        let found = old_ports.iter().find(|o| {
            o.get("port") == port.get("port") && o.get("protocol") == port.get("protocol")
        });
        if unset
            && let Some(number) = found
                .and_then(|o| o["nodePort"].as_i64())
                .filter(|n| *n != 0)
        {
            port.insert("nodePort".into(), number.into());
        }
    }
    let check = spec
        .get("healthCheckNodePort")
        .is_none_or(|p| p.is_null() || p == 0);
    if same_type
        && check
        && let Some(number) = old["healthCheckNodePort"].as_i64().filter(|n| *n != 0)
    {
        spec.insert("healthCheckNodePort".into(), number.into());
    }
}

/// Drops what the new type has no use for, if the client merely sent it back.
fn drop_unneeded(spec: &mut Map<String, Value>, old: &Value) {
    let kind = spec
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    if !needs_address(&kind) && needs_address(str_at(old, "type")) {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if spec.get(key) == old.get(key) {
                spec.remove(key);
            }
        }
    }
    let had_ports = old.as_object().is_some_and(needs_node_port);
    if had_ports && !needs_node_port(spec) {
        let old_ports: Vec<&Value> = list(old, "ports").iter().map(|p| &p["nodePort"]).collect();
        for port in each_mut(spec, "ports") {
            if port.get("nodePort").is_some_and(|p| old_ports.contains(&p)) {
                port.remove("nodePort");
            }
        }
    }
    if kind != str_at(old, "type") {
        let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
        if !external && spec.get("externalTrafficPolicy") == old.get("externalTrafficPolicy") {
            spec.remove("externalTrafficPolicy");
        }
        if kind != "LoadBalancer" {
            for key in [
                "allocateLoadBalancerNodePorts",
                "loadBalancerClass",
                "healthCheckNodePort",
            ] {
                if spec.get(key) == old.get(key) {
                    spec.remove(key);
                }
            }
        }
    }
}

fn clear_external_name(spec: &mut Map<String, Value>) {
    if spec.get("type").and_then(Value::as_str) != Some("ExternalName") {
        return;
    }
    // Such a service has no traffic of its own to steer.
    spec.remove("internalTrafficPolicy");
}

fn validate_spec(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    let kind = str_at(spec, "type");
    let headless = spec["clusterIP"] == "None";
    one_of(
        errors,
        spec,
        "type",
        path,
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
    );
    if list(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required(&path.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let at = path.child("clusterIPs").index(0);
            let detail = "may not be set to 'None' for LoadBalancer services";
            let detail = if kind == "NodePort" {
                "may not be set to 'None' for NodePort services"
            } else {
                detail
            };
            errors.push(FieldError::invalid(&at, "None", detail));
        }
        "ExternalName" => {
            if given(spec, "clusterIP") && !str_at(spec, "clusterIP").is_empty() {
                let detail = "may not be set for ExternalName services";
                errors.push(FieldError::forbidden(&path.child("clusterIP"), detail));
            }
            let name = str_at(spec, "externalName");
            let at = path.child("externalName");
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.is_empty() {
                errors.push(FieldError::required(&at, ""));
            } else {
                check(errors, &at, name, dns1123_subdomain_errors);
            }
        }
        _ => {}
    }
    ports(errors, spec, path, kind);
    selectors::labels(errors, &spec["selector"], &path.child("selector"));
    affinity(errors, spec, path);
    addresses(errors, spec, path);
    load_balancer(errors, spec, path);
    let policies = &["Cluster", "Local"];
    one_of(errors, spec, "externalTrafficPolicy", path, policies);
    one_of(errors, spec, "internalTrafficPolicy", path, policies);
    let families = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    one_of(errors, spec, "ipFamilyPolicy", path, &families);
}

/// What only a service of that type may say.
fn load_balancer(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    if str_at(spec, "type") != "LoadBalancer" {
        for field in [
            "loadBalancerSourceRanges",
            "allocateLoadBalancerNodePorts",
            "loadBalancerClass",
        ] {
            let empty = spec[field].as_array().is_some_and(Vec::is_empty);
            if given(spec, field) && !empty {
                let detail = "may only be used when `type` is 'LoadBalancer'";
                errors.push(FieldError::forbidden(&path.child(field), detail));
            }
        }
        return;
    }
    let at = path.child("loadBalancerSourceRanges");
    for (index, range) in list(spec, "loadBalancerSourceRanges").iter().enumerate() {
        // Spaces around a range are allowed: it once was an annotation.
        let text = range.as_str().unwrap_or_default().trim();
        check(errors, &at.index(index), text, cidr);
    }
    if given(spec, "loadBalancerClass") {
        let at = path.child("loadBalancerClass");
        let class = str_at(spec, "loadBalancerClass");
        check(errors, &at, class, qualified_name_errors);
    }
}

fn affinity(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    one_of(errors, spec, "sessionAffinity", path, &["ClientIP", "None"]);
    let config = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
    if let Some(seconds) = config.as_i64()
        && !(1..=AFFINITY_SECONDS_MAX).contains(&seconds)
    {
        let at = path
            .child("sessionAffinityConfig")
            .child("clientIP")
            .child("timeoutSeconds");
        let detail = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
        errors.push(FieldError::invalid(&at, seconds, detail));
    }
}

fn addresses(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    let many = list(spec, "clusterIPs");
    for (index, address) in many.iter().enumerate() {
        let text = address.as_str().unwrap_or_default();
        if text != "None" {
            check(
                errors,
                &path.child("clusterIPs").index(index),
                text,
                ip_address,
            );
        }
    }
    if let Some(first) = many.first()
        && *first != spec["clusterIP"]
    {
        let detail = "first value must match `clusterIP`";
        errors.push(FieldError::invalid(
            &path.child("clusterIPs"),
            many.to_vec(),
            detail,
        ));
    }
    for (index, address) in list(spec, "externalIPs").iter().enumerate() {
        let text = address.as_str().unwrap_or_default();
        check(
            errors,
            &path.child("externalIPs").index(index),
            text,
            non_special_address,
        );
    }
}

fn ports(errors: &mut Errors, spec: &Value, path: &FieldPath, kind: &str) {
    let ports = list(spec, "ports");
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut node_ports = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = path.child("ports").index(index);
        let name = str_at(port, "name");
        if name.is_empty() {
            if ports.len() > 1 {
                errors.push(FieldError::required(&at.child("name"), ""));
            }
        } else {
            check(errors, &at.child("name"), name, dns1123_label_errors);
            if !names.insert(name) {
                errors.push(FieldError::duplicate(&at.child("name"), name));
            }
        }
        let number = port["port"].as_i64().unwrap_or(0);
        port_number(errors, &at.child("port"), number);
        one_of(errors, port, "protocol", &at, &["SCTP", "TCP", "UDP"]);
        if given(port, "targetPort") {
            check_port(errors, &port["targetPort"], &at.child("targetPort"));
        }
        let protocol = str_at(port, "protocol");
        if !numbers.insert((protocol, number)) {
            let value = json!({"protocol": protocol, "port": number});
            errors.push(FieldError::duplicate(&at, value));
        }
        let node_port = port["nodePort"].as_i64().unwrap_or(0);
        if node_port == 0 {
            continue;
        }
        if !matches!(kind, "NodePort" | "LoadBalancer") {
            let detail = format!("may not be used when `type` is '{kind}'");
            errors.push(FieldError::forbidden(&at.child("nodePort"), detail));
        } else if !node_ports.insert((protocol, node_port)) {
            errors.push(FieldError::duplicate(&at.child("nodePort"), node_port));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "s"}, "spec": spec});
        Service.default(&mut object);
        Service.prepare_for_create(&mut object);
        object
    }

    #[test]
    fn defaults_are_upstreams() {
        let object = service(json!({"ports": [{"port": 80}]}));
        assert_eq!(
            object["spec"],
            json!({
                "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
            })
        );
        assert!(Service.validate(&object).is_empty());
    }

    #[test]
    fn what_is_of_load_balancers_is_checked() {
        for (spec, wrong) in [
            (
                json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/a",
                "loadBalancerSourceRanges": [" 10.0.0.0/8 "]}),
                vec![],
            ),
            (
                json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8 } accept #"]}),
                vec!["spec.loadBalancerSourceRanges[0]"],
            ),
            (
                json!({"type": "LoadBalancer", "loadBalancerClass": "a/b/c"}),
                vec!["spec.loadBalancerClass"],
            ),
            (
                json!({"loadBalancerSourceRanges": ["10.0.0.0/8"], "loadBalancerClass": "a"}),
                vec!["spec.loadBalancerSourceRanges", "spec.loadBalancerClass"],
            ),
        ] {
            let mut spec = spec;
            spec["ports"] = json!([{"port": 80}]);
            let found = Service.validate(&service(spec.clone()));
            let found: Vec<String> = found.iter().map(|e| e.path.to_string()).collect();
            assert_eq!(found, wrong, "{spec}");
        }
        let old = service(
            json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/a",
            "ports": [{"port": 80}]}),
        );
        let mut new = old.clone();
        new["spec"]["loadBalancerClass"] = json!("example.com/b");
        assert_eq!(Service.validate_update(&new, &old).len(), 1);
    }

    #[test]
    fn an_update_keeps_what_was_allocated() {
        let old = service(json!({
            "type": "NodePort", "clusterIP": "10.0.0.1",
            "ports": [{"port": 80, "nodePort": 30080}],
        }));
        let mut new = service(json!({"type": "NodePort", "ports": [{"port": 80}]}));
        Service.prepare_for_update(&mut new, &old);
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.0.0.1"]));
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30080);
        assert!(Service.validate_update(&new, &old).is_empty());

        let mut plain = old.clone();
        plain["spec"]["type"] = json!("ClusterIP");
        Service.prepare_for_update(&mut plain, &old);
        assert!(plain["spec"]["ports"][0].get("nodePort").is_none());
        assert!(Service.validate(&plain).is_empty());

        let mut moved = old.clone();
        moved["spec"]["clusterIP"] = json!("10.0.0.2");
        assert_eq!(Service.validate_update(&moved, &old).len(), 1);
    }
}
