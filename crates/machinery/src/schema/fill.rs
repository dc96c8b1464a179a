//! Pruning of unknown fields and filling in of defaults.

use serde_json::Value;

use super::{Schema, Type};

impl Schema {
    /// Drops fields that the schema does not know.
    pub fn prune(&self, object: &mut Value) {
        match object {
            Value::Object(map) => {
                let keep_unknown = self.preserves_unknown_fields();
                map.retain(|name, value| match self.child(name) {
                    Some(schema) => {
                        schema.prune(value);
                        true
                    }
                    None => keep_unknown,
                });
            }
            Value::Array(items) => {
                if let Some(schema) = self.items() {
                    items.iter_mut().for_each(|item| schema.prune(item));
                }
            }
            _ => {}
        }
    }

    /// Fills in defaults, and drops nulls from fields that may not be null.
    pub fn default(&self, object: &mut Value) {
        let node = self.node();
        match object {
            Value::Object(map) => {
                for property in &node.properties {
                    let schema = &property.schema;
                    if map.get(property.name.as_ref()).is_some_and(Value::is_null)
                        && !schema.nullable()
                        && schema.kind() != Type::Any
                    {
                        map.remove(property.name.as_ref());
                    }
                    if let Some(default) = schema.default_value()
                        && !map.contains_key(property.name.as_ref())
                    {
                        map.insert(property.name.to_string(), default.clone());
                    }
                    if let Some(value) = map.get_mut(property.name.as_ref()) {
                        schema.default(value);
                    }
                }
                if let Some(schema) = &node.values {
                    for (name, value) in map.iter_mut() {
                        if self.property(name).is_none() {
                            if let (Value::Null, false, Some(default)) =
                                (&*value, schema.nullable(), schema.default_value())
                            {
                                *value = default.clone();
                            }
                            schema.default(value);
                        }
                    }
                }
            }
            Value::Array(items) => {
                if let Some(schema) = &node.items {
                    for item in items {
                        if let (Value::Null, false, Some(default)) =
                            (&*item, schema.nullable(), schema.default_value())
                        {
                            *item = default.clone();
                        }
                        schema.default(item);
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Schema {
        Schema::from_crd(&json!({"type": "object", "properties": {"spec": {
        "type": "object",
        "properties": {
            "size": {"type": "integer", "default": 3},
            "mode": {"type": "string", "nullable": true},
            "plain": {"type": "string"},
            "deep": {"type": "object", "default": {}, "properties": {
                "x": {"type": "string", "default": "y"}}},
            "list": {"type": "array", "items": {"type": "object", "properties": {
                "p": {"type": "integer", "default": 1}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"known": {"type": "object"}}},
            "map": {"type": "object", "additionalProperties": {"type": "object",
                "properties": {"v": {"type": "integer", "default": 9}}}},
            "lists": {"type": "array", "x-kubernetes-preserve-unknown-fields": true,
                "items": {"type": "object", "properties": {"known": {"type": "object"}}}},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true,
                "properties": {"spec": {"type": "object"}}},
        }}}}))
        .unwrap()
    }

    #[test]
    fn unknown_fields_are_pruned() {
        let mut object = json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n"}, "x": 1,
            "spec": {"size": 1, "y": 2, "list": [{"p": 1, "q": 2}],
                "free": {"a": {"b": 1}, "known": {"c": 1}}, "map": {"k": {"v": 1, "w": 2}},
                "lists": [{"a": {"b": 1}, "known": {"c": 1}}],
                "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "m", "a": 1}, "spec": {}, "z": 1}}});
        schema().prune(&mut object);
        assert_eq!(
            object,
            json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n"},
            "spec": {"size": 1, "list": [{"p": 1}],
                "free": {"a": {"b": 1}, "known": {}}, "map": {"k": {"v": 1}},
                "lists": [{"a": {"b": 1}, "known": {}}],
                "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "m"}, "spec": {}}}})
        );
    }

    #[test]
    fn defaults_are_filled_in() {
        let mut object = json!({"spec": {"size": null, "mode": null, "plain": null,
            "list": [{}, {"p": 2}], "map": {"a": {}}}});
        schema().default(&mut object);
        assert_eq!(
            object,
            json!({"spec": {"size": 3, "mode": null, "deep": {"x": "y"},
            "list": [{"p": 1}, {"p": 2}], "map": {"a": {"v": 9}}}})
        );
        let before = object.clone();
        schema().default(&mut object);
        assert_eq!(object, before);
    }
}
