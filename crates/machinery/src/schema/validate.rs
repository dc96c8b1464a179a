//! Validation of custom objects, in the words of upstream's validators.

mod changes;
mod formats;
mod limits;

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{Constraints, ListType, Schema, Type};
use crate::field::{FieldError, FieldErrorKind, FieldPath};

/// The most errors that are collected for one object.
const MAX_ERRORS: usize = 100;

/// The most schema nodes that are looked at for one object. A definition can
/// multiply the work with alternatives; an honest object needs some thousands.
const MAX_STEPS: usize = 5_000_000;

impl Schema {
    /// Errors of an object of a custom kind, and of its change from `old`,
    /// which is absent for a new object. Built-in kinds have none: their types
    /// are checked when they are decoded, their rules are elsewhere.
    ///
    /// What was there before is not found wrong again (upstream's
    /// `CRDValidationRatcheting`): a schema that became stricter would make
    /// every object of before immutable, finalizers and all.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        self.validate_at(object, old, "")
    }

    /// As `validate`, for a new value found at `path`.
    pub fn validate_below(&self, value: &Value, path: &str) -> Vec<FieldError> {
        self.validate_at(value, None, path)
    }

    fn validate_at(&self, value: &Value, old: Option<&Value>, path: &str) -> Vec<FieldError> {
        let mut validator = Validator {
            errors: Vec::new(),
            most: MAX_ERRORS,
            steps: 0,
        };
        validator.value(self, value, old, &Path::Root(path));
        let (mut errors, steps) = (validator.errors, validator.steps);
        if steps > MAX_STEPS {
            let why = "validation takes too many steps";
            errors.push(FieldError::forbidden(&FieldPath::new(path), why));
        } else if !errors.iter().any(|error| blocks_rules(error.kind)) {
            errors.extend(changes::broken_rules(self, value, old, &Path::Root(path)));
        } else if self.has_validation_rules() {
            errors.push(FieldError::invalid(
                &FieldPath::default(),
                Value::Null,
                "some validation rules were not checked because the object was invalid; \
                 correct the existing errors to complete validation",
            ));
        }
        errors
    }
}

/// True if rules cannot be evaluated beside an error: they count on values of
/// the right form and a limited size.
fn blocks_rules(kind: FieldErrorKind) -> bool {
    matches!(
        kind,
        FieldErrorKind::NotSupported
            | FieldErrorKind::Required
            | FieldErrorKind::TooLong
            | FieldErrorKind::TooMany
            | FieldErrorKind::TypeInvalid
    )
}

/// The item of a list of type map that had the same keys before. Items of
/// other lists cannot be told apart.
fn same_item<'v>(schema: &Schema, item: &Value, old: &'v Value) -> Option<&'v Value> {
    if schema.list_type() != ListType::Map {
        return None;
    }
    let mut all = old.as_array()?.iter();
    all.find(|other| {
        let mut keys = schema.list_map_keys().iter();
        keys.all(|key| item.get(key.as_ref()) == other.get(key.as_ref()))
    })
}

/// A path that is only put into words for an error.
enum Path<'a> {
    Root(&'a str),
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl Path<'_> {
    fn to_field(&self) -> FieldPath {
        match self {
            Path::Root(text) => FieldPath::new(text),
            Path::Field(parent, name) => parent.to_field().child(name),
            Path::Index(parent, index) => parent.to_field().index(*index),
        }
    }

    /// The path as it stands in messages: empty for the object itself.
    fn text(&self) -> String {
        match self {
            Path::Root(text) => (*text).to_owned(),
            other => other.to_field().to_string(),
        }
    }
}

struct Validator {
    errors: Vec<FieldError>,
    most: usize,
    steps: usize,
}

/// The name of a value's JSON type.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn has_type(ty: Type, value: &Value) -> bool {
    match ty {
        Type::Any => true,
        Type::Object => value.is_object(),
        Type::Array => value.is_array(),
        Type::String => value.is_string(),
        Type::Boolean => value.is_boolean(),
        Type::Number => value.is_number(),
        Type::Integer => is_whole(value),
        Type::IntOrString => value.is_string() || is_whole(value),
        Type::Quantity => value.is_string() || value.is_number(),
    }
}

fn is_whole(value: &Value) -> bool {
    match value {
        Value::Number(n) => n.as_f64().is_some_and(|f| !n.is_f64() || f.fract() == 0.0),
        _ => false,
    }
}

fn wanted(ty: Type) -> &'static str {
    match ty {
        Type::Any => "any",
        Type::Object => "object",
        Type::Array => "array",
        Type::String => "string",
        Type::Boolean => "boolean",
        Type::Number => "number",
        Type::Integer => "integer",
        Type::IntOrString => "integer,string",
        Type::Quantity => "string,number",
    }
}

impl Validator {
    fn full(&self) -> bool {
        self.errors.len() >= self.most || self.steps > MAX_STEPS
    }

    fn add(&mut self, error: FieldError) {
        if self.errors.len() < self.most {
            self.errors.push(error);
        }
    }

    /// `found` breaks a rule; the message starts with the path.
    fn add_invalid(&mut self, path: &Path<'_>, value: &Value, rule: &str) {
        let detail = format!("{} in body {rule}", path.text());
        self.add(FieldError::invalid(&path.to_field(), value.clone(), detail));
    }

    fn value(&mut self, schema: &Schema, value: &Value, old: Option<&Value>, path: &Path<'_>) {
        self.steps += 1;
        if self.full() || !schema.is_custom() || old == Some(value) {
            return;
        }
        if value.is_null() && (schema.nullable() || schema.kind() == Type::Any) {
            return;
        }
        if !has_type(schema.kind(), value) {
            let (found, wanted) = (type_name(value), wanted(schema.kind()));
            let text = path.text();
            let detail = format!("{text} in body must be of type {wanted}: \"{found}\"");
            let mut error = FieldError::invalid(&path.to_field(), found, detail);
            error.kind = FieldErrorKind::TypeInvalid;
            self.add(error);
            return;
        }
        if let Some(format) = schema.format()
            && !formats::matches(format, value)
        {
            let detail = format!("{} in body must be of type {format}: {value}", path.text());
            self.add(FieldError::invalid(&path.to_field(), value.clone(), detail));
        }
        match value {
            Value::Object(map) => self.object(schema, map, old, path),
            Value::Array(items) => self.array(schema, items, old, path),
            _ => {}
        }
        if let Some(constraints) = schema.constraints() {
            self.limits(constraints, value, path);
            self.logic(constraints, value, path);
        }
    }

    fn object(
        &mut self,
        schema: &Schema,
        map: &Map<String, Value>,
        old: Option<&Value>,
        path: &Path<'_>,
    ) {
        for name in schema.required() {
            if !map.contains_key(name.as_ref()) {
                self.add(FieldError::required(&path.to_field().child(name), ""));
            }
        }
        if schema.is_embedded_resource() {
            self.embedded(map, path);
        }
        for (name, value) in map {
            if let Some(below) = schema.child(name) {
                let old = old.and_then(|o| o.get(name));
                self.value(below, value, old, &Path::Field(path, name));
            }
        }
        let limits = schema.constraints().and_then(|c| c.metadata.as_ref());
        if let (Some(limits), Some(metadata)) = (limits, map.get("metadata")) {
            let old = old.and_then(|o| o.get("metadata"));
            self.value(limits, metadata, old, &Path::Field(path, "metadata"));
        }
    }

    /// An embedded resource says what it is.
    fn embedded(&mut self, map: &Map<String, Value>, path: &Path<'_>) {
        for name in ["apiVersion", "kind"] {
            let text = map.get(name).and_then(Value::as_str).unwrap_or_default();
            if text.is_empty() {
                let at = path.to_field().child(name);
                self.add(FieldError::required(&at, "must not be empty"));
            }
        }
    }

    fn array(&mut self, schema: &Schema, items: &[Value], old: Option<&Value>, path: &Path<'_>) {
        if let Some(below) = schema.items() {
            for (index, item) in items.iter().enumerate() {
                let old = old.and_then(|o| same_item(schema, item, o));
                self.value(below, item, old, &Path::Index(path, index));
            }
        }
        let keys = schema.list_map_keys();
        if schema.list_type() == ListType::Atomic {
            return;
        }
        let mut seen = HashSet::new();
        for (index, item) in items.iter().enumerate() {
            let identity = match schema.list_type() {
                ListType::Map => Value::Object(
                    keys.iter()
                        .filter_map(|k| Some((k.to_string(), item.get(k.as_ref())?.clone())))
                        .collect(),
                ),
                _ => item.clone(),
            };
            if !seen.insert(identity.to_string()) {
                let at = Path::Index(path, index).to_field();
                self.add(FieldError::duplicate(&at, identity));
            }
        }
    }

    fn logic(&mut self, constraints: &Constraints, value: &Value, path: &Path<'_>) {
        for schema in &constraints.all_of {
            self.value(schema, value, None, path);
        }
        let mut refuse = |why: String| {
            // Upstream loses the path of these: clients know them so.
            self.errors
                .push(FieldError::invalid(&FieldPath::default(), "", why));
        };
        let mut steps = 0;
        let mut count = |schemas: &[Schema]| {
            let holds = |schema: &&Schema| holds(schema, value, path, &mut steps);
            schemas.iter().filter(holds).count()
        };
        let name = path.text();
        if !constraints.any_of.is_empty() && count(&constraints.any_of) == 0 {
            refuse(format!(
                "\"{name}\" must validate at least one schema (anyOf)"
            ));
        }
        if !constraints.one_of.is_empty() {
            let found = match count(&constraints.one_of) {
                0 => "none valid".to_owned(),
                1 => String::new(),
                n => format!("{n} valid alternatives"),
            };
            if !found.is_empty() {
                let rule = "must validate one and only one schema (oneOf)";
                refuse(format!("\"{name}\" {rule}. Found {found}"));
            }
        }
        if let Some(not) = &constraints.not
            && count(std::slice::from_ref(not)) == 1
        {
            refuse(format!("\"{name}\" must not validate the schema (not)"));
        }
        self.steps += steps;
    }
}

/// True if a value passes; adds what the check cost to `steps`.
fn holds(schema: &Schema, value: &Value, path: &Path<'_>, steps: &mut usize) -> bool {
    let mut validator = Validator {
        errors: Vec::new(),
        most: 1,
        steps: *steps,
    };
    validator.value(schema, value, None, path);
    *steps = validator.steps;
    validator.errors.is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(spec: Value, value: Value) -> Vec<String> {
        let schema = json!({"type": "object", "properties": {"spec": spec}});
        let schema = Schema::from_crd(&schema).unwrap();
        let errors = schema.validate(&json!({"spec": value}), None);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table of cases")]
    fn faults_have_the_words_of_upstream() {
        let object = |properties: Value| json!({"type": "object", "properties": properties});
        for (spec, value, fault) in [
            (
                json!({"type": "integer"}),
                json!("x"),
                "spec: Invalid value: \"string\": spec in body must be of type integer: \"string\"",
            ),
            (
                object(json!({"replicas": {"type": "integer"}})),
                json!({"replicas": null}),
                "spec.replicas: Invalid value: \"null\": spec.replicas in body must be of type integer: \"null\"",
            ),
            (
                json!({"type": "object", "required": ["x"]}),
                json!({}),
                "spec.x: Required value",
            ),
            (
                json!({"type": "string", "enum": ["a", "b"]}),
                json!("c"),
                "spec: Unsupported value: \"c\": supported values: \"a\", \"b\"",
            ),
            (
                json!({"type": "string", "pattern": "^a+$"}),
                json!("b"),
                "spec: Invalid value: \"b\": spec in body should match '^a+$'",
            ),
            (
                json!({"type": "integer", "maximum": 3}),
                json!(5),
                "spec: Invalid value: 5: spec in body should be less than or equal to 3",
            ),
            (
                json!({"type": "integer", "minimum": 3, "exclusiveMinimum": true}),
                json!(3),
                "spec: Invalid value: 3: spec in body should be greater than 3",
            ),
            (
                json!({"type": "number", "multipleOf": 0.5}),
                json!(0.7),
                "spec: Invalid value: 0.7: spec in body should be a multiple of 0.5",
            ),
            (
                json!({"type": "string", "minLength": 3}),
                json!("é"),
                "spec: Invalid value: \"é\": spec in body should be at least 3 chars long",
            ),
            (
                json!({"type": "string", "maxLength": 1}),
                json!("ab"),
                "spec: Too long: may not be more than 1 bytes",
            ),
            (
                json!({"type": "array", "items": {"type": "string"}, "maxItems": 1}),
                json!(["a", "b"]),
                "spec: Too many: 2: must have at most 1 items",
            ),
            (
                json!({"type": "array", "items": {"type": "string"}, "minItems": 1}),
                json!([]),
                "spec: Invalid value: []: spec in body should have at least 1 items",
            ),
            (
                json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}),
                json!(["a", "a"]),
                "spec[1]: Duplicate value: \"a\"",
            ),
            (
                json!({"type": "string", "format": "date-time"}),
                json!("x"),
                "spec: Invalid value: \"x\": spec in body must be of type date-time: \"x\"",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
                json!({}),
                "<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found none valid",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "string"}}, "not": {"required": ["a"]}}),
                json!({"a": "x"}),
                "<nil>: Invalid value: \"\": \"spec\" must not validate the schema (not)",
            ),
            (
                json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
                json!({"apiVersion": "v1"}),
                "spec.kind: Required value: must not be empty",
            ),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(true),
                "spec: Invalid value: \"boolean\": spec in body must be of type integer,string: \"boolean\"",
            ),
            (
                object(
                    json!({"l": {"type": "array", "items": {"type": "object", "required": ["n"], "properties": {"n": {"type": "string"}}}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"]}}),
                ),
                json!({"l": [{"n": "a"}, {"n": "a"}]}),
                "spec.l[1]: Duplicate value: {\"n\":\"a\"}",
            ),
        ] {
            assert_eq!(faults(spec.clone(), value), [fault], "{spec}");
        }
    }

    #[test]
    fn good_values_pass() {
        for (spec, value) in [
            (json!({"type": "integer"}), json!(2.0)),
            (json!({"type": "string", "nullable": true}), json!(null)),
            (
                json!({"type": "object", "additionalProperties": true}),
                json!({"a": [1, {"b": null}]}),
            ),
            (json!({"x-kubernetes-int-or-string": true}), json!("50%")),
            (
                json!({"type": "number", "multipleOf": 0.1, "minimum": 0}),
                json!(0.5),
            ),
            (
                json!({"type": "string", "anyOf": [{"pattern": "^a"}, {"pattern": "b$"}]}),
                json!("xb"),
            ),
            (
                json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
                json!({"a": 1}),
            ),
        ] {
            assert_eq!(faults(spec.clone(), value), Vec::<String>::new(), "{spec}");
        }
    }

    #[test]
    fn what_was_wrong_before_may_stay() {
        let schema = Schema::from_crd(&json!({"type": "object", "properties": {"spec": {
            "type": "object", "required": ["new"],
            "x-kubernetes-validations": [{"rule": "self.size < 10", "message": "too large"}],
            "properties": {
                "text": {"type": "string", "maxLength": 2},
                "size": {"type": "integer", "x-kubernetes-validations": [
                    {"rule": "self >= oldSelf", "message": "may not shrink"}]},
                "new": {"type": "string"},
                "ports": {"type": "array", "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"], "items": {"type": "object",
                        "required": ["name"], "properties": {"name": {"type": "string"},
                            "port": {"type": "integer", "maximum": 9}}}}}}}}))
        .unwrap();
        let old =
            json!({"spec": {"text": "abc", "size": 20, "ports": [{"name": "a", "port": 10}]}});
        let faults = |path: &str, value: Value| -> Vec<String> {
            let mut new = old.clone();
            let (parent, field) = path.rsplit_once('/').unwrap();
            new.pointer_mut(parent).unwrap()[field] = value;
            let errors = schema.validate(&new, Some(&old));
            errors.iter().map(ToString::to_string).collect()
        };
        assert_eq!(faults("/x", json!(1)), Vec::<String>::new());
        // What is beside the change is looked at: it lacks a field, and the
        // rule of the changed object does not hold.
        assert_eq!(
            faults("/spec/other", json!(1)),
            [
                "spec.new: Required value",
                "<nil>: Invalid value: null: some validation rules were not checked because the \
                 object was invalid; correct the existing errors to complete validation"
            ]
        );
        assert_eq!(
            faults("/spec/new", json!("x")),
            ["spec: Invalid value: \"object\": too large"]
        );
        let old = json!({"spec": {"text": "abc", "size": 5, "new": "x",
            "ports": [{"name": "a", "port": 10}]}});
        let faults = |change: Value| -> Vec<String> {
            let new = crate::patch::merge_patch(&old, &change);
            let errors = schema.validate(&new, Some(&old));
            errors.iter().map(ToString::to_string).collect()
        };
        assert_eq!(faults(json!({"spec": {"new": "y"}})), Vec::<String>::new());
        assert_eq!(
            faults(json!({"spec": {"size": 4}})),
            ["spec.size: Invalid value: \"integer\": may not shrink"]
        );
        let more = json!([{"name": "b", "port": 1}, {"name": "a", "port": 10}]);
        assert_eq!(
            faults(json!({"spec": {"ports": more}})),
            Vec::<String>::new()
        );
        let worse = json!([{"name": "a", "port": 11}]);
        assert_eq!(faults(json!({"spec": {"ports": worse}})).len(), 1);
        assert_eq!(faults(json!({"spec": {"text": "abd"}})).len(), 2);
    }

    #[test]
    fn the_name_may_be_limited() {
        let schema = Schema::from_crd(&json!({"type": "object", "properties": {"metadata": {
            "type": "object", "properties": {"name": {"type": "string", "maxLength": 2}}}}}));
        let errors = schema
            .unwrap()
            .validate(&json!({"metadata": {"name": "abc"}}), None);
        assert_eq!(
            errors[0].to_string(),
            "metadata.name: Too long: may not be more than 2 bytes"
        );
    }
}
