//! Environment variables of a container, and `$(NAME)` expansion.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, Service};

use crate::downward::{self, NodeFacts};

/// Largest environment of one container, in bytes; the kernel refuses larger.
const MAX_ENVIRONMENT: usize = 2 << 20;

/// Why a container's environment cannot be made. The container waits with
/// reason `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    /// A configMap or secret that must exist does not, or cannot be read.
    #[error("{0}")]
    Source(String),
    /// A downward API reference has no value.
    #[error(transparent)]
    Downward(#[from] downward::DownwardError),
    /// The whole is too large to start a process with.
    #[error("the environment is larger than {MAX_ENVIRONMENT} bytes")]
    TooLarge,
}

/// Objects that a container's environment refers to, already fetched.
/// `None` stands for an object that does not exist.
#[derive(Debug, Default)]
pub struct Sources {
    /// ConfigMaps by name.
    pub config_maps: BTreeMap<String, Option<ConfigMap>>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, Option<Secret>>,
}

/// Names of the configMaps and secrets that the environment refers to.
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.iter().flatten() {
        if let Some(source) = &from.config_map_ref {
            config_maps.push(source.name.clone());
        }
        if let Some(source) = &from.secret_ref {
            secrets.push(source.name.clone());
        }
    }
    for source in container
        .env
        .iter()
        .flatten()
        .filter_map(|e| e.value_from.as_ref())
    {
        if let Some(key) = &source.config_map_key_ref {
            config_maps.push(key.name.clone());
        }
        if let Some(key) = &source.secret_key_ref {
            secrets.push(key.name.clone());
        }
    }
    for names in [&mut config_maps, &mut secrets] {
        names.sort();
        names.dedup();
    }
    (config_maps, secrets)
}

/// What the environment of a container is made from.
pub struct Input<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// The pod's addresses.
    pub pod_ips: &'a [String],
    /// Facts about the node.
    pub node: &'a NodeFacts,
    /// Referenced objects.
    pub sources: &'a Sources,
    /// Variables that describe services.
    pub services: &'a BTreeMap<String, String>,
}

/// The container's variables, in the order in which they were defined.
pub fn environment(input: &Input<'_>) -> Result<Vec<(String, String)>, EnvError> {
    let mut result = Ordered::default();
    for from in input.container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(source) = &from.config_map_ref {
            let optional = source.optional.unwrap_or(false);
            if let Some(map) = find(
                &input.sources.config_maps,
                "configmap",
                &source.name,
                optional,
            )? {
                for (key, value) in map.data.iter().flatten() {
                    result.set(format!("{prefix}{key}"), value.clone());
                }
            }
        }
        if let Some(source) = &from.secret_ref {
            let optional = source.optional.unwrap_or(false);
            if let Some(secret) = find(&input.sources.secrets, "secret", &source.name, optional)? {
                for (key, value) in secret.data.iter().flatten() {
                    let text = String::from_utf8_lossy(&value.0).into_owned();
                    result.set(format!("{prefix}{key}"), text);
                }
            }
        }
    }
    for variable in input.container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expand(value, |name| {
                result
                    .get(name)
                    .or_else(|| input.services.get(name))
                    .cloned()
            })),
            (_, Some(_)) => value_from(input, variable)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            result.set(variable.name.clone(), value);
        }
    }
    let mut list = result.into_list();
    for (name, value) in input.services {
        if !list.iter().any(|(n, _)| n == name) {
            list.push((name.clone(), value.clone()));
        }
    }
    let size: usize = list.iter().map(|(n, v)| n.len() + v.len() + 2).sum();
    if size > MAX_ENVIRONMENT {
        return Err(EnvError::TooLarge);
    }
    Ok(list)
}

fn value_from(
    input: &Input<'_>,
    variable: &k8s_openapi::api::core::v1::EnvVar,
) -> Result<Option<String>, EnvError> {
    let Some(from) = &variable.value_from else {
        return Ok(None);
    };
    if let Some(field) = &from.field_ref {
        let value = downward::field(input.pod, input.pod_ips, input.node, &field.field_path)?;
        return Ok(Some(value));
    }
    if let Some(resource) = &from.resource_field_ref {
        let value = downward::resource(input.pod, Some(input.container), input.node, resource)?;
        return Ok(Some(value));
    }
    let namespace = input.pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(key) = &from.config_map_key_ref {
        let optional = key.optional.unwrap_or(false);
        let Some(map) = find(&input.sources.config_maps, "configmap", &key.name, optional)? else {
            return Ok(None);
        };
        let value = map.data.as_ref().and_then(|d| d.get(&key.key)).cloned();
        if value.is_none() && !optional {
            return Err(EnvError::Source(format!(
                "couldn't find key {} in ConfigMap {namespace}/{}",
                key.key, key.name
            )));
        }
        return Ok(value);
    }
    if let Some(key) = &from.secret_key_ref {
        let optional = key.optional.unwrap_or(false);
        let Some(secret) = find(&input.sources.secrets, "secret", &key.name, optional)? else {
            return Ok(None);
        };
        let value = secret.data.as_ref().and_then(|d| d.get(&key.key));
        if value.is_none() && !optional {
            return Err(EnvError::Source(format!(
                "couldn't find key {} in Secret {namespace}/{}",
                key.key, key.name
            )));
        }
        return Ok(value.map(|v| String::from_utf8_lossy(&v.0).into_owned()));
    }
    Ok(None)
}

fn find<'a, T>(
    objects: &'a BTreeMap<String, Option<T>>,
    kind: &str,
    name: &str,
    optional: bool,
) -> Result<Option<&'a T>, EnvError> {
    match objects.get(name).and_then(Option::as_ref) {
        Some(object) => Ok(Some(object)),
        None if optional => Ok(None),
        None => Err(EnvError::Source(format!("{kind} \"{name}\" not found"))),
    }
}

#[derive(Default)]
struct Ordered {
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Ordered {
    fn set(&mut self, name: String, value: String) {
        if self.values.insert(name.clone(), value).is_none() {
            self.order.push(name);
        }
    }

    fn get(&self, name: &str) -> Option<&String> {
        self.values.get(name)
    }

    fn into_list(mut self) -> Vec<(String, String)> {
        self.order
            .into_iter()
            .filter_map(|name| self.values.remove(&name).map(|value| (name, value)))
            .collect()
    }
}

/// Replaces `$(NAME)` by the value that `lookup` gives; an unknown name stays
/// as written, and `$$` stands for one dollar sign.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        result.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            result.push('$');
            rest = tail;
            continue;
        }
        if let Some(body) = after.strip_prefix('(')
            && let Some(end) = body.find(')')
        {
            let name = &body[..end];
            match lookup(name) {
                Some(value) => result.push_str(&value),
                None => {
                    result.push_str("$(");
                    result.push_str(name);
                    result.push(')');
                }
            }
            rest = &body[end + 1..];
            continue;
        }
        result.push('$');
        rest = after;
    }
    result.push_str(rest);
    result
}

/// Variables that tell a pod of the services in its namespace (when `links`
/// is on) and always of the API server's own service.
pub fn service_variables<'a>(
    services: impl Iterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut result = BTreeMap::new();
    for service in services {
        let Some(name) = service.metadata.name.as_deref() else {
            continue;
        };
        let own = service.metadata.namespace.as_deref().unwrap_or_default();
        let is_master = own == "default" && name == "kubernetes";
        if !(is_master || links && own == namespace) {
            continue;
        }
        // A service of this name in the pod's own namespace goes first.
        if is_master && own != namespace && result.contains_key("KUBERNETES_SERVICE_HOST") {
            continue;
        }
        add_service(&mut result, name, service);
    }
    result
}

fn add_service(result: &mut BTreeMap<String, String>, name: &str, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec
        .cluster_ip
        .as_deref()
        .filter(|ip| !ip.is_empty() && *ip != "None")
    else {
        return;
    };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let prefix = upper(name);
    let host = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    };
    result.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    result.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    for (index, port) in ports.iter().enumerate() {
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let key = format!("{prefix}_SERVICE_PORT_{}", upper(port_name));
            result.insert(key, port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if index == 0 {
            result.insert(format!("{prefix}_PORT"), url.clone());
        }
        let key = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        result.insert(key.clone(), url);
        result.insert(format!("{key}_PROTO"), protocol.to_lowercase());
        result.insert(format!("{key}_PORT"), port.port.to_string());
        result.insert(format!("{key}_ADDR"), ip.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expansion() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, want) in [
            ("$(A)", "1"),
            ("x$(A)y$(B)", "x1y$(B)"),
            ("$$(A)", "$(A)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("$$$(A)", "$1"),
            ("é$(A)é", "é1é"),
        ] {
            assert_eq!(expand(text, lookup), want, "{text}");
        }
    }

    fn run(
        container: serde_json::Value,
        sources: &Sources,
    ) -> Result<Vec<(String, String)>, EnvError> {
        let container: Container = serde_json::from_value(container).unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"containers": []}
        }))
        .unwrap();
        environment(&Input {
            pod: &pod,
            container: &container,
            pod_ips: &["10.0.0.9".to_owned()],
            node: &NodeFacts::default(),
            sources,
            services: &BTreeMap::from([("SVC_HOST".to_owned(), "10.96.0.1".to_owned())]),
        })
    }

    #[test]
    fn sources_and_order() {
        let sources = Sources {
            config_maps: BTreeMap::from([
                (
                    "cm".to_owned(),
                    serde_json::from_value(json!({"data": {"K": "v"}})).unwrap(),
                ),
                ("gone".to_owned(), None),
            ]),
            secrets: BTreeMap::from([(
                "s".to_owned(),
                serde_json::from_value(json!({"data": {"P": "c2VjcmV0"}})).unwrap(),
            )]),
        };
        let list = run(
            json!({"name": "c",
                "envFrom": [{"prefix": "X_", "configMapRef": {"name": "cm"}},
                    {"configMapRef": {"name": "gone", "optional": true}}],
                "env": [{"name": "A", "value": "$(X_K)-$(SVC_HOST)-$(NO)"},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "P"}}},
                    {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "k", "optional": true}}},
                    {"name": "A", "value": "again $(A)"}]}),
            &sources,
        )
        .unwrap();
        let want = [
            ("X_K", "v"),
            ("A", "again v-10.96.0.1-$(NO)"),
            ("B", "secret"),
            ("C", "10.0.0.9"),
            ("SVC_HOST", "10.96.0.1"),
        ];
        let list: Vec<_> = list.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(list, want);
    }

    #[test]
    fn missing_objects_are_named() {
        let error = run(
            json!({"name": "c", "envFrom": [{"secretRef": {"name": "nope"}}]}),
            &Sources::default(),
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "secret \"nope\" not found");
    }

    #[test]
    fn services_in_scope() {
        let services: Vec<Service> = serde_json::from_value(json!([
            {"metadata": {"name": "kubernetes", "namespace": "default"},
             "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}},
            {"metadata": {"name": "my-db", "namespace": "ns"},
             "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 53, "protocol": "UDP"}]}},
            {"metadata": {"name": "headless", "namespace": "ns"},
             "spec": {"clusterIP": "None", "ports": [{"port": 1}]}},
            {"metadata": {"name": "other", "namespace": "else"},
             "spec": {"clusterIP": "10.96.0.8", "ports": [{"port": 1}]}}
        ]))
        .unwrap();
        let map = service_variables(services.iter(), "ns", true);
        assert_eq!(map["KUBERNETES_SERVICE_PORT_HTTPS"], "443");
        assert_eq!(map["MY_DB_PORT_53_UDP"], "udp://10.96.0.7:53");
        assert_eq!(map["MY_DB_PORT_53_UDP_ADDR"], "10.96.0.7");
        assert!(
            !map.keys()
                .any(|k| k.starts_with("HEADLESS") || k.starts_with("OTHER"))
        );
        let map = service_variables(services.iter(), "ns", false);
        assert!(map.keys().all(|k| k.starts_with("KUBERNETES_")));
    }
}
