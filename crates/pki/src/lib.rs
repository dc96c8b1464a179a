//! Keys, certificates, service-account tokens and kubeconfigs: the only crate
//! that touches private keys.
//!
//! Everything is ECDSA P-256: small, quick, and understood by every client of
//! Kubernetes.

mod authority;
mod request;
mod token;
mod unverified;

pub mod kubeconfig;
pub mod tls;

pub use authority::{
    CertificateAuthority, KeyCert, certificate_end, certificate_subject, requested_organizations,
};
pub use request::{CertificateRequest, Usages};
pub use token::TokenSigner;
pub use unverified::{unverified_client_config, unverified_client_config_for};

/// Why a key, certificate or token could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A certificate or key could not be made or read.
    #[error("certificate: {0}")]
    Certificate(String),
    /// A key could not be made or read.
    #[error("key: {0}")]
    Key(String),
    /// A TLS configuration was refused.
    #[error("TLS: {0}")]
    Tls(String),
    /// A token is malformed, has another algorithm, or a wrong signature.
    #[error("token: {0}")]
    Token(&'static str),
}
