//! One operation of one path, in either version of OpenAPI.

use coracle_machinery::GroupVersionKind;
use coracle_machinery::schema::OpenApi;
use serde_json::{Map, Value, json};

/// A parameter: name and type.
pub(super) type Parameter = (&'static str, &'static str);

/// What an operation takes and gives.
pub(super) struct Operation<'a> {
    /// `createCoreV1NamespacedPod`.
    pub id: String,
    /// `x-kubernetes-action`.
    pub action: &'static str,
    /// The kind that it is about.
    pub gvk: &'a GroupVersionKind,
    /// Query parameters.
    pub query: &'a [Parameter],
    /// Definition of the body and the content types that it may have.
    pub body: Option<(&'a str, &'a [&'a str])>,
    /// Status codes of success.
    pub codes: &'a [u16],
    /// Definition of the answer; `None` for free text.
    pub answer: Option<&'a str>,
}

const PRODUCES: &[&str] = &["application/json", "application/yaml"];

impl Operation<'_> {
    /// The operation as the document shows it.
    pub(super) fn render(&self, form: OpenApi) -> Value {
        let mut map = Map::new();
        map.insert("operationId".into(), self.id.as_str().into());
        map.insert("tags".into(), json!([tag(self.gvk)]));
        map.insert("x-kubernetes-action".into(), self.action.into());
        map.insert(
            "x-kubernetes-group-version-kind".into(),
            json!({"group": self.gvk.group, "kind": self.gvk.kind, "version": self.gvk.version}),
        );
        let mut parameters: Vec<Value> = Vec::new();
        match (form, self.body) {
            (OpenApi::V2, body) => {
                map.insert("schemes".into(), json!(["https"]));
                map.insert("produces".into(), json!(PRODUCES));
                let consumes = body.map_or(&["*/*"] as &[&str], |(_, types)| types);
                map.insert("consumes".into(), json!(consumes));
                if let Some((name, _)) = body {
                    parameters.push(json!({
                        "name": "body",
                        "in": "body",
                        "required": self.action != "delete" && self.action != "deletecollection",
                        "schema": form.reference(name),
                    }));
                }
            }
            (OpenApi::V3, Some((name, types))) => {
                let schema = json!({"schema": form.reference(name)});
                let content: Map<String, Value> = types
                    .iter()
                    .map(|t| ((*t).to_owned(), schema.clone()))
                    .collect();
                map.insert("requestBody".into(), json!({"content": content}));
            }
            (OpenApi::V3, None) => {}
        }
        parameters.extend(self.query.iter().map(|p| parameter(form, *p, "query")));
        if !parameters.is_empty() {
            map.insert("parameters".into(), Value::Array(parameters));
        }
        map.insert("responses".into(), self.responses(form));
        Value::Object(map)
    }

    fn responses(&self, form: OpenApi) -> Value {
        let schema = match self.answer {
            Some(name) => form.reference(name),
            None => json!({"type": "string"}),
        };
        let mut responses = Map::new();
        for code in self.codes {
            let description = match code {
                201 => "Created",
                202 => "Accepted",
                _ => "OK",
            };
            let answer = match form {
                OpenApi::V2 => json!({"description": description, "schema": schema}),
                OpenApi::V3 => {
                    let types = if self.answer.is_some() {
                        PRODUCES
                    } else {
                        &["*/*"]
                    };
                    let content: Map<String, Value> = types
                        .iter()
                        .map(|t| ((*t).to_owned(), json!({"schema": schema})))
                        .collect();
                    json!({"description": description, "content": content})
                }
            };
            responses.insert(code.to_string(), answer);
        }
        responses.insert("401".into(), json!({"description": "Unauthorized"}));
        Value::Object(responses)
    }
}

/// A parameter in the query or in the path.
pub(super) fn parameter(form: OpenApi, (name, kind): Parameter, place: &str) -> Value {
    let mut map = Map::new();
    map.insert("name".into(), name.into());
    map.insert("in".into(), place.into());
    if place == "path" {
        map.insert("required".into(), true.into());
    }
    match form {
        OpenApi::V2 => {
            map.insert("type".into(), kind.into());
            map.insert("uniqueItems".into(), true.into());
        }
        OpenApi::V3 => {
            map.insert("schema".into(), json!({"type": kind, "uniqueItems": true}));
        }
    }
    Value::Object(map)
}

/// `core_v1`, `rbacAuthorization_v1`, `stableExampleCom_v1`.
fn tag(gvk: &GroupVersionKind) -> String {
    let name = group_name(&gvk.group);
    let mut chars = name.chars();
    let lower: String = chars
        .next()
        .into_iter()
        .flat_map(char::to_lowercase)
        .chain(chars)
        .collect();
    format!("{lower}_{}", gvk.version)
}

/// `Core`, `RbacAuthorization`, `StableExampleCom`.
pub(super) fn group_name(group: &str) -> String {
    if group.is_empty() {
        return "Core".to_owned();
    }
    let short = group.strip_suffix(".k8s.io").unwrap_or(group);
    short.split('.').map(capitalised).collect()
}

/// The text with its first letter in upper case.
pub(super) fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .into_iter()
        .flat_map(char::to_uppercase)
        .chain(chars)
        .collect()
}
