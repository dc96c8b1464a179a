//! A control plane whose certificates last seconds goes on serving.

// A step that fails is a test that fails.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use coracle_server::control_plane::{self, ControlPlaneOptions, ServiceAddresses};
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::api::DeleteParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio_util::sync::CancellationToken;

/// Long enough to be used under load, short enough to wait for.
const VALIDITY: Duration = Duration::from_secs(6);
/// Far above what anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the file is there with another text than `before`.
async fn rewritten(file: &Path, before: &str) -> String {
    let changes = async {
        loop {
            match std::fs::read_to_string(file) {
                Ok(text) if text != before => return text,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, changes).await.unwrap()
}

async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options);
    Client::try_from(config.await.unwrap()).unwrap()
}

async fn ask(client: &Client) -> kube::Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.get("default").await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_while_the_control_plane_serves() {
    let directory = tempfile::tempdir().unwrap();
    let credentials = directory.path().join("credentials");
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listen: SocketAddr = free.local_addr().unwrap();
    drop(free);
    let admin = directory.path().join("admin.kubeconfig");
    let options = ControlPlaneOptions {
        data_dir: directory.path().join("data"),
        listen: vec![listen],
        advertise: listen,
        sans: Vec::new(),
        service_addresses: ServiceAddresses::FromHost,
        unreachable: Vec::new(),
        kubelet: None,
        cluster_domain: "cluster.local".into(),
        dns_listen: None,
        dns_fallback: false,
        dns_service_ip: None,
        scheduler: false,
        load_balancer_addresses: None,
        node_lifecycle: false,
        write_kubeconfig: Some(admin.clone()),
        credentials_dir: Some(credentials.clone()),
        context: "test".into(),
        certificate_validity: VALIDITY,
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(control_plane::run(options, stop.clone()));

    let first = rewritten(&admin, "").await;
    let kubelet = rewritten(&credentials.join("kubelet.crt"), "").await;
    let open = client(&first).await;
    ask(&open).await.unwrap();
    // Somebody deletes the service by which pods find the API server.
    let services: Api<Service> = Api::namespaced(open.clone(), "default");
    services
        .delete("kubernetes", &DeleteParams::default())
        .await
        .unwrap();
    // Twice, so that the first certificates have ended.
    let second = rewritten(&admin, &first).await;
    ask(&open).await.unwrap();
    let third = rewritten(&admin, &second).await;
    let renewed = client(&third).await;
    ask(&renewed).await.unwrap();
    let services: Api<Service> = Api::namespaced(renewed, "default");
    let back = async {
        while services.get_opt("kubernetes").await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, back).await.unwrap();
    let expired = ask(&client(&first).await).await;
    assert!(expired.is_err(), "the first certificate does not end");
    rewritten(&credentials.join("kubelet.crt"), &kubelet).await;
    let syncer = rewritten(&credentials.join("syncer.kubeconfig"), "").await;
    ask(&client(&syncer).await).await.unwrap();

    stop.cancel();
    running.await.unwrap().unwrap();
}
