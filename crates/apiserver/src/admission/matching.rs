//! Which requests the webhooks and policies of a tenant are for: their rules
//! and selectors.

use std::ops::Deref;
use std::sync::Arc;

use coracle_machinery::object::{self, items, text};
use coracle_machinery::selector::LabelSelector;
use coracle_machinery::{ApiError, GroupResource};
use serde_json::Value;

use super::is;
use crate::auth::core;
use crate::hooks::{AdmissionRequest, Operation};
use crate::objects::Objects;
use crate::registry::{Registry, Resource};

/// What a webhook or policy matches, compiled.
pub(super) struct Matcher {
    include: Vec<Rule>,
    exclude: Vec<Rule>,
    /// Other versions of the resource count, too.
    equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    /// Empty for all.
    names: Vec<String>,
    scope: String,
}

/// The version of the resource that a match was found for.
pub(super) enum Version<'a> {
    /// That of the request.
    Own(&'a Resource),
    /// Another, of equal meaning.
    Other(Arc<Resource>),
}

impl Deref for Version<'_> {
    type Target = Resource;

    fn deref(&self) -> &Resource {
        match self {
            Self::Own(resource) => resource,
            Self::Other(resource) => resource,
        }
    }
}

impl Matcher {
    /// Of a webhook.
    pub(super) fn of_webhook(webhook: &Value) -> Self {
        Self::new(items(webhook, "/rules"), &[], webhook)
    }

    /// Of `matchConstraints` of a policy or `matchResources` of a binding.
    pub(super) fn of_policy(resources: &Value) -> Self {
        let exclude = items(resources, "/excludeResourceRules");
        Self::new(items(resources, "/resourceRules"), exclude, resources)
    }

    /// True if there are rules of resources at all.
    pub(super) fn has_rules(&self) -> bool {
        !self.include.is_empty()
    }

    fn new(include: &[Value], exclude: &[Value], rest: &Value) -> Self {
        // Selectors were checked when they were written.
        let selector = |key: &str| match rest.get(key) {
            None | Some(Value::Null) => LabelSelector::everything(),
            Some(selector) => {
                LabelSelector::from_value(selector).unwrap_or_else(|_| LabelSelector::nothing())
            }
        };
        Self {
            include: include.iter().map(Rule::new).collect(),
            exclude: exclude.iter().map(Rule::new).collect(),
            equivalent: text(rest, "/matchPolicy") != "Exact",
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }

    /// The version that the request matches by its rules, if it does.
    pub(super) fn version<'r>(
        &self,
        request: &AdmissionRequest<'r>,
        registry: &Registry,
    ) -> Option<Version<'r>> {
        let own: &'r Resource = request.resource;
        if self.exclude.iter().any(|r| r.matches(own, request)) {
            return None;
        }
        if self.include.iter().any(|r| r.matches(own, request)) {
            return Some(Version::Own(own));
        }
        if !self.equivalent {
            return None;
        }
        let all = registry.all();
        let mut others = all
            .into_iter()
            .filter(|other| other.storage == own.storage && other.kind.gvk != own.kind.gvk);
        let found = others.find(|other| self.include.iter().any(|r| r.matches(other, request)))?;
        let excluded = self.exclude.iter().any(|r| r.matches(&found, request));
        (!excluded).then_some(Version::Other(found))
    }

    /// True if the selectors admit the request.
    ///
    /// # Errors
    /// If its namespace cannot be read.
    pub(super) async fn selects(
        &self,
        request: &AdmissionRequest<'_>,
        objects: &dyn Objects,
    ) -> Result<bool, ApiError> {
        Ok(self.selects_object(request) && self.selects_namespace(request, objects).await?)
    }

    fn selects_object(&self, request: &AdmissionRequest<'_>) -> bool {
        let labels = |object: &Value| object.pointer("/metadata/labels").cloned();
        let mut sides = request.object.as_ref().into_iter().chain(request.old);
        self.objects.is_everything() || sides.any(|side| self.objects.matches(&labels(side)))
    }

    async fn selects_namespace(
        &self,
        request: &AdmissionRequest<'_>,
        objects: &dyn Objects,
    ) -> Result<bool, ApiError> {
        if self.namespaces.is_everything() {
            return Ok(true);
        }
        let namespaces = core("namespaces");
        if is(request.resource, "", "namespaces") {
            let object = request.object.as_ref().or(request.old);
            let labels = object.and_then(|o| o.pointer("/metadata/labels"));
            return Ok(self.namespaces.matches(&labels.cloned()));
        }
        if request.namespace.is_empty() {
            return Ok(true);
        }
        let found = objects.get(&namespaces, "", request.namespace).await?;
        let found = found.ok_or_else(|| ApiError::not_found(&namespaces, request.namespace))?;
        let labels = found.pointer("/metadata/labels");
        Ok(self.namespaces.matches(&labels.cloned()))
    }
}

impl Rule {
    fn new(rule: &Value) -> Self {
        let list = |key: &str| -> Vec<String> {
            let all = rule.get(key).and_then(Value::as_array);
            let all = all.into_iter().flatten().filter_map(Value::as_str);
            all.map(str::to_owned).collect()
        };
        Self {
            operations: list("operations"),
            groups: list("apiGroups"),
            versions: list("apiVersions"),
            resources: list("resources"),
            names: list("resourceNames"),
            scope: text(rule, "/scope").to_owned(),
        }
    }

    fn matches(&self, resource: &Resource, request: &AdmissionRequest<'_>) -> bool {
        let any = |list: &[String], wanted: &str| list.iter().any(|l| l == "*" || l == wanted);
        any(&self.groups, &resource.group_resource.group)
            && any(&self.versions, &resource.kind.gvk.version)
            && any(&self.operations, operation_name(request.operation))
            && self.resources.iter().any(|r| names(r, resource, request))
            && (self.names.is_empty() || self.names.iter().any(|n| n == request.name))
            && match self.scope.as_str() {
                "Namespaced" => resource.namespaced(),
                "Cluster" => !resource.namespaced(),
                _ => true,
            }
    }
}

/// True if `RESOURCE[/SUBRESOURCE]` of a rule names what is asked for.
fn names(rule: &str, resource: &Resource, request: &AdmissionRequest<'_>) -> bool {
    let (plural, subresource) = rule.split_once('/').unwrap_or((rule, ""));
    (plural == "*" || plural == resource.group_resource.resource)
        && (subresource == "*" || subresource == request.subresource)
}

/// As rules and reviews have it.
pub(super) fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

/// True for the objects that set up webhooks and policies: nobody may lock
/// themselves out by them.
pub(super) fn is_exempt(resource: &GroupResource) -> bool {
    resource.group == "admissionregistration.k8s.io"
}

/// The namespace of a request as reviews show it: a namespace object lies in
/// itself.
pub(super) fn namespace_of<'a>(request: &'a AdmissionRequest<'_>) -> &'a str {
    if is(request.resource, "", "namespaces") {
        let object = request.object.as_ref().or(request.old);
        return match request.name {
            "" => object.map_or("", object::name),
            name => name,
        };
    }
    request.namespace
}
