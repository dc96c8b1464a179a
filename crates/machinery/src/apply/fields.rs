//! Sets of fields, in memory and as `fieldsV1`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The deepest path that is read from an entry; deeper ones are not readable.
const MAX_DEPTH: usize = 130;

/// A set of paths. A step is written as in `fieldsV1`: `f:name` is a field,
/// `k:{"name":"x"}` the list item with those keys, `v:"x"` the item of that
/// value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// The path that leads here is in the set.
    pub(super) member: bool,
    pub(super) children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// The set of the single path that leads here.
    pub(super) fn leaf() -> Self {
        Self {
            member: true,
            children: BTreeMap::new(),
        }
    }

    /// Reads a `fieldsV1` object. `None` if it is not one.
    pub fn parse(fields: &Value) -> Option<Self> {
        let mut set = Self::read(fields, 0)?;
        set.member = false;
        Some(set)
    }

    fn read(fields: &Value, depth: usize) -> Option<Self> {
        let map = fields.as_object().filter(|_| depth < MAX_DEPTH)?;
        let mut set = Self {
            member: map.is_empty() || map.contains_key("."),
            ..Self::default()
        };
        for (step, below) in map.iter().filter(|(step, _)| *step != ".") {
            set.children
                .insert(canonical_step(step)?, Self::read(below, depth + 1)?);
        }
        Some(set)
    }

    /// The `fieldsV1` object.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        for (step, below) in &self.children {
            map.insert(step.clone(), below.to_value());
        }
        Value::Object(map)
    }

    /// Adds a path.
    pub fn insert(&mut self, path: &[&str]) {
        match path {
            [] => self.member = true,
            [step, rest @ ..] => self
                .children
                .entry((*step).to_owned())
                .or_default()
                .insert(rest),
        }
    }

    /// True if no path is in the set.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(Self::is_empty)
    }

    /// True if the path is in the set.
    pub fn contains(&self, path: &[&str]) -> bool {
        match path {
            [] => self.member,
            [step, rest @ ..] => self.children.get(*step).is_some_and(|c| c.contains(rest)),
        }
    }

    /// Adds what is below a step, unless that is nothing.
    pub(super) fn add_child(&mut self, step: &str, below: FieldSet) {
        if !below.is_empty() {
            match self.children.get_mut(step) {
                Some(present) => *present = present.union(&below),
                None => {
                    self.children.insert(step.to_owned(), below);
                }
            }
        }
    }

    /// The paths of either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut set = self.clone();
        set.member |= other.member;
        for (step, below) in &other.children {
            match set.children.get_mut(step) {
                Some(present) => *present = present.union(below),
                None => {
                    set.children.insert(step.clone(), below.clone());
                }
            }
        }
        set
    }

    /// The paths of this set that are not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a && !b, true)
    }

    /// The paths of both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a && b, false)
    }

    fn combine(&self, other: &Self, member: fn(bool, bool) -> bool, keep_alone: bool) -> Self {
        let mut set = Self {
            member: member(self.member, other.member),
            ..Self::default()
        };
        for (step, below) in &self.children {
            match other.children.get(step) {
                Some(b) => set.add_child(step, below.combine(b, member, keep_alone)),
                None if keep_alone => set.add_child(step, below.clone()),
                None => {}
            }
        }
        set
    }

    /// The set with every field on the way to a member as a member: owning
    /// `.spec.x` keeps `.spec` alive.
    #[must_use]
    pub(super) fn with_containers(&self) -> Self {
        let children = self.children.iter().map(|(step, below)| {
            let mut below = below.with_containers();
            below.member |= step.starts_with("f:");
            (step.clone(), below)
        });
        Self {
            member: self.member,
            children: children.collect(),
        }
    }

    /// The paths in words: `.spec.containers[name="x"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths(&mut String::new(), &mut paths);
        paths
    }

    fn collect_paths(&self, path: &mut String, paths: &mut Vec<String>) {
        if self.member {
            paths.push(path.clone());
        }
        for (step, below) in &self.children {
            let length = path.len();
            path.push_str(&step_in_words(step));
            below.collect_paths(path, paths);
            path.truncate(length);
        }
    }
}

/// The step of a named field.
pub(super) fn field_step(name: &str) -> String {
    format!("f:{name}")
}

/// The step of a list item of a value.
pub(super) fn value_step(value: &Value) -> String {
    format!("v:{value}")
}

/// The step of a list item with keys.
pub(super) fn key_step<'a>(keys: impl IntoIterator<Item = (&'a str, Value)>) -> String {
    // Sorted by hand: whether a JSON map sorts is a feature of its crate.
    let keys: BTreeMap<&str, Value> = keys.into_iter().collect();
    let fields: Vec<String> = keys
        .iter()
        .map(|(name, value)| format!("{}:{value}", Value::from(*name)))
        .collect();
    format!("k:{{{}}}", fields.join(","))
}

/// Brings a step that a client wrote to the form used here.
fn canonical_step(step: &str) -> Option<String> {
    let (kind, rest) = step.split_once(':')?;
    match kind {
        "f" | "i" => Some(step.to_owned()),
        "v" => Some(value_step(&serde_json::from_str(rest).ok()?)),
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).ok()?;
            Some(key_step(keys.iter().map(|(k, v)| (k.as_str(), v.clone()))))
        }
        _ => None,
    }
}

fn step_in_words(step: &str) -> String {
    let Some((kind, rest)) = step.split_once(':') else {
        return step.to_owned();
    };
    match kind {
        "f" => format!(".{rest}"),
        "v" => format!("[={rest}]"),
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: BTreeMap<&String, &Value> = keys.iter().collect();
            let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", keys.join(","))
        }
        _ => format!("[{rest}]"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sets_are_read_written_and_combined() {
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:ports": {"k:{\"protocol\":\"TCP\",\"port\":80}": {".": {}, "f:name": {}}},
                "f:list": {"v:\"x\"": {}}}});
        let set = FieldSet::parse(&fields).unwrap();
        assert_eq!(
            set.paths(),
            [
                ".metadata.labels",
                ".metadata.labels.a",
                ".spec.list[=\"x\"]",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].name"
            ]
        );
        let mut written = fields.clone();
        let ports = &mut written["f:spec"]["f:ports"];
        *ports = json!({"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}});
        assert_eq!(set.to_value(), written);
        let mut one = FieldSet::default();
        one.insert(&["f:metadata", "f:labels", "f:a"]);
        assert_eq!(set.intersection(&one), one);
        assert!(one.difference(&set).is_empty());
        assert_eq!(set.difference(&one).union(&one), set);
        assert!(one.with_containers().contains(&["f:metadata"]));
        for bad in [
            json!([]),
            json!({"x": {}}),
            json!({"f:a": 1}),
            json!({"k:x": {}}),
        ] {
            assert!(FieldSet::parse(&bad).is_none(), "{bad}");
        }
    }
}
