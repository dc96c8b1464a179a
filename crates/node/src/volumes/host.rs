//! Volumes that are a path of this machine: `hostPath`, and claims bound to
//! `hostPath` or `local` volumes.

use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::Api;

use super::{Mounted, SourceError, Volumes, blocking, fs_group, mounts};
use crate::pod::info;

impl Volumes {
    /// The path of a volume that lives on this machine; `None` for others.
    pub(super) async fn path_on_host(
        &self,
        pod: &Pod,
        volume: &Volume,
    ) -> Result<Option<Mounted>, SourceError> {
        if let Some(source) = &volume.host_path {
            let path = PathBuf::from(&source.path);
            let kind = source.type_.clone().unwrap_or_default();
            let path = blocking(move || prepare(path, &kind)).await?;
            return Ok(Some(Mounted {
                path,
                read_only: false,
            }));
        }
        let (claim, read_only) = if let Some(source) = &volume.persistent_volume_claim {
            (source.claim_name.clone(), source.read_only.unwrap_or(false))
        } else if volume.ephemeral.is_some() {
            (format!("{}-{}", info::name(pod), volume.name), false)
        } else {
            return Ok(None);
        };
        let path = self.claim_path(info::namespace(pod), &claim).await?;
        let group = fs_group(pod);
        let path = blocking(move || {
            if !path.is_dir() {
                return Err(std::io::Error::other(format!(
                    "path {:?} does not exist on this node",
                    path.display()
                )));
            }
            // A large volume is walked once, not at every refresh.
            let owner = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(&path)?);
            if let Some(group) = group.filter(|group| !read_only && *group != owner) {
                mounts::give_to_group(&path, group)?;
            }
            Ok(path)
        })
        .await?;
        Ok(Some(Mounted { path, read_only }))
    }

    async fn claim_path(&self, namespace: &str, name: &str) -> Result<PathBuf, SourceError> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let claim = claims.get_opt(name).await?.ok_or_else(|| {
            SourceError::Missing(format!("persistentvolumeclaim \"{name}\" not found"))
        })?;
        let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let volume_name = claim
            .spec
            .and_then(|s| s.volume_name)
            .filter(|v| bound && !v.is_empty())
            .ok_or_else(|| {
                SourceError::Missing(format!("persistentvolumeclaim \"{name}\" is not bound"))
            })?;
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let volume = volumes.get_opt(&volume_name).await?.ok_or_else(|| {
            SourceError::Missing(format!("persistentvolume \"{volume_name}\" not found"))
        })?;
        let spec = volume.spec.unwrap_or_default();
        if let Some(source) = spec.host_path {
            let path = PathBuf::from(source.path);
            let kind = source
                .type_
                .unwrap_or_else(|| "DirectoryOrCreate".to_owned());
            return blocking(move || prepare(path, &kind)).await;
        }
        match spec.local {
            Some(source) => Ok(PathBuf::from(source.path)),
            None => Err(SourceError::Unsupported),
        }
    }
}

/// Checks a path against the kind that the volume asks for, and makes what
/// may be made.
fn prepare(path: PathBuf, kind: &str) -> std::io::Result<PathBuf> {
    let wrong = |what: &str| {
        Err(std::io::Error::other(format!(
            "hostPath type check failed: {} is not a {what}",
            path.display()
        )))
    };
    match kind {
        "DirectoryOrCreate" if !path.exists() => std::fs::create_dir_all(&path)?,
        "FileOrCreate" if !path.exists() => {
            std::fs::File::create(&path)?;
        }
        _ => {}
    }
    let kind_now = std::fs::metadata(&path).map(|m| m.file_type()).ok();
    match kind {
        // Anything goes, even what is not there: the runtime makes it.
        "" if kind_now.is_none() => std::fs::create_dir_all(&path)?,
        "Directory" | "DirectoryOrCreate" if !kind_now.is_some_and(|k| k.is_dir()) => {
            return wrong("directory");
        }
        "File" | "FileOrCreate" if !kind_now.is_some_and(|k| k.is_file()) => return wrong("file"),
        "Socket" if !kind_now.is_some_and(|k| k.is_socket()) => return wrong("socket file"),
        "CharDevice" if !kind_now.is_some_and(|k| k.is_char_device()) => {
            return wrong("character device");
        }
        "BlockDevice" if !kind_now.is_some_and(|k| k.is_block_device()) => {
            return wrong("block device");
        }
        _ => {}
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_path_kinds() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "x").unwrap();
        for (name, kind, ok) in [
            ("f", "File", true),
            ("f", "Directory", false),
            ("new", "Directory", false),
            ("new", "DirectoryOrCreate", true),
            ("new", "Directory", true),
            ("nf", "FileOrCreate", true),
            ("nf", "Socket", false),
            ("any", "", true),
        ] {
            assert_eq!(
                prepare(dir.path().join(name), kind).is_ok(),
                ok,
                "{name} {kind}"
            );
        }
    }
}
