//! Volumes that are directories of this node: made for claims whose pod the
//! scheduler has placed here, removed once their claim is gone.
//!
//! The directory is named by the claim's uid and lies in the one directory
//! that the agent was given; no other path is ever made or removed, whatever
//! objects of the API say. Sizes are not enforced.

mod objects;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::events::{Kind, Recorder};
use crate::volumes::mounts::remove_tree;
use crate::watched::watch;
use objects::{Reclaim, Wish};

/// The provisioner that storage classes name.
pub const PROVISIONER: &str = "coracle.dev/local-path";

/// Pauses after a failure, of the disk or of the API server.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// What makes and removes the volumes of one node.
pub struct LocalVolumes {
    /// The node's name.
    pub node: String,
    /// The directory of all volumes; made if it is missing.
    pub directory: PathBuf,
    /// A client that may make and remove volumes.
    pub client: kube::Client,
    /// For what there is to say about claims.
    pub events: Recorder,
}

/// Why a volume was not made or removed this time.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{path}: {source}")]
    Disk { path: String, source: io::Error },
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// What there is to do.
#[derive(Clone, Copy)]
enum Work {
    Make,
    Remove,
}

impl LocalVolumes {
    /// Works until `stop`; directories stay.
    pub async fn run(self, stop: CancellationToken) {
        let claims = watch::<PersistentVolumeClaim>(&self.client, &stop);
        let volumes = watch::<PersistentVolume>(&self.client, &stop);
        let ready = async {
            let _ = claims.store.wait_until_ready().await;
            let _ = volumes.store.wait_until_ready().await;
        };
        tokio::select! {
            () = ready => {}
            () = stop.cancelled() => return,
        }
        self.forget_unfinished(&claims.store, &volumes.store);
        let known = (&claims.store, &volumes.store);
        // Removing a large volume takes long: new ones need not wait for it.
        tokio::join!(
            self.keep_at(Work::Make, known, &claims.changed, &stop),
            self.keep_at(Work::Remove, known, &volumes.changed, &stop),
        );
        for task in [claims.task, volumes.task] {
            // It ends with the token as well.
            let _ = task.await;
        }
    }

    /// Does it now, whenever there was a change, and again after failures.
    async fn keep_at(
        &self,
        work: Work,
        (claims, volumes): (&Store<PersistentVolumeClaim>, &Store<PersistentVolume>),
        changed: &Notify,
        stop: &CancellationToken,
    ) {
        let mut pause = FIRST_PAUSE;
        loop {
            let pass = async {
                match work {
                    Work::Make => self.make_all(claims, volumes).await,
                    Work::Remove => self.remove_all(volumes).await,
                }
            };
            let result = tokio::select! {
                result = pass => result,
                () = stop.cancelled() => return,
            };
            let retry = async {
                match &result {
                    Ok(()) => std::future::pending().await,
                    Err(error) => {
                        tracing::warn!(%error, "a volume is left for later");
                        tokio::time::sleep(pause).await;
                    }
                }
            };
            tokio::select! {
                () = changed.notified() => {}
                () = retry => {}
                () = stop.cancelled() => return,
            }
            pause = match result {
                Ok(()) => FIRST_PAUSE,
                Err(_) => (pause * 2).min(MAX_PAUSE),
            };
        }
    }

    async fn make_all(
        &self,
        claims: &Store<PersistentVolumeClaim>,
        volumes: &Store<PersistentVolume>,
    ) -> Result<(), Failure> {
        let classes: Api<StorageClass> = Api::all(self.client.clone());
        let mut result = Ok(());
        for claim in claims.state() {
            let Some(name) = objects::asks_for(&claim, &self.node) else {
                continue;
            };
            if volumes.get(&ObjectRef::new(&name)).is_some() {
                continue;
            }
            let class = claim
                .spec
                .as_ref()
                .and_then(|s| s.storage_class_name.clone());
            let made = match classes.get_opt(&class.unwrap_or_default()).await {
                Ok(Some(class)) if class.provisioner == PROVISIONER => {
                    self.make(&claim, &class, &name).await
                }
                // The annotation alone is not enough: whoever wrote it.
                Ok(_) => continue,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = &made {
                let text = format!("failed to provision volume: {error}");
                self.events
                    .claim(&claim, Kind::Warning, "ProvisioningFailed", text);
            }
            result = result.and(made);
        }
        result
    }

    async fn make(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        name: &str,
    ) -> Result<(), Failure> {
        let path = self.directory.join(name);
        let volume = match objects::volume(claim, class, name, &path, &self.node) {
            Wish::Volume(volume) => volume,
            Wish::Unsupported(why) => {
                let text = format!("failed to provision volume: {why}");
                self.events
                    .claim(claim, Kind::Warning, "ProvisioningFailed", text);
                return Ok(());
            }
        };
        make_directory(&self.directory, &path).map_err(|source| Failure::Disk {
            path: path.display().to_string(),
            source,
        })?;
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &volume).await {
            Ok(_) => {
                let text = format!("Successfully provisioned volume {name}");
                self.events
                    .claim(claim, Kind::Normal, "ProvisioningSucceeded", text);
                Ok(())
            }
            // An earlier pass made it, and the cache does not show it yet.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn remove_all(&self, volumes: &Store<PersistentVolume>) -> Result<(), Failure> {
        let mut result = Ok(());
        for volume in volumes.state() {
            let name = volume.name_any();
            let path = self.directory.join(&name);
            if !objects::is_own(&volume, &path, &self.node) {
                continue;
            }
            let removed = match objects::reclaim(&volume) {
                Reclaim::Keep => continue,
                Reclaim::LetGo => self.let_go(&volume).await,
                Reclaim::Remove => self.remove(&volume, path).await,
            };
            result = result.and(removed);
        }
        result
    }

    /// Removes the data, then the object: what is cut short is repeated.
    async fn remove(&self, volume: &PersistentVolume, path: PathBuf) -> Result<(), Failure> {
        let text = path.display().to_string();
        let removed = tokio::task::spawn_blocking(move || remove_tree(&path))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)));
        removed.map_err(|source| Failure::Disk { path: text, source })?;
        if volume.metadata.deletion_timestamp.is_none() {
            let api: Api<PersistentVolume> = Api::all(self.client.clone());
            let this = DeleteParams::default().preconditions(Preconditions {
                uid: volume.metadata.uid.clone(),
                resource_version: None,
            });
            unless_gone(api.delete(&volume.name_any(), &this).await.map(drop))?;
        }
        self.let_go(volume).await
    }

    /// Removes our finalizer.
    async fn let_go(&self, volume: &PersistentVolume) -> Result<(), Failure> {
        if !volume.finalizers().iter().any(|f| f == objects::FINALIZER) {
            return Ok(());
        }
        // Read anew: whoever deletes it takes a finalizer of its own away.
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let Some(now) = api.get_opt(&volume.name_any()).await? else {
            return Ok(());
        };
        if now.metadata.uid != volume.metadata.uid {
            return Ok(());
        }
        let rest: Vec<&String> = now
            .finalizers()
            .iter()
            .filter(|f| *f != objects::FINALIZER)
            .collect();
        let patch = json!({"metadata": {
            "uid": now.metadata.uid, "resourceVersion": now.metadata.resource_version,
            "finalizers": rest,
        }});
        let patched = api
            .patch(
                &volume.name_any(),
                &PatchParams::default(),
                &Patch::Merge(&patch),
            )
            .await;
        match patched {
            // It changed meanwhile, which brings it back here.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            patched => unless_gone(patched.map(drop)),
        }
    }

    /// Removes the directories that a run which was cut short made and nobody
    /// asks for any more. Only empty ones: data goes with its volume alone.
    fn forget_unfinished(
        &self,
        claims: &Store<PersistentVolumeClaim>,
        volumes: &Store<PersistentVolume>,
    ) {
        let asked: Vec<String> = claims
            .state()
            .iter()
            .filter_map(|claim| objects::asks_for(claim, &self.node))
            .collect();
        let entries = fs::read_dir(&self.directory).into_iter().flatten();
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let known = volumes.get(&ObjectRef::new(&name)).is_some();
            if objects::is_volume_name(&name) && !known && !asked.contains(&name) {
                // Fails where it is not empty, as it should.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

fn unless_gone(result: Result<(), kube::Error>) -> Result<(), Failure> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other?),
    }
}

/// Makes a volume's directory, which pods of any user may write to; nobody but
/// root gets to it from outside of a pod.
fn make_directory(all: &Path, path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(all)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if !fs::symlink_metadata(path)?.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_once_and_only_where_they_belong() {
        let root = tempfile::tempdir().unwrap();
        let all = root.path().join("volumes");
        let path = all.join("pvc-1");
        make_directory(&all, &path).unwrap();
        fs::write(path.join("file"), "kept").unwrap();
        make_directory(&all, &path).unwrap();
        assert!(path.join("file").exists());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&all), mode(&path)), (0o700, 0o777));
        std::os::unix::fs::symlink("/", all.join("pvc-2")).unwrap();
        assert!(make_directory(&all, &all.join("pvc-2")).is_err());
    }
}
