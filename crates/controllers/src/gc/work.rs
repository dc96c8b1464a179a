//! What the garbage collector does to one object.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::{Api, Delete, Propagation, Resource};
use crate::error::{Error, found};
use crate::objects::core::MetadataOnly;
use crate::objects::{Meta, OwnerReference};
use crate::queue::{Next, Queue};

use super::Job;
use super::graph::{FOREGROUND, Graph, Node, ORPHAN};
use super::monitors::SharedCatalogue;

/// How soon to look again at an object whose owner is of a kind that is not
/// served: its definition may still come.
const UNKNOWN_KIND: Duration = Duration::from_secs(30);

pub(super) struct Collector {
    pub api: Api,
    pub graph: Arc<Mutex<Graph>>,
    pub catalogue: SharedCatalogue,
}

/// An owner reference, after the owner was looked for.
enum Owner {
    /// It exists.
    Solid,
    /// It exists and waits for its dependents to go.
    Waiting,
    /// It does not exist.
    Absent,
}

impl Collector {
    pub(super) async fn run(&self, job: Job, queue: &Queue<Job>) -> Result<Next, Error> {
        match job {
            Job::Delete(uid) => self.attempt_delete(&uid, queue).await,
            Job::Orphan(uid) => self.attempt_orphan(&uid).await,
        }
    }

    fn graph(&self) -> std::sync::MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object's metadata, fresh; `None` if it is gone or another one.
    async fn live(&self, node: &Node, uid: &str) -> Result<Option<Meta>, Error> {
        let live = self
            .api
            .get_metadata(&node.resource, &node.namespace, &node.name)
            .await;
        let Some(live) = found(live)? else {
            return Ok(None);
        };
        let object: MetadataOnly =
            serde_json::from_value(live).map_err(|source| Error::Decode {
                what: node.name.to_string(),
                source,
            })?;
        Ok(Some(object.metadata).filter(|meta| meta.uid == uid))
    }

    async fn attempt_delete(&self, uid: &str, queue: &Queue<Job>) -> Result<Next, Error> {
        let Some(node) = self.graph().node(uid).cloned() else {
            return Ok(Next::Wait);
        };
        if node.deleting && !node.foreground {
            return Ok(Next::Wait);
        }
        let Some(meta) = self.live(&node, uid).await? else {
            let jobs = self.graph().remove(uid);
            jobs.into_iter().for_each(|job| queue.add(job));
            return Ok(Next::Wait);
        };
        if meta.is_deleting() {
            if meta.has_finalizer(FOREGROUND) {
                return self.finish_foreground(&node, &meta, queue).await;
            }
            return Ok(Next::Wait);
        }
        if meta.owner_references.is_empty() {
            return Ok(Next::Wait);
        }
        self.judge(&node, &meta).await
    }

    /// Deletes an object, or drops its references to owners that are gone.
    async fn judge(&self, node: &Node, meta: &Meta) -> Result<Next, Error> {
        let (mut solid, mut waiting, mut absent) = (0, 0, 0);
        let mut keep: Vec<&OwnerReference> = Vec::new();
        for reference in &meta.owner_references {
            match self.look_for(node, reference).await? {
                None => return Ok(Next::After(UNKNOWN_KIND)),
                Some(Owner::Solid) => {
                    solid += 1;
                    keep.push(reference);
                }
                Some(Owner::Waiting) => waiting += 1,
                Some(Owner::Absent) => absent += 1,
            }
        }
        if solid > 0 {
            if waiting + absent > 0 {
                self.set_owners(node, meta, &keep).await?;
            }
            return Ok(Next::Wait);
        }
        let propagation = if waiting > 0 && self.graph().has_dependents(&meta.uid) {
            self.break_circle(node, meta).await?;
            Propagation::Foreground
        } else if meta.has_finalizer(ORPHAN) {
            Propagation::Orphan
        } else if meta.has_finalizer(FOREGROUND) {
            Propagation::Foreground
        } else {
            Propagation::Background
        };
        // By version as well: an owner that was added just now must count.
        let options = Delete {
            uid: Some(&meta.uid),
            resource_version: (waiting == 0).then_some(meta.resource_version.as_str()),
            propagation: Some(propagation),
            grace_seconds: None,
        };
        tracing::debug!(name = %node.name, kind = %node.resource.kind, "collecting");
        let deletion = self
            .api
            .delete(&node.resource, &node.namespace, &node.name, &options);
        found(deletion.await).map(|_| Next::Wait)
    }

    /// Looks for an owner; `None` if its kind is not served.
    async fn look_for(
        &self,
        node: &Node,
        reference: &OwnerReference,
    ) -> Result<Option<Owner>, Error> {
        let known = self.graph().node(&reference.uid).map(|owner| {
            let same_namespace = owner.namespace.is_empty() || owner.namespace == node.namespace;
            let foreground = owner.foreground && reference.block_owner_deletion == Some(true);
            (same_namespace, foreground)
        });
        match known {
            Some((true, true)) => return Ok(Some(Owner::Waiting)),
            Some((true, false)) => return Ok(Some(Owner::Solid)),
            // An owner in another namespace is no owner.
            Some((false, _)) => return Ok(Some(Owner::Absent)),
            None => {}
        }
        let catalogue = self
            .catalogue
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(resource) = catalogue.by_kind(&reference.api_version, &reference.kind) else {
            return Ok(None);
        };
        let resource: &Resource = resource;
        if resource.namespaced && node.namespace.is_empty() {
            // A cluster-wide object cannot be owned from within a namespace;
            // the reference names nothing that could be looked up.
            return Ok(None);
        }
        let live = self
            .api
            .get_metadata(resource, &node.namespace, &reference.name)
            .await;
        let Some(live) = found(live)? else {
            return Ok(Some(Owner::Absent));
        };
        if live["metadata"]["uid"] != reference.uid.as_str() {
            return Ok(Some(Owner::Absent));
        }
        let finalizers = live["metadata"]["finalizers"].as_array();
        let foreground = live["metadata"]["deletionTimestamp"].is_string()
            && finalizers.is_some_and(|it| it.iter().any(|name| name == FOREGROUND));
        let blocks = reference.block_owner_deletion == Some(true);
        Ok(Some(if foreground && blocks {
            Owner::Waiting
        } else {
            Owner::Solid
        }))
    }

    async fn set_owners(
        &self,
        node: &Node,
        meta: &Meta,
        owners: &[&OwnerReference],
    ) -> Result<(), Error> {
        let owners: Vec<Value> = owners.iter().map(|owner| owner.to_value()).collect();
        let patch = json!({"metadata": {
            "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": owners,
        }});
        let patched = self
            .api
            .patch(&node.resource, &node.namespace, &node.name, "", &patch);
        found(patched.await).map(drop)
    }

    /// Two objects that own each other would wait for ever: let the owners of
    /// an object whose dependents are being deleted no longer wait for it.
    async fn break_circle(&self, node: &Node, meta: &Meta) -> Result<(), Error> {
        let circular = self
            .graph()
            .dependents(&meta.uid)
            .iter()
            .any(|(_, it)| it.foreground);
        if !circular {
            return Ok(());
        }
        let mut owners = meta.owner_references.clone();
        for owner in &mut owners {
            if owner.block_owner_deletion == Some(true) {
                owner.block_owner_deletion = Some(false);
            }
        }
        self.set_owners(node, meta, &owners.iter().collect::<Vec<_>>())
            .await
    }

    /// Removes the finalizer once no dependent blocks.
    async fn finish_foreground(
        &self,
        node: &Node,
        meta: &Meta,
        queue: &Queue<Job>,
    ) -> Result<Next, Error> {
        let blocking: Vec<(String, Node)> =
            self.graph()
                .dependents(&meta.uid)
                .into_iter()
                .filter(|(_, dependent)| {
                    dependent.owners.iter().any(|owner| {
                        owner.uid == meta.uid && owner.block_owner_deletion == Some(true)
                    })
                })
                .collect();
        if blocking.is_empty() {
            self.remove_finalizer(node, meta, FOREGROUND).await?;
            return Ok(Next::Wait);
        }
        for (uid, dependent) in blocking {
            if !dependent.deleting {
                queue.add(Job::Delete(uid));
            }
        }
        Ok(Next::Wait)
    }

    async fn attempt_orphan(&self, uid: &str) -> Result<Next, Error> {
        let Some(node) = self.graph().node(uid).cloned() else {
            return Ok(Next::Wait);
        };
        let Some(meta) = self.live(&node, uid).await? else {
            return Ok(Next::Wait);
        };
        if !meta.is_deleting() || !meta.has_finalizer(ORPHAN) {
            return Ok(Next::Wait);
        }
        let dependents = self.graph().dependents(uid);
        for (dependent_uid, dependent) in dependents {
            let Some(live) = self.live(&dependent, &dependent_uid).await? else {
                continue;
            };
            let others: Vec<&OwnerReference> = live
                .owner_references
                .iter()
                .filter(|owner| owner.uid != uid)
                .collect();
            if others.len() < live.owner_references.len() {
                self.set_owners(&dependent, &live, &others).await?;
            }
        }
        self.remove_finalizer(&node, &meta, ORPHAN).await?;
        Ok(Next::Wait)
    }

    async fn remove_finalizer(&self, node: &Node, meta: &Meta, name: &str) -> Result<(), Error> {
        let others: Vec<&String> = meta.finalizers.iter().filter(|it| *it != name).collect();
        let patch = json!({"metadata": {
            "uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": others,
        }});
        let patched = self
            .api
            .patch(&node.resource, &node.namespace, &node.name, "", &patch);
        found(patched.await).map(drop)
    }
}
