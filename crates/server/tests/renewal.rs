//! A control plane whose certificates are due renews them and goes on with
//! its data.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_server::control_plane::{self, ControlPlaneOptions, ServiceAddresses};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// How long the test's certificates are valid.
const VALIDITY: Duration = Duration::from_secs(6);
/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_renews_its_certificates_and_keeps_its_data() {
    let directory = tempfile::tempdir().unwrap();
    let address = free_address();
    let kubeconfig = directory.path().join("kubeconfig");
    let shutdown = CancellationToken::new();
    let options = options(directory.path(), address, &kubeconfig);
    let running = control_plane::run(options, shutdown.clone());
    let test = async {
        let ca = directory.path().join("pki/ca.crt");
        let first = eventually(async || serving_certificate(&ca, address).await).await;
        let map: ConfigMap =
            serde_json::from_value(serde_json::json!({"metadata": {"name": "kept"}})).unwrap();
        eventually(async || {
            let maps = maps(&kubeconfig).await?;
            maps.create(&PostParams::default(), &map).await.ok()
        })
        .await;
        eventually(async || {
            let now = serving_certificate(&ca, address).await?;
            (now != first).then_some(())
        })
        .await;
        // The kubeconfig was written anew, for the data that were there.
        eventually(async || maps(&kubeconfig).await?.get("kept").await.ok()).await;
        shutdown.cancel();
    };
    let (ended, ()) = tokio::join!(running, test);
    ended.unwrap();
}

fn options(directory: &Path, address: SocketAddr, kubeconfig: &Path) -> ControlPlaneOptions {
    ControlPlaneOptions {
        data_dir: directory.to_owned(),
        listen: vec![address],
        advertise: address,
        sans: Vec::new(),
        service_addresses: ServiceAddresses::Allocate {
            cidr: "10.96.0.0/16".into(),
        },
        cluster_domain: "cluster.local".into(),
        dns_listen: None,
        dns_fallback: false,
        dns_service_ip: None,
        scheduler: false,
        node_lifecycle: false,
        write_kubeconfig: Some(kubeconfig.to_owned()),
        credentials_dir: None,
        context: "test".into(),
        certificate_validity: VALIDITY,
    }
}

fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

async fn maps(kubeconfig: &Path) -> Option<Api<ConfigMap>> {
    let file = Kubeconfig::read_from(kubeconfig).ok()?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .ok()?;
    Some(Api::namespaced(Client::try_from(config).ok()?, "default"))
}

async fn serving_certificate(ca: &Path, address: SocketAddr) -> Option<Vec<u8>> {
    let ca = std::fs::read_to_string(ca).ok()?;
    let config = coracle_pki::tls::client_config(&ca, None).ok()?;
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
    let stream = TcpStream::connect(address).await.ok()?;
    let name = ServerName::from(address.ip());
    let connection = connector.connect(name, stream).await.ok()?;
    let certificates = connection.get_ref().1.peer_certificates()?;
    certificates.first().map(|c| c.to_vec())
}

async fn eventually<T>(attempt: impl AsyncFn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
