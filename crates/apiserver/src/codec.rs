//! The stored form of an object and how it is served.
//!
//! Stored bytes are JSON that begins `{"apiVersion":"..","kind":"..",
//! "metadata":{` and has no `resourceVersion`. To serve an object, its
//! revision is spliced in behind `"metadata":{`: one copy, no parsing.

use bytes::Bytes;
use coracle_machinery::ApiError;
use serde_json::{Map, Value};

const METADATA: &[u8] = b"\"metadata\":{";
const API_VERSION: &[u8] = b"{\"apiVersion\":\"";

/// The splice point lies within this many bytes: the two names before it are
/// at most 63+1+253 and 63 bytes long.
const HEAD_LIMIT: usize = 1024;

/// Writes a value; serde_json fails only on map keys that are not text.
fn append(out: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(out, value).expect("a Value has text keys and a Vec takes every write");
}

fn append_entries(out: &mut Vec<u8>, map: &Map<String, Value>, skip: &[&str], mut first: bool) {
    for (key, value) in map {
        if skip.contains(&key.as_str()) {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        serde_json::to_writer(&mut *out, key).expect("text, and a Vec takes every write");
        out.push(b':');
        append(out, value);
    }
}

/// The stored form. `metadata` must have a name.
pub fn encode(object: &Value) -> Vec<u8> {
    let empty = Map::new();
    let map = object.as_object().unwrap_or(&empty);
    let metadata = map
        .get("metadata")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(b"{\"apiVersion\":");
    append(&mut out, map.get("apiVersion").unwrap_or(&Value::Null));
    out.extend_from_slice(b",\"kind\":");
    append(&mut out, map.get("kind").unwrap_or(&Value::Null));
    out.push(b',');
    out.extend_from_slice(METADATA);
    append_entries(&mut out, metadata, &["resourceVersion", "selfLink"], true);
    out.push(b'}');
    append_entries(&mut out, map, &["apiVersion", "kind", "metadata"], false);
    out.push(b'}');
    out
}

/// Appends the served form at a revision, under `api_version`.
pub fn append_served(out: &mut Vec<u8>, stored: &[u8], revision: u64, api_version: &str) {
    let head = &stored[..stored.len().min(HEAD_LIMIT)];
    let Some(at) = head.windows(METADATA.len()).position(|w| w == METADATA) else {
        // Not written by `encode`: serve it as it is rather than not at all.
        out.extend_from_slice(stored);
        return;
    };
    let at = at + METADATA.len();
    let mut start = 0;
    if let Some(rest) = head.strip_prefix(API_VERSION)
        && !(rest.starts_with(api_version.as_bytes()) && rest.get(api_version.len()) == Some(&b'"'))
        && let Some(end) = rest.iter().position(|b| *b == b'"')
    {
        out.extend_from_slice(API_VERSION);
        out.extend_from_slice(api_version.as_bytes());
        start = API_VERSION.len() + end;
    }
    out.extend_from_slice(&stored[start..at]);
    out.extend_from_slice(b"\"resourceVersion\":\"");
    append_number(out, revision);
    out.push(b'"');
    if stored.get(at) != Some(&b'}') {
        out.push(b',');
    }
    out.extend_from_slice(&stored[at..]);
}

/// Appends a number in decimal.
pub fn append_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The served form at a revision.
pub fn served(stored: &[u8], revision: u64, api_version: &str) -> Bytes {
    let mut out = Vec::with_capacity(stored.len() + 64);
    append_served(&mut out, stored, revision, api_version);
    out.into()
}

/// The parsed object, with its `resourceVersion`.
///
/// # Errors
/// `InternalError` if the stored bytes are not an object.
pub fn parse(stored: &[u8], revision: u64) -> Result<Value, ApiError> {
    let mut object: Value = serde_json::from_slice(stored)
        .map_err(|e| ApiError::internal(format!("stored object is damaged: {e}")))?;
    coracle_machinery::object::metadata_mut(&mut object)
        .insert("resourceVersion".into(), revision.to_string().into());
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn splices_revision_and_version() {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "X",
            "metadata": {"name": "a", "resourceVersion": "7"}, "data": {"k": "v"},
        });
        let stored = encode(&object);
        assert_eq!(
            String::from_utf8(stored.clone()).unwrap(),
            r#"{"apiVersion":"apps/v1","kind":"X","metadata":{"name":"a"},"data":{"k":"v"}}"#
        );
        assert_eq!(
            served(&stored, 42, "apps/v1"),
            r#"{"apiVersion":"apps/v1","kind":"X","metadata":{"resourceVersion":"42","name":"a"},"data":{"k":"v"}}"#
        );
        assert_eq!(
            served(&stored, 0, "apps/v1beta1"),
            r#"{"apiVersion":"apps/v1beta1","kind":"X","metadata":{"resourceVersion":"0","name":"a"},"data":{"k":"v"}}"#
        );
        assert!(served(&stored, 1, "apps/v").starts_with(br#"{"apiVersion":"apps/v","kind""#));
    }

    proptest! {
        #[test]
        fn served_equals_parsed(kind in "[A-Za-z\"\\\\{}:]{0,20}", name in ".{0,12}", revision: u64) {
            let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "metadata:": {}});
            let stored = encode(&object);
            let shown: Value = serde_json::from_slice(&served(&stored, revision, "v1")).unwrap();
            prop_assert_eq!(shown, parse(&stored, revision).unwrap());
        }
    }
}
