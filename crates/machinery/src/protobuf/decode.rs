//! From protobuf to JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::MAGIC;
use super::table::{Field, Message, Occurs, Table, Type, table};
use super::wire::{Malformed, Reader, Wire};
use crate::error::{ApiError, Reason};
use crate::time::{rfc3339, rfc3339_micro};

/// Levels of nesting in the result. JSON readers stop at 128, and what is
/// accepted here is stored as JSON.
const MAX_DEPTH: usize = 120;

/// Values in the result. A value takes two bytes on the wire but some tens in
/// memory; the largest objects that can be stored have fewer by far.
const MAX_VALUES: usize = 500_000;

/// Reads a body: the object, with `apiVersion` and `kind` if the body says
/// them.
///
/// # Errors
/// `UnsupportedMediaType` for a kind without a protobuf form (custom ones);
/// `BadRequest` for bytes that are not a protobuf body, are nested too deeply,
/// or hold a field that the kind does not have.
pub fn decode_request(bytes: &[u8]) -> Result<Value, ApiError> {
    let mut decoder = Decoder {
        table: table(),
        values: 0,
    };
    decoder.envelope(bytes, 1).map_err(|fault| match fault {
        Fault::Bad(why) => {
            ApiError::bad_request(format!("error decoding the request body: protobuf: {why}"))
        }
        Fault::NoMessage(what) => ApiError::new(
            Reason::UnsupportedMediaType,
            format!(
                "the body of the request was in an unknown format - {what} has no protobuf form, \
                 accepted media types include: application/json, application/yaml"
            ),
        ),
    })
}

enum Fault {
    Bad(String),
    NoMessage(String),
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::Bad(malformed.0.to_owned())
    }
}

fn bad(why: impl Into<String>) -> Fault {
    Fault::Bad(why.into())
}

struct Decoder {
    table: &'static Table,
    values: usize,
}

impl Decoder {
    /// `runtime.Unknown`, which says the kind, and the object in it.
    fn envelope(&mut self, bytes: &[u8], depth: usize) -> Result<Value, Fault> {
        let bytes = bytes
            .strip_prefix(MAGIC)
            .ok_or_else(|| bad("the body does not start with the prefix k8s"))?;
        let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
        let mut reader = Reader(bytes);
        while let Some((number, wire)) = reader.next()? {
            match number {
                1 => {
                    let mut reader = Reader(part(wire)?);
                    while let Some((number, wire)) = reader.next()? {
                        match number {
                            1 => text(wire)?.clone_into(&mut api_version),
                            2 => text(wire)?.clone_into(&mut kind),
                            _ => return Err(unknown("runtime.TypeMeta", number)),
                        }
                    }
                }
                2 => raw = part(wire)?,
                3 => check(text(wire)?, "content encoding", &[""])?,
                4 => check(text(wire)?, "content type", &["", super::MEDIA_TYPE])?,
                _ => return Err(unknown("runtime.Unknown", number)),
            }
        }
        let index = self
            .table
            .kind(&api_version, &kind)
            .ok_or_else(|| Fault::NoMessage(format!("kind {kind:?} of {api_version:?}")))?;
        let mut object = Map::new();
        self.message(index, raw, &mut object, depth)?;
        object.insert("apiVersion".into(), api_version.into());
        object.insert("kind".into(), kind.into());
        Ok(Value::Object(object))
    }

    /// The fields of a message, into an object that may have some already: the
    /// parts of a message that occurs twice are merged.
    fn message(
        &mut self,
        index: u16,
        bytes: &[u8],
        into: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(bad("the object is nested too deeply"));
        }
        let message = self.table.message(index);
        let mut reader = Reader(bytes);
        while let Some((number, wire)) = reader.next()? {
            let Some(field) = message.field(number) else {
                // Old clients write fields that are gone, but empty.
                if wire.is_zero() {
                    continue;
                }
                return Err(unknown(message.name, number));
            };
            self.values += 1;
            if self.values > MAX_VALUES {
                return Err(bad("the object has too many values"));
            }
            // The innermost message is named; that name starts with a capital.
            let named = |fault| match fault {
                Fault::Bad(why) if why.starts_with(|c: char| c.is_ascii_lowercase()) => {
                    bad(format!("{}.{}: {why}", short(message.name), field.name))
                }
                other => other,
            };
            self.field(field, wire, into, depth).map_err(named)?;
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: &Field,
        wire: Wire<'_>,
        into: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), Fault> {
        match (field.occurs, field.ty) {
            (Occurs::Once, Type::Message(index)) if field.inline => {
                self.message(index, part(wire)?, into, depth + 1)
            }
            (Occurs::Once, ty) => {
                let before = into.remove(field.name);
                let value = self.value(ty, wire, before, depth + 1)?;
                let leave_out = field.omit_empty && !field.pointer && is_empty(ty, &value);
                if !value.is_null() && !leave_out {
                    into.insert(field.name.to_owned(), value);
                }
                Ok(())
            }
            (Occurs::List, ty) => {
                let list = into
                    .entry(field.name)
                    .or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(list) = list else {
                    return Err(bad("two fields have one name"));
                };
                if let (Type::Int32 | Type::Int64 | Type::Bool, Wire::Bytes(packed)) = (ty, wire) {
                    let mut reader = Reader(packed);
                    while !reader.0.is_empty() {
                        self.values += 1;
                        let wire = Wire::Varint(reader.varint()?);
                        list.push(self.value(ty, wire, None, depth + 2)?);
                    }
                    return Ok(());
                }
                list.push(self.value(ty, wire, None, depth + 2)?);
                Ok(())
            }
            (Occurs::Map, ty) => {
                let (mut key, mut value) = (String::new(), None);
                let mut reader = Reader(part(wire)?);
                while let Some((number, wire)) = reader.next()? {
                    match number {
                        1 => text(wire)?.clone_into(&mut key),
                        2 => value = Some(self.value(ty, wire, None, depth + 2)?),
                        _ => return Err(unknown(field.name, number)),
                    }
                }
                let map = into
                    .entry(field.name)
                    .or_insert_with(|| Value::Object(Map::new()));
                let Value::Object(map) = map else {
                    return Err(bad("two fields have one name"));
                };
                map.insert(key, value.unwrap_or_else(|| zero(ty)));
                Ok(())
            }
        }
    }

    /// One value; null if JSON has none for it.
    fn value(
        &mut self,
        ty: Type,
        wire: Wire<'_>,
        before: Option<Value>,
        depth: usize,
    ) -> Result<Value, Fault> {
        Ok(match ty {
            Type::Text => text(wire)?.into(),
            Type::Bytes => STANDARD.encode(part(wire)?).into(),
            Type::Int32 => int32(varint(wire)?).into(),
            Type::Int64 => int64(varint(wire)?).into(),
            Type::Bool => (varint(wire)? != 0).into(),
            Type::Double => double(wire)?,
            Type::Time | Type::MicroTime => time(part(wire)?, ty == Type::MicroTime)?,
            Type::Quantity => quantity(part(wire)?)?,
            Type::IntOrString => int_or_string(part(wire)?)?,
            Type::Texts => texts(part(wire)?)?,
            Type::Raw => self.raw(part(wire)?, depth)?,
            Type::Message(index) => {
                let message = self.table.message(index);
                let mut object = match before {
                    Some(Value::Object(object)) if !message.is_union() => object,
                    _ => Map::new(),
                };
                self.message(index, part(wire)?, &mut object, depth)?;
                if message.is_union() {
                    union(message, object)
                } else {
                    Value::Object(object)
                }
            }
        })
    }

    /// JSON, or a whole protobuf body.
    fn raw(&mut self, bytes: &[u8], depth: usize) -> Result<Value, Fault> {
        let mut raw = &[][..];
        let mut reader = Reader(bytes);
        while let Some((number, wire)) = reader.next()? {
            match number {
                1 => raw = part(wire)?,
                _ => return Err(unknown("runtime.RawExtension", number)),
            }
        }
        if raw.is_empty() {
            return Ok(Value::Null);
        }
        if depth > MAX_DEPTH {
            return Err(bad("the object is nested too deeply"));
        }
        if raw.starts_with(MAGIC) {
            return self.envelope(raw, depth + 1);
        }
        let value: Value =
            serde_json::from_slice(raw).map_err(|e| bad(format!("it is not JSON: {e}")))?;
        if depth + nesting(&value) > MAX_DEPTH {
            return Err(bad("the object is nested too deeply"));
        }
        Ok(value)
    }
}

fn unknown(message: &str, number: u32) -> Fault {
    // The quote keeps the names of outer fields away: this says it all.
    bad(format!("{message:?} has no field number {number}"))
}

fn check(found: &str, what: &str, known: &[&str]) -> Result<(), Fault> {
    if known.contains(&found) {
        return Ok(());
    }
    Err(bad(format!("unknown {what} {found:?}")))
}

/// The last part of a definition name.
fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn part(wire: Wire<'_>) -> Result<&[u8], Fault> {
    match wire {
        Wire::Bytes(bytes) => Ok(bytes),
        _ => Err(bad("wrong wire type")),
    }
}

fn text(wire: Wire<'_>) -> Result<&str, Fault> {
    std::str::from_utf8(part(wire)?).map_err(|_| bad("invalid UTF-8"))
}

fn varint(wire: Wire<'_>) -> Result<u64, Fault> {
    match wire {
        Wire::Varint(number) => Ok(number),
        _ => Err(bad("wrong wire type")),
    }
}

fn int64(number: u64) -> i64 {
    number.cast_signed()
}

/// Negative numbers are written with 64 bits; the upper ones say nothing more.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the wire format is read so"
)]
fn int32(number: u64) -> i32 {
    number as i32
}

fn double(wire: Wire<'_>) -> Result<Value, Fault> {
    let Wire::Fixed64(bits) = wire else {
        return Err(bad("wrong wire type"));
    };
    let number = serde_json::Number::from_f64(f64::from_bits(bits));
    number
        .map(Value::Number)
        .ok_or_else(|| bad("it is no finite number"))
}

/// An empty message is the zero time.
fn time(bytes: &[u8], micro: bool) -> Result<Value, Fault> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanoseconds) = (0, 0);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => seconds = int64(varint(wire)?),
            2 => nanoseconds = int32(varint(wire)?),
            _ => return Err(unknown("v1.Time", number)),
        }
    }
    Ok(Value::String(if micro {
        let microseconds = seconds.saturating_mul(1_000_000);
        rfc3339_micro(microseconds.saturating_add(i64::from(nanoseconds / 1000)))
    } else {
        rfc3339(seconds)
    }))
}

fn quantity(bytes: &[u8]) -> Result<Value, Fault> {
    let mut quantity = "";
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => quantity = text(wire)?,
            _ => return Err(unknown("resource.Quantity", number)),
        }
    }
    Ok(if quantity.is_empty() { "0" } else { quantity }.into())
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Fault> {
    let (mut is_text, mut number_value, mut text_value) = (false, 0, "");
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => is_text = varint(wire)? != 0,
            2 => number_value = int32(varint(wire)?),
            3 => text_value = text(wire)?,
            _ => return Err(unknown("intstr.IntOrString", number)),
        }
    }
    Ok(if is_text {
        text_value.into()
    } else {
        number_value.into()
    })
}

fn texts(bytes: &[u8]) -> Result<Value, Fault> {
    let mut list = Vec::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => list.push(Value::from(text(wire)?)),
            _ => return Err(unknown("list", number)),
        }
    }
    Ok(Value::Array(list))
}

/// A schema, a list, or a boolean.
fn union(message: &Message, mut object: Map<String, Value>) -> Value {
    for name in ["JSONSchemas", "Property", "Schema"] {
        if let Some(value) = object.remove(name) {
            return value;
        }
    }
    if message.name.ends_with("OrBool") {
        return object.remove("Allows").unwrap_or(Value::Bool(false));
    }
    Value::Null
}

/// What Go leaves out for `omitempty`: structures never are.
fn is_empty(ty: Type, value: &Value) -> bool {
    match (ty, value) {
        (Type::Text | Type::Bytes, Value::String(text)) => text.is_empty(),
        (Type::Int32 | Type::Int64, Value::Number(number)) => number.as_i64() == Some(0),
        (Type::Double, Value::Number(number)) => number.as_f64() == Some(0.0),
        (Type::Bool, Value::Bool(value)) => !value,
        (Type::Texts, Value::Array(list)) => list.is_empty(),
        _ => false,
    }
}

/// The value of a map's entry that has none on the wire.
fn zero(ty: Type) -> Value {
    match ty {
        Type::Text | Type::Bytes => "".into(),
        Type::Int32 | Type::Int64 | Type::IntOrString => 0.into(),
        Type::Bool => false.into(),
        Type::Double => 0.0.into(),
        Type::Time | Type::MicroTime | Type::Raw => Value::Null,
        Type::Quantity => "0".into(),
        Type::Texts => Value::Array(Vec::new()),
        Type::Message(_) => Value::Object(Map::new()),
    }
}

/// Levels of lists and objects. serde_json has limited them already.
fn nesting(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(nesting).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(nesting).max().unwrap_or(0),
        _ => 0,
    }
}
