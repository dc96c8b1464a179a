//! The rules of disruption budgets, limit ranges and quotas.

use coracle_machinery::quantity::Quantity;
use coracle_machinery::{FieldError, FieldPath};
use serde_json::{Value, json};

use super::workloads::count_or_percent;
use super::{Errors, each_mut, given, list, quantities, selectors, spec_mut, str_at};
use crate::kind::Strategy;

/// The rules of PodDisruptionBudgets.
pub(in crate::kinds) struct DisruptionBudget;
/// The rules of LimitRanges.
pub(in crate::kinds) struct LimitRange;
/// The rules of ResourceQuotas.
pub(in crate::kinds) struct ResourceQuota;

impl Strategy for DisruptionBudget {
    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &object["spec"];
        if given(spec, "minAvailable") && given(spec, "maxUnavailable") {
            let detail = "minAvailable and maxUnavailable cannot be both set";
            errors.push(FieldError::invalid(&path, json!({}), detail));
        }
        for key in ["minAvailable", "maxUnavailable"] {
            let at = path.child(key);
            count_or_percent(&mut errors, &spec[key], &at);
            let percent = spec[key].as_str().and_then(|t| t.strip_suffix('%'));
            if percent
                .and_then(|p| p.parse::<u64>().ok())
                .is_some_and(|p| p > 100)
            {
                errors.push(FieldError::invalid(
                    &at,
                    spec[key].clone(),
                    "must not be greater than 100%",
                ));
            }
        }
        selectors::label_selector(&mut errors, &spec["selector"], &path.child("selector"));
        let policies = ["AlwaysAllow", "IfHealthyBudget"];
        super::one_of(
            &mut errors,
            spec,
            "unhealthyPodEvictionPolicy",
            &path,
            &policies,
        );
        errors
    }
}

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
        for (index, item) in list(&object["spec"], "limits").iter().enumerate() {
            let at = path.index(index);
            for key in [
                "max",
                "min",
                "default",
                "defaultRequest",
                "maxLimitRequestRatio",
            ] {
                for (name, value) in item[key].as_object().into_iter().flatten() {
                    quantities::parse_non_negative(&mut errors, &at.child(key).key(name), value);
                }
            }
            if str_at(item, "type") == "Pod" {
                for key in ["default", "defaultRequest"] {
                    if item[key].as_object().is_some_and(|m| !m.is_empty()) {
                        let detail = "may not be specified when `type` is 'Pod'";
                        errors.push(FieldError::forbidden(&at.child(key), detail));
                    }
                }
            }
            ordered(&mut errors, item, "min", "max", &at);
            ordered(&mut errors, item, "defaultRequest", "default", &at);
            ordered(&mut errors, item, "default", "max", &at);
            ordered(&mut errors, item, "min", "defaultRequest", &at);
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

/// An error where `low` of a resource is above `high`.
fn ordered(errors: &mut Errors, item: &Value, low: &str, high: &str, path: &FieldPath) {
    for (name, value) in item[low].as_object().into_iter().flatten() {
        let other = &item[high][name.as_str()];
        if let (Ok(small), Ok(large)) = (Quantity::from_value(value), Quantity::from_value(other))
            && small > large
        {
            let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
            let detail = format!(
                "{low} value {} is greater than {high} value {}",
                text(value),
                text(other)
            );
            errors.push(FieldError::invalid(
                &path.child(low).key(name),
                value.clone(),
                detail,
            ));
        }
    }
}

impl Strategy for ResourceQuota {
    fn tracks_generation(&self, _object: &Value) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec").child("hard");
        for (name, value) in object["spec"]["hard"].as_object().into_iter().flatten() {
            quantities::parse_non_negative(&mut errors, &path.key(name), value);
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        if object["spec"]["scopes"] == old["spec"]["scopes"] {
            return Vec::new();
        }
        let path = FieldPath::new("spec").child("scopes");
        let value = object["spec"]["scopes"].clone();
        vec![FieldError::invalid(&path, value, "field is immutable")]
    }
}
