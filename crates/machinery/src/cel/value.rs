//! Values of expressions. Those of objects stay JSON and are only looked
//! into; where a schema is known, texts and numbers get its types.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Error, fail};
use crate::quantity::Quantity;
use crate::schema::{Schema, Type};

/// A value.
#[derive(Clone)]
pub enum Val<'a> {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number that is never negative.
    Uint(u64),
    /// A number.
    Double(f64),
    /// Text.
    Text(Cow<'a, str>),
    /// Bytes.
    Bytes(Arc<Vec<u8>>),
    /// A list or an object of JSON, with its schema.
    Json(&'a Value, Option<Schema>),
    /// A list.
    List(Arc<Vec<Val<'a>>>),
    /// A map.
    Map(Arc<BTreeMap<Key, Val<'a>>>),
    /// A variable whose expression failed: an error for whoever looks at it.
    Failed(Error),
    /// A point in time, in nanoseconds since the epoch.
    Timestamp(i128),
    /// A length of time in nanoseconds.
    Duration(i64),
    /// A type, by name.
    Type(&'static str),
    /// A value, or none.
    Optional(Option<Arc<Val<'a>>>),
    /// A quantity.
    Quantity(Box<Quantity>),
    /// An address, a range, a URL and the like: its kind, and its text in
    /// canonical form.
    Special(&'static str, Arc<str>),
}

/// A key of a map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// True or false.
    Bool(bool),
    /// A whole number of either type.
    Number(i128),
    /// Text.
    Text(String),
}

impl fmt::Debug for Val<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_json() {
            Ok(json) => write!(f, "{}({json})", self.type_name()),
            Err(_) => f.write_str(self.type_name()),
        }
    }
}

impl<'a> Val<'a> {
    /// A value of JSON.
    pub fn json(value: &'a Value) -> Self {
        Self::typed(value, None)
    }

    /// A value of JSON, with its schema if that is known.
    pub fn typed(value: &'a Value, schema: Option<Schema>) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => {
                let wants_double = schema.is_some_and(|s| s.kind() == Type::Number);
                match (number.as_i64(), number.as_u64()) {
                    (Some(number), _) if !wants_double => Self::Int(number),
                    (None, Some(number)) if !wants_double => Self::Uint(number),
                    _ => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
                }
            }
            Value::String(text) => Self::of_text(text, schema.as_ref()),
            Value::Array(_) | Value::Object(_) => Self::Json(value, schema),
        }
    }

    fn of_text(text: &'a str, schema: Option<&Schema>) -> Self {
        let parsed = match schema.filter(|s| s.is_custom()).and_then(Schema::format) {
            Some("date-time") => timestamp(text),
            Some("date") => timestamp(&format!("{text}T00:00:00Z")),
            Some("duration") => super::functions::time::duration(text).map(Self::Duration),
            Some("byte") => STANDARD.decode(text).ok().map(|b| Self::Bytes(Arc::new(b))),
            _ => None,
        };
        parsed.unwrap_or(Self::Text(Cow::Borrowed(text)))
    }

    /// A text of its own.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(Cow::Owned(text.into()))
    }

    /// A list of its own.
    pub fn list(items: Vec<Val<'a>>) -> Self {
        Self::List(Arc::new(items))
    }

    /// A value that is there.
    pub fn some(value: Val<'a>) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// The name of its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Json(Value::Array(_), _) | Self::List(_) => "list",
            Self::Json(..) | Self::Map(_) => "map",
            Self::Failed(_) => "error",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Type(_) => "type",
            Self::Optional(_) => "optional_type",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Special(kind, _) => kind,
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Items or entries.
    pub(super) fn size(&self) -> Option<usize> {
        Some(match self {
            Self::Json(Value::Array(items), _) => items.len(),
            Self::Json(Value::Object(map), _) => map.len(),
            Self::List(items) => items.len(),
            Self::Map(map) => map.len(),
            _ => return None,
        })
    }

    /// True for lists.
    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::Json(Value::Array(_), _) | Self::List(_))
    }

    /// An item of a list.
    pub(super) fn item(&self, index: usize) -> Option<Val<'a>> {
        match self {
            Self::Json(Value::Array(items), schema) => {
                let schema = schema.as_ref().and_then(Schema::items).cloned();
                items.get(index).map(|item| Self::typed(item, schema))
            }
            Self::List(items) => items.get(index).cloned(),
            _ => None,
        }
    }

    /// All items of a list.
    pub(super) fn items(&self) -> Option<Vec<Val<'a>>> {
        if !self.is_list() {
            return None;
        }
        let size = self.size().unwrap_or(0);
        Some((0..size).filter_map(|index| self.item(index)).collect())
    }

    /// All entries of a map.
    pub(super) fn entries(&self) -> Option<Vec<(Val<'a>, Val<'a>)>> {
        match self {
            Self::Json(Value::Object(map), schema) => {
                let entry = |(key, value): (&'a String, &'a Value)| {
                    let schema = schema.as_ref().and_then(|s| s.child(key)).cloned();
                    (Self::Text(Cow::Borrowed(key)), Self::typed(value, schema))
                };
                Some(map.iter().map(entry).collect())
            }
            Self::Map(map) => {
                let entry = |(key, value): (&Key, &Val<'a>)| (key.to_val(), value.clone());
                Some(map.iter().map(entry).collect())
            }
            _ => None,
        }
    }

    /// The value of a field or key.
    ///
    /// # Errors
    /// That of a variable that failed; if the value has no fields.
    pub(super) fn field(&self, name: &str) -> Result<Option<Val<'a>>, Error> {
        match self {
            Self::Json(Value::Object(map), schema) => {
                let unescaped = match schema {
                    Some(schema) if !map.contains_key(name) && schema.is_custom() => unescape(name),
                    _ => Cow::Borrowed(name),
                };
                let name: &str = &unescaped;
                let schema = schema.as_ref().and_then(|s| s.child(name)).cloned();
                Ok(map.get(name).map(|value| Self::typed(value, schema)))
            }
            Self::Map(map) => match map.get(&Key::Text(name.to_owned())) {
                Some(Self::Failed(error)) => Err(error.clone()),
                found => Ok(found.cloned()),
            },
            Self::Optional(None) => Ok(None),
            Self::Optional(Some(value)) => value.field(name),
            _ => fail(format!(
                "no such overload: {}.{name}: the value has no fields",
                self.type_name()
            )),
        }
    }

    /// The value at a key of a map.
    pub(super) fn at_key(&self, key: &Val<'a>) -> Result<Option<Val<'a>>, Error> {
        match (self, key) {
            (Self::Map(map), key) => Ok(map.get(&Key::of(key)?).cloned()),
            (Self::Json(Value::Object(map), schema), Self::Text(name)) => {
                let schema = schema.as_ref().and_then(|s| s.child(name)).cloned();
                let value = map.get(name.as_ref());
                Ok(value.map(|value| Self::typed(value, schema)))
            }
            (Self::Json(Value::Object(_), _), _) => Ok(None),
            (other, Self::Text(name)) => other.field(name),
            _ => fail("no such overload"),
        }
    }

    /// As JSON.
    ///
    /// # Errors
    /// A value that JSON has no form for.
    pub fn to_json(&self) -> Result<Value, Error> {
        Ok(match self {
            Self::Null => Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Int(value) => (*value).into(),
            Self::Uint(value) => (*value).into(),
            Self::Double(value) => (*value).into(),
            Self::Text(text) => text.as_ref().into(),
            Self::Bytes(bytes) => STANDARD.encode(&**bytes).into(),
            Self::Json(value, _) => (*value).clone(),
            Self::List(items) => {
                let items: Result<Vec<Value>, Error> = items.iter().map(Val::to_json).collect();
                Value::Array(items?)
            }
            Self::Map(map) => {
                let entry = |(key, value): (&Key, &Val<'a>)| Ok((key.shown(), value.to_json()?));
                let map: Result<_, Error> = map.iter().map(entry).collect();
                Value::Object(map?)
            }
            Self::Timestamp(_) | Self::Duration(_) | Self::Quantity(_) => {
                super::functions::convert::to_text(self)?.into()
            }
            Self::Special(_, text) => text.as_ref().into(),
            Self::Optional(Some(value)) => value.to_json()?,
            Self::Optional(None) => Value::Null,
            Self::Type(_) | Self::Failed(_) => {
                return fail(format!("a {} cannot be written", self.type_name()));
            }
        })
    }

    /// Equal by value; numbers of all types are compared with each other.
    pub(super) fn equals(&self, other: &Val<'a>) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::Quantity(a), Self::Quantity(b)) => a == b,
            (Self::Special(k, a), Self::Special(l, b)) => k == l && a == b,
            (Self::Optional(a), Self::Optional(b)) => match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => a.equals(b),
                _ => false,
            },
            (a, b) if a.is_list() && b.is_list() => {
                a.size() == b.size()
                    && (0..a.size().unwrap_or(0)).all(|index| {
                        match (a.item(index), b.item(index)) {
                            (Some(a), Some(b)) => a.equals(&b),
                            _ => false,
                        }
                    })
            }
            (a, b) => match (a.entries(), b.entries()) {
                (Some(entries), Some(others)) => {
                    entries.len() == others.len()
                        && entries.iter().all(|(key, value)| {
                            let found = b.at_key(key).ok().flatten();
                            found.is_some_and(|other| value.equals(&other))
                        })
                }
                (None, None) => a.compare(b) == Some(Ordering::Equal),
                _ => false,
            },
        }
    }

    /// The order of two values, if they have one.
    pub(super) fn compare(&self, other: &Val<'a>) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Self::Timestamp(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Self::Duration(b)) => Some(a.cmp(b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Double(a), b) => a.partial_cmp(&b.whole().map(approximate)?),
            (a, Self::Double(b)) => a.whole().map(approximate)?.partial_cmp(b),
            (a, b) => Some(a.whole()?.cmp(&b.whole()?)),
        }
    }

    /// A whole number of either type.
    pub(super) fn whole(&self) -> Option<i128> {
        match self {
            Self::Int(number) => Some((*number).into()),
            Self::Uint(number) => Some((*number).into()),
            _ => None,
        }
    }
}

fn approximate(number: i128) -> f64 {
    number as f64
}

fn timestamp<'a>(text: &str) -> Option<Val<'a>> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(Val::Timestamp(time.as_nanosecond()))
}

impl Key {
    /// The key that a value makes.
    ///
    /// # Errors
    /// If it makes none.
    pub(super) fn of(value: &Val<'_>) -> Result<Self, Error> {
        match value {
            Val::Bool(value) => Ok(Self::Bool(*value)),
            Val::Text(text) => Ok(Self::Text(text.clone().into_owned())),
            Val::Double(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
                Ok(Self::Number(*number as i128))
            }
            other => match other.whole() {
                Some(number) => Ok(Self::Number(number)),
                None => fail(format!("unsupported key type: {}", other.type_name())),
            },
        }
    }

    fn to_val<'a>(&self) -> Val<'a> {
        match self {
            Self::Bool(value) => Val::Bool(*value),
            Self::Text(text) => Val::text(text.clone()),
            Self::Number(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(number), _) => Val::Int(number),
                (_, Ok(number)) => Val::Uint(number),
                _ => Val::Null,
            },
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// The name of a property whose letters or meaning do not fit a name.
fn unescape(name: &str) -> Cow<'_, str> {
    if !name.contains("__") {
        return Cow::Borrowed(name);
    }
    let mut text = name
        .replace("__underscores__", "\u{0}")
        .replace("__dot__", ".")
        .replace("__dash__", "-")
        .replace("__slash__", "/");
    if let Some(word) = text.strip_prefix("__").and_then(|t| t.strip_suffix("__")) {
        text = word.to_owned();
    }
    Cow::Owned(text.replace('\u{0}', "__"))
}
