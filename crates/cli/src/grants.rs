//! Rights of a virtual cluster outside of its namespace, where a feature needs
//! them: a role and its binding in another namespace or for the whole host.
//! Nothing owns these, so the StatefulSet remembers the places.

use coracle_config::{marks, names};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{DeleteParams, DynamicObject, ObjectMeta, Preconditions};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt as _};

use crate::error::{CliError, Result, from_kube};
use crate::host::Host;
use crate::manifests::Tenant;
use crate::objects::{apply, is_absent, is_forbidden};

/// Stands for the whole host among the places that are remembered: no name of
/// a namespace.
pub const CLUSTER: &str = "*";

/// The places that a StatefulSet remembers.
pub fn places(set: &StatefulSet) -> Vec<String> {
    let remembered = set.annotations().get(marks::GRANTS);
    remembered
        .map(|text| text.split(',').map(str::to_owned).collect())
        .unwrap_or_default()
}

/// Fails if someone else has a role or binding of our name in these places.
///
/// # Errors
/// Also if the host refuses to tell.
pub async fn refuse_foreign(host: &Host, tenant: &Tenant<'_>) -> Result {
    let full = names::grant(tenant.namespace, tenant.name);
    for grant in tenant.grants() {
        let place = grant.namespace.as_deref().unwrap_or(CLUSTER);
        for api in apis(&host.client, place) {
            let found = match api.get_metadata_opt(&full).await {
                // Applying will fail likewise, and say what to do.
                Err(error) if is_forbidden(&error) => None,
                result => result.map_err(from_kube(&format!("read the role {full}")))?,
            };
            if found.is_some_and(|f| !is_ours(&f.metadata, tenant.namespace, tenant.name)) {
                return Err(CliError::failure(format!(
                    "a role or role binding {full:?} {} belongs to someone else",
                    somewhere(place)
                ))
                .hint("choose another name, or remove it if nobody needs it"));
            }
        }
    }
    Ok(())
}

/// Grants what the virtual cluster needs, and takes back what it had in those
/// `earlier` places that it no longer needs.
///
/// # Errors
/// As the host answers.
pub async fn renew(host: &Host, tenant: &Tenant<'_>, earlier: &[String]) -> Result {
    let grants = tenant.grants();
    for object in tenant.grant_objects() {
        let place = object["metadata"]["namespace"].as_str().unwrap_or(CLUSTER);
        if let Err(error) = apply(&host.client, &object).await {
            let forbidden = is_forbidden(&error);
            let kind = object["kind"].as_str().unwrap_or_default();
            let error = from_kube(&format!("create the virtual cluster's {kind}"))(error);
            return Err(if forbidden {
                explain(error, place)
            } else {
                error
            });
        }
    }
    for place in earlier {
        let kept = |g: &coracle_config::Grant| g.namespace.as_deref().unwrap_or(CLUSTER) == place;
        if !grants.iter().any(kept) {
            remove(host, tenant.namespace, tenant.name, place)
                .await
                .map_err(from_kube("remove a role that is no longer needed"))?;
        }
    }
    Ok(())
}

fn explain(error: CliError, place: &str) -> CliError {
    if place == CLUSTER {
        return error.hint(
            "sync.fromHost.nodes and the classes of sync.fromHost show what lies in no namespace, and so do \
             the definitions of custom resources: switch them off, or have an administrator of the host create this virtual cluster",
        );
    }
    error.hint(format!(
        "the values take objects from namespace {place}: leave that out, or have its owner create this \
         virtual cluster"
    ))
}

/// `in namespace x`, or words for the whole host.
pub fn somewhere(place: &str) -> String {
    if place == CLUSTER {
        "of the host cluster".to_owned()
    } else {
        format!("in namespace {place}")
    }
}

/// Removes role and binding in one place, if they are there and ours. False if
/// the host forbids it.
///
/// # Errors
/// As the host answers.
pub async fn remove(host: &Host, namespace: &str, name: &str, place: &str) -> kube::Result<bool> {
    let full = names::grant(namespace, name);
    for api in apis(&host.client, place) {
        let found = match api.get_metadata_opt(&full).await {
            Ok(Some(found)) if is_ours(&found.metadata, namespace, name) => found,
            Ok(_) => continue,
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
        match api.delete(&full, &parameters).await {
            Ok(_) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) if is_forbidden(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Binding first: it is what gives the rights.
fn apis(client: &Client, place: &str) -> [Api<DynamicObject>; 2] {
    let resource = |kind: &str| {
        let gvk = GroupVersionKind::gvk("rbac.authorization.k8s.io", "v1", kind);
        ApiResource::from_gvk(&gvk)
    };
    if place == CLUSTER {
        ["ClusterRoleBinding", "ClusterRole"]
            .map(|kind| Api::all_with(client.clone(), &resource(kind)))
    } else {
        ["RoleBinding", "Role"]
            .map(|kind| Api::namespaced_with(client.clone(), place, &resource(kind)))
    }
}

fn is_ours(meta: &ObjectMeta, namespace: &str, name: &str) -> bool {
    let labels = meta.labels.as_ref();
    let has = |key: &str, value: &str| {
        labels.is_some_and(|labels| labels.get(key).is_some_and(|found| found == value))
    };
    has("app", marks::APP) && has(marks::RELEASE, name) && has(marks::HOST_NAMESPACE, namespace)
}
