//! Where other modules plug into the pipeline: admission, resources with
//! logic instead of storage, streams, other paths, health.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use coracle_machinery::ApiError;
use http::Response;
use serde_json::Value;

use crate::access::UserInfo;
use crate::body::Body;
use crate::objects::Objects;
use crate::query::Query;
use crate::registry::Resource;
use crate::request::RequestInfo;
use crate::sync::lock;

/// Warnings sent with one response; clients print them all.
const MAX_WARNINGS: usize = 50;
/// Bytes of one warning.
const MAX_WARNING_BYTES: usize = 1024;

/// One request, as hooks see it.
pub struct RequestContext {
    /// The caller, after impersonation.
    pub user: UserInfo,
    /// What is asked for.
    pub info: RequestInfo,
    /// The query parameters.
    pub query: Query,
    /// The row, if the path names a resource that is served.
    pub resource: Option<Arc<Resource>>,
    /// The server's objects.
    pub objects: Arc<dyn Objects>,
    /// True if nothing may be written (`dryRun=All`).
    pub dry_run: bool,
    warnings: Mutex<Vec<String>>,
}

impl RequestContext {
    /// A context without warnings yet.
    pub fn new(
        user: UserInfo,
        info: RequestInfo,
        query: Query,
        resource: Option<Arc<Resource>>,
        objects: Arc<dyn Objects>,
    ) -> Self {
        let dry_run = query.all("dryRun").any(|v| v == "All");
        Self {
            user,
            info,
            query,
            resource,
            objects,
            dry_run,
            warnings: Mutex::default(),
        }
    }

    /// Adds a text for a `Warning` header; over the bound it is dropped.
    pub fn warn(&self, text: impl Into<String>) {
        let mut text = text.into();
        let mut end = text.len().min(MAX_WARNING_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        let mut warnings = lock(&self.warnings);
        if warnings.len() < MAX_WARNINGS && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Takes the warnings that were added.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.warnings))
    }
}

/// A resource or subresource that computes its answer: token requests,
/// access reviews.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// The response body for a request body (null if there is none). A create
    /// is answered with 201.
    async fn handle(&self, context: &RequestContext, body: Value) -> Result<Value, ApiError>;
}

/// A subresource that takes the connection over: exec, attach, port-forward,
/// proxy, log.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Answers the request, already authorised. It is whole, with hyper's
    /// `OnUpgrade` in its extensions if the client may upgrade.
    async fn connect(
        &self,
        context: &RequestContext,
        request: http::Request<Body>,
    ) -> Result<Response<Body>, ApiError>;
}

/// Paths that name no stored resource: discovery, OpenAPI, aggregated groups.
#[async_trait]
pub trait Route: Send + Sync + 'static {
    /// Answers the request, already authorised, or hands it back.
    async fn route(
        &self,
        context: &RequestContext,
        request: http::Request<Body>,
    ) -> Result<Response<Body>, http::Request<Body>>;
}

/// What is being done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of AdmissionReview")]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// One write on its way through admission. Objects are in the stored form.
pub struct AdmissionRequest<'a> {
    /// What is being done.
    pub operation: Operation,
    /// Who does it.
    pub user: &'a UserInfo,
    /// The row of the resource.
    pub resource: &'a Resource,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// The namespace, or empty.
    pub namespace: &'a str,
    /// The name; empty on a create that leaves it to the server.
    pub name: &'a str,
    /// The new object; absent on delete. Mutating admission may change it.
    pub object: Option<Value>,
    /// The present object; absent on create.
    pub old: Option<&'a Value>,
    /// Nothing will be written.
    pub dry_run: bool,
    /// CreateOptions, UpdateOptions, PatchOptions or DeleteOptions.
    pub options: &'a Value,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
    /// Whether mutating rules have to run again.
    pub reinvocation: Reinvocation,
}

/// What webhooks note while an object is being changed. If one of them changed
/// it, all rules run once more, and those webhooks that ask for it.
#[derive(Debug, Default)]
pub struct Reinvocation {
    /// This is the second time.
    pub again: bool,
    /// A second time is needed.
    pub wanted: bool,
    /// The webhooks that were called, by name.
    pub called: Vec<String>,
    /// Those after which another webhook changed the object.
    pub due: Vec<String>,
    /// The object as the webhooks left it.
    pub left: Option<Value>,
}

/// A rule that writes have to pass.
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// True if the rule looks at such a request at all. Quick: it decides
    /// whether anything has to be prepared for the rule.
    fn handles(&self, _operation: Operation, _resource: &Resource, _subresource: &str) -> bool {
        true
    }

    /// Changes `request.object`, or refuses.
    async fn mutate(&self, _request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        Ok(())
    }

    /// Refuses, or not; what is written is final.
    async fn validate(&self, _request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        Ok(())
    }
}

/// What somebody else fills in right after a write, and the writer's answer
/// waits for.
pub trait Completion: Send + Sync + 'static {
    /// True if such objects are completed, and the caller is not the one who
    /// does so.
    fn handles(&self, user: &UserInfo, resource: &Resource) -> bool;

    /// True if the object, in the stored form, lacks something.
    fn awaited(&self, object: &Value) -> bool;
}

/// A check behind `/readyz` and `/livez`.
#[async_trait]
pub trait HealthCheck: Send + Sync + 'static {
    /// The name shown by `?verbose`.
    fn name(&self) -> &str;

    /// Why it is not well, if so.
    async fn check(&self) -> Result<(), String>;
}

/// Group, resource and subresource (or empty) of a hook.
pub(crate) type HookKey = (String, String, String);

/// Hooks by the resource that they serve, whatever the version.
pub(crate) struct HookTable<T: ?Sized>(HashMap<HookKey, Arc<T>>);

impl<T: ?Sized> Default for HookTable<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: ?Sized> HookTable<T> {
    pub(crate) fn insert(&mut self, group: &str, resource: &str, subresource: &str, hook: Arc<T>) {
        let key = (
            group.to_owned(),
            resource.to_owned(),
            subresource.to_owned(),
        );
        self.0.insert(key, hook);
    }

    pub(crate) fn get(&self, info: &RequestInfo) -> Option<&Arc<T>> {
        let key = (
            info.group.clone(),
            info.resource.clone(),
            info.subresource.clone(),
        );
        self.0.get(&key)
    }
}
