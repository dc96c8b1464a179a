//! A server with rows without rules, and ways to call it.

use std::sync::Arc;

use bytes::Bytes;
use coracle_apiserver::access::UserInfo;
use coracle_apiserver::kind::{Kind, NoRules, Propagation, Scope, Strategy, Subresource, Verb};
use coracle_apiserver::{ApiServer, Body};
use coracle_machinery::GroupVersionKind;
use coracle_store::{SqliteStore, Store};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

/// Pods of these tests: a grace period and a selectable field.
pub struct Pods;

impl Strategy for Pods {
    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.nodeName"]
    }

    fn graceful_period(&self, object: &Value) -> Option<i64> {
        let started = object.pointer("/spec/nodeName").is_some();
        Some(if started { 30 } else { 0 })
    }

    fn default_propagation(&self) -> Propagation {
        Propagation::Background
    }
}

const STATUS: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];

pub fn kinds() -> Vec<Kind> {
    let sub = |name| Subresource {
        name,
        kind: None,
        verbs: STATUS,
    };
    let create = |name, kind| Subresource {
        name,
        kind: Some(kind),
        verbs: &[Verb::Create],
    };
    vec![
        Kind::plain(GroupVersionKind::new("", "v1", "ConfigMap"), "configmaps"),
        Kind {
            strategy: Arc::new(Pods),
            subresources: vec![
                sub("status"),
                create("binding", GroupVersionKind::new("", "v1", "Binding")),
                create(
                    "eviction",
                    GroupVersionKind::new("policy", "v1", "Eviction"),
                ),
                sub("ephemeralcontainers"),
            ],
            ..Kind::plain(GroupVersionKind::new("", "v1", "Pod"), "pods")
        },
        Kind {
            scope: Scope::Cluster,
            strategy: Arc::new(NoRules),
            subresources: vec![sub("status"), sub("finalize")],
            ..Kind::plain(GroupVersionKind::new("", "v1", "Namespace"), "namespaces")
        },
        Kind {
            subresources: vec![
                sub("status"),
                Subresource {
                    kind: Some(GroupVersionKind::new("autoscaling", "v1", "Scale")),
                    ..sub("scale")
                },
            ],
            ..Kind::plain(
                GroupVersionKind::new("apps", "v1", "Deployment"),
                "deployments",
            )
        },
        Kind {
            subresources: vec![sub("status")],
            ..Kind::plain(
                GroupVersionKind::new("policy", "v1", "PodDisruptionBudget"),
                "poddisruptionbudgets",
            )
        },
    ]
}

pub fn store() -> Arc<dyn Store> {
    Arc::new(SqliteStore::open_in_memory().expect("memory"))
}

/// A server over a new store.
pub fn server() -> ApiServer {
    ApiServer::builder(store()).kinds(kinds()).build()
}

/// Everything as an administrator.
#[derive(Clone)]
pub struct Caller(pub ApiServer);

pub struct Answer {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Value,
}

impl Caller {
    pub fn request(method: &str, target: &str, kind: &str, body: &str) -> Request<Body> {
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(target)
            .body(Body::full(Bytes::from(body.to_owned())))
            .unwrap();
        if !kind.is_empty() {
            let kind = kind.parse().unwrap();
            request.headers_mut().insert("content-type", kind);
        }
        let admin = UserInfo::system_masters("admin");
        request.extensions_mut().insert(admin);
        request
    }

    pub async fn send(&self, request: Request<Body>) -> http::Response<Body> {
        self.0.clone().oneshot(request).await.unwrap()
    }

    pub async fn call(&self, method: &str, target: &str, kind: &str, body: &str) -> Answer {
        self.answer(Self::request(method, target, kind, body)).await
    }

    pub async fn answer(&self, request: Request<Body>) -> Answer {
        let response = self.send(request).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())),
        }
    }

    pub async fn get(&self, target: &str) -> Answer {
        self.call("GET", target, "", "").await
    }

    pub async fn post(&self, target: &str, body: &Value) -> Answer {
        self.call("POST", target, "application/json", &body.to_string())
            .await
    }

    pub async fn put(&self, target: &str, body: &Value) -> Answer {
        self.call("PUT", target, "application/json", &body.to_string())
            .await
    }

    pub async fn delete(&self, target: &str) -> Answer {
        self.call("DELETE", target, "", "").await
    }
}

impl Answer {
    /// The body of a request that has to succeed.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.body);
        self.body
    }

    /// The code and message of a request that has to fail.
    #[track_caller]
    /// The message of a Status.
    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    pub fn failed(self) -> (u16, String) {
        assert!(!self.status.is_success(), "{}", self.body);
        let message = self.body["message"].as_str().unwrap_or_default();
        (self.status.as_u16(), message.to_owned())
    }
}

/// The lines of a watch.
pub struct Lines {
    body: Body,
    rest: Vec<u8>,
}

impl Lines {
    pub async fn open(caller: &Caller, target: &str) -> Self {
        let response = caller.send(Caller::request("GET", target, "", "")).await;
        assert_eq!(response.status(), 200);
        Self {
            body: response.into_body(),
            rest: Vec::new(),
        }
    }

    /// The next event, or `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.rest.extend_from_slice(frame.data_ref().unwrap());
        }
    }

    /// The next event as `TYPE name`.
    pub async fn told(&mut self) -> String {
        let event = self.next().await.expect("an event");
        let name = event["object"]["metadata"]["name"].as_str();
        let kind = event["type"].as_str().unwrap();
        format!("{kind} {}", name.unwrap_or_default())
    }
}
