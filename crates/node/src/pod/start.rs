//! Starting one container: back-off, image, configuration, postStart hook.

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
use super::sync::{POLL, Turn};
use super::worker::{SyncError, Worker};
use crate::env;
use crate::events::Kind;
use crate::probes::action::{Action, Outcome};

/// Longest that a postStart hook may take.
const POST_START_TIMEOUT: Duration = Duration::from_secs(600);

impl Worker {
    /// Starts a container, if its back-off allows.
    pub(super) async fn start(
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
        if let Outcome::Failure(message) | Outcome::Unknown(message) = outcome {
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
