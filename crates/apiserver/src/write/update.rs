//! Changing objects: PUT, PATCH and the subresources that write.

use bytes::Bytes;
use coracle_machinery::meta::validate_object_meta_update;
use coracle_machinery::object::{self, items, metadata_mut};
use coracle_machinery::{ApiError, Reason};
use coracle_store::{Expect, KeyValue, Outcome, Write};
use serde_json::Value;

use super::deletion::{grace, held};
use super::{MAX_ATTEMPTS, Writer, Written, meta};
use crate::codec;
use crate::hooks::Operation;

/// Why a stale update is refused, in upstream's words.
pub const STALE: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// Which part of an object a write may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All but `status`, if that has a subresource.
    Main,
    /// Only `status`.
    Status,
    /// Whatever the subresource's own rules let through: the kind's rules are
    /// not applied.
    Special,
    /// As `Special`, but the new object must be valid by itself.
    Checked,
}

/// Makes the new object out of the present one, both in the stored form. Runs
/// again if the write lost against another.
pub type Change<'c> = &'c mut (dyn FnMut(&Value) -> Result<Value, ApiError> + Send);

impl Writer<'_> {
    /// Changes an object.
    ///
    /// # Errors
    /// `NotFound`, `Conflict`, whatever is wrong with the new object.
    pub async fn update(
        &self,
        namespace: &str,
        name: &str,
        part: Part,
        change: Change<'_>,
    ) -> Result<Written, ApiError> {
        let resource = &self.resource.group_resource;
        for _ in 0..MAX_ATTEMPTS {
            let present = self
                .storage
                .get(self.resource, namespace, name)
                .await?
                .ok_or_else(|| ApiError::not_found(resource, name))?;
            let mut old = codec::parse(&present.value, present.mod_revision)?;
            let new = if self.resource.kind.converter.is_some() {
                // Who changes it sees the version that is served.
                let shown = self.resource.at_served_version(old.clone()).await?;
                let new = change(&shown)?;
                old = self.resource.at_stored_version(old).await?;
                self.resource.at_stored_version(new).await?
            } else {
                change(&old)?
            };
            if let Some(written) = self.attempt(&present, &old, new, part).await? {
                return Ok(written);
            }
        }
        Err(ApiError::conflict(resource, name, STALE))
    }

    /// One try; `None` if it lost against another write.
    async fn attempt(
        &self,
        present: &KeyValue,
        old: &Value,
        mut new: Value,
        part: Part,
    ) -> Result<Option<Written>, ApiError> {
        let (namespace, name) = (object::namespace(old), object::name(old));
        let at = (namespace, name);
        self.check_identity(&new, old)?;
        restrict(self, &mut new, old, part);
        let strategy = self.resource.strategy();
        strategy.default(&mut new);
        // Before admission: what rules change belongs to nobody.
        self.track(Some(old), &mut new);
        let (mut new, mutated) = self.mutate(Operation::Update, at, new, Some(old)).await?;
        if mutated {
            restrict(self, &mut new, old, part);
            strategy.default(&mut new);
        }
        match part {
            Part::Main => strategy.prepare_for_update(&mut new, old),
            Part::Status => strategy.prepare_for_status_update(&mut new, old),
            Part::Special | Part::Checked => {}
        }
        meta::keep_system_fields(&mut new, old);
        if part != Part::Status
            && self.subresource != "binding"
            && strategy.tracks_generation(&new)
            && meta::spec_changed(&new, old)
        {
            meta::set_generation(&mut new, meta::generation(old) + 1);
        }
        let mut errors = validate_object_meta_update(&new, old);
        if matches!(part, Part::Main | Part::Checked) {
            let mut found = strategy.validate(&new);
            if !found.is_empty() {
                let known = strategy.validate(old);
                found.retain(|error| !known.contains(error));
            }
            errors.extend(found);
        }
        if part == Part::Main {
            errors.extend(strategy.validate_update(&new, old));
        }
        if part == Part::Status {
            errors.extend(strategy.validate_status_update(&new, old));
        }
        self.check(name, &errors)?;
        strategy.warnings(&new).into_iter().for_each(self.warn);
        self.admit(Operation::Update, at, Some(&new), Some(old))
            .await?;
        self.replace(present, old, &new).await
    }

    fn check_identity(&self, new: &Value, old: &Value) -> Result<(), ApiError> {
        let resource = &self.resource.group_resource;
        let name = object::name(old);
        if object::name(new) != name || object::namespace(new) != object::namespace(old) {
            return Err(ApiError::bad_request(
                "the name and namespace of an object cannot be changed",
            ));
        }
        let (uid, old_uid) = (object::uid(new), object::uid(old));
        if !uid.is_empty() && uid != old_uid {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {old_uid}"
            );
            return Err(ApiError::conflict(resource, name, &why));
        }
        let revision = object::resource_version(new);
        if revision.is_empty() {
            if !self.resource.strategy().allow_unconditional_update() {
                let path = coracle_machinery::FieldPath::new("metadata").child("resourceVersion");
                let error = coracle_machinery::FieldError::invalid(
                    &path,
                    0,
                    "must be specified for an update",
                );
                return self.check(name, &[error]);
            }
        } else if revision.parse::<u64>().is_err() {
            return Err(ApiError::new(
                Reason::BadRequest,
                format!("invalid resource version \"{revision}\""),
            ));
        } else if revision != "0" && revision != object::resource_version(old) {
            return Err(ApiError::conflict(resource, name, STALE));
        }
        Ok(())
    }

    /// Writes the new object, or deletes it if that was all it waited for.
    async fn replace(
        &self,
        present: &KeyValue,
        old: &Value,
        new: &Value,
    ) -> Result<Option<Written>, ApiError> {
        let stored = Bytes::from(codec::encode(new));
        let done = |revision| {
            Ok(Some(Written {
                stored: stored.clone(),
                revision,
                created: false,
            }))
        };
        let finished = object::is_terminating(old) && !held(self.resource, new) && grace(old) == 0;
        if self.options.dry_run || (!finished && stored == present.value) {
            return done(present.mod_revision);
        }
        let expect = Expect::Revision(present.mod_revision);
        let write = if finished {
            Write::Delete
        } else {
            self.put(stored.clone())
        };
        let outcome = self
            .storage
            .write(self.resource, &present.key, expect, write)
            .await?;
        match outcome {
            Outcome::Done { revision, .. } => done(revision),
            Outcome::Mismatch { .. } => Ok(None),
        }
    }
}

/// Metadata that a write of the status may change, too.
const STATUS_METADATA: &[&str] = &[
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
    "managedFields",
];

/// Groups whose kinds keep their metadata when the status is written. Custom
/// kinds do as well.
const RESETS_METADATA: &[&str] = &[
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "admissionregistration.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "resource.k8s.io",
    "storage.k8s.io",
];

/// Metadata of single kinds that a write of the status does not change:
/// group, resource, field.
const KEPT_BY_STATUS: &[(&str, &str, &str)] = &[
    ("", "pods", "ownerReferences"),
    ("apps", "deployments", "labels"),
];

/// Undoes what this part of the object may not change.
fn restrict(writer: &Writer<'_>, new: &mut Value, old: &Value, part: Part) {
    match part {
        Part::Main if writer.resource.stored_kind.has_subresource("status") => {
            restore(new, old, "status");
        }
        Part::Main | Part::Special | Part::Checked => {}
        Part::Status => {
            let status = new.get("status").cloned();
            let metadata = new.get("metadata").cloned().unwrap_or_default();
            *new = old.clone();
            if let Some(map) = new.as_object_mut() {
                match status {
                    Some(status) => map.insert("status".into(), status),
                    None => map.remove("status"),
                };
            }
            let storage = &writer.resource.storage;
            let custom = writer.resource.strategy().schema().is_some();
            let fields = if custom || RESETS_METADATA.contains(&storage.group.as_ref()) {
                &["managedFields"][..]
            } else {
                STATUS_METADATA
            };
            let kept = |field: &&str| {
                KEPT_BY_STATUS.iter().any(|(group, resource, kept)| {
                    storage.group == *group && storage.resource == *resource && kept == field
                })
            };
            for field in fields.iter().filter(|field| !kept(field)) {
                match metadata.get(*field) {
                    Some(value) => {
                        metadata_mut(new).insert((*field).to_owned(), value.clone());
                    }
                    None => meta::remove(new, &[*field]),
                }
            }
        }
    }
    meta::keep_system_fields(new, old);
}

/// Puts a top-level field back as it was.
fn restore(new: &mut Value, old: &Value, field: &str) {
    let Some(map) = new.as_object_mut() else {
        return;
    };
    match old.get(field) {
        Some(value) => map.insert(field.to_owned(), value.clone()),
        None => map.remove(field),
    };
}

/// The names in `metadata.finalizers`.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    items(object, "/metadata/finalizers")
        .iter()
        .filter_map(Value::as_str)
}
