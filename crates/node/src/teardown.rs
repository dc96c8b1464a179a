//! Stopping all pods of a node, as a shutdown of the machine does: what the
//! agent itself never does when it ends, since pods outlive it.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_cri::v1::PodSandbox;

use crate::cri::{Cri, CriError};
use crate::network::delete_table;
use crate::policies;
use crate::volumes::mounts::unmount_below;

/// Pods stopped at once: each runs CNI plugins and runc.
const PODS_AT_ONCE: usize = 8;

/// How long the runtime may take to become ready: reading a node's worth of
/// pods takes seconds on a loaded machine.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is asked meanwhile.
const READY_INTERVAL: Duration = Duration::from_millis(50);

/// Why something was left.
#[derive(Debug, thiserror::Error)]
pub enum TeardownError {
    /// The runtime cannot be reached, or could not stop a pod.
    #[error(transparent)]
    Runtime(#[from] CriError),
    /// Mounts of pods could not be removed.
    #[error("cannot unmount the volumes of pods: {0}")]
    Mounts(#[from] std::io::Error),
    /// The rules of services or policies could not be removed.
    #[error("cannot remove the rules of services and policies: {0}")]
    Rules(String),
}

/// Ends all containers of a runtime, and removes their networks, the mounts
/// below the agent's `data_dir`, and its tables of rules. What pods have on
/// disk stays: an agent started later finds ended pods, as after a reboot, and
/// treats each as its restart policy says. No agent must run any more.
///
/// # Errors
/// The first failure; the rest is stopped nonetheless.
pub async fn teardown(
    cri_socket: &Path,
    data_dir: &Path,
    rules_table: &str,
) -> Result<(), TeardownError> {
    let cri = Cri::new(cri_socket);
    let mut result = stop_pods(&cri).await;
    result = result.and(unmount_below(&data_dir.join("pods")).map_err(TeardownError::Mounts));
    let policies = policies::table_name(rules_table);
    for (family, table) in [("ip", rules_table), ("inet", &policies)] {
        let removed = delete_table(family, table).await;
        result = result.and(removed.map_err(|e| TeardownError::Rules(e.to_string())));
    }
    result
}

/// The sandboxes of a runtime that may be starting: one that has crashed, or
/// was started for this alone, first reads what it had.
async fn list_once_ready(cri: &Cri) -> Result<Vec<PodSandbox>, CriError> {
    let started = Instant::now();
    loop {
        match cri.list_sandboxes(None).await {
            Err(error) if error.is_unavailable() && started.elapsed() < READY_TIMEOUT => {
                tokio::time::sleep(READY_INTERVAL).await;
            }
            result => return result,
        }
    }
}

async fn stop_pods(cri: &Cri) -> Result<(), TeardownError> {
    let sandboxes = list_once_ready(cri).await?;
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
