//! The four forms of a patch, applied to an object as it is served.

use coracle_machinery::apply::{ApplyOptions, apply};
use coracle_machinery::object::text;
use coracle_machinery::patch::{json_patch, merge_patch, strategic_merge_patch};
use coracle_machinery::schema::{Schema, decode_value};
use coracle_machinery::{ApiError, Reason};
use serde_json::Value;

use crate::decode;
use crate::negotiate::ContentType;
use crate::registry::Resource;
use crate::write::Part;
use crate::write::meta::now;
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
    /// The configuration of a server-side apply, decoded.
    Apply(Value, Schema),
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
        options: &WriteOptions,
        warn: &dyn Fn(String),
    ) -> Result<Self, ApiError> {
        let schema = resource.schema();
        if form != ContentType::Apply {
            return Self::read_by(form, bytes, schema);
        }
        let known = schema.clone().ok_or_else(unsupported)?;
        let validation = options.field_validation;
        let mut config = decode::object(bytes, form, Some(&known), validation, warn)?;
        if text(&config, "/apiVersion").is_empty() || text(&config, "/kind").is_empty() {
            return Err(ApiError::bad_request(
                "apiVersion and kind must be set in an applied configuration",
            ));
        }
        decode::claim_kind(&mut config, &resource.kind.gvk)?;
        Ok(Self {
            form: Form::Apply(config, known),
            schema,
        })
    }

    /// The configuration of an apply: what it creates if there is no object.
    pub(crate) fn configuration(&self) -> Option<&Value> {
        match &self.form {
            Form::Apply(config, _) => Some(config),
            _ => None,
        }
    }

    /// Keeps of an applied configuration what its endpoint writes.
    pub(crate) fn restrict_to(&mut self, part: Part, has_status: bool) {
        let Form::Apply(config, _) = &mut self.form else {
            return;
        };
        if let Some(map) = config.as_object_mut() {
            match part {
                Part::Status => map.retain(|key, _| {
                    matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status")
                }),
                _ if has_status => {
                    map.remove("status");
                }
                _ => {}
            }
        }
    }

    /// The object that an apply creates.
    ///
    /// # Errors
    /// A configuration that cannot be applied.
    pub(crate) fn create(
        &self,
        options: &WriteOptions,
        subresource: &str,
    ) -> Result<Option<Value>, ApiError> {
        let Form::Apply(config, schema) = &self.form else {
            return Ok(None);
        };
        let options = apply_options(config, options, subresource);
        apply(None, config, schema, &options).map(Some)
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
            ContentType::Apply | ContentType::Json | ContentType::Yaml | ContentType::Protobuf => {
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
        subresource: &str,
        warn: &dyn Fn(String),
    ) -> Result<Value, ApiError> {
        let patched = match &self.form {
            Form::Json(bytes) => json_patch(current, bytes)?,
            Form::Merge(patch) => merge_patch(current, patch),
            Form::Strategic(patch, schema) => strategic_merge_patch(current, patch, schema)?,
            Form::Apply(config, schema) => {
                let options = apply_options(config, options, subresource);
                return apply(Some(current), config, schema, &options);
            }
        };
        let decoded = decode_value(patched, self.schema.as_ref(), options.field_validation)?;
        decoded.warnings.into_iter().for_each(warn);
        Ok(decoded.object)
    }
}

fn apply_options(config: &Value, options: &WriteOptions, subresource: &str) -> ApplyOptions {
    ApplyOptions {
        manager: options.field_manager.clone(),
        force: options.force,
        api_version: text(config, "/apiVersion").to_owned(),
        subresource: subresource.to_owned(),
        now: now(),
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
