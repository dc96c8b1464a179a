//! A living pod: sandbox, init containers, containers, in this order.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Node};
use kube::Api;

use super::admission::{self, Refusal};
use super::container;
use super::info::{self, Role};
use super::runtime::ContainerView;
use super::sandbox;
use super::status;
use super::worker::{Ending, REFRESH, Stage, SyncError, Worker};
use crate::events::Kind;
use crate::probes::Target;
use crate::volumes::Volumes;

/// Old containers of one name kept for `kubectl logs --previous`.
const KEPT_CONTAINERS: usize = 2;
/// Pause before a step that waits for something without notice of its own.
pub(super) const POLL: Duration = Duration::from_secs(2);

/// What became of one container in a pass.
pub(super) enum Turn {
    /// It runs, or has ended for good.
    Settled,
    /// It is on its way or waits; look again after the time, if one is given.
    Pending(Option<Duration>),
    /// It has failed and may not be restarted.
    Failed,
}

/// The sooner of two moments to wake up.
fn sooner(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

impl Worker {
    /// One pass over a living pod; when to pass again without a cause.
    pub(super) async fn sync(&mut self) -> Result<Option<Duration>, SyncError> {
        self.look().await?;
        if let Some(ending) = self.ending_by_itself() {
            self.stage = Stage::Ending(ending);
            return Ok(Some(Duration::ZERO));
        }
        if let Some((reason, message)) = self.misplaced().await? {
            self.stage = Stage::Ending(Ending::Failed(reason, message));
            return Ok(Some(Duration::ZERO));
        }
        self.start_probes();
        let volumes_wake = self.refresh_volumes().await?;
        if self.view.ready_sandbox().is_none() {
            self.make_sandbox().await?;
        }
        self.report(false, None).await?;
        let mut wake = sooner(volumes_wake, self.deadline_in());
        match self.sync_init().await? {
            Turn::Settled => wake = sooner(wake, self.sync_main().await?),
            Turn::Pending(pause) => wake = sooner(wake, pause),
            Turn::Failed => {
                self.stage = Stage::Ending(Ending::Finished);
                return Ok(Some(Duration::ZERO));
            }
        }
        self.sync_ephemeral().await?;
        self.look().await?;
        self.start_probes();
        self.prune().await?;
        self.report(false, None).await?;
        if self.ending_by_itself().is_some() {
            return Ok(Some(Duration::ZERO));
        }
        Ok(wake)
    }

    /// Why the pod may not be on this node, if that is to be found out yet.
    async fn misplaced(&self) -> Result<Option<Refusal>, SyncError> {
        if !admission::is_choosy(&self.pod) || self.view.ready_sandbox().is_some() {
            return Ok(None);
        }
        let nodes: Api<Node> = Api::all(self.shared.client.clone());
        let node = nodes.get_metadata(&self.shared.facts.node_name).await?;
        Ok(admission::misplaced(&self.pod, &node.metadata))
    }

    /// Whether the pod has come to an end without being deleted.
    fn ending_by_itself(&self) -> Option<Ending> {
        if self.deadline_in() == Some(Duration::ZERO) {
            let text = "Pod was active on the node longer than the specified deadline";
            return Some(Ending::Failed(
                "DeadlineExceeded".to_owned(),
                text.to_owned(),
            ));
        }
        let policy = info::spec(&self.pod).restart_policy();
        let spec = info::spec(&self.pod);
        let ended = spec.containers().iter().all(|c| {
            self.view.latest(&c.name).is_some_and(|latest| {
                latest.exited() && !may_restart(policy, latest.status.exit_code)
            })
        });
        (ended && !spec.containers().is_empty()).then_some(Ending::Finished)
    }

    /// Time left of `activeDeadlineSeconds`.
    fn deadline_in(&self) -> Option<Duration> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?;
        let start = self.pod.status.as_ref()?.start_time.as_ref()?.0;
        let left = seconds - (Timestamp::now().as_second() - start.as_second());
        Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
    }

    /// Makes the pod's volumes the first time and refreshes them when due.
    async fn refresh_volumes(&mut self) -> Result<Option<Duration>, SyncError> {
        let refreshable = Volumes::refreshable(&self.pod);
        if let Some(at) = self.volumes_at {
            if !refreshable {
                return Ok(None);
            }
            if let Some(left) = REFRESH.checked_sub(at.elapsed()).filter(|l| !l.is_zero()) {
                return Ok(Some(left));
            }
        }
        match self.shared.volumes.set_up(&self.pod).await {
            Ok(volumes) => self.volumes = volumes,
            Err(error) => {
                let text = error.to_string();
                self.shared
                    .events
                    .pod(&self.pod, Kind::Warning, "FailedMount", text);
                if self.volumes_at.is_none() {
                    self.report(false, None).await?;
                    return Err(error.into());
                }
            }
        }
        self.volumes_at = Some(Instant::now());
        Ok(refreshable.then_some(REFRESH))
    }

    /// Ends what is left of an earlier sandbox and makes a new one.
    async fn make_sandbox(&mut self) -> Result<(), SyncError> {
        let leftovers: Vec<ContainerView> = self
            .view
            .containers
            .iter()
            .filter(|c| !c.exited())
            .cloned()
            .collect();
        for container in &leftovers {
            self.stop_one(container, Duration::from_secs(2), false)
                .await?;
        }
        for old in self.view.sandboxes.clone() {
            self.shared.cri.stop_sandbox(&old.id).await?;
            // One that never had a container has nothing to tell.
            if self.view.containers.iter().all(|c| c.sandbox_id != old.id) {
                self.shared.cri.remove_sandbox(&old.id).await?;
            }
        }
        let attempt = self
            .view
            .sandboxes
            .first()
            .and_then(|s| s.metadata.as_ref())
            .map_or(0, |m| m.attempt.saturating_add(1));
        if attempt > 0 {
            let text = "Pod sandbox changed, it will be killed and re-created.";
            self.shared
                .events
                .pod(&self.pod, Kind::Normal, "SandboxChanged", text);
        }
        let config = self.sandbox_config(attempt);
        tokio::fs::create_dir_all(&config.log_directory).await?;
        let made = {
            let _slot = self.shared.sandbox_slots.acquire().await;
            tokio::select! {
                made = self.shared.cri.run_sandbox(config) => made,
                () = self.end_ordered() => return Err(SyncError::Interrupted),
            }
        };
        if let Err(error) = made {
            let text = format!("Failed to create pod sandbox: {error}");
            self.shared
                .events
                .pod(&self.pod, Kind::Warning, "FailedCreatePodSandBox", text);
            self.report(false, None).await?;
            return Err(error.into());
        }
        // Only the newest few sandboxes are kept.
        for old in self.view.sandboxes.iter().skip(1) {
            self.shared.cri.remove_sandbox(&old.id).await?;
        }
        self.look().await
    }

    pub(super) fn sandbox_config(&self, attempt: u32) -> cri::PodSandboxConfig {
        sandbox::config(
            &self.pod,
            attempt,
            &self.shared.facts.node_name,
            &self.shared.sandbox,
            &self.shared.node_dns(),
        )
    }

    /// Removes sandboxes beside the one in use that never had a container. A call
    /// that made one may have been cut off, and shown it only after the next.
    async fn remove_empty_sandboxes(&self, used: &str) -> Result<(), SyncError> {
        for other in self.view.sandboxes.iter().filter(|s| s.id != used) {
            if self
                .view
                .containers
                .iter()
                .all(|c| c.sandbox_id != other.id)
            {
                self.shared.cri.stop_sandbox(&other.id).await?;
                self.shared.cri.remove_sandbox(&other.id).await?;
            }
        }
        Ok(())
    }

    /// Init containers one after the other; sidecars stay.
    async fn sync_init(&mut self) -> Result<Turn, SyncError> {
        let Some(sandbox) = self.view.ready_sandbox().map(|s| s.id.clone()) else {
            return Ok(Turn::Pending(Some(POLL)));
        };
        self.remove_empty_sandboxes(&sandbox).await?;
        let spec = info::spec(&self.pod);
        let begun = spec
            .containers()
            .iter()
            .any(|c| self.view.latest_in(&c.name, &sandbox).is_some());
        let list: Vec<Container> = spec.init_containers().to_vec();
        let policy = spec.restart_policy().to_owned();
        for init in &list {
            let role = info::init_role(init);
            let latest = self.view.latest_in(&init.name, &sandbox).cloned();
            if role == Role::Init {
                match &latest {
                    _ if begun => continue,
                    Some(l) if l.exited() && l.status.exit_code == 0 => {
                        self.waiting.remove(&init.name);
                        continue;
                    }
                    Some(l) if l.exited() && policy == "Never" => return Ok(Turn::Failed),
                    Some(l) if l.running() => return Ok(Turn::Pending(None)),
                    _ => {}
                }
                return Ok(match self.start(init, latest.as_ref(), Role::Init).await? {
                    Turn::Settled => Turn::Pending(None),
                    other => other,
                });
            }
            let running = latest.as_ref().is_some_and(ContainerView::running);
            if running {
                self.kill_if_unwell(init, latest.as_ref()).await?;
                let id = latest
                    .as_ref()
                    .map(|l| l.status.id.clone())
                    .unwrap_or_default();
                let started = self.probes.health().get(&id).is_some_and(|h| h.started);
                if !started && !begun {
                    return Ok(Turn::Pending(None));
                }
                continue;
            }
            let turn = self.start(init, latest.as_ref(), Role::Sidecar).await?;
            if begun {
                continue;
            }
            match turn {
                Turn::Settled => {
                    self.look().await?;
                    self.start_probes();
                    if init.startup_probe.is_some() {
                        return Ok(Turn::Pending(None));
                    }
                }
                other => return Ok(other),
            }
        }
        Ok(Turn::Settled)
    }

    /// Main containers side by side.
    async fn sync_main(&mut self) -> Result<Option<Duration>, SyncError> {
        let policy = info::spec(&self.pod).restart_policy().to_owned();
        let list: Vec<Container> = info::spec(&self.pod).containers().to_vec();
        let mut wake = None;
        for container in &list {
            let latest = self.view.latest(&container.name).cloned();
            match &latest {
                Some(l) if l.running() => {
                    self.waiting.remove(&container.name);
                    self.kill_if_unwell(container, latest.as_ref()).await?;
                    continue;
                }
                Some(l) if l.exited() && !may_restart(&policy, l.status.exit_code) => continue,
                _ => {}
            }
            if let Turn::Pending(pause) = self.start(container, latest.as_ref(), Role::Main).await?
            {
                wake = sooner(wake, pause);
            }
        }
        Ok(wake)
    }

    async fn sync_ephemeral(&mut self) -> Result<(), SyncError> {
        let list = info::spec(&self.pod).ephemeral_containers().to_vec();
        for ephemeral in &list {
            if self.view.latest(&ephemeral.name).is_none() {
                let container = info::as_container(ephemeral);
                self.start(&container, None, Role::Ephemeral).await?;
            }
        }
        Ok(())
    }

    /// Kills a running container whose probe failed or whose image changed;
    /// the next pass restarts it.
    async fn kill_if_unwell(
        &mut self,
        container: &Container,
        latest: Option<&ContainerView>,
    ) -> Result<(), SyncError> {
        let Some(latest) = latest else { return Ok(()) };
        let hash = latest.status.annotations.get(container::ANNOTATION_HASH);
        let changed = hash.is_some_and(|h| *h != container::spec_hash(container));
        let failed = self.probes.failed(&latest.status.id);
        let message = match failed {
            Some(failed) => format!(
                "Container {} failed {} probe, will be restarted",
                container.name,
                failed.kind.lower()
            ),
            None if changed => {
                format!(
                    "Container {} definition changed, will be restarted",
                    container.name
                )
            }
            None => return Ok(()),
        };
        self.container_event(&container.name, Kind::Normal, "Killing", message);
        let grace = failed
            .and_then(|f| f.grace_seconds)
            .unwrap_or_else(|| info::spec(&self.pod).grace_seconds());
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        tokio::select! {
            result = self.stop_one(latest, grace, true) => result?,
            () = self.end_ordered() => return Err(SyncError::Interrupted),
        }
        self.changed.notify_one();
        Ok(())
    }

    /// Probes what runs, and nothing else.
    pub(super) fn start_probes(&mut self) {
        let spec = info::spec(&self.pod);
        let sidecars = spec
            .init_containers()
            .iter()
            .filter(|c| info::is_sidecar(c));
        let roles = spec
            .containers()
            .iter()
            .map(|c| (c, Role::Main))
            .chain(sidecars.map(|c| (c, Role::Sidecar)));
        let pod_ip = if spec.host_network() {
            self.shared.facts.node_ip.clone()
        } else {
            self.view.ips.first().cloned().unwrap_or_default()
        };
        let mut running = Vec::new();
        for (container, role) in roles {
            let Some(latest) = self.view.latest(&container.name).filter(|l| l.running()) else {
                continue;
            };
            running.push(latest.status.id.clone());
            let before = status::old_status(&self.pod, &container.name, role)
                .filter(|old| {
                    old.container_id.as_deref() == Some(status::container_id(latest).as_str())
                        && old.started == Some(true)
                })
                .map(|old| status::Health {
                    started: true,
                    ready: old.ready,
                });
            let target = Target {
                cri: self.shared.cri.clone(),
                pod: std::sync::Arc::clone(&self.pod),
                container: container.clone(),
                id: latest.status.id.clone(),
                pod_ip: pod_ip.clone(),
                started_at: latest.started_at(),
                events: self.shared.events.clone(),
                changed: std::sync::Arc::clone(&self.changed),
            };
            self.probes.start(target, before);
        }
        self.probes.retain(|id| running.iter().any(|r| r == id));
    }

    /// Removes containers that newer ones of the same name have replaced.
    async fn prune(&mut self) -> Result<(), SyncError> {
        let mut kept = std::collections::HashMap::<&str, usize>::new();
        let mut superfluous = Vec::new();
        for container in &self.view.containers {
            let count = kept.entry(container.name.as_str()).or_default();
            *count += 1;
            if *count > KEPT_CONTAINERS && container.exited() {
                superfluous.push(container.clone());
            }
        }
        for container in superfluous {
            self.shared
                .cri
                .remove_container(&container.status.id)
                .await?;
            let log =
                super::logfiles::log_file(&self.shared.sandbox.log_dir, &self.pod, &container);
            let message = container
                .status
                .annotations
                .get(container::ANNOTATION_MESSAGE);
            for path in log.into_iter().chain(message.map(PathBuf::from)) {
                match tokio::fs::remove_file(path).await {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(error.into());
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Whether the pod's policy restarts a container that ended so.
fn may_restart(policy: &str, exit_code: i32) -> bool {
    match policy {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}
