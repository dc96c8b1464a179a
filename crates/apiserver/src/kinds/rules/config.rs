//! The rules of ConfigMaps, Secrets and ServiceAccounts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coracle_machinery::names::config_map_key_errors;
use coracle_machinery::object::child_map;
use coracle_machinery::{FieldError, FieldErrorKind, FieldPath};
use serde_json::Value;

use super::text::check;
use super::{Errors, default_field, given, immutable, str_at};
use crate::kind::Strategy;

/// Most bytes of data in a ConfigMap or Secret: 1 MiB, upstream's limit.
const DATA_MAX: usize = 1 << 20;

/// The rules of ConfigMaps.
pub(in crate::kinds) struct ConfigMap;
/// The rules of Secrets.
pub(in crate::kinds) struct Secret;
/// The rules of ServiceAccounts.
pub(in crate::kinds) struct ServiceAccount;

impl Strategy for ConfigMap {
    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let mut size = 0;
        for (key, text) in entries(object, "data") {
            let path = FieldPath::new("data").key(key);
            check(&mut errors, &path, key, config_map_key_errors);
            if given(&object["binaryData"], key) {
                let detail = "duplicate of key present in binaryData";
                errors.push(FieldError::invalid(&path, key.as_str(), detail));
            }
            size += text.len();
        }
        for (key, text) in entries(object, "binaryData") {
            let path = FieldPath::new("binaryData").key(key);
            check(&mut errors, &path, key, config_map_key_errors);
            size += base64_len(text);
        }
        if size > DATA_MAX {
            errors.push(too_long(&FieldPath::default()));
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        unchanged_if_immutable(object, old, &["data", "binaryData"])
    }
}

fn entries<'a>(object: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a str)> {
    let map = object[key].as_object().into_iter().flatten();
    map.map(|(key, value)| (key, value.as_str().unwrap_or_default()))
}

/// Bytes that a base64 text stands for.
fn base64_len(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

fn too_long(path: &FieldPath) -> FieldError {
    FieldError {
        kind: FieldErrorKind::TooLong,
        path: path.clone(),
        value: None,
        detail: format!("may not be more than {DATA_MAX} bytes"),
    }
}

/// Errors of a change to the data of an object marked `immutable`.
fn unchanged_if_immutable(object: &Value, old: &Value, keys: &[&str]) -> Errors {
    let mut errors = Vec::new();
    if old["immutable"] != true {
        return errors;
    }
    let detail = "field is immutable when `immutable` is set";
    if object["immutable"] != true {
        errors.push(FieldError::forbidden(&FieldPath::new("immutable"), detail));
    }
    for key in keys {
        let blank = |v: &Value| v.as_object().is_none_or(|m| m.is_empty());
        if object[*key] != old[*key] && !(blank(&object[*key]) && blank(&old[*key])) {
            errors.push(FieldError::forbidden(&FieldPath::new(key), detail));
        }
    }
    errors
}

impl Strategy for Secret {
    fn default(&self, object: &mut Value) {
        if let Some(map) = object.as_object_mut() {
            default_field(map, "type", "Opaque");
            if map["type"] == "" {
                map.insert("type".into(), "Opaque".into());
            }
            merge_string_data(object);
        }
    }

    fn prepare_for_create(&self, object: &mut Value) {
        merge_string_data(object);
    }

    fn prepare_for_update(&self, object: &mut Value, old: &Value) {
        merge_string_data(object);
        // An empty type is how old clients say that they do not care.
        if let Some(map) = object.as_object_mut()
            && map
                .get("type")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .is_empty()
        {
            map.insert("type".into(), old["type"].clone());
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("data");
        let mut size = 0;
        for (key, text) in entries(object, "data") {
            check(&mut errors, &path.key(key), key, config_map_key_errors);
            size += base64_len(text);
        }
        if size > DATA_MAX {
            errors.push(too_long(&path));
        }
        typed_secret(&mut errors, object, &path);
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        let mut errors = Vec::new();
        immutable(&mut errors, object, old, "type", &FieldPath::default());
        errors.extend(unchanged_if_immutable(object, old, &["data"]));
        errors
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["type"]
    }
}

/// `stringData` is write-only: it goes into `data`, encoded.
fn merge_string_data(object: &mut Value) {
    let Some(Value::Object(texts)) = object.as_object_mut().and_then(|m| m.remove("stringData"))
    else {
        return;
    };
    if texts.is_empty() {
        return;
    }
    let data = child_map(object, "data");
    for (key, text) in texts {
        let text = text.as_str().unwrap_or_default();
        data.insert(key, STANDARD.encode(text).into());
    }
}

/// Keys that some types of secrets must have.
fn typed_secret(errors: &mut Errors, object: &Value, path: &FieldPath) {
    let data = &object["data"];
    match str_at(object, "type") {
        "kubernetes.io/service-account-token" => {
            let name = "kubernetes.io/service-account.name";
            if coracle_machinery::object::annotation(object, name).is_none_or(str::is_empty) {
                let at = FieldPath::new("metadata").child("annotations").key(name);
                errors.push(FieldError::required(&at, ""));
            }
        }
        "kubernetes.io/dockercfg" => json_key(errors, data, ".dockercfg", path),
        "kubernetes.io/dockerconfigjson" => json_key(errors, data, ".dockerconfigjson", path),
        "kubernetes.io/basic-auth" if !given(data, "username") && !given(data, "password") => {
            errors.push(FieldError::required(&path.key("username"), ""));
            errors.push(FieldError::required(&path.key("password"), ""));
        }
        "kubernetes.io/ssh-auth" if str_at(data, "ssh-privatekey").is_empty() => {
            errors.push(FieldError::required(&path.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !given(data, key) {
                    errors.push(FieldError::required(&path.key(key), ""));
                }
            }
        }
        _ => {}
    }
}

fn json_key(errors: &mut Errors, data: &Value, key: &str, path: &FieldPath) {
    let at = path.key(key);
    if !given(data, key) {
        errors.push(FieldError::required(&at, ""));
        return;
    }
    let bytes = STANDARD.decode(str_at(data, key)).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
        errors.push(FieldError::invalid(
            &at,
            "<secret contents redacted>",
            error.to_string(),
        ));
    }
}

impl Strategy for ServiceAccount {}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn string_data_goes_into_data() {
        let mut secret = json!({"stringData": {"a": "b"}, "data": {"c": "ZA=="}});
        Secret.default(&mut secret);
        assert_eq!(
            secret,
            json!({"type": "Opaque", "data": {"a": "Yg==", "c": "ZA=="}})
        );
    }

    #[test]
    fn immutable_data_stays() {
        let old = json!({"immutable": true, "data": {"a": "b"}});
        let mut new = old.clone();
        assert!(ConfigMap.validate_update(&new, &old).is_empty());
        new["data"]["a"] = json!("c");
        let errors = ConfigMap.validate_update(&new, &old);
        assert_eq!(
            errors[0].to_string(),
            "data: Forbidden: field is immutable when `immutable` is set"
        );
    }

    #[test]
    fn types_demand_their_keys() {
        let errors =
            Secret.validate(&json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}));
        assert_eq!(errors[0].to_string(), "data[tls.key]: Required value");
        let errors = ConfigMap.validate(&json!({"data": {"a/b": ""}}));
        assert_eq!(errors.len(), 1);
    }
}
