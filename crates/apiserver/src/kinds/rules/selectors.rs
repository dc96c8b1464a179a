//! Validation of label selectors, node selectors and label maps.

use coracle_machinery::names::{label_value_errors, qualified_name_errors};
use coracle_machinery::{FieldError, FieldPath};
use serde_json::Value;

use super::{Errors, list, str_at};

/// A map of labels, at `path`.
pub(super) fn labels(errors: &mut Errors, map: &Value, path: &FieldPath) {
    for (key, value) in map.as_object().into_iter().flatten() {
        for detail in qualified_name_errors(key) {
            errors.push(FieldError::invalid(path, key.as_str(), detail));
        }
        let value = value.as_str().unwrap_or_default();
        for detail in label_value_errors(value) {
            errors.push(FieldError::invalid(&path.key(key), value, detail));
        }
    }
}

/// A `metav1.LabelSelector`.
pub(super) fn label_selector(errors: &mut Errors, selector: &Value, path: &FieldPath) {
    labels(errors, &selector["matchLabels"], &path.child("matchLabels"));
    let at = path.child("matchExpressions");
    for (index, term) in list(selector, "matchExpressions").iter().enumerate() {
        let at = at.index(index);
        let values = list(term, "values");
        match str_at(term, "operator") {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                &at.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
                &at.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(FieldError::invalid(
                &at.child("operator"),
                other,
                "not a valid selector operator",
            )),
        }
        let key = str_at(term, "key");
        for detail in qualified_name_errors(key) {
            errors.push(FieldError::invalid(&at.child("key"), key, detail));
        }
        for (index, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            for detail in label_value_errors(value) {
                let at = at.child("values").index(index);
                errors.push(FieldError::invalid(&at, value, detail));
            }
        }
    }
}

/// True if the selector selects everything.
pub(super) fn is_empty(selector: &Value) -> bool {
    let labels = selector["matchLabels"].as_object();
    labels.is_none_or(|l| l.is_empty()) && list(selector, "matchExpressions").is_empty()
}

/// A `v1.NodeSelector`.
pub(super) fn node_selector(errors: &mut Errors, selector: &Value, path: &FieldPath) {
    let terms = list(selector, "nodeSelectorTerms");
    let at = path.child("nodeSelectorTerms");
    if terms.is_empty() {
        errors.push(FieldError::required(
            &at,
            "must have at least one node selector term",
        ));
    }
    for (index, term) in terms.iter().enumerate() {
        node_selector_term(errors, term, &at.index(index));
    }
}

/// A `v1.NodeSelectorTerm`.
pub(super) fn node_selector_term(errors: &mut Errors, term: &Value, path: &FieldPath) {
    for (index, requirement) in list(term, "matchExpressions").iter().enumerate() {
        node_requirement(
            errors,
            requirement,
            &path.child("matchExpressions").index(index),
        );
        let key = str_at(requirement, "key");
        let at = path.child("matchExpressions").index(index).child("key");
        for detail in qualified_name_errors(key) {
            errors.push(FieldError::invalid(&at, key, detail));
        }
    }
    for (index, requirement) in list(term, "matchFields").iter().enumerate() {
        let at = path.child("matchFields").index(index);
        if list(requirement, "values").len() != 1 {
            errors.push(FieldError::required(
                &at.child("values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            ));
        }
        if str_at(requirement, "key") != "metadata.name" {
            errors.push(FieldError::invalid(
                &at.child("key"),
                str_at(requirement, "key"),
                "not a valid field selector key",
            ));
        }
    }
}

fn node_requirement(errors: &mut Errors, requirement: &Value, path: &FieldPath) {
    let values = list(requirement, "values");
    match str_at(requirement, "operator") {
        "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
            &path.child("values"),
            "must be specified when `operator` is 'In' or 'NotIn'",
        )),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
            &path.child("values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        )),
        "Gt" | "Lt" if values.len() != 1 => errors.push(FieldError::required(
            &path.child("values"),
            "must be specified single value when `operator` is 'Lt' or 'Gt'",
        )),
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(FieldError::invalid(
            &path.child("operator"),
            other,
            "not a valid selector operator",
        )),
    }
}
