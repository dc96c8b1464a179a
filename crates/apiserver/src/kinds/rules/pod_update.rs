//! What may change in a pod that exists.

use coracle_machinery::{FieldError, FieldPath};
use serde_json::Value;

use super::{Errors, list, str_at};

const FORBIDDEN: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Errors of a change to a pod's spec.
pub(super) fn validate(object: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    let path = FieldPath::new("spec");
    let (new, old) = (&object["spec"], &old["spec"]);
    for key in ["containers", "initContainers"] {
        if list(new, key).len() != list(old, key).len() {
            let detail = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(&path.child(key), detail));
        }
    }
    if !errors.is_empty() {
        return errors;
    }
    deadline(&mut errors, new, old, &path);
    gates(&mut errors, new, old, &path);
    tolerations(&mut errors, new, old, &path);
    let gated = !list(old, "schedulingGates").is_empty();
    let changed = differences(&with_free_fields(new, old, gated), old);
    if !changed.is_empty() {
        let detail = format!("{FORBIDDEN}\n{changed}");
        errors.push(FieldError::forbidden(&path, detail));
    }
    errors
}

/// The new spec with all that may change set to what it was.
fn with_free_fields(new: &Value, old: &Value, gated: bool) -> Value {
    let mut spec = new.clone();
    let Some(map) = spec.as_object_mut() else {
        return spec;
    };
    let mut free = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    // A pod that the scheduler has not seen yet may still be narrowed down.
    if gated && additions_only(&new["nodeSelector"], &old["nodeSelector"]) {
        free.push("nodeSelector");
    }
    if gated && old["affinity"]["nodeAffinity"].is_null() {
        free.push("affinity");
    }
    let negative = old["terminationGracePeriodSeconds"]
        .as_i64()
        .is_some_and(|s| s < 0);
    if negative && new["terminationGracePeriodSeconds"] == 1 {
        free.push("terminationGracePeriodSeconds");
    }
    for key in free {
        match old.get(key) {
            Some(value) => map.insert(key.to_owned(), value.clone()),
            None => map.remove(key),
        };
    }
    for key in ["containers", "initContainers"] {
        for (index, container) in super::each_mut(map, key).enumerate() {
            container.insert("image".into(), old[key][index]["image"].clone());
        }
    }
    spec
}

fn additions_only(new: &Value, old: &Value) -> bool {
    let Some(old) = old.as_object() else {
        return true;
    };
    old.iter().all(|(key, value)| new.get(key) == Some(value))
}

/// One line for each field of the spec that differs.
fn differences(new: &Value, old: &Value) -> String {
    let empty = serde_json::Map::new();
    let new = new.as_object().unwrap_or(&empty);
    let old = old.as_object().unwrap_or(&empty);
    let keys: std::collections::BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    let absent = |v: Option<&Value>| v.is_none_or(is_blank);
    let mut lines = Vec::new();
    for key in keys {
        let (new, old) = (new.get(key), old.get(key));
        if new == old || absent(new) && absent(old) {
            continue;
        }
        let text = |v: Option<&Value>| v.map_or_else(|| "null".to_owned(), Value::to_string);
        lines.push(format!("- {key}: {}\n+ {key}: {}", text(old), text(new)));
    }
    lines.join("\n")
}

/// Null, false, zero, the empty text, list or map: what Go's encoding leaves
/// out, so that clients may drop or add it.
fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn deadline(errors: &mut Errors, new: &Value, old: &Value, path: &FieldPath) {
    let key = "activeDeadlineSeconds";
    let at = path.child(key);
    match (new[key].as_i64(), old[key].as_i64()) {
        (Some(new), Some(old)) if new > old => {
            let detail = format!("must be less than or equal to previous value: {old}");
            errors.push(FieldError::invalid(&at, new, detail));
        }
        (None, Some(_)) => errors.push(FieldError::invalid(
            &at,
            Value::Null,
            "must not update from a positive integer to nil value",
        )),
        _ => {}
    }
}

fn gates(errors: &mut Errors, new: &Value, old: &Value, path: &FieldPath) {
    for (index, gate) in list(new, "schedulingGates").iter().enumerate() {
        if !list(old, "schedulingGates").contains(gate) {
            let at = path.child("schedulingGates").index(index).child("name");
            let name = str_at(gate, "name");
            let detail =
                format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(FieldError::forbidden(&at, detail));
        }
    }
}

fn tolerations(errors: &mut Errors, new: &Value, old: &Value, path: &FieldPath) {
    let same = |a: &Value, b: &Value| {
        ["key", "operator", "value", "effect"]
            .iter()
            .all(|key| str_at(a, key) == str_at(b, key))
    };
    let kept = |t: &Value| list(new, "tolerations").iter().any(|n| same(n, t));
    if !list(old, "tolerations").iter().all(kept) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(&path.child("tolerations"), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_some_fields_may_change() {
        let old = json!({"spec": {
            "containers": [{"name": "c", "image": "a"}],
            "tolerations": [{"key": "k", "operator": "Exists"}],
            "nodeName": "n",
        }});
        let change = |edit: &dyn Fn(&mut Value)| {
            let mut new = old.clone();
            edit(&mut new["spec"]);
            validate(&new, &old)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert!(change(&|_| {}).is_empty());
        assert!(change(&|s| s["containers"][0]["image"] = json!("b")).is_empty());
        assert!(change(&|s| s["activeDeadlineSeconds"] = json!(5)).is_empty());
        assert!(change(&|s| s["hostIPC"] = json!(false)).is_empty());
        assert!(
            change(&|s| s["tolerations"]
                .as_array_mut()
                .unwrap()
                .push(json!({"operator": "Exists"})))
            .is_empty()
        );
        let errors = change(&|s| s["nodeName"] = json!("m"));
        assert!(
            errors[0].starts_with("spec: Forbidden: pod updates may not change fields other than")
        );
        assert!(errors[0].contains("+ nodeName: \"m\""));
        assert_eq!(
            change(&|s| s["containers"] = json!([])),
            ["spec.containers: Forbidden: pod updates may not add or remove containers"]
        );
        assert_eq!(change(&|s| s["tolerations"] = json!([])).len(), 1);
    }
}
