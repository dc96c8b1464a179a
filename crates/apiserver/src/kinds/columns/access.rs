//! The columns of RBAC, certificates and kinds that extend the API server.

use std::sync::Arc;

use coracle_machinery::object::{self, items};
use coracle_machinery::time;
use serde_json::Value;

use super::{Head, KindName, NONE, UNSET, age, count, name, table, text, text_or};
use crate::kind::TableConvertor;

const FLOW: &str = "flowcontrol.apiserver.k8s.io";

pub(super) fn of(kind: KindName<'_>) -> Option<Arc<dyn TableConvertor>> {
    Some(match kind {
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => bindings(),
        ("certificates.k8s.io", "CertificateSigningRequest") => requests(),
        ("apiregistration.k8s.io", "APIService") => api_services(),
        (
            "admissionregistration.k8s.io",
            "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration",
        ) => table(
            &[
                ("Name", "string", 0),
                ("Webhooks", "integer", 0),
                ("Age", "string", 0),
            ],
            |o, now| vec![name(o), count(o, "/webhooks").into(), age(o, now)],
        ),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => {
            policies("Validations", |o, now| {
                policy_cells(o, now, "/spec/validations")
            })
        }
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => {
            policies("Mutations", |o, now| {
                policy_cells(o, now, "/spec/mutations")
            })
        }
        (
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding",
        ) => policy_bindings(),
        (FLOW, "FlowSchema") => flow_schemas(),
        (FLOW, "PriorityLevelConfiguration") => priority_levels(),
        _ => return None,
    })
}

fn bindings() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Role", "string", 0),
            ("Age", "string", 0),
            ("Users", "string", 1),
            ("Groups", "string", 1),
            ("ServiceAccounts", "string", 1),
        ],
        |o, now| {
            let role = format!(
                "{}/{}",
                object::text(o, "/roleRef/kind"),
                object::text(o, "/roleRef/name")
            );
            let subjects = |kind: &str| -> Value {
                let of_kind = items(o, "/subjects").iter();
                let of_kind = of_kind.filter(|s| object::text(s, "/kind") == kind);
                let names: Vec<String> = of_kind
                    .map(|s| match object::text(s, "/namespace") {
                        "" => object::text(s, "/name").to_owned(),
                        namespace => format!("{namespace}/{}", object::text(s, "/name")),
                    })
                    .collect();
                names.join(", ").into()
            };
            vec![
                name(o),
                role.into(),
                age(o, now),
                subjects("User"),
                subjects("Group"),
                subjects("ServiceAccount"),
            ]
        },
    )
}

fn requests() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Age", "string", 0),
            ("SignerName", "string", 0),
            ("Requestor", "string", 0),
            ("RequestedDuration", "string", 0),
            ("Condition", "string", 0),
        ],
        |o, now| {
            let duration = match o["spec"]["expirationSeconds"].as_i64() {
                Some(seconds) => time::human_duration(seconds),
                None => NONE.to_owned(),
            };
            let conditions = items(o, "/status/conditions").iter();
            let mut states: Vec<&str> = conditions
                .map(|c| object::text(c, "/type"))
                .filter(|t| matches!(*t, "Approved" | "Denied" | "Failed"))
                .collect();
            if states.is_empty() {
                states.push("Pending");
            }
            if !object::text(o, "/status/certificate").is_empty() {
                states.push("Issued");
            }
            vec![
                name(o),
                age(o, now),
                text_or(o, "/spec/signerName", NONE),
                text(o, "/spec/username"),
                duration.into(),
                states.join(",").into(),
            ]
        },
    )
}

fn api_services() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Service", "string", 0),
            ("Available", "string", 0),
            ("Age", "string", 0),
        ],
        |o, now| {
            let service = &o["spec"]["service"];
            let service = if service.is_object() {
                let namespace = object::text(service, "/namespace");
                format!("{namespace}/{}", object::text(service, "/name"))
            } else {
                "Local".to_owned()
            };
            let conditions = items(o, "/status/conditions");
            let found = conditions
                .iter()
                .find(|c| object::text(c, "/type") == "Available");
            let available = match found {
                Some(c) if object::text(c, "/status") == "True" => "True".to_owned(),
                Some(c) => format!(
                    "{} ({})",
                    object::text(c, "/status"),
                    object::text(c, "/reason")
                ),
                None => "Unknown".to_owned(),
            };
            vec![name(o), service.into(), available.into(), age(o, now)]
        },
    )
}

fn policies(what: &'static str, cells: fn(&Value, i64) -> Vec<Value>) -> Arc<dyn TableConvertor> {
    let heads: [Head; 4] = [
        ("Name", "string", 0),
        (what, "integer", 0),
        ("ParamKind", "string", 0),
        ("Age", "string", 0),
    ];
    table(&heads, cells)
}

fn policy_cells(o: &Value, now: i64, pointer: &str) -> Vec<Value> {
    let kind = &o["spec"]["paramKind"];
    let kind = if kind.is_object() {
        format!(
            "{}/{}",
            object::text(kind, "/apiVersion"),
            object::text(kind, "/kind")
        )
    } else {
        UNSET.to_owned()
    };
    vec![name(o), count(o, pointer).into(), kind.into(), age(o, now)]
}

fn policy_bindings() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("PolicyName", "string", 0),
            ("ParamRef", "string", 0),
            ("Age", "string", 0),
        ],
        |o, now| {
            let reference = &o["spec"]["paramRef"];
            let shown = match (
                object::text(reference, "/namespace"),
                object::text(reference, "/name"),
            ) {
                _ if !reference.is_object() => UNSET.to_owned(),
                ("", "") => "*".to_owned(),
                ("", name) => name.to_owned(),
                (namespace, name) => format!("{namespace}/{name}"),
            };
            vec![
                name(o),
                text(o, "/spec/policyName"),
                shown.into(),
                age(o, now),
            ]
        },
    )
}

fn flow_schemas() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("PriorityLevel", "string", 0),
            ("MatchingPrecedence", "integer", 0),
            ("DistinguisherMethod", "string", 0),
            ("Age", "string", 0),
            ("MissingPL", "string", 0),
        ],
        |o, now| {
            let conditions = items(o, "/status/conditions");
            let dangling = conditions
                .iter()
                .find(|c| object::text(c, "/type") == "Dangling");
            let missing = dangling.map_or("?", |c| object::text(c, "/status"));
            vec![
                name(o),
                text_or(o, "/spec/priorityLevelConfiguration/name", NONE),
                o["spec"]["matchingPrecedence"].clone(),
                text_or(o, "/spec/distinguisherMethod/type", NONE),
                age(o, now),
                missing.into(),
            ]
        },
    )
}

fn priority_levels() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Type", "string", 0),
            ("NominalConcurrencyShares", "integer", 0),
            ("Queues", "integer", 0),
            ("HandSize", "integer", 0),
            ("QueueLengthLimit", "integer", 0),
            ("Age", "string", 0),
        ],
        |o, now| {
            let number = |value: &Value| match value {
                Value::Null => NONE.into(),
                value => value.clone(),
            };
            let limited = &o["spec"]["limited"];
            let queuing = &limited["limitResponse"]["queuing"];
            vec![
                name(o),
                text(o, "/spec/type"),
                number(&limited["nominalConcurrencyShares"]),
                number(&queuing["queues"]),
                number(&queuing["handSize"]),
                number(&queuing["queueLengthLimit"]),
                age(o, now),
            ]
        },
    )
}
