//! The order of merged lists: items of the patch in the patch's order, the
//! others where they stood.

use std::collections::HashMap;

use serde_json::Value;

use super::{MergedList, identity_text};
use crate::error::ApiError;

/// Where each identity first stands in a list. Lists come from tenants and may
/// be long: no search may be quadratic.
struct Places(HashMap<String, usize>);

impl Places {
    fn of(&self, list: &MergedList<'_>, item: &Value) -> Option<usize> {
        self.0.get(&identity_text(list.identity(item)?)).copied()
    }
}

impl MergedList<'_> {
    fn places(&self, list: &[Value]) -> Places {
        let mut places = HashMap::with_capacity(list.len());
        for (index, item) in list.iter().enumerate() {
            if let Some(identity) = self.identity(item) {
                places.entry(identity_text(identity)).or_insert(index);
            }
        }
        Places(places)
    }

    /// Puts `merged` in order: items of `order` as there, the others as in
    /// `original`, and before an item of `order` only if they stood before it.
    pub(super) fn arrange(
        &self,
        merged: Vec<Value>,
        order: &[Value],
        original: &[Value],
    ) -> Vec<Value> {
        let (order, original) = (self.places(order), self.places(original));
        let mut listed: Vec<(usize, Value)> = Vec::new();
        let mut others = Vec::new();
        for item in merged {
            match order.of(self, &item) {
                Some(position) => listed.push((position, item)),
                None => others.push(item),
            }
        }
        listed.sort_by_key(|(position, _)| *position);
        let mut result = Vec::with_capacity(listed.len() + others.len());
        let mut listed = listed.into_iter().map(|(_, item)| item).peekable();
        let mut others = others.into_iter().peekable();
        while let (Some(other), Some(item)) = (others.peek(), listed.peek()) {
            let places = original.of(self, other).zip(original.of(self, item));
            let next = match places {
                Some((other, item)) if other < item => others.next(),
                _ => listed.next(),
            };
            result.extend(next);
        }
        result.extend(others);
        result.extend(listed);
        result
    }

    /// The items of the patch must stand in the order that it gives.
    pub(super) fn check_order(&self, patch: &[Value], order: &[Value]) -> Result<(), ApiError> {
        let places = self.places(order);
        let mut next = 0;
        for item in patch.iter().filter(|i| i.get(super::DIRECTIVE).is_none()) {
            match places.of(self, item) {
                Some(position) if position >= next => next = position,
                _ => {
                    return Err(ApiError::bad_request(format!(
                        "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                        Value::from(patch),
                        Value::from(order)
                    )));
                }
            }
        }
        Ok(())
    }
}
