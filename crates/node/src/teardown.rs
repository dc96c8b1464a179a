//! Removing everything that a node's pods have on the machine: what the agent
//! itself never does when it stops, since pods outlive it.

use std::path::Path;

use futures::StreamExt as _;

use crate::cri::{Cri, CriError};
use crate::network::delete_table;
use crate::proxy::ruleset::TABLE;
use crate::volumes::mounts::remove_tree;

/// Pods removed at once: each runs CNI plugins and runc.
const PODS_AT_ONCE: usize = 8;

/// Why something was left.
#[derive(Debug, thiserror::Error)]
pub enum TeardownError {
    /// The runtime cannot be reached, or could not remove a pod.
    #[error(transparent)]
    Runtime(#[from] CriError),
    /// Files or mounts of pods could not be removed.
    #[error("cannot remove the files of pods: {0}")]
    Files(#[from] std::io::Error),
    /// The rules of services could not be removed.
    #[error("cannot remove the rules of services: {0}")]
    Rules(String),
}

/// Stops and removes all pods of a runtime, their volumes below the agent's
/// `data_dir`, and the rules of services. The agent must not run any more.
///
/// # Errors
/// The first failure; the rest is removed nonetheless.
pub async fn teardown(cri_socket: &Path, data_dir: &Path) -> Result<(), TeardownError> {
    let cri = Cri::new(cri_socket);
    let mut result = remove_pods(&cri).await;
    result = result.and(remove_tree(&data_dir.join("pods")).map_err(TeardownError::Files));
    let rules = delete_table(TABLE)
        .await
        .map_err(|e| TeardownError::Rules(e.to_string()));
    result.and(rules)
}

async fn remove_pods(cri: &Cri) -> Result<(), TeardownError> {
    let sandboxes = cri.list_sandboxes(None).await?;
    let removed = futures::stream::iter(sandboxes).map(|sandbox| async move {
        // Stopping kills the containers: the pods' grace is over with the node.
        cri.stop_sandbox(&sandbox.id).await?;
        cri.remove_sandbox(&sandbox.id).await
    });
    let results: Vec<Result<(), CriError>> = removed.buffer_unordered(PODS_AT_ONCE).collect().await;
    results
        .into_iter()
        .collect::<Result<(), CriError>>()
        .map_err(TeardownError::Runtime)
}
