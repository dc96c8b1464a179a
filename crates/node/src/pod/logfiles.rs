//! Containers' log files: where they are, their rotation, and the last words
//! of a container that ended.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::container::{ANNOTATION_MESSAGE, log_path};
use super::info;
use super::runtime::ContainerView;
use super::sandbox::log_directory_name;
use crate::cri::{Cri, LABEL_CONTAINER_NAME, LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID};

/// Longest termination message.
const MAX_MESSAGE: usize = 4096;
/// How much of a log stands in for a missing termination message.
const MAX_FALLBACK: u64 = 2048;
/// Size at which a log is rotated, and how many old files are kept.
const ROTATE_AT: u64 = 10 << 20;
const KEPT_FILES: usize = 4;

/// Path of the container's log.
pub fn log_file(log_dir: &Path, pod: &Pod, container: &ContainerView) -> Option<PathBuf> {
    if container.name.is_empty() || container.name.contains('/') {
        return None;
    }
    let relative = log_path(&container.name, container.attempt);
    Some(log_dir.join(log_directory_name(pod)).join(relative))
}

/// The directories of pods that are not known, with the uids in their names.
/// Blocking, but short: one directory is read.
pub fn of_others(log_dir: &Path, is_known: impl Fn(&str) -> bool) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(log_dir).into_iter().flatten().flatten();
    let others = entries.filter_map(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // Namespace, name and uid: neither of them has such a line in it.
        let (_, uid) = name.rsplit_once('_')?;
        (!is_known(uid)).then(|| (uid.to_owned(), entry.path()))
    });
    others.collect()
}

/// What a container that ended left as its termination message.
pub async fn last_words(pod: &Pod, container: &ContainerView) -> String {
    let status = &container.status;
    if let Some(path) = status.annotations.get(ANNOTATION_MESSAGE)
        && let Some(text) = tail(Path::new(path), MAX_MESSAGE as u64).await
        && !text.is_empty()
    {
        return text;
    }
    let fallback = find_any(pod, &container.name)
        .is_some_and(|c| c.termination_message_policy.as_deref() == Some("FallbackToLogsOnError"));
    if !fallback || status.exit_code == 0 || status.log_path.is_empty() {
        return String::new();
    }
    // Log lines carry a time, a stream and a tag before the text.
    let raw = tail(Path::new(&status.log_path), MAX_FALLBACK * 2)
        .await
        .unwrap_or_default();
    let lines = raw.lines().filter_map(|line| line.splitn(4, ' ').nth(3));
    let text: Vec<&str> = lines.collect();
    let text = text.join("\n");
    let from = text.len().saturating_sub(MAX_FALLBACK as usize);
    let from = (from..text.len())
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(0);
    text[from..].to_owned()
}

fn find_any<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    info::find_container(pod, name)
}

/// The last bytes of a file.
async fn tail(path: &Path, bytes: u64) -> Option<String> {
    use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
    let mut file = tokio::fs::File::open(path).await.ok()?;
    let length = file.metadata().await.ok()?.len();
    file.seek(std::io::SeekFrom::Start(length.saturating_sub(bytes)))
        .await
        .ok()?;
    let mut buffer = Vec::new();
    file.take(bytes).read_to_end(&mut buffer).await.ok()?;
    Some(String::from_utf8_lossy(&buffer).into_owned())
}

/// Rotates the logs of running containers that have grown too large.
pub async fn rotate_all(cri: &Cri, log_dir: &Path) {
    let Ok(containers) = cri.list_containers(None).await else {
        return;
    };
    for container in containers {
        let label = |name: &str| {
            container
                .labels
                .get(name)
                .map(String::as_str)
                .unwrap_or_default()
        };
        let directory = format!(
            "{}_{}_{}",
            label(LABEL_POD_NAMESPACE),
            label(LABEL_POD_NAME),
            label(LABEL_POD_UID)
        );
        let attempt = container.metadata.as_ref().map_or(0, |m| m.attempt);
        let path = log_dir
            .join(directory)
            .join(log_path(label(LABEL_CONTAINER_NAME), attempt));
        let running = container.state() == k8s_cri::v1::ContainerState::ContainerRunning;
        if running && let Err(error) = rotate(cri, &container.id, &path).await {
            tracing::warn!(path = %path.display(), %error, "log not rotated");
        }
    }
}

async fn rotate(
    cri: &Cri,
    id: &str,
    path: &Path,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let Ok(meta) = tokio::fs::metadata(path).await else {
        return Ok(());
    };
    if meta.len() < ROTATE_AT {
        return Ok(());
    }
    let suffix = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let mut rotated = path.as_os_str().to_owned();
    rotated.push(format!(".{suffix}"));
    tokio::fs::rename(path, &rotated).await?;
    if let Err(error) = cri.reopen_log(id).await {
        // The runtime still writes to the renamed file: give it its name back.
        tokio::fs::rename(&rotated, path).await?;
        return Err(error.into());
    }
    drop_oldest(path).await?;
    Ok(())
}

async fn drop_oldest(path: &Path) -> std::io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
    else {
        return Ok(());
    };
    let mut entries = tokio::fs::read_dir(directory).await?;
    let mut old = Vec::new();
    while let Some(entry) = entries.next_entry().await? {
        let file = entry.file_name();
        if file
            .to_str()
            .is_some_and(|f| f.starts_with(&format!("{name}.")))
        {
            old.push(entry.path());
        }
    }
    old.sort();
    let surplus = old.len().saturating_sub(KEPT_FILES);
    for path in old.into_iter().take(surplus) {
        tokio::fs::remove_file(path).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn termination_messages() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m");
        let log = dir.path().join("l");
        std::fs::write(
            &log,
            "2026-01-01T00:00:00Z stderr F boom\n2026-01-01T00:00:00Z stdout F now\n",
        )
        .unwrap();
        for (message, policy, exit_code, want) in [
            ("bye", "File", 0, "bye"),
            ("", "File", 1, ""),
            ("", "FallbackToLogsOnError", 1, "boom\nnow"),
            ("", "FallbackToLogsOnError", 0, ""),
            ("said", "FallbackToLogsOnError", 1, "said"),
        ] {
            std::fs::write(&file, message).unwrap();
            let pod: Pod = serde_json::from_value(json!({"spec": {"containers":
                [{"name": "c", "terminationMessagePolicy": policy}]}}))
            .unwrap();
            let container = ContainerView {
                sandbox_id: String::new(),
                name: "c".into(),
                attempt: 0,
                status: k8s_cri::v1::ContainerStatus {
                    exit_code,
                    log_path: log.to_string_lossy().into_owned(),
                    annotations: [(
                        ANNOTATION_MESSAGE.to_owned(),
                        file.to_string_lossy().into_owned(),
                    )]
                    .into(),
                    ..Default::default()
                },
            };
            assert_eq!(last_words(&pod, &container).await, want);
        }
    }

    #[test]
    fn directories_of_pods_that_are_gone_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ns_web_u-1", "ns_web_u-2", "something"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let others = of_others(dir.path(), |uid| uid == "u-1");
        assert_eq!(others, [("u-2".to_owned(), dir.path().join("ns_web_u-2"))]);
        assert!(of_others(&dir.path().join("absent"), |_| false).is_empty());
    }

    #[tokio::test]
    async fn few_rotated_files_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        for i in 0..7 {
            std::fs::write(dir.path().join(format!("0.log.2026-{i}")), "x").unwrap();
        }
        drop_oldest(&path).await.unwrap();
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, KEPT_FILES);
        assert!(dir.path().join("0.log.2026-6").exists());
    }
}
