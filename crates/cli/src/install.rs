//! Bringing a virtual cluster to the host, whole or changed.

use coracle_config::model::Config;
use coracle_config::{PolicyRule, names};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt as _};
use serde_json::Value;

use crate::commands::removal;
use crate::error::{Result, from_kube};
use crate::exported;
use crate::grants;
use crate::host::Host;
use crate::manifests::{ServiceFacts, Tenant};
use crate::objects::{apply, is_forbidden, remove_own};

/// The image of both containers.
pub fn image(config: &Config) -> String {
    let image = &config.control_plane.stateful_set.image;
    if image.repository.is_empty() {
        return coracle_server::host::CORACLE_IMAGE.to_owned();
    }
    let registry = if image.registry.is_empty() {
        String::new()
    } else {
        format!("{}/", image.registry)
    };
    let tag = if image.tag.is_empty() {
        env!("CARGO_PKG_VERSION")
    } else {
        &image.tag
    };
    format!("{registry}{}:{tag}", image.repository)
}

/// A claim is made if it is wanted and the host can fill it: an explicit class,
/// or a default one. For who may not read classes it is made as well: a claim
/// that waits is seen, and data that is lost with its pod cannot be had back.
pub async fn wants_claim(host: &Host, config: &Config) -> bool {
    let claim = &config.control_plane.stateful_set.persistence.volume_claim;
    if !claim.enabled || !claim.storage_class.is_empty() {
        return claim.enabled;
    }
    let classes: Api<StorageClass> = Api::all(host.client.clone());
    const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
    match classes.list(&ListParams::default()).await {
        Ok(list) => list.iter().any(|class| {
            class
                .annotations()
                .get(DEFAULT)
                .is_some_and(|v| v == "true")
        }),
        Err(_) => true,
    }
}

/// Writes everything that a virtual cluster has on the host. `earlier` are the
/// places that it had rights in until now; with `upgrade`, what earlier values
/// asked for and these do not is removed.
///
/// # Errors
/// As the host answers.
pub async fn install(
    host: &Host,
    tenant: &Tenant<'_>,
    earlier: &[String],
    upgrade: bool,
) -> Result {
    grants::refuse_foreign(host, tenant).await?;
    let service = apply(&host.client, &tenant.service())
        .await
        .map_err(from_kube("create the virtual cluster's Service"))?;
    let cluster_ip = service
        .data
        .pointer("/spec/clusterIP")
        .and_then(Value::as_str);
    let facts = ServiceFacts {
        uid: service.uid().unwrap_or_default(),
        cluster_ip: cluster_ip.unwrap_or_default().to_owned(),
    };
    let rules = coracle_config::host_rules(tenant.config);
    // Before other values take the place of those.
    let mut custom = if upgrade {
        removal::custom_resources(host, tenant.namespace, tenant.name).await?
    } else {
        Vec::new()
    };
    for object in tenant.dependents(&facts, &rules) {
        let doing = format!(
            "create the virtual cluster's {} {}",
            object["kind"].as_str().unwrap_or_default(),
            object["metadata"]["name"].as_str().unwrap_or_default()
        );
        let result = match apply(&host.client, &object).await {
            // A namespace's admin may not grant more than it holds.
            Err(error) if is_forbidden(&error) && object["kind"] == "Role" => {
                apply_lesser_role(host, tenant, &facts, &rules).await
            }
            result => result.map(drop),
        };
        if let Err(error) = result {
            let limits = is_forbidden(&error) && is_limit(&object);
            let error = from_kube(&doing)(error);
            return Err(if limits {
                error.hint(LIMITS_HINT)
            } else {
                error
            });
        }
    }
    if upgrade {
        remove_policies(host, tenant, &facts).await?;
        let chosen = &tenant.config.sync.to_host;
        removal::remove_optional(host, tenant.namespace, tenant.name, chosen).await?;
        let kept = coracle_config::model::custom::to_host(&chosen.custom_resources);
        custom.retain(|gone| {
            kept.iter()
                .all(|(name, _)| name.definition() != gone.definition())
        });
        removal::remove_custom(host, tenant.namespace, tenant.name, &custom).await?;
        if earlier.iter().any(|place| place == grants::CLUSTER) {
            removal::remove_classes(host, tenant.namespace, tenant.name, chosen).await?;
        }
        exported::remove_others(host, tenant, earlier).await?;
    }
    // Last: from here on the StatefulSet remembers where they are.
    grants::renew(host, tenant, earlier).await
}

const LIMITS_HINT: &str = "a ResourceQuota or LimitRange bounds the namespace's own admin too, so it takes \
     an administrator of the host to set one: ask for it, or leave policies out";

fn is_limit(object: &Value) -> bool {
    object["kind"] == "ResourceQuota" || object["kind"] == "LimitRange"
}

/// Removes policies of an earlier configuration.
async fn remove_policies(host: &Host, tenant: &Tenant<'_>, facts: &ServiceFacts) -> Result {
    let key = |object: &Value| (object["kind"].clone(), object["metadata"]["name"].clone());
    let wanted: Vec<_> = tenant.policies(facts).iter().map(key).collect();
    for object in tenant.possible_policies() {
        if !wanted.contains(&key(&object)) {
            remove_own(&host.client, &object)
                .await
                .map_err(from_kube("remove an earlier policy"))?;
        }
    }
    Ok(())
}

/// Applies the Role without the rights that Kubernetes' own admin role lacks.
async fn apply_lesser_role(
    host: &Host,
    tenant: &Tenant<'_>,
    facts: &ServiceFacts,
    rules: &[PolicyRule],
) -> kube::Result<()> {
    let lesser = coracle_config::rules::within_admin(rules);
    let role = tenant
        .dependents(facts, &lesser)
        .into_iter()
        .find(|o| o["kind"] == "Role");
    match role {
        Some(role) => apply(&host.client, &role).await.map(drop),
        None => Ok(()),
    }
}

/// Takes back what a failed create made: the Service owns all the rest.
pub async fn undo(host: &Host, tenant: &Tenant<'_>, made_namespace: bool) {
    for grant in tenant.grants() {
        let place = grant.namespace.as_deref().unwrap_or(grants::CLUSTER);
        let _ = grants::remove(host, tenant.namespace, tenant.name, place).await;
    }
    let services: Api<Service> = Api::namespaced(host.client.clone(), tenant.namespace);
    let _ = services
        .delete(&names::service(tenant.name), &DeleteParams::background())
        .await;
    if made_namespace {
        let namespaces: Api<Namespace> = Api::all(host.client.clone());
        let _ = namespaces
            .delete(tenant.namespace, &DeleteParams::default())
            .await;
    }
}
