//! Stopping all pods of a node, as a shutdown of the machine does: what the
//! agent itself never does when it ends, since pods outlive it.

use std::path::Path;

use futures::StreamExt as _;

use crate::cri::{Cri, CriError};
use crate::network::delete_table;
use crate::proxy::ruleset::TABLE;
use crate::volumes::mounts::unmount_below;

/// Pods stopped at once: each runs CNI plugins and runc.
const PODS_AT_ONCE: usize = 8;

/// Why something was left.
#[derive(Debug, thiserror::Error)]
pub enum TeardownError {
    /// The runtime cannot be reached, or could not stop a pod.
    #[error(transparent)]
    Runtime(#[from] CriError),
    /// Mounts of pods could not be removed.
    #[error("cannot unmount the volumes of pods: {0}")]
    Mounts(#[from] std::io::Error),
    /// The rules of services could not be removed.
    #[error("cannot remove the rules of services: {0}")]
    Rules(String),
}

/// Ends all containers of a runtime, and removes their networks, the mounts
/// below the agent's `data_dir`, and the rules of services. What pods have on
/// disk stays: an agent started later finds ended pods, as after a reboot, and
/// treats each as its restart policy says. No agent must run any more.
///
/// # Errors
/// The first failure; the rest is stopped nonetheless.
pub async fn teardown(cri_socket: &Path, data_dir: &Path) -> Result<(), TeardownError> {
    let cri = Cri::new(cri_socket);
    let mut result = stop_pods(&cri).await;
    result = result.and(unmount_below(&data_dir.join("pods")).map_err(TeardownError::Mounts));
    let rules = delete_table(TABLE)
        .await
        .map_err(|e| TeardownError::Rules(e.to_string()));
    result.and(rules)
}

async fn stop_pods(cri: &Cri) -> Result<(), TeardownError> {
    let sandboxes = cri.list_sandboxes(None).await?;
    let stopped = futures::stream::iter(sandboxes).map(|sandbox| async move {
        // This kills the containers: the pods' grace is over with the node.
        cri.stop_sandbox(&sandbox.id).await
    });
    let results: Vec<Result<(), CriError>> = stopped.buffer_unordered(PODS_AT_ONCE).collect().await;
    results
        .into_iter()
        .collect::<Result<(), CriError>>()
        .map_err(TeardownError::Runtime)
}
