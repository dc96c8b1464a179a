//! TLS configurations from PEM texts.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WantsClientCert};
use rustls::crypto::ring::default_provider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, DistinguishedName, RootCertStore,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::{KeyCert, PkiError};

/// A certificate with its key that can be replaced while configurations use it:
/// the next handshake shows the new one, and connections that are open stay.
#[derive(Clone, Debug)]
pub struct Identity(Arc<RwLock<Arc<CertifiedKey>>>);

impl Identity {
    /// One that shows `pair`.
    ///
    /// # Errors
    /// If a text is not PEM of the right kind, or key and certificate differ.
    pub fn new(pair: &KeyCert) -> Result<Self, PkiError> {
        Self::from_pem(&pair.cert_pem, &pair.key_pem)
    }

    fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let certified = certified(cert_pem, key_pem)?;
        Ok(Self(Arc::new(RwLock::new(Arc::new(certified)))))
    }

    /// Shows another pair from now on.
    ///
    /// # Errors
    /// If a text is not PEM of the right kind, or key and certificate differ;
    /// the earlier pair is kept then.
    pub fn replace(&self, pair: &KeyCert) -> Result<(), PkiError> {
        let new = Arc::new(certified(&pair.cert_pem, &pair.key_pem)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    fn now(&self) -> Arc<CertifiedKey> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let now = self.now();
        now.key.choose_scheme(schemes).is_some().then_some(now)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certified(cert_pem: &str, key_pem: &str) -> Result<CertifiedKey, PkiError> {
    CertifiedKey::from_der(certificates(cert_pem)?, key(key_pem)?, &default_provider())
        .map_err(tls_error)
}

/// A server's configuration. With `client_ca_pem`, clients may show a
/// certificate, which then must be of that authority.
///
/// # Errors
/// If a text is not PEM of the right kind, or key and certificate differ.
pub fn server_config(
    cert_pem: &str,
    key_pem: &str,
    client_ca_pem: Option<&str>,
    alpn: &[&str],
) -> Result<Arc<ServerConfig>, PkiError> {
    let verifier = client_ca_pem.map(ClientAuthority::new).transpose()?;
    let identity = Identity::from_pem(cert_pem, key_pem)?;
    configure(Arc::new(identity), verifier.map(|v| v.0), alpn)
}

/// As `server_config`, but a certificate of another authority does not end the
/// handshake: whoever takes the connection asks the [`ClientAuthority`], and
/// can tell the client what is wrong.
///
/// # Errors
/// If no configuration can be made at all.
pub fn server_config_for_any_client(
    identity: &Identity,
    clients: &ClientAuthority,
    alpn: &[&str],
) -> Result<Arc<ServerConfig>, PkiError> {
    let verifier = Arc::new(AnyClient(clients.0.clone()));
    configure(Arc::new(identity.clone()), Some(verifier), alpn)
}

/// A certificate with its key, ready to be shown. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Certificate(Arc<CertifiedKey>);

impl Certificate {
    /// Reads a pair.
    ///
    /// # Errors
    /// If a text is not PEM of the right kind, or key and certificate differ.
    pub fn new(pair: &KeyCert) -> Result<Self, PkiError> {
        certified(&pair.cert_pem, &pair.key_pem).map(|key| Self(Arc::new(key)))
    }
}

/// What a server shows, by the name that a client asks for.
struct ByName<F>(F);

impl<F> std::fmt::Debug for ByName<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ByName")
    }
}

impl<F> ResolvesServerCert for ByName<F>
where
    F: Fn(Option<&str>) -> Certificate + Send + Sync,
{
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0(hello.server_name()).0)
    }
}

/// The configuration of a server of many names: `choose` is given the name that
/// a client asks for, in lower case, if it asks for any.
///
/// # Errors
/// If no configuration can be made at all.
pub fn server_config_by_name(
    choose: impl Fn(Option<&str>) -> Certificate + Send + Sync + 'static,
    alpn: &[&str],
) -> Result<Arc<ServerConfig>, PkiError> {
    configure(Arc::new(ByName(choose)), None, alpn)
}

/// The authority whose client certificates count.
#[derive(Clone, Debug)]
pub struct ClientAuthority(Arc<dyn ClientCertVerifier>);

impl ClientAuthority {
    /// Reads the authority's certificate.
    ///
    /// # Errors
    /// If the text is no PEM of a certificate.
    pub fn new(ca_pem: &str) -> Result<Self, PkiError> {
        let provider = Arc::new(default_provider());
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca_pem)?), provider)
            .allow_unauthenticated()
            .build()
            .map(Self)
            .map_err(tls_error)
    }

    /// True if a chain, leaf first, was issued by this authority for clients
    /// and is valid now.
    pub fn vouches_for(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return false;
        };
        let now = UnixTime::now();
        self.0.verify_client_cert(leaf, intermediates, now).is_ok()
    }
}

/// Lets any certificate through the handshake. That the client holds its key
/// is checked nevertheless.
#[derive(Debug)]
struct AnyClient(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyClient {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

fn configure(
    shown: Arc<dyn ResolvesServerCert>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    alpn: &[&str],
) -> Result<Arc<ServerConfig>, PkiError> {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(tls_error)?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(shown);
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// A client's configuration: trusts `ca_pem` alone and shows the certificate
/// of `identity`, if any.
///
/// # Errors
/// If a text is not PEM of the right kind, or key and certificate differ.
pub fn client_config(
    ca_pem: &str,
    identity: Option<(&str, &str)>,
) -> Result<Arc<ClientConfig>, PkiError> {
    let builder = client_builder(ca_pem)?;
    let config = match identity {
        Some((cert_pem, key_pem)) => builder
            .with_client_auth_cert(certificates(cert_pem)?, key(key_pem)?)
            .map_err(tls_error)?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// As `client_config`, with an identity that can be replaced. Every connection
/// makes a whole handshake, so that none resumes with an earlier certificate.
///
/// # Errors
/// If the text is no PEM of a certificate.
pub fn client_config_for(ca_pem: &str, identity: &Identity) -> Result<Arc<ClientConfig>, PkiError> {
    let mut config = client_builder(ca_pem)?.with_client_cert_resolver(Arc::new(identity.clone()));
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn client_builder(ca_pem: &str) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, PkiError> {
    let provider = Arc::new(default_provider());
    let roots = Arc::new(roots(ca_pem)?);
    let verifier: Arc<dyn ServerCertVerifier> =
        rustls::client::WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(tls_error)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(tls_error)?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(PkiError::Certificate(
            "no certificate in the PEM text".into(),
        )),
        Err(error) => Err(PkiError::Certificate(error.to_string())),
    }
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, PkiError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| PkiError::Key(e.to_string()))
}

fn roots(pem: &str) -> Result<RootCertStore, PkiError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        store.add(certificate).map_err(tls_error)?;
    }
    Ok(store)
}

fn tls_error(error: impl std::fmt::Display) -> PkiError {
    PkiError::Tls(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::time::Duration;

    use rustls::{ClientConnection, ServerConnection};

    use super::*;
    use crate::CertificateAuthority;

    /// The certificates that server and client showed in one handshake.
    fn handshake(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> (Vec<u8>, Vec<u8>) {
        let mut server = ServerConnection::new(server).unwrap();
        let mut client = ClientConnection::new(client, "localhost".try_into().unwrap()).unwrap();
        client.writer().write_all(b"x").unwrap();
        let mut read = [0];
        while server.reader().read(&mut read).unwrap_or(0) == 0 {
            let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
            while client.wants_write() {
                client.write_tls(&mut to_server).unwrap();
            }
            let mut rest = to_server.as_slice();
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets().unwrap();
            }
            while server.wants_write() {
                server.write_tls(&mut to_client).unwrap();
            }
            let mut rest = to_client.as_slice();
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        let leaf = |chain: Option<&[CertificateDer<'_>]>| chain.unwrap()[0].to_vec();
        (
            leaf(client.peer_certificates()),
            leaf(server.peer_certificates()),
        )
    }

    #[test]
    fn a_server_of_many_names_shows_what_is_asked_for() {
        let authority = CertificateAuthority::generate("test-ca").unwrap();
        let hour = Duration::from_secs(3600);
        let issue = |name: &str| {
            let names = ["localhost".to_owned()];
            authority.issue_server(name, &names, hour).unwrap()
        };
        let (asked, other) = (issue("asked"), issue("other"));
        let shown = [&asked, &other].map(|pair| Certificate::new(pair).unwrap());
        let choose =
            move |name: Option<&str>| shown[usize::from(name != Some("localhost"))].clone();
        let server = server_config_by_name(choose, &[]).unwrap();
        let client = client_config(authority.cert_pem(), None).unwrap();
        let mut server = ServerConnection::new(server).unwrap();
        let mut client = ClientConnection::new(client, "LocalHost".try_into().unwrap()).unwrap();
        while client.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            bytes.clear();
            server.write_tls(&mut bytes).unwrap();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
            }
            client.process_new_packets().unwrap();
        }
        let leaf = client.peer_certificates().unwrap()[0].to_vec();
        assert_eq!(leaf, certificates(&asked.cert_pem).unwrap()[0].to_vec());
    }

    #[test]
    fn the_next_handshake_shows_a_replaced_identity() {
        let authority = CertificateAuthority::generate("test-ca").unwrap();
        let hour = Duration::from_secs(3600);
        let serving = || {
            authority
                .issue_server("s", &["localhost".into()], hour)
                .unwrap()
        };
        let calling = || authority.issue_client("c", &[], hour).unwrap();
        let (shown, used) = (
            Identity::new(&serving()).unwrap(),
            Identity::new(&calling()).unwrap(),
        );
        let clients = ClientAuthority::new(authority.cert_pem()).unwrap();
        let server = server_config_for_any_client(&shown, &clients, &[]).unwrap();
        let client = client_config_for(authority.cert_pem(), &used).unwrap();
        let first = handshake(server.clone(), client.clone());
        assert_eq!(handshake(server.clone(), client.clone()), first);
        let (new_serving, new_calling) = (serving(), calling());
        shown.replace(&new_serving).unwrap();
        used.replace(&new_calling).unwrap();
        let second = handshake(server, client);
        let der = |pair: &KeyCert| certificates(&pair.cert_pem).unwrap()[0].to_vec();
        assert_eq!(second, (der(&new_serving), der(&new_calling)));
        assert!(first.0 != second.0 && first.1 != second.1);
        // A key of another certificate is refused, and nothing changes.
        let mixed = KeyCert {
            cert_pem: serving().cert_pem,
            key_pem: serving().key_pem,
        };
        assert!(shown.replace(&mixed).is_err());
    }
}
