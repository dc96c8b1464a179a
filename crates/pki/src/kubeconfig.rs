//! Kubeconfig files of a single cluster and user.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::KeyCert;

/// A complete kubeconfig whose one context, cluster and user are all called
/// `name`. The text is JSON, which every reader of YAML takes.
pub fn render(name: &str, server: &str, ca_pem: &str, client: &KeyCert) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(ca_pem),
        }}],
        "users": [{"name": name, "user": {
            "client-certificate-data": STANDARD.encode(&client.cert_pem),
            "client-key-data": STANDARD.encode(&client.key_pem),
        }}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    });
    let mut text = serde_json::to_string_pretty(&config).expect("a JSON value always serialises");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_one_context() {
        let pair = KeyCert {
            cert_pem: "C".into(),
            key_pem: "K".into(),
        };
        let text = render("demo", "https://127.0.0.1:6443", "CA", &pair);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["current-context"], "demo");
        assert_eq!(value["users"][0]["user"]["client-key-data"], "Sw==");
    }
}
