//! The ClusterRole and ClusterRoleBinding of a virtual cluster, where a feature
//! needs them: nothing owns them, so they are checked and removed by name.

use coracle_config::{marks, names};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DeleteParams, Preconditions};
use kube::core::ClusterResourceScope;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::error::{CliError, Result, from_kube};
use crate::host::Host;
use crate::objects::{is_absent, is_forbidden};

/// Fails if someone else has a ClusterRole or binding of that name.
///
/// # Errors
/// Also if the host refuses to tell.
pub async fn refuse_foreign(host: &Host, namespace: &str, name: &str) -> Result {
    let full = names::cluster_role(namespace, name);
    let role = find::<ClusterRole>(&host.client, &full).await;
    let binding = find::<ClusterRoleBinding>(&host.client, &full).await;
    let failed = |error| from_kube(&format!("read the ClusterRole {full}"))(error);
    let role = role.map_err(failed)?.map(|found| found.metadata);
    let binding = binding.map_err(failed)?.map(|found| found.metadata);
    let foreign = |meta: &kube::api::ObjectMeta| !is_ours(meta, namespace, name);
    if role.iter().chain(&binding).any(foreign) {
        return Err(CliError::failure(format!(
            "the ClusterRole or ClusterRoleBinding {full:?} belongs to someone else"
        ))
        .hint("choose another name, or remove it if nobody needs it"));
    }
    Ok(())
}

/// Removes both if they are there and ours. False if the host forbids it.
///
/// # Errors
/// As the host answers.
pub async fn remove(host: &Host, namespace: &str, name: &str) -> kube::Result<bool> {
    let binding = remove_one::<ClusterRoleBinding>(&host.client, namespace, name).await?;
    let role = remove_one::<ClusterRole>(&host.client, namespace, name).await?;
    Ok(binding && role)
}

trait Kind:
    Resource<Scope = ClusterResourceScope, DynamicType = ()>
    + Clone
    + DeserializeOwned
    + std::fmt::Debug
{
}

impl Kind for ClusterRole {}
impl Kind for ClusterRoleBinding {}

async fn find<K: Kind>(client: &Client, full: &str) -> kube::Result<Option<K>> {
    Api::<K>::all(client.clone()).get_opt(full).await
}

async fn remove_one<K: Kind>(client: &Client, namespace: &str, name: &str) -> kube::Result<bool> {
    let full = names::cluster_role(namespace, name);
    let found = match find::<K>(client, &full).await {
        Ok(Some(found)) if is_ours(found.meta(), namespace, name) => found,
        Ok(_) => return Ok(true),
        Err(error) if is_forbidden(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    let parameters = DeleteParams {
        preconditions: Some(Preconditions {
            uid: found.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match Api::<K>::all(client.clone())
        .delete(&full, &parameters)
        .await
    {
        Ok(_) => Ok(true),
        Err(error) if is_absent(&error) => Ok(true),
        Err(error) if is_forbidden(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_ours(meta: &kube::api::ObjectMeta, namespace: &str, name: &str) -> bool {
    let labels = meta.labels.as_ref();
    let has = |key: &str, value: &str| {
        labels.is_some_and(|labels| labels.get(key).is_some_and(|found| found == value))
    };
    has("app", marks::APP) && has(marks::RELEASE, name) && has(marks::HOST_NAMESPACE, namespace)
}
