//! Quantities, versions and named formats.

use std::cmp::Ordering;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Outcome, no_overload};
use crate::cel::{Val, fail};
use crate::names;
use crate::quantity::Quantity;

const SEMVER: &str = "kubernetes.Semver";
const FORMAT: &str = "kubernetes.NamedFormat";

/// `quantity`, `semver` and the questions whether a text is one.
pub(super) fn make<'a>(name: &str, text: &str, lenient: Option<&Val<'a>>) -> Outcome<'a> {
    let lenient = matches!(lenient, Some(Val::Bool(true)));
    match name {
        "isQuantity" => Ok(Val::Bool(Quantity::parse(text).is_ok())),
        "quantity" => match Quantity::parse(text) {
            Ok(quantity) => Ok(Val::Quantity(Box::new(quantity))),
            Err(error) => fail(error.to_string()),
        },
        "isSemver" => Ok(Val::Bool(semver(text, lenient).is_some())),
        _ => match semver(text, lenient) {
            Some(canonical) => Ok(Val::Special(SEMVER, Arc::from(canonical))),
            None => fail(format!("not a semantic version: {text}")),
        },
    }
}

/// A version in canonical form. A lenient reading allows a leading `v`, fewer
/// than three numbers and leading zeros.
fn semver(text: &str, lenient: bool) -> Option<String> {
    let text = if lenient {
        text.strip_prefix('v').unwrap_or(text)
    } else {
        text
    };
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (core, rest) = text.split_at(end);
    let mut numbers = Vec::new();
    for part in core.split('.') {
        let padded = part.len() > 1 && part.starts_with('0');
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) || (padded && !lenient) {
            return None;
        }
        numbers.push(part.parse::<u64>().ok()?);
    }
    if lenient && rest.is_empty() {
        while numbers.len() < 3 {
            numbers.push(0);
        }
    }
    let [major, minor, patch] = numbers.as_slice() else {
        return None;
    };
    let fine = |part: &str| {
        let mut names = part.split('.');
        names.all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
    };
    let (pre, build) = match rest.split_once('+') {
        Some((pre, build)) => (pre, Some(build)),
        None => (rest, None),
    };
    let pre = pre.strip_prefix('-');
    if pre.is_some_and(|p| !fine(p)) || build.is_some_and(|b| !fine(b)) {
        return None;
    }
    Some(format!("{major}.{minor}.{patch}{rest}"))
}

/// Numbers and pre-release of a canonical version.
fn parts(version: &str) -> (Vec<u64>, &str) {
    let version = version.split('+').next().unwrap_or_default();
    let (core, pre) = version.split_once('-').unwrap_or((version, ""));
    (
        core.split('.').filter_map(|n| n.parse().ok()).collect(),
        pre,
    )
}

fn compare_versions(a: &str, b: &str) -> Ordering {
    let ((a, a_pre), (b, b_pre)) = (parts(a), parts(b));
    a.cmp(&b).then_with(|| match (a_pre, b_pre) {
        ("", "") => Ordering::Equal,
        ("", _) => Ordering::Greater,
        (_, "") => Ordering::Less,
        (a, b) => {
            let mut a = a.split('.');
            let mut b = b.split('.');
            loop {
                let order = match (a.next(), b.next()) {
                    (None, None) => return Ordering::Equal,
                    (None, Some(_)) => return Ordering::Less,
                    (Some(_), None) => return Ordering::Greater,
                    (Some(a), Some(b)) => match (a.parse::<u64>(), b.parse::<u64>()) {
                        (Ok(a), Ok(b)) => a.cmp(&b),
                        (Ok(_), Err(_)) => Ordering::Less,
                        (Err(_), Ok(_)) => Ordering::Greater,
                        (Err(_), Err(_)) => a.cmp(b),
                    },
                };
                if order != Ordering::Equal {
                    return order;
                }
            }
        }
    })
}

fn sign<'a>(order: Ordering) -> Val<'a> {
    Val::Int(match order {
        Ordering::Less => -1,
        Ordering::Equal => 0,
        Ordering::Greater => 1,
    })
}

/// A function of a quantity.
pub(super) fn of_quantity<'a>(name: &str, all: &[Val<'a>]) -> Outcome<'a> {
    let [Val::Quantity(quantity), rest @ ..] = all else {
        return no_overload();
    };
    let whole = Quantity::from_units(quantity.value()) == **quantity;
    match (name, rest) {
        ("sign", []) => Ok(sign((**quantity).cmp(&Quantity::default()))),
        ("isInteger", []) => Ok(Val::Bool(whole)),
        ("asInteger", []) if whole => Ok(Val::Int(quantity.value())),
        ("asInteger", []) => fail("cannot convert value to integer"),
        ("asApproximateFloat", []) => Ok(Val::Double(quantity.as_f64())),
        ("isGreaterThan", [Val::Quantity(other)]) => Ok(Val::Bool(quantity > other)),
        ("isLessThan", [Val::Quantity(other)]) => Ok(Val::Bool(quantity < other)),
        ("compareTo", [Val::Quantity(other)]) => Ok(sign(quantity.cmp(other))),
        ("add" | "sub", [other]) => {
            let other = match other {
                Val::Quantity(other) => **other,
                Val::Int(units) => Quantity::from_units(*units),
                _ => return no_overload(),
            };
            let held = **quantity;
            let result = if name == "add" {
                held + other
            } else {
                held - other
            };
            Ok(Val::Quantity(Box::new(result)))
        }
        _ => no_overload(),
    }
}

/// A function of a version or of a named format.
pub(super) fn of_special<'a>(name: &str, kind: &str, held: &str, rest: &[Val<'a>]) -> Outcome<'a> {
    let number = |at: usize| {
        let number = parts(held).0.get(at).copied().unwrap_or(0);
        Ok(Val::Int(i64::try_from(number).unwrap_or(i64::MAX)))
    };
    match (kind, name, rest) {
        (SEMVER, "major", []) => number(0),
        (SEMVER, "minor", []) => number(1),
        (SEMVER, "patch", []) => number(2),
        (SEMVER, "compareTo" | "isLessThan" | "isGreaterThan", [Val::Special(SEMVER, other)]) => {
            let order = compare_versions(held, other);
            Ok(match name {
                "compareTo" => sign(order),
                "isLessThan" => Val::Bool(order.is_lt()),
                _ => Val::Bool(order.is_gt()),
            })
        }
        (FORMAT, "validate", [Val::Text(text)]) => {
            let errors = format_errors(held, text).unwrap_or_default();
            if errors.is_empty() {
                return Ok(Val::Optional(None));
            }
            Ok(Val::some(Val::list(
                errors.into_iter().map(Val::text).collect(),
            )))
        }
        _ => no_overload(),
    }
}

/// `format.named('...')` and `format.dns1123Label()`.
pub(super) fn format_named<'a>(name: &str, all: &[Val<'a>]) -> Outcome<'a> {
    let known = |format: &str| format_errors(format, "").is_some();
    let made = |format: &str| Val::Special(FORMAT, Arc::from(format));
    match (name.strip_prefix("format."), all) {
        (Some("named"), [Val::Text(format)]) => Ok(if known(format) {
            Val::some(made(format))
        } else {
            Val::Optional(None)
        }),
        (Some(format), []) if known(format) => Ok(made(format)),
        _ => no_overload(),
    }
}

/// What is wrong with a text in a format; `None` for an unknown format.
fn format_errors(format: &str, text: &str) -> Option<Vec<String>> {
    let one = |fine: bool, why: &str| {
        if fine {
            Vec::new()
        } else {
            vec![why.to_owned()]
        }
    };
    let prefix = |errors: fn(&str) -> Vec<String>| match text.strip_suffix('-') {
        Some(rest) => errors(&format!("{rest}a")),
        None => errors(text),
    };
    Some(match format {
        "dns1123Label" => names::dns1123_label_errors(text),
        "dns1123Subdomain" => names::dns1123_subdomain_errors(text),
        "dns1035Label" => names::dns1035_label_errors(text),
        "dns1123LabelPrefix" => prefix(names::dns1123_label_errors),
        "dns1123SubdomainPrefix" => prefix(names::dns1123_subdomain_errors),
        "dns1035LabelPrefix" => prefix(names::dns1035_label_errors),
        "qualifiedName" => names::qualified_name_errors(text),
        "labelValue" => names::label_value_errors(text),
        "uri" => one(super::network::is_url(text), "invalid URI"),
        "uuid" => one(is_uuid(text), "does not match the UUID format"),
        "byte" => one(STANDARD.decode(text).is_ok(), "invalid base64"),
        "date" => one(
            text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10,
            "invalid date",
        ),
        "datetime" => one(text.parse::<jiff::Timestamp>().is_ok(), "invalid datetime"),
        _ => return None,
    })
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.char_indices().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        })
}
