//! Ingresses to the host. Host names are the user's and stay.

use coracle_machinery::object;
use serde_json::{Value, json};

use crate::json::{list_mut, set, text};
use crate::metadata::applied;
use crate::names::Translator;

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
        applied(host, Value::clone)
    }

    fn backend(&self, backend: &mut Value, namespace: &str) {
        if let Some(service) = backend.get_mut("service") {
            let name = self.rename("Service", namespace, text(service, "name"));
            set(service, "name", name);
        }
    }
}
