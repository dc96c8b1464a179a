//! The shape of values files: which keys there are and what they hold. The
//! serialised default gives most of it, the tables here what a default cannot
//! say. Both the check of a file and the schema for editors read it.

use serde_json::{Map, Value};

use crate::model::{
    AdditionalSecret, Config, CustomFromHost, CustomToHost, Patch, ServiceMapping, Toggle,
};
use crate::refused;

/// Parts of a pod or service spec that go to the host as they are: any keys.
const FREE_FORM: &[&str] = &[
    "controlPlane.statefulSet.resources",
    "controlPlane.statefulSet.scheduling.affinity",
    "controlPlane.ingress.spec",
    "controlPlane.service.spec",
    "policies.resourceQuota.quota",
    "policies.limitRange.default",
    "policies.limitRange.defaultRequest",
    "policies.limitRange.max",
    "policies.limitRange.min",
];

/// Lists whose items are maps of any keys.
const FREE_ITEMS: &[&str] = &[
    "controlPlane.advanced.serviceAccount.imagePullSecrets",
    "controlPlane.advanced.workloadServiceAccount.imagePullSecrets",
    "controlPlane.statefulSet.env",
    "controlPlane.statefulSet.scheduling.tolerations",
    "policies.networkPolicy.controlPlane.egress",
    "policies.networkPolicy.controlPlane.ingress",
    "policies.networkPolicy.workload.egress",
    "policies.networkPolicy.workload.ingress",
    "policies.resourceQuota.scopeSelector.matchExpressions",
    "sync.fromHost.ingressClasses.selector.matchExpressions",
    "sync.fromHost.priorityClasses.selector.matchExpressions",
    "sync.fromHost.runtimeClasses.selector.matchExpressions",
    "sync.fromHost.storageClasses.selector.matchExpressions",
];

/// Texts under any keys, some of which are there by default.
const INGRESS_ANNOTATIONS: &str = "controlPlane.ingress.annotations";

/// Texts of which only some make sense.
const CHOICES: &[(&str, &[&str])] = &[
    (
        "controlPlane.distro.k8s.version",
        crate::KUBERNETES_VERSION_NAMES,
    ),
    (
        "controlPlane.ingress.pathType",
        &["Exact", "Prefix", "ImplementationSpecific"],
    ),
    (
        "controlPlane.statefulSet.imagePullPolicy",
        &["Always", "IfNotPresent", "Never"],
    ),
    (
        "controlPlane.statefulSet.persistence.volumeClaim.retentionPolicy",
        &["Retain", "Delete"],
    ),
    (
        "policies.podSecurityStandard",
        &["privileged", "baseline", "restricted"],
    ),
    ("sync.fromHost.customResources[].scope", SCOPES),
    ("sync.toHost.customResources[].scope", SCOPES),
];

/// Patches, of whatever kind.
const PATCHES: &str = ".patches";
/// What has no keys, but a meaning by being there.
const PATCH_LABELS: &str = ".patches[].labels";

/// Where custom resources lie.
const SCOPES: &[&str] = &["Namespaced", "Cluster"];

/// What the value of a key is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    /// Keys that are known.
    Section(Map<String, Value>),
    /// Any keys, each with a text.
    Texts,
    /// Any keys, each with the same section.
    Named(Map<String, Value>),
    /// Any keys.
    Free,
    /// A list.
    List(Box<Shape>),
    /// `true` or `false`.
    Switch,
    /// `true`, `false` or `auto`.
    Toggle,
    /// A text; a number is taken for one.
    Text,
    /// One of these texts, or the empty one where that is the default.
    Choice {
        /// The texts.
        of: &'static [&'static str],
        /// Whether the empty one will do.
        open: bool,
    },
    /// A whole number.
    Number,
    /// An item of a list that is a text, without leniency.
    PlainText,
}

/// The serialised default.
pub(crate) fn defaults() -> Value {
    serialised(&Config::default())
}

/// A part of the configuration as a value.
pub(crate) fn serialised(part: &impl serde::Serialize) -> Value {
    serde_json::to_value(part).expect("a tree of texts, numbers and switches serialises")
}

impl Shape {
    /// The shape of the value at a dotted path, of which `default` is the
    /// default.
    pub(crate) fn of(path: &str, default: &Value) -> Self {
        if let Some((_, choices)) = CHOICES.iter().find(|(key, _)| *key == path) {
            let open = *default == "";
            return Self::Choice { of: choices, open };
        }
        if let Some(Value::Object(section)) = named(path) {
            return Self::Named(section);
        }
        match default {
            _ if FREE_FORM.contains(&path) || path.ends_with(PATCH_LABELS) => Self::Free,
            _ if path == INGRESS_ANNOTATIONS => Self::Texts,
            Value::Object(known) if known.is_empty() => Self::Texts,
            Value::Object(known) => Self::Section(known.clone()),
            Value::Array(_) => Self::List(Box::new(Self::of_items(path))),
            Value::String(text) if text == Toggle::AUTO => Self::Toggle,
            Value::Bool(_) => Self::Switch,
            Value::Number(_) => Self::Number,
            Value::String(_) | Value::Null => Self::Text,
        }
    }

    fn of_items(list: &str) -> Self {
        let item = match list {
            "networking.replicateServices.toHost" | "networking.replicateServices.fromHost" => {
                serialised(&ServiceMapping::default())
            }
            list if list.ends_with(PATCHES) => serialised(&Patch::default()),
            "exportKubeConfig.additionalSecrets" => serialised(&AdditionalSecret::default()),
            _ if FREE_ITEMS.contains(&list) => return Self::Free,
            _ => return Self::PlainText,
        };
        Self::of(&format!("{list}[]"), &item)
    }

    /// Reports every key and type in `values` that does not fit.
    pub(crate) fn check(&self, values: &Value, path: &str, found: &mut Vec<(String, String)>) {
        let mut wrong =
            |expected: &str| found.push((path.to_owned(), wrong_type(expected, values)));
        match (self, values) {
            (Self::PlainText, Value::String(_)) => {}
            (Self::PlainText, _) => wrong("a text"),
            // Back to the default.
            (_, Value::Null)
            | (Self::Free, Value::Object(_))
            | (Self::Switch | Self::Toggle, Value::Bool(_))
            // A size or tag that looks like a number is meant as a text.
            | (Self::Text, Value::String(_) | Value::Number(_)) => {}
            (Self::Toggle, other) if other == Toggle::AUTO => {}
            (Self::Toggle, _) => wrong("true, false or auto"),
            (Self::Number, Value::Number(n)) if n.as_u64().is_some_and(|n| n <= MAX_NUMBER) => {}
            (Self::Number, Value::Number(_)) => wrong(&format!("a number up to {MAX_NUMBER}")),
            (Self::Choice { of: all, open }, other) => {
                let text = match other {
                    Value::Number(number) => number.to_string(),
                    other => other.as_str().unwrap_or("-").to_owned(),
                };
                let left_open = *open && text.is_empty();
                if !left_open && !all.contains(&text.as_str()) {
                    wrong(&one_of(all));
                }
            }
            (Self::Texts, Value::Object(given)) => check_texts(given, path, found),
            (Self::Section(known), Value::Object(given)) => {
                for (key, value) in given {
                    let here = join(path, key);
                    match known.get(key) {
                        Some(default) => {
                            Self::of(&unindexed(&here), default).check(value, &here, found);
                        }
                        None if value.is_object() && refused::leads_on(&here) => {
                            Self::Section(Map::new()).check(value, &here, found);
                        }
                        None => found.push((here.clone(), unknown_key(known, key, &here))),
                    }
                }
            }
            (Self::Named(known), Value::Object(given)) => {
                let section = Self::Section(known.clone());
                for (name, value) in given {
                    section.check(value, &format!("{path}[{name}]"), found);
                }
            }
            (Self::List(item), Value::Array(items)) => {
                for (at, value) in items.iter().enumerate() {
                    item.check_item(value, &format!("{path}[{at}]"), found);
                }
            }
            (shape, _) => wrong(shape.kind()),
        }
    }

    fn check_item(&self, item: &Value, path: &str, found: &mut Vec<(String, String)>) {
        match self {
            Self::Section(known) if !item.is_object() => {
                let keys: Vec<&str> = known.keys().map(String::as_str).collect();
                let expected = format!("a map with {}", keys.join(", "));
                found.push((path.to_owned(), wrong_type(&expected, item)));
            }
            Self::Free if !item.is_object() => {
                found.push((path.to_owned(), wrong_type("a map", item)));
            }
            _ => self.check(item, path, found),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Section(_) | Self::Named(_) | Self::Texts | Self::Free => "a map",
            Self::List(_) => "a list",
            Self::Switch => "true or false",
            Self::Toggle => "true, false or auto",
            Self::Text | Self::Choice { .. } | Self::PlainText => "a text",
            Self::Number => "a number",
        }
    }
}

/// The default of what a map with names of the user's choice holds under each.
fn named(path: &str) -> Option<Value> {
    match path {
        "sync.toHost.customResources" => Some(serialised(&CustomToHost::default())),
        "sync.fromHost.customResources" => Some(serialised(&CustomFromHost::default())),
        _ => None,
    }
}

/// Numbers of values files are ports.
pub(crate) const MAX_NUMBER: u64 = u16::MAX as u64;

fn one_of(all: &[&str]) -> String {
    match all {
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
        [] => "nothing".to_owned(),
    }
}

/// `a[3].b` as `a[].b`.
fn unindexed(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut inside = false;
    for c in path.chars() {
        inside = inside && c != ']';
        if !inside {
            plain.push(c);
        }
        inside = inside || c == '[';
    }
    plain
}

fn check_texts(given: &Map<String, Value>, path: &str, found: &mut Vec<(String, String)>) {
    for (key, value) in given {
        if !value.is_string() && !value.is_null() {
            found.push((
                join(path, key),
                wrong_type("a text (put it in quotes)", value),
            ));
        }
    }
}

fn unknown_key(known: &Map<String, Value>, key: &str, path: &str) -> String {
    if let Some(refused) = refused::find(path) {
        return format!("not supported: {}", refused.reason);
    }
    let nearest = known
        .keys()
        .map(|candidate| (distance(candidate, key), candidate))
        .min();
    match nearest {
        Some((distance, candidate)) if distance <= 1 + candidate.len() / 3 => {
            format!("unknown key; did you mean {candidate}?")
        }
        None => "unknown key".to_owned(),
        Some(_) => {
            let keys: Vec<&str> = known.keys().map(String::as_str).collect();
            format!("unknown key; known here: {}", keys.join(", "))
        }
    }
}

fn wrong_type(expected: &str, found: &Value) -> String {
    let shown = match found {
        Value::Object(_) | Value::Array(_) => String::new(),
        other => format!(" {other}"),
    };
    format!("expected {expected}, found {}{shown}", kind(found))
}

/// What a value is, in words.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

/// Edits (insert, delete, replace a letter, letter case aside) between two
/// keys.
fn distance(left: &str, right: &str) -> usize {
    // Keys are short; a tenant-sized key needs no exact answer.
    const LONGEST: usize = 64;
    let left: Vec<char> = left.to_lowercase().chars().take(LONGEST).collect();
    let right: Vec<char> = right.to_lowercase().chars().take(LONGEST).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

/// Maps are merged, everything else is replaced; null goes back to the default.
pub(crate) fn merge(into: &mut Value, default: &Value, values: Value, path: &str) {
    match (into, values) {
        (Value::Object(into), Value::Object(values)) => {
            let any_keys = FREE_FORM.contains(&path) || path == INGRESS_ANNOTATIONS;
            for (key, value) in values {
                if any_keys && value.is_null() {
                    into.remove(&key);
                    continue;
                }
                let default = default.get(&key).unwrap_or(&Value::Null);
                let slot = into.entry(key.as_str()).or_insert(Value::Null);
                merge(slot, default, value, &join(path, &key));
            }
            let free = default.as_object().is_none_or(Map::is_empty);
            if free {
                into.retain(|_, value| !value.is_null());
            }
        }
        (into, Value::Null) => *into = default.clone(),
        // A first value under a name of the user's choice.
        (into @ Value::Null, values @ Value::Object(_)) => {
            *into = Value::Object(Map::new());
            merge(into, default, values, path);
        }
        (into, Value::Number(number)) if default.is_string() => {
            *into = Value::String(number.to_string());
        }
        (into, value) => *into = value,
    }
}

/// Names the keys that the defaults have and `values` do not, by null: so that
/// reading them over the defaults takes those away again.
pub(crate) fn name_absent(values: &mut Value, defaults: &Value) {
    let (Value::Object(values), Value::Object(defaults)) = (values, defaults) else {
        return;
    };
    for (key, default) in defaults {
        name_absent(values.entry(key.as_str()).or_insert(Value::Null), default);
    }
}

/// What `values` have that is not the default.
pub(crate) fn difference(values: &Value, defaults: &Value) -> Option<Value> {
    if values == defaults {
        return None;
    }
    let (Value::Object(given), Value::Object(known)) = (values, defaults) else {
        return Some(values.clone());
    };
    let absent = known.keys().filter(|key| !given.contains_key(*key));
    let mut changes: Map<String, Value> = absent.map(|key| (key.clone(), Value::Null)).collect();
    for (key, value) in given {
        let default = known.get(key).unwrap_or(&Value::Null);
        if let Some(change) = difference(value, default) {
            changes.insert(key.clone(), change);
        }
    }
    Some(Value::Object(changes))
}

/// The dotted path of a key.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}
