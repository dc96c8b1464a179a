//! Serving over TLS with client certificates.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coracle_apiserver::ApiServer;
use coracle_apiserver::access::{Authenticator, ForeignCertificate, PeerCertificates, UserInfo};
use coracle_apiserver::listener::{ListenerLimits, Security, serve};
use coracle_machinery::ApiError;
use coracle_pki::tls::{self, ClientAuthority};
use coracle_pki::{CertificateAuthority, kubeconfig};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams, WatchEvent, WatchParams};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{kinds, store};

/// Knows callers by their certificate.
struct Certificates;

#[async_trait]
impl Authenticator for Certificates {
    async fn authenticate(
        &self,
        request: &http::request::Parts,
    ) -> Result<Option<UserInfo>, ApiError> {
        if request.extensions.get::<ForeignCertificate>().is_some() {
            return Err(ApiError::unauthorized());
        }
        let Some(chain) = request.extensions.get::<PeerCertificates>() else {
            return Ok(None);
        };
        let (name, groups) = coracle_pki::certificate_subject(&chain.0[0]).unwrap();
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        Ok(Some(UserInfo::authenticated(&name, &groups)))
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// A server, as a URL, until `stop`.
async fn start(
    ca: &CertificateAuthority,
    stop: &CancellationToken,
) -> (String, JoinHandle<std::io::Result<()>>) {
    let names = ["127.0.0.1".to_owned()];
    let own = ca.issue_server("server", &names, HOUR).unwrap();
    let clients = ClientAuthority::new(ca.cert_pem()).unwrap();
    let identity = tls::Identity::new(&own).unwrap();
    let alpn = &["h2", "http/1.1"];
    let tls = tls::server_config_for_any_client(&identity, &clients, alpn).unwrap();
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", socket.local_addr().unwrap());
    let server = ApiServer::builder(store())
        .kinds(kinds())
        .authenticator(Arc::new(Certificates))
        .build();
    let security = Security { tls, clients };
    let limits = ListenerLimits::default();
    let served = tokio::spawn(serve(socket, security, server, limits, stop.clone()));
    (url, served)
}

/// Config maps as seen by a client that trusts `ca` and has a certificate of
/// `issuer`.
async fn config_maps(
    url: &str,
    ca: &CertificateAuthority,
    issuer: &CertificateAuthority,
) -> Api<ConfigMap> {
    let admin = issuer
        .issue_client("admin", &["system:masters"], HOUR)
        .unwrap();
    let text = kubeconfig::render("t", url, ca.cert_pem(), &admin);
    let config = kube::config::Kubeconfig::from_yaml(&text).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default())
        .await
        .unwrap();
    Api::namespaced(kube::Client::try_from(config).unwrap(), "default")
}

#[tokio::test]
async fn clients_with_certificates_are_served_until_the_listener_drains() {
    let ca = CertificateAuthority::generate("test").unwrap();
    let stop = CancellationToken::new();
    let (url, served) = start(&ca, &stop).await;
    let maps = config_maps(&url, &ca, &ca).await;
    let watch = maps.watch(&WatchParams::default(), "0").await.unwrap();
    let mut watch = std::pin::pin!(watch);
    let map = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    let event = watch.try_next().await.unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Added(map) if map.metadata.name.as_deref() == Some("a")));

    stop.cancel();
    served.await.unwrap().unwrap();
    assert!(watch.next().await.is_none_or(|e| e.is_err()));
    assert!(maps.get("a").await.is_err());
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_answered_with_401() {
    let ca = CertificateAuthority::generate("test").unwrap();
    let stop = CancellationToken::new();
    let (url, served) = start(&ca, &stop).await;
    // Of the same name, so that a client takes its certificate for suitable.
    let other = CertificateAuthority::generate("test").unwrap();
    let maps = config_maps(&url, &ca, &other).await;
    match maps.get("a").await {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 401),
        unexpected => panic!("{unexpected:?}"),
    }
    stop.cancel();
    served.await.unwrap().unwrap();
}
