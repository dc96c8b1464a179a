//! Validation of containers.

use std::collections::BTreeSet;

use coracle_machinery::names::{
    config_map_key_errors, dns1123_label_errors, dns1123_subdomain_errors, env_var_name_errors,
    port_name_errors,
};
use coracle_machinery::{FieldError, FieldPath};
use serde_json::Value;

use super::probes::probes;
use super::text::{check, check_required, ip_address, port_number};
use super::volumes::{Volumes, mounts, not_found};
use super::{Errors, given, list, one_of, quantities, security, str_at};

/// Fields of a pod that an environment variable may show.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields of a pod that a file of a volume may show.
pub(super) const VOLUME_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.labels",
    "metadata.annotations",
    "metadata.uid",
];
const RESOURCE_FIELDS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// Names that an error lists at most: one is told for each wrong reference.
const MAX_NAMES_TOLD: usize = 20;

/// All lists of containers of a pod.
pub(super) fn all(errors: &mut Errors, spec: &Value, path: &FieldPath, volumes: &Volumes<'_>) {
    if list(spec, "containers").is_empty() {
        errors.push(FieldError::required(&path.child("containers"), ""));
    }
    let grace = spec["terminationGracePeriodSeconds"].as_i64();
    let mut names = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    for key in ["containers", "initContainers", "ephemeralContainers"] {
        for (index, container) in list(spec, key).iter().enumerate() {
            let at = path.child(key).index(index);
            let name = str_at(container, "name");
            check_required(errors, &at.child("name"), name, dns1123_label_errors);
            if !name.is_empty() && !names.insert(name) {
                errors.push(FieldError::duplicate(&at.child("name"), name));
            }
            self::container(errors, container, &at, volumes);
            resize_policy(errors, container, spec, &at);
            claims(errors, container, spec, &at);
            let restartable = container["restartPolicy"] == "Always";
            match key {
                "containers" => {
                    self::host_ports(errors, container, &at, &mut host_ports);
                    probes(errors, container, grace, &at);
                }
                "initContainers" if restartable => {
                    self::host_ports(errors, container, &at, &mut host_ports);
                    probes(errors, container, grace, &at);
                }
                "initContainers" => no_probes(errors, container, &at),
                _ => ephemeral(errors, container, &at, spec),
            }
        }
    }
}

fn no_probes(errors: &mut Errors, container: &Value, path: &FieldPath) {
    for key in [
        "lifecycle",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
    ] {
        if given(container, key) {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.push(FieldError::forbidden(&path.child(key), detail));
        }
    }
}

fn ephemeral(errors: &mut Errors, container: &Value, path: &FieldPath, spec: &Value) {
    for key in [
        "ports",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
        "resizePolicy",
    ] {
        if given(container, key) {
            let detail = "cannot be set for an Ephemeral Container";
            errors.push(FieldError::forbidden(&path.child(key), detail));
        }
    }
    let target = str_at(container, "targetContainerName");
    let known = ["containers", "initContainers"]
        .iter()
        .flat_map(|key| list(spec, key))
        .any(|c| str_at(c, "name") == target);
    if !target.is_empty() && !known {
        errors.push(not_found(&path.child("targetContainerName"), target));
    }
}

fn container(errors: &mut Errors, container: &Value, path: &FieldPath, volumes: &Volumes<'_>) {
    let image = str_at(container, "image");
    if image.is_empty() {
        errors.push(FieldError::required(&path.child("image"), ""));
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(&path.child("image"), image, detail));
    }
    one_of(
        errors,
        container,
        "terminationMessagePolicy",
        path,
        &["FallbackToLogsOnError", "File"],
    );
    one_of(
        errors,
        container,
        "imagePullPolicy",
        path,
        &["Always", "IfNotPresent", "Never"],
    );
    one_of(
        errors,
        container,
        "restartPolicy",
        path,
        &["Always", "Never", "OnFailure"],
    );
    ports(errors, container, path);
    env(errors, container, path);
    env_from(errors, container, path);
    mounts(errors, container, path, volumes);
    quantities::requirements(errors, &container["resources"], &path.child("resources"));
    security::container(
        errors,
        &container["securityContext"],
        &path.child("securityContext"),
    );
}

/// What happens to a container when its resources change.
fn resize_policy(errors: &mut Errors, container: &Value, spec: &Value, path: &FieldPath) {
    let at = path.child("resizePolicy");
    let mut seen = BTreeSet::new();
    for (index, policy) in list(container, "resizePolicy").iter().enumerate() {
        let (resource, restart) = (
            str_at(policy, "resourceName"),
            str_at(policy, "restartPolicy"),
        );
        if !seen.insert(resource) {
            errors.push(FieldError::duplicate(&at.index(index), resource));
        }
        for (text, allowed) in [
            (resource, &["cpu", "memory"]),
            (restart, &["NotRequired", "RestartContainer"]),
        ] {
            if text.is_empty() {
                errors.push(FieldError::required(&at, ""));
            } else if !allowed.contains(&text) {
                errors.push(FieldError::not_supported(&at, text, allowed));
            }
        }
        if str_at(spec, "restartPolicy") == "Never" && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(&at, restart, detail));
        }
    }
}

/// Uses of what the pod claims.
fn claims(errors: &mut Errors, container: &Value, spec: &Value, path: &FieldPath) {
    let used = list(&container["resources"], "claims");
    if used.is_empty() {
        return;
    }
    let claims = list(spec, "resourceClaims").iter();
    let known: BTreeSet<&str> = claims.map(|claim| str_at(claim, "name")).collect();
    let mut seen = BTreeSet::new();
    for (index, claim) in used.iter().enumerate() {
        let at = path.child("resources").child("claims").index(index);
        let (name, request) = (str_at(claim, "name"), str_at(claim, "request"));
        if !request.is_empty() {
            check(errors, &at.child("request"), request, dns1123_label_errors);
        }
        if name.is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        if !seen.insert((name, request)) {
            errors.push(FieldError::duplicate(&at, name));
        }
        if !known.contains(name) {
            let all: Vec<&str> = known.iter().copied().take(MAX_NAMES_TOLD).collect();
            let detail = "must be one of the names in pod.spec.resourceClaims";
            let detail = match all.as_slice() {
                [] => format!("{detail} which is empty"),
                all => format!("{detail}: {}", all.join(", ")),
            };
            errors.push(FieldError {
                detail,
                ..not_found(&at, name)
            });
        }
    }
}

fn ports(errors: &mut Errors, container: &Value, path: &FieldPath) {
    let mut names = BTreeSet::new();
    for (index, port) in list(container, "ports").iter().enumerate() {
        let at = path.child("ports").index(index);
        let name = str_at(port, "name");
        if !name.is_empty() {
            check(errors, &at.child("name"), name, port_name_errors);
            if !names.insert(name) {
                errors.push(FieldError::duplicate(&at.child("name"), name));
            }
        }
        match port["containerPort"].as_i64().unwrap_or(0) {
            0 => errors.push(FieldError::required(&at.child("containerPort"), "")),
            number => port_number(errors, &at.child("containerPort"), number),
        }
        if let Some(number) = port["hostPort"].as_i64().filter(|n| *n != 0) {
            port_number(errors, &at.child("hostPort"), number);
        }
        one_of(errors, port, "protocol", &at, &["SCTP", "TCP", "UDP"]);
        let host = str_at(port, "hostIP");
        if !host.is_empty() {
            check(errors, &at.child("hostIP"), host, ip_address);
        }
    }
}

fn host_ports(
    errors: &mut Errors,
    container: &Value,
    path: &FieldPath,
    seen: &mut BTreeSet<String>,
) {
    for (index, port) in list(container, "ports").iter().enumerate() {
        let number = port["hostPort"].as_i64().unwrap_or(0);
        if number == 0 {
            continue;
        }
        let key = format!(
            "{}/{}/{number}",
            str_at(port, "protocol"),
            str_at(port, "hostIP")
        );
        if seen.contains(&key) {
            let at = path.child("ports").index(index).child("hostPort");
            errors.push(FieldError::duplicate(&at, key.clone()));
        }
        seen.insert(key);
    }
}

fn env(errors: &mut Errors, container: &Value, path: &FieldPath) {
    for (index, variable) in list(container, "env").iter().enumerate() {
        let at = path.child("env").index(index);
        check_required(
            errors,
            &at.child("name"),
            str_at(variable, "name"),
            env_var_name_errors,
        );
        if given(variable, "valueFrom") {
            value_from(errors, variable, &at.child("valueFrom"));
        }
    }
}

fn value_from(errors: &mut Errors, variable: &Value, path: &FieldPath) {
    let source = &variable["valueFrom"];
    let mut count = 0;
    if given(source, "fieldRef") {
        count += 1;
        field_ref(
            errors,
            &source["fieldRef"],
            &path.child("fieldRef"),
            ENV_FIELDS,
        );
    }
    if given(source, "resourceFieldRef") {
        count += 1;
        let field = str_at(&source["resourceFieldRef"], "resource");
        let at = path.child("resourceFieldRef");
        let pages =
            field.starts_with("limits.hugepages-") || field.starts_with("requests.hugepages-");
        if field.is_empty() {
            errors.push(FieldError::required(&at.child("resource"), ""));
        } else if !RESOURCE_FIELDS.contains(&field) && !pages {
            errors.push(FieldError::not_supported(
                &at.child("resource"),
                field,
                RESOURCE_FIELDS,
            ));
        }
    }
    for key in ["configMapKeyRef", "secretKeyRef"] {
        if given(source, key) {
            count += 1;
            let at = path.child(key);
            let name = str_at(&source[key], "name");
            if name.is_empty() {
                errors.push(FieldError::required(&at.child("name"), ""));
            }
            check_required(
                errors,
                &at.child("key"),
                str_at(&source[key], "key"),
                config_map_key_errors,
            );
        }
    }
    if given(source, "fileKeyRef") {
        count += 1;
    }
    if count == 0 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.push(FieldError::invalid(path, "", detail));
    } else if !str_at(variable, "value").is_empty() {
        let detail = "may not be specified when `value` is not empty";
        errors.push(FieldError::invalid(path, "", detail));
    } else if count > 1 {
        let detail = "may not have more than one field specified at a time";
        errors.push(FieldError::invalid(path, "", detail));
    }
}

/// A `fieldRef` to one of `allowed` fields or to one label or annotation.
pub(super) fn field_ref(errors: &mut Errors, field: &Value, path: &FieldPath, allowed: &[&str]) {
    let text = str_at(field, "fieldPath");
    let at = path.child("fieldPath");
    if text.is_empty() {
        errors.push(FieldError::required(&at, ""));
        return;
    }
    let subscript = ["metadata.labels['", "metadata.annotations['"]
        .iter()
        .any(|p| {
            text.strip_prefix(p)
                .is_some_and(|rest| rest.ends_with("']"))
        });
    if subscript || allowed.contains(&text) {
        return;
    }
    errors.push(FieldError::not_supported(&at, text, allowed));
}

fn env_from(errors: &mut Errors, container: &Value, path: &FieldPath) {
    for (index, source) in list(container, "envFrom").iter().enumerate() {
        let at = path.child("envFrom").index(index);
        let prefix = str_at(source, "prefix");
        if !prefix.is_empty() {
            check(errors, &at.child("prefix"), prefix, env_var_name_errors);
        }
        let kinds = ["configMapRef", "secretRef"];
        let mut count = 0;
        for key in kinds.into_iter().filter(|key| given(source, key)) {
            count += 1;
            let name = str_at(&source[key], "name");
            check_required(
                errors,
                &at.child(key).child("name"),
                name,
                dns1123_subdomain_errors,
            );
        }
        if count == 0 {
            let detail = "must specify one of: `configMapRef` or `secretRef`";
            errors.push(FieldError::invalid(&at, "", detail));
        } else if count > 1 {
            let detail = "may not have more than one field specified at a time";
            errors.push(FieldError::invalid(&at, "", detail));
        }
    }
}
