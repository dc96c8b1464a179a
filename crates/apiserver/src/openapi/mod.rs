//! OpenAPI documents, made from rows of kinds and their schemas when they are
//! asked for. kubectl reads from them which fields there are, and from the
//! query parameters of operations what the server can do.

mod descriptions;
mod operation;
mod paths;
pub mod protobuf;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_machinery::schema::{OpenApi, Schema, builtin};
use coracle_machinery::{GroupVersion, GroupVersionKind};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::discovery::Elsewhere;
use crate::kind::Kind;
use descriptions::Descriptions;

/// The version that documents state.
/// The version of Kubernetes that is served.
pub const KUBERNETES_VERSION: &str = "v1.36.2";

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Finds the schema of a kind: of custom kinds in particular, which are not
/// in machinery's table.
pub type SchemaOf<'a> = &'a dyn Fn(&Kind) -> Option<Schema>;

/// The schema of a built-in kind, if it is one.
pub fn builtin_schema(kind: &Kind) -> Option<Schema> {
    builtin().kind(&kind.gvk)
}

/// The answer to `GET /openapi/v3`: where the document of each group and
/// version lies. Clients may keep a document as long as its hash stays.
pub fn v3_index(kinds: &[Arc<Kind>], elsewhere: &[&Elsewhere], schema_of: SchemaOf<'_>) -> Value {
    let mut hashes: BTreeMap<String, Sha256> = BTreeMap::new();
    for kind in kinds {
        let path = v3_path(&kind.gvk.group_version());
        let hash = hashes.entry(path).or_insert_with(|| {
            let mut hash = Sha256::new();
            hash.update(env!("CARGO_PKG_VERSION"));
            hash
        });
        // Built-in schemas change with the program alone.
        hash.update(format!("{kind:?} {} {:?}", kind.plural, kind.subresources));
        if let Some(schema) = schema_of(kind).filter(|s| s.name().is_none()) {
            hash.update(schema.to_openapi_v3().to_string());
        }
    }
    let remote = elsewhere.iter().filter_map(|other| {
        let path = format!("apis/{}/{}", other.group, other.version);
        Some((path, other.openapi.clone()?))
    });
    let remote: Vec<(String, String)> = remote.collect();
    let own = hashes.into_iter().map(|(path, hash)| {
        let digest = hash.finalize();
        let hex: String = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        (path, hex)
    });
    // What another server serves hides what is served here.
    let paths: Map<String, Value> = own
        .chain(remote)
        .map(|(path, hex)| {
            let url = format!("/openapi/v3/{path}?hash={hex}");
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// `api/v1` or `apis/G/V`.
fn v3_path(gv: &GroupVersion) -> String {
    if gv.group.is_empty() {
        format!("api/{}", gv.version)
    } else {
        format!("apis/{}/{}", gv.group, gv.version)
    }
}

/// The group and version of a path below `/openapi/v3/`.
pub fn parse_v3_path(path: &str) -> Option<GroupVersion> {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["api", version] if !version.is_empty() => {
            Some(GroupVersion::new("", (*version).to_owned()))
        }
        ["apis", group, version] if !group.is_empty() && !version.is_empty() => Some(
            GroupVersion::new((*group).to_owned(), (*version).to_owned()),
        ),
        _ => None,
    }
}

/// The document of one group and version, or `None` if it is not served.
pub fn v3(kinds: &[Arc<Kind>], schema_of: SchemaOf<'_>, gv: &GroupVersion) -> Option<Value> {
    let members: Vec<&Kind> = kinds
        .iter()
        .map(Arc::as_ref)
        .filter(|k| k.gvk.group == gv.group && k.gvk.version == gv.version)
        .collect();
    if members.is_empty() {
        return None;
    }
    let (paths, schemas) = document(&members, schema_of, OpenApi::V3);
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": KUBERNETES_VERSION},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": bearer_token()},
        },
        "security": [{"BearerToken": []}],
    }))
}

/// The answer to `GET /openapi/v2`: everything in one document.
pub fn v2(kinds: &[Arc<Kind>], schema_of: SchemaOf<'_>) -> Value {
    let members: Vec<&Kind> = kinds.iter().map(Arc::as_ref).collect();
    let (paths, definitions) = document(&members, schema_of, OpenApi::V2);
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": KUBERNETES_VERSION},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": bearer_token()},
        "security": [{"BearerToken": []}],
    })
}

fn bearer_token() -> Value {
    json!({
        "description": "Bearer Token authentication",
        "type": "apiKey",
        "name": "authorization",
        "in": "header",
    })
}

/// Paths and definitions for these kinds.
fn document(
    kinds: &[&Kind],
    schema_of: SchemaOf<'_>,
    form: OpenApi,
) -> (Map<String, Value>, Map<String, Value>) {
    let mut names = BTreeSet::new();
    let mut definitions = Map::new();
    for name in [
        "DeleteOptions",
        "Status",
        "Patch",
        "APIResourceList",
        "ObjectMeta",
        "ListMeta",
        "WatchEvent",
    ] {
        refer(&mut names, &format!("{META}.{name}"));
    }
    let mut paths = Map::new();
    for kind in kinds {
        let schema = schema_of(kind);
        let body = match &schema {
            Some(schema) => match schema.name() {
                Some(name) => {
                    refer(&mut names, name);
                    name.to_owned()
                }
                None => custom(&mut definitions, kind, schema, form),
            },
            None => continue,
        };
        let list_gvk = with_kind(&kind.gvk, format!("{}List", kind.gvk.kind));
        let list = match builtin().kind(&list_gvk).and_then(|s| s.name()) {
            Some(name) => {
                refer(&mut names, name);
                name.to_owned()
            }
            None => format!("{body}List"),
        };
        for subresource in &kind.subresources {
            let schema = subresource
                .kind
                .as_ref()
                .and_then(|gvk| builtin().kind(gvk));
            if let Some(name) = schema.and_then(|s| s.name()) {
                refer(&mut names, name);
            }
        }
        paths::of_kind(&mut paths, kind, &body, &list, form);
    }
    let descriptions = Descriptions::of(&versions_of(kinds));
    for name in names {
        if let Some(schema) = builtin().definition(name) {
            let mut definition = match form {
                OpenApi::V2 => schema.to_openapi_v2(),
                OpenApi::V3 => schema.to_openapi_v3(),
            };
            descriptions.describe(name, &mut definition, form);
            definitions.insert(name.to_owned(), definition);
        }
    }
    (paths, definitions)
}

/// The groups and versions of kinds and of their subresources.
fn versions_of(kinds: &[&Kind]) -> Vec<GroupVersion> {
    let subresources = kinds.iter().flat_map(|kind| &kind.subresources);
    let others = subresources.filter_map(|s| s.kind.as_ref());
    let own = kinds.iter().map(|kind| &kind.gvk);
    own.chain(others)
        .map(GroupVersionKind::group_version)
        .collect()
}

fn with_kind(gvk: &GroupVersionKind, kind: String) -> GroupVersionKind {
    GroupVersionKind::new(gvk.group.clone(), gvk.version.clone(), kind)
}

/// Notes a built-in definition and all that it refers to.
fn refer(names: &mut BTreeSet<&'static str>, name: &str) {
    if names.contains(name) {
        return;
    }
    if let Some(schema) = builtin().definition(name) {
        names.extend(schema.referenced_definitions());
    }
}

/// Adds the definitions of a custom kind and of its list; the name of the
/// former.
fn custom(
    definitions: &mut Map<String, Value>,
    kind: &Kind,
    schema: &Schema,
    form: OpenApi,
) -> String {
    let gvk = &kind.gvk;
    let reversed: Vec<&str> = gvk.group.split('.').rev().collect();
    let name = format!("{}.{}.{}", reversed.join("."), gvk.version, gvk.kind);
    // kubectl would refuse every field beside those that it is told of.
    let free = form == OpenApi::V2 && schema.preserves_unknown_fields();
    let mut body = match form {
        OpenApi::V2 if free => json!({"type": "object"}),
        OpenApi::V2 => schema.to_openapi_v2(),
        OpenApi::V3 => schema.to_openapi_v3(),
    };
    if let Some(map) = body.as_object_mut().filter(|_| !free) {
        let properties = map.entry("properties").or_insert_with(|| json!({}));
        if let Some(properties) = properties.as_object_mut() {
            properties.insert("apiVersion".into(), json!({"type": "string"}));
            properties.insert("kind".into(), json!({"type": "string"}));
            properties.insert(
                "metadata".into(),
                form.reference(&format!("{META}.ObjectMeta")),
            );
        }
    }
    body["x-kubernetes-group-version-kind"] = gvk_list(gvk);
    let list_gvk = with_kind(gvk, format!("{}List", gvk.kind));
    let list = json!({
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": form.reference(&format!("{META}.ListMeta")),
            "items": {"type": "array", "items": form.reference(&name)},
        },
        "x-kubernetes-group-version-kind": gvk_list(&list_gvk),
    });
    definitions.insert(format!("{name}List"), list);
    definitions.insert(name.clone(), body);
    name
}

fn gvk_list(gvk: &GroupVersionKind) -> Value {
    json!([{"group": gvk.group, "kind": gvk.kind, "version": gvk.version}])
}

#[cfg(test)]
mod tests;
