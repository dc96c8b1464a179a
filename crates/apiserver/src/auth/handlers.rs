//! Reviews and token requests as hooks of the pipeline.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_machinery::{ApiError, object};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::ServiceAccountTokens;
use super::reviews::{Reviews, TokenRequests, openid_configuration};
use crate::body::{Body, with_body};
use crate::decode::claim_kind;
use crate::hooks::{Handler, RequestContext, Route};

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// A hook with the group, resource and subresource that it serves.
pub type Hook = (&'static str, &'static str, &'static str, Arc<dyn Handler>);

/// The handlers of all reviews and of token requests.
pub fn handlers(reviews: Arc<Reviews>, tokens: Arc<TokenRequests>) -> Vec<Hook> {
    let review = |kind: Review| {
        let reviews = reviews.clone();
        Arc::new(ReviewHandler { reviews, kind }) as Arc<dyn Handler>
    };
    vec![
        (
            "",
            "serviceaccounts",
            "token",
            Arc::new(TokenHandler(tokens)),
        ),
        (AUTHENTICATION, "tokenreviews", "", review(Review::Token)),
        (
            AUTHENTICATION,
            "selfsubjectreviews",
            "",
            review(Review::SelfSubject),
        ),
        (
            AUTHORIZATION,
            "subjectaccessreviews",
            "",
            review(Review::Access),
        ),
        (
            AUTHORIZATION,
            "localsubjectaccessreviews",
            "",
            review(Review::LocalAccess),
        ),
        (
            AUTHORIZATION,
            "selfsubjectaccessreviews",
            "",
            review(Review::SelfAccess),
        ),
        (
            AUTHORIZATION,
            "selfsubjectrulesreviews",
            "",
            review(Review::SelfRules),
        ),
    ]
}

#[derive(Clone, Copy)]
enum Review {
    Token,
    SelfSubject,
    Access,
    LocalAccess,
    SelfAccess,
    SelfRules,
}

struct ReviewHandler {
    reviews: Arc<Reviews>,
    kind: Review,
}

#[async_trait]
impl Handler for ReviewHandler {
    async fn handle(&self, context: &RequestContext, body: Value) -> Result<Value, ApiError> {
        let body = body_of(context, body)?;
        let (reviews, user) = (&self.reviews, &context.user);
        match self.kind {
            Review::Token => reviews.token_review(body).await,
            Review::SelfSubject => Ok(reviews.self_subject_review(user, body)),
            Review::Access => reviews.subject_access_review(body, None).await,
            Review::LocalAccess => {
                let namespace = Some(context.info.namespace.as_str());
                reviews.subject_access_review(body, namespace).await
            }
            Review::SelfAccess => reviews.self_subject_access_review(user, body).await,
            Review::SelfRules => reviews.self_subject_rules_review(user, body).await,
        }
    }
}

struct TokenHandler(Arc<TokenRequests>);

#[async_trait]
impl Handler for TokenHandler {
    async fn handle(&self, context: &RequestContext, body: Value) -> Result<Value, ApiError> {
        let body = body_of(context, body)?;
        let info = &context.info;
        self.0
            .create(&context.user, &info.namespace, &info.name, body)
            .await
    }
}

/// The body as an object of the kind that the path takes.
fn body_of(context: &RequestContext, body: Value) -> Result<Value, ApiError> {
    if context.info.verb != "create" {
        let why = "the server does not allow this method on the requested resource";
        return Err(ApiError::new(
            coracle_machinery::Reason::MethodNotAllowed,
            why,
        ));
    }
    let mut body = if body.is_null() { json!({}) } else { body };
    let spec_is_map = body
        .get("spec")
        .is_none_or(|s| s.is_object() || s.is_null());
    if !body.is_object() || !spec_is_map {
        return Err(ApiError::bad_request(
            "the body is not an object with a spec",
        ));
    }
    let Some(resource) = &context.resource else {
        return Err(ApiError::no_such_path());
    };
    let sub = &context.info.subresource;
    let of_sub = resource.kind.subresources.iter().find(|s| s.name == sub);
    let gvk = of_sub
        .and_then(|s| s.kind.as_ref())
        .unwrap_or(&resource.kind.gvk);
    claim_kind(&mut body, gvk)?;
    object::metadata_mut(&mut body);
    Ok(body)
}

/// The OpenID Connect documents by which others check service-account tokens.
pub struct OpenId {
    tokens: Arc<ServiceAccountTokens>,
}

impl OpenId {
    /// The documents of this issuer.
    pub fn new(tokens: Arc<ServiceAccountTokens>) -> Self {
        Self { tokens }
    }
}

#[async_trait]
impl Route for OpenId {
    async fn route(
        &self,
        context: &RequestContext,
        request: http::Request<Body>,
    ) -> Result<Response<Body>, http::Request<Body>> {
        let (content_type, document) = match context.info.path.as_str() {
            "/.well-known/openid-configuration" => (
                "application/json",
                openid_configuration(self.tokens.issuer()),
            ),
            "/openid/v1/jwks" => ("application/jwk-set+json", self.tokens.jwks()),
            _ => return Err(request),
        };
        let body = Body::full(document.to_string());
        Ok(with_body(StatusCode::OK, content_type, body))
    }
}
