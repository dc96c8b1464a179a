//! Validation of probes and of lifecycle handlers.

use coracle_machinery::names::port_name_errors;
use coracle_machinery::{FieldError, FieldPath};
use serde_json::Value;

use super::text::{check, port_number};
use super::{Errors, given, list, non_negative, one_of, str_at};

const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

/// The three probes and the lifecycle of a container.
/// `grace` is the time that the pod has to end, in seconds.
pub(super) fn probes(errors: &mut Errors, container: &Value, grace: Option<i64>, path: &FieldPath) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = &container[name];
        if probe.is_null() {
            continue;
        }
        let at = path.child(name);
        handler(errors, probe, &at, &HANDLERS[..4]);
        for key in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            non_negative(errors, probe, key, &at);
        }
        if name != "readinessProbe" && probe["successThreshold"].as_i64().unwrap_or(1) != 1 {
            errors.push(FieldError::invalid(
                &at.child("successThreshold"),
                probe["successThreshold"].clone(),
                "must be 1",
            ));
        }
        let grace = &probe["terminationGracePeriodSeconds"];
        if name == "readinessProbe" && !grace.is_null() {
            errors.push(FieldError::invalid(
                &at.child("terminationGracePeriodSeconds"),
                grace.clone(),
                "must not be set for readinessProbes",
            ));
        } else if grace.as_i64().is_some_and(|seconds| seconds < 1) {
            errors.push(FieldError::invalid(
                &at.child("terminationGracePeriodSeconds"),
                grace.clone(),
                "must be greater than 0",
            ));
        }
    }
    let lifecycle = &container["lifecycle"];
    for name in ["postStart", "preStop"] {
        if given(lifecycle, name) {
            let at = path.child("lifecycle").child(name);
            handler(
                errors,
                &lifecycle[name],
                &at,
                &["exec", "httpGet", "tcpSocket", "sleep"],
            );
            if let (Some(grace), Some(seconds)) =
                (grace, lifecycle[name]["sleep"]["seconds"].as_i64())
                && !(0..=grace).contains(&seconds)
            {
                let detail = format!(
                    "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
                );
                errors.push(FieldError::invalid(&at.child("sleep"), seconds, detail));
            }
        }
    }
}

fn handler(errors: &mut Errors, value: &Value, path: &FieldPath, allowed: &[&str]) {
    let mut count = 0;
    for name in HANDLERS.into_iter().filter(|name| given(value, name)) {
        count += 1;
        let at = path.child(name);
        if count > 1 || !allowed.contains(&name) {
            errors.push(FieldError::forbidden(
                &at,
                "may not specify more than 1 handler type",
            ));
            continue;
        }
        let action = &value[name];
        match name {
            "exec" if list(action, "command").is_empty() => {
                errors.push(FieldError::required(&at.child("command"), ""));
            }
            "httpGet" => {
                if str_at(action, "path").is_empty() {
                    errors.push(FieldError::required(&at.child("path"), ""));
                }
                port(errors, &action["port"], &at.child("port"));
                one_of(errors, action, "scheme", &at, &["HTTP", "HTTPS"]);
            }
            "tcpSocket" => port(errors, &action["port"], &at.child("port")),
            "grpc" => port_number(
                errors,
                &at.child("port"),
                action["port"].as_i64().unwrap_or(0),
            ),
            _ => {}
        }
    }
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
}

/// A port by number or by name.
pub(super) fn port(errors: &mut Errors, value: &Value, path: &FieldPath) {
    match value {
        Value::String(name) => check(errors, path, name, port_name_errors),
        other => port_number(errors, path, other.as_i64().unwrap_or(0)),
    }
}
