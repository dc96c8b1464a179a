//! The part of JSONPath that printer columns use: `.spec.a`, `['a.b']`,
//! `[0]`, `[-1]`, `[*]`, `[?(@.type=="Ready")]`.

use serde_json::Value;

/// Longest path that is read, in bytes; honest ones have under 100.
const MAX_PATH: usize = 1024;
/// Most values that one path finds.
const MAX_FOUND: usize = 64;

/// A path that was read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// Items whose field at the path compares so with the value.
    Filter(Vec<Step>, Comparison, Value),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
}

impl JsonPath {
    /// Reads a path, `None` if it is malformed or beyond what is understood.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_PATH {
            return None;
        }
        let text = text
            .strip_prefix('{')
            .and_then(|t| t.strip_suffix('}'))
            .unwrap_or(text);
        let text = text.strip_prefix('$').unwrap_or(text);
        steps(text).map(Self)
    }

    /// The values at the path, in order.
    pub(super) fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        walk(&self.0, object)
    }
}

fn walk<'a>(steps: &[Step], object: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![object];
    for step in steps {
        let next = found.into_iter().flat_map(|value| apply(step, value));
        found = next.take(MAX_FOUND).collect();
    }
    found
}

fn apply<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    match (step, value) {
        (Step::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
        (Step::Index(index), Value::Array(list)) => {
            let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
            let index = if *index < 0 {
                index.saturating_add(length)
            } else {
                *index
            };
            usize::try_from(index)
                .ok()
                .and_then(|i| list.get(i))
                .into_iter()
                .collect()
        }
        (Step::All, Value::Array(list)) => list.iter().take(MAX_FOUND).collect(),
        (Step::All, Value::Object(map)) => map.values().take(MAX_FOUND).collect(),
        (Step::Filter(path, comparison, wanted), Value::Array(list)) => list
            .iter()
            .filter(|item| {
                let equal = walk(path, item).contains(&wanted);
                equal == (*comparison == Comparison::Equal)
            })
            .take(MAX_FOUND)
            .collect(),
        _ => Vec::new(),
    }
}

fn steps(mut rest: &str) -> Option<Vec<Step>> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let step;
        (step, rest) = if let Some(tail) = rest.strip_prefix('[') {
            bracket(tail)?
        } else {
            let tail = rest
                .strip_prefix('.')
                .or_else(|| found.is_empty().then_some(rest))?;
            if tail.is_empty() && found.is_empty() {
                return Some(found);
            }
            if let Some(tail) = tail.strip_prefix('*') {
                (Step::All, tail)
            } else if let Some(tail) = tail.strip_prefix('[') {
                bracket(tail)?
            } else {
                name(tail)?
            }
        };
        found.push(step);
    }
    Some(found)
}

/// A field name, with `\.` for a dot inside of it.
fn name(text: &str) -> Option<(Step, &str)> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => name.push(chars.next()?.1),
            '.' | '[' => {
                end = at;
                break;
            }
            other => name.push(other),
        }
    }
    (!name.is_empty()).then(|| (Step::Field(name), &text[end..]))
}

/// What stands between brackets; `text` starts behind the opening one.
fn bracket(text: &str) -> Option<(Step, &str)> {
    if let Some(tail) = text.strip_prefix("?(") {
        let (inner, rest) = tail.split_once(")]")?;
        return Some((filter(inner.trim())?, rest));
    }
    if let Some(quote @ ('\'' | '"')) = text.chars().next() {
        let (name, rest) = text[1..].split_once(quote)?;
        let rest = rest.strip_prefix(']')?;
        return Some((Step::Field(name.replace('\\', "")), rest));
    }
    let (inner, rest) = text.split_once(']')?;
    let step = match inner.trim() {
        "*" => Step::All,
        number => Step::Index(number.parse().ok()?),
    };
    Some((step, rest))
}

/// `@.type=="Ready"`.
fn filter(text: &str) -> Option<Step> {
    let (path, comparison, value) = if let Some((path, value)) = text.split_once("==") {
        (path, Comparison::Equal, value)
    } else {
        let (path, value) = text.split_once("!=")?;
        (path, Comparison::NotEqual, value)
    };
    let value = value.trim();
    let value = match value.strip_prefix('\'').and_then(|v| v.strip_suffix('\'')) {
        Some(text) => Value::from(text),
        None => serde_json::from_str(value).ok()?,
    };
    let path = path.trim().strip_prefix('@')?;
    // A filter inside of a filter would make the work grow with each level.
    if path.contains("?(") {
        return None;
    }
    Some(Step::Filter(steps(path)?, comparison, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_find_values() {
        let object = json!({
            "spec": {"a": 1, "b.c": "x", "list": [{"n": 1}, {"n": 2}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Old", "status": "False"}]},
        });
        for (path, expected) in [
            (".spec.a", json!([1])),
            ("{.spec.a}", json!([1])),
            ("$.spec.a", json!([1])),
            (".spec.b\\.c", json!(["x"])),
            (".spec['b.c']", json!(["x"])),
            (".spec.list[0].n", json!([1])),
            (".spec.list[-1].n", json!([2])),
            (".spec.list[*].n", json!([1, 2])),
            (
                ".status.conditions[?(@.type==\"Ready\")].status",
                json!(["True"]),
            ),
            (
                ".status.conditions[?(@.type=='Old')].status",
                json!(["False"]),
            ),
            (
                ".status.conditions[?(@.type!=\"Ready\")].status",
                json!(["False"]),
            ),
            (".spec.none", json!([])),
        ] {
            let path = JsonPath::parse(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(json!(path.find(&object)), expected, "{path:?}");
        }
        for bad in [".a[", ".a[x]", "a..b", ".a[?(@.b)]", "..a"] {
            assert_eq!(JsonPath::parse(bad), None, "{bad}");
        }
    }
}
