//! The rules of namespaces, nodes, leases and priority classes.

use coracle_machinery::names::NameRule;
use coracle_machinery::object::{child_map, name};
use coracle_machinery::{FieldError, FieldPath};
use serde_json::{Value, json};

use super::{Errors, default_field, given, immutable, list, str_at};
use crate::kind::Strategy;

/// The highest priority that users may give.
const USER_PRIORITY_MAX: i64 = 1_000_000_000;
/// Names that start so belong to Kubernetes.
const SYSTEM_PREFIX: &str = "system-";

/// The rules of Namespaces.
pub(in crate::kinds) struct Namespace;
/// The rules of Nodes.
pub(in crate::kinds) struct Node;
/// The rules of Leases.
pub(in crate::kinds) struct Lease;
/// The rules of PriorityClasses.
pub(in crate::kinds) struct PriorityClass;

impl Strategy for Namespace {
    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn default(&self, object: &mut Value) {
        let name = name(object).to_owned();
        if !name.is_empty() && object["metadata"].is_object() {
            child_map(&mut object["metadata"], "labels")
                .insert("kubernetes.io/metadata.name".into(), name.into());
        }
    }

    fn prepare_for_create(&self, object: &mut Value) {
        // The name may have been generated after the defaults were set.
        self.default(object);
        let spec = child_map(object, "spec");
        let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(list) = finalizers.as_array_mut() {
            if !list.iter().any(|f| f == "kubernetes") {
                list.push("kubernetes".into());
            }
        } else {
            *finalizers = json!(["kubernetes"]);
        }
        if let Some(map) = object.as_object_mut() {
            map.insert("status".into(), json!({"phase": "Active"}));
        }
    }

    fn prepare_for_update(&self, object: &mut Value, old: &Value) {
        if let Some(map) = object.as_object_mut() {
            // Only the finalize subresource changes these.
            match old.get("spec") {
                Some(spec) => map.insert("spec".into(), spec.clone()),
                None => map.remove("spec"),
            };
        }
    }

    fn tracks_generation(&self, _object: &Value) -> bool {
        false
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["status.phase"]
    }
}

impl Strategy for Node {
    fn tracks_generation(&self, _object: &Value) -> bool {
        false
    }

    fn default(&self, object: &mut Value) {
        default_allocatable(object);
    }

    fn prepare_for_status_update(&self, object: &mut Value, _old: &Value) {
        default_allocatable(object);
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec").child("taints");
        let mut seen = std::collections::BTreeSet::new();
        for (index, taint) in list(&object["spec"], "taints").iter().enumerate() {
            let at = path.index(index);
            let key = str_at(taint, "key");
            let rule = coracle_machinery::names::qualified_name_errors;
            super::text::check(&mut errors, &at.child("key"), key, rule);
            let value = str_at(taint, "value");
            let rule = coracle_machinery::names::label_value_errors;
            super::text::check(&mut errors, &at.child("value"), value, rule);
            let effects = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
            let effect = str_at(taint, "effect");
            if effect.is_empty() {
                errors.push(FieldError::required(&at.child("effect"), ""));
            }
            super::one_of(&mut errors, taint, "effect", &at, &effects);
            if !seen.insert((key, effect)) {
                let mut error = FieldError::duplicate(&at, taint.clone());
                error.detail = "taints must be unique by key and effect pair".to_owned();
                errors.push(error);
            }
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let (new, old) = (&object["spec"], &old["spec"]);
        if given(old, "providerID")
            && !str_at(old, "providerID").is_empty()
            && new["providerID"] != old["providerID"]
        {
            let detail = "node updates may not change providerID except from \"\" to valid";
            errors.push(FieldError::forbidden(&path.child("providerID"), detail));
        }
        if !str_at(old, "podCIDR").is_empty() && new["podCIDR"] != old["podCIDR"] {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            errors.push(FieldError::forbidden(&path.child("podCIDRs"), detail));
        }
        errors
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.unschedulable"]
    }

    fn selectable_field(&self, object: &Value, _path: &str) -> String {
        (object["spec"]["unschedulable"] == true).to_string()
    }
}

/// What a node has is what it offers, unless it says otherwise.
fn default_allocatable(object: &mut Value) {
    let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) else {
        return;
    };
    if let Some(Value::Object(capacity)) = status.get("capacity").cloned() {
        let missing = |v: Option<&Value>| v.is_none_or(|v| !v.is_object());
        if missing(status.get("allocatable")) {
            status.insert("allocatable".into(), Value::Object(capacity));
        } else if let Some(offered) = status.get_mut("allocatable").and_then(Value::as_object_mut) {
            for (name, quantity) in capacity {
                offered.entry(name).or_insert(quantity);
            }
        }
    }
}

impl Strategy for Lease {
    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn tracks_generation(&self, _object: &Value) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &object["spec"];
        if spec["leaseDurationSeconds"]
            .as_i64()
            .is_some_and(|s| s <= 0)
        {
            let at = path.child("leaseDurationSeconds");
            let value = spec["leaseDurationSeconds"].clone();
            errors.push(FieldError::invalid(&at, value, "must be greater than 0"));
        }
        super::non_negative(&mut errors, spec, "leaseTransitions", &path);
        if spec["holderIdentity"] == "" {
            let at = path.child("holderIdentity");
            errors.push(FieldError::invalid(&at, "", "must not be empty"));
        }
        errors
    }
}

impl Strategy for PriorityClass {
    fn default(&self, object: &mut Value) {
        if let Some(map) = object.as_object_mut() {
            default_field(map, "preemptionPolicy", "PreemptLowerPriority");
            default_field(map, "value", 0);
        }
    }

    fn tracks_generation(&self, _object: &Value) -> bool {
        true
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let class = name(object);
        let value = object["value"].as_i64().unwrap_or(0);
        let known = match class {
            "system-node-critical" => Some(2_000_001_000),
            "system-cluster-critical" => Some(2_000_000_000),
            _ => None,
        };
        let at = FieldPath::new("metadata").child("name");
        if class.starts_with(SYSTEM_PREFIX) && known != Some(value) {
            let detail = "priority class names with 'system-' prefix are reserved for system use only. error: no known system priority class with that name and value";
            errors.push(FieldError::forbidden(&at, detail));
        } else if known.is_none() && value > USER_PRIORITY_MAX {
            let detail =
                format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
            errors.push(FieldError::forbidden(&FieldPath::new("value"), detail));
        }
        let policies = ["Never", "PreemptLowerPriority"];
        super::one_of(
            &mut errors,
            object,
            "preemptionPolicy",
            &FieldPath::default(),
            &policies,
        );
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        let mut errors = Vec::new();
        if object["value"] != old["value"] {
            let detail = "may not be changed in an update.";
            errors.push(FieldError::forbidden(&FieldPath::new("value"), detail));
        }
        immutable(
            &mut errors,
            object,
            old,
            "preemptionPolicy",
            &FieldPath::default(),
        );
        errors
    }
}
