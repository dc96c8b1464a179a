//! Claims find volumes: those that ask for one by name, those that one is
//! reserved for, or the smallest that fits.

mod choice;

use std::sync::Arc;

use serde_json::{Value, json};

use self::choice::{Policy, Step, choose};
use crate::api::Api;
use crate::context::{Context, Task, enqueue_self};
use crate::error::{Error, found};
use crate::events::{Recorder, Severity};
use crate::informer::Store;
use crate::objects::Kind;
use crate::objects::core::Node;
use crate::objects::storage::{Claim, StorageClass, Volume};
use crate::queue::{Key, Next, Queue};

/// One at a time: two claims must not be promised the same volume.
const WORKERS: usize = 1;

struct Binder {
    api: Api,
    events: Recorder,
    nodes: Arc<Store<Node>>,
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
        events: context.events.clone(),
        nodes: context.store(),
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
    // A class may come after the claims that name it.
    let (of_classes, claims) = (queue.clone(), binder.claims.clone());
    binder.classes.subscribe(move |change| {
        let class = change.latest().metadata.name.as_str();
        for claim in claims.all() {
            let waits = claim.status.phase != "Bound";
            if waits && claim.spec.storage_class_name.as_deref() == Some(class) {
                of_classes.add(claim.metadata.key());
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
        let found = self.classes.get("", class);
        let selected = claim.metadata.annotation(SELECTED_NODE);
        let policy = Policy {
            waits: found.as_ref().is_some_and(|c| c.waits_for_consumer()),
            selected: selected.and_then(|node| self.nodes.get("", node)),
        };
        match choose(&claim, &self.volumes.all(), &policy) {
            Step::Done => Ok(()),
            Step::Lost => {
                let status = json!({"status": {"phase": "Lost"}});
                self.patch::<Claim>(&claim.metadata.key(), "status", &status)
                    .await
            }
            Step::Bind(volume) => self.bind(&claim, &volume).await,
            Step::AwaitConsumer => {
                let message = "waiting for first consumer to be created before binding";
                self.tell(&claim, Severity::Normal, "WaitForFirstConsumer", message);
                Ok(())
            }
            Step::Provision if class.is_empty() => {
                let message =
                    "no persistent volumes available for this claim and no storage class is set";
                self.tell(&claim, Severity::Normal, "FailedBinding", message);
                Ok(())
            }
            Step::Provision => self.provision(&claim, class, found.as_deref()).await,
        }
    }

    /// Asks the provisioner of the claim's class for a volume.
    async fn provision(
        &self,
        claim: &Claim,
        name: &str,
        class: Option<&StorageClass>,
    ) -> Result<(), Error> {
        let Some(class) = class else {
            let message = format!("storageclass.storage.k8s.io \"{name}\" not found");
            self.tell(claim, Severity::Warning, "ProvisioningFailed", &message);
            return Ok(());
        };
        let provisioner = class.provisioner.as_str();
        if provisioner == NO_PROVISIONER {
            return Ok(());
        }
        if claim.metadata.annotation(PROVISIONER) != Some(provisioner) {
            let patch = json!({"metadata": {"annotations": {
                PROVISIONER: provisioner, PROVISIONER_BETA: provisioner,
            }}});
            self.patch::<Claim>(&claim.metadata.key(), "", &patch)
                .await?;
            let message = format!(
                "Waiting for a volume to be created either by the external provisioner \
                 '{provisioner}' or manually by the system administrator. If volume creation is \
                 delayed, please verify that the provisioner is running and correctly registered."
            );
            self.tell(claim, Severity::Normal, "ExternalProvisioning", &message);
        }
        Ok(())
    }

    fn tell(&self, claim: &Claim, severity: Severity, reason: &'static str, message: &str) {
        let about = (Claim::RESOURCE, &claim.metadata);
        let component = "persistentvolume-controller";
        self.events
            .record(component, about, severity, reason, message.to_owned());
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
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The name by which older provisioners know it.
const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The provisioner of classes whose volumes somebody makes by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
