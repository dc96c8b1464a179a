//! A control plane in memory.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use coracle_apiserver::access::UserInfo;
use coracle_apiserver::admission::{KubernetesService, ServiceAddressing};
use coracle_apiserver::builtin::{BuiltinOptions, install};
use coracle_apiserver::documents::Documents;
use coracle_apiserver::{ApiServer, kinds};
use coracle_controllers::{Options, SchedulerOptions, run};
use coracle_pki::TokenSigner;
use coracle_store::SqliteStore;
use http::{Method, Request};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Longest wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Cluster {
    pub client: kube::Client,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_with(Options {
            cluster_ca_pem: "the authority".to_owned(),
            scheduler: Some(SchedulerOptions::default()),
            ..Options::default()
        })
        .await
    }

    pub async fn start_with(options: Options) -> Self {
        // Shows with RUST_LOG what the controllers do.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let store = Arc::new(SqliteStore::open_in_memory().unwrap());
        let builder = ApiServer::builder(store).kinds(kinds::builtin());
        let (builder, builtin) = install(
            builder,
            BuiltinOptions {
                signer: Arc::new(TokenSigner::generate().unwrap()),
                issuer: "https://kubernetes.default.svc.cluster.local".into(),
                anonymous: false,
                addressing: ServiceAddressing::allocate("10.96.0.0/16".parse().unwrap()),
                callouts: None,
                front_proxy: None,
                reach: Arc::default(),
            },
        );
        let service = KubernetesService {
            cluster_ip: Some(Ipv4Addr::new(10, 96, 0, 1)),
            endpoint_ip: Ipv4Addr::new(10, 0, 0, 1),
            endpoint_port: 6443,
        };
        builtin.prepare(Some(&service)).await.unwrap();
        let documents = Documents::new(builder.registry(), Arc::new(|_| None));
        let server = builder.route(Arc::new(documents)).build();
        let as_admin = server.map_request(|mut request: Request<kube::client::Body>| {
            request
                .extensions_mut()
                .insert(UserInfo::system_masters("controllers"));
            request
        });
        let client = kube::Client::new(as_admin, "default");
        let shutdown = CancellationToken::new();
        let running = run(client.clone(), options, shutdown.clone());
        let tasks = vec![tokio::spawn(async move { running.await.unwrap() })];
        Self {
            client,
            shutdown,
            tasks,
        }
    }

    /// Stops the controllers: they must end by themselves.
    pub async fn stop(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            tokio::time::timeout(PATIENCE, task)
                .await
                .expect("stops in time")
                .unwrap();
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Value,
    ) -> Result<Value, u16> {
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .body(body)
            .unwrap();
        match self.client.request::<Value>(request).await {
            Ok(value) => Ok(value),
            Err(kube::Error::Api(status)) => Err(status.code),
            Err(error) => panic!("{path}: {error}"),
        }
    }

    pub async fn get(&self, path: &str) -> Result<Value, u16> {
        self.call(Method::GET, path, "application/json", Value::Null)
            .await
    }

    pub async fn create(&self, path: &str, body: Value) -> Value {
        let created = self
            .call(Method::POST, path, "application/json", body.clone())
            .await;
        created.unwrap_or_else(|code| panic!("{code} for {path}: {body}"))
    }

    pub async fn patch(&self, path: &str, body: Value) -> Value {
        let kind = "application/merge-patch+json";
        let patched = self.call(Method::PATCH, path, kind, body.clone()).await;
        patched.unwrap_or_else(|code| panic!("{code} for {path}: {body}"))
    }

    pub async fn delete(&self, path: &str, options: Value) -> Result<Value, u16> {
        self.call(Method::DELETE, path, "application/json", options)
            .await
    }

    pub async fn list(&self, path: &str) -> Vec<Value> {
        let list = self
            .get(path)
            .await
            .unwrap_or_else(|code| panic!("{code} for {path}"));
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Asks again and again until the answer satisfies.
    pub async fn until(
        &self,
        path: &str,
        satisfies: impl Fn(&Result<Value, u16>) -> bool,
    ) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path).await;
            if satisfies(&answer) {
                return answer.unwrap_or(Value::Null);
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{path} stays {answer:#?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for a list of so many items that all satisfy.
    pub async fn until_all(
        &self,
        path: &str,
        count: usize,
        satisfies: impl Fn(&Value) -> bool,
    ) -> Vec<Value> {
        let list = self
            .until(path, |answer| {
                let items = answer
                    .as_ref()
                    .ok()
                    .and_then(|list| list["items"].as_array());
                items.is_some_and(|items| items.len() == count && items.iter().all(&satisfies))
            })
            .await;
        list["items"].as_array().cloned().unwrap_or_default()
    }

    pub async fn until_gone(&self, path: &str) {
        self.until(path, |answer| *answer == Err(404)).await;
    }

    /// A node that runs every pod it is given, at once, and lets them go.
    pub async fn add_node(&mut self, name: &str) {
        self.create(
            "/api/v1/nodes",
            json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            }),
        )
        .await;
        let conditions = json!([{
            "type": "Ready", "status": "True", "reason": "KubeletReady",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        self.patch(
            &format!("/api/v1/nodes/{name}/status"),
            json!({"status": {
                "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                "conditions": conditions,
            }}),
        )
        .await;
        let (client, name) = (self.client.clone(), name.to_owned());
        let stop = self.shutdown.clone();
        self.tasks.push(tokio::spawn(async move {
            tokio::select! {
                () = run_pods(client, name) => {}
                () = stop.cancelled() => {}
            }
        }));
    }
}

async fn run_pods(client: kube::Client, node: String) {
    use k8s_openapi::api::core::v1::Pod;
    use kube::api::{Api, DeleteParams, Patch, PatchParams};
    let mut number = 0;
    loop {
        let pods: Api<Pod> = Api::all(client.clone());
        for pod in pods.list(&Default::default()).await.unwrap() {
            let meta = &pod.metadata;
            if pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) != Some(&node) {
                continue;
            }
            let name = meta.name.clone().unwrap();
            let api: Api<Pod> = Api::namespaced(client.clone(), meta.namespace.as_ref().unwrap());
            if meta.deletion_timestamp.is_some() {
                let params = DeleteParams {
                    grace_period_seconds: Some(0),
                    ..Default::default()
                };
                let _ = api.delete(&name, &params).await;
                continue;
            }
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            if phase != Some("Pending") {
                continue;
            }
            number += 1;
            let ip = format!("10.1.{}.{}", number / 250, number % 250 + 1);
            // The image says what becomes of the pod.
            let image = pod.spec.unwrap().containers[0]
                .image
                .clone()
                .unwrap_or_default();
            let now = jiff::Timestamp::now().to_string();
            let (phase, ready) = match image.as_str() {
                "succeeds" => ("Succeeded", "False"),
                "fails" => ("Failed", "False"),
                "unready" => ("Running", "False"),
                _ => ("Running", "True"),
            };
            let status = json!({"status": {
                "phase": phase, "podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}],
            }});
            let _ = api
                .patch_status(&name, &PatchParams::default(), &Patch::Strategic(status))
                .await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A pod template of one container with this image.
pub fn template(image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    })
}
