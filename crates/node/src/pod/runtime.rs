//! What the container runtime holds of one pod.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_cri::v1 as cri;

use crate::cri::{Cri, CriError, LABEL_CONTAINER_NAME};

/// A container with everything the runtime tells of it.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// The sandbox it belongs to.
    pub sandbox_id: String,
    /// Its name in the pod.
    pub name: String,
    /// How many containers of this name came before it.
    pub attempt: u32,
    /// The runtime's report.
    pub status: cri::ContainerStatus,
}

impl ContainerView {
    /// Whether its process runs.
    pub fn running(&self) -> bool {
        self.status.state() == cri::ContainerState::ContainerRunning
    }

    /// Whether its process has ended.
    pub fn exited(&self) -> bool {
        self.status.state() == cri::ContainerState::ContainerExited
    }

    /// When its process ended.
    pub fn finished_at(&self) -> Timestamp {
        timestamp(self.status.finished_at)
    }

    /// When its process started.
    pub fn started_at(&self) -> Timestamp {
        timestamp(self.status.started_at)
    }
}

/// A moment the runtime gave in nanoseconds; the epoch if out of range.
pub fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The runtime's view of one pod.
#[derive(Debug, Clone, Default)]
pub struct PodView {
    /// Sandboxes, newest first.
    pub sandboxes: Vec<cri::PodSandbox>,
    /// Containers, newest first within a name.
    pub containers: Vec<ContainerView>,
    /// Addresses of the ready sandbox.
    pub ips: Vec<String>,
}

impl PodView {
    /// The newest sandbox, if it is ready.
    pub fn ready_sandbox(&self) -> Option<&cri::PodSandbox> {
        self.sandboxes
            .first()
            .filter(|s| s.state() == cri::PodSandboxState::SandboxReady)
    }

    /// The newest container of this name.
    pub fn latest(&self, name: &str) -> Option<&ContainerView> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The newest container of this name in this sandbox.
    pub fn latest_in(&self, name: &str, sandbox_id: &str) -> Option<&ContainerView> {
        self.latest(name).filter(|c| c.sandbox_id == sandbox_id)
    }

    /// The container that came before the newest one of this name.
    pub fn previous(&self, name: &str) -> Option<&ContainerView> {
        self.containers.iter().filter(|c| c.name == name).nth(1)
    }

    /// The attempt number for the next container of this name.
    pub fn next_attempt(&self, name: &str) -> u32 {
        self.latest(name).map_or(0, |c| c.attempt.saturating_add(1))
    }
}

/// Reads a pod's view, and remembers what cannot change any more.
#[derive(Debug, Default)]
pub struct ViewReader {
    containers: HashMap<String, (i32, cri::ContainerStatus)>,
    ips: HashMap<String, Vec<String>>,
}

impl ViewReader {
    /// The present view of the pod with this uid.
    pub async fn read(&mut self, runtime: &Cri, uid: &str) -> Result<PodView, CriError> {
        let mut sandboxes = runtime.list_sandboxes(Some(uid)).await?;
        let listed = runtime.list_containers(Some(uid)).await?;
        sandboxes.sort_by_key(|s| {
            let attempt = s.metadata.as_ref().map_or(0, |m| m.attempt);
            std::cmp::Reverse((attempt, s.created_at))
        });
        let mut known = std::mem::take(&mut self.containers);
        let mut containers = Vec::with_capacity(listed.len());
        for container in listed {
            let cached = known
                .remove(&container.id)
                .filter(|(state, _)| *state == container.state);
            let status = match cached {
                Some((_, status)) => status,
                None => match runtime.container_status(&container.id).await {
                    Ok(status) => status,
                    Err(error) if error.is_not_found() => continue,
                    Err(error) => return Err(error),
                },
            };
            self.containers
                .insert(container.id.clone(), (status.state, status.clone()));
            containers.push(ContainerView {
                sandbox_id: container.pod_sandbox_id,
                name: container
                    .labels
                    .get(LABEL_CONTAINER_NAME)
                    .cloned()
                    .unwrap_or_default(),
                attempt: container.metadata.map_or(0, |m| m.attempt),
                status,
            });
        }
        containers.sort_by_key(|c| std::cmp::Reverse((c.attempt, c.status.created_at)));
        let mut view = PodView {
            sandboxes,
            containers,
            ips: Vec::new(),
        };
        if let Some(id) = view.ready_sandbox().map(|s| s.id.clone()) {
            view.ips = self.sandbox_ips(runtime, id).await?;
        }
        Ok(view)
    }

    async fn sandbox_ips(&mut self, runtime: &Cri, id: String) -> Result<Vec<String>, CriError> {
        if let Some(ips) = self.ips.get(&id) {
            return Ok(ips.clone());
        }
        let network = runtime
            .sandbox_status(&id)
            .await?
            .network
            .unwrap_or_default();
        let ips: Vec<String> = std::iter::once(network.ip)
            .chain(network.additional_ips.into_iter().map(|ip| ip.ip))
            .filter(|ip| !ip.is_empty())
            .collect();
        self.ips.clear();
        if !ips.is_empty() {
            self.ips.insert(id, ips.clone());
        }
        Ok(ips)
    }
}
