//! Content negotiation: what the client sends and what it accepts.

use coracle_machinery::{ApiError, Reason, protobuf};
use http::{HeaderMap, header};

/// The clauses of an Accept header that are looked at.
const MAX_CLAUSES: usize = 32;

/// What form of an object the client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The object itself.
    Object,
    /// `meta.k8s.io/v1` Table.
    Table,
    /// `meta.k8s.io/v1` PartialObjectMetadata, or a list of them.
    Metadata,
}

/// The form that the `Accept` headers ask for.
///
/// # Errors
/// `NotAcceptable` if JSON is not among the types accepted.
pub fn shape(headers: &HeaderMap) -> Result<Shape, ApiError> {
    best_of(headers, &|_| true)
}

/// Checks that the client takes the object itself, where there is nothing
/// else.
///
/// # Errors
/// `NotAcceptable`.
pub fn takes_object(headers: &HeaderMap) -> Result<(), ApiError> {
    best_of(headers, &|shape| shape == Shape::Object).map(|_| ())
}

fn best_of(headers: &HeaderMap, offered: &dyn Fn(Shape) -> bool) -> Result<Shape, ApiError> {
    let mut best: Option<(f32, Shape)> = None;
    let mut any = false;
    for value in headers.get_all(header::ACCEPT) {
        let Ok(text) = value.to_str() else {
            continue;
        };
        for clause in text.split(',').take(MAX_CLAUSES) {
            any |= !clause.trim().is_empty();
            if let Some((quality, shape)) = read_clause(clause)
                && offered(shape)
                && best.is_none_or(|(known, _)| quality > known)
            {
                best = Some((quality, shape));
            }
        }
    }
    match best {
        Some((_, shape)) => Ok(shape),
        None if !any => Ok(Shape::Object),
        None => Err(ApiError::new(
            Reason::NotAcceptable,
            "only the following media types are accepted: application/json",
        )),
    }
}

fn read_clause(clause: &str) -> Option<(f32, Shape)> {
    let mut parts = clause.split(';').map(str::trim);
    let media = parts.next()?.to_ascii_lowercase();
    if !matches!(media.as_str(), "application/json" | "application/*" | "*/*") {
        return None;
    }
    let (mut quality, mut r#as, mut group, mut version) = (1.0, "", "meta.k8s.io", "v1");
    for parameter in parts {
        match parameter.split_once('=')? {
            ("q", value) => quality = value.parse().ok()?,
            ("as", value) => r#as = value,
            ("g", value) => group = value,
            ("v", value) => version = value,
            _ => {}
        }
    }
    let shape = match r#as {
        "" => Shape::Object,
        _ if group != "meta.k8s.io" || version != "v1" => return None,
        "Table" => Shape::Table,
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Shape::Metadata,
        _ => return None,
    };
    (quality > 0.0).then_some((quality, shape))
}

/// The form of a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// `application/json`, or not said.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
    /// `application/json-patch+json`.
    JsonPatch,
    /// `application/merge-patch+json`.
    MergePatch,
    /// `application/strategic-merge-patch+json`.
    StrategicMergePatch,
    /// `application/apply-patch+yaml`.
    Apply,
}

/// The form of the request's body.
///
/// # Errors
/// `UnsupportedMediaType`.
pub fn content_type(headers: &HeaderMap, patch: bool) -> Result<ContentType, ApiError> {
    let text = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let media = text.split(';').next().unwrap_or_default().trim();
    match (media.to_ascii_lowercase().as_str(), patch) {
        ("application/json-patch+json", true) => Ok(ContentType::JsonPatch),
        ("application/merge-patch+json", true) => Ok(ContentType::MergePatch),
        ("application/strategic-merge-patch+json", true) => Ok(ContentType::StrategicMergePatch),
        ("application/apply-patch+yaml", true) => Ok(ContentType::Apply),
        ("" | "application/json", false) => Ok(ContentType::Json),
        ("application/yaml", false) => Ok(ContentType::Yaml),
        (protobuf::MEDIA_TYPE, false) => Ok(ContentType::Protobuf),
        (_, true) => Err(unsupported(
            "application/json-patch+json, application/merge-patch+json, \
             application/strategic-merge-patch+json, application/apply-patch+yaml",
        )),
        (_, false) => Err(unsupported(
            "application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

fn unsupported(accepted: &str) -> ApiError {
    ApiError::new(
        Reason::UnsupportedMediaType,
        format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reviews_come_as_themselves_or_not_at_all() {
        for (accept, fine) in [
            ("application/json;as=Table;v=v1;g=meta.k8s.io", false),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;q=0.1",
                true,
            ),
            ("", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(takes_object(&headers).is_ok(), fine, "{accept}");
        }
    }

    #[test]
    fn json_is_chosen_if_the_client_takes_it() {
        for (accept, wanted) in [
            ("", Some(Shape::Object)),
            ("application/json", Some(Shape::Object)),
            (
                "application/vnd.kubernetes.protobuf, application/json",
                Some(Shape::Object),
            ),
            (
                "application/vnd.kubernetes.protobuf,*/*",
                Some(Shape::Object),
            ),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Some(Shape::Table),
            ),
            (
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Some(Shape::Object),
            ),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Some(Shape::Metadata),
            ),
            (
                "application/json;q=0.5, application/json;as=Table;v=v1;g=meta.k8s.io",
                Some(Shape::Table),
            ),
            ("application/json;stream=watch", Some(Shape::Object)),
            ("application/vnd.kubernetes.protobuf", None),
            ("text/html", None),
        ] {
            let mut headers = HeaderMap::new();
            if !accept.is_empty() {
                headers.insert(header::ACCEPT, accept.parse().unwrap());
            }
            assert_eq!(shape(&headers).ok(), wanted, "{accept}");
        }
    }
}
