//! Validation of the spec of pods and pod templates.

use std::collections::BTreeSet;

use coracle_machinery::names::{
    dns1123_label_errors, dns1123_subdomain_errors, label_value_errors, qualified_name_errors,
};
use coracle_machinery::{FieldError, FieldPath};
use serde_json::Value;

use super::text::{check, check_required, ip_address};
use super::volumes::{object_names, volumes};
use super::{Errors, containers, given, list, one_of, pod_host, security, selectors, str_at};

const TAINT_EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "PreferNoSchedule"];

/// A pod's spec at `path`.
pub(super) fn pod_spec(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    let volumes = volumes(errors, spec, path);
    containers::all(errors, spec, path, &volumes);
    one_of(
        errors,
        spec,
        "restartPolicy",
        path,
        &["Always", "OnFailure", "Never"],
    );
    one_of(
        errors,
        spec,
        "dnsPolicy",
        path,
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    one_of(
        errors,
        spec,
        "preemptionPolicy",
        path,
        &["Never", "PreemptLowerPriority"],
    );
    dns_config(errors, spec, path);
    security::pod(
        errors,
        &spec["securityContext"],
        &path.child("securityContext"),
    );
    selectors::labels(errors, &spec["nodeSelector"], &path.child("nodeSelector"));
    names(errors, spec, path);
    object_names(errors, spec, "imagePullSecrets", path);
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64()
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let at = path.child("activeDeadlineSeconds");
        let detail = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid(&at, seconds, detail));
    }
    pod_host::rules(errors, spec, path);
    if spec["hostNetwork"] == true {
        host_network_ports(errors, spec, path);
    }
    affinity(errors, &spec["affinity"], &path.child("affinity"));
    tolerations(errors, spec, path);
    spread_constraints(errors, spec, path);
    for (index, alias) in list(spec, "hostAliases").iter().enumerate() {
        let at = path.child("hostAliases").index(index);
        check_required(errors, &at.child("ip"), str_at(alias, "ip"), ip_address);
    }
    for (index, gate) in list(spec, "readinessGates").iter().enumerate() {
        let at = path
            .child("readinessGates")
            .index(index)
            .child("conditionType");
        check(
            errors,
            &at,
            str_at(gate, "conditionType"),
            qualified_name_errors,
        );
    }
    let mut seen = BTreeSet::new();
    for (index, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let at = path.child("schedulingGates").index(index).child("name");
        let name = str_at(gate, "name");
        check(errors, &at, name, qualified_name_errors);
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at, name));
        }
    }
}

fn names(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    for (key, rule) in [
        (
            "serviceAccountName",
            dns1123_subdomain_errors as super::text::Check,
        ),
        ("nodeName", dns1123_subdomain_errors),
        ("priorityClassName", dns1123_subdomain_errors),
        ("runtimeClassName", dns1123_subdomain_errors),
        ("hostname", dns1123_label_errors),
        ("subdomain", dns1123_label_errors),
        ("schedulerName", qualified_name_errors),
    ] {
        let text = str_at(spec, key);
        if !text.is_empty() {
            check(errors, &path.child(key), text, rule);
        }
    }
}

fn dns_config(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    let config = &spec["dnsConfig"];
    let servers = list(config, "nameservers");
    let at = path.child("dnsConfig").child("nameservers");
    if spec["dnsPolicy"] == "None" && servers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(&at, detail));
    }
    if servers.len() > 3 {
        let detail = "must not have more than 3 nameservers";
        errors.push(FieldError::invalid(&at, servers.to_vec(), detail));
    }
    for (index, server) in servers.iter().enumerate() {
        check(
            errors,
            &at.index(index),
            server.as_str().unwrap_or_default(),
            ip_address,
        );
    }
}

fn host_network_ports(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    for (at_container, container) in list(spec, "containers").iter().enumerate() {
        for (index, port) in list(container, "ports").iter().enumerate() {
            let host = port["hostPort"].as_i64().unwrap_or(0);
            if host != 0 && Some(host) != port["containerPort"].as_i64() {
                let at = path
                    .child("containers")
                    .index(at_container)
                    .child("ports")
                    .index(index);
                errors.push(FieldError::invalid(
                    &at.child("hostPort"),
                    host,
                    "must match `containerPort` when `hostNetwork` is true",
                ));
            }
        }
    }
}

fn affinity(errors: &mut Errors, affinity: &Value, path: &FieldPath) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let node = &affinity["nodeAffinity"];
    if given(node, REQUIRED) {
        let at = path.child("nodeAffinity").child(REQUIRED);
        selectors::node_selector(errors, &node[REQUIRED], &at);
    }
    for (index, term) in list(node, PREFERRED).iter().enumerate() {
        let at = path.child("nodeAffinity").child(PREFERRED).index(index);
        weight(errors, term, &at);
        selectors::node_selector_term(errors, &term["preference"], &at.child("preference"));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let part = &affinity[kind];
        for (index, term) in list(part, REQUIRED).iter().enumerate() {
            affinity_term(errors, term, &path.child(kind).child(REQUIRED).index(index));
        }
        for (index, term) in list(part, PREFERRED).iter().enumerate() {
            let at = path.child(kind).child(PREFERRED).index(index);
            weight(errors, term, &at);
            affinity_term(
                errors,
                &term["podAffinityTerm"],
                &at.child("podAffinityTerm"),
            );
        }
    }
}

fn weight(errors: &mut Errors, term: &Value, path: &FieldPath) {
    let weight = term["weight"].as_i64().unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(
            &path.child("weight"),
            weight,
            "must be in the range 1-100",
        ));
    }
}

fn affinity_term(errors: &mut Errors, term: &Value, path: &FieldPath) {
    let key = str_at(term, "topologyKey");
    let at = path.child("topologyKey");
    if key.is_empty() {
        errors.push(FieldError::required(&at, "can not be empty"));
    } else {
        check(errors, &at, key, qualified_name_errors);
    }
    for name in ["labelSelector", "namespaceSelector"] {
        selectors::label_selector(errors, &term[name], &path.child(name));
    }
}

fn tolerations(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    for (index, toleration) in list(spec, "tolerations").iter().enumerate() {
        let at = path.child("tolerations").index(index);
        let key = str_at(toleration, "key");
        let operator = str_at(toleration, "operator");
        let value = str_at(toleration, "value");
        if !key.is_empty() {
            check(errors, &at.child("key"), key, qualified_name_errors);
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(&at.child("operator"), operator, detail));
        }
        if given(toleration, "tolerationSeconds") && str_at(toleration, "effect") != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(
                &at.child("effect"),
                str_at(toleration, "effect"),
                detail,
            ));
        }
        match operator {
            "" | "Equal" => check(errors, &at.child("operator"), value, label_value_errors),
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(&at.child("operator"), value, detail));
            }
            "Exists" => {}
            other => {
                errors.push(FieldError::not_supported(
                    &at.child("operator"),
                    other,
                    &["Equal", "Exists"],
                ));
            }
        }
        one_of(errors, toleration, "effect", &at, TAINT_EFFECTS);
    }
}

fn spread_constraints(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    for (index, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let at = path.child("topologySpreadConstraints").index(index);
        let skew = constraint["maxSkew"].as_i64().unwrap_or(0);
        if skew <= 0 {
            errors.push(FieldError::invalid(
                &at.child("maxSkew"),
                skew,
                "must be greater than zero",
            ));
        }
        let key = str_at(constraint, "topologyKey");
        if key.is_empty() {
            errors.push(FieldError::required(
                &at.child("topologyKey"),
                "can not be empty",
            ));
        }
        let when = str_at(constraint, "whenUnsatisfiable");
        let allowed = &["DoNotSchedule", "ScheduleAnyway"];
        if !allowed.contains(&when) {
            errors.push(FieldError::not_supported(
                &at.child("whenUnsatisfiable"),
                when,
                allowed,
            ));
        }
        let honor = &["Honor", "Ignore"];
        one_of(errors, constraint, "nodeAffinityPolicy", &at, honor);
        one_of(errors, constraint, "nodeTaintsPolicy", &at, honor);
        selectors::label_selector(
            errors,
            &constraint["labelSelector"],
            &at.child("labelSelector"),
        );
    }
}

/// What a client should know about a spec that is valid.
pub(super) fn warnings(spec: &Value, path: &FieldPath) -> Vec<String> {
    let mut found = Vec::new();
    for key in ["initContainers", "containers"] {
        for (at_container, container) in list(spec, key).iter().enumerate() {
            let mut seen = BTreeSet::new();
            for (index, variable) in list(container, "env").iter().enumerate() {
                let at = path
                    .child(key)
                    .index(at_container)
                    .child("env")
                    .index(index);
                if !seen.insert(str_at(variable, "name")) {
                    found.push(format!(
                        "{at}: hides previous definition of \"{}\", which may be dropped when using apply",
                        str_at(variable, "name")
                    ));
                }
            }
        }
    }
    found
}
