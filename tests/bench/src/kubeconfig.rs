//! The current context of a kubeconfig: where the server is and who we are.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConfig;
use serde_json::Value;

use crate::Result;

/// What a kubeconfig's current context says.
pub struct Access {
    /// The server's host name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Trust and identity.
    pub tls: Arc<ClientConfig>,
    /// A bearer token, if the user has one.
    pub token: Option<String>,
}

/// Reads a kubeconfig.
pub fn read(file: &Path) -> Result<Access> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    parse(&text, file.parent().unwrap_or(Path::new(".")))
        .map_err(|e| format!("{}: {e}", file.display()))
}

fn parse(text: &str, directory: &Path) -> Result<Access> {
    let config: Value = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    let context = named(&config, "contexts", "context", &config["current-context"])?;
    let cluster = named(&config, "clusters", "cluster", &context["cluster"])?;
    let user = named(&config, "users", "user", &context["user"])?;
    let server = cluster["server"].as_str().unwrap_or_default();
    let uri: http::Uri = server
        .parse()
        .map_err(|e| format!("server {server:?}: {e}"))?;
    if uri.scheme_str() != Some("https") {
        return Err(format!("server {server:?} is no https URL"));
    }
    let ca = pem(cluster, "certificate-authority", directory)?.ok_or("no certificate-authority")?;
    let cert = pem(user, "client-certificate", directory)?;
    let key = pem(user, "client-key", directory)?;
    let identity = cert.as_deref().zip(key.as_deref());
    Ok(Access {
        host: uri
            .host()
            .unwrap_or_default()
            .trim_matches(['[', ']'])
            .to_owned(),
        port: uri.port_u16().unwrap_or(443),
        tls: coracle_pki::tls::client_config(&ca, identity).map_err(|e| e.to_string())?,
        token: user["token"].as_str().map(str::to_owned),
    })
}

fn named<'a>(config: &'a Value, list: &str, key: &str, name: &Value) -> Result<&'a Value> {
    let entries = config[list].as_array().into_iter().flatten();
    entries
        .filter(|entry| entry["name"] == *name)
        .map(|entry| &entry[key])
        .next()
        .ok_or_else(|| format!("no {key} is called {name}"))
}

/// A PEM text that stands in the file (`KEY-data`) or in one beside it (`KEY`).
fn pem(entry: &Value, key: &str, directory: &Path) -> Result<Option<String>> {
    let bytes = if let Some(data) = entry[format!("{key}-data")].as_str() {
        STANDARD
            .decode(data)
            .map_err(|e| format!("{key}-data: {e}"))?
    } else if let Some(file) = entry[key].as_str() {
        let file = directory.join(file);
        std::fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?
    } else {
        return Ok(None);
    };
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|e| format!("{key}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_context_counts() {
        let authority = coracle_pki::CertificateAuthority::generate("test").unwrap();
        let ca = STANDARD.encode(authority.cert_pem());
        let text = format!(
            "current-context: b\ncontexts:\n- {{name: a, context: {{cluster: x, user: x}}}}\n\
             - {{name: b, context: {{cluster: y, user: y}}}}\nclusters:\n- {{name: y, cluster: \
             {{server: 'https://[::1]:7443', certificate-authority-data: {ca}}}}}\n\
             users:\n- {{name: y, user: {{token: secret}}}}\n"
        );
        let access = parse(&text, Path::new("/")).unwrap();
        assert_eq!((access.host.as_str(), access.port), ("::1", 7443));
        assert_eq!(access.token.as_deref(), Some("secret"));
        let other = text.replace("current-context: b", "current-context: a");
        assert!(parse(&other, Path::new("/")).is_err());
    }
}
