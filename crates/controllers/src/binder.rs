//! Claims find volumes: those that ask for one by name, those that one is
//! reserved for, or the smallest that fits.

mod choice;

use std::sync::Arc;

use serde_json::{Value, json};

use self::choice::{Step, choose};
use crate::api::Api;
use crate::context::{Context, Task, enqueue_self};
use crate::error::{Error, found};
use crate::informer::Store;
use crate::objects::Kind;
use crate::objects::storage::{Claim, StorageClass, Volume};
use crate::queue::{Key, Next, Queue};

/// One at a time: two claims must not be promised the same volume.
const WORKERS: usize = 1;

struct Binder {
    api: Api,
    claims: Arc<Store<Claim>>,
    volumes: Arc<Store<Volume>>,
    classes: Arc<Store<StorageClass>>,
}

/// Registers the controller and returns its work. Keys with a namespace are
/// claims, those without are volumes.
pub(crate) fn start(context: &Context) -> Task {
    let queue = Queue::new();
    let binder = Arc::new(Binder {
        api: context.api.clone(),
        claims: context.store(),
        volumes: context.store(),
        classes: context.store(),
    });
    enqueue_self(&binder.claims, &queue);
    enqueue_self(&binder.volumes, &queue);
    let (of_claims, of_volumes) = (queue.clone(), queue.clone());
    // A claim that comes or goes changes what its volume is.
    binder.claims.subscribe(move |change| {
        let volume = &change.latest().spec.volume_name;
        if !volume.is_empty() {
            of_claims.add(Key::new("", volume.clone()));
        }
    });
    // A volume that is free may be what some claim waits for.
    let claims = binder.claims.clone();
    binder.volumes.subscribe(move |_| {
        for claim in claims.all() {
            if claim.status.phase != "Bound" {
                of_volumes.add(claim.metadata.key());
            }
        }
    });
    context.work("persistentvolume-binder", WORKERS, queue, move |key| {
        let binder = binder.clone();
        async move {
            let done = if key.namespace.is_empty() {
                binder.volume(&key).await
            } else {
                binder.claim(&key).await
            };
            match done {
                // It changed meanwhile, which brings it back here.
                Err(error) if error.is_conflict() => Ok(Next::Wait),
                outcome => outcome.map(|()| Next::Wait),
            }
        }
    })
}

impl Binder {
    async fn claim(&self, key: &Key) -> Result<(), Error> {
        let Some(claim) = self.claims.by_key(key) else {
            return Ok(());
        };
        let class = claim.spec.storage_class_name.as_deref().unwrap_or_default();
        let waits = self
            .classes
            .get("", class)
            .is_some_and(|c| c.waits_for_consumer());
        match choose(&claim, &self.volumes.all(), waits) {
            Step::Wait => Ok(()),
            Step::Lost => {
                let status = json!({"status": {"phase": "Lost"}});
                self.patch::<Claim>(&claim.metadata.key(), "status", &status)
                    .await
            }
            Step::Bind(volume) => self.bind(&claim, &volume).await,
        }
    }

    /// Reserves the volume first, so that a crash in between leaves nothing
    /// that the next pass does not finish.
    async fn bind(&self, claim: &Claim, volume: &Volume) -> Result<(), Error> {
        let (of_claim, of_volume) = (claim.metadata.key(), volume.metadata.key());
        let reserved = volume.spec.claim_ref.as_ref();
        if reserved.is_none_or(|r| r.uid != claim.metadata.uid) {
            let mut patch = json!({
                "metadata": {"resourceVersion": volume.metadata.resource_version},
                "spec": {"claimRef": {
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "namespace": of_claim.namespace, "name": of_claim.name,
                    "uid": claim.metadata.uid,
                }},
            });
            if reserved.is_none() {
                patch["metadata"]["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
            }
            self.patch::<Volume>(&of_volume, "", &patch).await?;
        }
        if volume.status.phase != "Bound" {
            let status = json!({"status": {"phase": "Bound"}});
            self.patch::<Volume>(&of_volume, "status", &status).await?;
        }
        if claim.spec.volume_name.is_empty() || claim.metadata.annotation(BIND_COMPLETED).is_none()
        {
            let mut annotations = json!({BIND_COMPLETED: "yes"});
            if claim.spec.volume_name.is_empty() {
                annotations[BOUND_BY_CONTROLLER] = "yes".into();
            }
            let patch = json!({
                "metadata": {"annotations": annotations},
                "spec": {"volumeName": of_volume.name},
            });
            self.patch::<Claim>(&of_claim, "", &patch).await?;
        }
        let status = json!({"status": {
            "phase": "Bound",
            "accessModes": volume.spec.access_modes,
            "capacity": volume.spec.capacity,
        }});
        self.patch::<Claim>(&of_claim, "status", &status).await
    }

    /// The phase of a volume: free, taken, or left behind by its claim.
    async fn volume(&self, key: &Key) -> Result<(), Error> {
        let Some(volume) = self.volumes.by_key(key) else {
            return Ok(());
        };
        let phase = match &volume.spec.claim_ref {
            None => "Available",
            Some(reserved) if reserved.uid.is_empty() => "Available",
            Some(reserved) => {
                let claim = self.claims.get(&reserved.namespace, &reserved.name);
                match claim.filter(|c| c.metadata.uid == reserved.uid) {
                    Some(_) => return Ok(()),
                    None => "Released",
                }
            }
        };
        if volume.status.phase == phase {
            return Ok(());
        }
        let status = json!({"status": {"phase": phase}});
        self.patch::<Volume>(key, "status", &status).await
    }

    async fn patch<T: Kind>(&self, key: &Key, part: &str, patch: &Value) -> Result<(), Error> {
        let patched = self
            .api
            .patch(T::RESOURCE, &key.namespace, &key.name, part, patch);
        found(patched.await).map(drop)
    }
}

const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
