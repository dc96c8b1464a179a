//! Removing host objects by their labels.

use std::collections::BTreeMap;

use coracle_config::model::{ToHost, custom};
use coracle_config::{Config, CustomName, marks, names};
use futures::TryStreamExt as _;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::core::{DynamicObject, NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::error::{CliError, Result, from_kube};
use crate::host::Host;
use crate::objects::{is_absent, is_forbidden};

/// Removes what came to the host of kinds that flow only by choice, unless the
/// choice is made.
///
/// # Errors
/// As the host answers.
pub async fn remove_optional(host: &Host, namespace: &str, name: &str, chosen: &ToHost) -> Result {
    let synced = format!("{}={name}", marks::MANAGED_BY);
    if !chosen.ingresses.enabled {
        remove_all::<Ingress>(host, namespace, &synced).await?;
    }
    if !chosen.network_policies.enabled {
        remove_all::<NetworkPolicy>(host, namespace, &synced).await?;
    }
    if !chosen.pod_disruption_budgets.enabled {
        remove_all::<PodDisruptionBudget>(host, namespace, &synced).await?;
    }
    if !chosen.service_accounts.enabled {
        remove_all::<ServiceAccount>(host, namespace, &synced).await?;
    }
    Ok(())
}

/// Removes the classes and volumes that came to the host of kinds that flow only by choice,
/// unless the choice is made. They lie in no namespace, so nothing owns them.
///
/// # Errors
/// As the host answers.
pub async fn remove_classes(host: &Host, namespace: &str, name: &str, chosen: &ToHost) -> Result {
    let synced = format!(
        "{}={name},{}={namespace}",
        marks::MANAGED_BY,
        marks::HOST_NAMESPACE
    );
    if !chosen.priority_classes.enabled {
        let api: Api<PriorityClass> = Api::all(host.client.clone());
        remove_from(api, "priorityclasses", &synced).await?;
    }
    if !chosen.storage_classes.enabled {
        let api: Api<StorageClass> = Api::all(host.client.clone());
        remove_from(api, "storageclasses", &synced).await?;
    }
    if !chosen.persistent_volumes.enabled {
        let api: Api<PersistentVolume> = Api::all(host.client.clone());
        remove_from(api, "persistentvolumes", &synced).await?;
    }
    Ok(())
}

/// The custom resources that flow to the host by the values that a virtual
/// cluster has there.
///
/// # Errors
/// As the host answers; no values and no rights to read them are no error.
pub async fn custom_resources(host: &Host, namespace: &str, name: &str) -> Result<Vec<CustomName>> {
    let secrets: Api<Secret> = Api::namespaced(host.client.clone(), namespace);
    let secret = match secrets.get_opt(&names::config_secret(name)).await {
        Err(error) if is_forbidden(&error) => None,
        result => result.map_err(from_kube("read the virtual cluster's values"))?,
    };
    let text = secret.and_then(|secret| secret.data?.remove(names::CONFIG_KEY));
    let text = text.and_then(|text| String::from_utf8(text.0).ok());
    let config = text.and_then(|text| Config::from_yaml(&[("values", &text)]).ok());
    let Some((config, _)) = config else {
        return Ok(Vec::new());
    };
    let all = custom::to_host(&config.sync.to_host.custom_resources);
    Ok(all.into_iter().map(|(name, _)| name).collect())
}

/// Removes the objects of custom resources that came to the host.
///
/// # Errors
/// As the host answers.
pub async fn remove_custom(
    host: &Host,
    namespace: &str,
    name: &str,
    resources: &[CustomName],
) -> Result {
    let synced = format!("{}={name}", marks::MANAGED_BY);
    for resource in resources {
        let group = match kube::discovery::group(&host.client, &resource.group).await {
            Ok(group) => group,
            // Its definition is gone, and the objects with it.
            Err(kube::Error::Discovery(_)) => continue,
            Err(error) if is_absent(&error) || is_forbidden(&error) => continue,
            Err(error) => return Err(from_kube("read what the host serves")(error)),
        };
        let all = group.recommended_resources();
        let found = all
            .iter()
            .find(|(found, _)| found.plural == resource.plural);
        if let Some((kind, _)) = found {
            let client = host.client.clone();
            let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, kind);
            remove_from(api, &kind.plural, &synced).await?;
        }
    }
    Ok(())
}

/// A namespaced kind.
pub trait Kind:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Clone
    + DeserializeOwned
    + std::fmt::Debug
    + Send
    + 'static
{
}

impl<K> Kind for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static
{
}

/// Removes all objects that a label selector chooses.
///
/// # Errors
/// As the host answers.
pub async fn remove_all<K: Kind>(host: &Host, namespace: &str, selector: &str) -> Result {
    let api = Api::<K>::namespaced(host.client.clone(), namespace);
    remove_from(api, &K::plural(&()), selector).await
}

async fn remove_from<K>(api: Api<K>, plural: &str, selector: &str) -> Result
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let doing = format!("delete the virtual cluster's {plural}");
    let list = match api
        .list_metadata(&ListParams::default().labels(selector))
        .await
    {
        Ok(list) => list,
        // What may not be read was not made with these rights either.
        Err(error) if is_forbidden(&error) || is_absent(&error) => return Ok(()),
        Err(error) => return Err(from_kube(&doing)(error)),
    };
    for object in list {
        let preconditions = Some(Preconditions {
            uid: object.uid(),
            resource_version: None,
        });
        let parameters = DeleteParams {
            preconditions,
            ..DeleteParams::background()
        };
        match api.delete(&object.name_any(), &parameters).await {
            Ok(_) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(from_kube(&doing)(error)),
        }
    }
    Ok(())
}

/// Removes one object.
///
/// # Errors
/// As the host answers; its absence is fine.
pub async fn remove_named<K: Kind>(host: &Host, namespace: &str, name: &str) -> Result {
    let api: Api<K> = Api::namespaced(host.client.clone(), namespace);
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(error) if is_absent(&error) => Ok(()),
        Err(error) => Err(from_kube(&format!("delete {name}"))(error)),
    }
}

/// Something that is left in a namespace, as `service/web`; nothing that every
/// namespace has, nothing that comes and goes by itself, and of what belongs to
/// the virtual cluster `name` only claims: the rest goes with it.
///
/// # Errors
/// As the host answers.
pub async fn anything_in(host: &Host, namespace: &str, name: &str) -> Result<Option<String>> {
    macro_rules! first_of {
        ($($kind:ty),* $(,)?) => {
            $(if let Some(found) = first::<$kind>(host, namespace, name).await? {
                return Ok(Some(found));
            })*
        };
    }
    first_of!(
        Pod,
        Service,
        PersistentVolumeClaim,
        ConfigMap,
        Secret,
        ServiceAccount,
        Deployment,
        StatefulSet,
        DaemonSet,
        ReplicaSet,
        Job,
        CronJob,
        Ingress,
    );
    Ok(None)
}

/// What every namespace has from the start.
const GIVEN: &[&str] = &["kube-root-ca.crt", "default"];

async fn first<K: Kind>(host: &Host, namespace: &str, name: &str) -> Result<Option<String>> {
    let doing = format!("list the {} of namespace {namespace}", K::plural(&()));
    let api: Api<K> = Api::namespaced(host.client.clone(), namespace);
    let list = match api.list_metadata(&ListParams::default()).await {
        Ok(list) => list,
        // A host without that kind has none of it.
        Err(error) if is_absent(&error) => return Ok(None),
        // Who cannot see what is there must not remove it.
        Err(error) if is_forbidden(&error) => {
            return Ok(Some(format!("perhaps {}", K::plural(&()))));
        }
        Err(error) => return Err(from_kube(&doing)(error)),
    };
    // The garbage collector or a controller is about to remove it.
    let stays = |object: &PartialObjectMeta<K>| object.metadata.deletion_timestamp.is_none();
    let kind = K::kind(&()).to_lowercase();
    let claims = kind == "persistentvolumeclaim";
    let others = list
        .iter()
        .filter(|o| stays(o) && (claims || !belongs_to(o.labels(), name)));
    let names = others.map(|o| o.name_any());
    let mut names = names.filter(|name| !GIVEN.contains(&name.as_str()));
    Ok(names.next().map(|name| format!("{kind}/{name}")))
}

/// True if these are labels of an object of the virtual cluster, or of one that
/// it brought to the host.
fn belongs_to(labels: &BTreeMap<String, String>, name: &str) -> bool {
    let is = |label: &str, value: &str| labels.get(label).is_some_and(|v| v == value);
    is(marks::MANAGED_BY, name) || (is("app", marks::APP) && is(marks::RELEASE, name))
}

/// Waits until no object matches. Watches, so that it ends at once.
///
/// # Errors
/// As the host answers.
pub async fn wait_gone<K: Kind>(host: &Host, namespace: &str, selector: &str) -> Result {
    let api: Api<K> = Api::namespaced(host.client.clone(), namespace);
    match api
        .list_metadata(&ListParams::default().labels(selector))
        .await
    {
        Ok(list) if list.items.is_empty() => return Ok(()),
        Err(error) if is_forbidden(&error) || is_absent(&error) => return Ok(()),
        _ => {}
    }
    let metadata: Api<PartialObjectMeta<K>> = Api::namespaced(host.client.clone(), namespace);
    let configuration = watcher::Config::default().labels(selector);
    let mut present = std::collections::HashSet::new();
    let mut events = std::pin::pin!(watcher(metadata, configuration).default_backoff());
    loop {
        let event = events.try_next().await.map_err(|error| {
            CliError::failure(format!("cannot watch {}", K::plural(&()))).because(error)
        })?;
        let complete = match event {
            None => return Ok(()),
            Some(watcher::Event::Init) => {
                present.clear();
                false
            }
            Some(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                present.insert(object.uid());
                false
            }
            Some(watcher::Event::Delete(object)) => {
                present.remove(&object.uid());
                true
            }
            Some(watcher::Event::InitDone) => true,
        };
        if complete && present.is_empty() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_label_alike_is_not_taken_for_ours() {
        for (labels, ours) in [
            (&[("app", "coracle"), ("release", "a")][..], true),
            (&[("coracle.dev/managed-by", "a")], true),
            (&[("release", "a")], false),
            (&[("app", "web"), ("release", "a")], false),
            (&[("app", "coracle"), ("release", "b")], false),
            (&[("coracle.dev/managed-by", "b")], false),
            (&[], false),
        ] {
            let map = labels.iter().map(|(k, v)| ((*k).into(), (*v).into()));
            assert_eq!(belongs_to(&map.collect(), "a"), ours, "{labels:?}");
        }
    }
}
