//! Waiting until a virtual cluster is ready, or runs as it was changed.

use std::time::Duration;

use coracle_config::names;
use futures::TryStreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher;

use crate::error::{CliError, Result};
use crate::host::Host;
use crate::output::Progress;

/// Waits until both containers are ready.
///
/// # Errors
/// After `timeout`, with what was seen last.
pub async fn wait_ready(
    host: &Host,
    name: &str,
    namespace: &str,
    timeout: Duration,
    progress: &mut Progress,
) -> Result {
    let pods: Api<Pod> = Api::namespaced(host.client.clone(), namespace);
    let pod_name = names::pod(name);
    let mut last = String::from("its pod does not exist yet");
    let waiting = async {
        let mut pod = std::pin::pin!(watcher::watch_object(pods, &pod_name));
        while let Some(seen) = pod.try_next().await? {
            let Some(pod) = seen else { continue };
            if is_ready(&pod) {
                return Ok(());
            }
            if let Some(trouble) = trouble(&pod) {
                progress.set(&format!("Waiting for {pod_name}: {trouble}"));
                last = trouble;
            }
        }
        Ok::<(), watcher::Error>(())
    };
    match tokio::time::timeout(timeout, waiting).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            Err(CliError::failure(format!("cannot watch the pod {pod_name}")).because(error))
        }
        Err(_) => Err(CliError::failure(format!(
            "the virtual cluster {name} was not ready after {} s",
            timeout.as_secs()
        ))
        .because(last)
        .hint(format!(
            "`kubectl describe pod {pod_name} -n {namespace}` shows why"
        ))
        .hint(format!("`coracle delete {name} -n {namespace}` removes it"))),
    }
}

/// Waits until the pod of the StatefulSet is the one that was last asked for.
///
/// # Errors
/// If the StatefulSet cannot be watched; the caller sets a limit of time.
pub async fn wait_rolled_out(host: &Host, name: &str, namespace: &str) -> Result {
    let sets: Api<StatefulSet> = Api::namespaced(host.client.clone(), namespace);
    let set_name = names::stateful_set(name);
    let mut seen = std::pin::pin!(watcher::watch_object(sets, &set_name));
    let failed = |error: watcher::Error| {
        CliError::failure(format!("cannot watch the StatefulSet {set_name}")).because(error)
    };
    while let Some(set) = seen.try_next().await.map_err(failed)? {
        if set.is_some_and(|set| is_rolled_out(&set)) {
            return Ok(());
        }
    }
    Ok(())
}

fn is_rolled_out(set: &StatefulSet) -> bool {
    let wanted = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    set.status.as_ref().is_some_and(|status| {
        status.observed_generation >= set.metadata.generation
            && status.update_revision == status.current_revision
            && status.ready_replicas.unwrap_or(0) >= wanted
    })
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .flatten()
            .any(|c| c.type_ == "Ready" && c.status == "True")
}

/// What keeps a pod from being ready, in a few words.
pub fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let waiting = status
        .container_statuses
        .iter()
        .flatten()
        .find_map(|container| {
            let waiting = container.state.as_ref()?.waiting.as_ref()?;
            let reason = waiting.reason.as_deref()?;
            let message = waiting
                .message
                .as_deref()
                .map_or(String::new(), |m| format!(": {m}"));
            Some(format!("{} is {reason}{message}", container.name))
        });
    waiting.or_else(|| {
        let scheduled = status
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "PodScheduled")?;
        (scheduled.status == "False")
            .then(|| scheduled.message.clone())
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_of_before_the_change_is_not_enough() {
        let set = |observed: i64, update: &str, ready: i32| -> StatefulSet {
            let set = json!({
                "metadata": {"generation": 2},
                "spec": {"replicas": 1, "selector": {}, "serviceName": "a",
                    "template": {"metadata": {}, "spec": {"containers": []}}},
                "status": {"observedGeneration": observed, "replicas": 1, "readyReplicas": ready,
                    "currentRevision": "a-1", "updateRevision": update},
            });
            serde_json::from_value(set).unwrap()
        };
        assert!(!is_rolled_out(&set(1, "a-1", 1)));
        assert!(!is_rolled_out(&set(2, "a-2", 1)));
        assert!(!is_rolled_out(&set(2, "a-1", 0)));
        assert!(is_rolled_out(&set(2, "a-1", 1)));
    }
}
