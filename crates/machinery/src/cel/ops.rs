//! Operators.

use std::cmp::Ordering;
use std::sync::Arc;

use super::ast::Binary;
use super::eval::Budget;
use super::{Error, Val, fail};

type Outcome<'a> = Result<Val<'a>, Error>;

/// An operator of two sides.
///
/// # Errors
/// Sides that it does not take, and numbers that overflow.
pub(super) fn binary<'a>(
    operator: Binary,
    left: &Val<'a>,
    right: &Val<'a>,
    budget: &mut Budget,
) -> Outcome<'a> {
    budget.spend(weight(left).min(weight(right)))?;
    match operator {
        Binary::Equal => Ok(Val::Bool(left.equals(right))),
        Binary::NotEqual => Ok(Val::Bool(!left.equals(right))),
        Binary::In => contains(right, left, budget),
        Binary::Less | Binary::LessOrEqual | Binary::Greater | Binary::GreaterOrEqual => {
            let order = left.compare(right);
            if order.is_none() && !(is_double(left) || is_double(right)) {
                return fail("no such overload");
            }
            Ok(Val::Bool(match operator {
                Binary::Less => order == Some(Ordering::Less),
                Binary::LessOrEqual => order.is_some_and(Ordering::is_le),
                Binary::Greater => order == Some(Ordering::Greater),
                _ => order.is_some_and(Ordering::is_ge),
            }))
        }
        Binary::Add => add(left, right, budget),
        _ => arithmetic(operator, left, right),
    }
}

/// What it costs to compare or copy a value.
pub(super) fn weight(value: &Val<'_>) -> usize {
    match value {
        Val::Text(text) => text.len() / 10,
        Val::Bytes(bytes) => bytes.len() / 10,
        other => other.size().unwrap_or(0),
    }
}

fn is_double(value: &Val<'_>) -> bool {
    matches!(value, Val::Double(_))
}

/// `value in range`.
fn contains<'a>(range: &Val<'a>, value: &Val<'a>, budget: &mut Budget) -> Outcome<'a> {
    if let Some(size) = range.size().filter(|_| range.is_list()) {
        for index in 0..size {
            budget.spend(1)?;
            if range.item(index).is_some_and(|item| item.equals(value)) {
                return Ok(Val::Bool(true));
            }
        }
        return Ok(Val::Bool(false));
    }
    if range.entries().is_none() {
        return fail("no such overload");
    }
    Ok(Val::Bool(range.at_key(value)?.is_some()))
}

fn overflow<'a>() -> Outcome<'a> {
    fail("integer overflow")
}

fn add<'a>(left: &Val<'a>, right: &Val<'a>, budget: &mut Budget) -> Outcome<'a> {
    match (left, right) {
        (Val::Text(a), Val::Text(b)) => {
            budget.spend((a.len() + b.len()) / 10)?;
            Ok(Val::text(format!("{a}{b}")))
        }
        (Val::Bytes(a), Val::Bytes(b)) => {
            budget.spend((a.len() + b.len()) / 10)?;
            Ok(Val::Bytes(Arc::new([&***a, &***b].concat())))
        }
        (a, b) if a.is_list() && b.is_list() => {
            let mut items = a.items().unwrap_or_default();
            items.extend(b.items().unwrap_or_default());
            budget.spend(items.len())?;
            Ok(Val::list(items))
        }
        (Val::Timestamp(time), Val::Duration(by)) | (Val::Duration(by), Val::Timestamp(time)) => {
            timestamp(time + i128::from(*by))
        }
        (Val::Duration(a), Val::Duration(b)) => a
            .checked_add(*b)
            .map_or_else(overflow, |d| Ok(Val::Duration(d))),
        _ => arithmetic(Binary::Add, left, right),
    }
}

/// A point in time that has a form in text.
fn timestamp<'a>(nanoseconds: i128) -> Outcome<'a> {
    match jiff::Timestamp::from_nanosecond(nanoseconds) {
        Ok(_) => Ok(Val::Timestamp(nanoseconds)),
        Err(_) => fail("timestamp overflow"),
    }
}

fn arithmetic<'a>(operator: Binary, left: &Val<'a>, right: &Val<'a>) -> Outcome<'a> {
    let divides = matches!(operator, Binary::Divide | Binary::Modulo);
    match (left, right) {
        (Val::Int(_), Val::Int(0)) | (Val::Uint(_), Val::Uint(0)) if divides => {
            fail(if operator == Binary::Divide {
                "division by zero"
            } else {
                "modulus by zero"
            })
        }
        (Val::Int(a), Val::Int(b)) => {
            let result = match operator {
                Binary::Add => a.checked_add(*b),
                Binary::Subtract => a.checked_sub(*b),
                Binary::Multiply => a.checked_mul(*b),
                Binary::Divide => a.checked_div(*b),
                _ => a.checked_rem(*b),
            };
            result.map_or_else(overflow, |n| Ok(Val::Int(n)))
        }
        (Val::Uint(a), Val::Uint(b)) => {
            let result = match operator {
                Binary::Add => a.checked_add(*b),
                Binary::Subtract => a.checked_sub(*b),
                Binary::Multiply => a.checked_mul(*b),
                Binary::Divide => a.checked_div(*b),
                _ => a.checked_rem(*b),
            };
            result.map_or_else(overflow, |n| Ok(Val::Uint(n)))
        }
        (Val::Double(a), Val::Double(b)) => match operator {
            Binary::Add => Ok(Val::Double(a + b)),
            Binary::Subtract => Ok(Val::Double(a - b)),
            Binary::Multiply => Ok(Val::Double(a * b)),
            Binary::Divide => Ok(Val::Double(a / b)),
            _ => fail("no such overload"),
        },
        (Val::Timestamp(a), Val::Timestamp(b)) if operator == Binary::Subtract => {
            i64::try_from(a - b).map_or_else(|_| overflow(), |d| Ok(Val::Duration(d)))
        }
        (Val::Timestamp(a), Val::Duration(b)) if operator == Binary::Subtract => {
            timestamp(a - i128::from(*b))
        }
        (Val::Duration(a), Val::Duration(b)) if operator == Binary::Subtract => a
            .checked_sub(*b)
            .map_or_else(overflow, |d| Ok(Val::Duration(d))),
        _ => fail("no such overload"),
    }
}

/// `-value`.
///
/// # Errors
/// What has no negative.
pub(super) fn negate<'a>(value: &Val<'a>) -> Outcome<'a> {
    match value {
        Val::Int(number) => number
            .checked_neg()
            .map_or_else(overflow, |n| Ok(Val::Int(n))),
        Val::Double(number) => Ok(Val::Double(-number)),
        Val::Duration(length) => length
            .checked_neg()
            .map_or_else(overflow, |d| Ok(Val::Duration(d))),
        _ => fail("no such overload"),
    }
}

/// `value[index]`.
///
/// # Errors
/// If there is nothing at that place.
pub(super) fn index<'a>(value: &Val<'a>, index: &Val<'a>) -> Outcome<'a> {
    if let Some(size) = value.size().filter(|_| value.is_list()) {
        let Some(at) = index.whole() else {
            return fail("no such overload");
        };
        let found = usize::try_from(at).ok().and_then(|at| value.item(at));
        return found.map_or_else(
            || fail(format!("index out of bounds: {at} of {size} items")),
            Ok,
        );
    }
    match value.at_key(index)? {
        Some(found) => Ok(found),
        None => fail(format!("no such key: {}", shown(index))),
    }
}

fn shown(key: &Val<'_>) -> String {
    match key {
        Val::Text(text) => text.clone().into_owned(),
        other => other
            .to_json()
            .map_or_else(|_| String::new(), |j| j.to_string()),
    }
}
