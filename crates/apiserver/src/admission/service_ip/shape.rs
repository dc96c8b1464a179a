//! What a service of some type has and lacks, whoever gives out addresses.

use coracle_machinery::{FieldError, FieldPath, object};
use serde_json::{Value, json};

fn kind(service: &Value) -> &str {
    match object::text(service, "/spec/type") {
        "" => "ClusterIP",
        kind => kind,
    }
}

fn headless(service: &Value) -> bool {
    object::text(service, "/spec/clusterIP") == "None"
        || object::items(service, "/spec/clusterIPs")
            .first()
            .is_some_and(|ip| ip == "None")
}

/// True if the service is of a type with cluster IPs and is not headless.
pub(super) fn needs_address(service: &Value) -> bool {
    kind(service) != "ExternalName" && !headless(service)
}

/// True if the ports of the service get node ports.
pub(super) fn needs_node_ports(service: &Value) -> bool {
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => {
            let flag = service.pointer("/spec/allocateLoadBalancerNodePorts");
            flag != Some(&Value::Bool(false))
        }
        _ => false,
    }
}

/// True if the balancer asks nodes whether they have endpoints.
pub(super) fn needs_health_check(service: &Value) -> bool {
    kind(service) == "LoadBalancer"
        && object::text(service, "/spec/externalTrafficPolicy") == "Local"
}

/// The node ports that a service holds.
pub(super) fn node_ports(service: &Value) -> Vec<i64> {
    object::items(service, "/spec/ports")
        .iter()
        .filter_map(|p| p.get("nodePort").and_then(Value::as_i64))
        .filter(|port| *port != 0)
        .collect()
}

/// True if the service will get an address or a port that it does not have.
pub(super) fn lacks_address(service: &Value) -> bool {
    let lacks_port = |port: &Value| blank(port.get("nodePort"));
    needs_address(service) && blank(service.pointer("/spec/clusterIP"))
        || needs_node_ports(service) && object::items(service, "/spec/ports").iter().any(lacks_port)
        || needs_health_check(service) && blank(service.pointer("/spec/healthCheckNodePort"))
}

fn blank(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(value) => value.as_i64() == Some(0),
    }
}

/// Carries over what was allocated and the client left out, and drops what
/// the new type cannot have and the client merely sent back.
pub(super) fn keep_allocated(service: &mut Value, old: &Value) {
    let addresses = ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];
    let had = kind(old) != "ExternalName";
    let has = kind(service) != "ExternalName";
    let (ports, had_ports) = (needs_node_ports(service), needs_node_ports(old));
    let spec = &mut service["spec"];
    // Old clients know only one of the two fields: the other follows.
    let changed = spec.get("clusterIP") != old["spec"].get("clusterIP");
    if changed && spec.get("clusterIPs") == old["spec"].get("clusterIPs") {
        remove(spec, "clusterIPs");
    }
    for key in addresses {
        let held = &old["spec"][key];
        let follows = key == "clusterIPs" && !blank(spec.get("clusterIP")) && changed;
        if had && has && blank(spec.get(key)) && !held.is_null() && !follows {
            spec[key] = held.clone();
        } else if had && !has && spec.get(key) == Some(held) {
            remove(spec, key);
        }
    }
    let old_ports = object::items(old, "/spec/ports");
    let listed = spec.get_mut("ports").and_then(Value::as_array_mut);
    for port in listed.into_iter().flatten() {
        if !port.is_object() {
            continue;
        }
        let twin = old_ports.iter().find(|o| {
            o.get("port") == port.get("port") && o.get("protocol") == port.get("protocol")
        });
        let held = twin
            .and_then(|o| o.get("nodePort"))
            .filter(|p| !blank(Some(p)));
        if ports && had_ports && blank(port.get("nodePort")) {
            if let Some(held) = held {
                port["nodePort"] = held.clone();
            }
        } else if had_ports && !ports && port.get("nodePort") == held {
            remove(port, "nodePort");
        }
    }
    if blank(service.pointer("/spec/healthCheckNodePort")) {
        remove(&mut service["spec"], "healthCheckNodePort");
    }
    let check = &old["spec"]["healthCheckNodePort"];
    if blank(Some(check)) {
        return;
    }
    if needs_health_check(service) {
        if blank(service.pointer("/spec/healthCheckNodePort")) {
            service["spec"]["healthCheckNodePort"] = check.clone();
        }
    } else if service["spec"].get("healthCheckNodePort") == Some(check) {
        remove(&mut service["spec"], "healthCheckNodePort");
    }
}

fn remove(value: &mut Value, key: &str) {
    if let Some(map) = value.as_object_mut() {
        map.remove(key);
    }
}

/// Fills in address families and `clusterIPs`; errors if other families than
/// IPv4 are demanded.
pub(super) fn families(service: &mut Value) -> Vec<FieldError> {
    if kind(service) == "ExternalName" {
        return Vec::new();
    }
    // Of an absent service nobody knows the family: it may have any.
    let any = headless(service)
        && service
            .pointer("/spec/selector")
            .and_then(Value::as_object)
            .is_none_or(serde_json::Map::is_empty);
    let spec = &mut service["spec"];
    let one = spec.get("clusterIP").filter(|ip| !blank(Some(ip))).cloned();
    let many = spec
        .get("clusterIPs")
        .filter(|ips| !blank(Some(ips)))
        .cloned();
    match (one, many) {
        (Some(one), None) => spec["clusterIPs"] = json!([one]),
        (None, Some(Value::Array(many))) => spec["clusterIP"] = many[0].clone(),
        _ => {}
    }
    let path = FieldPath::new("spec");
    let policy = spec
        .get("ipFamilyPolicy")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let named = spec
        .get("ipFamilies")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if any {
        if policy.is_empty() {
            spec["ipFamilyPolicy"] = json!("RequireDualStack");
        }
        if named.is_empty() {
            let single = policy == "SingleStack";
            spec["ipFamilies"] = if single {
                json!(["IPv4"])
            } else {
                json!(["IPv4", "IPv6"])
            };
        }
        return Vec::new();
    }
    if policy == "RequireDualStack" {
        let why = "this cluster is not configured for dual-stack services";
        return vec![FieldError::invalid(
            &path.child("ipFamilyPolicy"),
            policy,
            why,
        )];
    }
    let foreign = named
        .iter()
        .enumerate()
        .find(|(_, family)| **family != "IPv4");
    if let Some((index, family)) = foreign {
        let path = path.child("ipFamilies").index(index);
        let why = "not configured on this cluster";
        return vec![FieldError::invalid(&path, family.clone(), why)];
    }
    if policy.is_empty() {
        spec["ipFamilyPolicy"] = json!("SingleStack");
    }
    if named.is_empty() {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    Vec::new()
}
