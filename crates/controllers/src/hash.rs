//! Short stable names of templates.

use serde_json::Value;

/// Characters of upstream's generated names: no vowels, so no words, and none
/// that are mistaken for one another.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A name part for a template, the same whatever the order of its fields.
/// `collisions` tells apart templates that happened to get the same name.
pub(crate) fn name(template: &Value, collisions: i32) -> String {
    let mut hash = Fnv::default();
    hash.value(template);
    hash.bytes(&collisions.to_le_bytes());
    encode(hash.0)
}

fn encode(hash: u32) -> String {
    let digits = hash.to_string();
    digits
        .bytes()
        .map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()]))
        .collect()
}

/// FNV-1a of 32 bits.
struct Fnv(u32);

impl Default for Fnv {
    fn default() -> Self {
        Self(0x811c_9dc5)
    }
}

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Object(map) => {
                let mut fields: Vec<_> = map.iter().collect();
                fields.sort_by_key(|(name, _)| *name);
                self.bytes(b"{");
                for (name, value) in fields {
                    self.bytes(name.as_bytes());
                    self.bytes(b":");
                    self.value(value);
                }
                self.bytes(b"}");
            }
            Value::Array(items) => {
                self.bytes(b"[");
                for item in items {
                    self.value(item);
                    self.bytes(b",");
                }
                self.bytes(b"]");
            }
            scalar => self.bytes(scalar.to_string().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_depend_on_content_only() {
        let a = json!({"x": 1, "y": [1, 2]});
        let b: Value = serde_json::from_str(r#"{"y":[1,2],"x":1}"#).unwrap();
        assert_eq!(name(&a, 0), name(&b, 0));
        assert_ne!(name(&a, 0), name(&a, 1));
        assert_ne!(name(&a, 0), name(&json!({"x": 1, "y": [2, 1]}), 0));
        assert!(name(&a, 0).len() <= 10);
    }
}
