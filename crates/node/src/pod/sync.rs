//! A living pod: sandbox, init containers, containers, in this order.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Secret};
use kube::Api;

use super::backoff::RESET_AFTER;
use super::container;
use super::images::{self, Policy};
use super::info::{self, Role};
use super::runtime::ContainerView;
use super::sandbox;
use super::status::{self, Waiting};
use super::worker::{Ending, REFRESH, Stage, SyncError, Worker};
use crate::env;
use crate::events::Kind;
use crate::probes::Target;
use crate::probes::action::{Action, Outcome};
use crate::volumes::Volumes;

/// Old containers of one name kept for `kubectl logs --previous`.
const KEPT_CONTAINERS: usize = 2;
/// Longest that a postStart hook may take.
const POST_START_TIMEOUT: Duration = Duration::from_secs(600);
/// Pause before a step that waits for something without notice of its own.
const POLL: Duration = Duration::from_secs(2);

/// What became of one container in a pass.
enum Turn {
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

    fn sandbox_config(&self, attempt: u32) -> cri::PodSandboxConfig {
        sandbox::config(
            &self.pod,
            attempt,
            &self.shared.facts.node_name,
            &self.shared.sandbox,
            &self.shared.node_dns(),
        )
    }

    /// Init containers one after the other; sidecars stay.
    async fn sync_init(&mut self) -> Result<Turn, SyncError> {
        let Some(sandbox) = self.view.ready_sandbox().map(|s| s.id.clone()) else {
            return Ok(Turn::Pending(Some(POLL)));
        };
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

    /// Starts a container, if its back-off allows.
    async fn start(
        &mut self,
        spec: &Container,
        latest: Option<&ContainerView>,
        role: Role,
    ) -> Result<Turn, SyncError> {
        let now = Timestamp::now();
        if let Some(latest) = latest.filter(|l| l.exited())
            && let Some(left) = self.restart_delay(spec, latest, now)
        {
            return Ok(Turn::Pending(Some(left)));
        }
        let image = match self.image(spec, now).await? {
            Ok(image) => image,
            Err(pause) => return Ok(Turn::Pending(Some(pause))),
        };
        let sandbox = match self.view.ready_sandbox() {
            Some(sandbox) => sandbox.clone(),
            None => return Ok(Turn::Pending(Some(POLL))),
        };
        let attempt =
            match latest.filter(|l| l.status.state() == cri::ContainerState::ContainerCreated) {
                // An earlier agent stopped between making and starting it.
                Some(unstarted) => {
                    self.shared
                        .cri
                        .remove_container(&unstarted.status.id)
                        .await?;
                    unstarted.attempt
                }
                None => self.next_attempt(spec, role),
            };
        let config = match self.container_config(spec, &image, attempt, role).await {
            Ok(config) => config,
            Err(StartError::Config(message)) => {
                return Ok(self.hold(spec, "CreateContainerConfigError", message));
            }
            Err(StartError::Sync(error)) => return Err(error),
        };
        let sandbox_attempt = sandbox.metadata.as_ref().map_or(0, |m| m.attempt);
        let sandbox_config = self.sandbox_config(sandbox_attempt);
        let log_dir = PathBuf::from(&sandbox_config.log_directory).join(&spec.name);
        tokio::fs::create_dir_all(&log_dir).await?;
        let created = self
            .shared
            .cri
            .create_container(&sandbox.id, config, sandbox_config)
            .await;
        let id = match created {
            Ok(id) => id,
            Err(error) if error.is_unavailable() => return Err(error.into()),
            Err(error) => return Ok(self.hold(spec, "CreateContainerError", error.to_string())),
        };
        let text = format!("Created container: {}", spec.name);
        self.container_event(&spec.name, Kind::Normal, "Created", text);
        if let Err(error) = self.shared.cri.start_container(&id).await {
            if error.is_unavailable() {
                return Err(error.into());
            }
            if latest.is_some() {
                self.backoff.failed(&spec.name, now);
            }
            return Ok(self.hold(spec, "RunContainerError", error.to_string()));
        }
        let text = format!("Started container {}", spec.name);
        self.container_event(&spec.name, Kind::Normal, "Started", text);
        self.waiting.remove(&spec.name);
        if latest.is_some_and(ContainerView::exited) {
            self.backoff.failed(&spec.name, now);
        }
        self.post_start(spec, &id).await?;
        Ok(Turn::Settled)
    }

    /// Counts on where the runtime, or else the API, left off.
    fn next_attempt(&self, spec: &Container, role: Role) -> u32 {
        if self.view.latest(&spec.name).is_some() {
            return self.view.next_attempt(&spec.name);
        }
        status::old_status(&self.pod, &spec.name, role)
            .filter(|old| old.container_id.is_some())
            .map_or(0, |old| {
                u32::try_from(old.restart_count)
                    .unwrap_or(0)
                    .saturating_add(1)
            })
    }

    /// How long a container that ended has to wait still; notes and tells it.
    fn restart_delay(
        &mut self,
        spec: &Container,
        latest: &ContainerView,
        now: Timestamp,
    ) -> Option<Duration> {
        let finished = latest.finished_at();
        let ran = Duration::try_from(finished.duration_since(latest.started_at()));
        if ran.unwrap_or_default() >= RESET_AFTER {
            self.backoff.succeeded(&spec.name);
            return None;
        }
        self.backoff.resume(&spec.name, latest.attempt, finished);
        self.backoff.count_from(&spec.name, finished);
        let left = self.backoff.remaining(&spec.name, now)?;
        let delay = self.backoff.delay(&spec.name).as_secs();
        let message = format!(
            "back-off {delay}s restarting failed container={} pod={}_{}({})",
            spec.name,
            info::name(&self.pod),
            info::namespace(&self.pod),
            info::uid(&self.pod)
        );
        if self
            .waiting
            .get(&spec.name)
            .is_none_or(|w| w.reason != "CrashLoopBackOff")
        {
            let text = format!(
                "Back-off restarting failed container {} in pod {}_{}({})",
                spec.name,
                info::name(&self.pod),
                info::namespace(&self.pod),
                info::uid(&self.pod)
            );
            self.container_event(&spec.name, Kind::Warning, "BackOff", text);
        }
        self.waiting.insert(
            spec.name.clone(),
            images::waiting("CrashLoopBackOff", message),
        );
        Some(left)
    }

    /// Notes why a container waits and says so once.
    fn hold(&mut self, spec: &Container, reason: &str, message: String) -> Turn {
        let new = Waiting {
            reason: reason.to_owned(),
            message: message.clone(),
        };
        if self.waiting.get(&spec.name) != Some(&new) {
            let text = format!("Error: {message}");
            self.container_event(&spec.name, Kind::Warning, "Failed", text);
        }
        self.waiting.insert(spec.name.clone(), new);
        Turn::Pending(Some(Duration::from_secs(10)))
    }

    /// The container's image; or how long to wait for it.
    async fn image(
        &mut self,
        spec: &Container,
        now: Timestamp,
    ) -> Result<Result<cri::Image, Duration>, SyncError> {
        let name = spec.image.clone().unwrap_or_default();
        if !images::is_valid(&name) {
            let text =
                format!("Failed to apply default image tag \"{name}\": invalid reference format");
            self.hold(spec, "InvalidImageName", text);
            return Ok(Err(super::worker::REFRESH));
        }
        let policy = images::policy(spec);
        let present = self.shared.cri.image(&name).await?;
        match (policy, present) {
            (Policy::Never, Some(image)) | (Policy::IfNotPresent, Some(image)) => {
                if self.view.latest(&spec.name).is_none() {
                    let text = format!("Container image \"{name}\" already present on machine");
                    self.container_event(&spec.name, Kind::Normal, "Pulled", text);
                }
                return Ok(Ok(image));
            }
            (Policy::Never, None) => {
                let text =
                    format!("Container image \"{name}\" is not present with pull policy of Never");
                self.hold(spec, "ErrImageNeverPull", text);
                return Ok(Err(super::worker::REFRESH));
            }
            (Policy::Always | Policy::IfNotPresent, _) => {}
        }
        let key = format!("image {name}");
        if let Some(left) = self.backoff.remaining(&key, now) {
            let text = format!("Back-off pulling image \"{name}\"");
            if self
                .waiting
                .get(&spec.name)
                .is_none_or(|w| w.reason != "ImagePullBackOff")
            {
                self.container_event(&spec.name, Kind::Normal, "BackOff", text.clone());
            }
            self.waiting
                .insert(spec.name.clone(), images::waiting("ImagePullBackOff", text));
            return Ok(Err(left));
        }
        self.pull(spec, &name, &key).await
    }

    async fn pull(
        &mut self,
        spec: &Container,
        name: &str,
        key: &str,
    ) -> Result<Result<cri::Image, Duration>, SyncError> {
        let text = format!("Pulling image \"{name}\"");
        self.container_event(&spec.name, Kind::Normal, "Pulling", text);
        let auth = images::find_credentials(&self.shared.client, &self.pod, name).await;
        let begun = Instant::now();
        let pulled = tokio::select! {
            pulled = self.shared.cri.pull_image(name, auth) => pulled,
            () = self.end_ordered() => return Err(SyncError::Interrupted),
        };
        match pulled {
            Ok(_) => {
                self.backoff.succeeded(key);
                let took = begun.elapsed().as_secs_f64();
                let text = format!("Successfully pulled image \"{name}\" in {took:.3}s");
                self.container_event(&spec.name, Kind::Normal, "Pulled", text);
                match self.shared.cri.image(name).await? {
                    Some(image) => Ok(Ok(image)),
                    None => Ok(Err(POLL)),
                }
            }
            Err(error) if error.is_unavailable() => Err(error.into()),
            Err(error) => {
                self.backoff.failed(key, Timestamp::now());
                let text = format!("Failed to pull image \"{name}\": {error}");
                self.container_event(&spec.name, Kind::Warning, "Failed", text.clone());
                self.container_event(&spec.name, Kind::Warning, "Failed", "Error: ErrImagePull");
                self.waiting
                    .insert(spec.name.clone(), images::waiting("ErrImagePull", text));
                // Soon after, the reason becomes ImagePullBackOff.
                Ok(Err(POLL))
            }
        }
    }

    async fn container_config(
        &self,
        spec: &Container,
        image: &cri::Image,
        attempt: u32,
        role: Role,
    ) -> Result<cri::ContainerConfig, StartError> {
        let env = self.environment(spec).await?;
        let mut mounts = self
            .shared
            .volumes
            .mounts(&self.pod, spec, &self.volumes, &env)
            .await
            .map_err(|error| StartError::Config(error.to_string()))?;
        let uid = info::uid(&self.pod);
        let has =
            |mounts: &[cri::Mount], path: &str| mounts.iter().any(|m| m.container_path == path);
        if !has(&mounts, "/etc/hosts") {
            let path = self.hosts_file().await.map_err(SyncError::from)?;
            mounts.push(file_mount("/etc/hosts", &path));
        }
        let message = self
            .shared
            .volumes
            .message_file(uid, &spec.name, attempt)
            .await
            .map_err(SyncError::from)?;
        let message_path = spec
            .termination_message_path
            .as_deref()
            .unwrap_or("/dev/termination-log");
        if !message_path.is_empty() && !has(&mounts, message_path) {
            mounts.push(file_mount(message_path, &message));
        }
        container::config(container::Input {
            pod: &self.pod,
            container: spec,
            attempt,
            image,
            env,
            mounts,
            message_file: message.to_string_lossy().into_owned(),
            node: &self.shared.facts,
            target_id: self.target_id(spec, role),
        })
        .map_err(|error| StartError::Config(error.to_string()))
    }

    /// The container whose processes an ephemeral container wants to see.
    fn target_id(&self, spec: &Container, role: Role) -> Option<String> {
        if role != Role::Ephemeral {
            return None;
        }
        let ephemeral = info::spec(&self.pod).ephemeral_containers();
        let target = ephemeral
            .iter()
            .find(|e| e.name == spec.name)?
            .target_container_name
            .as_deref()?;
        self.view
            .latest(target)
            .filter(|t| t.running())
            .map(|t| t.status.id.clone())
    }

    async fn hosts_file(&self) -> std::io::Result<PathBuf> {
        let hostname = sandbox::hostname(&self.pod, &self.shared.facts.node_name);
        let domain = sandbox::host_domain(&self.pod, &self.shared.config.cluster_domain);
        let node_hosts = tokio::fs::read_to_string("/etc/hosts")
            .await
            .unwrap_or_default();
        let text = sandbox::hosts_file(
            &self.pod,
            &self.view.ips,
            &hostname,
            domain.as_deref(),
            &node_hosts,
        );
        self.shared
            .volumes
            .write_hosts(info::uid(&self.pod), text)
            .await
    }

    async fn environment(&self, spec: &Container) -> Result<Vec<(String, String)>, StartError> {
        let namespace = info::namespace(&self.pod);
        let (maps, secrets) = env::references(spec);
        let mut sources = env::Sources::default();
        let api: Api<ConfigMap> = Api::namespaced(self.shared.client.clone(), namespace);
        for name in maps {
            let object = api.get_opt(&name).await.map_err(SyncError::from)?;
            sources.config_maps.insert(name, object);
        }
        let api: Api<Secret> = Api::namespaced(self.shared.client.clone(), namespace);
        for name in secrets {
            let object = api.get_opt(&name).await.map_err(SyncError::from)?;
            sources.secrets.insert(name, object);
        }
        let links = self
            .pod
            .spec
            .as_ref()
            .and_then(|s| s.enable_service_links)
            .unwrap_or(true);
        let all = self.shared.services.state();
        let services = env::service_variables(all.iter().map(AsRef::as_ref), namespace, links);
        let node_ip = [self.shared.facts.node_ip.clone()];
        let host_network = info::spec(&self.pod).host_network();
        env::environment(&env::Input {
            pod: &self.pod,
            container: spec,
            pod_ips: if host_network {
                &node_ip
            } else {
                &self.view.ips
            },
            node: &self.shared.facts,
            sources: &sources,
            services: &services,
        })
        .map_err(|error| StartError::Config(error.to_string()))
    }

    async fn post_start(&mut self, spec: &Container, id: &str) -> Result<(), SyncError> {
        let hook = spec.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
        let Some(action) = hook.and_then(|h| Action::of_hook(h, spec)) else {
            return Ok(());
        };
        let ip = self.view.ips.first().cloned().unwrap_or_default();
        let outcome = tokio::select! {
            outcome = action.run(&self.shared.cri, id, &ip, POST_START_TIMEOUT) => outcome,
            () = self.end_ordered() => return Err(SyncError::Interrupted),
        };
        if let Outcome::Failure(message) = outcome {
            let text = format!("PostStartHook failed: {message}");
            self.container_event(&spec.name, Kind::Warning, "FailedPostStartHook", text);
            let grace = Duration::from_secs(
                u64::try_from(info::spec(&self.pod).grace_seconds()).unwrap_or(0),
            );
            self.shared.cri.stop_container(id, grace).await?;
            self.changed.notify_one();
        }
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

/// Why a container cannot be started.
#[derive(Debug, thiserror::Error)]
enum StartError {
    /// Its specification cannot be satisfied now.
    #[error("{0}")]
    Config(String),
    #[error(transparent)]
    Sync(#[from] SyncError),
}

fn file_mount(container_path: &str, host_path: &std::path::Path) -> cri::Mount {
    cri::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        ..Default::default()
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
