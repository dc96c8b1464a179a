//! From the bytes of a request to an object of the resource.

use coracle_machinery::object::text;
use coracle_machinery::schema::{FieldValidation, Schema, decode};
use coracle_machinery::{ApiError, GroupVersionKind, Reason};
use serde_json::Value;

use crate::negotiate::ContentType;

/// Bodies larger than this are refused, as upstream does.
pub const MAX_BODY: usize = 3 << 20;

/// Reads a JSON body by a schema (without one, any fields are kept); warnings
/// about fields go to `warn`.
///
/// # Errors
/// `BadRequest`.
pub fn object(
    bytes: &[u8],
    form: ContentType,
    schema: Option<&Schema>,
    validation: FieldValidation,
    warn: &dyn Fn(String),
) -> Result<Value, ApiError> {
    let decoded = match form {
        ContentType::Yaml => {
            return Err(ApiError::new(
                Reason::UnsupportedMediaType,
                "the body of the request was in an unknown format - accepted media types \
                 include: application/json",
            ));
        }
        _ => decode(bytes, schema, validation)?,
    };
    decoded.warnings.into_iter().for_each(warn);
    Ok(decoded.object)
}

/// Reads a JSON body without a schema.
///
/// # Errors
/// `BadRequest`.
pub fn value(bytes: &[u8]) -> Result<Value, ApiError> {
    Ok(decode(bytes, None, FieldValidation::Ignore)?.object)
}

/// Checks that an object is of a kind; an absent `apiVersion` or `kind` is
/// filled in.
///
/// # Errors
/// `BadRequest`.
pub fn claim_kind(object: &mut Value, gvk: &GroupVersionKind) -> Result<(), ApiError> {
    let (version, kind) = (text(object, "/apiVersion"), text(object, "/kind"));
    let wanted = gvk.api_version();
    if !version.is_empty() && version != wanted {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({wanted})"
        )));
    }
    if !kind.is_empty() && kind != gvk.kind {
        return Err(ApiError::bad_request(format!(
            "{kind} in version \"{}\" cannot be handled as a {}",
            gvk.version, gvk.kind
        )));
    }
    let Some(map) = object.as_object_mut() else {
        return Err(ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): it is not an object",
            gvk.kind
        )));
    };
    map.insert("apiVersion".into(), wanted.into());
    map.insert("kind".into(), gvk.kind.clone().into());
    if !map.get("metadata").is_none_or(Value::is_object) {
        return Err(ApiError::bad_request(
            "the object provided is unrecognized: metadata is not an object",
        ));
    }
    Ok(())
}
