//! The virtual kubelet, called as the virtual API server calls it, in front of
//! a host that records what it is asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use coracle_machinery::object;
use coracle_pki::KeyCert;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::clusters::{HOST_PODS, PODS, World, pod};

/// What the host was asked, in order.
type Asked = Arc<Mutex<Vec<String>>>;

/// A host API server that echoes upgraded connections in capitals.
async fn echo(asked: Asked) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let asked = asked.clone();
            let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
                asked
                    .lock()
                    .unwrap()
                    .push(format!("{} {}", request.method(), request.uri()));
                async move {
                    let mut answer =
                        Response::new(Full::new(Bytes::from_static(b"a line of log\n")));
                    if let Some(protocol) = request.headers().get("upgrade").cloned() {
                        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                        *answer.body_mut() = Full::default();
                        answer.headers_mut().insert("upgrade", protocol);
                        answer
                            .headers_mut()
                            .insert("connection", "Upgrade".parse().unwrap());
                        tokio::spawn(async move {
                            let mut stream =
                                TokioIo::new(hyper::upgrade::on(&mut request).await.unwrap());
                            let mut buffer = [0; 64];
                            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                                stream
                                    .write_all(&buffer[..n].to_ascii_uppercase())
                                    .await
                                    .unwrap();
                            }
                        });
                    }
                    Ok::<_, std::convert::Infallible>(answer)
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades(),
            );
        }
    });
    port
}

struct Kubelet {
    port: u16,
    ca: String,
    identity: Option<KeyCert>,
}

impl Kubelet {
    async fn send(&self, request: Request<Empty<Bytes>>) -> Response<Incoming> {
        let identity = self
            .identity
            .as_ref()
            .map(|i| (i.cert_pem.as_str(), i.key_pem.as_str()));
        let tls = coracle_pki::tls::client_config(&self.ca, identity).unwrap();
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = TlsConnector::from(tls).connect(name, stream).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.unwrap()
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let request = Request::get(path)
            .header("host", "k")
            .body(Empty::new())
            .unwrap();
        let answer = self.send(request).await;
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}

/// A world with a running pod `default/a`, its kubelet, and the host's notes.
async fn world() -> (World, Kubelet, Asked) {
    let asked = Asked::default();
    let port = echo(asked.clone()).await;
    let mut world = World::new().await;
    let url = format!("http://127.0.0.1:{port}").parse().unwrap();
    let tunnel = kube::Client::try_from(kube::Config::new(url)).unwrap();
    world.start(tunnel).await;
    world.inside.create(PODS, pod("a")).await;
    world
        .host
        .appears(&format!("{HOST_PODS}/a-x-default-x-vc"))
        .await;
    world.run_on_host("a-x-default-x-vc", "node-a").await;
    world
        .inside
        .until(&format!("{PODS}/a"), "not running", |p| {
            p["status"]["phase"] == "Running"
        })
        .await;
    let node = world.inside.get("/api/v1/nodes/node-a").await.unwrap();
    assert_eq!(
        object::text(&node, "/status/addresses/0/type"),
        "InternalIP"
    );
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        .as_u64()
        .unwrap();
    let hour = Duration::from_secs(3600);
    let identity =
        world
            .authority
            .issue_client("kube-apiserver-kubelet-client", &["system:masters"], hour);
    let kubelet = Kubelet {
        port: u16::try_from(port).unwrap(),
        ca: world.authority.cert_pem().to_owned(),
        identity: Some(identity.unwrap()),
    };
    (world, kubelet, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_and_streams_go_to_the_host_pod() {
    let (_world, kubelet, asked) = world().await;
    let (status, body) = kubelet
        .get("/containerLogs/default/a/c?follow=true&tailLines=1")
        .await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "a line of log\n"));
    let request = Request::post("/exec/default/a/c?command=sh&input=1&output=1&tty=1")
        .header("host", "k")
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .body(Empty::new())
        .unwrap();
    let answer = kubelet.send(request).await;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()["upgrade"], "SPDY/3.1");
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    stream.write_all(b"ahoy").await.unwrap();
    let mut heard = [0; 4];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"AHOY");
    assert_eq!(
        *asked.lock().unwrap(),
        [
            "GET /api/v1/namespaces/demo/pods/a-x-default-x-vc/log?container=c&follow=true&tailLines=1",
            "POST /api/v1/namespaces/demo/pods/a-x-default-x-vc/exec?container=c&command=sh&stdin=true&stdout=true&tty=true",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_strange_pods_are_refused() {
    let (world, mut kubelet, asked) = world().await;
    for path in [
        "/containerLogs/default/b/c",
        "/containerLogs/demo/vc-0/c",
        "/containerLogs/default/a-x-default-x-vc/c",
        "/containerLogs/default/..%2Fvc-0/c",
        "/exec/kube-system/vc-0/c?command=sh",
    ] {
        let (status, _) = kubelet.get(path).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
    }
    let hour = Duration::from_secs(3600);
    kubelet.identity = Some(
        world
            .authority
            .issue_client("tenant", &["developers"], hour)
            .unwrap(),
    );
    assert_eq!(
        kubelet.get("/containerLogs/default/a/c").await.0,
        StatusCode::FORBIDDEN
    );
    kubelet.identity = None;
    assert_eq!(
        kubelet.get("/containerLogs/default/a/c").await.0,
        StatusCode::UNAUTHORIZED
    );
    assert!(asked.lock().unwrap().is_empty());
}
