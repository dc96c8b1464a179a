//! Further secrets with a kubeconfig, which the syncer writes where the values
//! ask for them. Those in other namespaces are owned by nobody.

use coracle_config::marks;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::{Api, ResourceExt as _};

use crate::error::{Result, from_kube};
use crate::grants::CLUSTER;
use crate::host::Host;
use crate::manifests::Tenant;
use crate::objects::{is_absent, is_forbidden};

/// Removes those that the values do not ask for any more. `earlier` are the
/// places that the virtual cluster had rights in.
///
/// # Errors
/// As the host answers.
pub async fn remove_others(host: &Host, tenant: &Tenant<'_>, earlier: &[String]) -> Result {
    let wanted = |place: &str, name: &str| {
        let all = &tenant.config.export_kube_config.additional_secrets;
        all.iter()
            .any(|one| one.name == name && one.namespace_or(tenant.namespace) == place)
    };
    for place in places(tenant.namespace, earlier) {
        remove(host, tenant.namespace, tenant.name, place, |secret| {
            !wanted(place, &secret.name_any())
        })
        .await?;
    }
    Ok(())
}

/// Removes all of them.
///
/// # Errors
/// As the host answers.
pub async fn remove_all(host: &Host, namespace: &str, name: &str, earlier: &[String]) -> Result {
    for place in places(namespace, earlier) {
        remove(host, namespace, name, place, |_| true).await?;
    }
    Ok(())
}

fn places<'a>(own: &'a str, earlier: &'a [String]) -> impl Iterator<Item = &'a str> {
    let others = earlier.iter().map(String::as_str);
    std::iter::once(own).chain(others.filter(move |place| *place != CLUSTER && *place != own))
}

async fn remove(
    host: &Host,
    namespace: &str,
    name: &str,
    place: &str,
    goes: impl Fn(&PartialObjectMeta<Secret>) -> bool,
) -> Result {
    let api: Api<Secret> = Api::namespaced(host.client.clone(), place);
    let labels: Vec<String> = marks::exported_labels(namespace, name)
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let parameters = ListParams::default().labels(&labels.join(","));
    let list = match api.list_metadata(&parameters).await {
        Ok(list) => list,
        // What may not be read was not made with these rights either.
        Err(error) if is_forbidden(&error) || is_absent(&error) => return Ok(()),
        Err(error) => return Err(from_kube("list the secrets with kubeconfigs")(error)),
    };
    for secret in list.iter().filter(|secret| goes(secret)) {
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: secret.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(&secret.name_any(), &parameters).await {
            Err(error) if !is_absent(&error) => {
                return Err(from_kube("delete a secret with a kubeconfig")(error));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_is_looked_at_once_and_the_whole_host_never() {
        let earlier = ["*", "other", "own"].map(str::to_owned);
        let all: Vec<&str> = places("own", &earlier).collect();
        assert_eq!(all, ["own", "other"]);
    }
}
