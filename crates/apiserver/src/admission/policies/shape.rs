//! What a policy says beside its expressions.

use std::collections::BTreeSet;

use coracle_machinery::names::{
    dns1035_label_errors, dns1123_subdomain_errors, qualified_name_errors,
};
use coracle_machinery::object::{items, name, text};
use coracle_machinery::{FieldError, FieldErrorKind, FieldPath, GroupVersion};
use serde_json::Value;

const REASONS: &[&str] = &[
    "Forbidden",
    "Invalid",
    "RequestEntityTooLarge",
    "Unauthorized",
];
/// Upstream's bounds.
const MAX_CONDITIONS: usize = 64;
const MAX_AUDIT_ANNOTATIONS: usize = 20;

/// Errors of a policy that is being written, but for its expressions.
pub(super) fn errors(policy: &Value, mutating: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &policy["spec"];
    let path = FieldPath::new("spec");
    let failure = text(spec, "/failurePolicy");
    let known = ["Fail", "Ignore"];
    if !known.contains(&failure) {
        let at = path.child("failurePolicy");
        errors.push(FieldError::not_supported(&at, failure, &known));
    }
    if spec["paramKind"].is_object() {
        param_kind(&mut errors, &spec["paramKind"], &path.child("paramKind"));
    }
    let constraints = path.child("matchConstraints");
    if !spec["matchConstraints"].is_object() {
        errors.push(FieldError::required(&constraints, ""));
    } else if items(spec, "/matchConstraints/resourceRules").is_empty() {
        errors.push(FieldError::required(
            &constraints.child("resourceRules"),
            "",
        ));
    }
    conditions(&mut errors, spec, &path.child("matchConditions"));
    variables(&mut errors, spec, &path.child("variables"));
    if !mutating {
        validations(&mut errors, spec, &path.child("validations"));
        annotations(&mut errors, policy, &path.child("auditAnnotations"));
    }
    errors
}

fn param_kind(errors: &mut Vec<FieldError>, kind: &Value, path: &FieldPath) {
    let (version, word) = (text(kind, "/apiVersion"), text(kind, "/kind"));
    let at = path.child("apiVersion");
    if version.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else if version.matches('/').count() > 1 {
        let detail = format!("unexpected GroupVersion string: {version}");
        errors.push(FieldError::invalid(&at, version, detail));
    } else {
        let parsed = GroupVersion::parse(version);
        let (group, number) = (parsed.group.as_ref(), parsed.version.as_ref());
        if !group.is_empty() {
            joined(errors, &at, group, "", &dns1123_subdomain_errors(group));
        }
        if number.is_empty() {
            errors.push(FieldError::invalid(
                &at,
                version,
                "version must be specified",
            ));
        } else {
            joined(errors, &at, number, "", &dns1035_label_errors(number));
        }
    }
    let at = path.child("kind");
    if word.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        let before = "may have mixed case, but should otherwise match: ";
        joined(
            errors,
            &at,
            word,
            before,
            &dns1035_label_errors(&word.to_lowercase()),
        );
    }
}

/// One error of all that is wrong with a text.
fn joined(errors: &mut Vec<FieldError>, at: &FieldPath, value: &str, before: &str, why: &[String]) {
    if !why.is_empty() {
        let detail = format!("{before}{}", why.join(","));
        errors.push(FieldError::invalid(at, value, detail));
    }
}

fn conditions(errors: &mut Vec<FieldError>, spec: &Value, path: &FieldPath) {
    let conditions = items(spec, "/matchConditions");
    if conditions.len() > MAX_CONDITIONS {
        errors.push(FieldError {
            kind: FieldErrorKind::TooMany,
            path: path.clone(),
            value: Some(conditions.len().into()),
            detail: format!("must have at most {MAX_CONDITIONS} items"),
        });
    }
    let mut seen = BTreeSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let at = path.index(index);
        if text(condition, "/expression").trim().is_empty() {
            errors.push(FieldError::required(&at.child("expression"), ""));
        }
        let name = text(condition, "/name");
        let at = at.child("name");
        if name.is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        let wrong = qualified_name_errors(name).into_iter();
        errors.extend(wrong.map(|why| FieldError::invalid(&at, name, why)));
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at, name));
        }
    }
}

fn variables(errors: &mut Vec<FieldError>, spec: &Value, path: &FieldPath) {
    for (index, variable) in items(spec, "/variables").iter().enumerate() {
        let at = path.index(index);
        let name = text(variable, "/name");
        if name.trim().is_empty() {
            errors.push(FieldError::required(
                &at.child("name"),
                "name is not specified",
            ));
        } else if !is_identifier(name) {
            let detail = "name is not a valid CEL identifier";
            errors.push(FieldError::invalid(&at.child("name"), name, detail));
        }
        if text(variable, "/expression").trim().is_empty() {
            let detail = "expression is not specified";
            errors.push(FieldError::required(&at.child("expression"), detail));
        }
    }
}

fn is_identifier(name: &str) -> bool {
    let start = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(start) && name.chars().all(|c| start(c) || c.is_ascii_digit())
}

fn validations(errors: &mut Vec<FieldError>, spec: &Value, path: &FieldPath) {
    for (index, validation) in items(spec, "/validations").iter().enumerate() {
        let at = path.index(index);
        if text(validation, "/expression").trim().is_empty() {
            let detail = "expression is not specified";
            errors.push(FieldError::required(&at.child("expression"), detail));
        }
        let message = text(validation, "/message");
        let detail = match message.trim() {
            "" if !message.is_empty() => "message must be non-empty if specified",
            trimmed if trimmed.contains(['\n', '\r']) => "message must not contain line breaks",
            _ => "",
        };
        if !detail.is_empty() {
            errors.push(FieldError::invalid(&at.child("message"), message, detail));
        }
        let by_expression = text(validation, "/messageExpression");
        if !by_expression.is_empty() && by_expression.trim().is_empty() {
            let at = at.child("messageExpression");
            let detail = "must be non-empty if specified";
            errors.push(FieldError::invalid(&at, by_expression, detail));
        }
        if let Some(reason) = validation["reason"].as_str()
            && !REASONS.contains(&reason)
        {
            errors.push(FieldError::not_supported(
                &at.child("reason"),
                reason,
                REASONS,
            ));
        }
    }
}

fn annotations(errors: &mut Vec<FieldError>, policy: &Value, path: &FieldPath) {
    let annotations = items(policy, "/spec/auditAnnotations");
    if annotations.len() > MAX_AUDIT_ANNOTATIONS {
        let detail = format!("must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations");
        errors.push(FieldError::invalid(path, annotations.to_vec(), detail));
    }
    let mut seen = BTreeSet::new();
    for (index, annotation) in annotations.iter().enumerate() {
        let at = path.index(index);
        let key = text(annotation, "/key");
        let whole = format!("{}/{key}", name(policy));
        let at_key = at.child("key");
        let wrong = qualified_name_errors(&whole).into_iter();
        errors.extend(wrong.map(|why| FieldError::invalid(&at_key, whole.as_str(), why)));
        if !seen.insert(key) {
            errors.push(FieldError::duplicate(&at_key, key));
        }
        if text(annotation, "/valueExpression").trim().is_empty() {
            let detail = "valueExpression is not specified";
            errors.push(FieldError::required(&at.child("valueExpression"), detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(edit: Value) -> Vec<String> {
        let mut spec = json!({
            "failurePolicy": "Fail", "matchConstraints": {"resourceRules": [{}]},
            "validations": [{"expression": "true", "message": "a", "reason": "Invalid"}],
        });
        for (key, value) in edit.as_object().expect("a map") {
            spec[key] = value.clone();
        }
        let policy = json!({"metadata": {"name": "p.example.com"}, "spec": spec});
        errors(&policy, false)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn valid_policies_pass() {
        let valid = json!({
            "paramKind": {"apiVersion": "rules.example.com/v1", "kind": "ReplicaLimit"},
            "matchConditions": [{"name": "a", "expression": "true"}, {"name": "b.c/d", "expression": "true"}],
            "variables": [{"name": "some_name2", "expression": "1"}],
            "auditAnnotations": [{"key": "high-replica-count", "valueExpression": "'x'"}],
        });
        assert!(texts(valid).is_empty());
    }

    #[test]
    fn errors_read_like_upstream() {
        for (edit, expected) in [
            (
                json!({"validations": [{"expression": "true", "reason": "Foo"}]}),
                "spec.validations[0].reason: Unsupported value: \"Foo\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\", \"Unauthorized\"",
            ),
            (
                json!({"validations": [{"expression": "true", "message": "a\nb"}]}),
                "spec.validations[0].message: Invalid value: \"a\\nb\": message must not contain line breaks",
            ),
            (
                json!({"matchConditions": [{"name": "a", "expression": "true"}, {"name": "a", "expression": "true"}]}),
                "spec.matchConditions[1].name: Duplicate value: \"a\"",
            ),
            (
                json!({"paramKind": {"apiVersion": "a/b/c", "kind": "X"}}),
                "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
            ),
            (
                json!({"variables": [{"name": "a b", "expression": "1"}]}),
                "spec.variables[0].name: Invalid value: \"a b\": name is not a valid CEL identifier",
            ),
            (
                json!({"matchConstraints": {}}),
                "spec.matchConstraints.resourceRules: Required value",
            ),
        ] {
            assert_eq!(texts(edit), [expected]);
        }
        let audit = json!({"auditAnnotations": [{"key": "a b", "valueExpression": "'x'"}]});
        assert!(texts(audit)[0].starts_with(
            "spec.auditAnnotations[0].key: Invalid value: \"p.example.com/a b\": name part must consist of"
        ));
    }
}
