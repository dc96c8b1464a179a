//! Getting a container's image: pull policy, credentials, back-off.

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use kube::Api;
use serde_json::Value;

use super::info;
use super::status::Waiting;

/// Longest image reference taken.
const MAX_REFERENCE: usize = 1024;
/// Most pull secrets read for one pod.
const MAX_SECRETS: usize = 32;

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Before every start.
    Always,
    /// When the machine lacks it.
    IfNotPresent,
    /// Never.
    Never,
}

/// The container's pull policy: `latest` is pulled always unless told.
pub fn policy(container: &Container) -> Policy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => Policy::Always,
        Some("Never") => Policy::Never,
        Some("IfNotPresent") => Policy::IfNotPresent,
        _ => {
            let image = container.image.as_deref().unwrap_or_default();
            let last = image.rsplit('/').next().unwrap_or_default();
            let moving = !image.contains('@') && (!last.contains(':') || last.ends_with(":latest"));
            if moving {
                Policy::Always
            } else {
                Policy::IfNotPresent
            }
        }
    }
}

/// Whether the text can be an image reference at all.
pub fn is_valid(image: &str) -> bool {
    let name = image.split('@').next().unwrap_or_default();
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    let tag_ok = tag.is_none_or(|t| {
        !t.is_empty()
            && t.chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    });
    let mut parts = path.split('/');
    let first = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    let is_host = !rest.is_empty() && (first.contains(['.', ':']) || first == "localhost");
    let path_ok = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
            && !part.starts_with(['.', '-', '_'])
            && !part.ends_with(['.', '-', '_'])
    };
    image.len() <= MAX_REFERENCE
        && tag_ok
        && (is_host || path_ok(first))
        && rest.iter().all(|part| path_ok(part))
}

/// The registry that an image comes from.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

/// Credentials for the image in a docker configuration, if it has any.
pub fn credentials(docker_config: &Value, image: &str) -> Option<cri::AuthConfig> {
    let auths = docker_config
        .get("auths")
        .unwrap_or(docker_config)
        .as_object()?;
    let wanted = registry(image);
    let (server, entry) = auths.iter().find(|(key, _)| {
        let key = key.split("://").last().unwrap_or(key);
        let host = key.split('/').next().unwrap_or(key);
        let host = if host == "index.docker.io" {
            "docker.io"
        } else {
            host
        };
        host == wanted
    })?;
    let text = |name: &str| {
        entry
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    Some(cri::AuthConfig {
        username: text("username"),
        password: text("password"),
        auth: text("auth"),
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
        server_address: server.clone(),
    })
}

/// Credentials for the image in the pod's pull secrets. A secret that is
/// missing or unreadable is passed over: the pull tells if it was needed.
pub async fn find_credentials(
    client: &kube::Client,
    pod: &Pod,
    image: &str,
) -> Option<cri::AuthConfig> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), info::namespace(pod));
    let names = pod.spec.as_ref()?.image_pull_secrets.as_deref()?;
    for name in names.iter().take(MAX_SECRETS).map(|r| &r.name) {
        let Ok(Some(secret)) = secrets.get_opt(name).await else {
            continue;
        };
        let data = secret.data.unwrap_or_default();
        let text = data
            .get(".dockerconfigjson")
            .or_else(|| data.get(".dockercfg"));
        let config = text.and_then(|t| serde_json::from_slice::<Value>(&t.0).ok());
        if let Some(found) = config.and_then(|c| credentials(&c, image)) {
            return Some(found);
        }
    }
    None
}

/// A container that waits for its image.
pub fn waiting(reason: &str, message: impl Into<String>) -> Waiting {
    Waiting {
        reason: reason.to_owned(),
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn policies() {
        for (image, given, want) in [
            ("nginx", None, Policy::Always),
            ("nginx:latest", None, Policy::Always),
            ("nginx:1.2", None, Policy::IfNotPresent),
            ("host:5000/nginx", None, Policy::Always),
            ("nginx@sha256:ab", None, Policy::IfNotPresent),
            ("nginx", Some("Never"), Policy::Never),
        ] {
            let container = Container {
                image: Some(image.into()),
                image_pull_policy: given.map(str::to_owned),
                ..Default::default()
            };
            assert_eq!(policy(&container), want, "{image}");
        }
    }

    #[test]
    fn references() {
        for (image, ok) in [
            ("nginx", true),
            ("docker.io/library/nginx:1.2-x", true),
            ("localhost:5000/a/b@sha256:00", true),
            ("Nginx", false),
            ("a b", false),
            ("", false),
            ("a//b", false),
            ("a:", false),
        ] {
            assert_eq!(is_valid(image), ok, "{image}");
        }
    }

    #[test]
    fn docker_credentials() {
        let config = json!({"auths": {"https://index.docker.io/v1/": {"auth": "YTpi"},
            "r.example:5000": {"username": "u", "password": "p"}}});
        assert_eq!(credentials(&config, "nginx").unwrap().auth, "YTpi");
        assert_eq!(
            credentials(&config, "r.example:5000/x").unwrap().username,
            "u"
        );
        assert!(credentials(&config, "other.example/x").is_none());
    }
}
