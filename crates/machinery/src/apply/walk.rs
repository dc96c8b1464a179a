//! Walks over an object with its schema: which fields it has, and removal.

use std::collections::HashSet;

use serde_json::Value;

use super::fields::{FieldSet, field_step, key_step, value_step};
use crate::schema::{ListType, Property, Schema, Type};

/// How a value takes part in merging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Owned and replaced as a whole.
    Leaf,
    /// An object or map, field by field.
    Map,
    /// A list, item by item.
    List,
}

/// A schema and whether a field overrides that its type is atomic. `None`
/// stands for parts without schema: maps are granular, lists atomic.
#[derive(Clone, Copy)]
pub(super) struct Place<'s> {
    pub(super) schema: Option<&'s Schema>,
    granular: bool,
}

impl<'s> Place<'s> {
    pub(super) fn of(schema: Option<&'s Schema>) -> Self {
        Self {
            schema,
            granular: false,
        }
    }

    fn of_property(property: &'s Property) -> Self {
        Self {
            schema: Some(&property.schema),
            granular: property.granular,
        }
    }

    /// The shape of a value at this place. A value that does not fit its
    /// schema is taken for what it is.
    pub(super) fn shape(self, value: &Value) -> Shape {
        let schema = self.schema.filter(|s| s.kind() != Type::Any);
        match (value, schema) {
            (Value::Object(_), None) => Shape::Map,
            (Value::Object(_), Some(schema)) => {
                if schema.is_atomic_map() && !self.granular {
                    Shape::Leaf
                } else {
                    Shape::Map
                }
            }
            (Value::Array(_), Some(schema)) if schema.list_type() != ListType::Atomic => {
                Shape::List
            }
            _ => Shape::Leaf,
        }
    }

    /// The place of a field, and true if the schema names it.
    pub(super) fn field(self, name: &str) -> (Self, bool) {
        match self.schema.and_then(|s| s.property(name)) {
            Some(property) => (Self::of_property(property), true),
            None => (Self::of(self.schema.and_then(Schema::map_values)), false),
        }
    }

    /// The place of a list's items.
    pub(super) fn items(self) -> Self {
        Self::of(self.schema.and_then(Schema::items))
    }

    /// What tells an item of a list apart, or why nothing does.
    pub(super) fn item_step(self, item: &Value) -> Result<String, String> {
        let Some(schema) = self.schema else {
            return Ok(value_step(item));
        };
        if schema.list_type() != ListType::Map {
            return Ok(value_step(item));
        }
        let items = schema.items();
        let mut keys = Vec::new();
        let mut absent = None;
        for key in schema.list_map_keys() {
            let default = || {
                let property = items.and_then(|s| s.property(key));
                property.and_then(|p| p.schema.default_value())
            };
            match item
                .get(key.as_ref())
                .filter(|v| !v.is_null())
                .or_else(default)
            {
                Some(value) => keys.push((key.as_ref(), value.clone())),
                None => absent = absent.or(Some(key)),
            }
        }
        match absent {
            Some(key) if keys.is_empty() || !item.is_object() => Err(format!(
                "associative list with keys has an element that omits key field {key:?} (and \
                 doesn't have default value)"
            )),
            _ => Ok(key_step(keys)),
        }
    }
}

/// The fields that an object has: leaves, items, and entries of maps.
pub(super) fn field_set(object: &Value, schema: Option<&Schema>) -> FieldSet {
    let mut set = set_at(object, Place::of(schema));
    set.member = false;
    set
}

fn set_at(value: &Value, place: Place<'_>) -> FieldSet {
    match (place.shape(value), value) {
        (Shape::Map, Value::Object(map)) => {
            let mut set = FieldSet::default();
            for (name, value) in map {
                let (below, named) = place.field(name);
                let mut child = set_at(value, below);
                let empty = value.as_object().is_some_and(serde_json::Map::is_empty);
                child.member |= !named || value.is_null() || empty;
                set.add_child(&field_step(name), child);
            }
            set
        }
        (Shape::List, Value::Array(items)) => {
            let mut set = FieldSet::default();
            for item in items {
                if let Ok(step) = place.item_step(item) {
                    let mut child = set_at(item, place.items());
                    child.member = true;
                    set.add_child(&step, child);
                }
            }
            set
        }
        _ => FieldSet::leaf(),
    }
}

/// Checks that the items of lists have their keys and occur once.
pub(super) fn check_keys(object: &Value, schema: Option<&Schema>) -> Result<(), String> {
    check_at(object, Place::of(schema), &mut String::new())
}

fn check_at(value: &Value, place: Place<'_>, path: &mut String) -> Result<(), String> {
    let length = path.len();
    match (place.shape(value), value) {
        (Shape::Map, Value::Object(map)) => {
            for (name, value) in map {
                path.push('.');
                path.push_str(name);
                check_at(value, place.field(name).0, path)?;
                path.truncate(length);
            }
        }
        (Shape::List, Value::Array(items)) => {
            let mut seen = HashSet::new();
            for (index, item) in items.iter().enumerate() {
                let step = place
                    .item_step(item)
                    .map_err(|why| format!("{path}: element {index}: {why}"))?;
                let words = super::fields::FieldSet {
                    member: false,
                    children: [(step.clone(), FieldSet::leaf())].into(),
                };
                let words = words.paths().pop().unwrap_or_default();
                if !seen.insert(step) {
                    return Err(format!("{path}: duplicate entries for key {words}"));
                }
                path.push_str(&words);
                check_at(item, place.items(), path)?;
                path.truncate(length);
            }
        }
        _ => {}
    }
    Ok(())
}

/// Removes the fields of `set`, with all that is below them. Maps and lists
/// that this empties go, too. True if the value itself is to go.
pub(super) fn remove(object: &mut Value, set: &FieldSet, schema: Option<&Schema>) {
    remove_at(object, set, Place::of(schema));
}

fn remove_at(value: &mut Value, set: &FieldSet, place: Place<'_>) -> bool {
    if set.member {
        return true;
    }
    match (place.shape(value), &mut *value) {
        (Shape::Map, Value::Object(map)) => {
            let before = map.len();
            map.retain(|name, value| match set.children.get(&field_step(name)) {
                Some(below) => !remove_at(value, below, place.field(name).0),
                None => true,
            });
            map.is_empty() && before > 0
        }
        (Shape::List, Value::Array(items)) => {
            let before = items.len();
            items.retain_mut(|item| {
                let step = place.item_step(item).ok();
                match step.and_then(|step| set.children.get(&step)) {
                    Some(below) => !remove_at(item, below, place.items()),
                    None => true,
                }
            });
            items.is_empty() && before > 0
        }
        _ => false,
    }
}
