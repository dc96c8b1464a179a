//! An API server of the simplest kind, in memory: stores what it is given,
//! lists and watches it, and knows how pods are deleted.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Group and version with resource, namespace, name.
type Key = (String, String, String);

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<Key, Value>,
    log: Vec<(u64, &'static str, Key, Value)>,
}

/// The server; a tower service.
#[derive(Clone)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

struct Target {
    resource: String,
    namespace: String,
    name: String,
    subresource: String,
}

fn parse(path: &str) -> Target {
    let mut parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let prefix: Vec<&str> = parts
        .drain(..if parts[0] == "api" { 2 } else { 3 })
        .collect();
    let mut namespace = String::new();
    if parts.len() > 2 && parts[0] == "namespaces" {
        namespace = parts[1].to_owned();
        parts.drain(..2);
    }
    let part = |i: usize| parts.get(i).map(|p| (*p).to_owned()).unwrap_or_default();
    Target {
        resource: format!("{}/{}", prefix.join("/"), part(0)),
        namespace,
        name: part(1),
        subresource: part(2),
    }
}

fn answer(code: StatusCode, value: &Value) -> Answer {
    let body = Full::new(Bytes::from(value.to_string())).boxed_unsync();
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(body)
        .unwrap()
}

fn failure(code: StatusCode, reason: &str) -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "reason": reason, "message": reason, "code": code.as_u16()});
    answer(code, &status)
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

impl FakeApi {
    pub fn new() -> Self {
        Self {
            state: Arc::default(),
            changed: watch::channel(0).0,
        }
    }

    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    fn record(&self, state: &mut State, kind: &'static str, key: Key, mut object: Value) -> Value {
        state.revision += 1;
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        if kind == "DELETED" {
            state.objects.remove(&key);
        } else {
            state.objects.insert(key.clone(), object.clone());
        }
        state.log.push((state.revision, kind, key, object.clone()));
        self.changed.send_replace(state.revision);
        object
    }

    async fn respond(self, request: Request<Body>) -> Answer {
        let target = parse(request.uri().path());
        let query = request.uri().query().unwrap_or_default().to_owned();
        let method = request.method().clone();
        let bytes = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if method == Method::GET && target.name.is_empty() {
            return self.list_or_watch(&target, &query);
        }
        let mut state = self.state.lock().unwrap();
        let name = match body["metadata"]["name"].as_str() {
            Some(name) if target.name.is_empty() => name.to_owned(),
            _ => target.name.clone(),
        };
        let key = (
            target.resource.clone(),
            target.namespace.clone(),
            name.clone(),
        );
        let present = state.objects.get(&key).cloned();
        match (method, present) {
            (Method::POST, _) if target.subresource == "token" => answer(
                StatusCode::CREATED,
                &json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
                    "status": {"token": format!("token-of-{name}"),
                        "expirationTimestamp": "2099-01-01T00:00:00Z"}}),
            ),
            (Method::POST, Some(_)) => failure(StatusCode::CONFLICT, "AlreadyExists"),
            (Method::POST, None) => {
                let mut object = body;
                object["metadata"]["uid"] = json!(format!("uid-{}", state.revision));
                object["metadata"]["namespace"] = json!(target.namespace);
                object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
                let object = self.record(&mut state, "ADDED", key, object);
                answer(StatusCode::CREATED, &object)
            }
            (_, None) => failure(StatusCode::NOT_FOUND, "NotFound"),
            (Method::GET, Some(object)) => answer(StatusCode::OK, &object),
            (Method::PATCH, Some(mut object)) => {
                let version = &body["metadata"]["resourceVersion"];
                if !version.is_null() && *version != object["metadata"]["resourceVersion"] {
                    return failure(StatusCode::CONFLICT, "Conflict");
                }
                merge(&mut object, &body);
                let object = self.record(&mut state, "MODIFIED", key, object);
                answer(StatusCode::OK, &object)
            }
            (Method::DELETE, Some(object)) => {
                let uid = &body["preconditions"]["uid"];
                if !uid.is_null() && *uid != object["metadata"]["uid"] {
                    return failure(StatusCode::CONFLICT, "Conflict");
                }
                self.delete(&mut state, key, object, &body)
            }
            _ => failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }

    fn delete(&self, state: &mut State, key: Key, mut object: Value, body: &Value) -> Answer {
        let grace = body["gracePeriodSeconds"].as_i64().unwrap_or(30);
        if key.0.ends_with("/pods") && grace > 0 && !object["spec"]["nodeName"].is_null() {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            let object = self.record(state, "MODIFIED", key, object);
            return answer(StatusCode::OK, &object);
        }
        let object = self.record(state, "DELETED", key, object);
        answer(StatusCode::OK, &object)
    }

    fn list_or_watch(&self, target: &Target, query: &str) -> Answer {
        let (resource, namespace) = (target.resource.clone(), target.namespace.clone());
        let matches =
            move |key: &Key| key.0 == resource && (namespace.is_empty() || key.1 == namespace);
        let state = self.state.lock().unwrap();
        if !query.contains("watch=true") {
            let items: Vec<&Value> = state
                .objects
                .iter()
                .filter(|(k, _)| matches(k))
                .map(|(_, o)| o)
                .collect();
            let list = json!({"kind": "List", "apiVersion": "v1", "items": items,
                "metadata": {"resourceVersion": state.revision.to_string()}});
            return answer(StatusCode::OK, &list);
        }
        let since = query
            .split('&')
            .find_map(|p| p.strip_prefix("resourceVersion="));
        let since: u64 = since.and_then(|s| s.parse().ok()).unwrap_or(0);
        drop(state);
        let (state, changed) = (Arc::clone(&self.state), self.changed.subscribe());
        let stream = futures::stream::unfold((since, changed), move |(since, mut changed)| {
            let (state, matches) = (Arc::clone(&state), matches.clone());
            async move {
                loop {
                    changed.borrow_and_update();
                    let found = {
                        let state = state.lock().unwrap();
                        state
                            .log
                            .iter()
                            .find(|(r, _, key, _)| *r > since && matches(key))
                            .map(|(r, kind, _, object)| {
                                (*r, json!({"type": kind, "object": object}))
                            })
                    };
                    if let Some((revision, event)) = found {
                        return Some((format!("{event}\n"), (revision, changed)));
                    }
                    changed.changed().await.ok()?;
                }
            }
        });
        let body = StreamBody::new(stream.map(|line| Ok(Frame::data(Bytes::from(line)))));
        Response::builder()
            .header("content-type", "application/json")
            .body(BodyExt::boxed_unsync(body))
            .unwrap()
    }
}

impl tower::Service<Request<Body>> for FakeApi {
    type Response = Answer;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Answer, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.clone().respond(request).map(Ok).boxed()
    }
}
