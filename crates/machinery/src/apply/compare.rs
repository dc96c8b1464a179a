//! What changed between two objects.

use std::collections::HashMap;

use serde_json::Value;

use super::fields::{FieldSet, field_step};
use super::walk::{Place, Shape};
use crate::schema::Schema;

/// The fields that differ.
#[derive(Debug, Default)]
pub(super) struct Diff {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

impl Diff {
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Forgets fields that nobody owns.
    pub(super) fn strip(&mut self, strip: &FieldSet) {
        for set in [&mut self.added, &mut self.modified, &mut self.removed] {
            if !set.is_empty() {
                *set = set.difference(strip);
            }
        }
    }

    fn add_child(&mut self, step: &str, below: Diff) {
        self.added.add_child(step, below.added);
        self.modified.add_child(step, below.modified);
        self.removed.add_child(step, below.removed);
    }
}

/// Compares two objects.
pub(super) fn compare(old: &Value, new: &Value, schema: Option<&Schema>) -> Diff {
    compare_at(Some(old), Some(new), Place::of(schema))
}

fn compare_at(old: Option<&Value>, new: Option<&Value>, place: Place<'_>) -> Diff {
    let mut diff = Diff::default();
    match (old, new) {
        (Some(old), Some(new)) if old == new => return diff,
        (Some(old), Some(new)) => {
            if place.shape(old) == place.shape(new) {
                compare_same(Some(old), Some(new), place, &mut diff);
            } else {
                // The shape changed: what was below is gone.
                compare_same(Some(old), None, place, &mut diff);
                compare_same(None, Some(new), place, &mut diff);
                diff.modified.member = true;
            }
        }
        (old, new) => {
            compare_same(old, new, place, &mut diff);
            diff.added.member |= old.is_none() && new.is_some();
            diff.removed.member |= old.is_some() && new.is_none();
        }
    }
    diff
}

/// Compares values of one shape, either of which may be absent.
fn compare_same(old: Option<&Value>, new: Option<&Value>, place: Place<'_>, diff: &mut Diff) {
    let Some(any) = new.or(old) else { return };
    match place.shape(any) {
        Shape::Leaf => match (old, new) {
            (None, _) => diff.added.member = true,
            (_, None) => diff.removed.member = true,
            (Some(_), Some(_)) => diff.modified.member = true,
        },
        Shape::Map => {
            let old = old.and_then(Value::as_object);
            let new = new.and_then(Value::as_object);
            for (name, value) in new.into_iter().flatten() {
                let before = old.and_then(|o| o.get(name));
                if before != Some(value) {
                    let below = compare_at(before, Some(value), place.field(name).0);
                    diff.add_child(&field_step(name), below);
                }
            }
            for (name, value) in old.into_iter().flatten() {
                if new.is_none_or(|n| !n.contains_key(name)) {
                    let below = compare_at(Some(value), None, place.field(name).0);
                    diff.add_child(&field_step(name), below);
                }
            }
        }
        Shape::List => compare_lists(old, new, place, diff),
    }
}

fn compare_lists(old: Option<&Value>, new: Option<&Value>, place: Place<'_>, diff: &mut Diff) {
    let (old, new) = (steps(old, place), steps(new, place));
    let (old_places, new_places) = (first_places(&old), first_places(&new));
    for (step, item) in &new {
        let before = old_places.get(step.as_str()).copied();
        if before != Some(*item) {
            diff.add_child(step, compare_at(before, Some(item), place.items()));
        }
    }
    for (step, item) in &old {
        if !new_places.contains_key(step.as_str()) {
            diff.add_child(step, compare_at(Some(item), None, place.items()));
        }
    }
}

/// The items of a list with what tells them apart.
fn steps<'v>(list: Option<&'v Value>, place: Place<'_>) -> Vec<(String, &'v Value)> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items
        .filter_map(|item| Some((place.item_step(item).ok()?, item)))
        .collect()
}

/// Of items that occur twice the first one counts.
fn first_places<'i>(items: &'i [(String, &'i Value)]) -> HashMap<&'i str, &'i Value> {
    let last_to_first = items.iter().rev();
    last_to_first
        .map(|(step, item)| (step.as_str(), *item))
        .collect()
}
