//! Volumes: every reference renamed, tokens taken from the secret that the
//! syncer keeps, downward fields answered with the virtual values.

use coracle_machinery::object;
use serde_json::{Value, json};

use crate::env::host_field_path;
use crate::json::{list_mut, set, text};
use crate::names::Translator;
use crate::pod::{Token, token_secret_name};

/// Volume sources that name an object: the pointer to the name and its kind.
/// `secretRef` and its like are references within the pod's namespace.
const NAMED: &[(&str, &str, &str)] = &[
    ("/configMap", "name", "ConfigMap"),
    ("/secret", "secretName", "Secret"),
    (
        "/persistentVolumeClaim",
        "claimName",
        "PersistentVolumeClaim",
    ),
    ("/csi/nodePublishSecretRef", "name", "Secret"),
    ("/azureFile", "secretName", "Secret"),
    ("/cephfs/secretRef", "name", "Secret"),
    ("/cinder/secretRef", "name", "Secret"),
    ("/flexVolume/secretRef", "name", "Secret"),
    ("/glusterfs", "endpoints", "Endpoints"),
    ("/iscsi/secretRef", "name", "Secret"),
    ("/rbd/secretRef", "name", "Secret"),
    ("/scaleIO/secretRef", "name", "Secret"),
    ("/storageos/secretRef", "name", "Secret"),
];

/// Lifetime of a token whose pod does not say: upstream's default, one hour.
const DEFAULT_TOKEN_SECONDS: i64 = 3600;
/// The shortest that the API accepts.
const MIN_TOKEN_SECONDS: i64 = 600;

impl Translator {
    /// Rewrites `spec.volumes`; gives back the tokens that are needed.
    pub(crate) fn volumes(&self, spec: &mut Value, pod: &Value) -> Vec<Token> {
        let namespace = object::namespace(pod);
        let mut tokens = Vec::new();
        for volume in list_mut(spec, "volumes") {
            for (pointer, key, kind) in NAMED {
                if let Some(source) = volume.pointer_mut(pointer).filter(|s| s.is_object())
                    && !text(source, key).is_empty()
                {
                    let name = self.rename(kind, namespace, text(source, key));
                    set(source, key, name);
                }
            }
            if volume.get("ephemeral").is_some_and(|v| !v.is_null()) {
                let claim = format!("{}-{}", object::name(pod), text(volume, "name"));
                let claim = self.rename("PersistentVolumeClaim", namespace, &claim);
                if let Some(volume) = volume.as_object_mut() {
                    volume.remove("ephemeral");
                    volume.insert("persistentVolumeClaim".into(), json!({"claimName": claim}));
                }
            }
            if let Some(downward) = volume.get_mut("downwardAPI") {
                downward_items(downward);
            }
            if let Some(projected) = volume.get_mut("projected") {
                for source in list_mut(projected, "sources") {
                    self.projection(source, pod, &mut tokens);
                }
            }
        }
        tokens
    }

    fn projection(&self, source: &mut Value, pod: &Value, tokens: &mut Vec<Token>) {
        let namespace = object::namespace(pod);
        for (field, kind) in [("configMap", "ConfigMap"), ("secret", "Secret")] {
            if let Some(inner) = source.get_mut(field).filter(|s| s.is_object()) {
                let name = self.rename(kind, namespace, text(inner, "name"));
                set(inner, "name", name);
            }
        }
        if let Some(downward) = source.get_mut("downwardAPI") {
            downward_items(downward);
        }
        if let Some(wanted) = source.get("serviceAccountToken").filter(|s| s.is_object()) {
            let token = Token {
                key: format!("token-{}", tokens.len()),
                audience: text(wanted, "audience").to_owned(),
                expiration_seconds: wanted
                    .get("expirationSeconds")
                    .and_then(Value::as_i64)
                    .unwrap_or(DEFAULT_TOKEN_SECONDS)
                    .max(MIN_TOKEN_SECONDS),
            };
            let path = text(wanted, "path").to_owned();
            *source = json!({"secret": {
                "name": token_secret_name(object::uid(pod)),
                "items": [{"key": token.key, "path": path}],
            }});
            tokens.push(token);
        }
    }
}

fn downward_items(downward: &mut Value) {
    for item in list_mut(downward, "items") {
        if let Some(field) = item.get_mut("fieldRef").filter(|f| f.is_object())
            && let Some(host) = host_field_path(text(field, "fieldPath"))
        {
            set(field, "fieldPath", host);
        }
    }
}

/// True if a volume of the pod shows all labels or all annotations, in which
/// case the host pod must carry them as one text.
pub(crate) fn shows(pod: &Value, path: &str) -> bool {
    let asks = |downward: Option<&Value>| {
        downward.is_some_and(|d| {
            crate::json::list(d, "items")
                .iter()
                .any(|item| object::text(item, "/fieldRef/fieldPath") == path)
        })
    };
    object::items(pod, "/spec/volumes").iter().any(|volume| {
        asks(volume.get("downwardAPI"))
            || object::items(volume, "/projected/sources")
                .iter()
                .any(|source| asks(source.get("downwardAPI")))
    })
}

/// A map in the format of downward volumes: `key="value"` lines, sorted.
pub(crate) fn downward_text<'a>(map: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut lines: Vec<String> = map
        .map(|(key, value)| format!("{key}={}", go_quoted(value)))
        .collect();
    lines.sort();
    lines.join("\n")
}

/// The text as Go's `%q` prints it: what kubelets write into downward volumes.
fn go_quoted(text: &str) -> String {
    use std::fmt::Write as _;
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
