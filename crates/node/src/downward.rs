//! Values of the downward API: a pod's own fields and resources.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::pod::info;
use crate::quantity;

/// What the downward API may tell a pod beyond its own object.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    /// The node's name.
    pub node_name: String,
    /// The node's address.
    pub node_ip: String,
    /// Allocatable CPU in thousandths of a core: the default limit.
    pub cpu_milli: i64,
    /// Allocatable memory in bytes: the default limit.
    pub memory_bytes: i64,
    /// Allocatable local storage in bytes: the default limit.
    pub storage_bytes: i64,
}

/// Why a downward API reference has no value.
#[derive(Debug, thiserror::Error)]
pub enum DownwardError {
    /// The field path names nothing that may be referred to.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// The resource name is unknown.
    #[error("unsupported resource: {0}")]
    Resource(String),
    /// The container named does not exist.
    #[error("container {0} not found")]
    Container(String),
}

/// The value of a field path, as an environment variable or a file shows it.
pub fn field(
    pod: &Pod,
    pod_ips: &[String],
    node: &NodeFacts,
    path: &str,
) -> Result<String, DownwardError> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let key_of = |prefix: &str| {
        path.strip_prefix(prefix)
            .and_then(|rest| rest.strip_prefix("['"))
            .and_then(|rest| rest.strip_suffix("']"))
    };
    if let Some(key) = key_of("metadata.labels") {
        return Ok(meta
            .labels
            .as_ref()
            .and_then(|m| m.get(key))
            .cloned()
            .unwrap_or_default());
    }
    if let Some(key) = key_of("metadata.annotations") {
        return Ok(meta
            .annotations
            .as_ref()
            .and_then(|m| m.get(key))
            .cloned()
            .unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => map_lines(meta.labels.as_ref()),
        "metadata.annotations" => map_lines(meta.annotations.as_ref()),
        "spec.nodeName" => node.node_name.clone(),
        "spec.serviceAccountName" => spec
            .and_then(|s| s.service_account_name.clone())
            .unwrap_or_default(),
        "status.hostIP" | "status.hostIPs" => node.node_ip.clone(),
        "status.podIP" => pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => pod_ips.join(","),
        other => return Err(DownwardError::Field(other.to_owned())),
    })
}

/// Lines of `key="value"` in key order, the value quoted.
fn map_lines(map: Option<&std::collections::BTreeMap<String, String>>) -> String {
    let mut text = String::new();
    for (key, value) in map.into_iter().flatten() {
        if !text.is_empty() {
            text.push('\n');
        }
        let quoted = serde_json::Value::from(value.as_str());
        let _ = write!(text, "{key}={quoted}");
    }
    text
}

/// The value of a resource reference, divided and rounded up.
pub fn resource(
    pod: &Pod,
    this: Option<&Container>,
    node: &NodeFacts,
    selector: &ResourceFieldSelector,
) -> Result<String, DownwardError> {
    let container = match selector.container_name.as_deref().filter(|n| !n.is_empty()) {
        Some(name) => info::find_container(pod, name)
            .ok_or_else(|| DownwardError::Container(name.to_owned()))?,
        None => this.ok_or_else(|| DownwardError::Container(String::new()))?,
    };
    let resources = container.resources.as_ref();
    let (kind, name) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| DownwardError::Resource(selector.resource.clone()))?;
    let list = match kind {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return Err(DownwardError::Resource(selector.resource.clone())),
    };
    let allocatable_milli = match name {
        "cpu" => node.cpu_milli,
        "memory" => node.memory_bytes.saturating_mul(1000),
        "ephemeral-storage" => node.storage_bytes.saturating_mul(1000),
        _ if name.starts_with("hugepages-") => 0,
        _ => return Err(DownwardError::Resource(selector.resource.clone())),
    };
    let default = if kind == "limits" {
        allocatable_milli
    } else {
        0
    };
    let milli = i128::from(quantity::milli_of(list, name).unwrap_or(default));
    let divisor = selector
        .divisor
        .as_ref()
        .and_then(|d| quantity::milli(&d.0))
        .filter(|d| *d > 0)
        .unwrap_or(1000);
    let value = milli.div_euclid(divisor) + i128::from(milli.rem_euclid(divisor) != 0);
    Ok(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1",
                "labels": {"b": "2", "a": "x\"y"}, "annotations": {"k": "v"}},
            "spec": {"serviceAccountName": "sa", "containers": [{"name": "c", "resources": {
                "limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}}]}
        }))
        .unwrap()
    }

    fn node() -> NodeFacts {
        NodeFacts {
            node_name: "n1".into(),
            node_ip: "10.0.0.1".into(),
            cpu_milli: 4000,
            memory_bytes: 1 << 30,
            storage_bytes: 1 << 34,
        }
    }

    #[test]
    fn fields() {
        let ips = ["10.1.0.5".to_owned()];
        for (path, want) in [
            ("metadata.name", "web"),
            ("metadata.labels['b']", "2"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations['k']", "v"),
            ("metadata.labels", "a=\"x\\\"y\"\nb=\"2\""),
            ("spec.nodeName", "n1"),
            ("spec.serviceAccountName", "sa"),
            ("status.podIP", "10.1.0.5"),
            ("status.hostIP", "10.0.0.1"),
        ] {
            assert_eq!(field(&pod(), &ips, &node(), path).unwrap(), want, "{path}");
        }
        assert!(field(&pod(), &ips, &node(), "spec.secret").is_err());
    }

    #[test]
    fn resources() {
        let pod = pod();
        let this = info::find_container(&pod, "c");
        for (name, divisor, want) in [
            ("limits.cpu", None, "2"),
            ("limits.cpu", Some("1m"), "1500"),
            ("requests.cpu", Some("1m"), "250"),
            ("limits.memory", Some("1Mi"), "64"),
            ("requests.memory", None, "0"),
            ("limits.ephemeral-storage", Some("1Gi"), "16"),
        ] {
            let selector =
                serde_json::from_value(json!({"resource": name, "divisor": divisor})).unwrap();
            assert_eq!(
                resource(&pod, this, &node(), &selector).unwrap(),
                want,
                "{name}"
            );
        }
    }
}
