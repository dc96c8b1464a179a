//! The rules of limit ranges and quotas.

use std::collections::BTreeSet;

use coracle_machinery::names::qualified_name_errors;
use coracle_machinery::quantity::Quantity;
use coracle_machinery::{FieldError, FieldPath};
use serde_json::{Value, json};

use super::text::check;
use super::{Errors, each_mut, list, quantities, spec_mut, str_at};
use crate::kind::Strategy;

/// The rules of LimitRanges.
pub(in crate::kinds) struct LimitRange;
/// The rules of ResourceQuotas.
pub(in crate::kinds) struct ResourceQuota;

/// What Kubernetes itself sets limits to.
const LIMIT_TYPES: [&str; 3] = ["Pod", "Container", "PersistentVolumeClaim"];

/// Pairs that must be in order, of one resource in one limit: the smaller, the
/// greater, the one that is named as wrong, and what both are called.
const ORDER: [(&str, &str, &str, &str, &str); 6] = [
    ("min", "max", "min", "min", "max"),
    (
        "min",
        "defaultRequest",
        "defaultRequest",
        "min",
        "default request",
    ),
    (
        "defaultRequest",
        "max",
        "defaultRequest",
        "default request",
        "max",
    ),
    (
        "defaultRequest",
        "default",
        "defaultRequest",
        "default request",
        "default limit",
    ),
    ("min", "default", "default", "min", "default"),
    ("default", "max", "default", "default", "max"),
];

impl Strategy for LimitRange {
    fn default(&self, object: &mut Value) {
        let Some(spec) = spec_mut(object) else {
            return;
        };
        for item in
            each_mut(spec, "limits").filter(|i| i.get("type").is_some_and(|t| t == "Container"))
        {
            copy_missing(item, "max", "default");
            copy_missing(item, "default", "defaultRequest");
            copy_missing(item, "min", "defaultRequest");
        }
    }

    fn tracks_generation(&self, _object: &Value) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec").child("limits");
        let mut seen = BTreeSet::new();
        for (index, item) in list(&object["spec"], "limits").iter().enumerate() {
            let at = path.index(index);
            let limited = str_at(item, "type");
            limit_type(&mut errors, limited, &at.child("type"));
            if !seen.insert(limited) {
                errors.push(FieldError::duplicate(&at.child("type"), limited));
            }
            limit(&mut errors, item, limited, &at);
        }
        errors
    }
}

fn copy_missing(item: &mut serde_json::Map<String, Value>, from: &str, to: &str) {
    let Some(source) = item.get(from).and_then(Value::as_object).cloned() else {
        return;
    };
    let target = item.entry(to).or_insert_with(|| json!({}));
    if target.is_null() {
        *target = json!({});
    }
    if let Some(target) = target.as_object_mut() {
        for (name, value) in source {
            target.entry(name).or_insert(value);
        }
    }
}

fn limit_type(errors: &mut Errors, limited: &str, path: &FieldPath) {
    let before = errors.len();
    check(errors, path, limited, qualified_name_errors);
    if errors.len() == before && !limited.contains('/') && !LIMIT_TYPES.contains(&limited) {
        let detail = "must be a standard limit type or fully qualified";
        errors.push(FieldError::invalid(path, limited, detail));
    }
}

fn limit(errors: &mut Errors, item: &Value, limited: &str, path: &FieldPath) {
    let mut names = BTreeSet::new();
    for key in [
        "max",
        "min",
        "default",
        "defaultRequest",
        "maxLimitRequestRatio",
    ] {
        let Some(amounts) = item[key].as_object().filter(|m| !m.is_empty()) else {
            continue;
        };
        let at = path.child(key);
        if limited == "Pod" && key.starts_with("default") {
            let detail = "may not be specified when `type` is 'Pod'";
            errors.push(FieldError::forbidden(&at, detail));
            continue;
        }
        for (name, value) in amounts {
            let at = at.key(name);
            match limited {
                "Pod" | "Container" => quantities::container_resource_name(errors, name, &at),
                _ => quantities::resource_name(errors, name, &at),
            }
            quantities::parse(errors, &at, value);
            names.insert(name.as_str());
        }
    }
    if limited == "PersistentVolumeClaim"
        && item["min"]["storage"].is_null()
        && item["max"]["storage"].is_null()
    {
        let detail =
            "either minimum or maximum storage value is required, but neither was provided";
        errors.push(FieldError::required(&path.child("limits"), detail));
    }
    for name in names {
        in_order(errors, item, name, path);
        ratio(errors, item, name, path);
        let (limit, request) = (
            amount(item, "default", name),
            amount(item, "defaultRequest", name),
        );
        if let (Some((limit, limit_text)), Some((request, text))) = (limit, request)
            && limit != request
            && !quantities::overcommit_allowed(name)
        {
            let detail = format!(
                "default value {limit_text} must equal to defaultRequest value {text} in {name}"
            );
            let at = path.child("defaultRequest").key(name);
            errors.push(FieldError::invalid(&at, text, detail));
        }
    }
}

/// The amount of a resource under `key`, with its text. Pods have no defaults.
fn amount(item: &Value, key: &str, name: &str) -> Option<(Quantity, String)> {
    if item["type"] == "Pod" && key.starts_with("default") {
        return None;
    }
    let value = &item[key][name];
    let quantity = Quantity::from_value(value).ok()?;
    Some((quantity, quantities::text(value)))
}

fn in_order(errors: &mut Errors, item: &Value, name: &str, path: &FieldPath) {
    for (low, high, wrong, low_name, high_name) in ORDER {
        if let (Some((small, small_text)), Some((large, large_text))) =
            (amount(item, low, name), amount(item, high, name))
            && small > large
        {
            let detail = format!(
                "{low_name} value {small_text} is greater than {high_name} value {large_text}"
            );
            // Upstream shows the bound that a default oversteps.
            let shown = match (low, high) {
                ("min", "defaultRequest") | ("default", "max") => large_text,
                _ => small_text,
            };
            let at = path.child(wrong).key(name);
            errors.push(FieldError::invalid(&at, shown, detail));
        }
    }
}

fn ratio(errors: &mut Errors, item: &Value, name: &str, path: &FieldPath) {
    let Some((ratio, text)) = amount(item, "maxLimitRequestRatio", name) else {
        return;
    };
    let at = path.child("maxLimitRequestRatio").key(name);
    if ratio < Quantity::from_units(1) {
        let detail = format!("ratio {text} is less than 1");
        errors.push(FieldError::invalid(&at, text.as_str(), detail));
    }
    if let (Some((min, _)), Some((max, _))) = (amount(item, "min", name), amount(item, "max", name))
    {
        let most = max.as_f64() / min.as_f64();
        if ratio.as_f64() > most {
            let detail = format!("ratio {text} is greater than max/min = {most:.6}");
            errors.push(FieldError::invalid(&at, text, detail));
        }
    }
}

/// Scopes of quotas, each with the resources that it can be applied to.
const SCOPES: [(&str, &[&str]); 7] = [
    ("BestEffort", &["pods"]),
    ("CrossNamespacePodAffinity", POD_RESOURCES),
    ("NotBestEffort", POD_RESOURCES),
    ("NotTerminating", POD_RESOURCES),
    ("PriorityClass", POD_RESOURCES),
    ("Terminating", POD_RESOURCES),
    (
        "VolumeAttributesClass",
        &["persistentvolumeclaims", "requests.storage"],
    ),
];
const POD_RESOURCES: &[&str] = &[
    "pods",
    "cpu",
    "memory",
    "limits.cpu",
    "limits.memory",
    "requests.cpu",
    "requests.memory",
];
/// Scopes that are selected by value.
const SCOPES_BY_VALUE: [&str; 2] = ["PriorityClass", "VolumeAttributesClass"];
/// Scopes of which nothing can have both.
const CONFLICTS: [(&str, &str); 2] = [
    ("BestEffort", "NotBestEffort"),
    ("Terminating", "NotTerminating"),
];

impl Strategy for ResourceQuota {
    fn tracks_generation(&self, _object: &Value) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &object["spec"];
        for (name, value) in spec["hard"].as_object().into_iter().flatten() {
            let at = path.child("hard").key(name);
            quantities::resource_name(&mut errors, name, &at);
            if !name.contains('/') && !quantities::is_quota_resource(name) {
                let detail = "must be a standard resource for quota";
                errors.push(FieldError::invalid(&at, name.as_str(), detail));
            }
            quantities::amount(&mut errors, name, value, &at);
        }
        scopes(&mut errors, spec, &path.child("scopes"));
        let at = path.child("scopeSelector").child("matchExpressions");
        scope_selector(&mut errors, spec, &at);
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        let scopes = |object: &Value| -> BTreeSet<String> {
            let scopes = list(&object["spec"], "scopes").iter();
            scopes.map(ToString::to_string).collect()
        };
        if scopes(object) == scopes(old) {
            return Vec::new();
        }
        let path = FieldPath::new("spec").child("scopes");
        let value = object["spec"]["scopes"].clone();
        vec![FieldError::invalid(&path, value, "field is immutable")]
    }
}

/// True if a scope cannot be applied to all resources of the quota.
fn misapplied(spec: &Value, scope: &str) -> bool {
    let Some((_, allowed)) = SCOPES.iter().find(|(name, _)| *name == scope) else {
        return false;
    };
    let mut names = spec["hard"].as_object().into_iter().flatten();
    names.any(|(name, _)| quantities::is_quota_resource(name) && !allowed.contains(&name.as_str()))
}

/// What is wrong with scopes as a whole, each thing told once: every error
/// shows all of them.
fn wrong_scopes<'a>(spec: &Value, scopes: impl Iterator<Item = &'a str>) -> Vec<&'static str> {
    let scopes: BTreeSet<&str> = scopes.collect();
    let mut found = Vec::new();
    if scopes.iter().any(|scope| misapplied(spec, scope)) {
        found.push("unsupported scope applied to resource");
    }
    let both = |pair: &(&str, &str)| scopes.contains(pair.0) && scopes.contains(pair.1);
    if CONFLICTS.iter().any(both) {
        found.push("conflicting scopes");
    }
    found
}

fn is_scope(scope: &str) -> bool {
    SCOPES.iter().any(|(name, _)| *name == scope)
}

fn scopes(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    let scopes = || {
        let scopes = list(spec, "scopes").iter();
        scopes.map(|scope| scope.as_str().unwrap_or_default())
    };
    let mut found = wrong_scopes(spec, scopes());
    if !scopes().all(is_scope) {
        found.insert(0, "unsupported scope");
    }
    for detail in found {
        errors.push(FieldError::invalid(path, spec["scopes"].clone(), detail));
    }
}

fn scope_selector(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    let terms = list(&spec["scopeSelector"], "matchExpressions");
    for term in terms {
        let (scope, operator) = (str_at(term, "scopeName"), str_at(term, "operator"));
        if !is_scope(scope) {
            let at = path.child("scopeName");
            errors.push(FieldError::invalid(&at, scope, "unsupported scope"));
        } else if !SCOPES_BY_VALUE.contains(&scope) && operator != "Exists" {
            let detail = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            let at = path.child("operator");
            errors.push(FieldError::invalid(&at, operator, detail));
        }
        let values = list(term, "values");
        let at = path.child("values");
        match operator {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                &at,
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::invalid(
                &at,
                values.to_vec(),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(FieldError::invalid(
                &path.child("operator"),
                other,
                "not a valid selector operator",
            )),
        }
    }
    let scopes = terms.iter().map(|term| str_at(term, "scopeName"));
    for detail in wrong_scopes(spec, scopes) {
        errors.push(FieldError::invalid(path, terms.to_vec(), detail));
    }
}
