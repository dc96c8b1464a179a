//! Scalars of built-in kinds: what Go's decoder takes, and in what form it
//! gives it back.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::quantity::Quantity;
use crate::schema::{Schema, Type};
use crate::time;

/// Why a scalar is refused.
pub enum Problem {
    /// It has the wrong type; the text says which one was found.
    Type(String),
    /// Its text has the wrong form.
    Form(String),
}

/// Checks a scalar and brings it to its canonical form.
pub fn check(schema: &Schema, value: Value) -> Result<Value, Problem> {
    match (schema.kind(), value) {
        (Type::Any, value) => Ok(value),
        (Type::String, Value::String(text)) => text_of(schema, text).map(Value::String),
        (Type::Boolean, value @ Value::Bool(_)) => Ok(value),
        (Type::Number, value @ Value::Number(_)) => Ok(value),
        (Type::Integer, Value::Number(number)) => {
            let limit = if schema.format() == Some("int32") {
                i64::from(i32::MAX)
            } else {
                i64::MAX
            };
            match number.as_i64() {
                Some(n) if (-limit - 1..=limit).contains(&n) => Ok(Value::Number(number)),
                _ => Err(Problem::Type(format!("number {number}"))),
            }
        }
        (Type::IntOrString, value @ Value::String(_)) => Ok(value),
        (Type::IntOrString, Value::Number(number)) => match number.as_i64().map(i32::try_from) {
            Some(Ok(_)) => Ok(Value::Number(number)),
            _ => Err(Problem::Type(format!("number {number}"))),
        },
        (Type::Quantity, value @ (Value::String(_) | Value::Number(_))) => {
            match Quantity::from_value(&value) {
                Ok(quantity) => Ok(Value::String(quantity.to_string())),
                Err(error) => Err(Problem::Form(error.to_string())),
            }
        }
        (_, value) => Err(Problem::Type(found(&value).to_owned())),
    }
}

fn found(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn text_of(schema: &Schema, text: String) -> Result<String, Problem> {
    match schema.format() {
        Some("byte") => base64(text),
        Some("date-time") => {
            let Some(at) = time::parse(&text) else {
                let layout = "2006-01-02T15:04:05Z07:00";
                return Err(Problem::Form(format!(
                    "parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\""
                )));
            };
            let micro = schema.name().is_some_and(|n| n.ends_with(".MicroTime"));
            Ok(if micro {
                time::rfc3339_micro(at.as_microsecond())
            } else {
                time::rfc3339(at.as_second())
            })
        }
        _ => Ok(text),
    }
}

/// Checks base64 with padding, and drops line breaks as Go does.
fn base64(text: String) -> Result<String, Problem> {
    let text = match text.contains(['\n', '\r']) {
        true => text.replace(['\n', '\r'], ""),
        false => text,
    };
    let body = text.trim_end_matches('=');
    let padding = text.len() - body.len();
    let bad = body
        .bytes()
        .position(|b| !(b.is_ascii_alphanumeric() || b == b'+' || b == b'/'));
    let at = match bad {
        Some(at) => at,
        None if padding > 2 || body.len() % 4 == 1 || !text.len().is_multiple_of(4) => text.len(),
        None => return Ok(text),
    };
    Err(Problem::Form(format!(
        "illegal base64 data at input byte {at}"
    )))
}

/// What a null in a list or map stands for: Go's zero value.
pub fn zero(schema: Option<&Schema>) -> Value {
    let Some(schema) = schema.filter(|s| !s.is_custom()) else {
        return Value::Null;
    };
    match schema.kind() {
        Type::Any => Value::Null,
        Type::Object => Value::Object(Map::new()),
        Type::Array => Value::Array(Vec::new()),
        Type::String => Value::String(String::new()),
        Type::Integer | Type::Number | Type::IntOrString => Value::from(0),
        Type::Boolean => Value::Bool(false),
        Type::Quantity => Value::from("0"),
    }
}

/// The Go type that a schema stands for.
pub fn go_type(schema: &Schema) -> Cow<'static, str> {
    if let Some(name) = schema.name() {
        let mut parts = name.rsplit('.');
        let (ty, package) = (parts.next(), parts.next());
        return format!("{}.{}", package.unwrap_or_default(), ty.unwrap_or_default()).into();
    }
    match schema.kind() {
        Type::Any => "interface {}".into(),
        Type::String if schema.format() == Some("byte") => "[]uint8".into(),
        Type::String => "string".into(),
        Type::Boolean => "bool".into(),
        Type::Number => "float64".into(),
        Type::Integer if schema.format() == Some("int32") => "int32".into(),
        Type::Integer => "int64".into(),
        Type::IntOrString => "intstr.IntOrString".into(),
        Type::Quantity => "resource.Quantity".into(),
        Type::Array => format!("[]{}", below(schema.items())).into(),
        Type::Object => format!("map[string]{}", below(schema.map_values())).into(),
    }
}

fn below(schema: Option<&Schema>) -> Cow<'static, str> {
    schema.map_or("interface {}".into(), go_type)
}
