//! What a CustomResourceDefinition says beside its names and schemas.

use std::collections::BTreeSet;

use coracle_machinery::object::annotation;
use coracle_machinery::{FieldError, FieldPath};
use serde_json::Value;

use super::{Errors, given, list, str_at, too_many};

/// Who approved an API of a group of the Kubernetes community.
const APPROVED: &str = "api-approved.kubernetes.io";
/// Upstream's bounds.
const MAX_SELECTABLE_FIELDS: usize = 8;
const MAX_DEPRECATION_WARNING: usize = 256;

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = [
    "byte",
    "date",
    "date-time",
    "double",
    "float",
    "int32",
    "int64",
    "password",
];
const RULE_REASONS: [&str; 4] = [
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];
/// The paths of a scale: the field, where it must lead and how that is called.
const SCALE_PATHS: [(&str, &[&str], &str); 3] = [
    ("specReplicasPath", &[".spec."], ".spec"),
    ("statusReplicasPath", &[".status."], ".status"),
    (
        "labelSelectorPath",
        &[".spec.", ".status."],
        "either .spec or .status",
    ),
];

/// Approval, and that fields are pruned.
pub(super) fn approval_and_pruning(errors: &mut Errors, definition: &Value) {
    let spec = &definition["spec"];
    if spec["preserveUnknownFields"] == true {
        let at = FieldPath::new("spec").child("preserveUnknownFields");
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid(&at, true, detail));
    }
    let group = format!(".{}", str_at(spec, "group"));
    if !group.ends_with(".k8s.io") && !group.ends_with(".kubernetes.io") {
        return;
    }
    let at = FieldPath::new("metadata")
        .child("annotations")
        .key(APPROVED);
    let note = annotation(definition, APPROVED).unwrap_or_default();
    let must = format!("protected groups must have approval annotation \"{APPROVED}\"");
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    if note.is_empty() {
        errors.push(FieldError::required(&at, format!("{must}, {see}")));
    } else if !note.starts_with("unapproved") && !is_url(note) {
        let detail =
            format!("{must} with either a URL or a reason starting with \"unapproved\", {see}");
        errors.push(FieldError::invalid(&at, note, detail));
    }
}

/// True for a scheme and a host.
fn is_url(text: &str) -> bool {
    text.parse::<http::Uri>()
        .is_ok_and(|uri| uri.scheme().is_some() && uri.host().is_some_and(|h| !h.is_empty()))
}

/// What a version of a definition has beside its schema.
pub(super) fn version(errors: &mut Errors, version: &Value, path: &FieldPath) {
    deprecation(errors, version, path);
    let scale = &version["subresources"]["scale"];
    if scale.is_object() {
        let at = path.child("subresources");
        for (key, prefixes, place) in SCALE_PATHS {
            let at = at.child("scale").child(key);
            let text = str_at(scale, key);
            if text.is_empty() {
                if key != "labelSelectorPath" {
                    errors.push(FieldError::required(&at, ""));
                }
            } else if simple_path(errors, text, &at)
                && !prefixes.iter().any(|prefix| text.starts_with(prefix))
            {
                let detail = format!("should be a json path under {place}");
                errors.push(FieldError::invalid(&at, text, detail));
            }
        }
    }
    for (index, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
        column_rules(
            errors,
            column,
            &path.child("additionalPrinterColumns").index(index),
        );
    }
    selectable_fields(errors, version, path);
    let at = path.child("schema").child("openAPIV3Schema");
    rule_texts(errors, &version["schema"]["openAPIV3Schema"], at);
}

/// The texts of `x-kubernetes-validations` beside the expressions, in a schema
/// and all those below.
fn rule_texts(errors: &mut Errors, schema: &Value, path: FieldPath) {
    let mut left = vec![(schema, path)];
    while let Some((schema, path)) = left.pop() {
        let rules = list(schema, "x-kubernetes-validations").iter().enumerate();
        for (index, rule) in rules {
            let at = path.child("x-kubernetes-validations").index(index);
            one_rule(errors, rule, &at);
        }
        let properties = schema["properties"].as_object().into_iter().flatten();
        let at = path.child("properties");
        left.extend(properties.map(|(name, schema)| (schema, at.key(name))));
        for key in ["items", "additionalProperties"] {
            if schema[key].is_object() {
                left.push((&schema[key], path.child(key)));
            }
        }
    }
}

fn one_rule(errors: &mut Errors, rule: &Value, path: &FieldPath) {
    let breaks = |text: &str| text.contains(['\n', '\r']);
    let (message, at) = (str_at(rule, "message"), path.child("message"));
    if !message.is_empty() && message.trim().is_empty() {
        let detail = "must be non-empty if specified";
        errors.push(FieldError::invalid(&at, message, detail));
    } else if breaks(message.trim()) {
        let detail = "must not contain line breaks";
        errors.push(FieldError::invalid(&at, message, detail));
    } else if breaks(str_at(rule, "rule").trim()) && message.is_empty() {
        let detail = "message must be specified if rule contains line breaks";
        errors.push(FieldError::required(&at, detail));
    }
    let by_expression = str_at(rule, "messageExpression");
    if !by_expression.is_empty() && by_expression.trim().is_empty() {
        let detail = "messageExpression must be non-empty if specified";
        errors.push(FieldError::required(
            &path.child("messageExpression"),
            detail,
        ));
    }
    if let Some(reason) = rule["reason"].as_str()
        && !RULE_REASONS.contains(&reason)
    {
        let at = path.child("reason");
        errors.push(FieldError::not_supported(&at, reason, &RULE_REASONS));
    }
    let (field, at) = (str_at(rule, "fieldPath"), path.child("fieldPath"));
    if !field.is_empty() && field.trim().is_empty() {
        let detail = "must be non-empty if specified";
        errors.push(FieldError::invalid(&at, field, detail));
    } else if breaks(field) {
        let detail = "must not contain line breaks";
        errors.push(FieldError::invalid(&at, field, detail));
    }
}

fn deprecation(errors: &mut Errors, version: &Value, path: &FieldPath) {
    let Some(warning) = version["deprecationWarning"].as_str() else {
        return;
    };
    let at = path.child("deprecationWarning");
    let mut wrong = |detail: String| errors.push(FieldError::invalid(&at, warning, detail));
    if version["deprecated"] != true {
        wrong("can only be set for deprecated versions".to_owned());
        return;
    }
    if warning.len() > MAX_DEPRECATION_WARNING {
        wrong(format!(
            "must be <= {MAX_DEPRECATION_WARNING} characters long"
        ));
    }
    if warning.is_empty() {
        wrong("must not be an empty string".to_owned());
    }
    if let Some((index, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        wrong(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {index}"
        ));
    }
}

/// True for a path that starts with a dot; an error otherwise.
fn simple_path(errors: &mut Errors, text: &str, path: &FieldPath) -> bool {
    if !text.starts_with('.') {
        let detail = "must be a simple json path starting with .";
        errors.push(FieldError::invalid(path, text, detail));
    }
    text.starts_with('.')
}

fn column_rules(errors: &mut Errors, column: &Value, path: &FieldPath) {
    if str_at(column, "name").is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    let (kind, format) = (str_at(column, "type"), str_at(column, "format"));
    let detail = format!("must be one of {}", COLUMN_TYPES.join(","));
    if kind.is_empty() {
        errors.push(FieldError::required(&path.child("type"), detail));
    } else if !COLUMN_TYPES.contains(&kind) {
        errors.push(FieldError::invalid(&path.child("type"), kind, detail));
    }
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        let detail = format!("must be one of {}", COLUMN_FORMATS.join(","));
        errors.push(FieldError::invalid(&path.child("format"), format, detail));
    }
    // Upstream's name for it, in errors alone.
    let at = path.child("JSONPath");
    match str_at(column, "jsonPath") {
        "" => errors.push(FieldError::required(&at, "")),
        text => {
            simple_path(errors, text, &at);
        }
    }
}

fn selectable_fields(errors: &mut Errors, version: &Value, path: &FieldPath) {
    let at = path.child("selectableFields");
    let schema = &version["schema"]["openAPIV3Schema"];
    let fields = list(version, "selectableFields");
    let mut seen = BTreeSet::new();
    for (index, field) in fields.iter().enumerate() {
        let at = at.index(index).child("jsonPath");
        let text = str_at(field, "jsonPath");
        if text.is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        let found = match field_at(schema, text) {
            Ok(found) => found,
            Err(why) => {
                let detail = format!("is an invalid path: {why}");
                errors.push(FieldError::invalid(&at, text, detail));
                continue;
            }
        };
        if text == ".metadata" || text.starts_with(".metadata.") {
            let detail = "must not point to fields in metadata";
            errors.push(FieldError::invalid(&at, text, detail));
        }
        if !matches!(str_at(found, "type"), "string" | "boolean" | "integer") {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.push(FieldError::invalid(&at, text, detail));
        }
        if !seen.insert(text) {
            errors.push(FieldError::duplicate(&at, text));
        }
    }
    if seen.len() > MAX_SELECTABLE_FIELDS {
        too_many(errors, fields, MAX_SELECTABLE_FIELDS, &at);
    }
}

/// The schema of the field that a path such as `.spec.size` leads to.
fn field_at<'a>(schema: &'a Value, path: &str) -> Result<&'a Value, String> {
    if path.contains('[') {
        return Err("array notation is not allowed".to_owned());
    }
    let Some(path) = path.strip_prefix('.') else {
        let word = path.split('.').next().unwrap_or_default();
        return Err(format!("expected [ or . but got: {word}"));
    };
    let mut schema = schema;
    for name in path.split('.') {
        if name.is_empty() {
            return Err("unexpected end of JSON path".to_owned());
        }
        schema = match (&schema["properties"], &schema["additionalProperties"]) {
            (properties, _) if given(properties, name) => &properties[name],
            (Value::Null, values @ Value::Object(_)) => values,
            _ => return Err("does not refer to a valid field".to_owned()),
        };
    }
    Ok(schema)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(edit: Value) -> Vec<String> {
        let mut one = json!({"schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "size": {"type": "string"},
                "list": {"type": "array", "items": {"type": "string"}},
            }},
        }}}});
        for (key, value) in edit.as_object().expect("a map") {
            one[key] = value.clone();
        }
        let mut errors = Vec::new();
        version(&mut errors, &one, &FieldPath::new("v"));
        errors.iter().map(ToString::to_string).collect()
    }

    fn with_rule(rule: Value) -> Vec<String> {
        texts(
            json!({"schema": {"openAPIV3Schema": {"properties": {"a": {"x-kubernetes-validations": [rule]}}}}}),
        )
    }

    #[test]
    fn valid_versions_pass() {
        let valid = json!({
            "deprecated": true, "deprecationWarning": "use v2",
            "subresources": {"status": {}, "scale": {
                "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector",
            }},
            "additionalPrinterColumns": [
                {"name": "A", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                {"name": "B", "type": "integer", "format": "int32", "jsonPath": ".spec.list[0]"},
            ],
            "selectableFields": [{"jsonPath": ".spec.size"}],
        });
        assert!(texts(valid).is_empty());
        let several_lines =
            json!({"rule": "a\n&& b", "message": "m", "reason": "FieldValueForbidden"});
        assert!(with_rule(several_lines).is_empty());
    }

    #[test]
    fn errors_read_like_upstream() {
        let column = |column: Value| texts(json!({"additionalPrinterColumns": [column]}));
        let selectable = |path: &str| texts(json!({"selectableFields": [{"jsonPath": path}]}));
        for (found, expected) in [
            (
                texts(
                    json!({"subresources": {"scale": {"specReplicasPath": "spec.x", "statusReplicasPath": ".spec.y"}}}),
                ),
                vec![
                    "v.subresources.scale.specReplicasPath: Invalid value: \"spec.x\": must be a simple json path starting with .",
                    "v.subresources.scale.statusReplicasPath: Invalid value: \".spec.y\": should be a json path under .status",
                ],
            ),
            (
                column(json!({"name": "A", "type": "foo", "jsonPath": "x"})),
                vec![
                    "v.additionalPrinterColumns[0].type: Invalid value: \"foo\": must be one of boolean,date,integer,number,string",
                    "v.additionalPrinterColumns[0].JSONPath: Invalid value: \"x\": must be a simple json path starting with .",
                ],
            ),
            (
                selectable(".spec.b"),
                vec![
                    "v.selectableFields[0].jsonPath: Invalid value: \".spec.b\": is an invalid path: does not refer to a valid field",
                ],
            ),
            (
                selectable(".spec.list"),
                vec![
                    "v.selectableFields[0].jsonPath: Invalid value: \".spec.list\": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
                ],
            ),
            (
                texts(json!({"deprecationWarning": "x"})),
                vec![
                    "v.deprecationWarning: Invalid value: \"x\": can only be set for deprecated versions",
                ],
            ),
            (
                with_rule(json!({"rule": "a\n&& b"})),
                vec![
                    "v.schema.openAPIV3Schema.properties[a].x-kubernetes-validations[0].message: Required value: message must be specified if rule contains line breaks",
                ],
            ),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn groups_of_the_community_need_approval() {
        let found = |note: &str| {
            let object = json!({"metadata": {"annotations": {APPROVED: note}}, "spec": {"group": "foo.k8s.io"}});
            let mut errors = Vec::new();
            approval_and_pruning(&mut errors, &object);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let at = "metadata.annotations[api-approved.kubernetes.io]";
        assert_eq!(
            found(""),
            [format!(
                "{at}: Required value: protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111"
            )]
        );
        assert!(found("x")[0].starts_with(&format!("{at}: Invalid value: \"x\": ")));
        assert!(found("unapproved, an experiment").is_empty());
        assert!(found("https://github.com/kubernetes/enhancements/pull/1").is_empty());
        let mut errors = Vec::new();
        let object = json!({"spec": {"group": "example.com", "preserveUnknownFields": true}});
        approval_and_pruning(&mut errors, &object);
        assert_eq!(errors.len(), 1);
    }
}
