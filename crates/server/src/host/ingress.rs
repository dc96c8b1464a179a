//! The ingress controller of the embedded host: a pod like any other, under the
//! names by which people look for one.

use coracle_ingress::CONTROLLER;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::CORACLE_IMAGE;
use crate::Error;

/// The name of the class.
pub const INGRESS_CLASS: &str = "nginx";
/// Its namespace.
const NAMESPACE: &str = "ingress-nginx";
/// The name of its deployment, service and service account.
const NAME: &str = "ingress-nginx-controller";
/// The name of its role and of the role's binding.
const ROLE: &str = "coracle:ingress-controller";
/// Who writes these objects.
const FIELD_MANAGER: &str = "coracle-host";
/// A label of all of them, and its value.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "coracle-host");

/// Makes it, or brings it up to date. It runs on the node whose rules serve
/// services, so that it sees where clients come from.
///
/// # Errors
/// If its names belong to somebody else, or the control plane refuses.
pub(super) async fn install(client: &Client, node: &str) -> Result<(), Error> {
    if found(client).await? == Found::Foreign {
        return Err(Error::Setting(format!(
            "another ingress controller has the namespace {NAMESPACE} or the class {INGRESS_CLASS}: \
             start the host with --ingress=false, or remove that one first"
        )));
    }
    let client = || client.clone();
    apply(Api::<Namespace>::all(client()), namespace()).await?;
    apply(Api::<ClusterRole>::all(client()), role()).await?;
    apply(Api::<ClusterRoleBinding>::all(client()), binding()).await?;
    apply(Api::<IngressClass>::all(client()), class()).await?;
    let within = NAMESPACE;
    apply(
        Api::<ServiceAccount>::namespaced(client(), within),
        account(),
    )
    .await?;
    apply(Api::<Service>::namespaced(client(), within), service()).await?;
    apply(
        Api::<Deployment>::namespaced(client(), within),
        deployment(node),
    )
    .await
}

/// Removes it, if it is there.
///
/// # Errors
/// If the control plane refuses.
pub(super) async fn remove(client: &Client) -> Result<(), Error> {
    if found(client).await? != Found::Ours {
        return Ok(());
    }
    forget_addresses(client).await?;
    delete(Api::<IngressClass>::all(client.clone()), INGRESS_CLASS).await?;
    delete(Api::<ClusterRoleBinding>::all(client.clone()), ROLE).await?;
    delete(Api::<ClusterRole>::all(client.clone()), ROLE).await?;
    delete(Api::<Namespace>::all(client.clone()), NAMESPACE).await
}

/// Ingresses of the class are reached nowhere any more.
async fn forget_addresses(client: &Client) -> Result<(), Error> {
    let ingresses: Api<Ingress> = Api::all(client.clone());
    for ingress in ingresses.list(&ListParams::default()).await? {
        let class = ingress
            .spec
            .as_ref()
            .and_then(|s| s.ingress_class_name.as_deref());
        if class != Some(INGRESS_CLASS) {
            continue;
        }
        let namespace = ingress.namespace().unwrap_or_default();
        let api: Api<Ingress> = Api::namespaced(client.clone(), &namespace);
        let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": null}}}));
        let parameters = PatchParams::default();
        let patched = api
            .patch_status(&ingress.name_any(), &parameters, &patch)
            .await;
        unless_gone(patched)?;
    }
    Ok(())
}

/// Fails unless it serves.
///
/// # Errors
/// In words, why not.
pub(super) async fn check(client: &Client) -> Result<(), String> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let deployment = deployments
        .get_status(NAME)
        .await
        .map_err(|e| e.to_string())?;
    let generation = deployment.metadata.generation;
    let status = deployment.status.unwrap_or_default();
    if status.observed_generation != generation || status.ready_replicas.unwrap_or(0) == 0 {
        return Err(why_not(client).await);
    }
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let service = services.get(NAME).await.map_err(|e| e.to_string())?;
    let balancer = service.status.and_then(|s| s.load_balancer);
    match balancer
        .and_then(|b| b.ingress)
        .unwrap_or_default()
        .as_slice()
    {
        [] => Err("its service has no address".to_owned()),
        _ => Ok(()),
    }
}

/// What keeps its pod, as far as anybody says.
async fn why_not(client: &Client) -> String {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let pods = pods.list(&ListParams::default()).await;
    let conditions = pods.into_iter().flat_map(|list| list.items);
    let conditions = conditions
        .filter_map(|pod| pod.status?.conditions)
        .flatten();
    let mut told = conditions
        .filter(|c| c.status == "False")
        .filter_map(|c| c.message);
    let why = told
        .next()
        .unwrap_or_else(|| "it has only just been made".to_owned());
    format!("its pod is not ready: {why}")
}

/// Whose its names are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Ours,
    Foreign,
}

async fn found(client: &Client) -> Result<Found, Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let classes: Api<IngressClass> = Api::all(client.clone());
    let labels = [
        namespaces
            .get_opt(NAMESPACE)
            .await?
            .map(|o| o.labels().clone()),
        classes
            .get_opt(INGRESS_CLASS)
            .await?
            .map(|o| o.labels().clone()),
    ];
    let (label, value) = MANAGED_BY;
    let mut present = labels.iter().flatten().peekable();
    Ok(if present.peek().is_none() {
        Found::Nothing
    } else if present.all(|l| l.get(label).map(String::as_str) == Some(value)) {
        Found::Ours
    } else {
        Found::Foreign
    })
}

async fn apply<K>(api: Api<K>, object: Value) -> Result<(), Error>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(name, &parameters, &Patch::Apply(&object)).await?;
    Ok(())
}

async fn delete<K>(api: Api<K>, name: &str) -> Result<(), Error>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    unless_gone(api.delete(name, &DeleteParams::default()).await)
}

fn unless_gone<T>(result: Result<T, kube::Error>) -> Result<(), Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

fn metadata(name: &str) -> Value {
    let (label, value) = MANAGED_BY;
    json!({"name": name, "labels": {label: value}})
}

fn namespace() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata(NAMESPACE)})
}

fn class() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": metadata(INGRESS_CLASS),
        "spec": {"controller": CONTROLLER},
    })
}

/// What it reads, and the little that it writes. Rights cannot be limited to
/// secrets of a type; it asks for those of TLS alone.
fn role() -> Value {
    let read = ["get", "list", "watch"];
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": metadata(ROLE),
        "rules": [
            {"apiGroups": [""], "resources": ["services"], "verbs": read},
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
            {"apiGroups": ["networking.k8s.io"], "resources": ["ingresses", "ingressclasses"],
                "verbs": read},
            {"apiGroups": ["networking.k8s.io"], "resources": ["ingresses/status"],
                "verbs": ["patch"]},
            {"apiGroups": ["events.k8s.io"], "resources": ["events"],
                "verbs": ["create", "patch"]},
        ],
    })
}

fn binding() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": metadata(ROLE),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
    })
}

fn account() -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(NAME)})
}

fn pod_labels() -> Value {
    json!({"app.kubernetes.io/name": "ingress-nginx", "app.kubernetes.io/component": "controller"})
}

fn service() -> Value {
    let port = |name: &str, port: u16| {
        json!({"name": name, "port": port, "targetPort": name, "protocol": "TCP",
            "appProtocol": name})
    };
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata(NAME),
        "spec": {
            "type": "LoadBalancer",
            // Clients' addresses are seen as they are.
            "externalTrafficPolicy": "Local",
            "selector": pod_labels(),
            "ports": [port("http", 80), port("https", 443)],
        },
    })
}

/// Ports above 1024, as it runs without any privilege.
const HTTP: u16 = 8080;
const HTTPS: u16 = 8443;
const HEALTH: u16 = 10254;

fn tolerations() -> Vec<Value> {
    let conditions = [
        "disk-pressure",
        "memory-pressure",
        "pid-pressure",
        "unschedulable",
    ];
    let keys = conditions
        .iter()
        .map(|name| format!("node.kubernetes.io/{name}"));
    keys.map(|key| json!({"key": key, "operator": "Exists", "effect": "NoSchedule"}))
        .collect()
}

fn deployment(node: &str) -> Value {
    let probe = |path: &str, period: u8| {
        json!({"httpGet": {"path": path, "port": "health"}, "periodSeconds": period,
            "timeoutSeconds": 5})
    };
    let port =
        |name: &str, number: u16| json!({"name": name, "containerPort": number, "protocol": "TCP"});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata(NAME),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": pod_labels()},
            "template": {
                "metadata": {"labels": pod_labels()},
                "spec": {
                    "serviceAccountName": NAME,
                    "nodeSelector": {"kubernetes.io/hostname": node},
                    // It needs next to nothing, and there is no other node for it.
                    "tolerations": tolerations(),
                    "terminationGracePeriodSeconds": 30,
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [{
                        "name": "controller",
                        "image": CORACLE_IMAGE,
                        "imagePullPolicy": "IfNotPresent",
                        "args": [
                            "ingress",
                            format!("--http=0.0.0.0:{HTTP}"),
                            format!("--https=0.0.0.0:{HTTPS}"),
                            format!("--health=0.0.0.0:{HEALTH}"),
                            format!("--service={NAMESPACE}/{NAME}"),
                        ],
                        "ports": [port("http", HTTP), port("https", HTTPS), port("health", HEALTH)],
                        "readinessProbe": probe("/readyz", 1),
                        "livenessProbe": probe("/healthz", 10),
                        "resources": {
                            "requests": {"cpu": "10m", "memory": "32Mi"},
                            "limits": {"memory": "512Mi"},
                        },
                        "securityContext": {
                            "allowPrivilegeEscalation": false,
                            "readOnlyRootFilesystem": true,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }],
                },
            },
        },
    })
}
