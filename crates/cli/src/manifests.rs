//! What `create` leaves on the host, rendered as values.

use coracle_config::model::Config;
use coracle_config::{Grant, PolicyRule, marks, names};
use serde_json::{Map, Value, json};

/// The port of the virtual API server in its pod.
pub const API_PORT: u16 = 8443;
/// The port of cluster DNS in the control plane's pod; the syncer maps the
/// kube-dns service of the virtual cluster to it.
pub const DNS_PORT: u16 = 1053;
/// The port of the virtual kubelet in the syncer's container.
const KUBELET_PORT: u16 = 10250;
/// The user of both containers; no name is needed for it.
const USER: u32 = 65532;
/// Where the control plane hands the syncer its credentials.
const CREDENTIALS_DIR: &str = "/run/coracle";
/// Where Kubernetes' clients look for the credentials of their pod.
const ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// One virtual cluster to be rendered.
pub struct Tenant<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its host namespace.
    pub namespace: &'a str,
    /// Its configuration.
    pub config: &'a Config,
    /// The image of both containers.
    pub image: String,
    /// A claim for the data, or a directory that dies with the pod.
    pub persistent: bool,
    /// One, or none while it is paused.
    pub replicas: i32,
}

/// Owner and address of the Service, known once it exists.
pub struct ServiceFacts {
    /// UID of the Service, which owns everything else.
    pub uid: String,
    /// Its address.
    pub cluster_ip: String,
}

impl<'a> Tenant<'a> {
    /// A virtual cluster as it is configured, without a claim.
    pub fn new(name: &'a str, namespace: &'a str, config: &'a Config) -> Self {
        Self {
            name,
            namespace,
            config,
            image: crate::install::image(config),
            persistent: false,
            replicas: 1,
        }
    }

    /// The Service of the API server: first, for it owns all the rest.
    pub fn service(&self) -> Value {
        let service = &self.config.control_plane.service;
        let mut spec = json!({
            "selector": self.selector(),
            "ports": [{"name": "https", "port": 443, "targetPort": API_PORT, "protocol": "TCP"}],
        });
        if service.https_node_port > 0 {
            spec["ports"][0]["nodePort"] = json!(service.https_node_port);
        }
        merge(&mut spec, &service.spec);
        let mut object = self.object("v1", "Service", &names::service(self.name), None);
        object["spec"] = spec;
        add_texts(&mut object, "labels", &service.labels);
        add_texts(&mut object, "annotations", &service.annotations);
        object
    }

    /// Everything else, in the order in which it is applied. `rules` are what
    /// the syncer may do in the namespace.
    pub fn dependents(&self, facts: &ServiceFacts, rules: &[PolicyRule]) -> Vec<Value> {
        let owner = Some(facts);
        let account = names::service_account(self.name);
        let mut config = self.object("v1", "Secret", &names::config_secret(self.name), owner);
        config["stringData"] = json!({names::CONFIG_KEY: self.config.to_yaml()});

        let mut headless = self.object("v1", "Service", &names::headless_service(self.name), owner);
        headless["spec"] = json!({
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": self.selector(),
            "ports": [{"name": "https", "port": 443, "targetPort": API_PORT, "protocol": "TCP"}],
        });

        let rbac = "rbac.authorization.k8s.io/v1";
        let mut role = self.object(rbac, "Role", &names::role(self.name), owner);
        role["rules"] = json!(rules);
        let mut binding = self.object(rbac, "RoleBinding", &names::role_binding(self.name), owner);
        binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role",
            "name": names::role(self.name)});
        binding["subjects"] = json!([{"kind": "ServiceAccount", "name": account,
            "namespace": self.namespace}]);

        let mut workload = self.object(
            "v1",
            "ServiceAccount",
            &self.config.workload_service_account(self.name),
            owner,
        );
        let mut own = self.object("v1", "ServiceAccount", &account, owner);
        let advanced = &self.config.control_plane.advanced;
        let (of_own, of_workloads) = (
            &advanced.service_account,
            &advanced.workload_service_account,
        );
        for (object, secrets) in [
            (&mut own, &of_own.image_pull_secrets),
            (&mut workload, &of_workloads.image_pull_secrets),
        ] {
            object["automountServiceAccountToken"] = json!(false);
            if !secrets.is_empty() {
                object["imagePullSecrets"] = json!(secrets);
            }
        }
        for (object, labels, annotations) in [
            (&mut own, &of_own.labels, &of_own.annotations),
            (
                &mut workload,
                &of_workloads.labels,
                &of_workloads.annotations,
            ),
            (
                &mut headless,
                &advanced.headless_service.labels,
                &advanced.headless_service.annotations,
            ),
        ] {
            add_texts(object, "labels", labels);
            add_texts(object, "annotations", annotations);
        }

        let mut all = self.policies(facts);
        all.extend([
            own,
            workload,
            role,
            binding,
            config,
            headless,
            self.stateful_set(facts),
        ]);
        all
    }

    /// The rights that it needs outside of its namespace.
    pub fn grants(&self) -> Vec<Grant> {
        coracle_config::host_grants(self.config, self.namespace)
    }

    /// Roles and bindings for these. Nothing in a namespace can own them.
    pub fn grant_objects(&self) -> Vec<Value> {
        let grants = self.grants();
        grants.iter().flat_map(|g| self.grant_object(g)).collect()
    }

    fn grant_object(&self, grant: &Grant) -> [Value; 2] {
        let group = "rbac.authorization.k8s.io";
        let name = names::grant(self.namespace, self.name);
        let prefix = if grant.namespace.is_none() {
            "Cluster"
        } else {
            ""
        };
        let mut labels = self.selector();
        labels.insert(marks::HOST_NAMESPACE.into(), self.namespace.into());
        let object = |kind: &str| {
            let mut object = json!({
                "apiVersion": format!("{group}/v1"), "kind": kind,
                "metadata": {"name": name, "labels": labels},
            });
            if let Some(namespace) = &grant.namespace {
                object["metadata"]["namespace"] = json!(namespace);
            }
            object
        };
        let kind = format!("{prefix}Role");
        let mut role = object(&kind);
        role["rules"] = json!(grant.rules);
        let mut binding = object(&format!("{kind}Binding"));
        binding["roleRef"] = json!({"apiGroup": group, "kind": kind, "name": name});
        binding["subjects"] = json!([{"kind": "ServiceAccount",
            "name": names::service_account(self.name), "namespace": self.namespace}]);
        [role, binding]
    }

    pub(crate) fn stateful_set(&self, facts: &ServiceFacts) -> Value {
        let settings = &self.config.control_plane.stateful_set;
        let mut labels = json!(self.selector());
        merge_texts(&mut labels, &settings.pods.labels);
        let mut template = json!({"metadata": {"labels": labels}, "spec": self.pod_spec(facts)});
        // Both containers read their values when they start.
        template["metadata"]["annotations"] =
            json!({marks::VALUES: marks::short_hash(&self.config.to_yaml())});
        add_texts(&mut template, "annotations", &settings.pods.annotations);
        let mut spec = json!({
            "replicas": self.replicas,
            "serviceName": names::headless_service(self.name),
            "selector": {"matchLabels": self.selector()},
            "podManagementPolicy": "Parallel",
            "template": template,
        });
        if self.persistent {
            spec["volumeClaimTemplates"] = json!([self.claim()]);
            let claim = &settings.persistence.volume_claim;
            spec["persistentVolumeClaimRetentionPolicy"] =
                json!({"whenDeleted": claim.retention_policy, "whenScaled": "Retain"});
        }
        let mut object = self.object(
            "apps/v1",
            "StatefulSet",
            &names::stateful_set(self.name),
            Some(facts),
        );
        object["spec"] = spec;
        add_texts(&mut object, "labels", &settings.labels);
        object["metadata"]["annotations"][marks::KUBERNETES_VERSION] =
            json!(coracle_config::KUBERNETES_VERSION);
        let grants = self.grants();
        if !grants.is_empty() {
            let places: Vec<&str> = grants
                .iter()
                .map(|g| g.namespace.as_deref().unwrap_or(crate::grants::CLUSTER))
                .collect();
            object["metadata"]["annotations"][marks::GRANTS] = json!(places.join(","));
        }
        add_texts(&mut object, "annotations", &settings.annotations);
        object
    }

    pub(crate) fn claim(&self) -> Value {
        let claim = &self
            .config
            .control_plane
            .stateful_set
            .persistence
            .volume_claim;
        let mut spec = json!({
            "accessModes": claim.access_modes,
            "resources": {"requests": {"storage": claim.size}},
        });
        if !claim.storage_class.is_empty() {
            spec["storageClassName"] = json!(claim.storage_class);
        }
        json!({"metadata": {"name": "data", "labels": self.selector()}, "spec": spec})
    }

    fn pod_spec(&self, facts: &ServiceFacts) -> Value {
        let scheduling = &self.config.control_plane.stateful_set.scheduling;
        let mut volumes = vec![
            json!({"name": "credentials", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}),
            json!({"name": "config", "secret": {"secretName": names::config_secret(self.name)}}),
            json!({"name": "host-account", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"configMap": {"name": "kube-root-ca.crt",
                    "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace",
                    "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
            ]}}),
        ];
        if !self.persistent {
            volumes.push(json!({"name": "data", "emptyDir": {}}));
        }
        let mut spec = json!({
            "serviceAccountName": names::service_account(self.name),
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 10,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [self.control_plane(facts), self.syncer(facts)],
            "volumes": volumes,
        });
        for (key, value) in [
            ("nodeSelector", json!(scheduling.node_selector)),
            ("affinity", json!(scheduling.affinity)),
            ("tolerations", json!(scheduling.tolerations)),
            ("priorityClassName", json!(scheduling.priority_class_name)),
        ] {
            let empty = value.as_object().is_some_and(Map::is_empty)
                || value.as_array().is_some_and(Vec::is_empty)
                || value == json!("");
            if !empty {
                spec[key] = value;
            }
        }
        spec
    }

    fn control_plane(&self, facts: &ServiceFacts) -> Value {
        let config = self.config;
        let (name, namespace) = (self.name, self.namespace);
        let mut arguments = vec![
            "control-plane".to_owned(),
            "--data-dir=/data".to_owned(),
            format!("--listen=0.0.0.0:{API_PORT}"),
            format!("--advertise=$(POD_IP):{API_PORT}"),
            "--service-addressing=from-host".to_owned(),
            format!("--kubelet=$(POD_IP):{KUBELET_PORT}"),
            // The node below, and the host's API server.
            "--unreachable=$(HOST_IP)".to_owned(),
            "--unreachable=$(KUBERNETES_SERVICE_HOST)".to_owned(),
            format!(
                "--cluster-domain={}",
                config.networking.advanced.cluster_domain
            ),
            format!("--credentials-dir={CREDENTIALS_DIR}"),
            format!("--context={name}"),
        ];
        let service = names::service(name);
        let ingress = &config.control_plane.ingress;
        let sans = [
            facts.cluster_ip.clone(),
            "$(POD_IP)".to_owned(),
            service.clone(),
            format!("{service}.{namespace}"),
            format!("{service}.{namespace}.svc"),
        ];
        arguments.extend(
            sans.iter()
                .chain(&config.control_plane.proxy.extra_sans)
                .chain(ingress.enabled.then_some(&ingress.host))
                .map(|san| format!("--san={san}")),
        );
        if config.control_plane.coredns.enabled {
            arguments.push(format!("--dns-listen=0.0.0.0:{DNS_PORT}"));
            if config.networking.advanced.fallback_host_cluster {
                arguments.push("--dns-fallback".to_owned());
            }
        }
        if config.control_plane.advanced.virtual_scheduler.enabled {
            arguments.push("--scheduler".to_owned());
        }
        let mut env = vec![
            field_env("POD_IP", "status.podIP"),
            field_env("HOST_IP", "status.hostIP"),
        ];
        env.extend(config.control_plane.stateful_set.env.iter().cloned());
        let ready = json!({"path": "/readyz", "port": API_PORT, "scheme": "HTTPS"});
        let mut container = self.container("control-plane", &arguments, env);
        container["ports"] = json!([
            {"name": "https", "containerPort": API_PORT},
            {"name": "dns", "containerPort": DNS_PORT, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": DNS_PORT},
        ]);
        container["volumeMounts"] = json!([
            {"name": "data", "mountPath": "/data"},
            {"name": "credentials", "mountPath": CREDENTIALS_DIR},
        ]);
        // Quick at the start, rare afterwards: an idle cluster costs nothing.
        container["startupProbe"] =
            json!({"httpGet": ready, "periodSeconds": 1, "failureThreshold": 120});
        container["readinessProbe"] =
            json!({"httpGet": ready, "periodSeconds": 30, "timeoutSeconds": 5});
        if !config.control_plane.stateful_set.resources.is_empty() {
            container["resources"] = json!(config.control_plane.stateful_set.resources);
        }
        container
    }

    fn syncer(&self, facts: &ServiceFacts) -> Value {
        let arguments = [
            "syncer".to_owned(),
            format!("--name={}", self.name),
            format!("--config=/etc/coracle/{}", names::CONFIG_KEY),
            format!("--credentials-dir={CREDENTIALS_DIR}"),
            format!("--kubelet-listen=0.0.0.0:{KUBELET_PORT}"),
            format!("--service-ip={}", facts.cluster_ip),
            format!("--image={}", self.image),
        ];
        let env = vec![
            field_env("POD_IP", "status.podIP"),
            field_env("POD_NAMESPACE", "metadata.namespace"),
            field_env("NODE_NAME", "spec.nodeName"),
        ];
        let mut container = self.container("syncer", &arguments, env);
        container["ports"] = json!([{"name": "kubelet", "containerPort": KUBELET_PORT}]);
        container["volumeMounts"] = json!([
            {"name": "credentials", "mountPath": CREDENTIALS_DIR, "readOnly": true},
            {"name": "config", "mountPath": "/etc/coracle", "readOnly": true},
            {"name": "host-account", "mountPath": ACCOUNT_DIR, "readOnly": true},
        ]);
        container
    }

    fn container(&self, name: &str, arguments: &[String], env: Vec<Value>) -> Value {
        let mut container = json!({
            "name": name,
            "image": self.image,
            "args": arguments,
            "env": env,
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
        });
        let policy = &self.config.control_plane.stateful_set.image_pull_policy;
        container["imagePullPolicy"] = json!(if policy.is_empty() {
            "IfNotPresent"
        } else {
            policy.as_str()
        });
        container
    }

    /// Labels of the control plane's pods.
    pub(crate) fn selector(&self) -> Map<String, Value> {
        marks::control_plane_labels(self.name)
            .into_iter()
            .map(|(key, value)| (key.to_owned(), Value::String(value)))
            .collect()
    }

    /// An object without content.
    pub(crate) fn object(
        &self,
        api_version: &str,
        kind: &str,
        name: &str,
        owner: Option<&ServiceFacts>,
    ) -> Value {
        let mut object = json!({
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {
                "name": name, "namespace": self.namespace, "labels": self.selector(),
            },
        });
        if let Some(owner) = owner {
            object["metadata"]["ownerReferences"] = json!([{
                "apiVersion": "v1", "kind": "Service",
                "name": names::service(self.name), "uid": owner.uid,
            }]);
        }
        let advanced = &self.config.control_plane.advanced;
        add_texts(
            &mut object,
            "annotations",
            &advanced.global_metadata.annotations,
        );
        object
    }
}

fn field_env(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}

fn merge(target: &mut Value, with: &Map<String, Value>) {
    for (key, value) in with {
        target[key] = value.clone();
    }
}

fn merge_texts(target: &mut Value, with: &coracle_config::model::Texts) {
    for (key, value) in with {
        // What selects the pod is not the user's to change.
        if target.get(key).is_none() {
            target[key] = json!(value);
        }
    }
}

/// Adds labels or annotations of the user's choice.
pub fn add_texts(object: &mut Value, field: &str, texts: &coracle_config::model::Texts) {
    if !texts.is_empty() {
        merge_texts(&mut object["metadata"][field], texts);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn config(yaml: &str) -> Config {
        Config::from_yaml(&[("test", yaml)]).unwrap().0
    }

    pub(crate) fn tenant(config: &Config) -> Tenant<'_> {
        Tenant {
            name: "team",
            namespace: "demo",
            config,
            image: "coracle.dev/coracle:1".into(),
            persistent: false,
            replicas: 1,
        }
    }

    pub(crate) fn facts() -> ServiceFacts {
        ServiceFacts {
            uid: "u".into(),
            cluster_ip: "10.96.0.9".into(),
        }
    }

    fn rendered(yaml: &str) -> Vec<Value> {
        let config = config(yaml);
        let tenant = tenant(&config);
        let mut all = vec![tenant.service()];
        all.extend(tenant.dependents(&facts(), &coracle_config::host_rules(&config)));
        all
    }

    #[test]
    fn the_control_plane_holds_no_host_credentials() {
        let all = rendered("");
        let set = all.last().unwrap();
        let spec = &set["spec"]["template"]["spec"];
        assert_eq!(spec["automountServiceAccountToken"], false);
        let mounts = |index: usize| spec["containers"][index]["volumeMounts"].to_string();
        assert!(!mounts(0).contains("host-account"));
        assert!(mounts(1).contains("host-account"));
    }

    #[test]
    fn everything_is_owned_by_the_service_and_namespaced() {
        let all = rendered("");
        assert_eq!(all[0]["kind"], "Service");
        for object in &all[1..] {
            assert_eq!(
                object["metadata"]["ownerReferences"][0]["uid"], "u",
                "{object}"
            );
        }
        for object in &all {
            assert_eq!(object["metadata"]["namespace"], "demo");
            assert!(!object["kind"].as_str().unwrap().starts_with("Cluster"));
        }
    }

    #[test]
    fn rights_elsewhere_only_where_a_feature_needs_them() {
        let rendered = |yaml: &str| {
            let config = config(yaml);
            let tenant = tenant(&config);
            (tenant.grant_objects(), tenant.stateful_set(&facts()))
        };
        let (objects, set) = rendered("");
        assert!(objects.is_empty());
        assert!(set["metadata"]["annotations"][marks::GRANTS].is_null());

        let (objects, set) = rendered(
            "{sync: {fromHost: {nodes: {enabled: true}}}, \
             networking: {replicateServices: {fromHost: [{from: default/web, to: default/web}]}}}",
        );
        assert_eq!(set["metadata"]["annotations"][marks::GRANTS], "*,default");
        let shown: Vec<Value> = objects
            .iter()
            .map(|o| json!([o["kind"], o["metadata"]["name"], o["metadata"]["namespace"]]))
            .collect();
        let name = "coracle:demo:team";
        assert_eq!(
            json!(shown),
            json!([
                ["ClusterRole", name, null],
                ["ClusterRoleBinding", name, null],
                ["Role", name, "default"],
                ["RoleBinding", name, "default"],
            ])
        );
        assert_eq!(
            objects[0]["rules"],
            json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]}])
        );
        assert_eq!(objects[2]["rules"][0]["resourceNames"], json!(["web"]));
        for (role, binding) in [(0, 1), (2, 3)] {
            let (role, binding) = (&objects[role], &objects[binding]);
            assert_eq!(role["metadata"]["labels"][marks::RELEASE], "team");
            assert_eq!(binding["roleRef"]["kind"], role["kind"]);
            assert_eq!(binding["roleRef"]["name"], name);
            assert_eq!(
                binding["subjects"],
                json!([{"kind": "ServiceAccount", "name": "vc-team", "namespace": "demo"}])
            );
        }
    }

    #[test]
    fn metadata_of_the_users_choice_is_where_it_was_asked_for() {
        let all = rendered(
            "controlPlane: {advanced: {globalMetadata: {annotations: {team: a}}, \
             headlessService: {labels: {l: h}}, serviceAccount: {imagePullSecrets: [{name: pull}]}, \
             workloadServiceAccount: {annotations: {w: x}}}}",
        );
        for object in &all {
            assert_eq!(object["metadata"]["annotations"]["team"], "a", "{object}");
        }
        let find = |name: &str| all.iter().find(|o| o["metadata"]["name"] == name).unwrap();
        assert_eq!(find("team-headless")["metadata"]["labels"]["l"], "h");
        assert_eq!(
            find("vc-workload-team")["metadata"]["annotations"]["w"],
            "x"
        );
        let account = all
            .iter()
            .find(|o| o["kind"] == "ServiceAccount" && o["metadata"]["name"] == "vc-team")
            .unwrap();
        assert_eq!(account["imagePullSecrets"], json!([{"name": "pull"}]));
    }

    #[test]
    fn changed_values_are_a_changed_pod() {
        let annotation = |yaml: &str| {
            let set = rendered(yaml).pop().unwrap();
            let annotations = &set["spec"]["template"]["metadata"]["annotations"];
            annotations[marks::VALUES].clone()
        };
        assert!(annotation("").is_string());
        assert_eq!(annotation(""), annotation("sync: {}"));
        assert_ne!(
            annotation(""),
            annotation("sync: {toHost: {secrets: {all: true}}}")
        );
    }

    #[test]
    fn what_becomes_of_the_claim_and_which_node_port_are_chosen() {
        let config = config(
            "controlPlane: {service: {spec: {type: NodePort}, httpsNodePort: 30443}, \
             statefulSet: {persistence: {volumeClaim: {retentionPolicy: Delete}}}}",
        );
        let mut tenant = tenant(&config);
        tenant.persistent = true;
        assert_eq!(tenant.service()["spec"]["ports"][0]["nodePort"], 30443);
        assert_eq!(
            tenant.stateful_set(&facts())["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"],
            "Delete"
        );
    }

    #[test]
    fn user_labels_never_replace_what_selects() {
        let all = rendered(
            "controlPlane: {statefulSet: {pods: {labels: {app: evil, team: a}}}, \
             service: {spec: {type: LoadBalancer}}}",
        );
        let labels = &all.last().unwrap()["spec"]["template"]["metadata"]["labels"];
        assert_eq!(
            (&labels["app"], &labels["team"]),
            (&json!("coracle"), &json!("a"))
        );
        assert_eq!(all[0]["spec"]["type"], "LoadBalancer");
    }
}
