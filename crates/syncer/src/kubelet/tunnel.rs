//! Requests passed on to the host's API server, upgraded connections as bytes
//! that nobody reads.

use std::sync::Arc;

use bytes::Bytes;
use coracle_machinery::object;
use coracle_translate::VirtualName;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use serde_json::{Value, json};
use tracing::debug;

use super::route::{Route, route};
use super::{Caller, Tunnels};
use crate::api::Cluster;
use crate::engine::Syncer;
use crate::kinds::Kind;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, Error>>;

/// Headers by which two ends agree on a protocol: passed on both ways.
const HANDSHAKE: &[&str] = &[
    "connection",
    "upgrade",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "x-stream-protocol-version",
];

/// The pods that the endpoint serves.
pub(crate) struct Pods {
    syncer: Arc<Syncer>,
    host: kube::Client,
}

impl Pods {
    pub(crate) fn new(syncer: Arc<Syncer>, host: kube::Client) -> Self {
        Self { syncer, host }
    }

    /// The host pod of a virtual pod: both exist, and the host's is ours.
    async fn host_pod(&self, namespace: &str, name: &str) -> Option<String> {
        let name = VirtualName::new(namespace, name);
        let inside = match self.syncer.inside.get(Kind::Pod, &name) {
            Some(pod) => pod,
            None => Arc::new(fetch(&self.syncer.inside.cluster, &name).await?),
        };
        let host = match self.syncer.host_object(Kind::Pod, &name) {
            Some(pod) => pod,
            None => {
                let translator = &self.syncer.translator;
                let host_name = translator.host_name("Pod", &name);
                let place = VirtualName::new(translator.host_namespace.as_str(), host_name);
                let pod = fetch(&self.syncer.host.cluster, &place).await?;
                let ours = translator.ours("Pod", &pod).as_ref() == Some(&name);
                ours.then(|| Arc::new(pod))?
            }
        };
        let same = !self.syncer.translator.is_stale(&host, &inside);
        same.then(|| object::name(&host).to_owned())
    }

    fn list(&self) -> Value {
        let pods = match self.syncer.inside.cache(Kind::Pod) {
            Some(cache) => cache.select(|_, pod| !object::text(pod, "/spec/nodeName").is_empty()),
            None => Vec::new(),
        };
        let items: Vec<&Value> = pods.iter().map(|pod| &**pod).collect();
        json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items})
    }
}

/// A pod that no cache has: a moment after the start they are empty.
async fn fetch(cluster: &Cluster, name: &VirtualName) -> Option<Value> {
    let found = cluster.get(Kind::Pod.resource(), &name.namespace, &name.name);
    found.await.ok().flatten()
}

/// Answers one request.
pub(crate) async fn answer(
    pods: &Pods,
    caller: &Caller,
    request: Request<Incoming>,
    tunnels: &Tunnels,
) -> Answer {
    match caller {
        Caller::Trusted => {}
        Caller::Unknown => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
        Caller::Other(name) => {
            return text(StatusCode::FORBIDDEN, &format!("Forbidden (user={name})"));
        }
    }
    let query = request.uri().query().unwrap_or_default();
    match route(request.uri().path(), query) {
        Route::Health => text(StatusCode::OK, "ok"),
        Route::Pods => {
            let mut answer = text(StatusCode::OK, &pods.list().to_string());
            answer.headers_mut().insert(
                CONTENT_TYPE,
                http::HeaderValue::from_static("application/json"),
            );
            answer
        }
        Route::Unknown => text(StatusCode::NOT_FOUND, "404 page not found"),
        Route::Pod {
            namespace,
            name,
            subresource,
            query,
            streams,
        } => {
            let Some(host_pod) = pods.host_pod(&namespace, &name).await else {
                let message = format!(
                    "pod \"{name}\" in namespace \"{namespace}\" has no counterpart on the host"
                );
                return text(StatusCode::NOT_FOUND, &message);
            };
            let host_namespace = &pods.syncer.translator.host_namespace;
            let uri = format!(
                "/api/v1/namespaces/{host_namespace}/pods/{host_pod}/{subresource}?{query}"
            );
            pass_on(pods, request, &uri, streams, tunnels).await
        }
    }
}

async fn pass_on(
    pods: &Pods,
    mut request: Request<Incoming>,
    uri: &str,
    streams: bool,
    tunnels: &Tunnels,
) -> Answer {
    let mut onward = Request::builder().method(request.method().clone()).uri(uri);
    if streams {
        if !request.headers().contains_key(UPGRADE) {
            return text(StatusCode::BAD_REQUEST, "Upgrade request required");
        }
        if let Some(headers) = onward.headers_mut() {
            copy_headers(request.headers(), headers);
        }
    }
    let onward = match onward.body(Body::empty()) {
        Ok(onward) => onward,
        Err(error) => return text(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let mut response = match pods.host.send(onward).await {
        Ok(response) => response,
        Err(error) => {
            debug!(%error, "the host did not answer");
            return text(
                StatusCode::BAD_GATEWAY,
                "the host cluster could not be reached",
            );
        }
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = response.into_parts();
        let mut answer = Response::new(body.map_err(Error::from).boxed_unsync());
        *answer.status_mut() = parts.status;
        if let Some(kind) = parts.headers.get(CONTENT_TYPE) {
            answer.headers_mut().insert(CONTENT_TYPE, kind.clone());
        }
        return answer;
    }
    let mut answer = text(StatusCode::SWITCHING_PROTOCOLS, "");
    answer.headers_mut().remove(CONTENT_TYPE);
    copy_headers(response.headers(), answer.headers_mut());
    let far = hyper::upgrade::on(&mut response);
    let near = hyper::upgrade::on(&mut request);
    let (permit, stop) = (tunnels.permit.clone(), tunnels.stop.clone());
    tunnels.tasks.spawn(async move {
        let joined = async {
            let (far, near) = tokio::try_join!(far, near)?;
            let (mut far, mut near) = (TokioIo::new(far), TokioIo::new(near));
            tokio::io::copy_bidirectional(&mut near, &mut far).await?;
            Ok::<(), Error>(())
        };
        tokio::select! {
            () = stop.cancelled() => {}
            outcome = joined => {
                if let Err(error) = outcome {
                    debug!(%error, "a tunnel broke off");
                }
            }
        }
        drop(permit);
    });
    answer
}

fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for name in HANDSHAKE {
        for value in from.get_all(*name) {
            to.append(*name, value.clone());
        }
    }
    if !to.contains_key(CONNECTION) {
        to.insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
    }
}

fn text(status: StatusCode, message: &str) -> Answer {
    let body = Full::new(Bytes::copy_from_slice(message.as_bytes()));
    let mut answer = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    answer
}
