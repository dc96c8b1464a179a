//! Ingresses to the host. Host names are the user's and stay; secrets that
//! annotations name are renamed as those of the spec are.

use coracle_machinery::names::dns1123_subdomain_errors;
use coracle_machinery::object;
use serde_json::{Value, json};

use crate::json::{drop_keys, list_mut, set, text};
use crate::metadata::applied;
use crate::names::Translator;

/// True for annotations by which ingress controllers are told a secret: of
/// passwords, of authorities, or of the certificate to show to services.
pub(crate) fn names_secret(key: &str) -> bool {
    key.contains('/') && key.ends_with("-secret")
}

/// Namespace and name in `[NAMESPACE/]NAME`.
pub(crate) fn secret_reference<'a>(
    own_namespace: &'a str,
    value: &'a str,
) -> Option<(&'a str, &'a str)> {
    let (namespace, name) = value.split_once('/').unwrap_or((own_namespace, value));
    let good = |text: &str| dns1123_subdomain_errors(text).is_empty();
    (good(namespace) && good(name)).then_some((namespace, name))
}

impl Translator {
    /// The host Ingress.
    pub fn ingress_to_host(&self, ingress: &Value) -> Value {
        let namespace = object::namespace(ingress);
        let mut host = self.shell("networking.k8s.io/v1", "Ingress", ingress);
        let mut spec = ingress.get("spec").cloned().unwrap_or_else(|| json!({}));
        if let Some(backend) = spec.get_mut("defaultBackend") {
            self.backend(backend, namespace);
        }
        for rule in list_mut(&mut spec, "rules") {
            if let Some(http) = rule.get_mut("http") {
                for path in list_mut(http, "paths") {
                    if let Some(backend) = path.get_mut("backend") {
                        self.backend(backend, namespace);
                    }
                }
            }
        }
        for tls in list_mut(&mut spec, "tls") {
            let secret = self.rename("Secret", namespace, text(tls, "secretName"));
            if !secret.is_empty() {
                set(tls, "secretName", secret);
            }
        }
        host["spec"] = spec;
        for (key, value) in object::string_map(ingress, "/metadata/annotations") {
            if !names_secret(key) {
                continue;
            }
            let annotations = &mut host["metadata"]["annotations"];
            match secret_reference(namespace, value) {
                Some((of, name)) => {
                    let renamed = self.rename("Secret", of, name);
                    annotations[key] = match value.contains('/') {
                        true => format!("{}/{renamed}", self.host_namespace).into(),
                        false => renamed.into(),
                    };
                }
                // What cannot be read could be a secret of the host's.
                None => drop_keys(annotations, &[key]),
            }
        }
        applied(host, Value::clone)
    }

    fn backend(&self, backend: &mut Value, namespace: &str) {
        if let Some(service) = backend.get_mut("service") {
            let name = self.rename("Service", namespace, text(service, "name"));
            set(service, "name", name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataKind, references};
    use std::sync::Arc;

    #[test]
    fn annotations_lead_to_secrets_inside() {
        let t = Translator::new("vc", "demo", Arc::default());
        for (value, on_host, referred) in [
            (
                "vc-other",
                Some("vc-other-x-default-x-vc"),
                Some(("default", "vc-other")),
            ),
            (
                "kube-system/key",
                Some("demo/key-x-kube-system-x-vc"),
                Some(("kube-system", "key")),
            ),
            ("a/b/c", None, None),
            ("secret://kube-system/key", None, None),
            ("", None, None),
        ] {
            let key = "nginx.ingress.kubernetes.io/proxy-ssl-secret";
            let ingress = json!({"kind": "Ingress", "metadata": {"name": "a",
                "namespace": "default", "annotations": {key: value}}});
            let host = t.ingress_to_host(&ingress);
            assert_eq!(object::annotation(&host, key), on_host, "{value}");
            let found = references(&ingress);
            let found: Vec<(&str, &str)> = found
                .iter()
                .filter(|r| r.kind == DataKind::Secret)
                .map(|r| (r.namespace.as_str(), r.name.as_str()))
                .collect();
            assert_eq!(found, referred.into_iter().collect::<Vec<_>>(), "{value}");
        }
    }
}
