//! The rules that make the schema of a CustomResourceDefinition structural:
//! every place has one type, and logic only limits values.

use serde_json::Value;

use crate::field::{FieldError, FieldPath};

/// Where in a schema a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The whole object.
    Root,
    /// A named field.
    Property,
    /// The items of a list.
    Items,
    /// The values of a map.
    Values,
    /// Below `allOf`, `anyOf`, `oneOf` or `not`.
    Logic,
}

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];

/// What the API does not support, and what it says of that.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("$ref", "$ref is not supported"),
    ("additionalItems", "additionalItems is not supported"),
    ("definitions", "definitions is not supported"),
    ("dependencies", "dependencies is not supported"),
    ("id", "id is not supported"),
    ("patternProperties", "patternProperties is not supported"),
];

/// What may not stand below logic.
const STRUCTURE_ONLY: &[&str] = &[
    "additionalProperties",
    "default",
    "description",
    "nullable",
    "title",
    "type",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
];

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool) == Some(true)
}

fn has(schema: &Value, key: &str) -> bool {
    schema
        .get(key)
        .is_some_and(|v| !v.is_null() && *v != Value::Bool(false) && v.as_str() != Some(""))
}

/// Checks one node; the caller descends.
pub fn check(schema: &Value, path: &FieldPath, place: Place, errors: &mut Vec<FieldError>) {
    if !schema.is_object() {
        errors.push(FieldError::invalid(
            path,
            schema.clone(),
            "must be a schema object",
        ));
        return;
    }
    for (key, why) in UNSUPPORTED.iter().filter(|(key, _)| has(schema, key)) {
        errors.push(FieldError::forbidden(&path.child(key), *why));
    }
    if flag(schema, "uniqueItems") {
        let why =
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(&path.child("uniqueItems"), why));
    }
    if schema.get("items").is_some_and(Value::is_array) {
        let why = "items must be a schema object and not an array";
        errors.push(FieldError::forbidden(&path.child("items"), why));
    }
    if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
        let why = "additionalProperties cannot be set to false";
        errors.push(FieldError::forbidden(
            &path.child("additionalProperties"),
            why,
        ));
    }
    if place == Place::Logic {
        check_logic(schema, path, errors);
    } else {
        check_structure(schema, path, place, errors);
    }
}

fn check_logic(schema: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    for key in STRUCTURE_ONLY {
        // The two ways to say "integer or string" are the exception; the node
        // above has checked them.
        let is_choice = *key == "type"
            && schema.as_object().is_some_and(|map| map.len() == 1)
            && matches!(schema["type"].as_str(), Some("integer" | "string"));
        if has(schema, key) && !is_choice {
            let why = "must be empty to be structural";
            errors.push(FieldError::forbidden(&path.child(key), why));
        }
    }
}

fn check_structure(schema: &Value, path: &FieldPath, place: Place, errors: &mut Vec<FieldError>) {
    let int_or_string = flag(schema, "x-kubernetes-int-or-string");
    let preserve = flag(schema, "x-kubernetes-preserve-unknown-fields");
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    let ty = schema
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let at = path.child("type");
    match (ty, place) {
        ("", Place::Root) => {
            errors.push(FieldError::required(&at, "must not be empty at the root"))
        }
        ("", _) if int_or_string || (preserve && !embedded) => {}
        ("", _) => {
            let what = match place {
                Place::Items => "specified array items",
                Place::Values => "specified object values",
                _ => "specified object fields",
            };
            let why = format!("must not be empty for {what}");
            errors.push(FieldError::required(&at, why));
        }
        ("object", _) => {}
        (_, Place::Root) => errors.push(FieldError::invalid(&at, ty, "must be object at the root")),
        (_, _) if int_or_string => {
            let why = "must be empty if x-kubernetes-int-or-string is true";
            errors.push(FieldError::invalid(&at, ty, why));
        }
        (_, _) if !TYPES.contains(&ty) => errors.push(FieldError::not_supported(&at, ty, TYPES)),
        (_, _) if embedded => {
            let why = "must be object if x-kubernetes-embedded-resource is true";
            errors.push(FieldError::invalid(&at, ty, why));
        }
        _ => {}
    }
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        let at = path.child("x-kubernetes-preserve-unknown-fields");
        errors.push(FieldError::invalid(&at, false, "must be true or undefined"));
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    if embedded && !preserve && properties.is_none_or(serde_json::Map::is_empty) {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without \
                   x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(&path.child("properties"), why));
    }
    if properties.is_some_and(|p| !p.is_empty()) && has(schema, "additionalProperties") {
        let why = "additionalProperties and properties are mutual exclusive";
        errors.push(FieldError::forbidden(
            &path.child("additionalProperties"),
            why,
        ));
    }
    if ty == "array" && !has(schema, "items") {
        errors.push(FieldError::required(
            &path.child("items"),
            "must be specified",
        ));
    }
    if place == Place::Root {
        check_metadata(properties.and_then(|p| p.get("metadata")), path, errors);
    }
    check_merge_facts(schema, path, ty, errors);
    for key in ["allOf", "anyOf", "oneOf"] {
        let list = schema.get(key).and_then(Value::as_array);
        for (index, logic) in list.into_iter().flatten().enumerate() {
            let at = path.child(key).index(index);
            check_typed_choice(logic, &at, key == "anyOf" && int_or_string, errors);
            check_covered(logic, &at, schema, path, errors);
        }
    }
    if let Some(logic) = schema.get("not") {
        check_typed_choice(logic, &path.child("not"), false, errors);
        check_covered(logic, &path.child("not"), schema, path, errors);
    }
}

/// A bare `type` below logic is good only as the choice of int-or-string.
fn check_typed_choice(
    logic: &Value,
    path: &FieldPath,
    allowed: bool,
    errors: &mut Vec<FieldError>,
) {
    let alone = logic.as_object().is_some_and(|map| map.len() == 1);
    if alone && matches!(logic["type"].as_str(), Some("integer" | "string")) && !allowed {
        let why = "must be empty to be structural";
        errors.push(FieldError::forbidden(&path.child("type"), why));
    }
}

/// Of `metadata` only the name may be limited.
fn check_metadata(metadata: Option<&Value>, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let Some(metadata) = metadata.and_then(Value::as_object) else {
        return;
    };
    let at = path.child("properties").key("metadata");
    let properties = metadata.get("properties").and_then(Value::as_object);
    let other = metadata
        .keys()
        .any(|k| !matches!(k.as_str(), "type" | "properties" | "description"))
        || properties
            .into_iter()
            .flatten()
            .any(|(name, _)| name != "name" && name != "generateName");
    if other {
        let why = "must not specify anything other than name and generateName, but metadata is \
                   implicitly specified";
        errors.push(FieldError::forbidden(&at, why));
    }
}

fn check_merge_facts(schema: &Value, path: &FieldPath, ty: &str, errors: &mut Vec<FieldError>) {
    let list_type = schema.get("x-kubernetes-list-type").and_then(Value::as_str);
    let at = path.child("x-kubernetes-list-type");
    match list_type {
        None => {}
        Some("atomic" | "set" | "map") if ty != "array" => {
            let why = "must be array if x-kubernetes-list-type is specified";
            errors.push(FieldError::invalid(&path.child("type"), ty, why));
        }
        Some("atomic") => {}
        Some("set") => {
            let items = schema.get("items").unwrap_or(&Value::Null);
            let scalar = !matches!(items["type"].as_str(), Some("object" | "array"));
            let atomic = items["x-kubernetes-map-type"] == "atomic"
                || items["x-kubernetes-list-type"] == "atomic";
            if !scalar && !atomic {
                let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
                errors.push(FieldError::forbidden(&path.child("items"), why));
            }
        }
        Some("map") => {
            if !has(schema, "x-kubernetes-list-map-keys") {
                let why = "must not be empty if x-kubernetes-list-type is map";
                errors.push(FieldError::required(
                    &path.child("x-kubernetes-list-map-keys"),
                    why,
                ));
            }
            if schema.pointer("/items/type").and_then(Value::as_str) != Some("object") {
                let why = "must be object if parent array's x-kubernetes-list-type is map";
                let at = path.child("items").child("type");
                errors.push(FieldError::invalid(&at, Value::Null, why));
            }
        }
        Some(other) => {
            errors.push(FieldError::not_supported(
                &at,
                other,
                &["atomic", "map", "set"],
            ));
        }
    }
    if has(schema, "x-kubernetes-list-map-keys") && list_type != Some("map") {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(FieldError::invalid(&at, list_type.unwrap_or_default(), why));
    }
    match schema.get("x-kubernetes-map-type").and_then(Value::as_str) {
        None => {}
        Some("granular" | "atomic") if ty == "object" => {}
        Some("granular" | "atomic") => {
            let why = "must be object if x-kubernetes-map-type is specified";
            errors.push(FieldError::invalid(&path.child("type"), ty, why));
        }
        Some(other) => errors.push(FieldError::not_supported(
            &path.child("x-kubernetes-map-type"),
            other,
            &["atomic", "granular"],
        )),
    }
}

/// What logic speaks of must have a type outside of it.
fn check_covered(
    logic: &Value,
    logic_path: &FieldPath,
    schema: &Value,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let properties = logic.get("properties").and_then(Value::as_object);
    for (name, below) in properties.into_iter().flatten() {
        let logic_at = logic_path.child("properties").key(name);
        let at = path.child("properties").key(name);
        match schema.get("properties").and_then(|p| p.get(name)) {
            Some(outer) => check_covered(below, &logic_at, outer, &at, errors),
            None => {
                let why = format!("because it is defined in {logic_at}");
                errors.push(FieldError::required(&at, why));
            }
        }
    }
    if let Some(below) = logic.get("items") {
        let (logic_at, at) = (logic_path.child("items"), path.child("items"));
        match schema.get("items") {
            Some(outer) => check_covered(below, &logic_at, outer, &at, errors),
            None => {
                let why = format!("because it is defined in {logic_at}");
                errors.push(FieldError::required(&at, why));
            }
        }
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        let list = logic.get(key).and_then(Value::as_array);
        for (index, below) in list.into_iter().flatten().enumerate() {
            check_covered(
                below,
                &logic_path.child(key).index(index),
                schema,
                path,
                errors,
            );
        }
    }
    if let Some(below) = logic.get("not") {
        check_covered(below, &logic_path.child("not"), schema, path, errors);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use crate::patch::any_json;
    use crate::schema::{FieldValidation, Schema, builtin, decode_value};

    fn faults(spec: serde_json::Value) -> Vec<String> {
        let schema = json!({"type": "object", "properties": {"spec": spec}});
        let prefix = "spec.validation.openAPIV3Schema.properties[spec].";
        match Schema::from_crd(&schema) {
            Ok(_) => Vec::new(),
            Err(errors) => errors
                .iter()
                .map(|e| e.to_string().replace(prefix, "~"))
                .collect(),
        }
    }

    #[test]
    fn good_schemas_compile() {
        for spec in [
            json!({"type": "object"}),
            json!({"x-kubernetes-preserve-unknown-fields": true}),
            json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}),
            json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                "oneOf": [{"required": ["a"]}, {"required": ["b"], "properties": {"b": {"minLength": 2}}}]}),
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
                "items": {"type": "object", "required": ["n"], "properties": {"n": {"type": "string"}}}}),
        ] {
            assert_eq!(faults(spec.clone()), Vec::<String>::new(), "{spec}");
        }
    }

    #[test]
    fn faults_are_named() {
        for (spec, fault) in [
            (
                json!({}),
                "~type: Required value: must not be empty for specified object fields",
            ),
            (
                json!({"type": "thing"}),
                "~type: Unsupported value: \"thing\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
            ),
            (
                json!({"type": "array"}),
                "~items: Required value: must be specified",
            ),
            (
                json!({"type": "string", "pattern": "("}),
                "~pattern: Invalid value: \"(\": must be a valid regular expression",
            ),
            (
                // A pattern that would take gigabytes.
                json!({"type": "string", "pattern": "((a{900}){900}){900}"}),
                "~pattern: Invalid value: \"((a{900}){900}){900}\": must be a valid regular expression",
            ),
            (
                json!({"type": "object", "allOf": [{"properties": {"x": {}}}]}),
                "~properties[x]: Required value: because it is defined in ~allOf[0].properties[x]",
            ),
            (
                json!({"type": "object", "anyOf": [{"type": "object", "description": "d"}]}),
                "~anyOf[0].description: Forbidden: must be empty to be structural",
            ),
            (
                json!({"type": "integer", "default": "x"}),
                "~default: Invalid value: \"string\"",
            ),
            (
                json!({"type": "object", "default": {"x": 1}}),
                "~default: Invalid value: {\"x\":1}: must not have unspecified fields",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
                "~additionalProperties: Forbidden",
            ),
            (
                json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"]}),
                "~x-kubernetes-list-map-keys: Invalid value: \"n\": entries must all be names",
            ),
            (
                json!({"type": "string", "uniqueItems": true}),
                "~uniqueItems: Forbidden",
            ),
        ] {
            let faults = faults(spec.clone());
            assert!(
                faults.iter().any(|f| f.starts_with(fault)),
                "{spec}: {faults:?}"
            );
        }
        assert!(Schema::from_crd(&json!({"type": "string"})).is_err());
        assert!(Schema::from_crd(&json!(null)).is_err());
        let mut deep = json!({"type": "string"});
        for _ in 0..100 {
            deep = json!({"type": "array", "items": deep});
        }
        assert!(!faults(deep).is_empty());
    }

    /// JSON that looks like a schema, good or bad.
    fn any_schema() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any_json(),
            "object|array|string|integer|number|boolean|odd".prop_map(|t| json!({"type": t})),
            Just(json!({"x-kubernetes-preserve-unknown-fields": true})),
            Just(json!({"x-kubernetes-int-or-string": true})),
            any_json().prop_map(|d| json!({"type": "string", "default": d, "pattern": "a+"})),
        ];
        leaf.prop_recursive(4, 32, 4, |below| {
            let map = prop::collection::hash_map("[a-c]", below.clone(), 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect()));
            let list = prop::collection::vec(below.clone(), 0..3).prop_map(Value::from);
            prop_oneof![
                map.prop_map(|p| json!({"type": "object", "properties": p, "required": ["a"]})),
                below
                    .clone()
                    .prop_map(|v| json!({"type": "object", "additionalProperties": v})),
                (below.clone(), "set|map|atomic").prop_map(|(items, ty)| json!({
                    "type": "array", "items": items, "x-kubernetes-list-type": ty,
                    "x-kubernetes-list-map-keys": ["a"]})),
                below
                    .clone()
                    .prop_map(|items| json!({"type": "array", "items": items})),
                ("anyOf|oneOf|allOf", list)
                    .prop_map(|(key, list)| json!({"type": "object", key: list})),
                below.prop_map(|not| json!({"type": "object", "not": not})),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_schema_and_no_object_panics(spec in any_schema(), object in any_json()) {
            let schema = json!({"type": "object", "properties": {"a": spec.clone(), "b": spec}});
            let compiled = Schema::from_crd(&schema);
            let compiled = compiled.unwrap_or_else(|_| Schema::free_object());
            let _ = decode_value(object.clone(), Some(&compiled), FieldValidation::Strict);
            let mut once = object;
            compiled.prune(&mut once);
            compiled.default(&mut once);
            let mut twice = once.clone();
            compiled.prune(&mut twice);
            compiled.default(&mut twice);
            prop_assert_eq!(&twice, &once);
            let _ = (compiled.validate(&once, None), compiled.to_openapi_v3(), compiled.to_openapi_v2());
        }

        #[test]
        fn no_body_of_a_built_in_kind_panics(spec in any_json(), meta in any_json()) {
            let pod = crate::gvk::GroupVersionKind::new("", "v1", "Pod");
            let body = json!({"metadata": {"labels": meta, "finalizers": spec}, "spec": {"containers": spec}});
            let _ = decode_value(body, builtin().kind(&pod).as_ref(), FieldValidation::Warn);
        }
    }
}
