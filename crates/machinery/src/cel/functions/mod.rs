//! The functions of expressions: those of the language, and the libraries
//! that Kubernetes adds.

pub(super) mod convert;
mod kubernetes;
mod lists;
mod network;
mod text;
pub(super) mod time;

use std::sync::OnceLock;

use regex::{Regex, RegexBuilder};

use super::eval::Budget;
use super::{Error, Val, fail};

/// The most memory that one pattern may take, in bytes.
const PATTERN_MEMORY: usize = 1 << 20;

/// Marks a map that was written as `JSONPatch{...}`.
pub(super) const PATCH_MARK: &str = "\u{0}JSONPatch";

/// What may stand before a function's name.
pub(super) const NAMESPACES: &[&str] = &[
    "optional",
    "sets",
    "format",
    "jsonpatch",
    "lists",
    "strings",
];

/// Functions without a target, and how many arguments they take at least and
/// at most.
const FUNCTIONS: &[(&str, usize, usize)] = &[
    ("size", 1, 1),
    ("int", 1, 1),
    ("uint", 1, 1),
    ("double", 1, 1),
    ("string", 1, 1),
    ("bytes", 1, 1),
    ("bool", 1, 1),
    ("dyn", 1, 1),
    ("type", 1, 1),
    ("duration", 1, 1),
    ("timestamp", 1, 1),
    ("matches", 2, 2),
    ("optional.of", 1, 1),
    ("optional.ofNonZeroValue", 1, 1),
    ("optional.none", 0, 0),
    ("sets.contains", 2, 2),
    ("sets.equivalent", 2, 2),
    ("sets.intersects", 2, 2),
    ("lists.range", 1, 1),
    ("strings.quote", 1, 1),
    ("quantity", 1, 1),
    ("isQuantity", 1, 1),
    ("url", 1, 1),
    ("isURL", 1, 1),
    ("ip", 1, 1),
    ("isIP", 1, 1),
    ("cidr", 1, 1),
    ("isCIDR", 1, 1),
    ("semver", 1, 2),
    ("isSemver", 1, 2),
    ("format.named", 1, 1),
    ("format.dns1123Label", 0, 0),
    ("format.dns1123Subdomain", 0, 0),
    ("format.dns1035Label", 0, 0),
    ("format.dns1123LabelPrefix", 0, 0),
    ("format.dns1123SubdomainPrefix", 0, 0),
    ("format.dns1035LabelPrefix", 0, 0),
    ("format.qualifiedName", 0, 0),
    ("format.labelValue", 0, 0),
    ("format.uri", 0, 0),
    ("format.uuid", 0, 0),
    ("format.byte", 0, 0),
    ("format.date", 0, 0),
    ("format.datetime", 0, 0),
    ("jsonpatch.escapeKey", 1, 1),
];

/// Functions with a target.
const METHODS: &[&str] = &[
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfYear",
    "getDayOfWeek",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
    "charAt",
    "indexOf",
    "lastIndexOf",
    "lowerAscii",
    "upperAscii",
    "replace",
    "split",
    "substring",
    "trim",
    "join",
    "format",
    "reverse",
    "find",
    "findAll",
    "isSorted",
    "sum",
    "min",
    "max",
    "slice",
    "flatten",
    "distinct",
    "sort",
    "hasValue",
    "value",
    "or",
    "orValue",
    "getScheme",
    "getHost",
    "getHostname",
    "getPort",
    "getEscapedPath",
    "getQuery",
    "sign",
    "isInteger",
    "asInteger",
    "asApproximateFloat",
    "isGreaterThan",
    "isLessThan",
    "compareTo",
    "add",
    "sub",
    "family",
    "isUnspecified",
    "isLoopback",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isGlobalUnicast",
    "isCanonical",
    "containsIP",
    "containsCIDR",
    "ip",
    "masked",
    "prefixLength",
    "validate",
    "major",
    "minor",
    "patch",
];

/// True for a function that takes so many arguments.
pub(super) fn is_function(name: &str, arguments: usize) -> bool {
    let mut all = FUNCTIONS.iter();
    all.any(|(n, least, most)| *n == name && (*least..=*most).contains(&arguments))
}

/// True for a function of a target.
pub(super) fn is_method(name: &str) -> bool {
    METHODS.contains(&name)
}

/// One call.
pub(super) struct Call<'a, 'c> {
    pub(super) name: &'c str,
    pub(super) target: Option<Val<'a>>,
    pub(super) arguments: Vec<Val<'a>>,
    /// Where a constant pattern is kept once it is compiled.
    pub(super) pattern: &'c OnceLock<Option<Regex>>,
    pub(super) budget: &'c mut Budget,
}

pub(super) type Outcome<'a> = Result<Val<'a>, Error>;

/// Why a function does not take what it was given.
pub(super) fn no_overload<'a>() -> Outcome<'a> {
    fail("no such overload")
}

/// Calls a function.
///
/// # Errors
/// Arguments that it does not take, and what goes wrong in it.
pub(super) fn call<'a>(call: Call<'a, '_>) -> Outcome<'a> {
    let Call {
        name,
        target,
        mut arguments,
        pattern,
        budget,
    } = call;
    // A function of the language is the same with its first argument in front.
    let mut all: Vec<Val<'a>> = target.into_iter().collect();
    let is_member = !all.is_empty();
    all.append(&mut arguments);
    for value in &all {
        budget.spend(super::ops::weight(value).min(value.as_text().map_or(1, str::len)))?;
    }
    if !is_member && let Some(outcome) = plain(name, &all, budget) {
        return outcome;
    }
    match (name, all.as_slice()) {
        ("size", [value]) => convert::size(value),
        ("matches" | "find", [Val::Text(text), Val::Text(wanted)])
        | (
            "findAll",
            [Val::Text(text), Val::Text(wanted)]
            | [Val::Text(text), Val::Text(wanted), Val::Int(_)],
        ) => {
            budget.spend((text.len() / 10 + 1) * (wanted.len() / 4 + 1))?;
            let limit = match all.get(2) {
                Some(Val::Int(limit)) => usize::try_from(*limit).unwrap_or(usize::MAX),
                _ => usize::MAX,
            };
            let regex = pattern.get_or_init(|| compile(wanted));
            // The place keeps the first pattern only: another one, computed
            // by the expression, is compiled for this call.
            let own;
            let regex = match regex {
                Some(regex) if regex.as_str() == wanted.as_ref() => regex,
                _ => match compile(wanted) {
                    Some(regex) => {
                        own = regex;
                        &own
                    }
                    None => return fail(format!("error parsing regexp: `{wanted}`")),
                },
            };
            Ok(text::search(name, regex, text, limit))
        }
        (_, [Val::Optional(value), rest @ ..]) => {
            convert::of_optional(name, value.as_deref(), rest)
        }
        (_, [Val::Timestamp(_) | Val::Duration(_), ..]) => time::call(name, &all),
        (_, [Val::Text(_), ..]) => text::call(name, &all, budget),
        (_, [Val::Quantity(_), ..]) => kubernetes::of_quantity(name, &all),
        (_, [Val::Special(kind, held), rest @ ..]) => match *kind {
            network::IP | network::CIDR | network::URL => network::call(name, kind, held, rest),
            _ => kubernetes::of_special(name, kind, held, rest),
        },
        (_, [list, ..]) if list.is_list() => lists::call(name, &all, budget),
        _ => no_overload(),
    }
}

/// A function without a target.
fn plain<'a>(name: &str, all: &[Val<'a>], budget: &mut Budget) -> Option<Outcome<'a>> {
    Some(match (name, all) {
        ("dyn", [value]) => Ok(value.clone()),
        ("optional.none", []) => Ok(Val::Optional(None)),
        ("optional.of", [value]) => Ok(Val::some(value.clone())),
        ("optional.ofNonZeroValue", [value]) => Ok(convert::non_zero(value)),
        ("type", [value]) => Ok(Val::Type(value.type_name())),
        ("int" | "uint" | "double" | "string" | "bytes" | "bool", [value]) => {
            convert::to(name, value)
        }
        ("duration" | "timestamp", [value]) => time::make(name, value),
        ("sets.contains" | "sets.equivalent" | "sets.intersects", [a, b]) => {
            lists::sets(name, a, b, budget)
        }
        ("lists.range", [Val::Int(count)]) => {
            let count = usize::try_from(*count).unwrap_or(0);
            if let Err(error) = budget.spend(count) {
                return Some(Err(error));
            }
            let numbers = (0_i64..).take(count).map(Val::Int);
            Ok(Val::list(numbers.collect()))
        }
        ("strings.quote", [Val::Text(text)]) => Ok(Val::text(format!("{text:?}"))),
        ("jsonpatch.escapeKey", [Val::Text(text)]) => {
            Ok(Val::text(text.replace('~', "~0").replace('/', "~1")))
        }
        ("quantity" | "isQuantity" | "semver" | "isSemver", [Val::Text(text), ..]) => {
            kubernetes::make(name, text, all.get(1))
        }
        ("ip" | "isIP" | "cidr" | "isCIDR" | "url" | "isURL", [Val::Text(text)]) => {
            network::make(name, text)
        }
        (name, _) if name.starts_with("format.") => kubernetes::format_named(name, all),
        _ => return None,
    })
}

fn compile(pattern: &str) -> Option<Regex> {
    RegexBuilder::new(pattern)
        .size_limit(PATTERN_MEMORY)
        .dfa_size_limit(PATTERN_MEMORY)
        .nest_limit(50)
        .build()
        .ok()
}
