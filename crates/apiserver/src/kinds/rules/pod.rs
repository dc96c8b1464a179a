//! The rules of pods.

use coracle_machinery::quantity::Quantity;
use coracle_machinery::{FieldError, FieldPath, object};
use serde_json::{Map, Value, json};

use super::{Errors, given, list, pod_defaults, pod_spec, pod_update, spec_mut, str_at};
use crate::kind::Strategy;

/// Seconds that a pod has to stop if it does not say.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// The rules of pods.
pub(in crate::kinds) struct Pod;

impl Strategy for Pod {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = spec_mut(object) {
            pod_defaults::pod(spec);
        }
    }

    fn prepare_for_create(&self, object: &mut Value) {
        if let Some(spec) = spec_mut(object) {
            pod_defaults::mirror_service_account(spec);
        }
        let mut status = json!({"phase": "Pending", "qosClass": qos_class(&object["spec"])});
        if !list(&object["spec"], "schedulingGates").is_empty() {
            status["conditions"] = json!([{
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null,
                "lastTransitionTime": null,
            }]);
        }
        if let Some(map) = object.as_object_mut() {
            map.insert("status".into(), status);
        }
    }

    fn prepare_for_update(&self, object: &mut Value, _old: &Value) {
        if let Some(spec) = spec_mut(object) {
            pod_defaults::mirror_service_account(spec);
        }
    }

    fn prepare_for_status_update(&self, object: &mut Value, old: &Value) {
        let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) else {
            return;
        };
        if status
            .get("qosClass")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .is_empty()
        {
            status.insert("qosClass".into(), qos_class(&old["spec"]).into());
        }
        one_and_many(status, "podIP", "podIPs");
        one_and_many(status, "hostIP", "hostIPs");
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        pod_spec::pod_spec(&mut errors, &object["spec"], &path);
        // A template may leave the image to who makes pods of it.
        for (index, volume) in list(&object["spec"], "volumes").iter().enumerate() {
            if given(volume, "image") && str_at(&volume["image"], "reference").is_empty() {
                let at = path.child("volumes").index(index).child("image");
                errors.push(FieldError::required(&at.child("reference"), ""));
            }
        }
        errors
    }

    fn validate_create(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &object["spec"];
        if !list(spec, "ephemeralContainers").is_empty() {
            let at = path.child("ephemeralContainers");
            errors.push(FieldError::forbidden(&at, "cannot be set on create"));
        }
        if !str_at(spec, "nodeName").is_empty() && !list(spec, "schedulingGates").is_empty() {
            let detail = "cannot be set until all schedulingGates have been cleared";
            errors.push(FieldError::forbidden(&path.child("nodeName"), detail));
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        pod_update::validate(object, old)
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        pod_spec::warnings(&object["spec"], &FieldPath::new("spec"))
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ]
    }

    fn selectable_field(&self, object: &Value, path: &str) -> String {
        match path {
            "spec.hostNetwork" => (object["spec"]["hostNetwork"] == true).to_string(),
            "status.podIPs" => {
                let ips = list(&object["status"], "podIPs");
                ips.iter()
                    .map(|ip| str_at(ip, "ip"))
                    .collect::<Vec<_>>()
                    .join(",")
            }
            _ => object::text(object, &format!("/{}", path.replace('.', "/"))).to_owned(),
        }
    }

    fn graceful_period(&self, object: &Value) -> Option<i64> {
        let spec = &object["spec"];
        let finished = matches!(str_at(&object["status"], "phase"), "Failed" | "Succeeded");
        if str_at(spec, "nodeName").is_empty() || finished {
            return Some(0);
        }
        let seconds = spec["terminationGracePeriodSeconds"].as_i64();
        Some(seconds.unwrap_or(DEFAULT_GRACE_SECONDS))
    }
}

/// Keeps `podIP` and `podIPs` in step: whichever is given fills the other.
fn one_and_many(status: &mut Map<String, Value>, one: &str, many: &str) {
    let first = status
        .get(many)
        .and_then(|v| v.get(0))
        .and_then(|v| v.get("ip"))
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let single = status.get(one).and_then(Value::as_str).unwrap_or_default();
    if single.is_empty() && !first.is_empty() {
        status.insert(one.to_owned(), first.into());
    } else if !single.is_empty() && single != first {
        status.insert(many.to_owned(), json!([{"ip": single}]));
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(super) fn qos_class(spec: &Value) -> &'static str {
    let all = ["initContainers", "containers"];
    let mut containers = all.iter().flat_map(|key| list(spec, key)).peekable();
    let pod_level = &spec["resources"];
    if !pod_level["requests"].is_null() || !pod_level["limits"].is_null() {
        return class_of(std::iter::once(pod_level));
    }
    if containers.peek().is_none() {
        return "BestEffort";
    }
    class_of(containers.map(|c| &c["resources"]))
}

fn class_of<'a>(resources: impl Iterator<Item = &'a Value>) -> &'static str {
    let amount = |part: &Value, name: &str| {
        Quantity::from_value(&part[name])
            .ok()
            .filter(|q| !q.is_zero())
    };
    let mut any = false;
    let mut guaranteed = true;
    for resources in resources {
        for name in ["cpu", "memory"] {
            let request = amount(&resources["requests"], name);
            let limit = amount(&resources["limits"], name);
            any |= request.is_some() || limit.is_some();
            let equal = limit.is_some() && (request.is_none() || request == limit);
            guaranteed &= equal;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Errors of new ephemeral containers: those that exist may not change.
pub fn validate_ephemeral_containers(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Pod.validate(object);
    let path = FieldPath::new("spec").child("ephemeralContainers");
    let new = list(&object["spec"], "ephemeralContainers");
    for existing in list(&old["spec"], "ephemeralContainers") {
        let name = str_at(existing, "name");
        match new.iter().find(|c| str_at(c, "name") == name) {
            None => {
                let detail =
                    format!("existing ephemeral containers \"{name}\" may not be removed\n");
                errors.push(FieldError::forbidden(&path, detail));
            }
            Some(container) if container != existing => {
                let detail =
                    format!("existing ephemeral containers \"{name}\" may not be changed\n");
                errors.push(FieldError::forbidden(&path, detail));
            }
            Some(_) => {}
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qos_classes() {
        let pod = |resources: Value| json!({"containers": [{"name": "c", "resources": resources}]});
        for (resources, class) in [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
                "Guaranteed",
            ),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}),
                "Burstable",
            ),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}),
                "Guaranteed",
            ),
        ] {
            assert_eq!(qos_class(&pod(resources.clone())), class, "{resources}");
        }
    }

    #[test]
    fn grace_depends_on_the_state() {
        let pod = |node: &str, phase: &str| json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": 5}, "status": {"phase": phase}});
        assert_eq!(Pod.graceful_period(&pod("n", "Running")), Some(5));
        assert_eq!(Pod.graceful_period(&pod("", "Pending")), Some(0));
        assert_eq!(Pod.graceful_period(&pod("n", "Failed")), Some(0));
    }

    #[test]
    fn addresses_stay_in_step() {
        let mut object = json!({"spec": {}, "status": {"podIP": "10.0.0.1"}});
        let old = object.clone();
        Pod.prepare_for_status_update(&mut object, &old);
        assert_eq!(object["status"]["podIPs"], json!([{"ip": "10.0.0.1"}]));
        assert_eq!(object["status"]["qosClass"], "BestEffort");
    }
}
