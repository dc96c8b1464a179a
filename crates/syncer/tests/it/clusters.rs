//! Two API servers and a syncer between them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use coracle_apiserver::access::UserInfo;
use coracle_apiserver::hooks::{Admission, AdmissionRequest, Handler, Operation, RequestContext};
use coracle_apiserver::registry::Resource;
use coracle_apiserver::{ApiServer, kinds};
use coracle_config::Config;
use coracle_machinery::{ApiError, GroupResource, object};
use coracle_pki::{CertificateAuthority, KeyCert};
use coracle_store::SqliteStore;
use coracle_syncer::{KubeletConfig, SyncerConfig};
use http::{Method, Request};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Longest that anything here may take; as a rule it is milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Binds as the real subresource does.
struct Bind;

#[async_trait]
impl Handler for Bind {
    async fn handle(&self, context: &RequestContext, body: Value) -> Result<Value, ApiError> {
        let pods = GroupResource::new("", "pods");
        let (namespace, name) = (&context.info.namespace, &context.info.name);
        let pod = context.objects.get(&pods, namespace, name).await?;
        let mut pod = (*pod.ok_or_else(|| ApiError::not_found(&pods, name))?).clone();
        pod["spec"]["nodeName"] = body["target"]["name"].clone();
        context.objects.update(&pods, pod).await?;
        Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
    }
}

/// Gives tokens that tell what was asked for.
struct Token;

#[async_trait]
impl Handler for Token {
    async fn handle(&self, context: &RequestContext, mut body: Value) -> Result<Value, ApiError> {
        let seconds = body["spec"]["expirationSeconds"].as_i64().unwrap();
        let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        let token = json!([
            context.info.name,
            body["spec"]["audiences"],
            body["spec"]["boundObjectRef"]["uid"]
        ]);
        body["status"] =
            json!({"token": token.to_string(), "expirationTimestamp": expires.to_string()});
        Ok(body)
    }
}

/// Allocates addresses of services.
#[derive(Default)]
struct Addresses(AtomicU8);

#[async_trait]
impl Admission for Addresses {
    fn handles(&self, operation: Operation, resource: &Resource, subresource: &str) -> bool {
        operation == Operation::Create
            && subresource.is_empty()
            && resource.kind.gvk.kind == "Service"
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        if let Some(service) = &mut request.object
            && object::text(service, "/spec/clusterIP").is_empty()
        {
            let ip = format!("10.96.0.{}", 10 + self.0.fetch_add(1, Ordering::Relaxed));
            service["spec"]["clusterIP"] = ip.as_str().into();
            service["spec"]["clusterIPs"] = json!([ip]);
        }
        Ok(())
    }
}

/// One API server, called as an administrator.
#[derive(Clone)]
pub struct Cluster {
    server: ApiServer,
}

impl Cluster {
    fn new(allocates: bool) -> Self {
        let store = Arc::new(SqliteStore::open_in_memory().unwrap());
        let mut builder = ApiServer::builder(store)
            .kinds(kinds::builtin())
            .handler("", "pods", "binding", Arc::new(Bind))
            .handler("", "serviceaccounts", "token", Arc::new(Token));
        if allocates {
            builder = builder.admission(Arc::new(Addresses::default()));
        }
        Self {
            server: builder.build(),
        }
    }

    pub fn client(&self) -> kube::Client {
        let server = self.server.clone();
        let service = tower::service_fn(move |mut request: Request<Body>| {
            let server = server.clone();
            request
                .extensions_mut()
                .insert(UserInfo::system_masters("test"));
            async move {
                if request.method() == Method::PATCH {
                    return Ok(merge_patch(server, request).await);
                }
                server.oneshot(request).await
            }
        });
        kube::Client::new(service, "default")
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Result<Value, kube::Error> {
        let kind = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .body(if body.is_null() {
                Vec::new()
            } else {
                body.to_string().into_bytes()
            })
            .unwrap();
        self.client().request(request).await
    }

    pub async fn get(&self, path: &str) -> Option<Value> {
        self.call(Method::GET, path, &Value::Null).await.ok()
    }

    pub async fn create(&self, path: &str, object: Value) -> Value {
        self.call(Method::POST, path, &object)
            .await
            .unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub async fn patch(&self, path: &str, patch: Value) -> Value {
        self.call(Method::PATCH, path, &patch)
            .await
            .unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub async fn delete(&self, path: &str, grace: Option<i64>) {
        let options = match grace {
            Some(grace) => {
                json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": grace})
            }
            None => json!({"apiVersion": "v1", "kind": "DeleteOptions"}),
        };
        self.call(Method::DELETE, path, &options)
            .await
            .unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    /// As `create`, where failure is as good.
    pub async fn try_create(&self, path: &str, object: Value) {
        let _ = self.call(Method::POST, path, &object).await;
    }

    /// As `patch`, where failure is as good.
    pub async fn try_patch(&self, path: &str, patch: Value) {
        let _ = self.call(Method::PATCH, path, &patch).await;
    }

    /// As `delete`, where failure is as good.
    pub async fn try_delete(&self, path: &str, grace: Option<i64>) {
        let options =
            json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": grace});
        let _ = self.call(Method::DELETE, path, &options).await;
    }

    /// Waits until the object is there and as `test` wants it.
    pub async fn until(&self, path: &str, what: &str, test: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let found = self.get(path).await;
            match found {
                Some(object) if test(&object) => return object,
                other => assert!(start.elapsed() < PATIENCE, "{what}: {path} is {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until the object is there.
    pub async fn appears(&self, path: &str) -> Value {
        self.until(path, "never appeared", |_| true).await
    }

    /// Waits until the object is gone.
    pub async fn disappears(&self, path: &str) {
        let start = Instant::now();
        while let Some(object) = self.get(path).await {
            assert!(start.elapsed() < PATIENCE, "still there: {object}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Host, virtual cluster `vc` in the host namespace `demo`, and a syncer.
pub struct World {
    pub host: Cluster,
    pub inside: Cluster,
    pub authority: CertificateAuthority,
    pub config: Config,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl World {
    /// Both servers with what is there before a syncer starts.
    pub async fn new() -> Self {
        let world = Self {
            host: Cluster::new(true),
            inside: Cluster::new(false),
            authority: CertificateAuthority::generate("test").unwrap(),
            config: Config::default(),
            running: None,
        };
        let host = &world.host;
        host.create("/api/v1/namespaces", json!({"metadata": {"name": "demo"}}))
            .await;
        let labels = json!({"app": "coracle", "release": "vc"});
        host.create(
            "/api/v1/namespaces/demo/services",
            json!({
                "metadata": {"name": "vc", "namespace": "demo", "labels": labels},
                "spec": {"ports": [{"port": 443, "targetPort": 8443}], "selector": labels},
            }),
        )
        .await;
        host.create(
            "/api/v1/namespaces/demo/pods",
            json!({
                "metadata": {"name": "vc-0", "namespace": "demo", "labels": labels},
                "spec": {"nodeName": "node-a", "containers": [{"name": "c", "image": "i"}]},
            }),
        )
        .await;
        for namespace in ["default", "kube-system", "kube-node-lease"] {
            world
                .inside
                .create(
                    "/api/v1/namespaces",
                    json!({"metadata": {"name": namespace}}),
                )
                .await;
        }
        let account = json!({"metadata": {"name": "default", "namespace": "default"}});
        world
            .inside
            .create("/api/v1/namespaces/default/serviceaccounts", account)
            .await;
        world
    }

    /// A world with a running syncer.
    pub async fn running() -> Self {
        let mut world = Self::new().await;
        world.start(world.host.client()).await;
        world
    }

    /// Starts a syncer; `tunnel` reaches the host for exec and its like.
    pub async fn start(&mut self, tunnel: kube::Client) {
        let hour = Duration::from_secs(3600);
        let KeyCert { cert_pem, key_pem } = self
            .authority
            .issue_server("kubelet", &["127.0.0.1".to_owned()], hour)
            .unwrap();
        let secret = BTreeMap::from([("config".to_owned(), b"kubeconfig".to_vec())]);
        let config = SyncerConfig {
            vc_name: "vc".into(),
            host_namespace: "demo".into(),
            config: self.config.clone(),
            virtual_client: self.inside.client(),
            host_client: self.host.client(),
            host_tunnel_client: tunnel,
            pod_ip: "127.0.0.1".parse().unwrap(),
            kubelet: KubeletConfig {
                listen: "127.0.0.1:0".parse().unwrap(),
                cert_pem,
                key_pem,
                client_ca_pem: self.authority.cert_pem().to_owned(),
            },
            published: BTreeMap::from([("vc-vc".to_owned(), secret)]),
        };
        let stop = CancellationToken::new();
        let syncer = coracle_syncer::run(config, stop.clone());
        let task = tokio::spawn(async move { syncer.await.unwrap() });
        self.running = Some((stop, task));
        self.inside.appears("/api/v1/nodes/node-a").await;
        self.host
            .until(DNS, "no address", |s| {
                !object::text(s, "/spec/clusterIP").is_empty()
            })
            .await;
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub async fn stop(&mut self) {
        if let Some((stop, task)) = self.running.take() {
            stop.cancel();
            task.await.unwrap();
        }
    }

    /// The host's scheduler and kubelet: binds the pod and reports it running.
    pub async fn run_on_host(&self, host_pod: &str, node: &str) {
        let path = format!("/api/v1/namespaces/demo/pods/{host_pod}");
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": host_pod},
            "target": {"kind": "Node", "name": node},
        });
        self.host.create(&format!("{path}/binding"), binding).await;
        self.host
            .patch(
                &format!("{path}/status"),
                json!({"status": {
                    "phase": "Running", "podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}],
                    "hostIP": "192.168.0.1", "startTime": "2026-01-01T00:00:00Z",
                    "conditions": [{"type": "Ready", "status": "True"}],
                }}),
            )
            .await;
    }
}

/// The host Service of the virtual cluster's DNS.
pub const DNS: &str = "/api/v1/namespaces/demo/services/kube-dns-x-kube-system-x-vc";

/// A pod with a token, a ConfigMap and a Secret.
pub fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "containers": [{
                "name": "c", "image": "nginx",
                "envFrom": [{"secretRef": {"name": "settings"}}],
                "volumeMounts": [{"name": "api", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
            }],
            "volumes": [{"name": "api", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            ]}}],
        },
    })
}

pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const HOST_PODS: &str = "/api/v1/namespaces/demo/pods";

async fn merge_patch(
    server: ApiServer,
    request: Request<Body>,
) -> http::Response<coracle_apiserver::Body> {
    use http_body_util::BodyExt;
    let (parts, body) = request.into_parts();
    let patch: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
    loop {
        let make = |method: Method, body: Vec<u8>| {
            let mut request = Request::builder()
                .method(method)
                .uri(parts.uri.clone())
                .header("content-type", "application/json")
                .body(Body::from(body))
                .unwrap();
            request
                .extensions_mut()
                .insert(UserInfo::system_masters("test"));
            request
        };
        let found = server
            .clone()
            .oneshot(make(Method::GET, Vec::new()))
            .await
            .unwrap();
        if !found.status().is_success() {
            return found;
        }
        let mut object: Value =
            serde_json::from_slice(&found.into_body().collect().await.unwrap().to_bytes()).unwrap();
        merge(&mut object, &patch);
        let put = server
            .clone()
            .oneshot(make(Method::PUT, object.to_string().into_bytes()))
            .await
            .unwrap();
        if put.status() != 409 {
            return put;
        }
    }
}

fn merge(into: &mut Value, patch: &Value) {
    if let (Value::Object(into), Value::Object(patch)) = (&mut *into, patch) {
        for (key, value) in patch {
            if value.is_null() {
                into.remove(key);
            } else {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        return;
    }
    if let Value::Object(map) = patch {
        *into = json!({});
        for (key, value) in map {
            if !value.is_null() {
                let mut inner = Value::Null;
                merge(&mut inner, value);
                into[key] = inner;
            }
        }
    } else {
        *into = patch.clone();
    }
}
