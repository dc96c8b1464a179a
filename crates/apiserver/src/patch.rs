//! The four forms of a patch, applied to an object as it is served.

use coracle_machinery::patch::{json_patch, merge_patch, strategic_merge_patch};
use coracle_machinery::schema::{Schema, decode_value};
use coracle_machinery::{ApiError, Reason};
use serde_json::Value;

use crate::decode;
use crate::negotiate::ContentType;
use crate::registry::Resource;
use crate::write::options::WriteOptions;

/// A patch that was read.
pub(crate) struct Patch {
    form: Form,
    schema: Option<Schema>,
}

enum Form {
    Json(Vec<u8>),
    Merge(Value),
    Strategic(Value, Schema),
}

impl Patch {
    /// Reads the body of a PATCH.
    ///
    /// # Errors
    /// `BadRequest`; `UnsupportedMediaType` for a strategic merge patch of a
    /// custom resource.
    pub(crate) fn read(
        form: ContentType,
        bytes: &[u8],
        resource: &Resource,
    ) -> Result<Self, ApiError> {
        let schema = resource.schema();
        Self::read_by(form, bytes, schema)
    }

    /// As `read`, for a body whose schema is known.
    pub(crate) fn read_by(
        form: ContentType,
        bytes: &[u8],
        schema: Option<Schema>,
    ) -> Result<Self, ApiError> {
        let form = match form {
            ContentType::JsonPatch => Form::Json(bytes.to_vec()),
            ContentType::MergePatch => Form::Merge(map(bytes)?),
            ContentType::StrategicMergePatch => match &schema {
                Some(schema) if !schema.is_custom() => Form::Strategic(map(bytes)?, schema.clone()),
                _ => return Err(unsupported()),
            },
            ContentType::Apply | ContentType::Json | ContentType::Yaml => {
                return Err(unsupported());
            }
        };
        Ok(Self { form, schema })
    }

    /// The patched object, decoded by the schema.
    ///
    /// # Errors
    /// Patches that do not apply, results that the schema refuses.
    pub(crate) fn apply(
        &self,
        current: &Value,
        options: &WriteOptions,
        warn: &dyn Fn(String),
    ) -> Result<Value, ApiError> {
        let patched = match &self.form {
            Form::Json(bytes) => json_patch(current, bytes)?,
            Form::Merge(patch) => merge_patch(current, patch),
            Form::Strategic(patch, schema) => strategic_merge_patch(current, patch, schema)?,
        };
        let decoded = decode_value(patched, self.schema.as_ref(), options.field_validation)?;
        decoded.warnings.into_iter().for_each(warn);
        Ok(decoded.object)
    }
}

fn map(bytes: &[u8]) -> Result<Value, ApiError> {
    let value = decode::value(bytes)?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(ApiError::bad_request(
            "error decoding patch: it is not a map",
        ))
    }
}

fn unsupported() -> ApiError {
    ApiError::new(
        Reason::UnsupportedMediaType,
        "the body of the request was in an unknown format - accepted media types include: \
         application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
    )
}
