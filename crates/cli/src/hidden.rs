//! Takes out of objects and logs what may be secret, before they are handed to
//! others.

use serde_json::Value;

/// Stands for what was taken out.
pub const HIDDEN: &str = "<hidden>";

/// Annotations that repeat whole objects, secrets included.
const COPIES: &[&str] = &["kubectl.kubernetes.io/last-applied-configuration"];

/// Keys below which everything is content of the user's.
const CONTENT: &[&str] = &["data", "stringData", "binaryData"];

/// Fields of a container that often hold passwords.
const CONTAINER: &[&str] = &["args", "command"];

/// Hides what may be secret in a Kubernetes object of any kind: the content of
/// Secrets and ConfigMaps, the values of environment variables, commands, and
/// whatever looks like a key or a token.
pub fn in_object(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata
            .get_mut("annotations")
            .and_then(Value::as_object_mut)
        {
            annotations.retain(|key, _| !COPIES.contains(&key.as_str()));
        }
    }
    let content = matches!(object["kind"].as_str(), Some("Secret" | "ConfigMap"));
    if content && let Some(map) = object.as_object_mut() {
        for key in CONTENT {
            for (_, value) in map
                .get_mut(*key)
                .and_then(Value::as_object_mut)
                .into_iter()
                .flatten()
            {
                *value = HIDDEN.into();
            }
        }
    }
    in_value(object, true);
}

/// Hides the values of environment variables and what looks like a key or a
/// token.
pub fn in_values(values: &mut Value) {
    in_value(values, false);
}

/// Objects are as deep as the API server lets them be, which is bounded.
fn in_value(value: &mut Value, commands: bool) {
    match value {
        Value::String(text) => *text = in_text(text),
        Value::Array(items) => items.iter_mut().for_each(|item| in_value(item, commands)),
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::Array(items) if key == "env" => hide_env(items),
                    Value::Array(items) if commands && CONTAINER.contains(&key.as_str()) => {
                        for item in items {
                            *item = HIDDEN.into();
                        }
                    }
                    value => in_value(value, commands),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn hide_env(variables: &mut [Value]) {
    for variable in variables {
        if let Some(value) = variable.get_mut("value") {
            *value = HIDDEN.into();
        }
    }
}

/// Hides keys in PEM and tokens in a text, such as a log.
pub fn in_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(PEM_BEGIN) {
        out.push_str(&without_tokens(&rest[..at]));
        let block = &rest[at..];
        let end = block.find(PEM_END).map_or(block.len(), |end| {
            let after = end + PEM_END.len();
            block[after..]
                .find("-----")
                .map_or(block.len(), |dashes| after + dashes + 5)
        });
        let first = block.lines().next().unwrap_or_default();
        // Certificates are public, and tell when they end.
        if first.contains("CERTIFICATE") {
            out.push_str(&block[..end]);
        } else {
            out.push_str(HIDDEN);
        }
        rest = &block[end..];
    }
    out.push_str(&without_tokens(rest));
    out
}

const PEM_BEGIN: &str = "-----BEGIN ";
const PEM_END: &str = "-----END ";

/// A JSON web token: three parts of base64, the first of which begins with `{"`.
fn without_tokens(text: &str) -> String {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=');
    let mut out = String::with_capacity(text.len());
    for word in text.split_inclusive(|c| !part(c)) {
        let token = word.trim_end_matches(|c| !part(c));
        let is_token = token.starts_with("eyJ") && token.matches('.').count() >= 2;
        if is_token {
            out.push_str(HIDDEN);
            out.push_str(&word[token.len()..]);
        } else {
            out.push_str(word);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_secret_is_left_in_an_object() {
        let mut pod = json!({
            "kind": "Pod",
            "metadata": {"name": "a", "managedFields": [],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "s3cret", "b": "c"}},
            "spec": {"containers": [{
                "name": "c", "image": "i", "args": ["--password=s3cret"], "command": ["s3cret"],
                "env": [{"name": "P", "value": "s3cret"},
                    {"name": "Q", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                "livenessProbe": {"exec": {"command": ["s3cret"]}},
            }]},
        });
        in_object(&mut pod);
        let text = pod.to_string();
        assert!(!text.contains("s3cret"), "{text}");
        assert_eq!(
            pod["spec"]["containers"][0]["env"][1]["valueFrom"]["secretKeyRef"]["key"],
            "k"
        );
        assert_eq!(pod["metadata"]["annotations"], json!({"b": "c"}));
        for kind in ["Secret", "ConfigMap"] {
            let mut data =
                json!({"kind": kind, "data": {"k": "s3cret"}, "stringData": {"l": "s3cret"}});
            in_object(&mut data);
            assert_eq!(data["data"], json!({"k": HIDDEN}));
            assert!(!data.to_string().contains("s3cret"));
        }
    }

    #[test]
    fn keys_and_tokens_are_found_in_texts() {
        let log = "a\n-----BEGIN EC PRIVATE KEY-----\ns3cret\n-----END EC PRIVATE KEY-----\n\
                   -----BEGIN CERTIFICATE-----\nopen\n-----END CERTIFICATE-----\n\
                   Authorization: Bearer eyJhbGciOi.eyJzdWIi.s3cret-sig, next eyJust\n";
        assert_eq!(
            in_text(log),
            "a\n<hidden>\n-----BEGIN CERTIFICATE-----\nopen\n-----END CERTIFICATE-----\n\
             Authorization: Bearer <hidden>, next eyJust\n"
        );
        // Cut off, or not closed.
        assert_eq!(
            in_text("x -----BEGIN PRIVATE KEY-----\ns3cret"),
            "x <hidden>"
        );
    }
}
