//! Environment of containers: references renamed, downward fields answered
//! with the virtual values, addresses of services put in as plain variables.

use coracle_config::marks;
use coracle_machinery::object;
use serde_json::{Value, json};

use crate::json::{list, list_mut, set, text};
use crate::names::{Translator, VirtualName};
use crate::pod::PodContext;

/// Most services whose addresses a pod gets as variables. A process cannot be
/// started with an environment beyond a few hundred kilobytes, and each
/// service takes about half a kilobyte.
const MAX_LINKED_SERVICES: usize = 200;

impl Translator {
    /// Rewrites `env` and `envFrom` of one container.
    pub(crate) fn container_env(&self, container: &mut Value, pod: &Value, links: &[Value]) {
        let namespace = object::namespace(pod);
        for source in list_mut(container, "envFrom") {
            for (field, kind) in [("configMapRef", "ConfigMap"), ("secretRef", "Secret")] {
                if let Some(reference) = source.get_mut(field) {
                    let name = self.rename(kind, namespace, text(reference, "name"));
                    set(reference, "name", name);
                }
            }
        }
        for variable in list_mut(container, "env") {
            self.variable(variable, pod);
        }
        if let Some(container) = container.as_object_mut() {
            let own = container.remove("env").unwrap_or_default();
            let own = own.as_array().map_or(&[][..], Vec::as_slice);
            // Addresses come first, so that the user's variables may refer to
            // them; the user's own variables of these names win.
            let mut env: Vec<Value> = links
                .iter()
                .filter(|link| !own.iter().any(|v| text(v, "name") == text(link, "name")))
                .cloned()
                .collect();
            env.extend(own.iter().cloned());
            if !env.is_empty() {
                container.insert("env".into(), Value::Array(env));
            }
        }
    }

    fn variable(&self, variable: &mut Value, pod: &Value) {
        let Some(source) = variable.get_mut("valueFrom").filter(|s| s.is_object()) else {
            return;
        };
        for (field, kind) in [("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")] {
            if let Some(reference) = source.get_mut(field) {
                let name = self.rename(kind, object::namespace(pod), text(reference, "name"));
                set(reference, "name", name);
            }
        }
        let Some(field) = source.get_mut("fieldRef") else {
            return;
        };
        let path = text(field, "fieldPath").to_owned();
        let literal = match path.as_str() {
            "metadata.name" => object::name(pod),
            "metadata.namespace" => object::namespace(pod),
            "metadata.uid" => object::uid(pod),
            "spec.serviceAccountName" => service_account(pod),
            _ => {
                if let Some(host) = host_field_path(&path) {
                    set(field, "fieldPath", host);
                }
                return;
            }
        };
        let literal = literal.to_owned();
        if let Some(variable) = variable.as_object_mut() {
            variable.remove("valueFrom");
            variable.insert("value".into(), literal.into());
        }
    }
}

/// The pod's service account inside.
pub(crate) fn service_account(pod: &Value) -> &str {
    match object::text(pod, "/spec/serviceAccountName") {
        "" => "default",
        name => name,
    }
}

/// Where the host pod carries the virtual value of a field, if not in the same
/// place.
pub(crate) fn host_field_path(path: &str) -> Option<String> {
    let annotation = |key: &str| Some(format!("metadata.annotations['{key}']"));
    match path {
        "metadata.name" => annotation(marks::OBJECT_NAME),
        "metadata.namespace" => annotation(marks::OBJECT_NAMESPACE),
        "metadata.uid" => annotation(marks::OBJECT_UID),
        "metadata.labels" => annotation(marks::POD_LABELS),
        "metadata.annotations" => annotation(marks::POD_ANNOTATIONS),
        "spec.serviceAccountName" => annotation(marks::POD_SERVICE_ACCOUNT),
        _ => {
            let key = path.strip_prefix("metadata.labels['")?.strip_suffix("']")?;
            Some(format!("metadata.labels['{}']", marks::host_label_key(key)))
        }
    }
}

/// The variables that tell a pod the addresses of services: those of its
/// namespace (unless it declines them) and that of the API server.
pub(crate) fn service_links(pod: &Value, context: &PodContext<'_>) -> Vec<Value> {
    let mut links = Vec::new();
    let wanted = pod.pointer("/spec/enableServiceLinks") != Some(&Value::Bool(false));
    if wanted {
        let own = VirtualName::new("default", "kubernetes");
        for service in context.services.iter().take(MAX_LINKED_SERVICES) {
            if VirtualName::of(service) != own {
                let ip = object::text(service, "/spec/clusterIP");
                links_of(
                    &mut links,
                    object::name(service),
                    ip,
                    object::items(service, "/spec/ports"),
                );
            }
        }
    }
    let port = json!({"name": "https", "port": crate::service::API_PORT, "protocol": "TCP"});
    links_of(&mut links, "kubernetes", context.kubernetes_ip, &[port]);
    links
}

fn links_of(links: &mut Vec<Value>, service: &str, ip: &str, ports: &[Value]) {
    let number = |port: &Value| port.get("port").and_then(Value::as_u64);
    let Some(first) = ports.first().and_then(number) else {
        return;
    };
    if ip.is_empty() || ip == "None" {
        return;
    }
    let prefix = service.to_uppercase().replace('-', "_");
    let host = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    };
    let mut push = |name: String, value: String| links.push(json!({"name": name, "value": value}));
    push(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    push(format!("{prefix}_SERVICE_PORT"), first.to_string());
    for port in ports {
        let name = text(port, "name");
        if let (false, Some(number)) = (name.is_empty(), number(port)) {
            let name = name.to_uppercase().replace('-', "_");
            push(format!("{prefix}_SERVICE_PORT_{name}"), number.to_string());
        }
    }
    for (at, port) in ports.iter().enumerate() {
        let Some(number) = number(port) else { continue };
        let protocol = match text(port, "protocol") {
            "" => "TCP",
            other => other,
        };
        let url = format!("{}://{host}:{number}", protocol.to_lowercase());
        if at == 0 {
            push(format!("{prefix}_PORT"), url.clone());
        }
        let stem = format!("{prefix}_PORT_{number}_{protocol}");
        push(stem.clone(), url);
        push(format!("{stem}_PROTO"), protocol.to_lowercase());
        push(format!("{stem}_PORT"), number.to_string());
        push(format!("{stem}_ADDR"), ip.to_owned());
    }
}

/// Images replaced on the way to the host.
impl Translator {
    pub(crate) fn container_image(&self, container: &mut Value) {
        if let Some(image) = self
            .config
            .sync
            .to_host
            .pods
            .translate_image
            .get(text(container, "image"))
        {
            set(container, "image", image.as_str());
        }
    }
}

/// The containers that refer to each other by name, with their lists.
pub(crate) const CONTAINER_LISTS: &[&str] =
    &["containers", "initContainers", "ephemeralContainers"];

/// All containers of a pod spec.
pub(crate) fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    CONTAINER_LISTS.iter().flat_map(|field| list(spec, field))
}
