//! Connections over real sockets, with TLS that ends behind the proxy.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicUsize;

use coracle_pki::tls::{self, Certificate};
use coracle_pki::{CertificateAuthority, KeyCert};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::{TlsAcceptor, TlsConnector, rustls};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::listener::{Secure, serve};
use crate::proxy::Proxy;
use crate::table::{Site, Table};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn certificate(name: &str) -> (CertificateAuthority, Certificate, KeyCert) {
    let authority = CertificateAuthority::generate(name).unwrap();
    let pair = authority
        .issue_server(name, &[name.to_owned()], DAY)
        .unwrap();
    (authority, Certificate::new(&pair).unwrap(), pair)
}

fn config(certificate: Certificate) -> Arc<rustls::ServerConfig> {
    tls::server_config_by_name(move |_| certificate.clone(), &["http/1.1"]).unwrap()
}

/// A service that speaks TLS, and says backwards what it hears.
async fn service(certificate: Certificate) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(config(certificate));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut said = [0; 4];
            while stream.read_exact(&mut said).await.is_ok() {
                said.reverse();
                stream.write_all(&said).await.unwrap();
            }
        }
    });
    address
}

/// Connects to `address` as to `name`, trusting one authority.
async fn connect(
    address: SocketAddr,
    name: &str,
    authority: &CertificateAuthority,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let der = CertificateDer::from_pem_slice(authority.cert_pem().as_bytes()).unwrap();
    roots.add(der).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(roots)
    .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

#[tokio::test]
async fn tls_ends_where_the_name_leads() {
    let (behind, shown, _) = certificate("api.example.com");
    let service = service(shown).await;
    let site = Site {
        tunnel: Some(Arc::new(Backend {
            endpoints: vec![service],
            turn: AtomicUsize::new(0),
            places: Arc::new(Semaphore::new(1)),
        })),
        ..Site::default()
    };
    let sites = HashMap::from([("api.example.com".to_owned(), site)]);
    let (_sender, table) = watch::channel(Arc::new(Table { sites }));
    let (own, shown, _) = certificate("ingress.local");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let proxy = Arc::new(Proxy::new(table));
    let secure = Some(Secure::new(config(shown)));
    tokio::spawn(serve(listener, secure, proxy, stop.clone()));

    let mut stream = connect(address, "API.example.com", &behind).await.unwrap();
    stream.write_all(b"abcd").await.unwrap();
    let mut heard = [0; 4];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"dcba");
    // The service has one place, and it is taken.
    assert!(connect(address, "api.example.com", &behind).await.is_err());
    // Every other name ends here, with what the proxy has to show.
    let mut plain = connect(address, "ingress.local", &own).await.unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nhost: api.example.com\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    let _ = plain.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    stop.cancel();
}

#[tokio::test]
async fn what_is_no_tls_is_left_to_the_handshake() {
    let (name, mut begun) = begin(&b"GET / HTTP/1.1\r\n\r\n"[..]).await.unwrap();
    assert_eq!(name, None);
    let mut text = String::new();
    begun.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "GET / HTTP/1.1\r\n\r\n");
    // A record that promises more than comes.
    assert!(begin(&b"\x16\x03\x01\x10\x00\x01"[..]).await.is_err());
}
