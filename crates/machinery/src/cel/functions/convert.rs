//! Sizes, conversions and optional values.

use std::sync::Arc;

use super::{Outcome, no_overload, time};
use crate::cel::{Error, Val, fail};

pub(super) fn size<'a>(value: &Val<'a>) -> Outcome<'a> {
    let size = match value {
        Val::Text(text) => text.chars().count(),
        Val::Bytes(bytes) => bytes.len(),
        other => match other.size() {
            Some(size) => size,
            None => return no_overload(),
        },
    };
    Ok(Val::Int(i64::try_from(size).unwrap_or(i64::MAX)))
}

/// Converts to the type that the function is named after.
pub(super) fn to<'a>(name: &str, value: &Val<'a>) -> Outcome<'a> {
    match name {
        "int" => to_int(value),
        "uint" => match to_int(value) {
            _ if matches!(value, Val::Uint(_)) => Ok(value.clone()),
            _ if value.as_text().is_some() => parse(value, str::parse, Val::Uint, "uint"),
            Ok(Val::Int(number)) => match u64::try_from(number) {
                Ok(number) => Ok(Val::Uint(number)),
                Err(_) => fail("unsigned integer overflow"),
            },
            other => other,
        },
        "double" => match value {
            Val::Double(_) => Ok(value.clone()),
            Val::Text(_) => parse(value, str::parse, Val::Double, "double"),
            other => match other.whole() {
                Some(number) => Ok(Val::Double(number as f64)),
                None => no_overload(),
            },
        },
        "bool" => match value {
            Val::Bool(_) => Ok(value.clone()),
            Val::Text(text) => match text.as_ref() {
                "true" | "True" | "TRUE" | "t" | "1" => Ok(Val::Bool(true)),
                "false" | "False" | "FALSE" | "f" | "0" => Ok(Val::Bool(false)),
                other => fail(format!("type conversion error from '{other}' to 'bool'")),
            },
            _ => no_overload(),
        },
        "bytes" => match value {
            Val::Bytes(_) => Ok(value.clone()),
            Val::Text(text) => Ok(Val::Bytes(Arc::new(text.as_bytes().to_vec()))),
            _ => no_overload(),
        },
        _ => to_text(value).map(Val::text),
    }
}

fn parse<'a, T, E>(
    value: &Val<'a>,
    read: fn(&str) -> Result<T, E>,
    make: fn(T) -> Val<'a>,
    kind: &str,
) -> Outcome<'a> {
    let text = value.as_text().unwrap_or_default();
    match read(text) {
        Ok(number) => Ok(make(number)),
        Err(_) => fail(format!("type conversion error from '{text}' to '{kind}'")),
    }
}

fn to_int<'a>(value: &Val<'a>) -> Outcome<'a> {
    match value {
        Val::Int(_) => Ok(value.clone()),
        Val::Uint(number) => match i64::try_from(*number) {
            Ok(number) => Ok(Val::Int(number)),
            Err(_) => fail("integer overflow"),
        },
        Val::Double(number) if number.is_finite() && number.abs() < 9.223_372_036_854_775e18 => {
            Ok(Val::Int(number.trunc() as i64))
        }
        Val::Double(_) => fail("integer overflow"),
        Val::Text(_) => parse(value, str::parse, Val::Int, "int"),
        Val::Timestamp(time) => {
            let seconds = time.div_euclid(1_000_000_000);
            Ok(Val::Int(i64::try_from(seconds).unwrap_or(i64::MAX)))
        }
        _ => no_overload(),
    }
}

/// The text of a value.
///
/// # Errors
/// If it has none.
pub(in crate::cel) fn to_text(value: &Val<'_>) -> Result<String, Error> {
    Ok(match value {
        Val::Text(text) => text.clone().into_owned(),
        Val::Bool(value) => value.to_string(),
        Val::Int(number) => number.to_string(),
        Val::Uint(number) => number.to_string(),
        Val::Double(number) => number.to_string(),
        Val::Bytes(bytes) => match String::from_utf8((**bytes).clone()) {
            Ok(text) => text,
            Err(_) => return fail("invalid UTF-8 in bytes, cannot convert to string"),
        },
        Val::Timestamp(_) | Val::Duration(_) => time::to_text(value),
        Val::Quantity(quantity) => quantity.to_string(),
        Val::Special(_, text) => text.to_string(),
        Val::Type(name) => (*name).to_owned(),
        _ => return fail("no such overload"),
    })
}

/// The value as an optional one: none, if it is the zero of its type.
pub(super) fn non_zero<'a>(value: &Val<'a>) -> Val<'a> {
    let zero = match value {
        Val::Null => true,
        Val::Bool(value) => !value,
        Val::Int(number) => *number == 0,
        Val::Uint(number) => *number == 0,
        Val::Double(number) => *number == 0.0,
        Val::Text(text) => text.is_empty(),
        Val::Bytes(bytes) => bytes.is_empty(),
        Val::Duration(length) => *length == 0,
        other => other.size() == Some(0),
    };
    if zero {
        Val::Optional(None)
    } else {
        Val::some(value.clone())
    }
}

/// A function of an optional value.
pub(super) fn of_optional<'a>(
    name: &str,
    value: Option<&Val<'a>>,
    rest: &[Val<'a>],
) -> Outcome<'a> {
    match (name, rest) {
        ("hasValue", []) => Ok(Val::Bool(value.is_some())),
        ("value", []) => match value {
            Some(value) => Ok(value.clone()),
            None => fail("optional.none() dereference"),
        },
        ("orValue", [other]) => Ok(value.unwrap_or(other).clone()),
        ("or", [other @ Val::Optional(_)]) => Ok(match value {
            Some(value) => Val::some(value.clone()),
            None => other.clone(),
        }),
        _ => no_overload(),
    }
}
