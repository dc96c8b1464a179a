//! Strategic merge patch, after
//! `k8s.io/apimachinery/pkg/util/strategicpatch`: lists with a merge key are
//! merged item by item, and directives (`$patch`, `$retainKeys`,
//! `$deleteFromPrimitiveList/x`, `$setElementOrder/x`) say the rest.

mod order;

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::unprocessable;
use crate::error::ApiError;
use crate::schema::{PatchFacts, Property, Schema, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch to an object of a built-in kind.
///
/// # Errors
/// `BadRequest` for a directive of the wrong form, `Invalid` if the patch does
/// not fit the lists that it patches.
pub fn strategic_merge_patch(
    current: &Value,
    patch: &Value,
    schema: &Schema,
) -> Result<Value, ApiError> {
    let (Value::Object(current), Value::Object(patch)) = (current, patch) else {
        return Err(ApiError::bad_request("invalid JSON document"));
    };
    let merged = merge_maps(current.clone(), patch, Some(schema))?;
    Ok(Value::Object(merged))
}

type Object = Map<String, Value>;

fn merge_maps(
    mut original: Object,
    patch: &Object,
    schema: Option<&Schema>,
) -> Result<Object, ApiError> {
    match patch.get(DIRECTIVE) {
        None => {}
        Some(Value::String(directive)) if directive == "replace" => {
            let mut patch = patch.clone();
            patch.remove(DIRECTIVE);
            return Ok(patch);
        }
        Some(Value::String(directive)) if directive == "delete" => return Ok(Object::new()),
        Some(other) => return Err(bad_directive(other)),
    }
    retain_keys(&mut original, patch)?;
    let ordered = merge_ordered_lists(&mut original, patch, schema)?;
    for (name, value) in patch {
        if name == RETAIN_KEYS || name.starts_with(SET_ORDER) || ordered.contains(&name.as_str()) {
            continue;
        }
        if let Some(name) = name.strip_prefix(DELETE_FROM_LIST) {
            delete_from_list(&mut original, name, value)?;
            continue;
        }
        if value.is_null() {
            original.remove(name);
            continue;
        }
        let Some(present) = original.get_mut(name) else {
            original.insert(name.clone(), resolved(value));
            continue;
        };
        let property = schema.and_then(|s| s.property(name));
        let below = property
            .map(|p| &p.schema)
            .or_else(|| schema.and_then(Schema::map_values));
        let facts = property.and_then(|p| p.patch.as_ref());
        match (&mut *present, value) {
            (Value::Object(present), Value::Object(patch)) if !facts.is_some_and(|f| f.replace) => {
                *present = merge_maps(std::mem::take(present), patch, below)?;
            }
            (Value::Array(present), Value::Array(patch)) if facts.is_some_and(|f| f.merge) => {
                let list = MergedList::of(name, facts, below);
                *present = list.merge(std::mem::take(present), patch)?;
            }
            (present, value) => *present = value.clone(),
        }
    }
    Ok(original)
}

fn bad_directive(directive: &Value) -> ApiError {
    unprocessable(format!("unknown patch type found: {directive}"))
}

fn bad_format(name: &str) -> ApiError {
    ApiError::bad_request(format!("invalid patch format of {name}"))
}

/// `$retainKeys`: of the original only these fields are kept, and the patch
/// may set no others.
fn retain_keys(original: &mut Object, patch: &Object) -> Result<(), ApiError> {
    let Some(keys) = patch.get(RETAIN_KEYS) else {
        return Ok(());
    };
    let keys: Option<Vec<&str>> = keys
        .as_array()
        .and_then(|list| list.iter().map(Value::as_str).collect());
    let keys = keys.ok_or_else(|| bad_format(RETAIN_KEYS))?;
    let sets_other = patch.iter().any(|(name, value)| {
        !name.starts_with('$') && !value.is_null() && !keys.contains(&name.as_str())
    });
    if sets_other {
        return Err(bad_format(RETAIN_KEYS));
    }
    original.retain(|name, _| keys.contains(&name.as_str()));
    Ok(())
}

fn delete_from_list(original: &mut Object, name: &str, values: &Value) -> Result<(), ApiError> {
    let values = values
        .as_array()
        .ok_or_else(|| bad_format(DELETE_FROM_LIST))?;
    if let Some(Value::Array(list)) = original.get_mut(name) {
        let values: HashSet<String> = values.iter().map(Value::to_string).collect();
        list.retain(|item| !values.contains(&item.to_string()));
    }
    Ok(())
}

/// Merges the lists whose order the patch gives; returns their names.
fn merge_ordered_lists<'p>(
    original: &mut Object,
    patch: &'p Object,
    schema: Option<&Schema>,
) -> Result<Vec<&'p str>, ApiError> {
    let mut done = Vec::new();
    for (directive, order) in patch {
        let Some(name) = directive.strip_prefix(SET_ORDER) else {
            continue;
        };
        let order = order.as_array().ok_or_else(|| bad_format(SET_ORDER))?;
        let patch_list = match patch.get(name) {
            None | Some(Value::Null) => None,
            Some(Value::Array(list)) => Some(list),
            Some(_) => return Err(bad_format(SET_ORDER)),
        };
        let deleted = patch.get(name).is_some_and(Value::is_null);
        let property = schema.and_then(|s| s.property(name));
        let list = MergedList::of(
            name,
            property.and_then(|p: &Property| p.patch.as_ref()),
            property.map(|p| &p.schema),
        );
        list.check_order(patch_list.map_or(&[], Vec::as_slice), order)?;
        let present = match original.get(name) {
            Some(Value::Array(list)) if !deleted => list.clone(),
            _ => Vec::new(),
        };
        if present.is_empty() && patch_list.is_none() {
            continue;
        }
        let merged = match patch_list {
            Some(patch) => list.merge(present.clone(), patch)?,
            None => present.clone(),
        };
        let merged = list.arrange(merged, order, &present);
        original.insert(name.to_owned(), Value::Array(merged));
        done.push(name);
    }
    Ok(done)
}

/// What a patch adds where nothing was: directives have nothing to act on,
/// nulls nothing to remove.
fn resolved(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let map = map.iter().filter(|(name, value)| {
                let directive = matches!(name.as_str(), DIRECTIVE | RETAIN_KEYS)
                    || name.starts_with(SET_ORDER)
                    || name.starts_with(DELETE_FROM_LIST);
                !directive && !value.is_null()
            });
            Value::Object(
                map.map(|(name, value)| (name.clone(), resolved(value)))
                    .collect(),
            )
        }
        Value::Array(items) => {
            let special = |item: &&Value| item.get(DIRECTIVE).is_none_or(|d| d == "merge");
            Value::Array(items.iter().filter(special).map(resolved).collect())
        }
        other => other.clone(),
    }
}

/// A list and how its items are told apart.
struct MergedList<'a> {
    name: &'a str,
    key: Option<&'a str>,
    items: Option<&'a Schema>,
}

impl<'a> MergedList<'a> {
    fn of(name: &'a str, facts: Option<&'a PatchFacts>, list: Option<&'a Schema>) -> Self {
        Self {
            name,
            key: facts.and_then(|f| f.merge_key.as_deref()),
            items: list.and_then(Schema::items),
        }
    }

    /// True if the list holds objects.
    fn of_objects(&self, original: &[Value], patch: &[Value]) -> bool {
        match self.items {
            Some(items) => items.kind() == Type::Object,
            None => original.iter().chain(patch).any(Value::is_object),
        }
    }

    /// What tells an item apart.
    fn identity<'v>(&self, item: &'v Value) -> Option<&'v Value> {
        match self.key {
            Some(key) => item.get(key),
            None => Some(item),
        }
    }

    fn merge(&self, original: Vec<Value>, patch: &[Value]) -> Result<Vec<Value>, ApiError> {
        if original.is_empty() && patch.is_empty() {
            return Ok(original);
        }
        if !self.of_objects(&original, patch) {
            let mut seen = HashSet::new();
            let all = original.iter().chain(patch);
            let merged = all
                .filter(|item| seen.insert(item.to_string()))
                .cloned()
                .collect();
            return Ok(self.arrange(merged, patch, &original));
        }
        let key = self.key.ok_or_else(|| {
            unprocessable(format!(
                "cannot merge lists without merge key for {}",
                self.name
            ))
        })?;
        let before = original.clone();
        let (mut merged, patch) = self.apply_special(original, patch, key)?;
        let mut places: HashMap<String, usize> = HashMap::new();
        for (index, item) in merged.iter().enumerate() {
            if let Some(identity) = item.get(key) {
                places.entry(identity_text(identity)).or_insert(index);
            }
        }
        for item in &patch {
            let (Value::Object(fields), Some(identity)) = (item, item.get(key)) else {
                return Err(unprocessable(format!(
                    "map: {item} does not contain declared merge key: {key}"
                )));
            };
            match places.get(&identity_text(identity)).copied() {
                Some(index) => {
                    let Value::Object(present) = merged[index].take() else {
                        return Err(bad_format(self.name));
                    };
                    merged[index] = Value::Object(merge_maps(present, fields, self.items)?);
                }
                None => {
                    places.insert(identity_text(identity), merged.len());
                    merged.push(resolved(item));
                }
            }
        }
        Ok(self.arrange(merged, &patch, &before))
    }

    /// Applies the items that are directives; returns the list and the other
    /// items.
    fn apply_special(
        &self,
        mut original: Vec<Value>,
        patch: &[Value],
        key: &str,
    ) -> Result<(Vec<Value>, Vec<Value>), ApiError> {
        let mut plain = Vec::new();
        let mut deleted = HashSet::new();
        let mut replace = false;
        for item in patch {
            match item.get(DIRECTIVE) {
                None => plain.push(item.clone()),
                Some(directive) if directive == "delete" => {
                    let identity = item.get(key).ok_or_else(|| {
                        unprocessable("delete patch type with no merge key defined".into())
                    })?;
                    deleted.insert(identity_text(identity));
                }
                Some(directive) if directive == "replace" => replace = true,
                Some(directive) if directive == "merge" => {
                    let why = "merging list cannot yet be specified in the patch";
                    return Err(unprocessable(why.into()));
                }
                Some(other) => return Err(bad_directive(other)),
            }
        }
        if replace {
            return Ok((plain.iter().map(resolved).collect(), Vec::new()));
        }
        original.retain(|item| {
            item.get(key)
                .is_none_or(|k| !deleted.contains(&identity_text(k)))
        });
        Ok((original, plain))
    }
}

/// Merge keys are compared as they print: 80 is "80".
fn identity_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
