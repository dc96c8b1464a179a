//! From an authorised request to the code that answers it.

use std::sync::Arc;

use coracle_machinery::schema::{self, FieldValidation};
use coracle_machinery::{ApiError, GroupResource, GroupVersionKind, Reason};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::body::{Body, json_bytes, json_value};
use crate::decode::{self, MAX_BODY};
use crate::health;
use crate::hooks::{Operation, RequestContext};
use crate::kind::Verb;
use crate::list;
use crate::negotiate::{ContentType, content_type, shape, takes_object};
use crate::patch::Patch;
use crate::protobuf;
use crate::query::{ListOptions, Query, parse_revision};
use crate::registry::Resource;
use crate::select::Filter;
use crate::server::Inner;
use crate::shape::Shaper;
use crate::special;
use crate::watching::{too_many_watches, watch};
use crate::write::delete::success;
use crate::write::meta;
use crate::write::options::{DeleteOptions, WriteOptions};
use crate::write::update::STALE;
use crate::write::{Deleted, MAX_ATTEMPTS, Part, Writer, Written};

/// A request to a stored resource, with all that its verb needs.
pub(crate) struct Call<'a> {
    pub(crate) server: &'a Arc<Inner>,
    pub(crate) context: &'a RequestContext,
    pub(crate) resource: Arc<Resource>,
    pub(crate) headers: HeaderMap,
    pub(crate) shaper: Shaper,
}

pub(crate) fn not_allowed() -> ApiError {
    ApiError::new(
        Reason::MethodNotAllowed,
        "the server does not allow this method on the requested resource",
    )
}

impl Inner {
    /// Answers an authorised request.
    pub(crate) async fn dispatch(
        self: &Arc<Self>,
        context: &RequestContext,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let info = &context.info;
        if let Some(aggregation) = &self.aggregation
            && let Some(remote) = aggregation.remote(&info.path)
        {
            return aggregation.forward(&remote, context, request).await;
        }
        request = protobuf::as_json(request).await?;
        if !info.is_resource
            && let Some(response) = health::answer(self, context).await
        {
            return Ok(response);
        }
        let Some(resource) = context.resource.clone() else {
            for route in &self.routes {
                match route.route(context, request).await {
                    Ok(response) => return Ok(response),
                    Err(back) => request = back,
                }
            }
            return Err(ApiError::no_such_path());
        };
        if let Some(warning) = &resource.kind.deprecation {
            context.warn(warning.clone());
        }
        if let Some(connector) = self.connectors.get(info) {
            self.admit_connect(context, &resource).await?;
            return connector.connect(context, request).await;
        }
        if info.verb.is_empty() {
            return Err(not_allowed());
        }
        check_place(context, &resource)?;
        if let Some(handler) = self.handlers.get(info) {
            takes_object(request.headers())?;
            let create = request.method() == Method::POST;
            let gvk = body_kind(context, &resource);
            let (parts, body) = request.into_parts();
            let body = if create {
                let form = content_type(&parts.headers, false)?;
                let bytes = body.read(MAX_BODY).await?;
                let schema = schema::builtin().kind(&gvk);
                let warn = |text| context.warn(text);
                let mut body =
                    decode::object(&bytes, form, schema.as_ref(), FieldValidation::Warn, &warn)?;
                if body.is_null() {
                    body = Value::Object(serde_json::Map::new());
                }
                decode::claim_kind(&mut body, &gvk)?;
                body
            } else {
                Value::Null
            };
            let answer = handler.handle(context, body).await?;
            let status = if create {
                StatusCode::CREATED
            } else {
                StatusCode::OK
            };
            return Ok(json_value(status, &answer));
        }
        let (parts, body) = request.into_parts();
        let shaper = Shaper::new(shape(&parts.headers)?, &context.query);
        let call = Call {
            server: self,
            context,
            resource,
            headers: parts.headers,
            shaper,
        };
        call.run(body).await
    }
}

impl Inner {
    /// Lets rules refuse a connection to a subresource. Reading a log is none.
    async fn admit_connect(
        &self,
        context: &RequestContext,
        resource: &Resource,
    ) -> Result<(), ApiError> {
        let info = &context.info;
        if info.subresource == "log" {
            return Ok(());
        }
        let warn = |text: String| context.warn(text);
        let writer = Writer {
            storage: &self.storage,
            resource,
            subresource: &info.subresource,
            user: &context.user,
            admission: &self.admission,
            options: &WriteOptions::default(),
            warn: &warn,
        };
        let options = connect_options(&body_kind(context, resource), &context.query);
        let at = (info.namespace.as_str(), info.name.as_str());
        writer.review(Operation::Connect, at, options).await?;
        Ok(())
    }
}

/// The query of a connection as an object: `PodExecOptions` and the like.
fn connect_options(gvk: &GroupVersionKind, query: &Query) -> Value {
    let mut options = json!({"kind": gvk.kind, "apiVersion": gvk.api_version()});
    for name in ["stdin", "stdout", "stderr", "tty"] {
        if query.get(name).is_some() {
            options[name] = query.flag(name).into();
        }
    }
    for name in ["container", "path"] {
        if let Some(text) = query.get(name) {
            options[name] = text.into();
        }
    }
    let command: Vec<&str> = query.all("command").collect();
    if !command.is_empty() {
        options["command"] = command.into();
    }
    options
}

/// The kind of a request's body: that of the subresource, if it has its own.
pub(crate) fn body_kind(context: &RequestContext, resource: &Resource) -> GroupVersionKind {
    let mut all = resource.kind.subresources.iter();
    let subresource = all.find(|s| s.name == context.info.subresource);
    let own = subresource.and_then(|s| s.kind.clone());
    own.unwrap_or_else(|| resource.kind.gvk.clone())
}

/// Refuses paths that a resource does not have, such as a node in a namespace.
fn check_place(context: &RequestContext, resource: &Resource) -> Result<(), ApiError> {
    let info = &context.info;
    // A namespace object stands in its own namespace, as authorisers see it.
    let itself = resource.group_resource == GroupResource::new("", "namespaces")
        && info.namespace == info.name;
    if !resource.namespaced() && !info.namespace.is_empty() && !itself {
        return Err(ApiError::no_such_path());
    }
    let whole = matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
    if resource.namespaced() && info.namespace.is_empty() && !whole {
        return Err(if info.verb == "create" && info.name.is_empty() {
            not_allowed()
        } else {
            ApiError::no_such_path()
        });
    }
    if !info.subresource.is_empty() && !resource.kind.has_subresource(&info.subresource) {
        return Err(ApiError::no_such_path());
    }
    Ok(())
}

impl Call<'_> {
    async fn run(self, body: Body) -> Result<Response<Body>, ApiError> {
        let info = &self.context.info;
        if !info.subresource.is_empty() {
            let kind = &self.resource.kind;
            let mut all = kind.subresources.iter();
            let subresource = all.find(|s| s.name == info.subresource);
            if !subresource.is_some_and(|s| s.verbs.iter().any(|v| v.as_str() == info.verb)) {
                return Err(not_allowed());
            }
            return match info.subresource.as_str() {
                "status" => self.object(body, Part::Status).await,
                _ => special::answer(&self, body).await,
            };
        }
        if !self.offers(&info.verb) {
            return Err(not_allowed());
        }
        match info.verb.as_str() {
            "list" => self.list().await,
            "watch" => self.watch().await,
            "create" => self.create(body).await,
            "deletecollection" => self.delete_collection(body).await,
            "delete" => self.delete(body).await,
            _ => self.object(body, Part::Main).await,
        }
    }

    fn offers(&self, verb: &str) -> bool {
        let verbs = self.resource.kind.verbs;
        verbs.iter().any(|v: &Verb| v.as_str() == verb)
    }

    /// The namespace of the objects, empty for cluster-scoped kinds.
    pub(crate) fn namespace(&self) -> &str {
        if self.resource.namespaced() {
            &self.context.info.namespace
        } else {
            ""
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.context.info.name
    }

    pub(crate) fn options(&self, kind: &'static str) -> Result<WriteOptions, ApiError> {
        let agent = self.headers.get(header::USER_AGENT);
        let agent = agent.and_then(|v| v.to_str().ok()).unwrap_or_default();
        WriteOptions::parse(&self.context.query, kind, agent)
    }

    pub(crate) fn writer<'w>(
        &'w self,
        options: &'w WriteOptions,
        warn: &'w (dyn Fn(String) + Send + Sync),
    ) -> Writer<'w> {
        Writer {
            storage: &self.server.storage,
            resource: &self.resource,
            subresource: &self.context.info.subresource,
            user: &self.context.user,
            admission: &self.server.admission,
            options,
            warn,
        }
    }

    /// get, update and patch of an object or of its status.
    pub(crate) async fn object(&self, body: Body, part: Part) -> Result<Response<Body>, ApiError> {
        match self.context.info.verb.as_str() {
            "get" => self.get().await,
            "update" => self.put(body, part).await,
            "patch" => self.patch(body, part).await,
            _ => Err(not_allowed()),
        }
    }

    pub(crate) async fn get(&self) -> Result<Response<Body>, ApiError> {
        let revision = self.context.query.get("resourceVersion");
        let at_least = parse_revision(revision.unwrap_or_default())?;
        let storage = &self.server.storage;
        let (namespace, name) = (self.namespace(), self.name());
        list::get(
            storage,
            &self.resource,
            namespace,
            name,
            at_least,
            &self.shaper,
        )
        .await
    }

    async fn list(&self) -> Result<Response<Body>, ApiError> {
        let options = ListOptions::parse(&self.context.query, false)?;
        let storage = Arc::clone(&self.server.storage);
        let resource = Arc::clone(&self.resource);
        let shaper = self.shaper.clone();
        list::list(storage, resource, self.namespace(), &options, shaper).await
    }

    async fn watch(&self) -> Result<Response<Body>, ApiError> {
        let options = ListOptions::parse(&self.context.query, true)?;
        let permit = Arc::clone(&self.server.watches)
            .try_acquire_owned()
            .map_err(|_| too_many_watches())?;
        watch(
            Arc::clone(&self.server.storage),
            Arc::clone(&self.resource),
            self.namespace(),
            self.name(),
            &options,
            self.shaper.clone(),
            permit,
            self.server.stop.clone(),
        )
        .await
    }

    /// The object in the body, in the stored form.
    async fn read(&self, body: Body, options: &WriteOptions) -> Result<Value, ApiError> {
        let form = content_type(&self.headers, false)?;
        let bytes = body.read(MAX_BODY).await?;
        let schema = self.resource.schema();
        let mut object = decode::object(
            &bytes,
            form,
            schema.as_ref(),
            options.field_validation,
            &|text| self.context.warn(text),
        )?;
        decode::claim_kind(&mut object, &self.resource.kind.gvk)?;
        Ok(self.resource.to_stored(object))
    }

    /// The body of a subresource that has a kind of its own.
    pub(crate) async fn read_own(&self, body: Body) -> Result<Value, ApiError> {
        let gvk = body_kind(self.context, &self.resource);
        let form = content_type(&self.headers, false)?;
        let bytes = body.read(MAX_BODY).await?;
        let schema = schema::builtin().kind(&gvk);
        let warn = |text| self.context.warn(text);
        let mut object =
            decode::object(&bytes, form, schema.as_ref(), FieldValidation::Warn, &warn)?;
        decode::claim_kind(&mut object, &gvk)?;
        Ok(object)
    }

    async fn create(&self, body: Body) -> Result<Response<Body>, ApiError> {
        if !self.resource.stored() {
            return special::create(self, body).await;
        }
        let options = self.options("CreateOptions")?;
        let object = self.read(body, &options).await?;
        let warn = |text: String| self.context.warn(text);
        let writer = self.writer(&options, &warn);
        let written = writer.create(self.namespace(), object).await?;
        self.respond(written).await
    }

    /// The answer to a write of the object itself.
    async fn respond(&self, written: Written) -> Result<Response<Body>, ApiError> {
        let (user, resource) = (&self.context.user, &self.resource);
        let written = self.server.completed(user, resource, written).await;
        let written = resource.serve_written(written).await?;
        written.respond(resource, &self.shaper)
    }

    async fn put(&self, body: Body, part: Part) -> Result<Response<Body>, ApiError> {
        let options = self.options("UpdateOptions")?;
        let mut object = self.read(body, &options).await?;
        meta::claim_namespace(&self.resource, &mut object, self.namespace())?;
        meta::claim_name(&mut object, self.name())?;
        let warn = |text: String| self.context.warn(text);
        let writer = self.writer(&options, &warn);
        let narrow = special::narrowing(&self.context.info);
        let mut change = |old: &Value| narrow(old, object.clone());
        let outcome = writer
            .update(self.namespace(), self.name(), part, &mut change)
            .await;
        let written = match outcome {
            Err(error)
                if error.reason == Reason::NotFound
                    && part == Part::Main
                    && self.resource.strategy().allow_create_on_update() =>
            {
                writer.create(self.namespace(), object).await?
            }
            outcome => outcome?,
        };
        self.respond(written).await
    }

    async fn patch(&self, body: Body, part: Part) -> Result<Response<Body>, ApiError> {
        let form = content_type(&self.headers, true)?;
        let options = self
            .options("PatchOptions")?
            .for_patch(&self.context.query, form == ContentType::Apply)?;
        let bytes = body.read(MAX_BODY).await?;
        let warn = |text: String| self.context.warn(text);
        let resource = &self.resource;
        let mut patch = Patch::read(form, &bytes, resource, &options, &warn)?;
        patch.restrict_to(part, resource.stored_kind.has_subresource("status"));
        let writer = self.writer(&options, &warn);
        let narrow = special::narrowing(&self.context.info);
        let subresource = &self.context.info.subresource;
        let mut change = |old: &Value| {
            let current = resource.to_served(old.clone());
            let new = patch.apply(&current, &options, subresource, &warn)?;
            narrow(old, self.claim(new)?)
        };
        for _ in 0..MAX_ATTEMPTS {
            let outcome = writer
                .update(self.namespace(), self.name(), part, &mut change)
                .await;
            let created = match outcome {
                Err(error) if error.reason == Reason::NotFound && part == Part::Main => {
                    let Some(new) = self.applied(&patch, &options)? else {
                        return Err(error);
                    };
                    writer.create(self.namespace(), new).await
                }
                outcome => outcome,
            };
            match created {
                // Somebody was quicker to create it: apply to that.
                Err(error) if error.reason == Reason::AlreadyExists => {}
                outcome => return self.respond(outcome?).await,
            }
        }
        Err(ApiError::conflict(
            &resource.group_resource,
            self.name(),
            STALE,
        ))
    }

    /// A changed object in the stored form, once it is what the URL says.
    fn claim(&self, mut object: Value) -> Result<Value, ApiError> {
        decode::claim_kind(&mut object, &self.resource.kind.gvk)?;
        meta::claim_namespace(&self.resource, &mut object, self.namespace())?;
        meta::claim_name(&mut object, self.name())?;
        Ok(self.resource.to_stored(object))
    }

    /// What an apply creates, or `None` for another patch.
    fn applied(&self, patch: &Patch, options: &WriteOptions) -> Result<Option<Value>, ApiError> {
        let Some(config) = patch.configuration() else {
            return Ok(None);
        };
        let uid = coracle_machinery::object::uid(config);
        if !uid.is_empty() {
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            );
            let resource = &self.resource.group_resource;
            return Err(ApiError::conflict(resource, self.name(), &why));
        }
        let new = patch.create(options, &self.context.info.subresource)?;
        new.map(|new| self.claim(new)).transpose()
    }

    async fn delete_options(&self, body: Body) -> Result<DeleteOptions, ApiError> {
        let bytes = body.read(MAX_BODY).await?;
        let value = if bytes.is_empty() {
            Value::Null
        } else {
            let form = content_type(&self.headers, false)?;
            decode::object(&bytes, form, None, FieldValidation::Ignore, &|_| {})?
        };
        DeleteOptions::parse(&self.context.query, &value)
    }

    async fn delete(&self, body: Body) -> Result<Response<Body>, ApiError> {
        let delete = self.delete_options(body).await?;
        let options = WriteOptions {
            dry_run: delete.dry_run,
            ..WriteOptions::default()
        };
        let warn = |text: String| self.context.warn(text);
        let writer = self.writer(&options, &warn);
        let deleted = writer
            .delete(self.namespace(), self.name(), &delete)
            .await?;
        match deleted {
            Deleted::Gone(written) => {
                let status = success(&self.resource, Some(&written.object()?));
                Ok(json_value(StatusCode::OK, &status))
            }
            Deleted::Marked(written) => {
                let written = self.resource.serve_written(written).await?;
                let bytes =
                    self.shaper
                        .single(&self.resource, &written.stored, written.revision)?;
                Ok(json_bytes(StatusCode::OK, bytes))
            }
        }
    }

    async fn delete_collection(&self, body: Body) -> Result<Response<Body>, ApiError> {
        let delete = self.delete_options(body).await?;
        let list = ListOptions::parse(&self.context.query, false)?;
        let filter = Filter::new(&list, &self.resource)?;
        let options = WriteOptions {
            dry_run: delete.dry_run,
            ..WriteOptions::default()
        };
        let warn = |text: String| self.context.warn(text);
        let writer = self.writer(&options, &warn);
        writer
            .delete_all(self.namespace(), &filter, &delete)
            .await?;
        Ok(json_value(StatusCode::OK, &success(&self.resource, None)))
    }
}
