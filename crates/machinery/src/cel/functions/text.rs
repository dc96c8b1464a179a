//! Functions of texts.

use regex::Regex;

use super::{Outcome, convert, no_overload};
use crate::cel::eval::Budget;
use crate::cel::{Error, Val, fail};

/// `matches`, `find` and `findAll`.
pub(super) fn search<'a>(name: &str, regex: &Regex, text: &str, limit: usize) -> Val<'a> {
    match name {
        "matches" => Val::Bool(regex.is_match(text)),
        "find" => Val::text(regex.find(text).map_or("", |m| m.as_str())),
        _ => {
            let found = regex.find_iter(text).take(limit);
            Val::list(found.map(|m| Val::text(m.as_str())).collect())
        }
    }
}

fn number<'a>(count: usize) -> Val<'a> {
    Val::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

/// A place in characters, which may be one past the end.
fn place(at: i64, length: usize) -> Result<usize, Error> {
    match usize::try_from(at) {
        Ok(at) if at <= length => Ok(at),
        _ => fail(format!("index out of range: {at}")),
    }
}

/// A function of a text.
pub(super) fn call<'a>(name: &str, all: &[Val<'a>], budget: &mut Budget) -> Outcome<'a> {
    let [Val::Text(text), rest @ ..] = all else {
        return no_overload();
    };
    match (name, rest) {
        ("contains", [Val::Text(part)]) => Ok(Val::Bool(text.contains(part.as_ref()))),
        ("startsWith", [Val::Text(part)]) => Ok(Val::Bool(text.starts_with(part.as_ref()))),
        ("endsWith", [Val::Text(part)]) => Ok(Val::Bool(text.ends_with(part.as_ref()))),
        ("lowerAscii", []) => Ok(Val::text(text.to_ascii_lowercase())),
        ("upperAscii", []) => Ok(Val::text(text.to_ascii_uppercase())),
        ("trim", []) => Ok(Val::text(text.trim())),
        ("reverse", []) => Ok(Val::text(text.chars().rev().collect::<String>())),
        ("charAt", [Val::Int(at)]) => {
            let at = place(*at, text.chars().count())?;
            let found = text.chars().nth(at).map(String::from);
            Ok(Val::text(found.unwrap_or_default()))
        }
        ("substring", [Val::Int(from), to @ ..]) => {
            let length = text.chars().count();
            let from = place(*from, length)?;
            let to = match to {
                [] => length,
                [Val::Int(to)] => place(*to, length)?,
                _ => return no_overload(),
            };
            if from > to {
                return fail(format!("invalid substring range. start: {from}, end: {to}"));
            }
            let part = text.chars().skip(from).take(to - from);
            Ok(Val::text(part.collect::<String>()))
        }
        ("indexOf" | "lastIndexOf", [Val::Text(part), from @ ..]) => {
            position(name == "lastIndexOf", text, part, from)
        }
        ("replace", [Val::Text(from), Val::Text(to), limit @ ..]) => {
            let limit = limit_of(limit)?;
            let count = text.matches(from.as_ref()).count().min(limit);
            budget.spend((text.len() + count.saturating_mul(to.len())) / 10)?;
            Ok(Val::text(text.replacen(from.as_ref(), to, limit)))
        }
        ("split", [Val::Text(separator), limit @ ..]) => {
            let limit = limit_of(limit)?;
            let parts: Vec<Val<'a>> = match (limit, separator.as_ref()) {
                (0, _) => Vec::new(),
                (limit, "") => split_characters(text, limit),
                (limit, separator) => text.splitn(limit, separator).map(Val::text).collect(),
            };
            budget.spend(parts.len())?;
            Ok(Val::list(parts))
        }
        ("format", [list]) => match list.items() {
            Some(items) => format(text, &items, budget).map(Val::text),
            None => no_overload(),
        },
        _ => no_overload(),
    }
}

/// A number of pieces; none and a negative one mean all.
fn limit_of(limit: &[Val<'_>]) -> Result<usize, Error> {
    match limit {
        [] => Ok(usize::MAX),
        [Val::Int(limit)] => Ok(usize::try_from(*limit).unwrap_or(usize::MAX)),
        _ => fail("no such overload"),
    }
}

fn split_characters<'a>(text: &str, limit: usize) -> Vec<Val<'a>> {
    let mut parts: Vec<Val<'a>> = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if parts.len() + 1 == limit {
            parts.push(Val::text(rest));
            return parts;
        }
        parts.push(Val::text(first));
        rest = &rest[first.len_utf8()..];
    }
    parts
}

fn position<'a>(last: bool, text: &str, part: &str, from: &[Val<'a>]) -> Outcome<'a> {
    let length = text.chars().count();
    let at = |byte: usize| text[..byte].chars().count();
    let byte = |place: usize| {
        text.char_indices()
            .nth(place)
            .map_or(text.len(), |(b, _)| b)
    };
    let found = match (last, from) {
        (false, []) => text.find(part).map(at),
        (true, []) => text.rfind(part).map(at),
        (false, [Val::Int(from)]) => {
            let from = byte(place(*from, length)?);
            text[from..].find(part).map(|b| at(from + b))
        }
        (true, [Val::Int(to)]) => {
            let to = byte(place(*to, length)?);
            let end = text.len().min(to + part.len());
            text.get(..end).and_then(|t| t.rfind(part)).map(at)
        }
        _ => return no_overload(),
    };
    Ok(found.map_or(Val::Int(-1), number))
}

/// `'%s is %d'.format([...])`.
fn format(template: &str, values: &[Val<'_>], budget: &mut Budget) -> Result<String, Error> {
    let mut text = String::new();
    let mut values = values.iter();
    let mut rest = template.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut verb = rest.next().unwrap_or('%');
        if verb == '%' {
            text.push('%');
            continue;
        }
        let mut digits = String::new();
        if verb == '.' {
            verb = rest.next().unwrap_or(' ');
            while verb.is_ascii_digit() {
                digits.push(verb);
                verb = rest.next().unwrap_or(' ');
            }
        }
        // More digits than a double has are zeros.
        let precision = digits.parse().unwrap_or(6).min(100);
        let Some(value) = values.next() else {
            return fail("index out of range: fewer arguments than format verbs");
        };
        let piece = clause(verb, precision, value)?;
        budget.spend(piece.len() / 10)?;
        text.push_str(&piece);
    }
    Ok(text)
}

fn clause(verb: char, precision: usize, value: &Val<'_>) -> Result<String, Error> {
    let wrong = || fail(format!("could not convert argument to %{verb}"));
    Ok(match (verb, value) {
        ('s', Val::Null) => "null".to_owned(),
        ('s', value) => match convert::to_text(value) {
            Ok(text) => text,
            Err(_) => value.to_json()?.to_string(),
        },
        ('d', value) => match (value.whole(), value) {
            (Some(number), _) => number.to_string(),
            (None, Val::Double(number)) => number.to_string(),
            _ => return wrong(),
        },
        ('f' | 'e', Val::Double(number)) if verb == 'f' => format!("{number:.precision$}"),
        ('e', Val::Double(number)) => format!("{number:.precision$e}"),
        ('b', Val::Bool(value)) => u8::from(*value).to_string(),
        ('b' | 'o' | 'x' | 'X', value) => match (verb, value.whole(), value) {
            ('b', Some(number), _) => format!("{number:b}"),
            ('o', Some(number), _) => format!("{number:o}"),
            ('x', Some(number), _) => format!("{number:x}"),
            ('X', Some(number), _) => format!("{number:X}"),
            ('x' | 'X', None, Val::Text(text)) => {
                let hex: String = text.bytes().map(|b| format!("{b:02x}")).collect();
                if verb == 'X' { hex.to_uppercase() } else { hex }
            }
            _ => return wrong(),
        },
        _ => return wrong(),
    })
}
