//! Creating objects.

use bytes::Bytes;
use coracle_machinery::meta::validate_object_meta;
use coracle_machinery::object::{self, metadata_mut};
use coracle_machinery::{ApiError, names};
use coracle_store::{Expect, Outcome, Revision};
use serde_json::Value;

use super::{MAX_ATTEMPTS, Writer, Written, meta};
use crate::codec;
use crate::hooks::Operation;

/// Kinds whose creator reports the status at once: a node registers itself.
fn keeps_status(writer: &Writer<'_>) -> bool {
    let storage = &writer.resource.storage;
    storage.group.is_empty() && storage.resource == "nodes"
}

impl Writer<'_> {
    /// Creates an object in a namespace (empty for cluster-scoped kinds).
    ///
    /// # Errors
    /// Whatever is wrong with the object; `AlreadyExists`.
    pub async fn create(&self, namespace: &str, mut object: Value) -> Result<Written, ApiError> {
        meta::claim_namespace(self.resource, &mut object, namespace)?;
        if !object::resource_version(&object).is_empty() {
            return Err(ApiError::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let mut object = self.resource.at_stored_version(object).await?;
        let strategy = self.resource.strategy();
        self.drop_status(&mut object);
        strategy.default(&mut object);
        // Before admission: what rules add belongs to nobody.
        self.track(None, &mut object);
        let name = object::name(&object).to_owned();
        let at = (namespace, name.as_str());
        let (mut object, mutated) = self.mutate(Operation::Create, at, object, None).await?;
        meta::claim_namespace(self.resource, &mut object, namespace)?;
        if mutated {
            strategy.default(&mut object);
        }
        meta::fill_new(&mut object);
        let base = object::text(&object, "/metadata/generateName").to_owned();
        let generated = object::name(&object).is_empty() && !base.is_empty();
        if generated {
            set_generated_name(&mut object, &base);
        }
        self.prepare(&mut object);
        let name = object::name(&object).to_owned();
        let rule = strategy.name_rule();
        let mut errors = validate_object_meta(&object, self.resource.namespaced(), rule);
        errors.extend(strategy.validate(&object));
        errors.extend(strategy.validate_create(&object));
        self.check(&name, &errors)?;
        strategy.warnings(&object).into_iter().for_each(self.warn);
        self.admit(Operation::Create, (namespace, &name), Some(&object), None)
            .await?;
        self.insert(namespace, object, generated.then_some(base.as_str()))
            .await
    }

    fn drop_status(&self, object: &mut Value) {
        if self.resource.stored_kind.has_subresource("status")
            && !keeps_status(self)
            && let Some(map) = object.as_object_mut()
        {
            map.remove("status");
        }
    }

    fn prepare(&self, object: &mut Value) {
        let strategy = self.resource.strategy();
        self.drop_status(object);
        let tracks = strategy.tracks_generation(object);
        meta::set_generation(object, i64::from(tracks));
        strategy.prepare_for_create(object);
    }

    /// Stores a new object; a generated name that is taken is replaced.
    async fn insert(
        &self,
        namespace: &str,
        mut object: Value,
        base: Option<&str>,
    ) -> Result<Written, ApiError> {
        let resource = &self.resource.group_resource;
        for _ in 0..MAX_ATTEMPTS {
            let name = object::name(&object).to_owned();
            let stored = Bytes::from(codec::encode(&object));
            if let Some(revision) = self.claim(namespace, &name, &stored).await? {
                return Ok(Written {
                    stored,
                    revision,
                    created: true,
                });
            }
            match base {
                Some(base) => set_generated_name(&mut object, base),
                None => break,
            }
        }
        let name = object::name(&object);
        Err(ApiError::already_exists(resource, name))
    }

    /// Writes a key that must be free: the revision (0 for a dry run), or
    /// `None` if it is taken.
    async fn claim(
        &self,
        namespace: &str,
        name: &str,
        stored: &Bytes,
    ) -> Result<Option<Revision>, ApiError> {
        if self.options.dry_run {
            let present = self.storage.get(self.resource, namespace, name).await?;
            return Ok(present.is_none().then_some(0));
        }
        let key = self.resource.key(namespace, name);
        let write = self.put(stored.clone());
        let outcome = self
            .storage
            .write(self.resource, &key, Expect::Absent, write)
            .await?;
        Ok(match outcome {
            Outcome::Done { revision, .. } => Some(revision),
            Outcome::Mismatch { .. } => None,
        })
    }
}

fn set_generated_name(object: &mut Value, base: &str) {
    let name = names::generate_name(base, &mut rand::rng());
    metadata_mut(object).insert("name".into(), name.into());
}
