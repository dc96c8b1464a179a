//! The end of a pod: its containers are asked to stop, then killed; then its
//! last status is written and, if it was deleted, its traces are removed.

use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::Api;
use kube::api::{DeleteParams, Preconditions};

use super::info;
use super::runtime::ContainerView;
use super::sandbox;
use super::worker::{Ending, Stage, SyncError, Worker};
use crate::events::Kind;
use crate::probes::action::{Action, Outcome};

/// A container gets this long even when a preStop hook has used the rest.
const LEAST_GRACE: Duration = Duration::from_secs(2);

impl Worker {
    /// Ends the pod.
    pub(super) async fn end(&mut self, ending: Ending) -> Result<(), SyncError> {
        self.probes.stop();
        self.look().await?;
        self.stop_containers().await?;
        for sandbox in self.view.sandboxes.clone() {
            self.shared.cri.stop_sandbox(&sandbox.id).await?;
        }
        self.look().await?;
        self.waiting.clear();
        match &ending {
            Ending::Failed(reason, message) => {
                self.report(true, Some((reason, message))).await?;
            }
            Ending::Deleted | Ending::Finished => self.report(true, None).await?,
        }
        if ending != Ending::Deleted {
            self.stage = Stage::Completed;
            return Ok(());
        }
        self.clean_up().await
    }

    /// Removes the pod's traces and its object.
    async fn clean_up(&mut self) -> Result<(), SyncError> {
        let uid = info::uid(&self.pod).to_owned();
        self.shared.volumes.tear_down(&uid).await?;
        self.delete_object().await?;
        for sandbox in self.view.sandboxes.clone() {
            self.shared.cri.remove_sandbox(&sandbox.id).await?;
        }
        remove_cgroups(&self.shared.sandbox.cgroup_parent, &uid).await;
        let logs = sandbox::log_directory_name(&self.pod);
        let logs = self.shared.sandbox.log_dir.join(logs);
        match tokio::fs::remove_dir_all(&logs).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        self.stage = Stage::Removed;
        Ok(())
    }

    async fn delete_object(&mut self) -> Result<(), SyncError> {
        if self.gone {
            return Ok(());
        }
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), info::namespace(&self.pod));
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: self.pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..Default::default()
        };
        match api.delete(info::name(&self.pod), &parameters).await {
            // Gone already, or another pod has the name by now.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                self.gone = true;
                Ok(())
            }
            other => Ok(other.map(|_| ())?),
        }
    }

    /// Stops what runs: main containers at once, then sidecars in reverse
    /// order. A shorter grace period that arrives meanwhile takes effect.
    async fn stop_containers(&mut self) -> Result<(), SyncError> {
        let mut grace = effective_grace(&self.pod, self.gone);
        let started = Instant::now();
        let mut first = true;
        loop {
            let left = grace
                .saturating_sub(started.elapsed())
                .max(Duration::from_secs(1));
            if first {
                self.announce_killing();
            }
            let stop = self.stop_waves(left, first);
            let shortened = shorter_grace(self.updates.clone(), grace);
            tokio::select! {
                result = stop => return result,
                new = shortened => grace = new,
            }
            first = false;
            self.take_update();
        }
    }

    fn announce_killing(&self) {
        for container in self.view.containers.iter().filter(|c| c.running()) {
            let text = format!("Stopping container {}", container.name);
            self.container_event(&container.name, Kind::Normal, "Killing", text);
        }
    }

    async fn stop_waves(&self, grace: Duration, hooks: bool) -> Result<(), SyncError> {
        let started = Instant::now();
        let is_sidecar = |name: &str| {
            info::spec(&self.pod)
                .init_containers()
                .iter()
                .any(|c| c.name == name && info::is_sidecar(c))
        };
        let living: Vec<&ContainerView> = self
            .view
            .containers
            .iter()
            .filter(|c| !c.exited())
            .collect();
        let (sidecars, mains): (Vec<_>, Vec<_>) =
            living.into_iter().partition(|c| is_sidecar(&c.name));
        let results = join_all(mains.into_iter().map(|c| self.stop_one(c, grace, hooks))).await;
        results.into_iter().collect::<Result<Vec<_>, _>>()?;
        let order = |name: &str| {
            info::spec(&self.pod)
                .init_containers()
                .iter()
                .position(|c| c.name == name)
        };
        let mut sidecars = sidecars;
        sidecars.sort_by_key(|c| std::cmp::Reverse(order(&c.name)));
        for sidecar in sidecars {
            let left = grace.saturating_sub(started.elapsed()).max(LEAST_GRACE);
            self.stop_one(sidecar, left, hooks).await?;
        }
        Ok(())
    }

    /// Runs the preStop hook and stops one container within `grace`.
    pub(super) async fn stop_one(
        &self,
        container: &ContainerView,
        grace: Duration,
        hooks: bool,
    ) -> Result<(), SyncError> {
        let started = Instant::now();
        if hooks && container.running() {
            self.pre_stop(container, grace).await;
        }
        let used = started.elapsed();
        let left = if used.is_zero() {
            grace
        } else {
            grace.saturating_sub(used)
        };
        let left = if hooks && used > Duration::from_millis(10) {
            left.max(LEAST_GRACE)
        } else {
            left
        };
        self.shared
            .cri
            .stop_container(&container.status.id, left)
            .await?;
        Ok(())
    }

    async fn pre_stop(&self, container: &ContainerView, grace: Duration) {
        let Some(spec) = info::find_container(&self.pod, &container.name) else {
            return;
        };
        let Some(action) = pre_stop_action(spec) else {
            return;
        };
        let ip = self.view.ips.first().map_or("", String::as_str);
        let hook = action.run(&self.shared.cri, &container.status.id, ip, grace);
        let outcome = tokio::time::timeout(grace, hook).await;
        if let Ok(Outcome::Failure(message) | Outcome::Unknown(message)) = outcome {
            let text = format!("PreStopHook failed: {message}");
            self.container_event(&container.name, Kind::Warning, "FailedPreStopHook", text);
        }
    }
}

fn pre_stop_action(container: &Container) -> Option<Action> {
    let hook = container.lifecycle.as_ref()?.pre_stop.as_ref()?;
    Action::of_hook(hook, container)
}

/// Removes the cgroups of the pod with this uid, which runtimes leave behind,
/// from every hierarchy. Only empty groups can be removed at all.
pub(super) async fn remove_cgroups(root: &str, uid: &str) {
    const HIERARCHIES: &str = "/sys/fs/cgroup";
    if uid.is_empty() || uid.contains('/') || root.split('/').any(|part| part == "..") {
        return;
    }
    let root = root.trim_matches('/').to_owned();
    let pod = format!("pod{uid}");
    let work = move || {
        let hierarchies = std::fs::read_dir(HIERARCHIES)
            .into_iter()
            .flatten()
            .flatten();
        let v1 = hierarchies
            .map(|entry| entry.path())
            .filter(|path| path.is_dir());
        for hierarchy in v1.chain([HIERARCHIES.into()]) {
            for class in ["", "burstable", "besteffort"] {
                let path = hierarchy.join(&root).join(class).join(&pod);
                if path.is_dir()
                    && let Err(error) = std::fs::remove_dir(&path)
                {
                    tracing::debug!(path = %path.display(), %error, "cgroup not removed");
                }
            }
        }
    };
    if let Err(error) = tokio::task::spawn_blocking(work).await {
        tracing::debug!(%error, "cgroups not removed");
    }
}

/// How long the pod's containers get: what the deletion says, else what the
/// pod says; never less than a second.
fn effective_grace(pod: &Pod, gone: bool) -> Duration {
    let deletion = pod.metadata.deletion_grace_period_seconds;
    let seconds = match deletion {
        Some(seconds) => seconds,
        // Deleted by force before this agent heard of it.
        None if gone => 1,
        None => info::spec(pod).grace_seconds(),
    };
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1))
}

/// Resolves with the new grace period once it is shorter than `now`.
async fn shorter_grace(
    mut updates: tokio::sync::watch::Receiver<super::worker::PodUpdate>,
    now: Duration,
) -> Duration {
    loop {
        let update = updates.borrow_and_update().clone();
        let new = effective_grace(&update.pod, update.gone);
        if update.must_end() && new < now {
            return new;
        }
        if updates.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn grace_periods() {
        for (meta, spec, gone, want) in [
            (json!({}), json!({"containers": []}), false, 30),
            (
                json!({}),
                json!({"containers": [], "terminationGracePeriodSeconds": 5}),
                false,
                5,
            ),
            (
                json!({"deletionGracePeriodSeconds": 3}),
                json!({"containers": []}),
                false,
                3,
            ),
            (
                json!({"deletionGracePeriodSeconds": 0}),
                json!({"containers": []}),
                true,
                1,
            ),
            (json!({}), json!({"containers": []}), true, 1),
        ] {
            let pod: Pod = serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap();
            assert_eq!(effective_grace(&pod, gone).as_secs(), want);
        }
    }
}
