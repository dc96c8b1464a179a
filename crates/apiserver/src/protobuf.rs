//! Reads Kubernetes' protobuf encoding, which typed clients prefer for
//! requests: kubectl's `create` commands among them. Answers are JSON.
//!
//! The table has one line a message: `name TAB fields`, a field being
//! `number:JSON name:flags and type`. An empty JSON name marks fields that
//! JSON shows as part of the message around them. Flags: `*` a pointer in Go,
//! whose zero means something; `+` shown by JSON even if zero; `[` a list;
//! `{` a map from text. Types: `s` text, `b` bytes, `i` integer, `B` boolean,
//! `d` double, `E` an empty message, a number for another line, and those
//! with a JSON form of their own (see [`Special`]).

use std::collections::HashMap;
use std::io::Read;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coracle_machinery::schema::builtin;
use coracle_machinery::{ApiError, GroupVersion, GroupVersionKind, time};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Request};
use serde_json::{Map, Value, json};

use crate::body::Body;
use crate::decode::MAX_BODY;

const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every body starts with.
const MAGIC: &[u8] = b"k8s\0";
/// The deepest nesting that is read; honest objects stay below twenty.
const MAX_DEPTH: usize = 64;
/// The table has 65 KiB; this guards the allocation alone.
const TABLE_MAX: u64 = 1 << 20;
const TABLE: &[u8] = include_bytes!("../data/protobuf.gz");
const SCHEMA: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// Why a body could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// It does not start as Kubernetes' encoding does.
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    Prefix,
    /// It ends in the middle of a field, or a length is wrong.
    #[error("unexpected end of the protobuf message")]
    Truncated,
    /// A field has another wire type than its number says.
    #[error("field {0} of the protobuf message has the wrong wire type")]
    WireType(u64),
    /// Text is not UTF-8, or embedded JSON is none.
    #[error("field {0} of the protobuf message has a malformed value")]
    Value(u64),
    /// Messages are nested too deeply.
    #[error("the protobuf message is nested too deeply")]
    Depth,
    /// The kind has no protobuf encoding.
    #[error("no kind {0:?} is registered for protobuf")]
    Kind(String),
}

type Result<T> = std::result::Result<T, ProtobufError>;

/// Turns a request with a protobuf body into one with a JSON body; any other
/// stays as it is.
///
/// # Errors
/// `BadRequest`, and what reading the body gives.
pub(crate) async fn as_json(
    request: Request<Body>,
) -> std::result::Result<Request<Body>, ApiError> {
    let media = request.headers().get(CONTENT_TYPE);
    let media = media.and_then(|v| v.to_str().ok()).unwrap_or_default();
    if media.split(';').next().map(str::trim) != Some(MEDIA_TYPE) {
        return Ok(request);
    }
    let (mut parts, body) = request.into_parts();
    let bytes = body.read(MAX_BODY).await?;
    let body = if bytes.is_empty() {
        Body::empty()
    } else {
        let object = decode(&bytes).map_err(|e| ApiError::bad_request(e.to_string()))?;
        Body::full(object.to_string())
    };
    let json = HeaderValue::from_static("application/json");
    parts.headers.insert(CONTENT_TYPE, json);
    parts.headers.remove(CONTENT_LENGTH);
    Ok(Request::from_parts(parts, body))
}

/// Reads a body into the object that the JSON encoding would have given.
///
/// # Errors
/// If it is malformed or of an unknown kind.
pub fn decode(bytes: &[u8]) -> Result<Value> {
    let body = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Prefix)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields(body) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in Fields(meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => api_version = utf8(1, text)?.to_owned(),
                        (2, Wire::Bytes(text)) => kind = utf8(2, text)?.to_owned(),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let gv = GroupVersion::parse(&api_version);
    let gvk = GroupVersionKind::new(gv.group, gv.version, kind.clone());
    let definition = builtin().kind(&gvk).and_then(|s| s.name());
    let index = definition.and_then(|name| table().by_name.get(name));
    let index = *index.ok_or_else(|| ProtobufError::Kind(kind.clone()))?;
    let mut object = message(index, raw, 0)?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

struct Table {
    lines: Vec<&'static str>,
    by_name: HashMap<&'static str, usize>,
}

fn table() -> &'static Table {
    static LOADED: OnceLock<Table> = OnceLock::new();
    LOADED.get_or_init(|| {
        let mut text = String::new();
        flate2::read::GzDecoder::new(TABLE)
            .take(TABLE_MAX)
            .read_to_string(&mut text)
            .expect("the table is part of the program and a test reads it");
        let text: &'static str = Box::leak(text.into_boxed_str());
        let mut found = Table {
            lines: Vec::new(),
            by_name: HashMap::new(),
        };
        for (index, line) in text.lines().enumerate() {
            let (name, fields) = line.split_once('\t').unwrap_or((line, ""));
            found.by_name.insert(name, index);
            found.lines.push(fields);
        }
        found
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Shape {
    One,
    List,
    Map,
}

#[derive(Clone, Copy)]
enum Type {
    Text,
    Bytes,
    Integer,
    Boolean,
    Double,
    Message(usize),
    Special(Special),
}

/// Messages that JSON writes in another form.
#[derive(Clone, Copy)]
enum Special {
    /// `E`: a message without fields.
    Empty,
    /// `T`, `M`: seconds and nanoseconds, as RFC 3339.
    Time { micro: bool },
    /// `D`: nanoseconds, as Go prints durations.
    Duration,
    /// `Q`: text in a message.
    Quantity,
    /// `I`: a number or text.
    IntOrString,
    /// `R`: JSON in a message.
    Raw,
    /// `L`: a list of text in a message.
    Texts,
    /// `X`: `JSONSchemaPropsOrBool`.
    SchemaOrBool,
    /// `Y`: `JSONSchemaPropsOrArray`.
    SchemaOrList,
    /// `Z`: `JSONSchemaPropsOrStringArray`.
    SchemaOrTexts,
}

#[derive(Clone, Copy)]
struct Field {
    name: &'static str,
    /// Left out of JSON if it is zero.
    droppable: bool,
    shape: Shape,
    kind: Type,
}

/// The field of a message with that number, if it is known.
fn field(index: usize, number: u64) -> Option<Field> {
    let line = table().lines.get(index)?;
    line.split(' ').find_map(|text| {
        let (found, rest) = text.split_once(':')?;
        if found.parse() != Ok(number) {
            return None;
        }
        let (name, mut kind) = rest.split_once(':')?;
        let droppable = !kind.starts_with(['*', '+']);
        kind = kind.trim_start_matches(['*', '+']);
        let shape = match kind.as_bytes().first() {
            Some(b'[') => Shape::List,
            Some(b'{') => Shape::Map,
            _ => Shape::One,
        };
        Some(Field {
            name,
            droppable,
            shape,
            kind: kind_of(kind.trim_start_matches(['[', '{']))?,
        })
    })
}

fn kind_of(text: &str) -> Option<Type> {
    Some(match text {
        "s" => Type::Text,
        "b" => Type::Bytes,
        "i" => Type::Integer,
        "B" => Type::Boolean,
        "d" => Type::Double,
        "E" => Type::Special(Special::Empty),
        "T" => Type::Special(Special::Time { micro: false }),
        "M" => Type::Special(Special::Time { micro: true }),
        "D" => Type::Special(Special::Duration),
        "Q" => Type::Special(Special::Quantity),
        "I" => Type::Special(Special::IntOrString),
        "R" => Type::Special(Special::Raw),
        "L" => Type::Special(Special::Texts),
        "X" => Type::Special(Special::SchemaOrBool),
        "Y" => Type::Special(Special::SchemaOrList),
        "Z" => Type::Special(Special::SchemaOrTexts),
        index => Type::Message(index.parse().ok()?),
    })
}

fn message(index: usize, bytes: &[u8], depth: usize) -> Result<Map<String, Value>> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::Depth);
    }
    let mut object = Map::new();
    for found in Fields(bytes) {
        let (number, wire) = found?;
        let Some(field) = field(index, number) else {
            continue;
        };
        match field.shape {
            Shape::One => {
                let value = value(field.kind, number, wire, depth)?;
                if field.name.is_empty() {
                    if let Value::Object(inner) = value {
                        object.extend(inner);
                    }
                } else if !(value.is_null() || field.droppable && is_zero(&value)) {
                    object.insert(field.name.to_owned(), value);
                }
            }
            Shape::List => {
                let value = value(field.kind, number, wire, depth)?;
                let list = object.entry(field.name).or_insert_with(|| json!([]));
                if let Some(list) = list.as_array_mut() {
                    list.push(value);
                }
            }
            Shape::Map => {
                let (key, value) = entry(field.kind, number, wire, depth)?;
                let map = object.entry(field.name).or_insert_with(|| json!({}));
                if let Some(map) = map.as_object_mut() {
                    map.insert(key, value);
                }
            }
        }
    }
    Ok(object)
}

/// One entry of a map: a message of key and value.
fn entry(kind: Type, number: u64, wire: Wire<'_>, depth: usize) -> Result<(String, Value)> {
    let mut key = String::new();
    let mut found = None;
    for part in Fields(wire.bytes(number)?) {
        match part? {
            (1, Wire::Bytes(text)) => key = utf8(number, text)?.to_owned(),
            (2, wire) => found = Some(value(kind, number, wire, depth)?),
            _ => {}
        }
    }
    let value = match found {
        Some(value) => value,
        None => match kind {
            Type::Text | Type::Bytes => "".into(),
            Type::Integer | Type::Double => 0.into(),
            Type::Boolean => false.into(),
            Type::Message(_) => json!({}),
            Type::Special(_) => Value::Null,
        },
    };
    Ok((key, value))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

fn value(kind: Type, number: u64, wire: Wire<'_>, depth: usize) -> Result<Value> {
    Ok(match kind {
        Type::Text => utf8(number, wire.bytes(number)?)?.into(),
        Type::Bytes => STANDARD.encode(wire.bytes(number)?).into(),
        Type::Integer => wire.integer(number)?.into(),
        Type::Boolean => (wire.integer(number)? != 0).into(),
        Type::Double => match wire {
            Wire::Fixed64(bits) => f64::from_bits(bits).into(),
            _ => return Err(ProtobufError::WireType(number)),
        },
        Type::Message(index) => Value::Object(message(index, wire.bytes(number)?, depth + 1)?),
        Type::Special(special) => self::special(special, number, wire.bytes(number)?, depth)?,
    })
}

/// A message with a JSON form of its own; null if it says nothing.
fn special(special: Special, number: u64, bytes: &[u8], depth: usize) -> Result<Value> {
    let (mut one, mut two) = (0_i64, 0_i64);
    let mut texts: Vec<&[u8]> = Vec::new();
    let mut second: Vec<&[u8]> = Vec::new();
    for part in Fields(bytes) {
        match part? {
            (1, Wire::Varint(n)) => one = n.cast_signed(),
            (2, Wire::Varint(n)) => two = n.cast_signed(),
            (1, Wire::Bytes(bytes)) => texts.push(bytes),
            (2 | 3, Wire::Bytes(bytes)) => second.push(bytes),
            _ => {}
        }
    }
    let strings = |list: &[&[u8]]| -> Result<Value> {
        list.iter()
            .map(|t| utf8(number, t).map(Value::from))
            .collect()
    };
    let schema = |bytes: &[u8]| -> Result<Value> {
        let index = table().by_name.get(SCHEMA);
        let index = *index.ok_or_else(|| ProtobufError::Kind(SCHEMA.to_owned()))?;
        Ok(Value::Object(message(index, bytes, depth + 1)?))
    };
    Ok(match special {
        Special::Empty => json!({}),
        Special::Time { .. } if one == 0 && two == 0 => Value::Null,
        Special::Time { micro: false } => time::rfc3339(one).into(),
        Special::Time { micro: true } => {
            let micros = one.saturating_mul(1_000_000).saturating_add(two / 1000);
            time::rfc3339_micro(micros).into()
        }
        Special::Duration if one % 1_000_000_000 == 0 => format!("{}s", one / 1_000_000_000).into(),
        Special::Duration => format!("{one}ns").into(),
        Special::Quantity => match texts.first() {
            Some(text) => utf8(number, text)?.into(),
            None => Value::Null,
        },
        Special::IntOrString => match (one, second.first()) {
            (0, _) => two.into(),
            (_, text) => utf8(number, text.copied().unwrap_or_default())?.into(),
        },
        Special::Raw => match texts.first() {
            Some(text) if !text.is_empty() => {
                serde_json::from_slice(text).map_err(|_| ProtobufError::Value(number))?
            }
            _ => Value::Null,
        },
        Special::Texts => strings(&texts)?,
        Special::SchemaOrBool => match second.first() {
            Some(bytes) => schema(bytes)?,
            None => (one != 0).into(),
        },
        Special::SchemaOrList => match texts.first() {
            Some(bytes) => schema(bytes)?,
            None => second
                .iter()
                .map(|b| schema(b))
                .collect::<Result<Value>>()?,
        },
        Special::SchemaOrTexts => match texts.first() {
            Some(bytes) => schema(bytes)?,
            None => strings(&second)?,
        },
    })
}

fn utf8(number: u64, bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| ProtobufError::Value(number))
}

/// A value as it stands in the bytes.
#[derive(Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

impl<'a> Wire<'a> {
    fn bytes(self, number: u64) -> Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(ProtobufError::WireType(number)),
        }
    }

    fn integer(self, number: u64) -> Result<i64> {
        match self {
            Self::Varint(value) => Ok(value.cast_signed()),
            _ => Err(ProtobufError::WireType(number)),
        }
    }
}

/// The fields of a message, number and value.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first().ok_or(ProtobufError::Truncated)?;
            self.0 = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Truncated)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(ProtobufError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn one(&mut self) -> Result<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?;
                let bytes = bytes.try_into().map_err(|_| ProtobufError::Truncated)?;
                Wire::Fixed64(u64::from_le_bytes(bytes))
            }
            2 => {
                let count = self.varint()?;
                let count = usize::try_from(count).map_err(|_| ProtobufError::Truncated)?;
                Wire::Bytes(self.take(count)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            _ => return Err(ProtobufError::WireType(tag >> 3)),
        };
        Ok((tag >> 3, wire))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let found = self.one();
        if found.is_err() {
            self.0 = &[];
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `kubectl create deployment frontend --image nginx --replicas 3`
    /// sends.
    const DEPLOYMENT: &str = "6b3873000a150a07617070732f7631120a4465706c6f796d656e7412c0010a290a0866726f6e74656e6412001a0022002a00320038004200\
        5a0f0a03617070120866726f6e74656e641284010803\
        12110a0f0a03617070120866726f6e74656e641a650a210a0012001a0022002a003200380042005a0f0a03617070120866726f6e74656e64\
        124012220a056e67696e7812056e67696e782a0042006a0072008001008801009001\
        00a201001a00320042004a005200580060006800820100\
        8a01009a0100c2010022020a00280038001a0c08001000180020002800380\
        01a002200";

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
        let pairs = digits.chunks_exact(2);
        pairs
            .map(|p| u8::try_from(p[0] * 16 + p[1]).unwrap())
            .collect()
    }

    #[test]
    fn a_deployment_from_kubectl_reads_as_its_json() {
        assert_eq!(
            decode(&unhex(DEPLOYMENT)).unwrap(),
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": "frontend", "labels": {"app": "frontend"}},
                "spec": {
                    "replicas": 3,
                    "selector": {"matchLabels": {"app": "frontend"}},
                    "strategy": {},
                    "template": {
                        "metadata": {"labels": {"app": "frontend"}},
                        "spec": {"containers": [{"name": "nginx", "image": "nginx", "resources": {}}]},
                    },
                },
                "status": {},
            })
        );
    }

    #[test]
    fn truncated_bodies_are_refused_and_nothing_panics() {
        let whole = unhex(DEPLOYMENT);
        for end in 0..whole.len() {
            let _ = decode(&whole[..end]);
        }
        for place in 0..whole.len() {
            for bit in 0..8 {
                let mut broken = whole.clone();
                broken[place] ^= 1 << bit;
                let _ = decode(&broken);
            }
        }
        assert_eq!(decode(b"{}"), Err(ProtobufError::Prefix));
        assert_eq!(decode(b"k8s\0\x0a\x05"), Err(ProtobufError::Truncated));
    }

    #[test]
    fn every_stored_kind_is_in_the_table() {
        for kind in crate::kinds::builtin() {
            let name = builtin().kind(&kind.gvk).and_then(|s| s.name()).unwrap();
            assert!(table().by_name.contains_key(name), "{name}");
        }
    }

    #[test]
    fn json_names_are_those_of_the_schemas() {
        let mut unknown = Vec::new();
        for (name, index) in &table().by_name {
            let Some(schema) = builtin().definition(name) else {
                continue;
            };
            for text in table().lines[*index].split(' ') {
                let number = text.split(':').next().unwrap().parse().unwrap();
                let field = field(*index, number).unwrap();
                if !field.name.is_empty() && schema.child(field.name).is_none() {
                    unknown.push(format!("{name}.{}", field.name));
                }
            }
        }
        // Fields of the release after the one that is served.
        assert!(unknown.len() < 40, "{unknown:?}");
    }
}
