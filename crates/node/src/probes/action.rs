//! What a probe or a lifecycle hook does once.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::cri::Cri;

/// Most bytes read of a probe's answer.
const MAX_BODY: usize = 10 << 10;
/// Most characters of an answer shown in an event.
const MAX_SHOWN: usize = 300;

/// Result of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The container answered well.
    Success,
    /// It did not; for people.
    Failure(String),
    /// The question could not be put, which says nothing about the container;
    /// for people.
    Unknown(String),
}

/// Something to do with a container, with ports resolved.
#[derive(Debug, Clone)]
pub enum Action {
    /// Run a command in it.
    Exec(Vec<String>),
    /// Ask by HTTP.
    Http {
        /// Host, if not the pod's address.
        host: Option<String>,
        /// Port.
        port: u16,
        /// Path with query.
        path: String,
        /// Whether to use TLS, unverified.
        tls: bool,
        /// Further headers.
        headers: Vec<(String, String)>,
    },
    /// Open a TCP connection.
    Tcp {
        /// Host, if not the pod's address.
        host: Option<String>,
        /// Port.
        port: u16,
    },
    /// Ask the gRPC health service.
    Grpc {
        /// Port.
        port: u16,
        /// Service asked about.
        service: String,
    },
    /// Wait, in seconds.
    Sleep(u64),
}

impl Action {
    /// The action of a probe.
    pub fn of_probe(probe: &Probe, container: &Container) -> Option<Self> {
        if let Some(exec) = &probe.exec {
            return Some(Self::Exec(exec.command.clone().unwrap_or_default()));
        }
        if let Some(http) = &probe.http_get {
            return Self::http(http, container);
        }
        if let Some(tcp) = &probe.tcp_socket {
            let port = resolve(&tcp.port, container)?;
            return Some(Self::Tcp {
                host: tcp.host.clone().filter(|h| !h.is_empty()),
                port,
            });
        }
        let grpc = probe.grpc.as_ref()?;
        Some(Self::Grpc {
            port: u16::try_from(grpc.port).ok()?,
            service: grpc.service.clone().unwrap_or_default(),
        })
    }

    /// The action of a lifecycle hook.
    pub fn of_hook(hook: &LifecycleHandler, container: &Container) -> Option<Self> {
        if let Some(exec) = &hook.exec {
            return Some(Self::Exec(exec.command.clone().unwrap_or_default()));
        }
        if let Some(http) = &hook.http_get {
            return Self::http(http, container);
        }
        if let Some(sleep) = &hook.sleep {
            return Some(Self::Sleep(u64::try_from(sleep.seconds).unwrap_or(0)));
        }
        let tcp = hook.tcp_socket.as_ref()?;
        let port = resolve(&tcp.port, container)?;
        Some(Self::Tcp {
            host: tcp.host.clone(),
            port,
        })
    }

    fn http(http: &HTTPGetAction, container: &Container) -> Option<Self> {
        let path = http.path.clone().unwrap_or_default();
        Some(Self::Http {
            host: http.host.clone().filter(|h| !h.is_empty()),
            port: resolve(&http.port, container)?,
            path: if path.starts_with('/') {
                path
            } else {
                format!("/{path}")
            },
            tls: http.scheme.as_deref() == Some("HTTPS"),
            headers: http
                .http_headers
                .iter()
                .flatten()
                .map(|h| (h.name.clone(), h.value.clone()))
                .collect(),
        })
    }

    /// Does it, within `timeout`.
    pub async fn run(&self, cri: &Cri, id: &str, pod_ip: &str, timeout: Duration) -> Outcome {
        match tokio::time::timeout(timeout + GRACE, self.attempt(cri, id, pod_ip, timeout)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Failure(format!("no answer within {} s", timeout.as_secs())),
        }
    }

    async fn attempt(&self, cri: &Cri, id: &str, pod_ip: &str, timeout: Duration) -> Outcome {
        match self {
            Self::Exec(command) => exec(cri, id, command, timeout).await,
            Self::Sleep(seconds) => {
                tokio::time::sleep(Duration::from_secs(*seconds)).await;
                Outcome::Success
            }
            Self::Tcp { host, port } => {
                let host = host.as_deref().unwrap_or(pod_ip);
                match tokio::time::timeout(timeout, TcpStream::connect((host, *port))).await {
                    Ok(Ok(_)) => Outcome::Success,
                    Ok(Err(error)) => Outcome::Failure(format!("dial tcp {host}:{port}: {error}")),
                    Err(_) => Outcome::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
                }
            }
            Self::Http {
                host,
                port,
                path,
                tls,
                headers,
            } => {
                let host = host.as_deref().unwrap_or(pod_ip);
                let asked = http_get(host, *port, path, *tls, headers);
                match tokio::time::timeout(timeout, asked).await {
                    Ok(Ok((200..=399, _))) => Outcome::Success,
                    Ok(Ok((code, _))) => {
                        Outcome::Failure(format!("HTTP probe failed with statuscode: {code}"))
                    }
                    Ok(Err(error)) => {
                        Outcome::Failure(format!("Get \"http://{host}:{port}{path}\": {error}"))
                    }
                    Err(_) => Outcome::Failure(format!(
                        "Get \"http://{host}:{port}{path}\": context deadline exceeded"
                    )),
                }
            }
            Self::Grpc { port, service } => {
                match tokio::time::timeout(timeout, grpc_check(pod_ip, *port, service)).await {
                    Ok(outcome) => outcome,
                    Err(_) => Outcome::Failure(format!(
                        "timeout: failed to connect service \"{pod_ip}:{port}\" within {timeout:?}"
                    )),
                }
            }
        }
    }
}

/// The runtime gets this much longer than the command it times.
const GRACE: Duration = Duration::from_secs(12);

fn resolve(port: &IntOrString, container: &Container) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let ports = container.ports.as_deref().unwrap_or_default();
            let named = ports.iter().find(|p| p.name.as_deref() == Some(name));
            match named {
                Some(port) => u16::try_from(port.container_port).ok(),
                None => name.parse().ok(),
            }
        }
    }
}

async fn exec(cri: &Cri, id: &str, command: &[String], timeout: Duration) -> Outcome {
    match cri.exec_sync(id, command, timeout).await {
        Ok(output) if output.exit_code == 0 => Outcome::Success,
        Ok(output) => {
            let mut text: String = output.output.chars().take(MAX_SHOWN).collect();
            if text.is_empty() {
                text = format!("command exited with {}", output.exit_code);
            }
            Outcome::Failure(text)
        }
        Err(error) if error.is_timeout() => Outcome::Failure(error.to_string()),
        // Only a command that ran tells of the container.
        Err(error) => Outcome::Unknown(error.to_string()),
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// GETs a path; status code and the beginning of the body.
async fn http_get(
    host: &str,
    port: u16,
    path: &str,
    tls: bool,
    headers: &[(String, String)],
) -> Result<(u16, Bytes), BoxError> {
    let stream = TcpStream::connect((host, port)).await?;
    if tls {
        let connector = tokio_rustls::TlsConnector::from(coracle_pki::unverified_client_config()?);
        let name = rustls::pki_types::ServerName::try_from(host.to_owned())?;
        let stream = connector.connect(name, stream).await?;
        return exchange(stream, host, port, path, headers).await;
    }
    exchange(stream, host, port, path, headers).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    port: u16,
    path: &str,
    headers: &[(String, String)],
) -> Result<(u16, Bytes), BoxError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let task = tokio::spawn(connection);
    let mut request = http::Request::get(path);
    let named = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if !named("host") {
        request = request.header(http::header::HOST, format!("{host}:{port}"));
    }
    if !named("user-agent") {
        request = request.header(http::header::USER_AGENT, "kube-probe/1.36");
    }
    if !named("accept") {
        request = request.header(http::header::ACCEPT, "*/*");
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let code = response.status().as_u16();
        // A large or broken body does not change the verdict.
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        Ok::<_, hyper::Error>((code, body.map(|b| b.to_bytes()).unwrap_or_default()))
    }
    .await;
    task.abort();
    Ok(answer?)
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    /// 1 is SERVING.
    #[prost(int32, tag = "1")]
    status: i32,
}

async fn grpc_check(host: &str, port: u16, service: &str) -> Outcome {
    const SERVING: i32 = 1;
    let asked = async {
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{host}:{port}"))?;
        let mut grpc = tonic::client::Grpc::new(endpoint.connect().await?);
        grpc.ready().await?;
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
        let answer = grpc
            .unary(tonic::Request::new(request), path, codec)
            .await?;
        Ok::<_, BoxError>(answer.into_inner().status)
    };
    match asked.await {
        Ok(SERVING) => Outcome::Success,
        Ok(other) => Outcome::Failure(format!("service unhealthy (responded with status {other})")),
        Err(error) => Outcome::Failure(format!("error: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn http_codes_and_headers() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let mut seen = Vec::new();
            for code in [200, 302, 503] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = vec![0; 4096];
                let n = stream.read(&mut buffer).await.unwrap();
                seen.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
                let answer = format!("HTTP/1.1 {code} X\r\ncontent-length: 2\r\n\r\nok");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            seen
        });
        let container: Container = serde_json::from_value(
            json!({"name": "c", "ports": [{"name": "web", "containerPort": port}]}),
        )
        .unwrap();
        let probe: Probe = serde_json::from_value(json!({"httpGet": {"path": "x", "port": "web",
            "httpHeaders": [{"name": "X-A", "value": "b"}]}}))
        .unwrap();
        let action = Action::of_probe(&probe, &container).unwrap();
        let cri = Cri::new(std::path::Path::new("/nonexistent"));
        let mut outcomes = Vec::new();
        for _ in 0..3 {
            outcomes.push(
                action
                    .run(&cri, "", "127.0.0.1", Duration::from_secs(2))
                    .await,
            );
        }
        assert_eq!(outcomes[..2], [Outcome::Success, Outcome::Success]);
        assert_eq!(
            outcomes[2],
            Outcome::Failure("HTTP probe failed with statuscode: 503".into())
        );
        let seen = server.await.unwrap();
        assert!(seen[0].starts_with("GET /x HTTP/1.1\r\n"));
        assert!(seen[0].contains("x-a: b\r\n") && seen[0].contains("kube-probe"));
    }

    #[tokio::test]
    async fn refused_connections_fail_and_an_absent_runtime_says_nothing() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cri = Cri::new(std::path::Path::new("/nonexistent"));
        let tcp = Action::Tcp { host: None, port };
        let timeout = Duration::from_secs(1);
        assert_eq!(
            tcp.run(&cri, "", "127.0.0.1", timeout).await,
            Outcome::Success
        );
        drop(listener);
        let refused = tcp.run(&cri, "", "127.0.0.1", timeout).await;
        assert!(matches!(refused, Outcome::Failure(_)));
        let exec = Action::Exec(vec!["true".into()]);
        let absent = exec.run(&cri, "c", "127.0.0.1", timeout).await;
        assert!(matches!(absent, Outcome::Unknown(_)), "{absent:?}");
    }
}
