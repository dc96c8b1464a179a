//! The columns of `kubectl get` for built-in kinds, after
//! `k8s.io/kubernetes/pkg/printers/internalversion`.

mod access;
mod cluster;
mod events;
mod network;
mod pods;
mod storage;
mod workloads;

use std::sync::Arc;

use coracle_machinery::{object, time};
use serde_json::Value;

use crate::kind::{Column, Kind, TableConvertor};

const NONE: &str = "<none>";
const UNSET: &str = "<unset>";
const UNKNOWN: &str = "<unknown>";

/// Columns and the function that fills them.
struct Table {
    columns: Vec<Column>,
    cells: fn(&Value, i64) -> Vec<Value>,
}

impl TableConvertor for Table {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        (self.cells)(object, now)
    }
}

/// Title, type and priority of a column. The one called `Name` is the name
/// column.
type Head = (&'static str, &'static str, i32);

fn table(heads: &[Head], cells: fn(&Value, i64) -> Vec<Value>) -> Arc<dyn TableConvertor> {
    let columns = heads
        .iter()
        .map(|(name, r#type, priority)| Column {
            name: (*name).into(),
            r#type: (*r#type).into(),
            format: if *name == "Name" { "name" } else { "" }.into(),
            description: "".into(),
            priority: *priority,
        })
        .collect();
    Arc::new(Table { columns, cells })
}

/// What is shown of a kind that has no columns of its own.
pub(super) fn default_table() -> Arc<dyn TableConvertor> {
    table(
        &[("Name", "string", 0), ("Created At", "date", 0)],
        |o, _| vec![name(o), text(o, "/metadata/creationTimestamp")],
    )
}

/// The columns of a built-in kind.
pub(super) fn of(kind: &Kind) -> Arc<dyn TableConvertor> {
    let name = (kind.gvk.group.as_ref(), kind.gvk.kind.as_ref());
    pods::of(name)
        .or_else(|| workloads::of(name))
        .or_else(|| cluster::of(name))
        .or_else(|| events::of(name))
        .or_else(|| network::of(name))
        .or_else(|| storage::of(name))
        .or_else(|| access::of(name))
        .unwrap_or_else(default_table)
}

/// Group and kind.
type KindName<'a> = (&'a str, &'a str);

fn name(o: &Value) -> Value {
    object::name(o).into()
}

fn age(o: &Value, now: i64) -> Value {
    since(o, "/metadata/creationTimestamp", now).into()
}

/// Time since the one at `pointer`.
fn since(o: &Value, pointer: &str, now: i64) -> String {
    time::age(object::text(o, pointer), now)
}

fn text(o: &Value, pointer: &str) -> Value {
    object::text(o, pointer).into()
}

/// The text at `pointer`, or `otherwise` if there is none.
fn text_or(o: &Value, pointer: &str, otherwise: &str) -> Value {
    match object::text(o, pointer) {
        "" => otherwise.into(),
        found => found.into(),
    }
}

/// The number at `pointer`, or zero.
fn number(o: &Value, pointer: &str) -> i64 {
    o.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

fn count(o: &Value, pointer: &str) -> i64 {
    let found = match o.pointer(pointer) {
        Some(Value::Array(list)) => list.len(),
        Some(Value::Object(map)) => map.len(),
        _ => 0,
    };
    i64::try_from(found).unwrap_or(i64::MAX)
}

/// `True` or `False`.
fn flag(value: bool) -> Value {
    if value { "True" } else { "False" }.into()
}

fn flag_or_unset(o: &Value, pointer: &str) -> Value {
    match o.pointer(pointer).and_then(Value::as_bool) {
        Some(value) => flag(value),
        None => UNSET.into(),
    }
}

/// Texts joined by commas, or `<none>`.
fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> Value {
    let list: Vec<&str> = texts.filter(|t| !t.is_empty()).collect();
    if list.is_empty() {
        NONE.into()
    } else {
        list.join(",").into()
    }
}

/// The texts of the list at `pointer`.
fn texts<'a>(o: &'a Value, pointer: &str) -> impl Iterator<Item = &'a str> {
    object::items(o, pointer).iter().filter_map(Value::as_str)
}

/// A map as `a=b,c=d`, or `<none>`.
fn labels(o: &Value, pointer: &str) -> Value {
    let pairs: Vec<String> = object::string_map(o, pointer)
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    joined(pairs.iter().map(String::as_str))
}

/// A label selector as kubectl takes it: `a=b,c in (d,e),!f`.
fn selector(o: &Value, pointer: &str) -> Value {
    let mut parts: Vec<String> = object::string_map(o, &format!("{pointer}/matchLabels"))
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    for term in object::items(o, &format!("{pointer}/matchExpressions")) {
        let key = object::text(term, "/key");
        let values: Vec<&str> = texts(term, "/values").collect();
        let values = values.join(",");
        parts.push(match object::text(term, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    joined(parts.iter().map(String::as_str))
}

/// At most `most` texts and how many more there are.
fn some_of(list: &[String], most: usize) -> String {
    match list.len().checked_sub(most) {
        Some(more) if more > 0 => format!("{} + {more} more...", list[..most].join(",")),
        _ => list.join(","),
    }
}

/// True if a condition of that type has the status `True`.
fn condition(o: &Value, r#type: &str) -> bool {
    let mut all = object::items(o, "/status/conditions").iter();
    all.any(|c| object::text(c, "/type") == r#type && object::text(c, "/status") == "True")
}

#[cfg(test)]
mod tests;
