//! Compiles the schema of a CustomResourceDefinition.

use serde_json::{Map, Value};

use super::builtin::{builtin, list_type, names};
use super::constraints::Pattern;
use super::rules::Rule;
use super::structural::{self, Place};
use super::{Constraints, ListType, Node, Property, Schema, Type};
use crate::field::{FieldError, FieldPath};
use crate::gvk::Name;

/// The deepest nesting of a schema. Values are at most about twice as deep as
/// honest schemas ever are; the walks over schemas are recursive.
const MAX_DEPTH: usize = 64;

/// The most errors that are collected for one definition.
const MAX_ERRORS: usize = 100;

impl Schema {
    /// Compiles an `openAPIV3Schema`, which must be structural. The paths of
    /// errors start with `spec.validation.openAPIV3Schema`, as upstream's do
    /// where all versions share a schema.
    pub fn from_crd(open_api_v3_schema: &Value) -> Result<Self, Vec<FieldError>> {
        let path = FieldPath::new("spec")
            .child("validation")
            .child("openAPIV3Schema");
        Self::from_crd_at(open_api_v3_schema, &path)
    }

    /// As `from_crd`, with the path that errors start with.
    pub fn from_crd_at(
        open_api_v3_schema: &Value,
        path: &FieldPath,
    ) -> Result<Self, Vec<FieldError>> {
        let mut compiler = Compiler { errors: Vec::new() };
        let schema = compiler.compile(open_api_v3_schema, path, Place::Root, 0);
        if compiler.errors.is_empty() {
            Ok(schema)
        } else {
            compiler.errors.truncate(MAX_ERRORS);
            Err(compiler.errors)
        }
    }

    /// The schema of a kind without one: everything is kept.
    pub fn free_object() -> Self {
        Self::of(Node {
            ty: Some(Type::Object),
            preserve_unknown: true,
            custom: true,
            properties: object_properties(),
            ..Node::default()
        })
    }
}

/// `apiVersion`, `kind` and `metadata`, which every object has.
fn object_properties() -> Vec<Property> {
    let text = Schema::of(Node {
        ty: Some(Type::String),
        custom: true,
        ..Node::default()
    });
    let property = |name, schema| Property {
        name: Name::Borrowed(name),
        schema,
        patch: None,
        granular: false,
    };
    vec![
        property("apiVersion", text.clone()),
        property("kind", text),
        property("metadata", builtin().object_meta()),
    ]
}

struct Compiler {
    errors: Vec<FieldError>,
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool) == Some(true)
}

/// What is said of `metadata` without its types, which are known.
fn limits_alone(metadata: &Value) -> Value {
    let mut limits = metadata.clone();
    let names = limits.get_mut("properties").and_then(Value::as_object_mut);
    let mut parts: Vec<&mut Value> = names.into_iter().flatten().map(|(_, v)| v).collect();
    for part in &mut parts {
        if let Some(map) = part.as_object_mut() {
            map.retain(|key, _| !matches!(key.as_str(), "type" | "description"));
        }
    }
    if let Some(map) = limits.as_object_mut() {
        map.retain(|key, _| key == "properties");
    }
    limits
}

/// The schema of a list's items. That unknown fields are kept is said of the
/// list, and holds for them.
fn items_schema(schema: &Map<String, Value>, preserve: bool) -> Value {
    let mut schema = schema.clone();
    if preserve {
        schema.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
    }
    Value::Object(schema)
}

impl Compiler {
    fn compile(&mut self, schema: &Value, path: &FieldPath, place: Place, depth: usize) -> Schema {
        if depth > MAX_DEPTH || self.errors.len() > MAX_ERRORS {
            if depth > MAX_DEPTH {
                let why = format!("must not be nested deeper than {MAX_DEPTH} levels");
                self.errors.push(FieldError::forbidden(path, why));
            }
            return Schema::of(Node::default());
        }
        structural::check(schema, path, place, &mut self.errors);
        let embedded = flag(schema, "x-kubernetes-embedded-resource");
        let preserve = flag(schema, "x-kubernetes-preserve-unknown-fields");
        let ty = if flag(schema, "x-kubernetes-int-or-string") {
            Type::IntOrString
        } else {
            match schema.get("type").and_then(Value::as_str) {
                Some("object") => Type::Object,
                Some("array") => Type::Array,
                Some("string") => Type::String,
                Some("integer") => Type::Integer,
                Some("number") => Type::Number,
                Some("boolean") => Type::Boolean,
                _ => Type::Any,
            }
        };
        let text = |key: &str| schema.get(key).and_then(Value::as_str);
        let child_place = |structural| {
            if place == Place::Logic {
                Place::Logic
            } else {
                structural
            }
        };
        let mut node = Node {
            ty: Some(ty),
            format: text("format").map(|f| Name::Owned(f.to_owned())),
            nullable: flag(schema, "nullable"),
            required: names(schema.get("required")),
            preserve_unknown: preserve,
            embedded_resource: embedded,
            list_type: text("x-kubernetes-list-type").and_then(list_type),
            list_map_keys: names(schema.get("x-kubernetes-list-map-keys")),
            map_type: text("x-kubernetes-map-type").map(|t| Name::Owned(t.to_owned())),
            default: schema.get("default").cloned(),
            custom: true,
            ..Node::default()
        };
        let mut constraints = self.constraints(schema, path, depth);
        if place == Place::Root || embedded {
            node.properties = object_properties();
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, below) in properties.into_iter().flatten() {
            let at = path.child("properties").key(name);
            if let Some(known) = node.properties.iter().position(|p| p.name == name.as_str()) {
                // `metadata` is implied; what is said of it only limits it.
                let known_name = node.properties[known].name.as_ref();
                if known_name == "metadata" && place == Place::Root {
                    let below = limits_alone(below);
                    let limits = self.compile(&below, &at, Place::Logic, depth + 1);
                    constraints.get_or_insert_default().metadata = Some(limits);
                }
                continue;
            }
            let schema = self.compile(below, &at, child_place(Place::Property), depth + 1);
            node.properties.push(Property {
                name: Name::Owned(name.clone()),
                schema,
                patch: None,
                granular: false,
            });
        }
        node.properties.sort_by(|a, b| a.name.cmp(&b.name));
        match schema.get("additionalProperties") {
            Some(Value::Bool(true)) => {
                node.values = Some(Schema::of(Node {
                    custom: true,
                    preserve_unknown: true,
                    nullable: true,
                    ..Node::default()
                }));
            }
            Some(below @ Value::Object(_)) => {
                let at = path.child("additionalProperties");
                node.values = Some(self.compile(below, &at, child_place(Place::Values), depth + 1));
            }
            _ => {}
        }
        if let Some(Value::Object(below)) = schema.get("items") {
            let at = path.child("items");
            let below = items_schema(below, preserve && ty == Type::Array);
            node.items = Some(self.compile(&below, &at, child_place(Place::Items), depth + 1));
        }
        node.constraints = constraints;
        let schema = Schema::of(node);
        if place != Place::Logic {
            self.check_lists(&schema, path);
            self.check_default(&schema, path);
        }
        schema
    }

    fn constraints(
        &mut self,
        schema: &Value,
        path: &FieldPath,
        depth: usize,
    ) -> Option<Box<Constraints>> {
        let count = |key: &str| schema.get(key).and_then(Value::as_u64);
        let number = |key: &str| schema.get(key).and_then(Value::as_number).cloned();
        let list = |key: &str| schema.get(key).and_then(Value::as_array);
        let mut logic = |key: &str| -> Vec<Schema> {
            let items = list(key).into_iter().flatten().enumerate();
            items
                .map(|(i, s)| self.compile(s, &path.child(key).index(i), Place::Logic, depth + 1))
                .collect()
        };
        let (all_of, any_of, one_of) = (logic("allOf"), logic("anyOf"), logic("oneOf"));
        let not = schema
            .get("not")
            .map(|s| self.compile(s, &path.child("not"), Place::Logic, depth + 1));
        let pattern = schema
            .get("pattern")
            .and_then(Value::as_str)
            .filter(|p| !p.is_empty());
        let pattern = pattern.and_then(|text| match Pattern::new(text) {
            Ok(pattern) => Some(pattern),
            Err(why) => {
                let why = format!("must be a valid regular expression, but isn't: {why}");
                self.errors
                    .push(FieldError::invalid(&path.child("pattern"), text, why));
                None
            }
        });
        let rules = list("x-kubernetes-validations").map_or(&[][..], Vec::as_slice);
        let mut programs = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let at = path.child("x-kubernetes-validations").index(index);
            match Rule::new(rule, &at) {
                Ok(rule) => programs.push(rule),
                Err(error) => self.errors.push(error),
            }
        }
        let constraints = Constraints {
            minimum: number("minimum"),
            exclusive_minimum: flag(schema, "exclusiveMinimum"),
            maximum: number("maximum"),
            exclusive_maximum: flag(schema, "exclusiveMaximum"),
            multiple_of: number("multipleOf"),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            pattern,
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            enumeration: list("enum").cloned().unwrap_or_default(),
            all_of,
            any_of,
            one_of,
            not,
            rules: rules.to_vec(),
            programs,
            description: schema
                .get("description")
                .and_then(Value::as_str)
                .map(str::to_owned),
            metadata: None,
        };
        constraints.says_something().then(|| Box::new(constraints))
    }

    /// The keys of a list of type `map` must exist and identify every item.
    fn check_lists(&mut self, schema: &Schema, path: &FieldPath) {
        if schema.list_type() != ListType::Map {
            return;
        }
        let Some(items) = schema.items() else { return };
        for key in schema.list_map_keys() {
            let at = path.child("items").child("properties").key(key);
            let Some(property) = items.property(key) else {
                let why = "entries must all be names of item properties";
                let at = path.child("x-kubernetes-list-map-keys");
                self.errors
                    .push(FieldError::invalid(&at, key.as_ref(), why));
                continue;
            };
            let schema = &property.schema;
            if matches!(schema.kind(), Type::Object | Type::Array | Type::Any) {
                let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                self.errors
                    .push(FieldError::invalid(&at.child("type"), Value::Null, why));
            }
            if schema.default_value().is_none() && !items.required().contains(key) {
                let why = "this property is in x-kubernetes-list-map-keys, so it must have a \
                           default or be a required property";
                self.errors
                    .push(FieldError::required(&at.child("default"), why));
            }
        }
    }

    /// A default must be a good value.
    fn check_default(&mut self, schema: &Schema, path: &FieldPath) {
        let Some(default) = schema.default_value() else {
            return;
        };
        let at = path.child("default");
        let mut pruned = default.clone();
        schema.prune(&mut pruned);
        if &pruned != default {
            let why = "must not have unspecified fields";
            self.errors
                .push(FieldError::invalid(&at, default.clone(), why));
        }
        let mut filled = default.clone();
        schema.default(&mut filled);
        self.errors
            .extend(schema.validate_below(&filled, &at.to_string()));
    }
}
