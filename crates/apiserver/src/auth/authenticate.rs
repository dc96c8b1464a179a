//! The authenticators of network requests, and the order in which they are
//! asked.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use async_trait::async_trait;
use coracle_machinery::ApiError;
use coracle_pki::certificate_subject;
use http::header::AUTHORIZATION;
use http::request::Parts;
use sha2::{Digest, Sha256};

use super::tokens::{CREDENTIAL_ID, ServiceAccountTokens};
use crate::access::{Authenticator, ForeignCertificate, PeerCertificates, PeerIdentity, UserInfo};

/// All authenticators: a client certificate, else a bearer token, else (if
/// permitted) nobody in particular.
pub struct Authenticators {
    tokens: Arc<ServiceAccountTokens>,
    anonymous: bool,
}

impl Authenticators {
    /// `anonymous` lets requests without credentials in, as
    /// `system:anonymous`.
    pub fn new(tokens: Arc<ServiceAccountTokens>, anonymous: bool) -> Self {
        Self { tokens, anonymous }
    }
}

#[async_trait]
impl Authenticator for Authenticators {
    async fn authenticate(&self, request: &Parts) -> Result<Option<UserInfo>, ApiError> {
        // Set by in-process clients; nothing that comes over a network can
        // put a value into the extensions.
        if let Some(user) = request.extensions.get::<UserInfo>() {
            return Ok(Some(user.clone()));
        }
        if let Some(user) = by_certificate(request) {
            return Ok(Some(user));
        }
        match bearer_token(request)? {
            Some(token) => match self.tokens.authenticate(token, None).await {
                Ok(identity) => Ok(Some(identity.user)),
                Err(why) => {
                    tracing::debug!(%why, "bearer token refused");
                    Err(ApiError::unauthorized())
                }
            },
            // Who shows a bad credential is not taken for one without any.
            None if request.extensions.get::<ForeignCertificate>().is_some() => {
                Err(ApiError::unauthorized())
            }
            None => Ok(self.anonymous.then(UserInfo::anonymous)),
        }
    }
}

/// The caller that a verified client certificate names: its common name is
/// the user, its organisations are the groups.
fn by_certificate(request: &Parts) -> Option<UserInfo> {
    let chain = request.extensions.get::<PeerCertificates>()?;
    match request.extensions.get::<PeerIdentity>() {
        Some(known) => known.0.get_or_init(|| named_by(chain)).clone(),
        None => named_by(chain),
    }
}

/// Whom a chain of certificates names.
fn named_by(chain: &PeerCertificates) -> Option<UserInfo> {
    let leaf = chain.0.first()?;
    let (name, organizations) = certificate_subject(leaf).ok()?;
    if name.is_empty() {
        return None;
    }
    let groups: Vec<&str> = organizations.iter().map(String::as_str).collect();
    let mut id = "X509SHA256=".to_owned();
    for byte in Sha256::digest(leaf) {
        let _ = write!(id, "{byte:02x}");
    }
    let mut user = UserInfo::authenticated(&name, &groups);
    user.extra = BTreeMap::from([(CREDENTIAL_ID.to_owned(), vec![id])]);
    Some(user)
}

/// The bearer token of a request. Another scheme counts as no credentials, as
/// it does upstream.
fn bearer_token(request: &Parts) -> Result<Option<&str>, ApiError> {
    let Some(value) = request.headers.get(AUTHORIZATION) else {
        return Ok(None);
    };
    let text = value.to_str().map_err(|_| ApiError::unauthorized())?;
    let Some((scheme, token)) = text.trim().split_once(' ') else {
        return Ok(None);
    };
    let token = token.trim();
    Ok((scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use coracle_pki::{CertificateAuthority, TokenSigner};
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;

    use super::*;
    use crate::auth::fake::FakeObjects;

    fn authenticators(anonymous: bool) -> Authenticators {
        let signer = Arc::new(TokenSigner::generate().unwrap());
        let tokens = ServiceAccountTokens::new(signer, "https://issuer", FakeObjects::new());
        Authenticators::new(Arc::new(tokens), anonymous)
    }

    fn request(authorization: Option<&str>) -> Parts {
        let mut request = http::Request::builder();
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[tokio::test]
    async fn a_certificate_names_user_and_groups() {
        let ca = CertificateAuthority::generate("ca").unwrap();
        let pair = ca
            .issue_client("ann", &["a", "b"], Duration::from_secs(60))
            .unwrap();
        let leaf = CertificateDer::from_pem_slice(pair.cert_pem.as_bytes()).unwrap();
        let mut request = request(Some("Bearer ignored"));
        request
            .extensions
            .insert(PeerCertificates(Arc::new(vec![leaf.into_owned()])));
        let user = authenticators(false)
            .authenticate(&request)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(user.username, "ann");
        assert_eq!(user.groups, ["a", "b", "system:authenticated"]);
        assert!(user.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
    }

    #[tokio::test]
    async fn a_certificate_of_another_authority_is_not_nobody() {
        let mut request = request(None);
        request.extensions.insert(ForeignCertificate);
        let error = authenticators(true)
            .authenticate(&request)
            .await
            .unwrap_err();
        assert_eq!(error.code(), 401);
    }

    #[tokio::test]
    async fn bad_credentials_are_refused_and_none_are_anonymous() {
        for header in ["Bearer nonsense", "bearer a.b.c"] {
            let error = authenticators(true)
                .authenticate(&request(Some(header)))
                .await
                .unwrap_err();
            assert_eq!(error.code(), 401, "{header}");
        }
        for header in [None, Some("Basic YTpi"), Some("Bearer"), Some("Bearer ")] {
            let got = authenticators(true).authenticate(&request(header)).await;
            assert_eq!(got.unwrap().unwrap(), UserInfo::anonymous(), "{header:?}");
            let got = authenticators(false).authenticate(&request(header)).await;
            assert_eq!(got.unwrap(), None, "{header:?}");
        }
    }
}
