//! `--set a.b=c,d={x,y},e[0].f=1` in helm's notation, as a tree to be merged
//! over the values files.

use serde_json::{Map, Value};

/// The longest list that an index may ask for: an index is written by hand,
/// and each step up to it takes memory.
const MAX_INDEX: usize = 1000;

/// Deepest path; no key of ours lies deeper than ten.
const MAX_DEPTH: usize = 32;

/// One step of a path.
enum Step {
    Key(String),
    Index(usize),
}

/// Adds the assignments of one `--set` argument to `tree`.
pub(crate) fn apply(tree: &mut Value, argument: &str) -> Result<(), String> {
    for pair in split(argument, ',') {
        if pair.trim().is_empty() {
            continue;
        }
        let mut halves = split_once(&pair, '=').into_iter();
        let (Some(path), Some(text)) = (halves.next(), halves.next()) else {
            return Err(format!("{pair:?} is no assignment: write key=value"));
        };
        let steps = steps(path.trim())?;
        insert(tree, &steps, value(&text)).map_err(|why| format!("{path}: {why}"))?;
    }
    Ok(())
}

/// Splits at `separator` outside braces; a backslash takes the next character
/// literally (it stays in front of it for the next stage).
fn split(text: &str, separator: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0usize;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let current = parts.last_mut().expect("starts with one part");
        match c {
            '\\' => {
                current.push(c);
                current.extend(chars.next());
            }
            '{' => {
                depth += 1;
                current.push(c);
            }
            '}' => {
                depth = depth.saturating_sub(1);
                current.push(c);
            }
            c if c == separator && depth == 0 => parts.push(String::new()),
            c => current.push(c),
        }
    }
    parts
}

fn split_once(text: &str, separator: char) -> Vec<String> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if !escaped && c == separator {
            let rest = &text[at + c.len_utf8()..];
            return vec![text[..at].to_owned(), rest.to_owned()];
        }
        escaped = !escaped && c == '\\';
    }
    vec![text.to_owned()]
}

fn steps(path: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    for part in split(path, '.') {
        let (key, mut indices) = match part.find('[') {
            Some(at) => part.split_at(at),
            None => (part.as_str(), ""),
        };
        if key.is_empty() {
            return Err(format!("{path:?} has an empty key"));
        }
        steps.push(Step::Key(unescape(key)));
        while !indices.is_empty() {
            let parsed = indices
                .strip_prefix('[')
                .and_then(|rest| rest.split_once(']'))
                .and_then(|(index, rest)| Some((index.parse::<usize>().ok()?, rest)));
            let Some((index, rest)) = parsed else {
                return Err(format!("{path:?} has an index that is no number"));
            };
            if index >= MAX_INDEX {
                return Err(format!("{path:?}: an index is at most {}", MAX_INDEX - 1));
            }
            steps.push(Step::Index(index));
            indices = rest;
        }
    }
    if steps.len() > MAX_DEPTH {
        return Err(format!("{path:?} is deeper than {MAX_DEPTH}"));
    }
    Ok(steps)
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\\' {
            plain.extend(chars.next());
        } else {
            plain.push(c);
        }
    }
    plain
}

fn value(text: &str) -> Value {
    if let Some(inner) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        if inner.is_empty() {
            return Value::Array(Vec::new());
        }
        return split(inner, ',').iter().map(|item| value(item)).collect();
    }
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        _ => match text.parse::<i64>() {
            // `007` is a text to helm as well.
            Ok(number) if text == "0" || !text.starts_with('0') => Value::from(number),
            _ => Value::String(unescape(text)),
        },
    }
}

fn insert(tree: &mut Value, steps: &[Step], value: Value) -> Result<(), String> {
    let Some((first, rest)) = steps.split_first() else {
        *tree = value;
        return Ok(());
    };
    let slot = match first {
        Step::Key(key) => {
            if tree.is_null() {
                *tree = Value::Object(Map::new());
            }
            let map = tree.as_object_mut().ok_or("part of the path is no map")?;
            map.entry(key.clone()).or_insert(Value::Null)
        }
        Step::Index(index) => {
            if tree.is_null() {
                *tree = Value::Array(Vec::new());
            }
            let list = tree.as_array_mut().ok_or("part of the path is no list")?;
            if list.len() <= *index {
                list.resize(*index + 1, Value::Null);
            }
            &mut list[*index]
        }
    };
    insert(slot, rest, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn assignments() {
        let cases = [
            ("a.b=c", json!({"a": {"b": "c"}})),
            ("a.b=true,a.c=3", json!({"a": {"b": true, "c": 3}})),
            ("a={x,y}", json!({"a": ["x", "y"]})),
            (r"a\.b/c=d\,e", json!({"a.b/c": "d,e"})),
            ("a[1].b=x", json!({"a": [null, {"b": "x"}]})),
            ("a=b=c", json!({"a": "b=c"})),
            ("a=", json!({"a": ""})),
            ("a=007", json!({"a": "007"})),
        ];
        for (argument, expected) in cases {
            let mut tree = Value::Null;
            apply(&mut tree, argument).expect(argument);
            assert_eq!(tree, expected, "{argument}");
        }
    }

    #[test]
    fn nonsense_is_named() {
        for argument in ["a", ".a=b", "a[x]=b", "a[5000]=b", "a=b,a.c=d"] {
            assert!(apply(&mut Value::Null, argument).is_err(), "{argument}");
        }
    }
}
