//! `coracle pause` and `coracle resume`.

use std::time::Duration;

use clap::Args;
use coracle_config::{marks, names};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::{Environment, removal};
use crate::error::{CliError, Result, from_kube};
use crate::host::Host;
use crate::ready;
use crate::tenants::{self, Found};

/// Stop a virtual cluster and its workloads; its data stays
///
/// Pods that no controller looks after are gone for good. A virtual cluster
/// that was made on a host without a default storage class keeps its data in its
/// pod, and is not paused unless its loss is asked for.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  coracle pause team-a\n  coracle resume team-a")]
pub struct Pause {
    /// The name of the virtual cluster
    name: String,
    /// The host namespace that carries it
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Pause it even if its data is lost
    #[arg(long)]
    discard_data: bool,
    /// How long to wait until its pods are gone, in seconds
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
}

/// Start a paused virtual cluster
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  coracle resume team-a")]
pub struct Resume {
    /// The name of the virtual cluster
    name: String,
    /// The host namespace that carries it
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// How long to wait until it is ready, in seconds
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
}

impl Pause {
    /// Runs the command; again on a paused one, it finishes what is left.
    ///
    /// # Errors
    /// If there is no such virtual cluster, it would lose its data, or the host
    /// refuses.
    pub async fn run(self, environment: &Environment) -> Result {
        let host = environment.host().await?;
        let found = tenants::find(&host, &self.name, self.namespace.as_deref()).await?;
        self.check_data(&found)?;
        let namespace = found.namespace.as_str();
        let progress = environment
            .output
            .progress(&format!("Pausing virtual cluster {}", self.name));
        let all = async {
            scale(&host, &found, 0).await?;
            // The syncer first: it would put back what is removed.
            let own = format!("app={},release={}", marks::APP, self.name);
            removal::wait_gone::<Pod>(&host, namespace, &own).await?;
            let synced = format!("{}={}", marks::MANAGED_BY, self.name);
            removal::remove_all::<Pod>(&host, namespace, &synced).await?;
            removal::wait_gone::<Pod>(&host, namespace, &synced).await
        };
        let deadline = Duration::from_secs(self.timeout);
        tokio::time::timeout(deadline, all).await.map_err(|_| {
            CliError::failure(format!(
                "the pods of virtual cluster {} were not gone after {} s",
                self.name, self.timeout
            ))
            .hint(format!(
                "`kubectl get pods -n {namespace}` shows which; run the command again"
            ))
        })??;
        drop(progress);
        let output = &environment.output;
        output.done(&format!("Paused virtual cluster {}", self.name));
        output.hint(&format!(
            "`coracle resume {} -n {namespace}` starts it again",
            self.name
        ));
        Ok(())
    }
}

impl Pause {
    fn check_data(&self, found: &Found) -> Result {
        if self.discard_data || found.keeps_data() {
            return Ok(());
        }
        Err(CliError::failure(format!(
            "virtual cluster {} keeps its data in its pod and would lose all of it",
            found.name
        ))
        .hint(
            "`--discard-data` pauses it all the same; one made with \
             `--set controlPlane.statefulSet.persistence.volumeClaim.enabled=true` keeps its data",
        ))
    }
}

impl Resume {
    /// Runs the command.
    ///
    /// # Errors
    /// If there is no such virtual cluster, or it does not become ready.
    pub async fn run(self, environment: &Environment) -> Result {
        let host = environment.host().await?;
        let found = tenants::find(&host, &self.name, self.namespace.as_deref()).await?;
        resume(
            environment,
            &host,
            &found,
            Duration::from_secs(self.timeout),
        )
        .await
    }
}

/// Starts a virtual cluster and waits until it is ready.
///
/// # Errors
/// If it does not become ready in time.
pub async fn resume(
    environment: &Environment,
    host: &Host,
    found: &Found,
    timeout: Duration,
) -> Result {
    let mut progress = environment
        .output
        .progress(&format!("Resuming virtual cluster {}", found.name));
    scale(host, found, 1).await?;
    ready::wait_ready(host, &found.name, &found.namespace, timeout, &mut progress).await?;
    drop(progress);
    environment
        .output
        .done(&format!("Resumed virtual cluster {}", found.name));
    Ok(())
}

async fn scale(host: &Host, found: &Found, replicas: u32) -> Result {
    let sets: Api<StatefulSet> = Api::namespaced(host.client.clone(), &found.namespace);
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    sets.patch_scale(
        &names::stateful_set(&found.name),
        &PatchParams::default(),
        &patch,
    )
    .await
    .map(drop)
    .map_err(from_kube("scale the StatefulSet"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(spec: serde_json::Value) -> Found {
        let set = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": spec});
        Found {
            name: "a".into(),
            namespace: "n".into(),
            set: serde_json::from_value(set).unwrap(),
        }
    }

    #[test]
    fn data_is_not_discarded_unasked() {
        let template = json!({"metadata": {}, "spec": {"containers": []}});
        let base = json!({"selector": {}, "serviceName": "a", "template": template});
        let mut kept = base.clone();
        kept["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {}}]);
        for (spec, discard_data, allowed) in [
            (&base, false, false),
            (&base, true, true),
            (&kept, false, true),
        ] {
            let pause = Pause {
                name: "a".into(),
                namespace: None,
                discard_data,
                timeout: 1,
            };
            assert_eq!(pause.check_data(&found(spec.clone())).is_ok(), allowed);
        }
    }
}
