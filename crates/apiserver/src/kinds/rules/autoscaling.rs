//! The rules of autoscalers, in the form in which they are stored.

use coracle_machinery::{FieldError, FieldPath};
use serde_json::{Value, json};

use super::{Errors, default_field, list, map_mut, spec_mut, str_at};
use crate::kind::Strategy;

/// The rules of `autoscaling/v2` autoscalers, the stored form.
pub(in crate::kinds) struct Autoscaler;

impl Strategy for Autoscaler {
    fn tracks_generation(&self, _object: &Value) -> bool {
        false
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = spec_mut(object) else {
            return;
        };
        default_field(spec, "minReplicas", 1);
        let none = |v: &Value| v.as_array().is_none_or(Vec::is_empty);
        if spec.get("metrics").is_none_or(none) {
            spec.insert("metrics".into(), default_metrics());
        }
        if let Some(behavior) = map_mut(spec, "behavior") {
            for (key, policies) in [
                (
                    "scaleUp",
                    json!([
                        {"type": "Pods", "value": 4, "periodSeconds": 15},
                        {"type": "Percent", "value": 100, "periodSeconds": 15},
                    ]),
                ),
                (
                    "scaleDown",
                    json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]),
                ),
            ] {
                default_field(behavior, key, json!({}));
                if let Some(rules) = map_mut(behavior, key) {
                    default_field(rules, "selectPolicy", "Max");
                    default_field(rules, "policies", policies);
                    if key == "scaleUp" {
                        default_field(rules, "stabilizationWindowSeconds", 0);
                    }
                }
            }
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = replicas(object);
        let path = FieldPath::new("spec").child("metrics");
        for (index, metric) in list(&object["spec"], "metrics").iter().enumerate() {
            let at = path.index(index);
            let (field, allowed) = match str_at(metric, "type") {
                "Resource" => ("resource", true),
                "ContainerResource" => ("containerResource", true),
                "Pods" => ("pods", true),
                "Object" => ("object", true),
                "External" => ("external", true),
                _ => ("", false),
            };
            if !allowed {
                let types = [
                    "ContainerResource",
                    "External",
                    "Object",
                    "Pods",
                    "Resource",
                ];
                let kind = str_at(metric, "type");
                errors.push(FieldError::not_supported(&at.child("type"), kind, &types));
            } else if metric[field].is_null() {
                let detail = "must populate information for the given metric source";
                errors.push(FieldError::required(&at.child(field), detail));
            }
        }
        errors
    }
}

fn default_metrics() -> Value {
    json!([{
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
    }])
}

fn replicas(object: &Value) -> Errors {
    let mut errors = Vec::new();
    let path = FieldPath::new("spec");
    let spec = &object["spec"];
    let least = spec["minReplicas"].as_i64().unwrap_or(1);
    let most = spec["maxReplicas"].as_i64().unwrap_or(0);
    if least < 1 {
        let detail = "must be greater than or equal to 1";
        errors.push(FieldError::invalid(
            &path.child("minReplicas"),
            least,
            detail,
        ));
    }
    if most < 1 {
        let detail = "must be greater than 0";
        errors.push(FieldError::invalid(
            &path.child("maxReplicas"),
            most,
            detail,
        ));
    } else if most < least {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid(
            &path.child("maxReplicas"),
            most,
            detail,
        ));
    }
    for key in ["kind", "name"] {
        if str_at(&spec["scaleTargetRef"], key).is_empty() {
            let at = path.child("scaleTargetRef").child(key);
            errors.push(FieldError::required(&at, ""));
        }
    }
    errors
}
