//! A pod's volumes: made before its containers, kept current while it runs,
//! taken down after it.

pub mod atomic;
pub mod content;
pub mod mounts;

mod host;
mod projected;

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeMount};

use crate::downward::NodeFacts;
use crate::env::expand;
use crate::pod::info;
use crate::quantity;

/// Why a volume cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The volume's source is not there yet, or cannot be used.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {message}")]
    SetUp {
        /// Name of the volume.
        volume: String,
        /// What is wrong.
        message: String,
    },
    /// A container's mount cannot be made.
    #[error("failed to prepare the mount of volume {volume:?} at {path}: {message}")]
    Mount {
        /// Name of the volume.
        volume: String,
        /// Path in the container.
        path: String,
        /// What is wrong.
        message: String,
    },
}

/// Where a volume is on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Path of the directory or file.
    pub path: PathBuf,
    /// Containers may not write to it, whatever their mount says.
    pub read_only: bool,
}

/// A pod's mounted volumes by name.
pub type PodVolumes = HashMap<String, Mounted>;

/// Makes and removes pods' volumes.
pub struct Volumes {
    pods_dir: PathBuf,
    client: kube::Client,
    node: NodeFacts,
    tokens: Mutex<HashMap<projected::TokenKey, projected::Token>>,
}

impl Volumes {
    /// Volumes below `data_dir`.
    pub fn new(data_dir: &Path, client: kube::Client, node: NodeFacts) -> Self {
        Self {
            pods_dir: data_dir.join("pods"),
            client,
            node,
            tokens: Mutex::new(HashMap::new()),
        }
    }

    /// Directory of everything that belongs to the pod with this uid.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.pods_dir.join(uid)
    }

    /// Uids of pods that have left something on disk.
    pub fn pods_on_disk(&self) -> Vec<String> {
        std::fs::read_dir(&self.pods_dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// Makes the pod's volumes, or brings the contents of existing ones up to
    /// date.
    pub async fn set_up(&self, pod: &Pod) -> Result<PodVolumes, VolumeError> {
        let mut result = PodVolumes::new();
        for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            let mounted =
                self.set_up_one(pod, volume)
                    .await
                    .map_err(|error| VolumeError::SetUp {
                        volume: volume.name.clone(),
                        message: error.to_string(),
                    })?;
            result.insert(volume.name.clone(), mounted);
        }
        Ok(result)
    }

    async fn set_up_one(&self, pod: &Pod, volume: &Volume) -> Result<Mounted, SourceError> {
        if let Some(path) = self.path_on_host(pod, volume).await? {
            return Ok(path);
        }
        if let Some(empty) = &volume.empty_dir {
            let path = self.volume_dir(pod, "empty-dir", &volume.name);
            let memory = empty.medium.as_deref() == Some("Memory");
            let limit = empty
                .size_limit
                .as_ref()
                .and_then(|q| quantity::milli(&q.0))
                .and_then(|milli| i64::try_from(milli / 1000).ok());
            let group = fs_group(pod);
            return blocking(move || {
                // A tmpfs does not outlive the machine, its directory does.
                let existed = path.exists() && (!memory || mounts::is_mount_point(&path)?);
                std::fs::create_dir_all(&path)?;
                if memory {
                    mounts::tmpfs(&path, limit, 0o777)?;
                }
                if !existed {
                    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
                    if let Some(group) = group {
                        mounts::give_to_group(&path, group)?;
                    }
                }
                Ok(Mounted {
                    path,
                    read_only: false,
                })
            })
            .await;
        }
        let Some((kind, in_memory, files)) = self.files_of(pod, volume).await? else {
            return Err(SourceError::Unsupported);
        };
        let path = self.volume_dir(pod, kind, &volume.name);
        let group = fs_group(pod);
        blocking(move || {
            std::fs::create_dir_all(&path)?;
            if in_memory {
                mounts::tmpfs(&path, None, 0o755)?;
            }
            atomic::write(&path, &files, group)?;
            Ok(Mounted {
                path,
                read_only: true,
            })
        })
        .await
    }

    fn volume_dir(&self, pod: &Pod, kind: &str, name: &str) -> PathBuf {
        self.pod_dir(info::uid(pod))
            .join("volumes")
            .join(kind)
            .join(name)
    }

    /// Whether the pod has volumes whose contents may change.
    pub fn refreshable(pod: &Pod) -> bool {
        pod.spec
            .iter()
            .flat_map(|s| s.volumes.iter().flatten())
            .any(|v| {
                v.config_map.is_some()
                    || v.secret.is_some()
                    || v.projected.is_some()
                    || v.downward_api.is_some()
            })
    }

    /// The mounts of one container, in the order of its specification.
    pub async fn mounts(
        &self,
        pod: &Pod,
        container: &Container,
        volumes: &PodVolumes,
        env: &[(String, String)],
    ) -> Result<Vec<cri::Mount>, VolumeError> {
        let mut result = Vec::new();
        for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let failed = |message: String| VolumeError::Mount {
                volume: mount.name.clone(),
                path: mount.mount_path.clone(),
                message,
            };
            let source = volumes
                .get(&mount.name)
                .ok_or_else(|| failed("there is no such volume".to_owned()))?;
            let host_path = self
                .mount_source(pod, container, index, mount, source, env)
                .await
                .map_err(|error| failed(error.to_string()))?;
            result.push(cri::Mount {
                container_path: absolute(&mount.mount_path),
                host_path: host_path.to_string_lossy().into_owned(),
                readonly: source.read_only || mount.read_only.unwrap_or(false),
                propagation: match mount.mount_propagation.as_deref() {
                    Some("HostToContainer") => cri::MountPropagation::PropagationHostToContainer,
                    Some("Bidirectional") => cri::MountPropagation::PropagationBidirectional,
                    _ => cri::MountPropagation::PropagationPrivate,
                }
                .into(),
                ..Default::default()
            });
        }
        Ok(result)
    }

    async fn mount_source(
        &self,
        pod: &Pod,
        container: &Container,
        index: usize,
        mount: &VolumeMount,
        source: &Mounted,
        env: &[(String, String)],
    ) -> io::Result<PathBuf> {
        let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(path), _) if !path.is_empty() => path.clone(),
            (_, Some(expression)) if !expression.is_empty() => {
                let expanded = expand(expression, |name| {
                    env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())
                });
                if expanded.contains("$(") {
                    return Err(io::Error::other(format!(
                        "subPathExpr {expression:?} names an unknown variable"
                    )));
                }
                expanded
            }
            _ => return Ok(source.path.clone()),
        };
        let target = self
            .pod_dir(info::uid(pod))
            .join("volume-subpaths")
            .join(&mount.name)
            .join(&container.name)
            .join(index.to_string());
        let volume = source.path.clone();
        tokio::task::spawn_blocking(move || {
            mounts::bind_sub_path(&volume, &sub_path, &target).map(|()| target)
        })
        .await
        .map_err(io::Error::other)?
    }

    /// Writes the pod's `/etc/hosts`; its path.
    pub async fn write_hosts(&self, uid: &str, text: String) -> io::Result<PathBuf> {
        let directory = self.pod_dir(uid);
        tokio::fs::create_dir_all(&directory).await?;
        let path = directory.join("etc-hosts");
        // Written in place: containers hold the file itself, not its name.
        if tokio::fs::read_to_string(&path)
            .await
            .is_ok_and(|old| old == text)
        {
            return Ok(path);
        }
        tokio::fs::write(&path, text).await?;
        Ok(path)
    }

    /// Makes an empty file for a container's termination message; its path.
    pub async fn message_file(
        &self,
        uid: &str,
        container: &str,
        attempt: u32,
    ) -> io::Result<PathBuf> {
        let directory = self.pod_dir(uid).join("containers").join(container);
        tokio::fs::create_dir_all(&directory).await?;
        let path = directory.join(attempt.to_string());
        tokio::fs::write(&path, b"").await?;
        // A container may run as anyone and must be able to write it.
        tokio::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).await?;
        Ok(path)
    }

    /// Unmounts and removes all that belongs to the pod with this uid.
    pub async fn tear_down(&self, uid: &str) -> io::Result<()> {
        if uid.is_empty() || uid.contains('/') || uid.starts_with('.') {
            return Ok(());
        }
        self.tokens
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .retain(|key, _| key.pod_uid != uid);
        let directory = self.pod_dir(uid);
        tokio::task::spawn_blocking(move || mounts::remove_tree(&directory))
            .await
            .map_err(io::Error::other)?
    }
}

/// Why a volume's source cannot be used.
#[derive(Debug, thiserror::Error)]
enum SourceError {
    #[error("{0}")]
    Missing(String),
    #[error("this kind of volume is not supported")]
    Unsupported,
    #[error(transparent)]
    Content(#[from] content::ContentError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, SourceError> {
    Ok(tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)??)
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}
