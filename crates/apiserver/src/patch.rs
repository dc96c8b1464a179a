//! The four forms of a patch, applied to an object as it is served.

use coracle_machinery::apply::{ApplyOptions, apply};
use coracle_machinery::object::text;
use coracle_machinery::patch::{json_patch, merge_patch, strategic_merge_patch};
use coracle_machinery::schema::{Schema, decode_reported};
use coracle_machinery::{ApiError, Reason};
use serde_json::{Map, Value};

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
    /// What is wrong with its text, though it can be applied.
    reports: Vec<String>,
}

/// The most names in a JSON patch that are reported.
const MAX_REPORTS: usize = 100;

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
        let mut config = decode::configuration(bytes, &known, validation, warn)?;
        if text(&config, "/apiVersion").is_empty() || text(&config, "/kind").is_empty() {
            return Err(ApiError::bad_request(
                "apiVersion and kind must be set in an applied configuration",
            ));
        }
        decode::claim_kind(&mut config, &resource.kind.gvk)?;
        Ok(Self {
            form: Form::Apply(config, known),
            schema,
            reports: Vec::new(),
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
        let mut reports = Vec::new();
        let form = match form {
            ContentType::JsonPatch => {
                reports = unknown_in_operations(bytes);
                Form::Json(bytes.to_vec())
            }
            ContentType::MergePatch => Form::Merge(map(bytes, &mut reports)?),
            ContentType::StrategicMergePatch => match &schema {
                Some(schema) if !schema.is_custom() => {
                    Form::Strategic(map(bytes, &mut reports)?, schema.clone())
                }
                _ => return Err(unsupported()),
            },
            ContentType::Apply | ContentType::Json | ContentType::Yaml | ContentType::Protobuf => {
                return Err(unsupported());
            }
        };
        Ok(Self {
            form,
            schema,
            reports,
        })
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
        let (schema, validation) = (self.schema.as_ref(), options.field_validation);
        let decoded = decode_reported(patched, schema, validation, self.reports.clone())?;
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

/// Reports of names in the operations of a JSON patch that say nothing.
fn unknown_in_operations(bytes: &[u8]) -> Vec<String> {
    let operations: Vec<Map<String, Value>> = serde_json::from_slice(bytes).unwrap_or_default();
    let mut reports = Vec::new();
    for (index, operation) in operations.iter().enumerate() {
        for name in operation.keys() {
            if !matches!(name.as_str(), "op" | "path" | "from" | "value") {
                reports.push(format!("json patch unknown field \"[{index}].{name}\""));
            }
            if reports.len() == MAX_REPORTS {
                return reports;
            }
        }
    }
    reports
}

fn map(bytes: &[u8], reports: &mut Vec<String>) -> Result<Value, ApiError> {
    let (value, found) = decode::reported_value(bytes)?;
    *reports = found;
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
