//! Two API servers and a syncer between them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coracle_apiserver::access::UserInfo;
use coracle_apiserver::admission::ServiceAddressing;
use coracle_apiserver::builtin::{BuiltinOptions, install};
use coracle_apiserver::custom_kinds::CustomKinds;
use coracle_apiserver::{ApiServer, kinds};
use coracle_config::Config;
use coracle_config::model::TokenAccount;
use coracle_machinery::object;
use coracle_pki::{CertificateAuthority, KeyCert, TokenSigner};
use coracle_store::SqliteStore;
use coracle_syncer::{KubeletConfig, Published, SyncerConfig};
use http::{Method, Request};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Longest that anything here may take; as a rule it is milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// One API server, called as an administrator.
#[derive(Clone)]
pub struct Cluster {
    server: ApiServer,
    /// What was asked of it by the syncer, in order: method and path.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Cluster {
    async fn new(addressing: ServiceAddressing) -> Self {
        let store = Arc::new(SqliteStore::open_in_memory().unwrap());
        let identity = BuiltinOptions {
            signer: Arc::new(TokenSigner::generate().unwrap()),
            issuer: "https://kubernetes.default.svc".into(),
            anonymous: true,
            addressing,
            callouts: None,
            front_proxy: None,
            reach: Arc::default(),
        };
        let builder = ApiServer::builder(store).kinds(kinds::builtin());
        let (builder, builtin) = install(builder, identity);
        let server = builder.build();
        builtin.prepare(None).await.unwrap();
        let custom = CustomKinds::new(server.clone(), builtin.callouts.clone());
        tokio::spawn(custom.run(CancellationToken::new()));
        tokio::spawn(builtin.run(CancellationToken::new()));
        let asked = Arc::default();
        Self { server, asked }
    }

    pub fn client(&self) -> kube::Client {
        let server = self.server.clone();
        let service = tower::service_fn(move |mut request: Request<Body>| {
            let server = server.clone();
            request
                .extensions_mut()
                .insert(UserInfo::system_masters("test"));
            async move { server.oneshot(request).await }
        });
        kube::Client::new(service, "default")
    }

    /// As `client`, and remembers what is asked.
    pub fn recorded_client(&self) -> kube::Client {
        let (inner, asked) = (self.client(), self.asked.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            let line = format!("{} {}", request.method(), request.uri().path());
            asked.lock().unwrap().push(line);
            let inner = inner.clone();
            async move { inner.send(request).await }
        });
        kube::Client::new(service, "default")
    }

    /// What the syncer has asked since the last call.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
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
    /// Names of further secrets with a kubeconfig.
    pub additional: Vec<String>,
    /// The account whose token is in those.
    pub account: Option<TokenAccount>,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl World {
    /// Both servers with what is there before a syncer starts.
    pub async fn new() -> Self {
        let world = Self {
            host: Cluster::new(ServiceAddressing::allocate("10.96.0.0/16".parse().unwrap())).await,
            inside: Cluster::new(ServiceAddressing::FromHost {
                syncer: "test".into(),
            })
            .await,
            authority: CertificateAuthority::generate("test").unwrap(),
            config: Config::default(),
            additional: Vec::new(),
            account: None,
            running: None,
        };
        let host = &world.host;
        host.create("/api/v1/namespaces", json!({"metadata": {"name": "demo"}}))
            .await;
        for name in ["default", "vc-workload-vc"] {
            let account = json!({"metadata": {"name": name, "namespace": "demo"}});
            host.create("/api/v1/namespaces/demo/serviceaccounts", account)
                .await;
        }
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
        let account = json!({"metadata": {"name": "default", "namespace": "default"}});
        world
            .inside
            .create("/api/v1/namespaces/default/serviceaccounts", account)
            .await;
        let ca = json!({"metadata": {"name": "kube-root-ca.crt", "namespace": "default"},
            "data": {"ca.crt": "a"}});
        world
            .inside
            .create("/api/v1/namespaces/default/configmaps", ca)
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
        let secret = BTreeMap::from([(
            "config".to_owned(),
            b"{\"users\": [{\"name\": \"u\", \"user\": {}}]}".to_vec(),
        )]);
        let config = SyncerConfig {
            vc_name: "vc".into(),
            host_namespace: "demo".into(),
            image: "coracle.dev/coracle:1".into(),
            config: self.config.clone(),
            virtual_client: self.inside.client(),
            host_client: self.host.recorded_client(),
            host_tunnel_client: tunnel,
            pod_ip: OWN_IP.parse().unwrap(),
            kubelet: KubeletConfig {
                listen: "127.0.0.1:0".parse().unwrap(),
                cert_pem,
                key_pem,
                client_ca_pem: self.authority.cert_pem().to_owned(),
            },
            published: std::iter::once(("vc-vc", false))
                .chain(self.additional.iter().map(|name| (name.as_str(), true)))
                .map(|(name, additional)| Published {
                    name: name.to_owned(),
                    namespace: "demo".into(),
                    additional,
                    data: secret.clone(),
                    account: additional.then(|| self.account.clone()).flatten(),
                })
                .collect(),
        };
        let stop = CancellationToken::new();
        let syncer = coracle_syncer::run(config, stop.clone());
        let task = tokio::spawn(async move { syncer.await.unwrap() });
        self.running = Some((stop, task));
        self.host
            .appears("/api/v1/namespaces/demo/secrets/vc-vc")
            .await;
        let node = "/api/v1/nodes/node-a";
        if !self.config.sync.from_host.nodes.enabled {
            let shown = self.inside.get(node).await;
            assert!(shown.is_some(), "a kubeconfig before there is a node");
        }
        self.inside.appears(node).await;
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

/// Where the pod of the virtual cluster stands.
pub const OWN_IP: &str = "10.1.0.9";
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
