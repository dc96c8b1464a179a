//! Merging a configuration into an object.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::walk::{Place, Shape};
use crate::schema::Schema;

/// The object with all fields of the configuration, lists and maps merged as
/// the schema says; who owns what is nobody's concern here.
pub fn merge(live: &Value, config: &Value, schema: Option<&Schema>) -> Value {
    merge_at(Some(live), config, Place::of(schema))
}

fn merge_at(live: Option<&Value>, config: &Value, place: Place<'_>) -> Value {
    match (place.shape(config), live, config) {
        (Shape::Map, Some(Value::Object(live)), Value::Object(config)) => {
            let mut merged = live.clone();
            for (name, value) in config {
                let below = merge_at(live.get(name), value, place.field(name).0);
                merged.insert(name.clone(), below);
            }
            Value::Object(merged)
        }
        (Shape::Map, _, Value::Object(config)) => {
            let below = |(name, value): (&String, &Value)| {
                (name.clone(), merge_at(None, value, place.field(name).0))
            };
            Value::Object(config.iter().map(below).collect::<Map<_, _>>())
        }
        (Shape::List, Some(Value::Array(live)), Value::Array(config)) => {
            Value::Array(merge_lists(live, config, place))
        }
        _ => config.clone(),
    }
}

/// Items stand in the configuration's order; the others keep their place
/// relative to the items around them.
fn merge_lists(live: &[Value], config: &[Value], place: Place<'_>) -> Vec<Value> {
    let steps = |items: &[Value]| -> Vec<String> {
        items
            .iter()
            .map(|item| place.item_step(item).unwrap_or_default())
            .collect()
    };
    let (left, right) = (steps(live), steps(config));
    let in_left: HashMap<&str, usize> = left
        .iter()
        .enumerate()
        .rev()
        .map(|(i, s)| (s.as_str(), i))
        .collect();
    let in_right: HashSet<&str> = right.iter().map(String::as_str).collect();
    let mut shared = right
        .iter()
        .map(String::as_str)
        .filter(|s| in_left.contains_key(s))
        .peekable();
    let mut merged = HashSet::new();
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if let (Some(step), true) = (left.get(l), r < right.len()) {
            let other_shared = shared.peek().is_some_and(|next| *next != step.as_str());
            if *step != right[r] && in_right.contains(step.as_str()) && other_shared {
                // It comes later, where the configuration has it.
                l += 1;
                continue;
            }
        }
        if let Some(step) = left.get(l) {
            if !in_right.contains(step.as_str()) {
                out.push(live[l].clone());
                l += 1;
                continue;
            }
            if merged.contains(step.as_str()) {
                l += 1;
                continue;
            }
        }
        let Some(step) = right.get(r) else {
            // Every item of the configuration is placed; the rest of the live
            // items that it has are, too.
            l += 1;
            continue;
        };
        let before = in_left.get(step.as_str()).map(|i| &live[*i]);
        out.push(merge_at(before, &config[r], place.items()));
        merged.insert(step.as_str());
        if shared.peek() == Some(&step.as_str()) {
            shared.next();
        }
        if left.get(l) == Some(step) {
            l += 1;
        }
        r += 1;
    }
    out
}
