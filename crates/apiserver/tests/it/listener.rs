//! Serving over TLS with client certificates.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coracle_apiserver::ApiServer;
use coracle_apiserver::access::{Authenticator, PeerCertificates, UserInfo};
use coracle_apiserver::listener::{ListenerLimits, serve};
use coracle_machinery::ApiError;
use coracle_pki::{CertificateAuthority, kubeconfig, tls};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams, WatchEvent, WatchParams};
use serde_json::json;
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
        let Some(chain) = request.extensions.get::<PeerCertificates>() else {
            return Ok(None);
        };
        let (name, groups) = coracle_pki::certificate_subject(&chain.0[0]).unwrap();
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        Ok(Some(UserInfo::authenticated(&name, &groups)))
    }
}

#[tokio::test]
async fn clients_with_certificates_are_served_until_the_listener_drains() {
    let ca = CertificateAuthority::generate("test").unwrap();
    let hour = Duration::from_secs(3600);
    let names = ["127.0.0.1".to_owned()];
    let own = ca.issue_server("server", &names, hour).unwrap();
    let tls = tls::server_config(
        &own.cert_pem,
        &own.key_pem,
        Some(ca.cert_pem()),
        &["h2", "http/1.1"],
    )
    .unwrap();
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let server = ApiServer::builder(store())
        .kinds(kinds())
        .authenticator(Arc::new(Certificates))
        .build();
    let stop = CancellationToken::new();
    let limits = ListenerLimits::default();
    let served = tokio::spawn(serve(socket, tls, server, limits, stop.clone()));

    let admin = ca.issue_client("admin", &["system:masters"], hour).unwrap();
    let text = kubeconfig::render("t", &format!("https://{address}"), ca.cert_pem(), &admin);
    let config = kube::config::Kubeconfig::from_yaml(&text).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default())
        .await
        .unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(kube::Client::try_from(config).unwrap(), "default");
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
