//! From the bytes of a request to an object of the resource.

use coracle_machinery::object::text;
use coracle_machinery::schema::{FieldValidation, Schema, decode, decode_reported, decode_value};
use coracle_machinery::{ApiError, GroupVersionKind, Reason, protobuf};
use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;

use crate::negotiate::ContentType;

/// Bodies larger than this are refused, as upstream does.
pub const MAX_BODY: usize = 3 << 20;
/// Aliases of one YAML body: each may repeat as much as the body holds.
const MAX_YAML_ALIASES: usize = 32;
/// Maps, lists and scalars of one YAML body.
const MAX_YAML_NODES: usize = 250_000;

/// Reads a body by a schema (without one, any fields are kept); warnings
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
        ContentType::Yaml | ContentType::Apply => {
            let (value, reports) = yaml(bytes)?;
            decode_reported(value, schema, validation, reports)?
        }
        ContentType::Protobuf => {
            let value = protobuf::decode_request(bytes)?;
            decode_value(value, schema, validation)?
        }
        _ => decode(bytes, schema, validation)?,
    };
    decoded.warnings.into_iter().for_each(warn);
    Ok(decoded.object)
}

/// Reads the configuration of a server-side apply. Unlike elsewhere an unknown
/// field is an error, whatever the validation of fields.
///
/// # Errors
/// `BadRequest`; for unknown fields that of upstream's typed conversion.
pub fn configuration(
    bytes: &[u8],
    schema: &Schema,
    validation: FieldValidation,
    warn: &dyn Fn(String),
) -> Result<Value, ApiError> {
    let (value, reports) = yaml(bytes)?;
    if validation == FieldValidation::Strict && !reports.is_empty() {
        let why = format!("error strict decoding YAML: {}", reports.join(", "));
        return Err(ApiError::bad_request(why));
    }
    let decoded = decode_value(value, Some(schema), FieldValidation::Warn)?;
    let unknown: Vec<String> = decoded
        .warnings
        .iter()
        .filter_map(|report| report.strip_prefix("unknown field \"")?.strip_suffix('"'))
        .map(|path| format!(".{path}: field not declared in schema"))
        .collect();
    if !unknown.is_empty() {
        return Err(not_typed(&decoded.object, &unknown));
    }
    if validation == FieldValidation::Warn {
        reports.into_iter().for_each(warn);
    }
    Ok(decoded.object)
}

fn not_typed(object: &Value, faults: &[String]) -> ApiError {
    let (namespace, name) = (
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name"),
    );
    let (version, kind) = (text(object, "/apiVersion"), text(object, "/kind"));
    let faults = match faults {
        [only] => only.clone(),
        all => format!("errors:\n  {}", all.join("\n  ")),
    };
    ApiError::new(
        Reason::Unknown,
        format!(
            "failed to create typed patch object ({namespace}/{name}; {version}, Kind={kind}): \
             {faults}"
        ),
    )
}

/// Reads YAML, of which JSON is a part, with reports of keys that occur twice:
/// the last one counts.
///
/// # Errors
/// `BadRequest`.
fn yaml(bytes: &[u8]) -> Result<(Value, Vec<String>), ApiError> {
    // Most clients send JSON here, and serde_json is much quicker.
    if bytes.first() == Some(&b'{')
        && let Ok(value) = serde_json::from_slice(bytes)
    {
        return Ok((value, Vec::new()));
    }
    let bad = |why: String| ApiError::bad_request(format!("error converting YAML to JSON: {why}"));
    let text = std::str::from_utf8(bytes).map_err(|e| bad(e.to_string()))?;
    let read = |duplicates: DuplicateKeyPolicy| {
        let options = serde_saphyr::options! {
            strict_booleans: true,
            duplicate_keys: duplicates,
            budget: serde_saphyr::budget! {
                max_aliases: MAX_YAML_ALIASES,
                max_anchors: MAX_YAML_ALIASES,
                max_nodes: MAX_YAML_NODES,
                max_documents: 1,
            },
        };
        serde_saphyr::from_str_with_options::<Value>(text, options)
    };
    let error = match read(DuplicateKeyPolicy::Error) {
        Ok(value) => return Ok((value, Vec::new())),
        Err(error) => error,
    };
    let serde_saphyr::Error::DuplicateMappingKey { key, location } = error.without_snippet() else {
        return Err(bad(error.to_string()));
    };
    let report = format!(
        "yaml: unmarshal errors:\n  line {}: key {:?} already set in map",
        location.line(),
        key.as_deref().unwrap_or_default()
    );
    let value = read(DuplicateKeyPolicy::LastWins).map_err(|e| bad(e.to_string()))?;
    Ok((value, vec![report]))
}

/// Reads a JSON body without a schema.
///
/// # Errors
/// `BadRequest`.
pub fn value(bytes: &[u8]) -> Result<Value, ApiError> {
    Ok(decode(bytes, None, FieldValidation::Ignore)?.object)
}

/// As `value`, with reports of fields that occur twice: the last one counts.
///
/// # Errors
/// `BadRequest`.
pub fn reported_value(bytes: &[u8]) -> Result<(Value, Vec<String>), ApiError> {
    let decoded = decode(bytes, None, FieldValidation::Warn)?;
    Ok((decoded.object, decoded.warnings))
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
