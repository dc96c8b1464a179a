//! The rules of FlowSchemas and PriorityLevelConfigurations.

use coracle_machinery::names::{dns1123_label_errors, dns1123_subdomain_errors};
use coracle_machinery::object::name;
use coracle_machinery::{FieldError, FieldPath};
use serde_json::Value;

use super::text::check;
use super::{Errors, default_field, given, list, map_mut, spec_mut, str_at};
use crate::kind::Strategy;

/// The rules of FlowSchemas.
pub(in crate::kinds) struct FlowSchema;
/// The rules of PriorityLevelConfigurations.
pub(in crate::kinds) struct PriorityLevel;

/// Who is never held up: the only schema of the highest precedence.
const EXEMPT: &str = "exempt";
const DEFAULT_PRECEDENCE: i64 = 1000;
const MAX_PRECEDENCE: i64 = 10_000;
/// Upstream's bound for the queues of a level.
const MAX_QUEUES: i64 = 10_000_000;

const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];
/// Kinds of subjects with the field that says which.
const SUBJECTS: [(&str, &str); 3] = [
    ("Group", "group"),
    ("ServiceAccount", "serviceAccount"),
    ("User", "user"),
];

impl Strategy for FlowSchema {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = spec_mut(object) {
            default_field(spec, "matchingPrecedence", DEFAULT_PRECEDENCE);
            if spec["matchingPrecedence"] == 0 {
                spec.insert("matchingPrecedence".into(), DEFAULT_PRECEDENCE.into());
            }
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &object["spec"];
        let precedence = spec["matchingPrecedence"].as_i64().unwrap_or(0);
        let detail = match precedence {
            ..=0 => "must be a positive value".to_owned(),
            1 if name(object) != EXEMPT => {
                "only the schema named 'exempt' may have matchingPrecedence 1".to_owned()
            }
            _ if precedence > MAX_PRECEDENCE => {
                format!("must not be greater than {MAX_PRECEDENCE}")
            }
            _ => String::new(),
        };
        if !detail.is_empty() {
            let at = path.child("matchingPrecedence");
            errors.push(FieldError::invalid(&at, precedence, detail));
        }
        let method = &spec["distinguisherMethod"];
        let methods = &["ByNamespace", "ByUser"];
        if !method.is_null() && !methods.contains(&str_at(method, "type")) {
            let at = path.child("distinguisherMethod").child("type");
            errors.push(FieldError::not_supported(&at, method.clone(), methods));
        }
        let level = str_at(&spec["priorityLevelConfiguration"], "name");
        let at = path.child("priorityLevelConfiguration").child("name");
        if level.is_empty() {
            errors.push(FieldError::required(&at, "must reference a priority level"));
        } else {
            check(&mut errors, &at, level, dns1123_subdomain_errors);
        }
        for (index, rule) in list(spec, "rules").iter().enumerate() {
            flow_rule(&mut errors, rule, &path.child("rules").index(index));
        }
        errors
    }
}

fn flow_rule(errors: &mut Errors, rule: &Value, path: &FieldPath) {
    let subjects = list(rule, "subjects");
    if subjects.is_empty() {
        let detail = "subjects must contain at least one value";
        errors.push(FieldError::required(&path.child("subjects"), detail));
    }
    for (index, one) in subjects.iter().enumerate() {
        subject(errors, one, &path.child("subjects").index(index));
    }
    let (resources, urls) = (list(rule, "resourceRules"), list(rule, "nonResourceRules"));
    if resources.is_empty() && urls.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(FieldError::required(path, detail));
    }
    for (index, rule) in resources.iter().enumerate() {
        let at = path.child("resourceRules").index(index);
        verbs(errors, rule, &at);
        for (key, one, many) in [
            ("apiGroups", "api group", "api groups"),
            ("resources", "resource", "resources"),
        ] {
            if list(rule, key).is_empty() {
                let detail = format!("resource rules must supply at least one {one}");
                errors.push(FieldError::required(&at.child(key), detail));
            }
            only_wildcard(errors, rule, key, many, &at);
        }
        namespaces(errors, rule, &at);
    }
    for (index, rule) in urls.iter().enumerate() {
        let at = path.child("nonResourceRules").index(index);
        verbs(errors, rule, &at);
        if list(rule, "nonResourceURLs").is_empty() {
            let detail = "nonResourceURLs must contain at least one value";
            errors.push(FieldError::required(&at.child("nonResourceURLs"), detail));
        }
        only_wildcard(errors, rule, "nonResourceURLs", "non-resource URLs", &at);
    }
}

/// True if the list has a wildcard; an error if that is not all.
fn only_wildcard(
    errors: &mut Errors,
    rule: &Value,
    key: &str,
    others: &str,
    path: &FieldPath,
) -> bool {
    let items = list(rule, key);
    let wildcard = items.iter().any(|item| item == "*");
    if wildcard && items.len() > 1 {
        let detail = format!("if '*' is present, must not specify other {others}");
        errors.push(FieldError::invalid(
            &path.child(key),
            items.to_vec(),
            detail,
        ));
    }
    wildcard
}

fn verbs(errors: &mut Errors, rule: &Value, path: &FieldPath) {
    let verbs = list(rule, "verbs");
    let at = path.child("verbs");
    if verbs.is_empty() {
        let detail = "verbs must contain at least one value";
        errors.push(FieldError::required(&at, detail));
    } else if !only_wildcard(errors, rule, "verbs", "verbs", path)
        && !verbs
            .iter()
            .all(|v| VERBS.contains(&v.as_str().unwrap_or_default()))
    {
        errors.push(FieldError::not_supported(&at, verbs.to_vec(), VERBS));
    }
}

fn namespaces(errors: &mut Errors, rule: &Value, path: &FieldPath) {
    let at = path.child("namespaces");
    let namespaces = list(rule, "namespaces");
    if namespaces.is_empty() && rule["clusterScope"] != true {
        let detail =
            "resource rules that are not cluster scoped must supply at least one namespace";
        errors.push(FieldError::required(&at, detail));
    }
    if only_wildcard(errors, rule, "namespaces", "namespaces", path) {
        return;
    }
    for (index, namespace) in namespaces.iter().enumerate() {
        let namespace = namespace.as_str().unwrap_or_default();
        for why in dns1123_label_errors(namespace) {
            let detail = format!("each member of this list must be '*' or a DNS-1123 label; {why}");
            errors.push(FieldError::invalid(&at.index(index), namespace, detail));
        }
    }
}

fn subject(errors: &mut Errors, subject: &Value, path: &FieldPath) {
    let kind = str_at(subject, "kind");
    let Some((_, own)) = SUBJECTS.iter().find(|(known, _)| *known == kind) else {
        let known = SUBJECTS.map(|(kind, _)| kind);
        errors.push(FieldError::not_supported(&path.child("kind"), kind, &known));
        return;
    };
    let at = path.child(own);
    let value = &subject[*own];
    if value.is_null() {
        let detail = format!("{own} is required when subject kind is '{kind}'");
        errors.push(FieldError::required(&at, detail));
    } else {
        let name = str_at(value, "name");
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else if kind == "ServiceAccount" && name != "*" {
            check(errors, &at.child("name"), name, dns1123_subdomain_errors);
        }
        if kind == "ServiceAccount" {
            let at = at.child("namespace");
            match str_at(value, "namespace") {
                "" => {
                    let detail = "must specify namespace for service account";
                    errors.push(FieldError::required(&at, detail));
                }
                namespace => check(errors, &at, namespace, dns1123_label_errors),
            }
        }
    }
    for (other, key) in SUBJECTS {
        if other != kind && given(subject, key) {
            let detail = format!("{key} is forbidden when subject kind is not '{other}'");
            errors.push(FieldError::forbidden(&path.child(key), detail));
        }
    }
}

impl Strategy for PriorityLevel {
    fn default(&self, object: &mut Value) {
        let Some(spec) = spec_mut(object) else {
            return;
        };
        if let Some(exempt) = map_mut(spec, "exempt") {
            default_field(exempt, "nominalConcurrencyShares", 0);
            default_field(exempt, "lendablePercent", 0);
        }
        let Some(limited) = map_mut(spec, "limited") else {
            return;
        };
        default_field(limited, "nominalConcurrencyShares", 30);
        default_field(limited, "lendablePercent", 0);
        if let Some(queuing) = map_mut(limited, "limitResponse").and_then(|r| map_mut(r, "queuing"))
        {
            default_field(queuing, "handSize", 8);
            default_field(queuing, "queues", 64);
            default_field(queuing, "queueLengthLimit", 50);
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &object["spec"];
        let kind = str_at(spec, "type");
        if (name(object) == EXEMPT) != (kind == "Exempt") {
            let detail = "type must be 'Exempt' if and only if `name` is 'exempt'";
            errors.push(FieldError::invalid(&path.child("type"), kind, detail));
        }
        match kind {
            "Exempt" => {
                if given(spec, "limited") {
                    let detail = "must be nil if the type is not Limited";
                    errors.push(FieldError::forbidden(&path.child("limited"), detail));
                }
                shares(&mut errors, &spec["exempt"], &path.child("exempt"));
            }
            "Limited" => {
                if given(spec, "exempt") {
                    let detail = "must be nil if the type is Limited";
                    errors.push(FieldError::forbidden(&path.child("exempt"), detail));
                }
                limited(&mut errors, &spec["limited"], &path.child("limited"));
            }
            other => errors.push(FieldError::not_supported(
                &path.child("type"),
                other,
                &["Exempt", "Limited"],
            )),
        }
        errors
    }
}

fn shares(errors: &mut Errors, level: &Value, path: &FieldPath) {
    for (key, most, detail) in [
        (
            "nominalConcurrencyShares",
            i64::MAX,
            "must be a non-negative integer",
        ),
        (
            "lendablePercent",
            100,
            "must be between 0 and 100, inclusive",
        ),
        (
            "borrowingLimitPercent",
            i64::MAX,
            "if specified, must be a non-negative integer",
        ),
    ] {
        if let Some(number) = level[key].as_i64().filter(|n| !(0..=most).contains(n)) {
            errors.push(FieldError::invalid(&path.child(key), number, detail));
        }
    }
}

fn limited(errors: &mut Errors, level: &Value, path: &FieldPath) {
    if level.is_null() {
        let detail = "must not be empty when type is Limited";
        errors.push(FieldError::required(path, detail));
        return;
    }
    shares(errors, level, path);
    let response = &level["limitResponse"];
    let path = path.child("limitResponse");
    let at = path.child("queuing");
    match (str_at(response, "type"), given(response, "queuing")) {
        ("Reject", true) => {
            let detail = "must be nil if limited.limitResponse.type is not Limited";
            errors.push(FieldError::forbidden(&at, detail));
        }
        ("Queue", false) => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            errors.push(FieldError::required(&at, detail));
        }
        ("Queue", true) => queuing(errors, &response["queuing"], &at),
        ("Reject", false) => {}
        (other, _) => errors.push(FieldError::not_supported(
            &path.child("type"),
            other,
            &["Queue", "Reject"],
        )),
    }
}

fn queuing(errors: &mut Errors, queuing: &Value, path: &FieldPath) {
    let number = |key: &str| queuing[key].as_i64().unwrap_or(0);
    let queues = number("queues");
    for (key, most, detail) in [
        ("queueLengthLimit", i64::MAX, String::new()),
        (
            "queues",
            MAX_QUEUES,
            format!("must not be greater than {MAX_QUEUES}"),
        ),
        (
            "handSize",
            queues.max(1),
            format!("should not be greater than queues ({queues})"),
        ),
    ] {
        let number = number(key);
        let detail = match number {
            ..=0 => "must be positive".to_owned(),
            _ if number > most => detail,
            _ => continue,
        };
        errors.push(FieldError::invalid(&path.child(key), number, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_server_makes_itself_is_valid() {
        let schema = json!({"metadata": {"name": "s"}, "spec": {
            "matchingPrecedence": 0, "priorityLevelConfiguration": {"name": "workload-low"},
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{
                "subjects": [{"kind": "Group", "group": {"name": "*"}}, {"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "kube-system"}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
                "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz"]}],
            }],
        }});
        let mut schema = schema;
        FlowSchema.default(&mut schema);
        assert_eq!(schema["spec"]["matchingPrecedence"], 1000);
        assert_eq!(FlowSchema.validate(&schema), []);
        for spec in [
            json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}),
            json!({"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}),
        ] {
            let mut level = json!({"metadata": {"name": "l"}, "spec": spec});
            PriorityLevel.default(&mut level);
            assert_eq!(PriorityLevel.validate(&level), []);
        }
    }

    #[test]
    fn errors_read_like_upstream() {
        let schema = json!({"metadata": {"name": "s"}, "spec": {"matchingPrecedence": -1, "rules": [
            {"subjects": [{"kind": "User"}], "resourceRules": [{"verbs": ["get", "*"], "apiGroups": [""], "resources": ["pods"]}]},
        ]}});
        let texts: Vec<String> = FlowSchema
            .validate(&schema)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            texts,
            [
                "spec.matchingPrecedence: Invalid value: -1: must be a positive value",
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
                "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
                "spec.rules[0].resourceRules[0].verbs: Invalid value: [\"get\",\"*\"]: if '*' is present, must not specify other verbs",
                "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
            ]
        );
    }
}
