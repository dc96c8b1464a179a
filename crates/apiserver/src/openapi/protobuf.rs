//! The second version of the OpenAPI document as protobuf, which clients
//! written in Go ask for: messages of `openapiv2/OpenAPIv2.proto` of the
//! project gnostic. kubectl reads it for kinds that no document of the third
//! version has, and gives up without.

use serde_json::{Map, Value};

/// The media types that clients ask for. The first is not well-formed, and
/// older.
pub const MEDIA_TYPES: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    CONTENT_TYPE,
];

/// The media type of the answer.
pub const CONTENT_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// How the value of a field is written.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Bool,
    Int,
    Double,
    /// Any value, as text in YAML, of which JSON is a part.
    Any,
    /// One text or several, in a message of their own.
    Type,
    Message(&'static Message),
    /// A message that is alone in another one, as its field of that number.
    Within(u32, &'static Message),
    /// A schema, or a boolean.
    SchemaOrBool,
    /// One of the messages for parameters.
    Parameter,
    /// A list, an entry of the field for each of its items.
    List(&'static Form),
}

/// A field: its name in JSON, its number, its form.
type Field = (&'static str, u32, Form);

/// A type of message.
struct Message {
    fields: &'static [Field],
    /// The number of the field for what starts with `x-`; zero if there is none.
    extensions: u32,
    /// The field for all other names, as messages of name and value.
    entries: Option<(u32, Form)>,
}

const TEXTS: Form = Form::List(&Form::Text);
const PARAMETERS: Form = Form::List(&Form::Parameter);

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Form::Text),
        ("info", 2, Form::Message(&INFO)),
        ("paths", 8, Form::Message(&PATHS)),
        ("definitions", 9, Form::Message(&SCHEMAS)),
        ("security", 12, Form::List(&Form::Message(&REQUIREMENT))),
        ("securityDefinitions", 13, Form::Message(&SECURITY)),
    ],
    extensions: 16,
    entries: None,
};

static INFO: Message = Message {
    fields: &[("title", 1, Form::Text), ("version", 2, Form::Text)],
    extensions: 7,
    entries: None,
};

static PATHS: Message = Message {
    fields: &[],
    extensions: 1,
    entries: Some((2, Form::Message(&PATH))),
};

static PATH: Message = Message {
    fields: &[
        ("get", 2, Form::Message(&OPERATION)),
        ("put", 3, Form::Message(&OPERATION)),
        ("post", 4, Form::Message(&OPERATION)),
        ("delete", 5, Form::Message(&OPERATION)),
        ("options", 6, Form::Message(&OPERATION)),
        ("head", 7, Form::Message(&OPERATION)),
        ("patch", 8, Form::Message(&OPERATION)),
        ("parameters", 9, PARAMETERS),
    ],
    extensions: 10,
    entries: None,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, TEXTS),
        ("description", 3, Form::Text),
        ("operationId", 5, Form::Text),
        ("produces", 6, TEXTS),
        ("consumes", 7, TEXTS),
        ("parameters", 8, PARAMETERS),
        ("responses", 9, Form::Message(&RESPONSES)),
        ("schemes", 10, TEXTS),
    ],
    extensions: 13,
    entries: None,
};

static BODY_PARAMETER: Message = Message {
    fields: &[
        ("description", 1, Form::Text),
        ("name", 2, Form::Text),
        ("in", 3, Form::Text),
        ("required", 4, Form::Bool),
        ("schema", 5, Form::Message(&SCHEMA)),
    ],
    extensions: 6,
    entries: None,
};

static QUERY_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Form::Bool),
        ("in", 2, Form::Text),
        ("description", 3, Form::Text),
        ("name", 4, Form::Text),
        ("type", 6, Form::Text),
        ("uniqueItems", 20, Form::Bool),
    ],
    extensions: 23,
    entries: None,
};

static PATH_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Form::Bool),
        ("in", 2, Form::Text),
        ("description", 3, Form::Text),
        ("name", 4, Form::Text),
        ("type", 5, Form::Text),
        ("uniqueItems", 19, Form::Bool),
    ],
    extensions: 22,
    entries: None,
};

static RESPONSES: Message = Message {
    fields: &[],
    extensions: 2,
    entries: Some((1, Form::Within(1, &RESPONSE))),
};

static RESPONSE: Message = Message {
    fields: &[
        ("description", 1, Form::Text),
        ("schema", 2, Form::Within(1, &SCHEMA)),
    ],
    extensions: 5,
    entries: None,
};

static REQUIREMENT: Message = Message {
    fields: &[],
    extensions: 0,
    entries: Some((1, Form::Type)),
};

static SECURITY: Message = Message {
    fields: &[],
    extensions: 0,
    entries: Some((1, Form::Within(2, &API_KEY))),
};

static API_KEY: Message = Message {
    fields: &[
        ("type", 1, Form::Text),
        ("name", 2, Form::Text),
        ("in", 3, Form::Text),
        ("description", 4, Form::Text),
    ],
    extensions: 5,
    entries: None,
};

/// Schemas by name. A name may well begin with `x-`.
static SCHEMAS: Message = Message {
    fields: &[],
    extensions: 0,
    entries: Some((1, Form::Message(&SCHEMA))),
};

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Form::Text),
        ("format", 2, Form::Text),
        ("title", 3, Form::Text),
        ("description", 4, Form::Text),
        ("default", 5, Form::Any),
        ("multipleOf", 6, Form::Double),
        ("maximum", 7, Form::Double),
        ("exclusiveMaximum", 8, Form::Bool),
        ("minimum", 9, Form::Double),
        ("exclusiveMinimum", 10, Form::Bool),
        ("maxLength", 11, Form::Int),
        ("minLength", 12, Form::Int),
        ("pattern", 13, Form::Text),
        ("maxItems", 14, Form::Int),
        ("minItems", 15, Form::Int),
        ("uniqueItems", 16, Form::Bool),
        ("maxProperties", 17, Form::Int),
        ("minProperties", 18, Form::Int),
        ("required", 19, TEXTS),
        ("enum", 20, Form::List(&Form::Any)),
        ("additionalProperties", 21, Form::SchemaOrBool),
        ("type", 22, Form::Type),
        ("items", 23, Form::Within(1, &SCHEMA)),
        ("allOf", 24, Form::List(&Form::Message(&SCHEMA))),
        ("properties", 25, Form::Message(&SCHEMAS)),
        ("example", 30, Form::Any),
    ],
    extensions: 31,
    entries: None,
};

/// The document as protobuf. What the messages have no field for is left out.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(map) = document.as_object() {
        message(&mut out, &DOCUMENT, map);
    }
    out
}

fn message(out: &mut Vec<u8>, kind: &Message, map: &Map<String, Value>) {
    for (name, value) in map {
        if let Some((_, number, form)) = kind.fields.iter().find(|(field, ..)| field == name) {
            field(out, *number, *form, value);
        } else if kind.extensions != 0 && name.starts_with("x-") {
            entry(out, kind.extensions, name, Form::Any, value);
        } else if let Some((number, form)) = kind.entries {
            entry(out, number, name, form, value);
        }
    }
}

/// A name and a value, as a message.
fn entry(out: &mut Vec<u8>, number: u32, name: &str, form: Form, value: &Value) {
    nested(out, number, |out| {
        bytes(out, 1, name.as_bytes());
        field(out, 2, form, value);
    });
}

/// A field; nothing if the value has another form.
fn field(out: &mut Vec<u8>, number: u32, form: Form, value: &Value) {
    match (form, value) {
        (Form::Text, Value::String(text)) => bytes(out, number, text.as_bytes()),
        (Form::Bool, Value::Bool(value)) => {
            key(out, number, 0);
            varint(out, u64::from(*value));
        }
        (Form::Int, Value::Number(value)) => {
            key(out, number, 0);
            varint(out, value.as_u64().unwrap_or_default());
        }
        (Form::Double, Value::Number(value)) => {
            key(out, number, 1);
            out.extend(value.as_f64().unwrap_or_default().to_le_bytes());
        }
        (Form::Any, value) => nested(out, number, |out| {
            bytes(out, 2, value.to_string().as_bytes());
        }),
        (Form::Type, Value::Array(_)) => nested(out, number, |out| field(out, 1, TEXTS, value)),
        (Form::Type, value) => nested(out, number, |out| field(out, 1, Form::Text, value)),
        (Form::Message(kind), Value::Object(map)) => {
            nested(out, number, |out| message(out, kind, map));
        }
        (Form::Within(inner, kind), value) => nested(out, number, |out| {
            field(out, inner, Form::Message(kind), value);
        }),
        (Form::SchemaOrBool, value) => nested(out, number, |out| match value {
            Value::Bool(_) => field(out, 2, Form::Bool, value),
            value => field(out, 1, Form::Message(&SCHEMA), value),
        }),
        (Form::Parameter, value) => nested(out, number, |out| {
            nested(out, 1, |out| parameter(out, value));
        }),
        (Form::List(form), Value::Array(items)) => {
            for item in items {
                field(out, number, *form, item);
            }
        }
        _ => {}
    }
}

fn parameter(out: &mut Vec<u8>, value: &Value) {
    match value["in"].as_str() {
        Some("body") => field(out, 1, Form::Message(&BODY_PARAMETER), value),
        Some("path") => nested(out, 2, |out| {
            field(out, 4, Form::Message(&PATH_PARAMETER), value);
        }),
        _ => nested(out, 2, |out| {
            field(out, 3, Form::Message(&QUERY_PARAMETER), value);
        }),
    }
}

/// A field with what `write` writes.
fn nested(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    bytes(out, number, &inner);
}

fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    key(out, number, 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn key(out: &mut Vec<u8>, number: u32, wire_type: u8) {
    varint(out, u64::from(number) << 3 | u64::from(wire_type));
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or_default() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_becomes_messages() {
        let document = json!({"swagger": "2.0", "info": {"title": "K"}, "unknown": 1,
            "definitions": {"a": {"type": "object", "x-b": [1], "additionalProperties": false}}});
        let mut expected = b"\x0a\x032.0\x12\x03\x0a\x01K".to_vec();
        // A schema of the name: its type, an extension in text, a boolean.
        expected.extend(b"\x4a\x22\x0a\x20\x0a\x01a\x12\x1b\xb2\x01\x08\x0a\x06object");
        expected.extend(b"\xfa\x01\x0a\x0a\x03x-b\x12\x05\x12\x03[1]");
        let boolean = b"\xaa\x01\x02\x10\x00";
        // In the order of the map's names.
        let written = encode(&document);
        assert!(written.windows(5).any(|part| part == boolean));
        assert!(written.windows(8).any(|part| part == b"\x0a\x06object"));
        assert_eq!(written.len(), expected.len() + boolean.len());
    }

    #[test]
    fn parameters_have_messages_by_their_place() {
        let mut out = Vec::new();
        let query = json!({"in": "query", "name": "q", "type": "string", "uniqueItems": true});
        parameter(&mut out, &query);
        let inner = b"\x12\x05query\x22\x01q\x32\x06string\xa0\x01\x01";
        let mut expected = vec![0x12, 2 + 21, 0x1a, 21];
        expected.extend(inner);
        assert_eq!(out, expected);
    }

    #[test]
    fn numbers_take_as_many_bytes_as_they_need() {
        let mut out = Vec::new();
        for value in [0, 127, 128, 300, u64::MAX] {
            varint(&mut out, value);
        }
        let max = [255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert_eq!(out[..6], [0, 127, 128, 1, 172, 2]);
        assert_eq!(out[6..], max);
    }
}
