//! Writing objects: what happens between a decoded object and the store.

pub mod create;
pub mod delete;
pub mod deletion;
pub mod meta;
pub mod options;
pub mod update;

use std::sync::Arc;

use bytes::Bytes;
use coracle_machinery::apply::track_update;
use coracle_machinery::{ApiError, FieldError};
use coracle_store::{Revision, Write};
use http::{Response, StatusCode};
use serde_json::Value;

use crate::access::UserInfo;
use crate::body::{Body, json_bytes};
use crate::codec;
use crate::hooks::{Admission, AdmissionRequest, Operation, Reinvocation};
use crate::registry::Resource;
use crate::shape::Shaper;
use crate::storage::Storage;
use options::WriteOptions;

pub use delete::Deleted;
pub use update::Part;

/// How often a write is tried again after it lost against another. Each loss is
/// somebody's success, so that only very many writers of one object come near;
/// upstream tries until the request ends.
pub const MAX_ATTEMPTS: usize = 100;

/// Writes objects of one resource on behalf of one caller. All objects are in
/// the stored form.
pub struct Writer<'a> {
    /// Where to.
    pub storage: &'a Storage,
    /// What.
    pub resource: &'a Resource,
    /// The subresource written through, or empty.
    pub subresource: &'a str,
    /// For whom.
    pub user: &'a UserInfo,
    /// The rules to pass, in order.
    pub admission: &'a [Arc<dyn Admission>],
    /// CreateOptions, UpdateOptions, PatchOptions or DeleteOptions.
    pub options: &'a WriteOptions,
    /// Takes texts for `Warning` headers.
    pub warn: &'a (dyn Fn(String) + Send + Sync),
}

/// An object as it is after a write.
#[derive(Clone, Debug)]
pub struct Written {
    /// The stored bytes.
    pub stored: Bytes,
    /// Its revision; 0 for a dry run of a create.
    pub revision: Revision,
    /// True if it did not exist before.
    pub created: bool,
}

impl Written {
    /// The object in the stored form.
    ///
    /// # Errors
    /// Damaged bytes.
    pub fn object(&self) -> Result<Value, ApiError> {
        codec::parse(&self.stored, self.revision)
    }

    /// The response: 201 if it was created.
    ///
    /// # Errors
    /// Damaged bytes.
    pub fn respond(
        &self,
        resource: &Resource,
        shaper: &Shaper,
    ) -> Result<Response<Body>, ApiError> {
        let status = if self.created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        if self.revision == 0 {
            let mut object = self.object()?;
            meta::remove(&mut object, &["resourceVersion"]);
            return Ok(json_bytes(status, shaper.single_value(resource, &object)?));
        }
        let bytes = shaper.single(resource, &self.stored, self.revision)?;
        Ok(json_bytes(status, bytes))
    }
}

impl Writer<'_> {
    fn handles(&self, rule: &Arc<dyn Admission>, operation: Operation) -> bool {
        rule.handles(operation, self.resource, self.subresource)
    }

    fn request<'r>(
        &'r self,
        operation: Operation,
        namespace: &'r str,
        name: &'r str,
        object: Option<Value>,
        old: Option<&'r Value>,
    ) -> AdmissionRequest<'r> {
        AdmissionRequest {
            operation,
            user: self.user,
            resource: self.resource,
            subresource: self.subresource,
            namespace,
            name,
            object,
            old,
            dry_run: self.options.dry_run,
            options: &self.options.object,
            warnings: Vec::new(),
            reinvocation: Reinvocation::default(),
        }
    }

    /// Runs the mutating rules; the object and whether any rule ran.
    async fn mutate(
        &self,
        operation: Operation,
        (namespace, name): (&str, &str),
        object: Value,
        old: Option<&Value>,
    ) -> Result<(Value, bool), ApiError> {
        let mut request = self.request(operation, namespace, name, Some(object), old);
        let mut ran = false;
        loop {
            for rule in self.admission {
                if self.handles(rule, operation) {
                    rule.mutate(&mut request).await?;
                    ran = true;
                }
            }
            if request.reinvocation.again || !request.reinvocation.wanted {
                break;
            }
            request.reinvocation.again = true;
        }
        let warnings = std::mem::take(&mut request.warnings);
        let object = request
            .object
            .take()
            .ok_or_else(|| ApiError::internal("admission lost the object"))?;
        drop(request);
        warnings.into_iter().for_each(self.warn);
        Ok((object, ran))
    }

    /// Runs the validating rules.
    async fn admit(
        &self,
        operation: Operation,
        (namespace, name): (&str, &str),
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        if !self.admission.iter().any(|r| self.handles(r, operation)) {
            return Ok(());
        }
        let mut request = self.request(operation, namespace, name, object.cloned(), old);
        for rule in self.admission {
            if self.handles(rule, operation) {
                rule.validate(&mut request).await?;
            }
        }
        let warnings = std::mem::take(&mut request.warnings);
        drop(request);
        warnings.into_iter().for_each(self.warn);
        Ok(())
    }

    /// Runs all rules over what is carried out rather than stored: a command's
    /// object, whose changes count, or none.
    ///
    /// # Errors
    /// What the rules say.
    pub(crate) async fn review(
        &self,
        operation: Operation,
        at: (&str, &str),
        object: Value,
    ) -> Result<Value, ApiError> {
        let (object, _) = self.mutate(operation, at, object, None).await?;
        self.admit(operation, at, Some(&object), None).await?;
        Ok(object)
    }

    fn check(&self, name: &str, errors: &[FieldError]) -> Result<(), ApiError> {
        if errors.is_empty() {
            return Ok(());
        }
        let kind = self.resource.kind.gvk.group_kind();
        Err(ApiError::invalid(&kind, name, errors))
    }

    /// Notes in `managedFields` who set what; an apply has done so itself.
    fn track(&self, live: Option<&Value>, new: &mut Value) {
        if self.options.applied || self.options.field_manager.is_empty() {
            return;
        }
        track_update(
            live,
            new,
            self.resource.stored_schema().as_ref(),
            &self.options.field_manager,
            &self.resource.stored_api_version,
            self.subresource,
            &meta::now(),
        );
    }

    fn put(&self, value: Bytes) -> Write {
        Write::Put {
            value,
            ttl_seconds: self.resource.stored_kind.ttl_seconds,
        }
    }
}
