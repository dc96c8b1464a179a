//! Conversions between served forms of the same objects.

use coracle_machinery::object::child_map;
use serde_json::{Map, Value, json};

use crate::kind::Conversion;

/// `events.k8s.io/v1` events, stored as `v1` events.
pub(super) struct EventsGroup;

/// Field names: core, then `events.k8s.io`.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

impl Conversion for EventsGroup {
    fn to_stored(&self, mut object: Value) -> Value {
        if let Some(map) = object.as_object_mut() {
            for (core, group) in EVENT_FIELDS {
                rename(map, group, core);
            }
            map.insert("apiVersion".into(), "v1".into());
        }
        object
    }

    fn to_served(&self, mut object: Value) -> Value {
        if let Some(map) = object.as_object_mut() {
            for (core, group) in EVENT_FIELDS {
                rename(map, core, group);
            }
            map.insert("apiVersion".into(), "events.k8s.io/v1".into());
        }
        object
    }
}

fn rename(map: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = map.remove(from) {
        map.insert(to.to_owned(), value);
    }
}

/// `autoscaling/v1` autoscalers, stored as `autoscaling/v2`. What v1 cannot
/// say stands in annotations, as upstream has it.
pub(super) struct AutoscalerV1;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

impl Conversion for AutoscalerV1 {
    fn to_stored(&self, mut object: Value) -> Value {
        let metrics = take_annotation(&mut object, METRICS);
        let behavior = take_annotation(&mut object, BEHAVIOR);
        let current = take_annotation(&mut object, CURRENT_METRICS);
        let conditions = take_annotation(&mut object, CONDITIONS);
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
            let mut list = match metrics {
                Some(Value::Array(list)) => list.iter().map(metric_to_v2).collect(),
                _ => Vec::new(),
            };
            if let Some(percent) = spec.remove("targetCPUUtilizationPercentage") {
                list.insert(
                    0,
                    cpu_metric(
                        json!({"type": "Utilization", "averageUtilization": percent}),
                        "target",
                    ),
                );
            }
            if !list.is_empty() {
                spec.insert("metrics".into(), Value::Array(list));
            }
            if let Some(behavior @ Value::Object(_)) = behavior {
                spec.insert("behavior".into(), behavior);
            }
        }
        if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
            let mut list = match current {
                Some(Value::Array(list)) => list.iter().map(current_to_v2).collect(),
                _ => Vec::new(),
            };
            if let Some(percent) = status.remove("currentCPUUtilizationPercentage") {
                list.insert(
                    0,
                    cpu_metric(json!({"averageUtilization": percent}), "current"),
                );
            }
            if !list.is_empty() {
                status.insert("currentMetrics".into(), Value::Array(list));
            }
            if let Some(conditions @ Value::Array(_)) = conditions {
                status.insert("conditions".into(), conditions);
            }
        }
        set_api_version(&mut object, "autoscaling/v2");
        object
    }

    fn to_served(&self, mut object: Value) -> Value {
        let mut annotations = Vec::new();
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
            let mut metrics = take_list(spec, "metrics");
            if let Some(percent) = take_cpu(&mut metrics, "target") {
                spec.insert("targetCPUUtilizationPercentage".into(), percent);
            }
            if !metrics.is_empty() {
                let old: Vec<Value> = metrics.iter().map(metric_to_v1).collect();
                annotations.push((METRICS, Value::Array(old)));
            }
            if let Some(behavior) = spec.remove("behavior") {
                annotations.push((BEHAVIOR, behavior));
            }
        }
        if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
            let mut current = take_list(status, "currentMetrics");
            if let Some(percent) = take_cpu(&mut current, "current") {
                status.insert("currentCPUUtilizationPercentage".into(), percent);
            }
            if !current.is_empty() {
                let old: Vec<Value> = current.iter().map(current_to_v1).collect();
                annotations.push((CURRENT_METRICS, Value::Array(old)));
            }
            if let Some(conditions) = status.remove("conditions") {
                annotations.push((CONDITIONS, conditions));
            }
        }
        for (key, value) in annotations {
            annotation_map(&mut object).insert(key.into(), value.to_string().into());
        }
        set_api_version(&mut object, "autoscaling/v1");
        object
    }
}

fn set_api_version(object: &mut Value, api_version: &str) {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), api_version.into());
    }
}

fn annotation_map(object: &mut Value) -> &mut Map<String, Value> {
    child_map(&mut object["metadata"], "annotations")
}

/// Removes an annotation and reads it as JSON.
fn take_annotation(object: &mut Value, key: &str) -> Option<Value> {
    let metadata = object.get_mut("metadata")?.as_object_mut()?;
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let value = serde_json::from_str(annotations.get(key)?.as_str()?).ok()?;
    annotations.remove(key);
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
    Some(value)
}

fn take_list(map: &mut Map<String, Value>, key: &str) -> Vec<Value> {
    match map.remove(key) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

fn cpu_metric(value: Value, key: &str) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", key: value}})
}

/// Takes the first utilisation of the CPU out of a list of v2 metrics.
fn take_cpu(metrics: &mut Vec<Value>, key: &str) -> Option<Value> {
    let found = metrics.iter().position(|m| {
        m["type"] == "Resource"
            && m["resource"]["name"] == "cpu"
            && m["resource"][key]["averageUtilization"].is_number()
    })?;
    // The current value may carry an average that v1 has no field for.
    let percent = metrics[found]["resource"][key]["averageUtilization"].clone();
    if key == "target"
        || metrics[found]["resource"][key]
            .as_object()
            .is_some_and(|o| o.len() == 1)
    {
        metrics.remove(found);
        Some(percent)
    } else {
        None
    }
}

/// The names that v1's annotations use: (source, v2 path, v1 field).
const METRIC_FIELDS: &[(&str, &[&str], &str)] = &[
    (
        "resource",
        &["target", "averageUtilization"],
        "targetAverageUtilization",
    ),
    (
        "resource",
        &["target", "averageValue"],
        "targetAverageValue",
    ),
    (
        "containerResource",
        &["target", "averageUtilization"],
        "targetAverageUtilization",
    ),
    (
        "containerResource",
        &["target", "averageValue"],
        "targetAverageValue",
    ),
    ("pods", &["metric", "name"], "metricName"),
    ("pods", &["metric", "selector"], "selector"),
    ("pods", &["target", "averageValue"], "targetAverageValue"),
    ("object", &["describedObject"], "target"),
    ("object", &["metric", "name"], "metricName"),
    ("object", &["metric", "selector"], "selector"),
    ("object", &["target", "value"], "targetValue"),
    ("object", &["target", "averageValue"], "averageValue"),
    ("external", &["metric", "name"], "metricName"),
    ("external", &["metric", "selector"], "metricSelector"),
    ("external", &["target", "value"], "targetValue"),
    (
        "external",
        &["target", "averageValue"],
        "targetAverageValue",
    ),
];

const CURRENT_FIELDS: &[(&str, &[&str], &str)] = &[
    (
        "resource",
        &["current", "averageUtilization"],
        "currentAverageUtilization",
    ),
    (
        "resource",
        &["current", "averageValue"],
        "currentAverageValue",
    ),
    (
        "containerResource",
        &["current", "averageUtilization"],
        "currentAverageUtilization",
    ),
    (
        "containerResource",
        &["current", "averageValue"],
        "currentAverageValue",
    ),
    ("pods", &["metric", "name"], "metricName"),
    ("pods", &["metric", "selector"], "selector"),
    ("pods", &["current", "averageValue"], "currentAverageValue"),
    ("object", &["describedObject"], "target"),
    ("object", &["metric", "name"], "metricName"),
    ("object", &["metric", "selector"], "selector"),
    ("object", &["current", "value"], "currentValue"),
    ("object", &["current", "averageValue"], "averageValue"),
    ("external", &["metric", "name"], "metricName"),
    ("external", &["metric", "selector"], "metricSelector"),
    ("external", &["current", "value"], "currentValue"),
    (
        "external",
        &["current", "averageValue"],
        "currentAverageValue",
    ),
];

fn metric_to_v2(metric: &Value) -> Value {
    let mut new = to_v2(metric, METRIC_FIELDS);
    for source in [
        "resource",
        "containerResource",
        "pods",
        "object",
        "external",
    ] {
        let Some(Value::Object(target)) = new.get_mut(source).and_then(|s| s.get_mut("target"))
        else {
            continue;
        };
        let kind = if target.contains_key("averageUtilization") {
            "Utilization"
        } else if target.contains_key("averageValue") {
            "AverageValue"
        } else {
            "Value"
        };
        target.insert("type".into(), kind.into());
    }
    new
}

fn metric_to_v1(metric: &Value) -> Value {
    to_v1(metric, METRIC_FIELDS)
}

fn current_to_v2(metric: &Value) -> Value {
    to_v2(metric, CURRENT_FIELDS)
}

fn current_to_v1(metric: &Value) -> Value {
    to_v1(metric, CURRENT_FIELDS)
}

fn to_v1(metric: &Value, fields: &[(&str, &[&str], &str)]) -> Value {
    let mut old = json!({"type": metric["type"]});
    for (source, path, name) in fields {
        let found = metric
            .get(*source)
            .and_then(|s| path.iter().try_fold(s, |at, key| at.get(*key)));
        if let Some(value) = found {
            old[*source][*name] = value.clone();
        }
    }
    keep_names(metric, &mut old);
    old
}

fn to_v2(metric: &Value, fields: &[(&str, &[&str], &str)]) -> Value {
    let mut new = json!({"type": metric["type"]});
    for (source, path, name) in fields {
        if let Some(value) = metric.get(*source).and_then(|s| s.get(*name)) {
            let mut at = &mut new[*source];
            for key in *path {
                at = &mut at[*key];
            }
            *at = value.clone();
        }
    }
    keep_names(metric, &mut new);
    new
}

/// The fields that have one name in both forms.
fn keep_names(from: &Value, to: &mut Value) {
    for (source, name) in [
        ("resource", "name"),
        ("containerResource", "name"),
        ("containerResource", "container"),
    ] {
        if let Some(value) = from.get(source).and_then(|s| s.get(name)) {
            to[source][name] = value.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_convert_there_and_back() {
        let served = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
            "regarding": {"kind": "Pod", "name": "p"}, "note": "n", "reason": "R",
            "reportingController": "c", "deprecatedCount": 2,
        });
        let stored = EventsGroup.to_stored(served.clone());
        assert_eq!(stored["involvedObject"]["name"], "p");
        assert_eq!(stored["message"], "n");
        assert_eq!(stored["reportingComponent"], "c");
        assert_eq!(stored["apiVersion"], "v1");
        assert_eq!(EventsGroup.to_served(stored), served);
    }

    #[test]
    fn autoscalers_convert_there_and_back() {
        let stored = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "h"},
            "spec": {
                "maxReplicas": 3,
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                    {"type": "Pods", "pods": {"metric": {"name": "q"}, "target": {"type": "AverageValue", "averageValue": "5"}}},
                    {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "q"}, "target": {"type": "Value", "value": "5"}}},
                ],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 1}},
            },
            "status": {"conditions": [{"type": "AbleToScale"}], "currentReplicas": 1,
                "currentMetrics": [{"type": "Resource", "resource": {"name": "memory", "current": {"averageValue": "1Gi"}}}]},
        });
        let served = AutoscalerV1.to_served(stored.clone());
        assert_eq!(served["spec"]["targetCPUUtilizationPercentage"], 50);
        assert!(served["spec"].get("metrics").is_none());
        assert!(served["metadata"]["annotations"][METRICS].is_string());
        assert_eq!(AutoscalerV1.to_stored(served), stored);
    }
}
