//! Functions of lists.

use std::cmp::Ordering;

use super::{Outcome, convert, no_overload};
use crate::cel::ast::Binary;
use crate::cel::eval::Budget;
use crate::cel::{Error, Val, fail, ops};

/// A function of a list.
#[expect(clippy::too_many_lines, reason = "one table, an arm a function")]
pub(super) fn call<'a>(name: &str, all: &[Val<'a>], budget: &mut Budget) -> Outcome<'a> {
    let [list, rest @ ..] = all else {
        return no_overload();
    };
    let Some(mut items) = list.items() else {
        return no_overload();
    };
    budget.spend(items.len())?;
    match (name, rest) {
        ("isSorted", []) => {
            let pairs = items.iter().zip(items.iter().skip(1));
            for (a, b) in pairs {
                if order(a, b)? == Ordering::Greater {
                    return Ok(Val::Bool(false));
                }
            }
            Ok(Val::Bool(true))
        }
        ("sum", []) => {
            let mut items = items.into_iter();
            let Some(mut sum) = items.next() else {
                return Ok(Val::Int(0));
            };
            for item in items {
                sum = ops::binary(Binary::Add, &sum, &item, budget)?;
            }
            Ok(sum)
        }
        ("min" | "max", []) => {
            let wanted = if name == "min" {
                Ordering::Less
            } else {
                Ordering::Greater
            };
            let mut items = items.into_iter();
            let Some(mut best) = items.next() else {
                return fail(format!("{name} called on empty list"));
            };
            for item in items {
                if order(&item, &best)? == wanted {
                    best = item;
                }
            }
            Ok(best)
        }
        ("indexOf" | "lastIndexOf", [wanted]) => {
            let found = if name == "indexOf" {
                items.iter().position(|i| i.equals(wanted))
            } else {
                items.iter().rposition(|i| i.equals(wanted))
            };
            let found = found.and_then(|at| i64::try_from(at).ok());
            Ok(Val::Int(found.unwrap_or(-1)))
        }
        ("contains", [wanted]) => Ok(Val::Bool(items.iter().any(|i| i.equals(wanted)))),
        ("join", separator) => {
            let separator = match separator {
                [] => "",
                [Val::Text(text)] => text,
                _ => return no_overload(),
            };
            let texts: Result<Vec<String>, Error> = items
                .iter()
                .map(|item| match item {
                    Val::Text(_) => convert::to_text(item),
                    _ => fail("no such overload"),
                })
                .collect();
            let text = texts?.join(separator);
            budget.spend(text.len() / 10)?;
            Ok(Val::text(text))
        }
        ("slice", [Val::Int(from), Val::Int(to)]) => {
            let range = usize::try_from(*from).ok().zip(usize::try_from(*to).ok());
            match range.and_then(|(from, to)| items.get(from..to)) {
                Some(part) => Ok(Val::list(part.to_vec())),
                None => fail(format!(
                    "cannot slice({from}, {to}), list is of length {}",
                    items.len()
                )),
            }
        }
        ("reverse", []) => {
            items.reverse();
            Ok(Val::list(items))
        }
        ("flatten", []) => {
            let flat = items.into_iter().flat_map(|item| match item.items() {
                Some(inner) => inner,
                None => vec![item],
            });
            let flat: Vec<Val<'a>> = flat.collect();
            budget.spend(flat.len())?;
            Ok(Val::list(flat))
        }
        ("distinct", []) => {
            let mut distinct: Vec<Val<'a>> = Vec::new();
            for item in items {
                budget.spend(distinct.len())?;
                if !distinct.iter().any(|d| d.equals(&item)) {
                    distinct.push(item);
                }
            }
            Ok(Val::list(distinct))
        }
        ("sort", []) => {
            let pairs = items.iter().zip(items.iter().skip(1));
            for (a, b) in pairs {
                order(a, b)?;
            }
            items.sort_by(|a, b| a.compare(b).unwrap_or(Ordering::Equal));
            Ok(Val::list(items))
        }
        _ => no_overload(),
    }
}

fn order<'a>(a: &Val<'a>, b: &Val<'a>) -> Result<Ordering, Error> {
    match a.compare(b) {
        Some(order) => Ok(order),
        None => fail("no such overload"),
    }
}

/// `sets.contains`, `sets.equivalent` and `sets.intersects`.
pub(super) fn sets<'a>(name: &str, a: &Val<'a>, b: &Val<'a>, budget: &mut Budget) -> Outcome<'a> {
    let (Some(a), Some(b)) = (a.items(), b.items()) else {
        return no_overload();
    };
    budget.spend(a.len().saturating_mul(b.len()))?;
    let within = |part: &[Val<'a>], whole: &[Val<'a>]| {
        part.iter().all(|p| whole.iter().any(|w| w.equals(p)))
    };
    Ok(Val::Bool(match name {
        "sets.contains" => within(&b, &a),
        "sets.equivalent" => within(&a, &b) && within(&b, &a),
        _ => a.iter().any(|a| b.iter().any(|b| a.equals(b))),
    }))
}
