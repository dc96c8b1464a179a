//! Pods to the host.

use coracle_config::{marks, parse_toleration};
use coracle_machinery::object;
use coracle_machinery::pod_security::{Level, violations};
use serde_json::{Value, json};
use std::sync::Arc;

use crate::affinity::require_node;
use crate::env::{CONTAINER_LISTS, service_account, service_links};
use crate::json::{child_list, copy_key, drop_keys, list, list_mut, set, text};
use crate::metadata::applied;
use crate::names::Translator;
use crate::pod_update::{digested, record_resources};
use crate::volumes::{downward_text, shows};

/// Most name servers and search domains that the API accepts in a pod.
const MAX_NAME_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// What a pod's translation depends on besides the pod itself.
#[derive(Clone, Debug)]
pub struct PodContext<'a> {
    /// The pod's virtual Namespace, if it is known.
    pub namespace: Option<&'a Value>,
    /// The services of the pod's namespace.
    pub services: &'a [Arc<Value>],
    /// The address of the virtual API server's Service.
    pub kubernetes_ip: &'a str,
    /// The address of the virtual cluster's DNS; `None` if it has none of its
    /// own.
    pub dns_ip: Option<&'a str>,
}

/// A token that the pod mounts, kept in the pod's token secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The key in the secret.
    pub key: String,
    /// For whom it is; empty for the API server.
    pub audience: String,
    /// How long it is asked to live.
    pub expiration_seconds: i64,
}

/// A pod for the host and what has to be there for it.
#[derive(Clone, Debug)]
pub struct HostPod {
    /// The pod.
    pub pod: Value,
    /// Its tokens, all in the secret [`token_secret_name`].
    pub tokens: Vec<Token>,
}

/// The host secret that holds the tokens of a pod. It is named by the UID, so
/// that no secret of a tenant's choice can have this name, and a new pod of the
/// same name gets its own.
pub fn token_secret_name(pod_uid: &str) -> String {
    format!("coracle-token-{pod_uid}")
}

impl Translator {
    /// The host pod of a virtual pod.
    pub fn pod_to_host(&self, pod: &Value, context: &PodContext<'_>) -> HostPod {
        let mut host = self.shell("v1", "Pod", pod);
        self.pod_metadata(&mut host, pod, context);
        let mut spec = pod.get("spec").cloned().unwrap_or_else(|| json!({}));
        drop_keys(
            &mut spec,
            &[
                "nodeName",
                "serviceAccount",
                "priority",
                "priorityClassName",
                "preemptionPolicy",
                "overhead",
                "ephemeralContainers",
                "resourceClaims",
            ],
        );
        self.accounts(&mut spec, object::namespace(pod));
        let links = service_links(pod, context);
        for field in CONTAINER_LISTS {
            for container in list_mut(&mut spec, field) {
                self.container_env(container, pod, &links);
                self.container_image(container);
            }
        }
        let tokens = self.volumes(&mut spec, pod);
        self.network(&mut spec, pod, context);
        self.rewritten_hosts(&mut spec, pod);
        self.placement(&mut spec, object::namespace(pod));
        self.node(&mut spec, object::text(pod, "/spec/nodeName"));
        if let Some(class) = self.priority_class(pod) {
            set(&mut spec, "priorityClassName", class);
        }
        if self.lost_runtime_class(pod) {
            drop_keys(&mut spec, &["runtimeClassName"]);
        }
        let classes = &self.config.sync.to_host.pods;
        if !classes.runtime_class_name.is_empty() {
            set(
                &mut spec,
                "runtimeClassName",
                classes.runtime_class_name.as_str(),
            );
        }
        if !classes.priority_class_name.is_empty() {
            set(
                &mut spec,
                "priorityClassName",
                classes.priority_class_name.as_str(),
            );
        }
        if !tokens.is_empty() {
            let name = token_secret_name(object::uid(pod));
            host["metadata"]["annotations"][marks::TOKEN_SECRETS] = name.into();
        }
        host["spec"] = spec;
        let mut host = applied(host, digested);
        record_resources(&mut host, pod);
        HostPod { pod: host, tokens }
    }

    /// What of a virtual pod cannot be carried over, in words for its user.
    pub fn pod_warnings(&self, pod: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        if !object::items(pod, "/spec/resourceClaims").is_empty() {
            warnings.push(
                "spec.resourceClaims is not synced: the pod runs without these devices".to_owned(),
            );
        }
        if self.has_full_name(pod) && pod.pointer("/spec/setHostnameAsFQDN") == Some(&json!(true)) {
            warnings.push(
                "spec.setHostnameAsFQDN is not synced: the host name is the short one, and \
                 /etc/hosts has the full one"
                    .to_owned(),
            );
        }
        let class = object::text(pod, "/spec/priorityClassName");
        let enforced = &self.config.sync.to_host.pods.priority_class_name;
        let lost = !class.is_empty() && !class.starts_with("system-");
        if lost && enforced.is_empty() && self.priority_class(pod).is_none() {
            warnings.push(format!(
                "priorityClassName {class:?} is not synced: the host schedules the pod without it"
            ));
        }
        if self.lost_runtime_class(pod) {
            let class = object::text(pod, "/spec/runtimeClassName");
            warnings.push(format!(
                "runtimeClassName {class:?} is not synced: the pod runs as the host runs those \
                 without one"
            ));
        }
        warnings
    }

    /// True if the pod's runtime class means nothing on the host: those of the
    /// host are not shown inside, and no name of them is to be guessed.
    fn lost_runtime_class(&self, pod: &Value) -> bool {
        let sync = &self.config.sync;
        !object::text(pod, "/spec/runtimeClassName").is_empty()
            && !sync.from_host.runtime_classes.enabled
            && sync.to_host.pods.runtime_class_name.is_empty()
    }

    /// The pod's own priority class, where those of the host are shown inside or
    /// those inside go to the host. What is critical to a virtual cluster is not
    /// to its host.
    fn priority_class(&self, pod: &Value) -> Option<String> {
        let class = object::text(pod, "/spec/priorityClassName");
        if class.is_empty() || class.starts_with("system-") {
            return None;
        }
        let sync = &self.config.sync;
        if sync.to_host.priority_classes.enabled {
            return Some(self.class_name(class));
        }
        let shown = sync.from_host.priority_classes.enabled;
        shown.then(|| class.to_owned())
    }

    /// What in a virtual pod the values' Pod Security Standard does not allow.
    pub fn pod_violations(&self, pod: &Value) -> Option<String> {
        let standard = self.config.policies.pod_security_standard.as_str();
        if standard.is_empty() {
            return None;
        }
        let found = violations(pod, Level::parse(standard))?;
        Some(format!(
            "violates PodSecurity \"{standard}:latest\", which the values of this virtual cluster \
             demand: {found}"
        ))
    }

    /// The tokens that a virtual pod mounts.
    pub fn tokens_of(&self, pod: &Value) -> Vec<Token> {
        let mut spec = pod.get("spec").cloned().unwrap_or_default();
        self.volumes(&mut spec, pod)
    }

    /// The containers of `ephemeralContainers` as the host gets them.
    pub(crate) fn ephemeral_to_host(&self, pod: &Value, context: &PodContext<'_>) -> Vec<Value> {
        let links = service_links(pod, context);
        let mut containers = object::items(pod, "/spec/ephemeralContainers").to_vec();
        for container in &mut containers {
            self.container_env(container, pod, &links);
            self.container_image(container);
        }
        containers
    }

    fn pod_metadata(&self, host: &mut Value, pod: &Value, context: &PodContext<'_>) {
        if let Some(namespace) = context.namespace {
            for (key, value) in object::string_map(namespace, "/metadata/labels") {
                host["metadata"]["labels"][marks::namespace_label_key(key)] = value.into();
            }
        }
        let annotations = &mut host["metadata"]["annotations"];
        annotations[marks::POD_SERVICE_ACCOUNT] = service_account(pod).into();
        for (path, key, pointer) in [
            ("metadata.labels", marks::POD_LABELS, "/metadata/labels"),
            (
                "metadata.annotations",
                marks::POD_ANNOTATIONS,
                "/metadata/annotations",
            ),
        ] {
            if shows(pod, path) {
                annotations[key] = downward_text(object::string_map(pod, pointer)).into();
            }
        }
    }

    fn accounts(&self, spec: &mut Value, namespace: &str) {
        let account = if self.config.sync.to_host.service_accounts.enabled {
            let name = match text(spec, "serviceAccountName") {
                "" => "default",
                name => name,
            };
            self.rename("ServiceAccount", namespace, name)
        } else {
            self.config.workload_service_account(&self.vc)
        };
        set(spec, "serviceAccountName", account);
        set(spec, "automountServiceAccountToken", false);
        set(spec, "enableServiceLinks", false);
        for secret in list_mut(spec, "imagePullSecrets") {
            let name = self.rename("Secret", namespace, text(secret, "name"));
            set(secret, "name", name);
        }
    }

    fn network(&self, spec: &mut Value, pod: &Value, context: &PodContext<'_>) {
        let domain = &self.config.networking.advanced.cluster_domain;
        if text(spec, "hostname").is_empty() {
            set(spec, "hostname", hostname(object::name(pod)));
        }
        if let Some(map) = spec.as_object_mut() {
            child_list(map, "hostAliases").insert(
                0,
                json!({
                    "ip": context.kubernetes_ip,
                    "hostnames": [
                        "kubernetes",
                        "kubernetes.default",
                        "kubernetes.default.svc",
                        format!("kubernetes.default.svc.{domain}"),
                    ],
                }),
            );
        }
        let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
        let ours = match text(spec, "dnsPolicy") {
            "" | "ClusterFirst" => !host_network,
            policy => policy == "ClusterFirstWithHostNet",
        };
        if let (true, Some(dns)) = (ours, context.dns_ip) {
            let namespace = object::namespace(pod);
            let searches = [
                format!("{namespace}.svc.{domain}"),
                format!("svc.{domain}"),
                domain.clone(),
            ];
            let user = spec.get("dnsConfig").cloned().unwrap_or_default();
            set(spec, "dnsConfig", dns_config(dns, &searches, &user));
            set(spec, "dnsPolicy", "None");
        }
    }

    fn node(&self, spec: &mut Value, node_name: &str) {
        let enforced = &self.config.sync.to_host.pods.enforce_tolerations;
        if !enforced.is_empty()
            && let Some(map) = spec.as_object_mut()
        {
            let tolerations = child_list(map, "tolerations");
            for toleration in enforced.iter().filter_map(|text| parse_toleration(text)) {
                if !tolerations.contains(&toleration) {
                    tolerations.push(toleration);
                }
            }
        }
        if !node_name.is_empty() {
            if self.config.control_plane.advanced.virtual_scheduler.enabled {
                // The virtual scheduler has decided by these already.
                drop_keys(
                    spec,
                    &["affinity", "topologySpreadConstraints", "nodeSelector"],
                );
            }
            require_node(spec, node_name);
        }
        // Last, since a tenant may name any node in place of a scheduler.
        let nodes = &self.config.sync.from_host.nodes;
        if nodes.enabled && !nodes.selector.labels.is_empty() {
            let selector = object::child_map(spec, "nodeSelector");
            for (key, value) in &nodes.selector.labels {
                selector.insert(key.clone(), value.as_str().into());
            }
        }
    }
}

/// The host name that a kubelet would give a pod of this name.
fn hostname(name: &str) -> String {
    let label: String = name
        .chars()
        .take(63)
        .map(|c| if c == '.' { '-' } else { c })
        .collect();
    label.trim_end_matches('-').to_owned()
}

fn dns_config(dns: &str, searches: &[String], user: &Value) -> Value {
    let mut merged = json!({});
    let join = |first: Vec<Value>, field: &str, most: usize| {
        let mut all = first;
        for value in list(user, field) {
            if !all.contains(value) {
                all.push(value.clone());
            }
        }
        all.truncate(most);
        Value::Array(all)
    };
    merged["nameservers"] = join(vec![dns.into()], "nameservers", MAX_NAME_SERVERS);
    let searches = searches.iter().map(|s| s.as_str().into()).collect();
    merged["searches"] = join(searches, "searches", MAX_SEARCHES);
    let mut options = list(user, "options").to_vec();
    if !options.iter().any(|option| text(option, "name") == "ndots") {
        options.insert(0, json!({"name": "ndots", "value": "5"}));
    }
    merged["options"] = Value::Array(options);
    merged
}

/// Copies a list of keys; used where a value's absence matters too.
pub(crate) fn copy_keys(from: &Value, to: &mut Value, keys: &[&str]) {
    for key in keys {
        copy_key(from, to, key);
    }
}
