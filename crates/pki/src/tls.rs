//! TLS configurations from PEM texts.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::PkiError;

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
    configure(cert_pem, key_pem, verifier.map(|v| v.0), alpn)
}

/// As `server_config`, but a certificate of another authority does not end the
/// handshake: whoever takes the connection asks the [`ClientAuthority`], and
/// can tell the client what is wrong.
///
/// # Errors
/// If a text is not PEM of the right kind, or key and certificate differ.
pub fn server_config_for_any_client(
    cert_pem: &str,
    key_pem: &str,
    clients: &ClientAuthority,
    alpn: &[&str],
) -> Result<Arc<ServerConfig>, PkiError> {
    let verifier = Arc::new(AnyClient(clients.0.clone()));
    configure(cert_pem, key_pem, Some(verifier), alpn)
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
    cert_pem: &str,
    key_pem: &str,
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
    let mut config = builder
        .with_single_cert(certificates(cert_pem)?, key(key_pem)?)
        .map_err(tls_error)?;
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
    let provider = Arc::new(default_provider());
    let roots = Arc::new(roots(ca_pem)?);
    let verifier: Arc<dyn ServerCertVerifier> =
        rustls::client::WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(tls_error)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(tls_error)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match identity {
        Some((cert_pem, key_pem)) => builder
            .with_client_auth_cert(certificates(cert_pem)?, key(key_pem)?)
            .map_err(tls_error)?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
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
