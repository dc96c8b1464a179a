//! The paths of a kind and the operations that they offer.

use coracle_machinery::GroupVersionKind;
use coracle_machinery::schema::{OpenApi, builtin};
use serde_json::{Map, Value, json};

use super::META;
use super::operation::{Operation, Parameter, capitalised, group_name, parameter};
use crate::kind::{Kind, Scope, Subresource, Verb};

const BODY_TYPES: &[&str] = &["application/json", "application/yaml"];
const PATCH_TYPES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
/// Custom kinds have no strategic merge.
const CUSTOM_PATCH_TYPES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
];

const DRY_RUN: Parameter = ("dryRun", "string");
const MANAGER: Parameter = ("fieldManager", "string");
const VALIDATION: Parameter = ("fieldValidation", "string");
const WRITE: &[Parameter] = &[DRY_RUN, MANAGER, VALIDATION];
const PATCH: &[Parameter] = &[DRY_RUN, MANAGER, VALIDATION, ("force", "boolean")];
const DELETE: &[Parameter] = &[
    DRY_RUN,
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const DELETE_COLLECTION: &[Parameter] = &[
    DRY_RUN,
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("gracePeriodSeconds", "integer"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
];

/// What the operations of one kind share.
struct Context<'a> {
    kind: &'a Kind,
    /// Definition of the kind.
    body: &'a str,
    /// Definition of its list.
    list: &'a str,
    form: OpenApi,
    /// `CoreV1NamespacedPod`, the tail of operation ids.
    name: String,
    /// `CoreV1`, the part of it for the group and version.
    prefix: String,
    /// `CoreV1CollectionNamespacedPod`, likewise.
    collection_name: String,
}

/// Adds the paths of a kind.
pub(super) fn of_kind(
    paths: &mut Map<String, Value>,
    kind: &Kind,
    body: &str,
    list: &str,
    form: OpenApi,
) {
    let gvk = &kind.gvk;
    let namespaced = kind.scope == Scope::Namespaced;
    let prefix = format!("{}{}", group_name(&gvk.group), capitalised(&gvk.version));
    let scope = if namespaced { "Namespaced" } else { "" };
    let context = Context {
        kind,
        body,
        list,
        form,
        name: format!("{prefix}{scope}{}", gvk.kind),
        prefix: prefix.clone(),
        collection_name: format!("{prefix}Collection{scope}{}", gvk.kind),
    };
    let root = if gvk.group.is_empty() {
        format!("/api/{}", gvk.version)
    } else {
        format!("/apis/{}/{}", gvk.group, gvk.version)
    };
    let base = if namespaced {
        format!("{root}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{root}/{}", kind.plural)
    };
    if namespaced && kind.verbs.contains(&Verb::List) {
        let id = format!("list{prefix}{}ForAllNamespaces", gvk.kind);
        let entry = json!({"get": context.list_operation(id)});
        paths.insert(format!("{root}/{}", kind.plural), entry);
    }
    paths.insert(base.clone(), context.collection(namespaced));
    if kind.verbs.contains(&Verb::Get) {
        paths.insert(format!("{base}/{{name}}"), context.object(namespaced));
        for subresource in &kind.subresources {
            let path = format!("{base}/{{name}}/{}", subresource.name);
            paths.insert(path, context.subresource(subresource, namespaced));
        }
    }
}

impl Context<'_> {
    fn has(&self, verb: Verb) -> bool {
        self.kind.verbs.contains(&verb)
    }

    fn path_parameters(&self, namespaced: bool, named: bool) -> Value {
        let mut parameters = Vec::new();
        if named {
            parameters.push(parameter(self.form, ("name", "string"), "path"));
        }
        if namespaced {
            parameters.push(parameter(self.form, ("namespace", "string"), "path"));
        }
        parameters.push(parameter(self.form, ("pretty", "string"), "query"));
        Value::Array(parameters)
    }

    fn list_operation(&self, id: String) -> Value {
        Operation {
            id,
            action: "list",
            gvk: &self.kind.gvk,
            query: LIST,
            body: None,
            codes: &[200],
            answer: Some(self.list),
        }
        .render(self.form)
    }

    fn collection(&self, namespaced: bool) -> Value {
        let mut entry = Map::new();
        if self.has(Verb::List) {
            let operation = self.list_operation(format!("list{}", self.name));
            entry.insert("get".into(), operation);
        }
        if self.has(Verb::Create) {
            let operation = self.operation("create", "post", WRITE, &[200, 201, 202]);
            entry.insert("post".into(), operation);
        }
        if self.has(Verb::DeleteCollection) {
            let operation = Operation {
                id: format!("delete{}", self.collection_name),
                action: "deletecollection",
                gvk: &self.kind.gvk,
                query: DELETE_COLLECTION,
                body: Some((&format!("{META}.DeleteOptions"), BODY_TYPES)),
                codes: &[200],
                answer: Some(&format!("{META}.Status")),
            };
            entry.insert("delete".into(), operation.render(self.form));
        }
        entry.insert("parameters".into(), self.path_parameters(namespaced, false));
        Value::Object(entry)
    }

    fn object(&self, namespaced: bool) -> Value {
        let mut entry = Map::new();
        let answer = Some(self.body);
        let read = Operation {
            id: format!("read{}", self.name),
            action: "get",
            gvk: &self.kind.gvk,
            query: &[],
            body: None,
            codes: &[200],
            answer,
        };
        entry.insert("get".into(), read.render(self.form));
        if self.has(Verb::Update) {
            let operation = self.operation("replace", "put", WRITE, &[200, 201]);
            entry.insert("put".into(), operation);
        }
        if self.has(Verb::Patch) {
            let name = self.name.clone();
            entry.insert("patch".into(), self.patch(&self.kind.gvk, self.body, &name));
        }
        if self.has(Verb::Delete) {
            let operation = Operation {
                id: format!("delete{}", self.name),
                action: "delete",
                gvk: &self.kind.gvk,
                query: DELETE,
                body: Some((&format!("{META}.DeleteOptions"), BODY_TYPES)),
                codes: &[200, 202],
                answer: Some(&format!("{META}.Status")),
            };
            entry.insert("delete".into(), operation.render(self.form));
        }
        entry.insert("parameters".into(), self.path_parameters(namespaced, true));
        Value::Object(entry)
    }

    /// A write of the whole object.
    fn operation(
        &self,
        verb: &str,
        action: &'static str,
        query: &[Parameter],
        codes: &[u16],
    ) -> Value {
        Operation {
            id: format!("{verb}{}", self.name),
            action,
            gvk: &self.kind.gvk,
            query,
            body: Some((self.body, BODY_TYPES)),
            codes,
            answer: Some(self.body),
        }
        .render(self.form)
    }

    fn patch(&self, gvk: &GroupVersionKind, body: &str, name: &str) -> Value {
        let custom = builtin().definition(self.body).is_none();
        let types = if custom {
            CUSTOM_PATCH_TYPES
        } else {
            PATCH_TYPES
        };
        Operation {
            id: format!("patch{name}"),
            action: "patch",
            gvk,
            query: PATCH,
            body: Some((&format!("{META}.Patch"), types)),
            codes: &[200, 201],
            answer: Some(body),
        }
        .render(self.form)
    }

    fn subresource(&self, sub: &Subresource, namespaced: bool) -> Value {
        let gvk = sub.kind.as_ref().unwrap_or(&self.kind.gvk);
        let found = sub.kind.as_ref().and_then(|k| builtin().kind(k));
        // Options of streams have no definition of their own.
        let connect = sub.kind.is_some() && found.is_none() || gvk.kind.ends_with("Options");
        let body = found.and_then(|s| s.name()).unwrap_or(self.body);
        let name = format!("{}{}", self.name, capitalised(sub.name));
        let mut entry = Map::new();
        for verb in sub.verbs {
            let (method, id, action, query, codes): (_, _, _, &[Parameter], &[u16]) = match verb {
                Verb::Get => ("get", "read", "get", &[], &[200]),
                Verb::Create => ("post", "create", "post", WRITE, &[200, 201, 202]),
                Verb::Update => ("put", "replace", "put", WRITE, &[200, 201]),
                Verb::Patch => ("patch", "patch", "patch", PATCH, &[200, 201]),
                Verb::Delete => ("delete", "delete", "delete", &[], &[200]),
                Verb::List | Verb::Watch | Verb::DeleteCollection => continue,
            };
            if !connect && *verb == Verb::Patch {
                entry.insert(method.into(), self.patch(gvk, body, &name));
                continue;
            }
            let takes_body = matches!(verb, Verb::Create | Verb::Update);
            let operation = Operation {
                id: if connect {
                    let rest = name.strip_prefix(&self.prefix).unwrap_or(&name);
                    format!("connect{}{}{rest}", self.prefix, capitalised(method))
                } else {
                    format!("{id}{name}")
                },
                action: if connect { "connect" } else { action },
                gvk,
                query: if connect { &[] } else { query },
                body: (takes_body && !connect).then_some((body, BODY_TYPES)),
                codes: if connect { &[200] } else { codes },
                answer: (!connect && sub.name != "log").then_some(body),
            };
            entry.insert(method.into(), operation.render(self.form));
        }
        entry.insert("parameters".into(), self.path_parameters(namespaced, true));
        Value::Object(entry)
    }
}
