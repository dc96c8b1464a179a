//! The kubelet endpoint: logs, exec, attach and port-forward over HTTPS for
//! the API server.

mod logs;
mod tunnel;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_cri::v1 as cri;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::agent::Error;
use crate::cri::{CriError, LABEL_CONTAINER_NAME};
use crate::pod::info;
use crate::pod::manager::IndexedPod;
use crate::pod::worker::Shared;

/// Most connections served at once; each exec or log stream is one.
const MAX_CONNECTIONS: usize = 2048;
/// Longest TLS handshake, and longest wait for a request's header.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Group and name that may call: the API server's.
const ALLOWED_GROUP: &str = "system:masters";
const ALLOWED_NAME: &str = "kube-apiserver-kubelet-client";

type Body = BoxBody<Bytes, std::io::Error>;

/// A refusal or failure, as the caller sees it.
#[derive(Debug)]
struct Failure(StatusCode, String);

impl From<CriError> for Failure {
    fn from(error: CriError) -> Self {
        let code = if error.is_not_found() {
            StatusCode::NOT_FOUND
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        Self(code, error.to_string())
    }
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into())
        .map_err(|never: Infallible| match never {})
        .boxed()
}

fn answer(code: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = code;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static(content_type),
    );
    response
}

/// The kubelet endpoint, bound to its port.
pub struct Server {
    shared: Arc<Shared>,
    listener: TcpListener,
    acceptor: TlsAcceptor,
    port: u16,
}

impl Server {
    /// Opens the port and reads the certificate.
    pub async fn bind(shared: Arc<Shared>) -> Result<Self, Error> {
        let config = &shared.config;
        let address = config.kubelet_listen;
        let failed = |source| Error::Listen { address, source };
        let tls = coracle_pki::tls::server_config(
            &config.server_cert_pem,
            &config.server_key_pem,
            Some(&config.cluster_ca_pem),
            // Upgrades need HTTP/1.1.
            &["http/1.1"],
        )?;
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        Ok(Self {
            shared,
            listener,
            acceptor: TlsAcceptor::from(tls),
            port,
        })
    }

    /// The port that was opened.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shutdown.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                continue;
            };
            let (shared, acceptor) = (Arc::clone(&self.shared), self.acceptor.clone());
            let shutdown = shutdown.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = serve(shared, acceptor, stream) => {}
                    () = shutdown.cancelled() => {}
                }
                drop(slot);
            });
        }
    }
}

async fn serve(shared: Arc<Shared>, acceptor: TlsAcceptor, stream: TcpStream) {
    // Interactive streams: every keystroke counts.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
    let Ok(Ok(stream)) = handshake else { return };
    let caller = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|list| list.first())
        .and_then(|der| coracle_pki::certificate_subject(der).ok());
    let allowed = caller
        .as_ref()
        .map(|(name, groups)| name == ALLOWED_NAME || groups.iter().any(|g| g == ALLOWED_GROUP));
    let service = hyper::service::service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move {
            let result = match allowed {
                Some(true) => route(&shared, request).await,
                Some(false) => Err(Failure(StatusCode::FORBIDDEN, "Forbidden".to_owned())),
                None => Err(Failure(StatusCode::UNAUTHORIZED, "Unauthorized".to_owned())),
            };
            Ok::<_, Infallible>(result.unwrap_or_else(|Failure(code, text)| {
                answer(code, "text/plain; charset=utf-8", text)
            }))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "kubelet connection ended");
    }
}

/// Query parameters, decoded, in order.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: &str) -> Self {
        /// Most parameters read; a command has one per word.
        const MAX: usize = 10_000;
        let pairs = query.split('&').filter(|p| !p.is_empty()).take(MAX);
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key), decode(value))
                })
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == name)
            .map(|(_, v)| v.as_str())
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(k, _)| k == name)
            .map(|(_, v)| v.clone())
            .collect()
    }

    fn flag(&self, names: &[&str]) -> bool {
        names
            .iter()
            .any(|n| matches!(self.get(n), Some("1" | "true" | "True" | "t")))
    }
}

/// Percent-decoding; `+` is a space, as in form data.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut result = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        match bytes[i] {
            b'%' => match (hex(i + 1), hex(i + 2)) {
                (Some(high), Some(low)) => {
                    result.push(u8::try_from(high * 16 + low).unwrap_or(b'%'));
                    i += 2;
                }
                _ => result.push(b'%'),
            },
            b'+' => result.push(b' '),
            other => result.push(other),
        }
        i += 1;
    }
    String::from_utf8_lossy(&result).into_owned()
}

async fn route(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Failure> {
    let path = request.uri().path().to_owned();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let parts: Vec<String> = path
        .split('/')
        .filter(|p| !p.is_empty())
        .map(decode)
        .collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let upgrade = matches!(*request.method(), Method::GET | Method::POST);
    match parts.as_slice() {
        ["healthz"] => Ok(answer(StatusCode::OK, "text/plain; charset=utf-8", "ok")),
        ["pods"] => Ok(json(&pod_list(shared))),
        ["stats", "summary"] => Ok(json(&stats_summary(shared).await?)),
        ["containerLogs", namespace, pod, container] if *request.method() == Method::GET => {
            let pod = find_pod(shared, namespace, pod)?;
            logs::respond(shared, &pod, container, &query).await
        }
        // With and without the pod's uid.
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] if upgrade => {
            let id = running_container(shared, namespace, pod, container).await?;
            let message = cri::ExecRequest {
                container_id: id,
                cmd: query.all("command"),
                tty: query.flag(&["tty"]),
                stdin: query.flag(&["input", "stdin"]),
                stdout: query.flag(&["output", "stdout"]),
                stderr: query.flag(&["error", "stderr"]) && !query.flag(&["tty"]),
            };
            let url = shared.cri.exec_url(message).await?;
            tunnel::pass(request, &url).await
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container]
            if upgrade =>
        {
            let id = running_container(shared, namespace, pod, container).await?;
            let message = cri::AttachRequest {
                container_id: id,
                tty: query.flag(&["tty"]),
                stdin: query.flag(&["input", "stdin"]),
                stdout: query.flag(&["output", "stdout"]),
                stderr: query.flag(&["error", "stderr"]) && !query.flag(&["tty"]),
            };
            let url = shared.cri.attach_url(message).await?;
            tunnel::pass(request, &url).await
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] if upgrade => {
            let pod = find_pod(shared, namespace, pod)?;
            let sandboxes = shared.cri.list_sandboxes(Some(info::uid(&pod.pod))).await?;
            let ready = sandboxes
                .into_iter()
                .find(|s| s.state() == cri::PodSandboxState::SandboxReady)
                .ok_or_else(|| {
                    Failure(
                        StatusCode::BAD_REQUEST,
                        "the pod's sandbox is not running".to_owned(),
                    )
                })?;
            let ports = ["port", "ports"]
                .iter()
                .flat_map(|name| query.all(name))
                .flat_map(|list| {
                    list.split(',')
                        .filter_map(|p| p.parse().ok())
                        .collect::<Vec<i32>>()
                })
                .collect();
            let message = cri::PortForwardRequest {
                pod_sandbox_id: ready.id,
                port: ports,
            };
            let url = shared.cri.port_forward_url(message).await?;
            tunnel::pass(request, &url).await
        }
        _ => Err(Failure(
            StatusCode::NOT_FOUND,
            "404 page not found".to_owned(),
        )),
    }
}

fn json(value: &serde_json::Value) -> Response<Body> {
    answer(StatusCode::OK, "application/json", value.to_string())
}

fn find_pod(shared: &Shared, namespace: &str, name: &str) -> Result<IndexedPod, Failure> {
    shared.index.find(namespace, name).ok_or_else(|| {
        let text = format!("pod \"{name}\" not found in namespace \"{namespace}\" on this node");
        Failure(StatusCode::NOT_FOUND, text)
    })
}

/// The id of a running container.
async fn running_container(
    shared: &Shared,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Result<String, Failure> {
    let pod = find_pod(shared, namespace, pod)?;
    let list = shared
        .cri
        .list_containers(Some(info::uid(&pod.pod)))
        .await?;
    list.into_iter()
        .filter(|c| {
            c.labels.get(LABEL_CONTAINER_NAME).map(String::as_str) == Some(container)
                && c.state() == cri::ContainerState::ContainerRunning
        })
        .max_by_key(|c| c.created_at)
        .map(|c| c.id)
        .ok_or_else(|| {
            let text = format!("container not found (\"{container}\")");
            Failure(StatusCode::NOT_FOUND, text)
        })
}

fn pod_list(shared: &Shared) -> serde_json::Value {
    let pods: Vec<_> = shared.index.all().into_iter().map(|p| p.pod).collect();
    serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {},
        "items": pods.iter().map(AsRef::as_ref).collect::<Vec<_>>()})
}

/// Resource use of the pods, in the shape of the kubelet's summary.
async fn stats_summary(shared: &Shared) -> Result<serde_json::Value, Failure> {
    use crate::cri::{LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID};
    let mut pods = std::collections::BTreeMap::<String, serde_json::Value>::new();
    for stats in shared.cri.container_stats().await? {
        let Some(attributes) = stats.attributes else {
            continue;
        };
        let label = |name: &str| attributes.labels.get(name).cloned().unwrap_or_default();
        let time = |nanos: i64| crate::pod::runtime::timestamp(nanos).to_string();
        let entry = pods.entry(label(LABEL_POD_UID)).or_insert_with(|| {
            serde_json::json!({"podRef": {"name": label(LABEL_POD_NAME),
                "namespace": label(LABEL_POD_NAMESPACE), "uid": label(LABEL_POD_UID)},
                "containers": []})
        });
        let cpu = stats.cpu.as_ref();
        let memory = stats.memory.as_ref();
        let number = |v: Option<cri::UInt64Value>| v.map(|v| v.value);
        let container = serde_json::json!({
            "name": label(LABEL_CONTAINER_NAME),
            "cpu": {
                "time": cpu.map(|c| time(c.timestamp)),
                "usageCoreNanoSeconds": cpu.and_then(|c| number(c.usage_core_nano_seconds)),
                "usageNanoCores": cpu.and_then(|c| number(c.usage_nano_cores)),
            },
            "memory": {
                "time": memory.map(|m| time(m.timestamp)),
                "workingSetBytes": memory.and_then(|m| number(m.working_set_bytes)),
                "usageBytes": memory.and_then(|m| number(m.usage_bytes)),
                "rssBytes": memory.and_then(|m| number(m.rss_bytes)),
            },
        });
        if let Some(list) = entry["containers"].as_array_mut() {
            list.push(container);
        }
    }
    let pods: Vec<_> = pods.into_values().collect();
    Ok(serde_json::json!({"node": {"nodeName": shared.config.node_name}, "pods": pods}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let query = Query::parse("command=sh&command=-c&command=echo+a%20b%26&tty=1&input=true&x");
        assert_eq!(query.all("command"), ["sh", "-c", "echo a b&"]);
        assert!(query.flag(&["tty"]) && query.flag(&["stdin", "input"]) && !query.flag(&["x"]));
        assert_eq!(decode("%zz%4"), "%zz%4");
    }
}
