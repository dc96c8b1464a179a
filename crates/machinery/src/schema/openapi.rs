//! Schemas as OpenAPI documents show them, without prose.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Constraints, Handle, ListType, Name, PatchFacts, Property, Schema, Type};

/// The version of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenApi {
    /// `/openapi/v2`: references start with `#/definitions/`.
    V2,
    /// `/openapi/v3`: references start with `#/components/schemas/`.
    V3,
}

impl OpenApi {
    /// A `$ref` to a definition.
    pub fn reference(self, name: &str) -> Value {
        let prefix = match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        };
        json!({"$ref": format!("{prefix}{name}")})
    }
}

impl Schema {
    /// The definition for a document of version 3.
    pub fn to_openapi_v3(&self) -> Value {
        self.definition(OpenApi::V3)
    }

    /// The definition for a document of version 2.
    pub fn to_openapi_v2(&self) -> Value {
        self.definition(OpenApi::V2)
    }

    /// The definition names that this one refers to, directly or not, itself
    /// included if it has a name.
    pub fn referenced_definitions(&self) -> BTreeSet<&'static str> {
        let mut names = BTreeSet::new();
        self.collect_names(&mut names);
        names
    }

    fn collect_names(&self, names: &mut BTreeSet<&'static str>) {
        if let Some(name) = self.name()
            && !names.insert(name)
        {
            return;
        }
        let node = self.node();
        node.properties
            .iter()
            .for_each(|p| p.schema.collect_names(names));
        node.values.iter().for_each(|s| s.collect_names(names));
        node.items.iter().for_each(|s| s.collect_names(names));
    }

    fn definition(&self, version: OpenApi) -> Value {
        let mut map = self.body(version);
        let kinds: Vec<Value> = self
            .group_version_kinds()
            .iter()
            .map(|k| json!({"group": k.group, "kind": k.kind, "version": k.version}))
            .collect();
        if !kinds.is_empty() {
            map.insert(
                "x-kubernetes-group-version-kind".into(),
                Value::Array(kinds),
            );
        }
        Value::Object(map)
    }

    /// A reference if the type has a name of its own, else the schema itself.
    fn inline(&self, version: OpenApi) -> Map<String, Value> {
        match (&self.0, self.name()) {
            (Handle::Builtin(_), Some(name)) => match version.reference(name) {
                Value::Object(map) => map,
                _ => Map::new(),
            },
            _ => self.body(version),
        }
    }

    fn body(&self, version: OpenApi) -> Map<String, Value> {
        let node = self.node();
        let mut map = type_of(self, version);
        // Version 2 knows no null, and what kubectl reads from it must not name
        // some fields where there may be others: such values have no type.
        let v2 = node.custom && version == OpenApi::V2;
        let null = v2 && node.nullable;
        let open = null || v2 && node.preserve_unknown;
        if open && (null || matches!(self.kind(), Type::Object | Type::Array))
            || v2 && self.kind() == Type::Array && node.items.is_none()
        {
            map.remove("type");
        }
        if !node.properties.is_empty() && !open {
            let properties = node.properties.iter();
            let properties: Map<String, Value> = properties
                .map(|p| (p.name.to_string(), property(p, version)))
                .collect();
            map.insert("properties".into(), Value::Object(properties));
        }
        if let Some(values) = &node.values {
            map.insert("additionalProperties".into(), values.inline(version).into());
        }
        if let Some(items) = node.items.as_ref().filter(|_| !open) {
            map.insert("items".into(), items.inline(version).into());
        }
        let may_lack = |name: &&Name| !v2 || !self.child(name).is_some_and(Schema::nullable);
        let required: Vec<&Name> = node.required.iter().filter(may_lack).collect();
        if !required.is_empty() {
            map.insert("required".into(), json!(required));
        }
        if let Some(default) = node.default.as_ref().filter(|_| version == OpenApi::V3) {
            map.insert("default".into(), default.clone());
        }
        if let Some(list_type) = node.list_type {
            let text = match list_type {
                ListType::Atomic => "atomic",
                ListType::Set => "set",
                ListType::Map => "map",
            };
            map.insert("x-kubernetes-list-type".into(), text.into());
        }
        if !node.list_map_keys.is_empty() {
            map.insert(
                "x-kubernetes-list-map-keys".into(),
                json!(node.list_map_keys),
            );
        }
        if let Some(map_type) = &node.map_type {
            map.insert("x-kubernetes-map-type".into(), json!(map_type));
        }
        if let Some(unions) = &node.unions {
            map.insert("x-kubernetes-unions".into(), unions.clone());
        }
        if node.custom {
            if node.preserve_unknown {
                map.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
            }
            if node.embedded_resource {
                map.insert("x-kubernetes-embedded-resource".into(), true.into());
            }
            if node.nullable && version == OpenApi::V3 {
                map.insert("nullable".into(), true.into());
            }
        }
        if let Some(constraints) = &node.constraints {
            write_constraints(constraints, version, &mut map);
        }
        map
    }
}

fn property(property: &Property, version: OpenApi) -> Value {
    let mut map = property.schema.inline(version);
    if property.patch.is_none() && !property.granular {
        return Value::Object(map);
    }
    if version == OpenApi::V3 && map.contains_key("$ref") {
        // Version 3 ignores what stands beside a reference.
        map = Map::from_iter([("allOf".to_owned(), Value::Array(vec![Value::Object(map)]))]);
    }
    if property.granular {
        map.insert("x-kubernetes-map-type".into(), "granular".into());
    }
    if let Some(patch) = &property.patch {
        write_patch(patch, &mut map);
    }
    Value::Object(map)
}

fn write_patch(patch: &PatchFacts, map: &mut Map<String, Value>) {
    let strategies = [
        (patch.replace, "replace"),
        (patch.merge, "merge"),
        (patch.retain_keys, "retainKeys"),
    ];
    let strategies: Vec<&str> = strategies
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, s)| *s)
        .collect();
    map.insert(
        "x-kubernetes-patch-strategy".into(),
        strategies.join(",").into(),
    );
    if let Some(key) = &patch.merge_key {
        map.insert("x-kubernetes-patch-merge-key".into(), json!(key));
    }
}

fn type_of(schema: &Schema, version: OpenApi) -> Map<String, Value> {
    let mut map = Map::new();
    let ty = match (schema.kind(), version) {
        (Type::Any, _) => "",
        (Type::Object, _) => "object",
        (Type::Array, _) => "array",
        (Type::String, _) => "string",
        (Type::Integer, _) => "integer",
        (Type::Number, _) => "number",
        (Type::Boolean, _) => "boolean",
        (Type::IntOrString, _) if schema.is_custom() => {
            map.insert("x-kubernetes-int-or-string".into(), true.into());
            ""
        }
        (Type::IntOrString, OpenApi::V2) => {
            map.insert("format".into(), "int-or-string".into());
            "string"
        }
        (Type::IntOrString, OpenApi::V3) => {
            map.insert("format".into(), "int-or-string".into());
            map.insert(
                "oneOf".into(),
                json!([{"type": "integer"}, {"type": "string"}]),
            );
            ""
        }
        (Type::Quantity, OpenApi::V2) => "string",
        (Type::Quantity, OpenApi::V3) => {
            map.insert(
                "oneOf".into(),
                json!([{"type": "string"}, {"type": "number"}]),
            );
            ""
        }
    };
    if !ty.is_empty() {
        map.insert("type".into(), ty.into());
    }
    if let Some(format) = schema.format() {
        map.insert("format".into(), format.into());
    }
    map
}

fn write_constraints(c: &Constraints, version: OpenApi, map: &mut Map<String, Value>) {
    for (key, number) in [
        ("minimum", &c.minimum),
        ("maximum", &c.maximum),
        ("multipleOf", &c.multiple_of),
    ] {
        if let Some(number) = number {
            map.insert(key.into(), Value::Number(number.clone()));
        }
    }
    for (key, on) in [
        ("exclusiveMinimum", c.exclusive_minimum),
        ("exclusiveMaximum", c.exclusive_maximum),
    ] {
        if on {
            map.insert(key.into(), true.into());
        }
    }
    for (key, count) in [
        ("minLength", c.min_length),
        ("maxLength", c.max_length),
        ("minItems", c.min_items),
        ("maxItems", c.max_items),
        ("minProperties", c.min_properties),
        ("maxProperties", c.max_properties),
    ] {
        if let Some(count) = count {
            map.insert(key.into(), count.into());
        }
    }
    if let Some(pattern) = &c.pattern {
        map.insert("pattern".into(), pattern.as_str().into());
    }
    if let Some(description) = &c.description {
        map.insert("description".into(), description.as_str().into());
    }
    for (key, list) in [
        ("enum", &c.enumeration),
        ("x-kubernetes-validations", &c.rules),
    ] {
        if !list.is_empty() {
            map.insert(key.into(), Value::Array(list.clone()));
        }
    }
    if version == OpenApi::V2 {
        return;
    }
    for (key, list) in [
        ("allOf", &c.all_of),
        ("anyOf", &c.any_of),
        ("oneOf", &c.one_of),
    ] {
        if !list.is_empty() {
            let list = list.iter().map(|s| s.body(version).into()).collect();
            map.insert(key.into(), Value::Array(list));
        }
    }
    if let Some(not) = &c.not {
        map.insert("not".into(), not.body(version).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gvk::GroupVersionKind;
    use crate::schema::builtin;

    #[test]
    fn built_in_definitions_read_like_upstream() {
        let deployment = GroupVersionKind::new("apps", "v1", "Deployment");
        let deployment = builtin().kind(&deployment).unwrap();
        assert_eq!(
            deployment.to_openapi_v2(),
            json!({"type": "object", "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"},
                "spec": {"$ref": "#/definitions/io.k8s.api.apps.v1.DeploymentSpec"},
                "status": {"$ref": "#/definitions/io.k8s.api.apps.v1.DeploymentStatus"}},
                "x-kubernetes-group-version-kind": [{"group": "apps", "kind": "Deployment", "version": "v1"}]})
        );
        let spec = builtin()
            .definition("io.k8s.api.apps.v1.DeploymentSpec")
            .unwrap();
        assert_eq!(
            spec.to_openapi_v3()["properties"]["strategy"],
            json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy"}],
                "x-kubernetes-patch-strategy": "retainKeys"})
        );
        let names = deployment.referenced_definitions();
        assert!(names.contains("io.k8s.api.core.v1.PodSpec"));
        assert!(!names.contains("io.k8s.api.core.v1.Service"));
    }

    #[test]
    fn custom_definitions_keep_what_they_say() {
        let spec = json!({"type": "object", "required": ["a"], "description": "d", "properties": {
            "a": {"type": "string", "pattern": "^x", "maxLength": 3, "enum": ["x"], "default": "x"},
            "b": {"x-kubernetes-int-or-string": true},
            "c": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "d": {"type": "integer", "format": "int32", "minimum": 1, "nullable": true}},
            "x-kubernetes-validations": [{"rule": "true"}],
            "oneOf": [{"required": ["b"]}, {"required": ["c"]}]});
        let schema = json!({"type": "object", "properties": {"spec": spec}});
        let mut expected = schema["properties"]["spec"].clone();
        for branch in expected["oneOf"].as_array_mut().unwrap() {
            branch
                .as_object_mut()
                .unwrap()
                .retain(|k, _| k == "required");
        }
        let compiled = Schema::from_crd(&schema).unwrap();
        assert_eq!(compiled.to_openapi_v3()["properties"]["spec"], expected);
        // Version 2 has neither null nor alternatives.
        let spec = &compiled.to_openapi_v2()["properties"]["spec"];
        assert_eq!(
            spec["properties"]["d"],
            json!({"format": "int32", "minimum": 1})
        );
        assert_eq!(spec.get("oneOf"), None);
        assert!(compiled.has_validation_rules());
    }

    #[test]
    fn version_2_says_nothing_of_what_may_hold_anything() {
        let open = |name: &str| json!({"type": name, "x-kubernetes-preserve-unknown-fields": true});
        let mut object = open("object");
        object["properties"] = json!({"x": {"type": "string"}});
        let schema = json!({"type": "object", "required": ["a", "n"], "properties": {
            "a": object,
            "n": {"type": "string", "nullable": true}}});
        let compiled = Schema::from_crd(&schema).unwrap();
        let shown = compiled.to_openapi_v2();
        assert_eq!(shown["required"], json!(["a"]));
        let open = json!({"x-kubernetes-preserve-unknown-fields": true});
        assert_eq!(shown["properties"]["a"], open);
        assert_eq!(shown["properties"]["n"], json!({}));
        assert_eq!(
            compiled.to_openapi_v3()["properties"]["a"],
            schema["properties"]["a"]
        );
    }
}
