//! What is left of a virtual cluster whose StatefulSet is gone: a `delete` was
//! cut short, or somebody removed its namespace. All of it carries labels.

use std::collections::{BTreeMap, BTreeSet};

use coracle_config::marks;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{ListParams, ObjectMeta};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::error::{CliError, Result, from_kube};
use crate::grants::CLUSTER;
use crate::host::Host;
use crate::objects::{is_absent, is_forbidden};

/// What is left in one host namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// The namespace; it may be gone itself.
    pub namespace: String,
    /// Where it still has rights, as the StatefulSet remembers places.
    pub places: Vec<String>,
}

/// What is left of the virtual cluster `name`, in the namespace or in all that
/// the user may read. Claims alone are nothing left: somebody has kept them.
///
/// # Errors
/// If the host cannot be reached, or something is left in several namespaces
/// and none was given.
pub async fn find(host: &Host, name: &str, namespace: Option<&str>) -> Result<Option<Remains>> {
    let synced = format!("{}={name}", marks::MANAGED_BY);
    let own = format!("app={},release={name}", marks::APP);
    let mut found = Found {
        host,
        namespace,
        places: BTreeMap::new(),
    };
    found.objects::<Service>(&own).await?;
    found.objects::<Pod>(&own).await?;
    found.objects::<Service>(&synced).await?;
    found.objects::<Pod>(&synced).await?;
    found.objects::<ConfigMap>(&synced).await?;
    found.objects::<Secret>(&synced).await?;
    found.objects::<Endpoints>(&synced).await?;
    found.objects::<EndpointSlice>(&synced).await?;
    found.rights::<ClusterRoleBinding>(&own).await?;
    found.rights::<ClusterRole>(&own).await?;
    found.rights::<RoleBinding>(&own).await?;
    found.rights::<Role>(&own).await?;
    only(name, found.places)
}

fn only(name: &str, mut places: BTreeMap<String, BTreeSet<String>>) -> Result<Option<Remains>> {
    if places.len() > 1 {
        let all: Vec<&str> = places.keys().map(String::as_str).collect();
        return Err(CliError::usage(format!(
            "something is left of virtual clusters {name:?} in namespaces {}",
            all.join(", ")
        ))
        .hint(format!("choose one: -n {}", all[0])));
    }
    Ok(places.pop_first().map(|(namespace, places)| Remains {
        namespace,
        places: places.into_iter().collect(),
    }))
}

struct Found<'a> {
    host: &'a Host,
    namespace: Option<&'a str>,
    /// The places with rights, by host namespace.
    places: BTreeMap<String, BTreeSet<String>>,
}

impl Found<'_> {
    async fn objects<K>(&mut self, selector: &str) -> Result
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let client = self.host.client.clone();
        let mut listed = match self.namespace {
            Some(namespace) => {
                list(Api::<K>::namespaced(client.clone(), namespace), selector).await
            }
            None => list(Api::<K>::all(client.clone()), selector).await,
        }?;
        if listed.is_none() && self.namespace.is_none() {
            listed = list(Api::<K>::namespaced(client, &self.host.namespace), selector).await?;
        }
        for object in listed.unwrap_or_default() {
            self.places
                .entry(object.namespace.unwrap_or_default())
                .or_default();
        }
        Ok(())
    }

    /// Rights lie elsewhere, and say by a label whose they are.
    async fn rights<K>(&mut self, selector: &str) -> Result
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        let api = Api::<K>::all(self.host.client.clone());
        let selector = match self.namespace {
            Some(namespace) => format!("{selector},{}={namespace}", marks::HOST_NAMESPACE),
            None => format!("{selector},{}", marks::HOST_NAMESPACE),
        };
        for object in list(api, &selector).await?.unwrap_or_default() {
            let labels = object.labels.unwrap_or_default();
            let Some(namespace) = labels.get(marks::HOST_NAMESPACE) else {
                continue;
            };
            let place = object.namespace.unwrap_or_else(|| CLUSTER.to_owned());
            self.places
                .entry(namespace.clone())
                .or_default()
                .insert(place);
        }
        Ok(())
    }
}

/// `None` if the host forbids it.
async fn list<K>(api: Api<K>, selector: &str) -> Result<Option<Vec<ObjectMeta>>>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let parameters = ListParams::default().labels(selector);
    match api.list_metadata(&parameters).await {
        Ok(list) => Ok(Some(list.items.into_iter().map(|o| o.metadata).collect())),
        Err(error) if is_forbidden(&error) => Ok(None),
        Err(error) if is_absent(&error) => Ok(Some(Vec::new())),
        Err(error) => Err(from_kube(&format!("list {}", K::plural(&())))(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remains_in_several_namespaces_want_a_choice() {
        let places = |namespaces: &[&str]| {
            let entry = |n: &&str| ((*n).to_owned(), BTreeSet::from([CLUSTER.to_owned()]));
            namespaces.iter().map(entry).collect()
        };
        assert_eq!(only("v", places(&[])).unwrap(), None);
        let one = only("v", places(&["a"])).unwrap().unwrap();
        assert_eq!((one.namespace.as_str(), one.places.len()), ("a", 1));
        let error = only("v", places(&["a", "b"])).unwrap_err();
        assert!(error.message.contains("a, b"), "{}", error.message);
    }
}
