//! `coracle delete`.

use std::time::Duration;

use clap::Args;
use coracle_config::model::ToHost;
use coracle_config::{marks, names};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PropagationPolicy};
use serde_json::json;

use super::removal::{
    anything_in, custom_resources, remove_all, remove_classes, remove_custom, remove_named,
    remove_optional, wait_gone,
};
use super::{Environment, connect};
use crate::error::{CliError, Result, from_kube};
use crate::exported;
use crate::grants;
use crate::host::{Host, virtual_contexts};
use crate::objects::is_absent;
use crate::remains::{self, Remains};
use crate::tenants::{self, is_own_namespace};

/// Delete a virtual cluster and everything that it has on the host
#[derive(Args, Debug)]
#[command(
    visible_alias = "rm",
    after_help = "Examples:
  coracle delete team-a
  coracle delete team-a -n tenants --keep-pvc"
)]
pub struct Delete {
    /// The name of the virtual cluster
    name: String,
    /// The host namespace that carries it
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Keep the claim that holds its data
    #[arg(long)]
    keep_pvc: bool,
    /// How long to wait until everything is gone, in seconds
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
}

impl Delete {
    /// Runs the command.
    ///
    /// # Errors
    /// If there is no such virtual cluster and nothing left of one, or the
    /// host refuses.
    pub async fn run(self, environment: &Environment) -> Result {
        let host = environment.host().await?;
        let remains = self.find(&host).await?;
        let namespace = remains.namespace.as_str();
        let mut progress = environment
            .output
            .progress(&format!("Deleting virtual cluster {}", self.name));
        // First: the StatefulSet remembers where they are.
        remove_grants(environment, &host, &self.name, &remains).await?;
        if self.keep_pvc {
            keep_claim(&host, namespace, &self.name).await?;
        }
        remove_set(&host, namespace, &self.name).await?;
        let deadline = Duration::from_secs(self.timeout);
        // The syncer must be gone before its objects are, or it would make
        // them anew.
        let all = async {
            let pod = names::pod(&self.name);
            wait_gone::<Pod>(
                &host,
                namespace,
                &format!("app={},release={}", marks::APP, self.name),
            )
            .await?;
            progress.set(&format!("{pod} has ended; removing what it left"));
            if remains.places.iter().any(|place| place == grants::CLUSTER) {
                let none = ToHost::default();
                remove_classes(&host, namespace, &self.name, &none).await?;
            }
            exported::remove_all(&host, namespace, &self.name, &remains.places).await?;
            remove_rest(&host, namespace, &self.name, self.keep_pvc).await
        };
        tokio::time::timeout(deadline, all)
            .await
            .map_err(|_| self.too_slow(namespace))??;
        drop(progress);
        self.forget(environment, &host, namespace)?;
        // By its Service a repeated delete would find it: with that, its
        // namespace or not, everything ends.
        let removed = self.remove_namespace(environment, &host, namespace).await;
        let last = remove_services(&host, namespace, &self.name);
        tokio::time::timeout(deadline, last)
            .await
            .map_err(|_| self.too_slow(namespace))??;
        removed?;
        environment.output.done(&format!(
            "Deleted virtual cluster {} from namespace {namespace}",
            self.name
        ));
        Ok(())
    }

    /// The virtual cluster, or what an earlier delete left of it.
    async fn find(&self, host: &Host) -> Result<Remains> {
        let namespace = self.namespace.as_deref();
        match tenants::search(host, &self.name, namespace).await? {
            Ok(found) => Ok(Remains {
                places: grants::places(&found.set),
                namespace: found.namespace,
            }),
            Err(absent) => remains::find(host, &self.name, namespace)
                .await?
                .ok_or(absent),
        }
    }

    fn too_slow(&self, namespace: &str) -> CliError {
        CliError::failure(format!(
            "the virtual cluster {} was not gone after {} s",
            self.name, self.timeout
        ))
        .hint(format!(
            "`kubectl get pods -n {namespace}` shows what is left; run the command again"
        ))
    }

    /// Removes the context, and the forwarding process if there is one.
    fn forget(&self, environment: &Environment, host: &Host, namespace: &str) -> Result {
        let files = environment.files()?;
        for context in virtual_contexts(&self.name, namespace, &host.context) {
            if let Some(pid) = connect::forward_pid(&files.read()?, &context) {
                connect::stop_forward(pid);
            }
            files.remove(&context, Some(&host.context))?;
        }
        Ok(())
    }

    /// Removes a namespace that `create` made, once nobody uses it.
    async fn remove_namespace(
        &self,
        environment: &Environment,
        host: &Host,
        namespace: &str,
    ) -> Result {
        let namespaces: Api<Namespace> = Api::all(host.client.clone());
        let Ok(object) = namespaces.get(namespace).await else {
            return Ok(());
        };
        if !is_own_namespace(&object) {
            return Ok(());
        }
        if !tenants::list(host, Some(namespace)).await?.is_empty() {
            return Ok(());
        }
        // Claims that were kept, now or by an earlier delete, among others.
        if let Some(left) = anything_in(host, namespace, &self.name).await? {
            environment.output.hint(&format!(
                "the namespace {namespace} is kept for what is in it, such as {left}"
            ));
            return Ok(());
        }
        match namespaces.delete(namespace, &DeleteParams::default()).await {
            Ok(_) => environment
                .output
                .info(&format!("Deleted namespace {namespace}")),
            Err(error) if is_absent(&error) => {}
            Err(error) => {
                return Err(from_kube(&format!("delete the namespace {namespace}"))(
                    error,
                ));
            }
        }
        Ok(())
    }
}

async fn remove_grants(
    environment: &Environment,
    host: &Host,
    name: &str,
    remains: &Remains,
) -> Result {
    for place in &remains.places {
        let removed = grants::remove(host, &remains.namespace, name, place).await;
        if !removed.map_err(from_kube("delete a role"))? {
            environment.output.hint(&format!(
                "you may not remove the role and role binding {} {}: ask who may",
                names::grant(&remains.namespace, name),
                grants::somewhere(place)
            ));
        }
    }
    Ok(())
}

/// Has the host keep the claim, also where it was to go with the StatefulSet.
async fn keep_claim(host: &Host, namespace: &str, name: &str) -> Result {
    let failed = |error| from_kube("keep the claim")(error);
    let parameters = PatchParams::default();
    let retain =
        json!({"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain"}}});
    let sets: Api<StatefulSet> = Api::namespaced(host.client.clone(), namespace);
    let patched = sets
        .patch(
            &names::stateful_set(name),
            &parameters,
            &Patch::Merge(retain),
        )
        .await;
    if let Err(error) = patched
        && !is_absent(&error)
    {
        return Err(failed(error));
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(host.client.clone(), namespace);
    let free = json!({"metadata": {"ownerReferences": null}});
    let patched = claims
        .patch(&names::data_claim(name), &parameters, &Patch::Merge(free))
        .await;
    match patched {
        Err(error) if !is_absent(&error) => Err(failed(error)),
        _ => Ok(()),
    }
}

async fn remove_set(host: &Host, namespace: &str, name: &str) -> Result {
    let sets: Api<StatefulSet> = Api::namespaced(host.client.clone(), namespace);
    let parameters = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        ..DeleteParams::default()
    };
    match sets.delete(&names::stateful_set(name), &parameters).await {
        Ok(_) => Ok(()),
        Err(error) if is_absent(&error) => Ok(()),
        Err(error) => Err(from_kube("delete the StatefulSet")(error)),
    }
}

/// Removes everything that carries the virtual cluster's mark, but for its
/// Service, and waits until its pods have gone.
async fn remove_rest(host: &Host, namespace: &str, name: &str, keep_pvc: bool) -> Result {
    let synced = format!("{}={name}", marks::MANAGED_BY);
    let own = format!("app={},release={name}", marks::APP);
    remove_all::<Pod>(host, namespace, &synced).await?;
    let custom = custom_resources(host, namespace, name).await?;
    remove_custom(host, namespace, name, &custom).await?;
    remove_optional(host, namespace, name, &ToHost::default()).await?;
    remove_all::<Service>(host, namespace, &synced).await?;
    remove_all::<ConfigMap>(host, namespace, &synced).await?;
    remove_all::<Secret>(host, namespace, &synced).await?;
    remove_all::<Endpoints>(host, namespace, &synced).await?;
    remove_all::<EndpointSlice>(host, namespace, &synced).await?;
    if !keep_pvc {
        remove_all::<PersistentVolumeClaim>(host, namespace, &synced).await?;
        remove_all::<PersistentVolumeClaim>(host, namespace, &own).await?;
    }
    remove_named::<Secret>(host, namespace, &names::kubeconfig_secret(name)).await?;
    remove_named::<Secret>(host, namespace, &names::certs_secret(name)).await?;
    for selector in [&synced, &own] {
        wait_gone::<Pod>(host, namespace, selector).await?;
        if !keep_pvc {
            wait_gone::<PersistentVolumeClaim>(host, namespace, selector).await?;
        }
    }
    Ok(())
}

/// Removes the Service, which owns all the rest, and waits until the last of it
/// has gone.
async fn remove_services(host: &Host, namespace: &str, name: &str) -> Result {
    let synced = format!("{}={name}", marks::MANAGED_BY);
    let own = format!("app={},release={name}", marks::APP);
    remove_all::<Service>(host, namespace, &own).await?;
    for selector in [&synced, &own] {
        wait_gone::<Service>(host, namespace, selector).await?;
        wait_gone::<Secret>(host, namespace, selector).await?;
        wait_gone::<ConfigMap>(host, namespace, selector).await?;
    }
    wait_gone::<ServiceAccount>(host, namespace, &own).await?;
    wait_gone::<k8s_openapi::api::rbac::v1::Role>(host, namespace, &own).await
}
