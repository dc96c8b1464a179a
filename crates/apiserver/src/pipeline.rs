//! The way of a request: read what it asks for, keep within limits, find out
//! who asks, check that they may, dispatch, and answer errors as a Status.

use std::sync::Arc;
use std::time::Instant;

use coracle_machinery::{ApiError, Reason};
use http::request::Parts;
use http::{HeaderValue, Request, Response, header};
use tokio::sync::OwnedSemaphorePermit;

use crate::access::{Attributes, Authorizer, Decision, UserInfo};
use crate::auth::denial::forbidden;
use crate::auth::impersonation::impersonated;
use crate::body::{Body, error_response};
use crate::hooks::RequestContext;
use crate::query::Query;
use crate::request::RequestInfo;
use crate::server::Inner;
use crate::write::meta::new_uid;

/// Longest request target: selectors are long, but not that long.
const MAX_TARGET: usize = 64 << 10;
/// Bytes of all header values together. The listener bounds them as well;
/// in-process clients come without it.
const MAX_HEADERS: usize = 64 << 10;
/// Longest `Audit-ID` that is taken over from the client.
const MAX_AUDIT_ID: usize = 64;

impl Inner {
    /// Answers a request.
    pub(crate) async fn serve(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let audit_id = audit_id(&request);
        let mut info = RequestInfo::default();
        let outcome = match Query::parse(request.uri().query().unwrap_or_default()) {
            Ok(query) => {
                info = RequestInfo::parse(request.method(), request.uri().path(), &query);
                self.answer(request, info.clone(), query).await
            }
            Err(error) => Err(error),
        };
        let mut response = outcome.unwrap_or_else(|error| {
            if error.code() >= 500 {
                tracing::warn!(path = %info.path, verb = %info.verb, %error, "request failed");
            }
            error_response(&error)
        });
        if let Some(id) = audit_id {
            response.headers_mut().insert("audit-id", id);
        }
        let known = !info.is_resource || self.resource(&info).is_some();
        let code = response.status().as_u16();
        self.metrics.observe(&info, known, code, started.elapsed());
        response
    }

    pub(crate) fn resource(&self, info: &RequestInfo) -> Option<Arc<crate::registry::Resource>> {
        if !info.is_resource {
            return None;
        }
        let registry = &self.storage.registry;
        registry.lookup(&info.group, &info.version, &info.resource)
    }

    async fn answer(
        self: &Arc<Self>,
        request: Request<Body>,
        info: RequestInfo,
        query: Query,
    ) -> Result<Response<Body>, ApiError> {
        check_size(&request)?;
        let _permit = self.in_flight(&info)?;
        let (parts, body) = request.into_parts();
        let user = self.caller(&parts).await?;
        let attributes = info.attributes();
        match self.authorize(&user, &attributes).await {
            Decision::Allow { .. } => {}
            Decision::NoOpinion { reason } => return Err(forbidden(&user, &attributes, &reason)),
        }
        let resource = self.resource(&info);
        let objects = Arc::clone(&self.objects);
        let context = RequestContext::new(user, info, query, resource, objects);
        let request = Request::from_parts(parts, body);
        let mut response = self.dispatch(&context, request).await?;
        for warning in context.take_warnings() {
            if let Ok(value) = HeaderValue::from_str(&warning_value(&warning)) {
                response.headers_mut().append(header::WARNING, value);
            }
        }
        Ok(response)
    }

    fn in_flight(&self, info: &RequestInfo) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        if info.long_running() || !info.is_resource {
            return Ok(None);
        }
        let semaphore = if info.read_only() {
            &self.reading
        } else {
            &self.mutating
        };
        let busy = || ApiError::too_many_requests("too many requests, please try again later.", 1);
        let permit = Arc::clone(semaphore).try_acquire_owned();
        permit.map(Some).map_err(|_| busy())
    }

    /// Who asks: an identity set in-process, or what the first authenticator
    /// that knows it says; then whom they act as.
    async fn caller(&self, parts: &Parts) -> Result<UserInfo, ApiError> {
        let mut user = parts.extensions.get::<UserInfo>().cloned();
        for authenticator in &self.authenticators {
            if user.is_some() {
                break;
            }
            user = authenticator.authenticate(parts).await?;
        }
        let user = user.ok_or_else(ApiError::unauthorized)?;
        let acting = impersonated(self, &user, &parts.headers).await?;
        Ok(acting.unwrap_or(user))
    }
}

#[async_trait::async_trait]
impl Authorizer for Inner {
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        let mut reasons = Vec::new();
        for authorizer in &self.authorizers {
            match authorizer.authorize(user, attributes).await {
                Decision::NoOpinion { reason } if reason.is_empty() => {}
                Decision::NoOpinion { reason } => reasons.push(reason),
                allowed => return allowed,
            }
        }
        if self.authorizers.is_empty() && user.groups.iter().any(|g| g == "system:masters") {
            return Decision::Allow {
                reason: "system:masters".to_owned(),
            };
        }
        Decision::NoOpinion {
            reason: reasons.join(", "),
        }
    }
}

fn check_size(request: &Request<Body>) -> Result<(), ApiError> {
    let uri = request.uri();
    let target = uri.path().len() + uri.query().map_or(0, str::len);
    if target > MAX_TARGET {
        return Err(ApiError::new(
            Reason::RequestEntityTooLarge,
            "Request URI is too long",
        ));
    }
    let headers = request.headers().iter();
    let size: usize = headers.map(|(k, v)| k.as_str().len() + v.len()).sum();
    if size > MAX_HEADERS {
        return Err(ApiError::new(
            Reason::RequestEntityTooLarge,
            "Request headers are too large",
        ));
    }
    Ok(())
}

/// The client's audit id, or a new one.
fn audit_id(request: &Request<Body>) -> Option<HeaderValue> {
    match request.headers().get("audit-id") {
        Some(id) if id.len() <= MAX_AUDIT_ID => Some(id.clone()),
        _ => HeaderValue::from_str(&new_uid()).ok(),
    }
}

/// A warning as the header has it: code, agent, quoted text.
fn warning_value(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            c if c.is_control() => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    format!("299 - \"{quoted}\"")
}
