//! Decoding of request bodies against a schema, in one pass: types are
//! checked, unknown fields dropped, unknown and duplicate ones reported.

mod scalar;

use std::cell::RefCell;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Property, Schema, Type};
use crate::error::ApiError;

/// The largest body that is decoded, in bytes: upstream's limit for resources.
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

/// The deepest nesting that is decoded. Upstream's types end far above it; for
/// free-form fields it keeps recursion over values within any stack.
pub const MAX_DEPTH: usize = 120;

/// The most unknown and duplicate fields that are reported.
const MAX_REPORTS: usize = 100;

/// What becomes of unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are dropped silently.
    Ignore,
    /// They are dropped with a warning.
    #[default]
    Warn,
    /// They are an error.
    Strict,
}

impl FieldValidation {
    /// Reads the query parameter `fieldValidation`; the empty text is the
    /// default.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            "Strict" => Ok(Self::Strict),
            other => Err(ApiError::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \
                 \"Warn\", \"Strict\""
            ))),
        }
    }
}

/// What a body held.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object, without what its schema does not know.
    pub object: Value,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
}

/// Decodes a JSON body. Without a schema any fields are kept.
///
/// Of built-in kinds, as Go does: unknown fields, nulls, and optional lists and
/// maps without an entry are dropped, times and quantities brought to their
/// canonical form, a value of the wrong type is refused. Of custom kinds unknown fields are dropped; types are left to
/// `Schema::validate`.
pub fn decode(
    bytes: &[u8],
    schema: Option<&Schema>,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    if bytes.len() > MAX_BODY_BYTES {
        return Err(ApiError::new(
            crate::Reason::RequestEntityTooLarge,
            format!("Request entity too large: limit is {MAX_BODY_BYTES}"),
        ));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let context = RefCell::new(Context::new(validation));
    let object = Seed::root(schema, &context)
        .deserialize(&mut deserializer)
        .and_then(|object| deserializer.end().map(|()| object));
    let object = object.map_err(|error| match context.borrow_mut().failure.take() {
        Some(failure) => cannot_be_handled(&Header::read(bytes), &failure),
        None => ApiError::bad_request(format!(
            "couldn't get version/kind; json parse error: {error}"
        )),
    })?;
    finish(object, context.into_inner())
}

/// As `decode`, for a value: the result of a patch, or a body read from YAML.
pub fn decode_value(
    value: Value,
    schema: Option<&Schema>,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    decode_reported(value, schema, validation, Vec::new())
}

/// As `decode_value`, with reports of what was wrong with the text that the
/// value was read from: they come before those about fields.
pub fn decode_reported(
    value: Value,
    schema: Option<&Schema>,
    validation: FieldValidation,
    reports: Vec<String>,
) -> Result<Decoded, ApiError> {
    let header = Header {
        api_version: crate::object::text(&value, "/apiVersion").to_owned(),
        kind: crate::object::text(&value, "/kind").to_owned(),
    };
    let mut context = Context::new(validation);
    if validation != FieldValidation::Ignore {
        context.reports = reports;
    }
    let context = RefCell::new(context);
    let object = Seed::root(schema, &context).deserialize(value);
    let object = object.map_err(|error: serde_json::Error| {
        let failure = context.borrow_mut().failure.take();
        cannot_be_handled(&header, &failure.unwrap_or_else(|| error.to_string()))
    })?;
    finish(object, context.into_inner())
}

fn finish(object: Value, context: Context<'_>) -> Result<Decoded, ApiError> {
    if context.validation == FieldValidation::Strict && !context.reports.is_empty() {
        let header = Header {
            api_version: crate::object::text(&object, "/apiVersion").to_owned(),
            kind: crate::object::text(&object, "/kind").to_owned(),
        };
        let failure = format!("strict decoding error: {}", context.reports.join(", "));
        return Err(cannot_be_handled(&header, &failure));
    }
    Ok(Decoded {
        object,
        warnings: context.reports,
    })
}

fn cannot_be_handled(header: &Header, failure: &str) -> ApiError {
    let version = header.api_version.rsplit('/').next().unwrap_or_default();
    let kind = &header.kind;
    ApiError::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {kind}: {failure}"
    ))
}

/// What a body says that it is; read apart only to word an error.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Header {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
}

impl Header {
    fn read(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }
}

/// A step of the path to the value being read.
enum Step<'s> {
    Field(&'s str),
    Key(String),
    Index(usize),
}

struct Context<'s> {
    validation: FieldValidation,
    path: Vec<Step<'s>>,
    reports: Vec<String>,
    failure: Option<String>,
}

impl Context<'_> {
    fn new(validation: FieldValidation) -> Self {
        Self {
            validation,
            path: Vec::new(),
            reports: Vec::new(),
            failure: None,
        }
    }

    fn report(&mut self, what: &str, field: &str) {
        if self.validation == FieldValidation::Ignore || self.reports.len() >= MAX_REPORTS {
            return;
        }
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Index(index) => path.push_str(&format!("[{index}]")),
                Step::Field(name) => path = joined(path, name),
                Step::Key(name) => path = joined(path, name),
            }
        }
        let path = joined(path, field);
        self.reports.push(format!("{what} field \"{path}\""));
    }

    /// The path as Go words it in type errors: of struct fields alone.
    fn go_path(&self) -> String {
        let fields = self.path.iter().filter_map(|step| match step {
            Step::Field(name) => Some(*name),
            Step::Key(_) | Step::Index(_) => None,
        });
        fields.collect::<Vec<_>>().join(".")
    }
}

fn joined(mut path: String, name: &str) -> String {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
    path
}

/// Optional lists that upstream's types write even if they are empty: those
/// without `omitempty`.
const WRITTEN_EMPTY: &[(&str, &str)] = &[
    ("io.k8s.api.rbac.v1.Role", "rules"),
    ("io.k8s.api.rbac.v1.ClusterRole", "rules"),
    ("io.k8s.api.discovery.v1.EndpointSlice", "endpoints"),
    ("io.k8s.api.discovery.v1.EndpointSlice", "ports"),
    (
        "io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerStatus",
        "currentMetrics",
    ),
    (CUSTOM_KIND_STATUS, "conditions"),
    (CUSTOM_KIND_STATUS, "storedVersions"),
];

const CUSTOM_KIND_STATUS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.\
                                  CustomResourceDefinitionStatus";

/// True if a field of a built-in type is not written as it is: an optional
/// list or map without an entry.
fn is_omitted(owner: &Schema, property: &Property, value: &Value) -> bool {
    let empty = match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty() && property.schema.map_values().is_some(),
        _ => false,
    };
    let field = property.name.as_ref();
    empty
        && !owner.is_custom()
        && property.schema.kind() != Type::Any
        && !owner.required().iter().any(|name| name.as_ref() == field)
        && !WRITTEN_EMPTY.contains(&(owner.name().unwrap_or_default(), field))
}

/// Reads one value.
#[derive(Clone, Copy)]
struct Seed<'c, 's> {
    schema: Option<&'s Schema>,
    context: &'c RefCell<Context<'s>>,
    /// The Go struct that the value is a field of; for errors.
    owner: &'static str,
}

impl<'c, 's> Seed<'c, 's> {
    fn root(schema: Option<&'s Schema>, context: &'c RefCell<Context<'s>>) -> Self {
        Self {
            schema,
            context,
            owner: "",
        }
    }

    fn below(&self, schema: Option<&'s Schema>) -> Self {
        let own = self.schema.and_then(Schema::name);
        let owner = own.and_then(|name| name.rsplit('.').next());
        Self {
            schema,
            context: self.context,
            owner: owner.unwrap_or(self.owner),
        }
    }

    fn fail<E: Error>(&self, failure: String) -> E {
        self.context.borrow_mut().failure = Some(failure);
        E::custom("refused")
    }

    /// `found` stands where the schema wants something else.
    fn mismatch<E: Error>(&self, found: &str) -> E {
        let wanted = self.schema.map(scalar::go_type).unwrap_or_default();
        let path = self.context.borrow().go_path();
        self.fail(if path.is_empty() {
            format!("json: cannot unmarshal {found} into Go value of type {wanted}")
        } else {
            let owner = self.owner;
            format!(
                "json: cannot unmarshal {found} into Go struct field {owner}.{path} of type \
                 {wanted}"
            )
        })
    }

    fn scalar<E: Error>(&self, value: Value) -> Result<Value, E> {
        let Some(schema) = self.schema.filter(|s| !s.is_custom()) else {
            return Ok(value);
        };
        scalar::check(schema, value).map_err(|problem| match problem {
            scalar::Problem::Type(found) => self.mismatch(&found),
            scalar::Problem::Form(text) => self.fail(text),
        })
    }

    fn enter<E: Error>(&self, step: Step<'s>) -> Result<(), E> {
        let mut context = self.context.borrow_mut();
        if context.path.len() >= MAX_DEPTH {
            context.failure = Some("exceeded max depth".to_owned());
            return Err(E::custom("refused"));
        }
        context.path.push(step);
        Ok(())
    }

    fn leave(&self) {
        self.context.borrow_mut().path.pop();
    }

    /// True if the value may be an array (or object) by its schema.
    fn admits(&self, wanted: Type) -> bool {
        self.schema
            .is_none_or(|s| s.is_custom() || matches!(s.kind(), Type::Any) || s.kind() == wanted)
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.scalar(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.scalar(Value::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.scalar(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.scalar(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.scalar(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        self.scalar(Value::String(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        if !self.admits(Type::Array) {
            return Err(self.mismatch("array"));
        }
        let schema = self.schema.and_then(Schema::items);
        let mut items = Vec::new();
        loop {
            self.enter(Step::Index(items.len()))?;
            let item = seq.next_element_seed(self.below(schema))?;
            self.leave();
            match item {
                Some(Value::Null) => items.push(scalar::zero(schema)),
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        if !self.admits(Type::Object) {
            return Err(self.mismatch("object"));
        }
        let keep_unknown = self.schema.is_none_or(|s| s.preserves_unknown_fields());
        let keep_nulls = self
            .schema
            .is_none_or(|s| s.is_custom() || s.preserves_unknown_fields());
        let mut object = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let property = self.schema.and_then(|s| s.property(&name));
            let (step, schema) = match (property, self.schema.and_then(Schema::map_values)) {
                (Some(p), _) => (Step::Field(p.name.as_ref()), Some(&p.schema)),
                (None, Some(values)) => (Step::Key(name.clone()), Some(values)),
                (None, None) if keep_unknown => (Step::Key(name.clone()), None),
                (None, None) => {
                    self.context.borrow_mut().report("unknown", &name);
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            self.enter(step)?;
            let value = map.next_value_seed(self.below(schema))?;
            self.leave();
            if object.contains_key(&name) {
                self.context.borrow_mut().report("duplicate", &name);
            }
            match value {
                Value::Null if keep_nulls => {
                    object.insert(name, Value::Null);
                }
                Value::Null if property.is_some() => {}
                value
                    if self
                        .schema
                        .zip(property)
                        .is_some_and(|(owner, field)| is_omitted(owner, field, &value)) =>
                {
                    // Or an earlier duplicate would stand.
                    object.remove(&name);
                }
                Value::Null => {
                    object.insert(name, scalar::zero(schema));
                }
                value => {
                    object.insert(name, value);
                }
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::gvk::GroupVersionKind;
    use crate::schema::builtin;

    fn kind(group: &'static str, kind: &'static str) -> Schema {
        builtin()
            .kind(&GroupVersionKind::new(group, "v1", kind))
            .unwrap()
    }

    fn pod(spec: Value) -> Vec<u8> {
        json!({"apiVersion": "v1", "kind": "Pod", "spec": spec})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn unknown_and_duplicate_fields_are_reported() {
        let body =
            br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","creationTimestamp":null},
            "spec":{"containers":[{"name":"c","foo":1}],"nodeName":"a","nodeName":"b"},"Spec":{}}"#;
        let decoded = decode(body, Some(&kind("", "Pod")), FieldValidation::Warn).unwrap();
        assert_eq!(
            decoded.warnings,
            [
                "unknown field \"spec.containers[0].foo\"",
                "duplicate field \"spec.nodeName\"",
                "unknown field \"Spec\""
            ]
        );
        assert_eq!(
            decoded.object,
            json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},
                "spec":{"containers":[{"name":"c"}],"nodeName":"b"}})
        );
        let error = decode(body, Some(&kind("", "Pod")), FieldValidation::Strict).unwrap_err();
        assert_eq!(
            error.message,
            "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown \
             field \"spec.containers[0].foo\", duplicate field \"spec.nodeName\", unknown field \"Spec\""
        );
        let silent = decode(body, Some(&kind("", "Pod")), FieldValidation::Ignore).unwrap();
        assert!(silent.warnings.is_empty());
        let free = decode(body, None, FieldValidation::Ignore).unwrap();
        assert_eq!(free.object["Spec"], json!({}));
    }

    #[test]
    fn wrong_types_are_refused_in_the_words_of_go() {
        for (spec, message) in [
            (
                json!({"terminationGracePeriodSeconds": "5"}),
                "json: cannot unmarshal string into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64",
            ),
            (
                json!({"containers": [{"ports": [{"containerPort": "x"}]}]}),
                "json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
            ),
            (
                json!({"containers": [{"ports": [{"containerPort": 5_000_000_000_u64}]}]}),
                "json: cannot unmarshal number 5000000000 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
            ),
            (
                json!({"containers": {}}),
                "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                json!([]),
                "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec",
            ),
            (
                json!({"nodeSelector": {"a": 1}}),
                "json: cannot unmarshal number into Go struct field PodSpec.spec.nodeSelector of type string",
            ),
            (
                json!({"nodeSelector": 1}),
                "json: cannot unmarshal number into Go struct field PodSpec.spec.nodeSelector of type map[string]string",
            ),
            (
                json!({"containers": [{"resources": {"limits": {"cpu": "x"}}}]}),
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
        ] {
            let error =
                decode(&pod(spec), Some(&kind("", "Pod")), FieldValidation::Warn).unwrap_err();
            let expected = format!("Pod in version \"v1\" cannot be handled as a Pod: {message}");
            assert_eq!(error.message, expected);
            assert_eq!(error.code(), 400);
        }
    }

    #[test]
    fn values_become_canonical() {
        let body = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"creationTimestamp": "2026-01-02T05:04:05.9+02:00", "labels": {"a": null}},
            "spec": {"containers": [{"name": "c", "command": ["a", null],
                "resources": {"limits": {"cpu": 1, "memory": "1024Ki"}},
                "livenessProbe": {"httpGet": {"port": "web"}},
                "readinessProbe": {"httpGet": {"port": 80}}}]}});
        let decoded = decode_value(body, Some(&kind("", "Pod")), FieldValidation::Strict).unwrap();
        let object = decoded.object;
        assert_eq!(
            object["metadata"]["creationTimestamp"],
            "2026-01-02T03:04:05Z"
        );
        assert_eq!(object["metadata"]["labels"], json!({"a": ""}));
        let container = &object["spec"]["containers"][0];
        assert_eq!(container["command"], json!(["a", ""]));
        assert_eq!(
            container["resources"]["limits"],
            json!({"cpu": "1", "memory": "1Mi"})
        );
        assert_eq!(container["readinessProbe"]["httpGet"]["port"], 80);
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "spec": {"renewTime": "2026-01-02T03:04:05Z"}});
        let lease = decode_value(
            lease,
            Some(&kind("coordination.k8s.io", "Lease")),
            FieldValidation::Strict,
        );
        assert_eq!(
            lease.unwrap().object["spec"]["renewTime"],
            "2026-01-02T03:04:05.000000Z"
        );
        let secret = |data: &str| {
            let body = json!({"apiVersion": "v1", "kind": "Secret", "data": {"k": data}});
            decode_value(body, Some(&kind("", "Secret")), FieldValidation::Strict)
        };
        assert_eq!(secret("aGk=\n").unwrap().object["data"]["k"], "aGk=");
        assert!(secret("aGk").is_err());
        assert!(secret("a b=").is_err());
    }

    #[test]
    fn optional_lists_and_maps_without_entries_are_dropped() {
        let body = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "labels": {}, "annotations": {"k": ""}, "finalizers": []},
            "spec": {"volumes": [{"name": "v", "emptyDir": {}}], "nodeSelector": {},
                "securityContext": {}, "tolerations": [],
                "containers": [{"name": "c", "env": [], "resources": {"limits": {}}}]}});
        let decoded = decode_value(body, Some(&kind("", "Pod")), FieldValidation::Strict).unwrap();
        assert_eq!(
            decoded.object,
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "a", "annotations": {"k": ""}},
                "spec": {"volumes": [{"name": "v", "emptyDir": {}}], "securityContext": {},
                    "containers": [{"name": "c", "resources": {}}]}})
        );
        // Required ones and those that upstream writes in any case stay.
        let rbac = "rbac.authorization.k8s.io";
        for (group, name, body) in [
            ("", "Pod", json!({"spec": {"containers": []}})),
            (rbac, "Role", json!({"rules": []})),
            (
                "apps",
                "ControllerRevision",
                json!({"data": {"a": [], "b": {}}}),
            ),
        ] {
            let schema = kind(group, name);
            let decoded = decode_value(body.clone(), Some(&schema), FieldValidation::Strict);
            assert_eq!(decoded.unwrap().object, body);
        }
    }

    #[test]
    fn custom_kinds_keep_wrong_types_for_validation() {
        let schema = Schema::from_crd(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"n": {"type": "integer"}}}}}))
        .unwrap();
        let body = json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "x", "y": 1},
            "spec": {"n": "text", "z": 1}});
        let decoded = decode(
            body.to_string().as_bytes(),
            Some(&schema),
            FieldValidation::Warn,
        )
        .unwrap();
        assert_eq!(decoded.object["spec"], json!({"n": "text"}));
        assert_eq!(
            decoded.warnings,
            ["unknown field \"metadata.y\"", "unknown field \"spec.z\""]
        );
    }

    #[test]
    fn hostile_bodies_are_refused() {
        let pod = kind("", "Pod");
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for body in ["", "{", "[]", "1", "{\"a\":1}x", deep.as_str()] {
            assert!(
                decode(body.as_bytes(), Some(&pod), FieldValidation::Strict).is_err(),
                "{body}"
            );
        }
        let mut nested = Value::Null;
        for _ in 0..500 {
            nested = json!({"a": nested});
        }
        assert!(decode_value(nested, None, FieldValidation::Ignore).is_err());
        let large = vec![b' '; MAX_BODY_BYTES + 1];
        assert_eq!(
            decode(&large, None, FieldValidation::Warn)
                .unwrap_err()
                .code(),
            413
        );
        let many = format!(
            "{{{}}}",
            (0..500)
                .map(|i| format!("\"x{i}\":1"))
                .collect::<Vec<_>>()
                .join(",")
        );
        let decoded = decode(many.as_bytes(), Some(&pod), FieldValidation::Warn).unwrap();
        assert_eq!(decoded.warnings.len(), MAX_REPORTS);
    }
}
