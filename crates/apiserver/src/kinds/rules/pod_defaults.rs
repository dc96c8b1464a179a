//! Defaults of pods and of the pod templates of all workloads.

use serde_json::{Map, Value, json};

use super::{default_field, each_mut, map_mut};

/// Permissions of files in volumes made from objects: 0644.
const FILE_MODE: i64 = 0o644;
/// Seconds that a projected service-account token is valid.
const TOKEN_SECONDS: i64 = 3600;

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Defaults of `spec.template` of a workload.
pub(super) fn template(template: &mut Value) {
    if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) {
        pod_spec(spec);
    }
}

/// Defaults of a pod itself: those of a template and some more.
pub(super) fn pod(spec: &mut Map<String, Value>) {
    pod_spec(spec);
    default_field(spec, "enableServiceLinks", true);
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["initContainers", "containers"] {
        for container in each_mut(spec, list) {
            if let Some(resources) = map_mut(container, "resources") {
                requests_from_limits(resources);
            }
            if host_network {
                host_ports(container);
            }
        }
    }
    if let Some(resources) = map_mut(spec, "resources") {
        requests_from_limits(resources);
    }
}

fn pod_spec(spec: &mut Map<String, Value>) {
    default_field(spec, "dnsPolicy", "ClusterFirst");
    default_field(spec, "restartPolicy", "Always");
    default_field(spec, "securityContext", json!({}));
    default_field(spec, "terminationGracePeriodSeconds", 30);
    default_field(spec, "schedulerName", "default-scheduler");
    mirror_service_account(spec);
    for list in CONTAINER_LISTS {
        for container in each_mut(spec, list) {
            self::container(container);
        }
    }
    for volume in each_mut(spec, "volumes") {
        self::volume(volume);
    }
}

/// Keeps the deprecated `serviceAccount` equal to `serviceAccountName`.
pub(super) fn mirror_service_account(spec: &mut Map<String, Value>) {
    let text = |key: &str| spec.get(key).and_then(Value::as_str).unwrap_or_default();
    let name = match text("serviceAccountName") {
        "" => text("serviceAccount"),
        name => name,
    };
    if !name.is_empty() {
        let name = Value::from(name);
        spec.insert("serviceAccountName".into(), name.clone());
        spec.insert("serviceAccount".into(), name);
    }
}

fn requests_from_limits(resources: &mut Map<String, Value>) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else {
        return;
    };
    let requests = resources
        .entry("requests")
        .or_insert_with(|| Value::Object(Map::new()));
    if requests.is_null() {
        *requests = Value::Object(Map::new());
    }
    if let Some(requests) = requests.as_object_mut() {
        for (name, quantity) in limits {
            requests.entry(name).or_insert(quantity);
        }
    }
}

fn host_ports(container: &mut Map<String, Value>) {
    for port in each_mut(container, "ports") {
        let unset = port.get("hostPort").is_none_or(|p| p.is_null() || p == 0);
        if unset && let Some(number) = port.get("containerPort").cloned() {
            port.insert("hostPort".into(), number);
        }
    }
}

fn container(container: &mut Map<String, Value>) {
    let image = container.get("image").and_then(Value::as_str);
    let policy = pull_policy(image.unwrap_or_default());
    default_field(container, "imagePullPolicy", policy);
    default_field(container, "terminationMessagePath", "/dev/termination-log");
    default_field(container, "terminationMessagePolicy", "File");
    default_field(container, "resources", json!({}));
    for port in each_mut(container, "ports") {
        default_field(port, "protocol", "TCP");
    }
    for variable in each_mut(container, "env") {
        if let Some(source) = map_mut(variable, "valueFrom") {
            field_ref(source);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = map_mut(container, name) {
            self::probe(probe);
        }
    }
    if let Some(lifecycle) = map_mut(container, "lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(handler) = map_mut(lifecycle, name) {
                http_get(handler);
            }
        }
    }
}

/// `Always` for images that follow a moving tag.
pub(super) fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    let latest = match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => !digest,
    };
    if latest { "Always" } else { "IfNotPresent" }
}

fn probe(probe: &mut Map<String, Value>) {
    default_field(probe, "timeoutSeconds", 1);
    default_field(probe, "periodSeconds", 10);
    default_field(probe, "successThreshold", 1);
    default_field(probe, "failureThreshold", 3);
    http_get(probe);
    if let Some(grpc) = map_mut(probe, "grpc") {
        default_field(grpc, "service", "");
    }
}

fn http_get(handler: &mut Map<String, Value>) {
    if let Some(http) = map_mut(handler, "httpGet") {
        default_field(http, "path", "/");
        default_field(http, "scheme", "HTTP");
    }
}

fn field_ref(source: &mut Map<String, Value>) {
    if let Some(field) = map_mut(source, "fieldRef") {
        default_field(field, "apiVersion", "v1");
    }
    if let Some(file) = map_mut(source, "fileKeyRef") {
        default_field(file, "optional", false);
    }
}

fn volume(volume: &mut Map<String, Value>) {
    let has_source = volume.iter().any(|(key, v)| key != "name" && !v.is_null());
    if !has_source {
        volume.insert("emptyDir".into(), json!({}));
    }
    for name in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = map_mut(volume, name) {
            default_field(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(source) = map_mut(volume, "downwardAPI") {
        each_mut(source, "items").for_each(field_ref);
    }
    if let Some(projected) = map_mut(volume, "projected") {
        for source in each_mut(projected, "sources") {
            if let Some(token) = map_mut(source, "serviceAccountToken") {
                default_field(token, "expirationSeconds", TOKEN_SECONDS);
            }
            if let Some(downward) = map_mut(source, "downwardAPI") {
                each_mut(downward, "items").for_each(field_ref);
            }
        }
    }
    if let Some(source) = map_mut(volume, "hostPath") {
        default_field(source, "type", "");
    }
    if let Some(source) = map_mut(volume, "iscsi") {
        default_field(source, "iscsiInterface", "default");
    }
    if let Some(source) = map_mut(volume, "rbd") {
        default_field(source, "pool", "rbd");
        default_field(source, "user", "admin");
        default_field(source, "keyring", "/etc/ceph/keyring");
    }
    if let Some(source) = map_mut(volume, "image") {
        let image = source.get("reference").and_then(Value::as_str);
        let policy = pull_policy(image.unwrap_or_default());
        default_field(source, "pullPolicy", policy);
    }
    if let Some(claim) = map_mut(volume, "ephemeral")
        .and_then(|e| map_mut(e, "volumeClaimTemplate"))
        .and_then(|t| map_mut(t, "spec"))
    {
        default_field(claim, "volumeMode", "Filesystem");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_gets_all_defaults() {
        let mut object = json!({"spec": {
            "serviceAccountName": "sa",
            "hostNetwork": true,
            "containers": [{
                "name": "c", "image": "nginx",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1"}},
                "livenessProbe": {"httpGet": {"port": 80}},
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            }],
            "volumes": [
                {"name": "a"},
                {"name": "b", "secret": {"secretName": "s"}},
                {"name": "c", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
                {"name": "d", "hostPath": {"path": "/"}},
            ],
        }});
        pod(object["spec"].as_object_mut().unwrap());
        assert_eq!(
            object,
            json!({"spec": {
                "serviceAccountName": "sa",
                "serviceAccount": "sa",
                "hostNetwork": true,
                "dnsPolicy": "ClusterFirst",
                "restartPolicy": "Always",
                "securityContext": {},
                "terminationGracePeriodSeconds": 30,
                "schedulerName": "default-scheduler",
                "enableServiceLinks": true,
                "containers": [{
                    "name": "c", "image": "nginx", "imagePullPolicy": "Always",
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                    "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                    "livenessProbe": {
                        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                        "timeoutSeconds": 1, "periodSeconds": 10,
                        "successThreshold": 1, "failureThreshold": 3,
                    },
                    "env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
                }],
                "volumes": [
                    {"name": "a", "emptyDir": {}},
                    {"name": "b", "secret": {"secretName": "s", "defaultMode": 420}},
                    {"name": "c", "projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}},
                    {"name": "d", "hostPath": {"path": "/", "type": ""}},
                ],
            }})
        );
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("r:5000/nginx", "Always"),
            ("r:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:aa", "IfNotPresent"),
            ("nginx:latest@sha256:aa", "Always"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
