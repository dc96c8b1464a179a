//! Errors of the API, in the form of a `v1.Status`, after
//! `k8s.io/apimachinery/pkg/api/errors`.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::field::FieldError;
use crate::gvk::{GroupKind, GroupResource};

/// The machine-readable reason of a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(
    missing_docs,
    reason = "the names are upstream's and say what they are"
)]
pub enum Reason {
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
    /// Only a code, from a service that extends the server.
    Other(u16),
}

impl Reason {
    /// The HTTP status code that goes with the reason.
    pub fn code(self) -> u16 {
        match self {
            Self::Unknown | Self::InternalError => 500,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Gone | Self::Expired => 410,
            Self::Invalid => 422,
            Self::ServerTimeout => 500,
            Self::Timeout => 504,
            Self::TooManyRequests => 429,
            Self::BadRequest => 400,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::ServiceUnavailable => 503,
            Self::Other(code) => code,
        }
    }

    /// The reason that a foreign refusal gives, or else its code; a code that
    /// tells of no failure counts as 400.
    pub fn of_refusal(reason: &str, code: u64) -> Self {
        const KNOWN: &[Reason] = &[
            Reason::Unauthorized,
            Reason::Forbidden,
            Reason::NotFound,
            Reason::AlreadyExists,
            Reason::Conflict,
            Reason::Gone,
            Reason::Invalid,
            Reason::ServerTimeout,
            Reason::Timeout,
            Reason::TooManyRequests,
            Reason::BadRequest,
            Reason::MethodNotAllowed,
            Reason::NotAcceptable,
            Reason::RequestEntityTooLarge,
            Reason::UnsupportedMediaType,
            Reason::InternalError,
            Reason::Expired,
            Reason::ServiceUnavailable,
        ];
        let code = u16::try_from(code).unwrap_or(0);
        let known = KNOWN.iter().find(|r| format!("{r:?}") == reason);
        match (known, code) {
            (Some(known), code) if code < 400 || known.code() == code => *known,
            (_, 400..=599) => Self::Other(code),
            _ => Self::BadRequest,
        }
    }
}

/// A failed request: what the caller is told, as a `v1.Status`.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// The machine-readable reason, which also fixes the HTTP code.
    pub reason: Reason,
    /// The sentence for people.
    pub message: String,
    /// `details` of the Status, an object or null.
    pub details: Value,
}

impl ApiError {
    /// An error without details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            details: Value::Null,
        }
    }

    /// The HTTP status code.
    pub fn code(&self) -> u16 {
        self.reason.code()
    }

    /// The object does not exist.
    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::about(
            Reason::NotFound,
            resource,
            name,
            format!("{resource} \"{name}\" not found"),
        )
    }

    /// The path names nothing that the server serves.
    pub fn no_such_path() -> Self {
        Self {
            reason: Reason::NotFound,
            message: "the server could not find the requested resource".into(),
            details: json!({}),
        }
    }

    /// An object of that name exists.
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        let message = format!("{resource} \"{name}\" already exists");
        Self::about(Reason::AlreadyExists, resource, name, message)
    }

    /// The operation lost against another.
    pub fn conflict(resource: &GroupResource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}");
        Self::about(Reason::Conflict, resource, name, message)
    }

    /// The caller may not do that.
    pub fn forbidden(resource: &GroupResource, name: &str, why: &str) -> Self {
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} \"{name}\" is forbidden: {why}")
        };
        Self::about(Reason::Forbidden, resource, name, message)
    }

    /// The object is not valid, for the reasons given.
    pub fn invalid(kind: &GroupKind, name: &str, errors: &[FieldError]) -> Self {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let list = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let causes: Vec<Value> = errors
            .iter()
            .map(|e| {
                json!({"reason": e.kind.reason(), "message": e.body(), "field": e.path.to_string()})
            })
            .collect();
        let mut details = details("kind", &kind.kind, &kind.group, name);
        details.insert("causes".into(), Value::Array(causes));
        Self {
            reason: Reason::Invalid,
            message: format!("{kind} \"{name}\" is invalid: {list}"),
            details: Value::Object(details),
        }
    }

    /// The request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// The resource does not offer that verb.
    pub fn method_not_allowed(resource: &GroupResource, verb: &str) -> Self {
        let message = format!("{verb} is not supported on resources of kind \"{resource}\"");
        Self::about(Reason::MethodNotAllowed, resource, "", message)
    }

    /// The caller could not be identified.
    pub fn unauthorized() -> Self {
        Self::new(Reason::Unauthorized, "Unauthorized")
    }

    /// The revision asked for is no longer held: list again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// Something that the caller cannot mend.
    pub fn internal(cause: impl fmt::Display) -> Self {
        Self {
            reason: Reason::InternalError,
            message: format!("Internal error occurred: {cause}"),
            details: json!({"causes": [{"message": cause.to_string()}]}),
        }
    }

    /// Too much is asked at once; try again after `seconds`.
    pub fn too_many_requests(message: impl Into<String>, seconds: u32) -> Self {
        Self {
            reason: Reason::TooManyRequests,
            message: message.into(),
            details: json!({"retryAfterSeconds": seconds}),
        }
    }

    fn about(reason: Reason, resource: &GroupResource, name: &str, message: String) -> Self {
        let details = details("kind", &resource.resource, &resource.group, name);
        Self {
            reason,
            message,
            details: Value::Object(details),
        }
    }

    /// The `v1.Status` object.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code(),
        });
        if !matches!(self.reason, Reason::Unknown | Reason::Other(_)) {
            status["reason"] = Value::String(format!("{:?}", self.reason));
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

fn details(kind_key: &str, kind: &str, group: &str, name: &str) -> Map<String, Value> {
    let mut details = Map::new();
    for (key, value) in [("name", name), ("group", group), (kind_key, kind)] {
        if !value.is_empty() {
            details.insert(key.to_owned(), Value::String(value.to_owned()));
        }
    }
    details
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::FieldPath;

    #[test]
    fn not_found_reads_like_upstream() {
        let error = ApiError::not_found(&GroupResource::new("apps", "deployments"), "x");
        let status = error.to_status();
        assert_eq!(status["message"], "deployments.apps \"x\" not found");
        assert_eq!(status["reason"], "NotFound");
        assert_eq!(status["code"], 404);
        assert_eq!(
            status["details"],
            json!({"name":"x","group":"apps","kind":"deployments"})
        );
    }

    #[test]
    fn foreign_refusals_keep_their_code() {
        for (reason, code, expected) in [
            ("Forbidden", 403, Reason::Forbidden),
            ("Forbidden", 0, Reason::Forbidden),
            ("", 403, Reason::Other(403)),
            ("Mine", 418, Reason::Other(418)),
            ("Mine", 200, Reason::BadRequest),
            ("", 70_000, Reason::BadRequest),
        ] {
            assert_eq!(Reason::of_refusal(reason, code), expected);
        }
        let error = ApiError::new(Reason::Other(418), "x");
        assert_eq!(error.to_status()["code"], 418);
        assert_eq!(error.to_status().get("reason"), None);
    }

    #[test]
    fn invalid_lists_its_causes() {
        let path = FieldPath::new("spec").child("x");
        let errors = [
            FieldError::required(&path, ""),
            FieldError::forbidden(&path, "no"),
        ];
        let error = ApiError::invalid(&GroupKind::new("", "Pod"), "p", &errors);
        assert_eq!(
            error.message,
            "Pod \"p\" is invalid: [spec.x: Required value, spec.x: Forbidden: no]"
        );
        assert_eq!(error.details["causes"][0]["reason"], "FieldValueRequired");
    }
}
