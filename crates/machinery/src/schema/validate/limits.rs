//! Limits on single values.

use std::cmp::Ordering;

use serde_json::{Number, Value};

use super::{Path, Validator};
use crate::field::{FieldError, FieldErrorKind};
use crate::schema::Constraints;

impl Validator {
    pub(super) fn limits(&mut self, limits: &Constraints, value: &Value, path: &Path<'_>) {
        if !limits.enumeration.is_empty() && !limits.enumeration.iter().any(|v| same(v, value)) {
            let texts: Vec<String> = limits
                .enumeration
                .iter()
                .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                .collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            self.add(FieldError::not_supported(
                &path.to_field(),
                value.clone(),
                &texts,
            ));
        }
        match value {
            Value::Number(number) => self.number(limits, number, value, path),
            Value::String(text) => self.text(limits, text, value, path),
            Value::Array(items) => {
                let count = items.len() as u64;
                self.count(
                    count,
                    limits.min_items,
                    limits.max_items,
                    "items",
                    value,
                    path,
                );
            }
            Value::Object(map) => {
                let count = map.len() as u64;
                let (least, most) = (limits.min_properties, limits.max_properties);
                self.count(count, least, most, "properties", value, path);
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn number(&mut self, limits: &Constraints, n: &Number, value: &Value, path: &Path<'_>) {
        if let Some(most) = &limits.maximum {
            let order = compare(n, most);
            if order == Ordering::Greater || (limits.exclusive_maximum && order == Ordering::Equal)
            {
                let or_equal = if limits.exclusive_maximum {
                    ""
                } else {
                    " or equal to"
                };
                self.add_invalid(
                    path,
                    value,
                    &format!("should be less than{or_equal} {most}"),
                );
            }
        }
        if let Some(least) = &limits.minimum {
            let order = compare(n, least);
            if order == Ordering::Less || (limits.exclusive_minimum && order == Ordering::Equal) {
                let or_equal = if limits.exclusive_minimum {
                    ""
                } else {
                    " or equal to"
                };
                self.add_invalid(
                    path,
                    value,
                    &format!("should be greater than{or_equal} {least}"),
                );
            }
        }
        if let Some(factor) = &limits.multiple_of
            && !is_multiple(n, factor)
        {
            self.add_invalid(path, value, &format!("should be a multiple of {factor}"));
        }
    }

    fn text(&mut self, limits: &Constraints, text: &str, value: &Value, path: &Path<'_>) {
        let length = || text.chars().count() as u64;
        if let Some(most) = limits.max_length.filter(|most| length() > *most) {
            self.add(FieldError {
                kind: FieldErrorKind::TooLong,
                path: path.to_field(),
                value: None,
                detail: format!("may not be more than {most} bytes"),
            });
        }
        if let Some(least) = limits.min_length.filter(|least| length() < *least) {
            self.add_invalid(
                path,
                value,
                &format!("should be at least {least} chars long"),
            );
        }
        if let Some(pattern) = limits.pattern.as_ref().filter(|p| !p.matches(text)) {
            self.add_invalid(path, value, &format!("should match '{}'", pattern.as_str()));
        }
    }

    fn count(
        &mut self,
        count: u64,
        least: Option<u64>,
        most: Option<u64>,
        what: &str,
        value: &Value,
        path: &Path<'_>,
    ) {
        if let Some(most) = most.filter(|most| count > *most) {
            self.add(FieldError {
                kind: FieldErrorKind::TooMany,
                path: path.to_field(),
                value: Some(Value::from(count)),
                detail: format!("must have at most {most} items"),
            });
        }
        if let Some(least) = least.filter(|least| count < *least) {
            self.add_invalid(path, value, &format!("should have at least {least} {what}"));
        }
    }
}

/// Whole numbers are compared exactly.
fn compare(a: &Number, b: &Number) -> Ordering {
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => {
            let (a, b) = (a.as_f64(), b.as_f64());
            a.partial_cmp(&b).unwrap_or(Ordering::Equal)
        }
    }
}

fn whole(n: &Number) -> Option<i128> {
    n.as_i64()
        .map(i128::from)
        .or_else(|| n.as_u64().map(i128::from))
}

fn is_multiple(n: &Number, factor: &Number) -> bool {
    match (whole(n), whole(factor)) {
        (_, Some(0)) => true,
        (Some(n), Some(factor)) => n % factor == 0,
        _ => {
            let ratio = n.as_f64().unwrap_or(0.0) / factor.as_f64().unwrap_or(1.0);
            (ratio - ratio.round()).abs() < 1e-9
        }
    }
}

/// Equality that does not tell 1 from 1.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare(a, b) == Ordering::Equal,
        _ => a == b,
    }
}
