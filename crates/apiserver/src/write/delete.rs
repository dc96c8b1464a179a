//! Deleting objects, one by one and in bulk.

use bytes::Bytes;
use coracle_machinery::{ApiError, object};
use coracle_store::{Expect, KeyValue, ListRequest, Outcome, Write};
use serde_json::{Value, json};

use super::deletion::{Plan, plan};
use super::options::DeleteOptions;
use super::update::STALE;
use super::{MAX_ATTEMPTS, Writer, Written};
use crate::codec;
use crate::hooks::Operation;
use crate::select::Filter;

/// Keys read at a time by a bulk delete.
const PAGE: usize = 200;

/// How a delete ended.
#[derive(Clone, Debug)]
pub enum Deleted {
    /// The object is gone; this is what it was.
    Gone(Written),
    /// The object is marked and still there.
    Marked(Written),
}

impl Writer<'_> {
    /// Deletes an object.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` with a precondition, and what admission says.
    pub async fn delete(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let resource = &self.resource.group_resource;
        for _ in 0..MAX_ATTEMPTS {
            let present = self
                .storage
                .get(self.resource, namespace, name)
                .await?
                .ok_or_else(|| ApiError::not_found(resource, name))?;
            let old = codec::parse(&present.value, present.mod_revision)?;
            self.preconditions(&old, options)?;
            self.admit(Operation::Delete, (namespace, name), None, Some(&old))
                .await?;
            let now = jiff::Timestamp::now().as_second();
            let next = plan(self.resource, &old, options, now);
            if let Some(deleted) = self.carry_out(&present, next, options.dry_run).await? {
                return Ok(deleted);
            }
        }
        Err(ApiError::conflict(resource, name, STALE))
    }

    fn preconditions(&self, old: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
        let refuse = |field: &str, wanted: &str, found: &str| {
            let why = format!(
                "Precondition failed: {field} in precondition: {wanted}, {field} in object meta: {found}"
            );
            let resource = &self.resource.group_resource;
            Err(ApiError::conflict(resource, object::name(old), &why))
        };
        match (&options.uid, &options.resource_version) {
            (Some(uid), _) if uid != object::uid(old) => refuse("UID", uid, object::uid(old)),
            (_, Some(revision)) if revision != object::resource_version(old) => {
                let found = object::resource_version(old);
                refuse("ResourceVersion", revision, found)
            }
            _ => Ok(()),
        }
    }

    /// `None` if the write lost against another.
    async fn carry_out(
        &self,
        present: &KeyValue,
        plan: Plan,
        dry_run: bool,
    ) -> Result<Option<Deleted>, ApiError> {
        let written = |stored: &Bytes, revision| Written {
            stored: stored.clone(),
            revision,
            created: false,
        };
        let expect = Expect::Revision(present.mod_revision);
        let (stored, write) = match plan {
            Plan::Pending => {
                let same = written(&present.value, present.mod_revision);
                return Ok(Some(Deleted::Marked(same)));
            }
            Plan::Remove => (present.value.clone(), Write::Delete),
            Plan::Mark(new) => {
                let stored = Bytes::from(codec::encode(&new));
                (stored.clone(), self.put(stored))
            }
        };
        let gone = matches!(write, Write::Delete);
        let revision = if dry_run {
            present.mod_revision
        } else {
            let outcome = self
                .storage
                .write(self.resource, &present.key, expect, write)
                .await?;
            match outcome {
                Outcome::Done { revision, .. } => revision,
                Outcome::Mismatch { .. } => return Ok(None),
            }
        };
        let written = written(&stored, revision);
        Ok(Some(if gone {
            Deleted::Gone(written)
        } else {
            Deleted::Marked(written)
        }))
    }

    /// Deletes all objects that a filter admits, of one namespace or (if that
    /// is empty) of all. Stops at the first error but for objects that went
    /// away by themselves.
    ///
    /// # Errors
    /// As `delete`.
    pub async fn delete_all(
        &self,
        namespace: &str,
        filter: &Filter,
        options: &DeleteOptions,
    ) -> Result<(), ApiError> {
        let mut request = ListRequest {
            prefix: self.resource.list_prefix(namespace),
            limit: Some(PAGE),
            ..ListRequest::default()
        };
        loop {
            let page = self.storage.list(request.clone()).await?;
            for item in &page.items {
                if !filter.admits_stored(&item.key, &item.value, self.resource) {
                    continue;
                }
                let (namespace, name) = self.resource.split_key(&item.key);
                match self.delete(namespace, name, options).await {
                    Err(error) if error.code() == 404 => {}
                    outcome => {
                        outcome?;
                    }
                }
            }
            // Later pages are read at the present revision: what was created
            // meanwhile may or may not be deleted, as upstream.
            request.after = page.items.last().map(|kv| kv.key.clone());
            if page.remaining == 0 || page.items.is_empty() {
                return Ok(());
            }
        }
    }
}

/// The Status that tells of a removed object.
pub fn success(resource: &crate::registry::Resource, object: Option<&Value>) -> Value {
    let mut details = json!({"kind": resource.group_resource.resource});
    if !resource.group_resource.group.is_empty() {
        details["group"] = resource.group_resource.group.clone().into();
    }
    if let Some(object) = object {
        details["name"] = object::name(object).into();
        details["uid"] = object::uid(object).into();
    }
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    })
}
