//! Who is calling, and may they: the types that authentication and
//! authorisation share with the request pipeline.

use std::collections::BTreeMap;

use async_trait::async_trait;
use coracle_machinery::ApiError;

/// The identity of a caller. In-process clients put it into the request's
/// extensions; for network requests the authenticators do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// `system:serviceaccount:ns:name`, `system:node:n`, `kubernetes-admin`...
    pub username: String,
    /// Empty unless the authenticator knows one.
    pub uid: String,
    /// All groups, `system:authenticated` included.
    pub groups: Vec<String>,
    /// Further facts, such as the pod that a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A component of the control plane itself, unrestricted.
    pub fn system_masters(username: &str) -> Self {
        Self::authenticated(username, &["system:masters"])
    }

    /// A known caller; `system:authenticated` is added.
    pub fn authenticated(username: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        groups.push("system:authenticated".to_owned());
        Self {
            username: username.to_owned(),
            groups,
            ..Self::default()
        }
    }

    /// A caller without credentials.
    pub fn anonymous() -> Self {
        Self {
            username: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            ..Self::default()
        }
    }
}

/// The client certificates of the connection, leaf first, already verified
/// against the client CA. The listener puts them into the request extensions.
#[derive(Clone, Debug)]
pub struct PeerCertificates(pub std::sync::Arc<Vec<rustls_pki_types::CertificateDer<'static>>>);

/// Whom the certificates of a connection name, found out once for all of its
/// requests. The listener puts it beside [`PeerCertificates`].
#[derive(Clone, Debug, Default)]
pub struct PeerIdentity(pub std::sync::Arc<std::sync::OnceLock<Option<UserInfo>>>);

/// The connection's client showed a certificate that counts for nothing here:
/// of another authority, or expired. The listener puts it into the request
/// extensions in place of [`PeerCertificates`].
#[derive(Clone, Copy, Debug)]
pub struct ForeignCertificate;

/// What a request wants to do, as authorisers see it.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    /// `get`, `list`, `create`, ... or the lower-case HTTP method.
    pub verb: String,
    /// API group; empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural resource name; empty for a non-resource request.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Object name, or empty.
    pub name: String,
    /// The URL path of a non-resource request; empty for resource requests.
    pub path: String,
}

/// The answer of an authoriser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go ahead.
    Allow {
        /// Why, for the audit log and for access reviews.
        reason: String,
    },
    /// Nothing grants it.
    NoOpinion {
        /// Why not, for access reviews; may be empty.
        reason: String,
    },
}

/// Finds out who sent a request.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// The caller, `None` if the request carries no credentials that this
    /// authenticator reads, or an error (401) if it carries bad ones.
    async fn authenticate(
        &self,
        request: &http::request::Parts,
    ) -> Result<Option<UserInfo>, ApiError>;
}

/// Decides whether a caller may do something.
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// The decision. Must be quick: it runs on every request.
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision;
}
