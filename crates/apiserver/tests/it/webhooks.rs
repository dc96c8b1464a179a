//! Webhooks that change and refuse writes, called over real TLS.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use coracle_apiserver::callout::{Callouts, Endpoint, Resolve};
use coracle_pki::CertificateAuthority;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::builtin::server_with;
use crate::support::Caller;

/// What a service answers: the `response`, without its uid.
pub type Answer = fn(path: &str, request: &Value) -> Value;

/// A webhook service on loopback, found under any name.
pub struct Service {
    address: SocketAddr,
    /// The authority that vouches for it.
    pub bundle: String,
    seen: Arc<Mutex<Vec<Value>>>,
}

struct Everywhere(SocketAddr);

#[async_trait::async_trait]
impl Resolve for Everywhere {
    async fn resolve(&self, endpoint: &Endpoint) -> Result<SocketAddr, String> {
        match endpoint {
            Endpoint::Service { name, .. } if name == "gone" => Err("no endpoints".into()),
            _ => Ok(self.0),
        }
    }
}

impl Service {
    pub async fn start(answer: Answer) -> Self {
        let ca = CertificateAuthority::generate("webhooks").unwrap();
        let pair = ca
            .issue_server(
                "hook",
                &["hook.default.svc".to_owned()],
                std::time::Duration::from_secs(3600),
            )
            .unwrap();
        let tls =
            coracle_pki::tls::server_config(&pair.cert_pem, &pair.key_pem, None, &["http/1.1"])
                .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Value>>> = Arc::default();
        let noted = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, noted) = (TlsAcceptor::from(tls.clone()), noted.clone());
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else {
                        return;
                    };
                    let serve = service_fn(move |request: Request<Incoming>| {
                        let noted = noted.clone();
                        async move {
                            let path = request.uri().path().to_owned();
                            let bytes = request.into_body().collect().await?.to_bytes();
                            let mut review: Value = serde_json::from_slice(&bytes).unwrap();
                            let asked = review["request"].take();
                            noted.lock().unwrap().push(asked.clone());
                            if path == "/hang" {
                                std::future::pending::<()>().await;
                            }
                            if path == "/broken" {
                                let body = Full::new(Bytes::from_static(b"a secret"));
                                let mut response = Response::new(body);
                                *response.status_mut() = StatusCode::UNAUTHORIZED;
                                return Ok(response);
                            }
                            if path == "/garbage" {
                                return Ok(Response::new(Full::from("a secret")));
                            }
                            let mut response = answer(&path, &asked);
                            response["uid"] = asked["uid"].clone();
                            review["response"] = response;
                            let body = Full::new(Bytes::from(review.to_string()));
                            Ok::<_, hyper::Error>(Response::new(body))
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), serve)
                        .await;
                });
            }
        });
        Self {
            address,
            bundle: STANDARD.encode(ca.cert_pem()),
            seen,
        }
    }

    async fn server(&self) -> Caller {
        server_with(Some(self.callouts())).await.0
    }

    /// The way to it.
    pub fn callouts(&self) -> Arc<Callouts> {
        Arc::new(Callouts::new(Arc::new(Everywhere(self.address))))
    }

    /// A configuration of one webhook for writes of ConfigMaps.
    pub fn configuration(&self, kind: &str, path: &str, more: Value) -> Value {
        let mut webhook = json!({
            "name": format!("{}.example.com", path.trim_start_matches('/')),
            "clientConfig": {"caBundle": self.bundle, "service": {
                "namespace": "default", "name": "hook", "path": path,
            }},
            "rules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
                "operations": ["CREATE", "UPDATE", "DELETE"],
            }],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        });
        for (key, value) in more.as_object().unwrap() {
            webhook[key] = value.clone();
        }
        json!({"kind": kind, "metadata": {"name": path.replace('/', "a")}, "webhooks": [webhook]})
    }

    /// What it was asked since the last look.
    pub fn seen(&self) -> Vec<Value> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn answers(path: &str, request: &Value) -> Value {
    let patch = |patch: Value| {
        let text = STANDARD.encode(patch.to_string());
        json!({"allowed": true, "patchType": "JSONPatch", "patch": text})
    };
    match path {
        "/first" => patch(json!([
            {"op": "add", "path": "/data", "value": {"first": "1"}},
            {"op": "add", "path": "/unknown", "value": 1},
        ])),
        "/second" => match request["object"]["data"]["first"].as_str() {
            Some(_) => patch(json!([{"op": "add", "path": "/data/second", "value": "2"}])),
            None => json!({"allowed": true}),
        },
        "/warn" => json!({"allowed": true, "warnings": ["mind the gap"]}),
        _ => json!({"allowed": false, "status": {"code": 403, "message": "not today"}}),
    }
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

#[tokio::test]
async fn mutating_webhooks_change_objects_and_see_each_other() {
    let service = Service::start(answers).await;
    let admin = service.server().await;
    let configurations = format!("{HOOKS}/mutatingwebhookconfigurations");
    // In the order of names the second comes first, and asks to be called
    // again once the other has changed the object.
    let mut second = service.configuration(
        "MutatingWebhookConfiguration",
        "/second",
        json!({"reinvocationPolicy": "IfNeeded"}),
    );
    second["metadata"]["name"] = json!("a");
    let mut first = service.configuration("MutatingWebhookConfiguration", "/first", json!({}));
    first["metadata"]["name"] = json!("b");
    for configuration in [&second, &first] {
        admin.post(&configurations, configuration).await.ok();
    }
    let made = admin.post(MAPS, &map("x")).await.ok();
    assert_eq!(made["data"], json!({"first": "1", "second": "2"}));
    assert_eq!(made.get("unknown"), None);
    let seen = service.seen();
    assert_eq!(seen.len(), 3);
    let request = &seen[0];
    assert_eq!(request["operation"], "CREATE");
    assert_eq!(
        request["kind"],
        json!({"group": "", "version": "v1", "kind": "ConfigMap"})
    );
    assert_eq!(request["resource"]["resource"], "configmaps");
    assert_eq!(request["namespace"], "default");
    assert_eq!(request["name"], "x");
    assert_eq!(request["object"]["kind"], "ConfigMap");
    assert_eq!(request["oldObject"], Value::Null);
    assert_eq!(request["userInfo"]["username"], "admin");
    // Nobody is called for the configurations themselves.
    admin.delete(&format!("{configurations}/a")).await.ok();
    admin.delete(&format!("{configurations}/b")).await.ok();
    assert!(service.seen().is_empty());
    assert_eq!(admin.post(MAPS, &map("y")).await.ok().get("data"), None);
}

#[tokio::test]
async fn validating_webhooks_refuse_and_warn() {
    let service = Service::start(answers).await;
    let admin = service.server().await;
    let configurations = format!("{HOOKS}/validatingwebhookconfigurations");
    let warns = service.configuration("ValidatingWebhookConfiguration", "/warn", json!({}));
    admin.post(&configurations, &warns).await.ok();
    let answer = admin.post(MAPS, &map("x")).await;
    assert_eq!(answer.headers["warning"], "299 - \"mind the gap\"");
    answer.ok();
    let selector = json!({"matchLabels": {"bad": "yes"}});
    let denies = service.configuration(
        "ValidatingWebhookConfiguration",
        "/deny",
        json!({"objectSelector": selector}),
    );
    admin.post(&configurations, &denies).await.ok();
    admin.post(MAPS, &map("y")).await.ok();
    let marked = json!({"metadata": {"name": "x", "labels": {"bad": "yes"}}});
    let (code, message) = admin.put(&format!("{MAPS}/x"), &marked).await.failed();
    assert_eq!(code, 403);
    let expected = "admission webhook \"deny.example.com\" denied the request: not today";
    assert_eq!(message, expected);
    service.seen();
    admin.delete(&format!("{MAPS}/y")).await.ok();
    let seen = service.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0]["oldObject"]["metadata"]["name"], "y");
}

#[tokio::test]
async fn the_failure_policy_decides_when_nobody_answers() {
    let service = Service::start(answers).await;
    let admin = service.server().await;
    let configurations = format!("{HOOKS}/validatingwebhookconfigurations");
    let name = format!("{configurations}/ahang");
    let slow = json!({"timeoutSeconds": 1});
    let hangs = service.configuration("ValidatingWebhookConfiguration", "/hang", slow);
    admin.post(&configurations, &hangs).await.ok();
    let (code, message) = admin.post(MAPS, &map("x")).await.failed();
    assert_eq!(code, 500);
    assert_eq!(
        message,
        "Internal error occurred: failed calling webhook \"hang.example.com\": failed to call \
         webhook: Post \"https://hook.default.svc:443/hang?timeout=1s\": context deadline exceeded"
    );
    let mut open = hangs.clone();
    open["webhooks"][0]["failurePolicy"] = json!("Ignore");
    open["webhooks"][0]["clientConfig"]["service"]["name"] = json!("gone");
    admin.put(&name, &open).await.ok();
    admin.post(MAPS, &map("x")).await.ok();
    // Nor is a service trusted that another authority vouches for.
    let other = CertificateAuthority::generate("other").unwrap();
    open["webhooks"][0]["failurePolicy"] = json!("Fail");
    open["webhooks"][0]["clientConfig"]["service"]["name"] = json!("hook");
    open["webhooks"][0]["clientConfig"]["caBundle"] = json!(STANDARD.encode(other.cert_pem()));
    admin.put(&name, &open).await.ok();
    let (code, message) = admin.post(MAPS, &map("z")).await.failed();
    assert!(code == 500 && message.contains("tls: "), "{message}");
}

#[tokio::test]
async fn connections_and_evictions_can_be_refused() {
    let service = Service::start(answers).await;
    let admin = service.server().await;
    let account = json!({"metadata": {"name": "default"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    admin.post(accounts, &account).await.ok();
    let pods = "/api/v1/namespaces/default/pods";
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    admin.post(pods, &pod).await.ok();
    let rules = json!([{
        "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CONNECT", "CREATE"],
        "resources": ["pods/attach", "pods/eviction"],
    }]);
    let denies = service.configuration(
        "ValidatingWebhookConfiguration",
        "/deny",
        json!({"rules": rules}),
    );
    let configurations = format!("{HOOKS}/validatingwebhookconfigurations");
    admin.post(&configurations, &denies).await.ok();
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let refused = admin.post(&format!("{pods}/p/eviction"), &eviction).await;
    assert_eq!(refused.failed().0, 403);
    assert_eq!(service.seen()[0]["kind"]["kind"], "Eviction");
}
