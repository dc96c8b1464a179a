//! The worker of one pod: a loop that brings the pod closer to what it
//! should be whenever something may have changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus, Service};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::reflector::Store;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::info;
use super::manager::PodIndex;
use super::runtime::{PodView, ViewReader};
use super::sandbox::{ResolvConf, SandboxSettings};
use super::status::{self, Waiting};
use crate::agent::NodeConfig;
use crate::cri::{Cri, CriError};
use crate::downward::NodeFacts;
use crate::events::{Kind, Recorder};
use crate::probes::ProbeSet;
use crate::volumes::{PodVolumes, VolumeError, Volumes};

/// First and longest pause after a failed step; each is twice the one before.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(15);
/// First pause where a volume was not ready: what a new namespace or a syncer
/// has yet to write (kube-root-ca.crt, a pod's token) is there in a moment.
const VOLUME_RETRY_FIRST: Duration = Duration::from_millis(50);
/// How often a pod's configMaps, secrets and tokens are looked at again.
pub(super) const REFRESH: Duration = Duration::from_secs(60);
/// Attempts at writing a status against concurrent writers.
const STATUS_ATTEMPTS: usize = 5;
/// Most containers whose termination messages are remembered per pod.
const MAX_MESSAGES: usize = 512;

/// What all workers share.
pub struct Shared {
    /// The agent's settings.
    pub config: Arc<NodeConfig>,
    /// The API server.
    pub client: kube::Client,
    /// The container runtime.
    pub cri: Cri,
    /// Facts for the downward API.
    pub facts: NodeFacts,
    /// Settings of sandboxes.
    pub sandbox: SandboxSettings,
    /// Volumes.
    pub volumes: Volumes,
    /// Events.
    pub events: Recorder,
    /// All services, for environment variables.
    pub services: Store<Service>,
    /// Pods by uid, for the kubelet endpoint and host ports.
    pub index: PodIndex,
    /// Bounds how many sandboxes are made at once.
    pub sandbox_slots: Semaphore,
}

impl Shared {
    /// The node's resolver configuration now.
    pub fn node_dns(&self) -> ResolvConf {
        ResolvConf::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
    }
}

/// What a worker is told of its pod.
#[derive(Debug, Clone)]
pub struct PodUpdate {
    /// The pod's newest state.
    pub pod: Arc<Pod>,
    /// The object does not exist any more.
    pub gone: bool,
}

impl PodUpdate {
    /// Whether the pod is to end.
    pub fn must_end(&self) -> bool {
        self.gone || self.pod.metadata.deletion_timestamp.is_some()
    }
}

/// Where a pod is in its life on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Containers are started and kept running.
    Live,
    /// Containers are being stopped. After an end of its own the pod goes to
    /// `Completed`; after a deletion its traces are removed.
    Ending(Ending),
    /// All containers have ended for good; sandbox and logs stay until the
    /// object is deleted.
    Completed,
    /// Everything is removed, the object too; the worker ends when it hears
    /// that the object is gone.
    Removed,
}

/// Why a pod ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The object is deleted.
    Deleted,
    /// All containers have ended and none is to be restarted.
    Finished,
    /// The node gives it up: reason and message of the failed pod.
    Failed(String, String),
}

/// A step that could not be made; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The runtime failed or is away.
    #[error(transparent)]
    Cri(#[from] CriError),
    /// The API server failed or is away.
    #[error(transparent)]
    Api(#[from] Box<kube::Error>),
    /// A volume is not ready.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The file system failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The pod is to end; what was under way was dropped.
    #[error("interrupted by the end of the pod")]
    Interrupted,
}

impl From<kube::Error> for SyncError {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

/// The worker of one pod.
pub struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) pod: Arc<Pod>,
    pub(super) gone: bool,
    pub(super) updates: watch::Receiver<PodUpdate>,
    pub(super) changed: Arc<Notify>,
    pub(super) stage: Stage,
    pub(super) view: PodView,
    pub(super) reader: ViewReader,
    pub(super) backoff: Backoff,
    pub(super) waiting: HashMap<String, Waiting>,
    pub(super) probes: ProbeSet,
    pub(super) messages: HashMap<String, String>,
    pub(super) volumes: PodVolumes,
    pub(super) volumes_at: Option<std::time::Instant>,
    failures: u32,
}

impl Worker {
    /// A worker for the pod that `updates` tells of. `changed` wakes it when
    /// the runtime has news.
    pub fn new(
        shared: Arc<Shared>,
        mut updates: watch::Receiver<PodUpdate>,
        changed: Arc<Notify>,
        rejected: Option<(String, String)>,
    ) -> Self {
        let first = updates.borrow_and_update().clone();
        let phase = first.pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let stage = match (phase, rejected) {
            (Some("Succeeded" | "Failed"), _) => Stage::Ending(Ending::Finished),
            (_, Some((reason, message))) => Stage::Ending(Ending::Failed(reason, message)),
            _ => Stage::Live,
        };
        Self {
            shared,
            pod: first.pod,
            gone: first.gone,
            updates,
            changed,
            stage,
            view: PodView::default(),
            reader: ViewReader::default(),
            backoff: Backoff::default(),
            waiting: HashMap::new(),
            probes: ProbeSet::default(),
            messages: HashMap::new(),
            volumes: PodVolumes::new(),
            volumes_at: None,
            failures: 0,
        }
    }

    /// Works until the pod is gone or the agent stops.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            self.take_update();
            let result = tokio::select! {
                result = self.step() => result,
                // Dropping a step half-way is safe: the next agent reads from
                // the runtime how far it came.
                () = shutdown.cancelled() => return,
            };
            let wake = match result {
                Ok(_) if self.stage == Stage::Removed && self.gone => return,
                Ok(wake) => {
                    self.failures = 0;
                    wake
                }
                Err(SyncError::Interrupted) => Some(Duration::ZERO),
                Err(error) => {
                    tracing::debug!(pod = info::name(&self.pod), %error, "pod not in order yet");
                    let pause = pause_after(&error, self.failures);
                    self.failures = self.failures.saturating_add(1);
                    Some(pause)
                }
            };
            let timer = async {
                match wake {
                    Some(wake) => tokio::time::sleep(wake).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.updates.changed() => if changed.is_err() { return },
                () = self.changed.notified() => {}
                () = timer => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn step(&mut self) -> Result<Option<Duration>, SyncError> {
        let deleted = self.gone || self.pod.metadata.deletion_timestamp.is_some();
        match &self.stage {
            Stage::Live | Stage::Completed if deleted => {
                self.stage = Stage::Ending(Ending::Deleted);
            }
            Stage::Ending(Ending::Finished | Ending::Failed(..)) if deleted => {
                self.stage = Stage::Ending(Ending::Deleted);
            }
            _ => {}
        }
        match self.stage.clone() {
            Stage::Live => self.sync().await,
            Stage::Ending(ending) => self.end(ending).await.map(|()| None),
            Stage::Completed | Stage::Removed => Ok(None),
        }
    }

    /// Takes over the newest state of the pod, unless the one at hand is
    /// newer (it is, after a write of the status).
    pub(super) fn take_update(&mut self) {
        let update = self.updates.borrow_and_update().clone();
        self.gone |= update.gone;
        if !is_older(&update.pod, &self.pod) {
            self.pod = update.pod;
        }
    }

    /// Resolves when the pod is to end.
    pub(super) async fn end_ordered(&self) {
        let mut updates = self.updates.clone();
        loop {
            if updates.borrow_and_update().must_end() {
                return;
            }
            if updates.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Reads the runtime's view and the last words of containers that ended.
    pub(super) async fn look(&mut self) -> Result<(), SyncError> {
        let uid = info::uid(&self.pod).to_owned();
        self.view = self.reader.read(&self.shared.cri, &uid).await?;
        let ids: Vec<String> = self
            .view
            .containers
            .iter()
            .map(|c| c.status.id.clone())
            .collect();
        self.messages.retain(|id, _| ids.contains(id));
        for container in self.view.containers.iter().filter(|c| c.exited()) {
            let id = &container.status.id;
            if self.messages.len() < MAX_MESSAGES && !self.messages.contains_key(id) {
                let message = super::logfiles::last_words(&self.pod, container).await;
                self.messages.insert(id.clone(), message);
            }
        }
        self.shared.index.set_ips(&uid, self.view.ips.clone());
        Ok(())
    }

    /// Writes the pod's status if it differs from the one last seen.
    pub(super) async fn report(
        &mut self,
        terminal: bool,
        failure: Option<(&str, &str)>,
    ) -> Result<(), SyncError> {
        if self.gone {
            return Ok(());
        }
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), info::namespace(&self.pod));
        let name = info::name(&self.pod).to_owned();
        let health = self.probes.health();
        for _ in 0..STATUS_ATTEMPTS {
            let new = status::compute(&status::Input {
                pod: &self.pod,
                view: &self.view,
                waiting: &self.waiting,
                health: &health,
                messages: &self.messages,
                node_ip: &self.shared.facts.node_ip,
                terminal,
                failure,
                now: Timestamp::now(),
            });
            let Some(patch) = status_patch(&self.pod, &new)? else {
                return Ok(());
            };
            match api
                .patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
            {
                Ok(pod) => {
                    self.pod = Arc::new(pod);
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    self.gone = true;
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    match api.get_opt(&name).await? {
                        Some(fresh) if fresh.metadata.uid == self.pod.metadata.uid => {
                            self.pod = Arc::new(fresh);
                        }
                        _ => {
                            self.gone = true;
                            return Ok(());
                        }
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) fn container_event(
        &self,
        container: &str,
        kind: Kind,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.shared
            .events
            .container(&self.pod, container, kind, reason, message);
    }
}

/// How long to wait after an error that follows on `failures` others.
fn pause_after(error: &SyncError, failures: u32) -> Duration {
    let first = match error {
        SyncError::Volume(_) => VOLUME_RETRY_FIRST,
        _ => RETRY_FIRST,
    };
    let doubled = first.saturating_mul(2_u32.saturating_pow(failures));
    doubled.min(RETRY_LONGEST)
}

/// Whether `a` is certainly older than `b`. Resource versions are numbers in
/// every API server there is; when they are not, nothing is certain.
fn is_older(a: &Pod, b: &Pod) -> bool {
    let version = |pod: &Pod| {
        pod.metadata
            .resource_version
            .as_deref()?
            .parse::<u64>()
            .ok()
    };
    match (version(a), version(b)) {
        (Some(a), Some(b)) => a < b,
        _ => false,
    }
}

/// The merge patch that writes `new`, bound to the pod it was computed from;
/// `None` if nothing changes.
fn status_patch(pod: &Pod, new: &PodStatus) -> Result<Option<Value>, SyncError> {
    let encode = |status: &PodStatus| serde_json::to_value(status).map_err(std::io::Error::other);
    let old = encode(&pod.status.clone().unwrap_or_default())?;
    let Some(change) = status::merge_patch(&old, &encode(new)?) else {
        return Ok(None);
    };
    Ok(Some(json!({
        "metadata": {
            "uid": pod.metadata.uid,
            "resourceVersion": pod.metadata.resource_version,
        },
        "status": change,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_soon_looked_at_again() {
        let missing = SyncError::Volume(VolumeError::SetUp {
            volume: "token".into(),
            message: "secret \"token\" not found".into(),
        });
        let pauses =
            |error: &SyncError| [0, 1, 2, 5, 40].map(|n| pause_after(error, n).as_millis());
        assert_eq!(pauses(&missing), [50, 100, 200, 1600, 15_000]);
        let other = SyncError::Io(std::io::Error::other("away"));
        assert_eq!(pauses(&other), [1000, 2000, 4000, 15_000, 15_000]);
    }
}
