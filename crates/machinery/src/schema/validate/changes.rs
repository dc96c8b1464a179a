//! Rules in expressions, which may compare a value with the one before.

use serde_json::Value;

use super::{MAX_ERRORS, MAX_STEPS, Path, same_item};
use crate::cel::Budget;
use crate::field::FieldError;
use crate::schema::Schema;
use crate::schema::rules::broken;

/// What of the rules of a schema does not hold.
pub(super) fn broken_rules(
    schema: &Schema,
    value: &Value,
    old: Option<&Value>,
    path: &Path<'_>,
) -> Vec<FieldError> {
    let mut changes = Changes {
        errors: Vec::new(),
        steps: 0,
        budget: Budget::new(Budget::TOTAL),
    };
    changes.value(schema, value, old, path);
    changes.errors
}

struct Changes {
    errors: Vec<FieldError>,
    steps: usize,
    budget: Budget,
}

impl Changes {
    fn value(&mut self, schema: &Schema, value: &Value, old: Option<&Value>, path: &Path<'_>) {
        self.steps += 1;
        if self.steps > MAX_STEPS || self.errors.len() >= MAX_ERRORS || !schema.is_custom() {
            return;
        }
        let unchanged = old == Some(value);
        let old = old.filter(|o| !o.is_null());
        if let Some(constraints) = schema.constraints() {
            if !constraints.programs.is_empty() && !value.is_null() {
                let (rules, at) = (&constraints.programs, path.to_field());
                let budget = &mut self.budget;
                let found = broken(rules, schema, value, old, unchanged, &at, budget);
                self.errors.extend(found);
            }
            for schema in &constraints.all_of {
                self.value(schema, value, old, path);
            }
            if let (Some(limits), Some(metadata)) = (&constraints.metadata, value.get("metadata")) {
                let old = old.and_then(|o| o.get("metadata"));
                self.value(limits, metadata, old, &Path::Field(path, "metadata"));
            }
        }
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    if let Some(below) = schema.child(name) {
                        let old = old.and_then(|o| o.get(name));
                        self.value(below, value, old, &Path::Field(path, name));
                    }
                }
            }
            Value::Array(items) => {
                let Some(below) = schema.items() else { return };
                for (index, item) in items.iter().enumerate() {
                    let old = old.and_then(|o| same_item(schema, item, o));
                    self.value(below, item, old, &Path::Index(path, index));
                }
            }
            _ => {}
        }
    }
}
