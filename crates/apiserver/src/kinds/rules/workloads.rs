//! The rules of controllers of long-running pods.

use coracle_machinery::selector::LabelSelector;
use coracle_machinery::{FieldError, FieldPath};
use serde_json::{Map, Value, json};

use super::metadata::template_metadata;
use super::{
    Errors, default_field, each_mut, given, immutable, immutable_in_spec, list, map_mut,
    non_negative, pod_defaults, pod_spec, selectors, spec_mut, str_at,
};
use crate::kind::{Propagation, Strategy};

/// Counts changes of a DaemonSet's template, as old clients expect.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// The rules of Deployments.
pub(in crate::kinds) struct Deployment;
/// The rules of ReplicaSets.
pub(in crate::kinds) struct ReplicaSet;
/// The rules of ReplicationControllers.
pub(in crate::kinds) struct ReplicationController;
/// The rules of StatefulSets.
pub(in crate::kinds) struct StatefulSet;
/// The rules of DaemonSets.
pub(in crate::kinds) struct DaemonSet;
/// The rules of PodTemplates.
pub(in crate::kinds) struct PodTemplate;
/// The rules of ControllerRevisions.
pub(in crate::kinds) struct ControllerRevision;

fn template_defaults(spec: &mut Map<String, Value>) {
    if let Some(template) = spec.get_mut("template") {
        pod_defaults::template(template);
    }
}

impl Strategy for Deployment {
    fn default(&self, object: &mut Value) {
        let Some(spec) = spec_mut(object) else {
            return;
        };
        default_field(spec, "replicas", 1);
        default_field(spec, "revisionHistoryLimit", 10);
        default_field(spec, "progressDeadlineSeconds", 600);
        default_field(spec, "strategy", json!({}));
        if let Some(strategy) = map_mut(spec, "strategy") {
            default_field(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate" {
                default_field(strategy, "rollingUpdate", json!({}));
                if let Some(rolling) = map_mut(strategy, "rollingUpdate") {
                    default_field(rolling, "maxUnavailable", "25%");
                    default_field(rolling, "maxSurge", "25%");
                }
            }
        }
        template_defaults(spec);
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &object["spec"];
        replicated(&mut errors, spec, &path, "deployment");
        non_negative(&mut errors, spec, "revisionHistoryLimit", &path);
        non_negative(&mut errors, spec, "progressDeadlineSeconds", &path);
        let ready = spec["minReadySeconds"].as_i64().unwrap_or(0);
        if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64()
            && deadline <= ready
        {
            let at = path.child("progressDeadlineSeconds");
            errors.push(FieldError::invalid(
                &at,
                deadline,
                "must be greater than minReadySeconds",
            ));
        }
        let at = path.child("strategy");
        match str_at(&spec["strategy"], "type") {
            "Recreate" if given(&spec["strategy"], "rollingUpdate") => {
                errors.push(FieldError::forbidden(
                    &at.child("rollingUpdate"),
                    "may not be specified when strategy `type` is 'Recreate'",
                ));
            }
            "Recreate" => {}
            "RollingUpdate" => {
                rolling(
                    &mut errors,
                    &spec["strategy"]["rollingUpdate"],
                    &at.child("rollingUpdate"),
                );
            }
            other => errors.push(FieldError::not_supported(
                &at.child("type"),
                other,
                &["Recreate", "RollingUpdate"],
            )),
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        immutable_in_spec(object, old, "selector")
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        template_warnings(object)
    }
}

impl Strategy for ReplicaSet {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = spec_mut(object) {
            default_field(spec, "replicas", 1);
            template_defaults(spec);
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        replicated(
            &mut errors,
            &object["spec"],
            &FieldPath::new("spec"),
            "deployment",
        );
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        immutable_in_spec(object, old, "selector")
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["status.replicas"]
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        template_warnings(object)
    }
}

impl Strategy for ReplicationController {
    fn default(&self, object: &mut Value) {
        let labels = object["spec"]["template"]["metadata"]["labels"].clone();
        if let Some(spec) = spec_mut(object) {
            default_field(spec, "replicas", 1);
            if labels.is_object() {
                let empty = |v: &Value| v.as_object().is_none_or(Map::is_empty);
                if spec.get("selector").is_none_or(empty) {
                    spec.insert("selector".into(), labels.clone());
                }
            }
            template_defaults(spec);
        }
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
            && labels.is_object()
        {
            default_field(metadata, "labels", labels);
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &object["spec"];
        non_negative(&mut errors, spec, "replicas", &path);
        non_negative(&mut errors, spec, "minReadySeconds", &path);
        let selector = &spec["selector"];
        if selector.as_object().is_none_or(Map::is_empty) {
            errors.push(FieldError::required(&path.child("selector"), ""));
        }
        if !given(spec, "template") {
            errors.push(FieldError::required(&path.child("template"), ""));
            return errors;
        }
        let selector = LabelSelector::from_map(selector);
        template(&mut errors, spec, &path, Some(&selector));
        errors
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["status.replicas"]
    }

    fn default_propagation(&self) -> Propagation {
        Propagation::Orphan
    }
}

impl Strategy for StatefulSet {
    fn default(&self, object: &mut Value) {
        let Some(spec) = spec_mut(object) else {
            return;
        };
        default_field(spec, "podManagementPolicy", "OrderedReady");
        default_field(spec, "replicas", 1);
        default_field(spec, "revisionHistoryLimit", 10);
        default_field(spec, "updateStrategy", json!({}));
        if let Some(strategy) = map_mut(spec, "updateStrategy") {
            default_field(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate" {
                default_field(strategy, "rollingUpdate", json!({}));
                if let Some(rolling) = map_mut(strategy, "rollingUpdate") {
                    default_field(rolling, "partition", 0);
                }
            }
        }
        default_field(spec, "persistentVolumeClaimRetentionPolicy", json!({}));
        if let Some(policy) = map_mut(spec, "persistentVolumeClaimRetentionPolicy") {
            default_field(policy, "whenDeleted", "Retain");
            default_field(policy, "whenScaled", "Retain");
        }
        for claim in each_mut(spec, "volumeClaimTemplates") {
            default_field(claim, "apiVersion", "v1");
            default_field(claim, "kind", "PersistentVolumeClaim");
            if let Some(spec) = map_mut(claim, "spec") {
                default_field(spec, "volumeMode", "Filesystem");
            }
            default_field(claim, "status", json!({"phase": "Pending"}));
        }
        template_defaults(spec);
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &object["spec"];
        replicated(&mut errors, &with_claims(spec), &path, "statefulset");
        super::one_of(
            &mut errors,
            spec,
            "podManagementPolicy",
            &path,
            &["OrderedReady", "Parallel"],
        );
        let strategy = &spec["updateStrategy"];
        let at = path.child("updateStrategy");
        match str_at(strategy, "type") {
            "OnDelete" if given(strategy, "rollingUpdate") => errors.push(FieldError::invalid(
                &at.child("rollingUpdate"),
                strategy["rollingUpdate"].clone(),
                "only allowed for updateStrategy 'RollingUpdate'",
            )),
            "OnDelete" => {}
            "RollingUpdate" => {
                let at = at.child("rollingUpdate");
                non_negative(&mut errors, &strategy["rollingUpdate"], "partition", &at);
            }
            other => errors.push(FieldError::invalid(
                &at,
                other,
                "must be 'RollingUpdate' or 'OnDelete'",
            )),
        }
        for (index, claim) in list(spec, "volumeClaimTemplates").iter().enumerate() {
            let at = path.child("volumeClaimTemplates").index(index);
            super::storage::claim_spec(&mut errors, &claim["spec"], &at.child("spec"));
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        const FREE: [&str; 7] = [
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        ];
        let fixed = |spec: &Value| {
            let mut spec = spec.clone();
            if let Some(map) = spec.as_object_mut() {
                map.retain(|key, value| !FREE.contains(&key.as_str()) && !value.is_null());
            }
            spec
        };
        if fixed(&object["spec"]) == fixed(&old["spec"]) {
            return Vec::new();
        }
        vec![FieldError::forbidden(
            &FieldPath::new("spec"),
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        )]
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        template_warnings(object)
    }
}

impl Strategy for DaemonSet {
    fn default(&self, object: &mut Value) {
        let Some(spec) = spec_mut(object) else {
            return;
        };
        default_field(spec, "revisionHistoryLimit", 10);
        default_field(spec, "updateStrategy", json!({}));
        if let Some(strategy) = map_mut(spec, "updateStrategy") {
            default_field(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate" {
                default_field(strategy, "rollingUpdate", json!({}));
                if let Some(rolling) = map_mut(strategy, "rollingUpdate") {
                    default_field(rolling, "maxUnavailable", 1);
                    default_field(rolling, "maxSurge", 0);
                }
            }
        }
        template_defaults(spec);
    }

    fn prepare_for_create(&self, object: &mut Value) {
        set_template_generation(object, 1);
    }

    fn prepare_for_update(&self, object: &mut Value, old: &Value) {
        let text = coracle_machinery::object::annotation(old, TEMPLATE_GENERATION);
        let before: i64 = text.and_then(|t| t.parse().ok()).unwrap_or(1);
        let changed = object["spec"]["template"] != old["spec"]["template"];
        set_template_generation(object, before.saturating_add(i64::from(changed)));
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &object["spec"];
        replicated(&mut errors, spec, &path, "daemonset");
        non_negative(&mut errors, spec, "revisionHistoryLimit", &path);
        let strategy = &spec["updateStrategy"];
        let at = path.child("updateStrategy");
        match str_at(strategy, "type") {
            "OnDelete" => {}
            "RollingUpdate" => {
                rolling(
                    &mut errors,
                    &strategy["rollingUpdate"],
                    &at.child("rollingUpdate"),
                );
            }
            other => errors.push(FieldError::not_supported(
                &at.child("type"),
                other,
                &["OnDelete", "RollingUpdate"],
            )),
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        immutable_in_spec(object, old, "selector")
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        template_warnings(object)
    }
}

fn set_template_generation(object: &mut Value, generation: i64) {
    if object["metadata"].is_object() {
        coracle_machinery::object::child_map(&mut object["metadata"], "annotations")
            .insert(TEMPLATE_GENERATION.into(), generation.to_string().into());
    }
}

impl Strategy for PodTemplate {
    fn default(&self, object: &mut Value) {
        if let Some(map) = object.as_object_mut() {
            template_defaults(map);
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("template");
        pod_template(&mut errors, &object["template"], &path);
        errors
    }
}

impl Strategy for ControllerRevision {
    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        non_negative(&mut errors, object, "revision", &FieldPath::default());
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        let mut errors = Vec::new();
        immutable(&mut errors, object, old, "data", &FieldPath::default());
        errors
    }
}

/// What workloads with a selector, a template and replicas have in common.
fn replicated(errors: &mut Errors, spec: &Value, path: &FieldPath, name: &str) {
    non_negative(errors, spec, "replicas", path);
    non_negative(errors, spec, "minReadySeconds", path);
    let at = path.child("selector");
    let selector = &spec["selector"];
    if selector.is_null() {
        errors.push(FieldError::required(&at, ""));
    } else {
        selectors::label_selector(errors, selector, &at);
        if selectors::is_empty(selector) {
            let detail = format!("empty selector is invalid for {name}");
            errors.push(FieldError::invalid(&at, selector.clone(), detail));
        }
    }
    match LabelSelector::from_value(selector) {
        Ok(selector) => template(errors, spec, path, Some(&selector)),
        Err(error) => {
            errors.push(FieldError::invalid(
                &at,
                selector.clone(),
                error.to_string(),
            ));
            template(errors, spec, path, None);
        }
    }
}

/// The spec of a StatefulSet, with the volumes that its pods get in the place
/// of the claims it makes for them: containers mount those too.
fn with_claims(spec: &Value) -> Value {
    let claims: Vec<Value> = list(spec, "volumeClaimTemplates")
        .iter()
        .map(|claim| claim["metadata"]["name"].clone())
        .collect();
    let mut spec = spec.clone();
    let Some(template) = spec.pointer_mut("/template/spec") else {
        return spec;
    };
    let others = list(template, "volumes").iter();
    let others = others.filter(|volume| !claims.contains(&volume["name"]));
    let mut volumes: Vec<Value> = others.cloned().collect();
    volumes.extend(
        claims
            .iter()
            .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})),
    );
    if let Some(template) = template.as_object_mut()
        && !claims.is_empty()
    {
        template.insert("volumes".to_owned(), volumes.into());
    }
    spec
}

/// `spec.template`, whose labels `selector` must match and whose pods never
/// end.
fn template(errors: &mut Errors, spec: &Value, path: &FieldPath, selector: Option<&LabelSelector>) {
    let template = &spec["template"];
    let at = path.child("template");
    let labels = &template["metadata"]["labels"];
    if selector.is_some_and(|s| !s.matches(labels)) {
        let labels = if labels.is_null() {
            json!({})
        } else {
            labels.clone()
        };
        errors.push(FieldError::invalid(
            &at.child("metadata").child("labels"),
            labels,
            "`selector` does not match template `labels`",
        ));
    }
    pod_template(errors, template, &at);
    let pod = &template["spec"];
    let at = at.child("spec");
    if pod["restartPolicy"] != "Always" {
        errors.push(FieldError::not_supported(
            &at.child("restartPolicy"),
            str_at(pod, "restartPolicy"),
            &["Always"],
        ));
    }
    if given(pod, "activeDeadlineSeconds") {
        let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.push(FieldError::forbidden(
            &at.child("activeDeadlineSeconds"),
            detail,
        ));
    }
}

/// A pod template: metadata and spec.
pub(super) fn pod_template(errors: &mut Errors, template: &Value, path: &FieldPath) {
    template_metadata(errors, template, path);
    pod_spec::pod_spec(errors, &template["spec"], &path.child("spec"));
    if !list(&template["spec"], "ephemeralContainers").is_empty() {
        errors.push(FieldError::forbidden(
            &path.child("spec").child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        ));
    }
}

fn template_warnings(object: &Value) -> Vec<String> {
    let path = FieldPath::new("spec").child("template").child("spec");
    pod_spec::warnings(&object["spec"]["template"]["spec"], &path)
}

fn rolling(errors: &mut Errors, rolling: &Value, path: &FieldPath) {
    for key in ["maxUnavailable", "maxSurge"] {
        count_or_percent(errors, &rolling[key], &path.child(key));
    }
    let zero = |v: &Value| v.as_i64() == Some(0) || v == "0%";
    if zero(&rolling["maxUnavailable"]) && zero(&rolling["maxSurge"]) {
        let at = path.child("maxUnavailable");
        let value = rolling["maxUnavailable"].clone();
        errors.push(FieldError::invalid(
            &at,
            value,
            "may not be 0 when `maxSurge` is 0",
        ));
    }
}

/// A number that is not negative or a percentage.
pub(super) fn count_or_percent(errors: &mut Errors, value: &Value, path: &FieldPath) {
    match value {
        Value::Null => {}
        Value::String(text) => {
            let digits = text.strip_suffix('%').unwrap_or_default();
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                errors.push(FieldError::invalid(
                    path,
                    text.as_str(),
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                ));
            }
        }
        other => {
            if other.as_i64().is_none_or(|n| n < 0) {
                let detail = "must be greater than or equal to 0";
                errors.push(FieldError::invalid(path, other.clone(), detail));
            }
        }
    }
}
