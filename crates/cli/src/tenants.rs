//! Finding virtual clusters on the host.

use coracle_config::{marks, names};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

use crate::error::{CliError, Result, from_kube};
use crate::host::Host;
use crate::objects::is_forbidden;

/// A virtual cluster as its StatefulSet shows it.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its host namespace.
    pub namespace: String,
    /// Its StatefulSet.
    pub set: StatefulSet,
}

impl Found {
    /// `None` if the StatefulSet is no virtual cluster's.
    pub fn new(set: StatefulSet) -> Option<Self> {
        let name = set.labels().get(marks::RELEASE)?.clone();
        // The label alone is not enough: any object may carry it.
        (set.name_any() == names::stateful_set(&name)).then(|| Self {
            name,
            namespace: set.namespace().unwrap_or_default(),
            set,
        })
    }

    /// The version of Kubernetes inside, as `create` noted it.
    pub fn kubernetes_version(&self) -> &str {
        let noted = self.set.annotations().get(marks::KUBERNETES_VERSION);
        noted.map_or("", String::as_str)
    }

    /// True if its data outlives its pod: it lies in a claim of its own.
    pub fn keeps_data(&self) -> bool {
        let spec = self.set.spec.as_ref();
        let claims = spec.and_then(|s| s.volume_claim_templates.as_ref());
        claims.is_some_and(|claims| !claims.is_empty())
    }

    /// `Running`, `Pending`, `Paused` or `Terminating`.
    pub fn status(&self) -> &'static str {
        let wanted = self.set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
        let ready = self
            .set
            .status
            .as_ref()
            .and_then(|s| s.ready_replicas)
            .unwrap_or(0);
        if self.set.metadata.deletion_timestamp.is_some() {
            "Terminating"
        } else if wanted == 0 {
            "Paused"
        } else if ready >= wanted {
            "Running"
        } else {
            "Pending"
        }
    }
}

/// All virtual clusters in a namespace, or in all that the user may read:
/// without the right to read all, those of the context's own namespace.
///
/// # Errors
/// If the host cannot be reached or refuses.
pub async fn list(host: &Host, namespace: Option<&str>) -> Result<Vec<Found>> {
    let selector = ListParams::default().labels(&format!("app={}", marks::APP));
    let api: Api<StatefulSet> = match namespace {
        Some(namespace) => Api::namespaced(host.client.clone(), namespace),
        None => Api::all(host.client.clone()),
    };
    let sets = match api.list(&selector).await {
        Err(error) if namespace.is_none() && is_forbidden(&error) => {
            let own: Api<StatefulSet> = Api::namespaced(host.client.clone(), &host.namespace);
            own.list(&selector).await
        }
        result => result,
    };
    let sets = sets.map_err(from_kube("list virtual clusters"))?;
    let mut found: Vec<Found> = sets.items.into_iter().filter_map(Found::new).collect();
    found.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Ok(found)
}

/// The one virtual cluster of that name.
///
/// # Errors
/// If there is none, or there are several and no namespace was given.
pub async fn find(host: &Host, name: &str, namespace: Option<&str>) -> Result<Found> {
    search(host, name, namespace).await?
}

/// The one virtual cluster of that name; inside, what to tell the user if
/// there is none.
///
/// # Errors
/// If the host refuses, or there are several and no namespace was given.
pub async fn search(
    host: &Host,
    name: &str,
    namespace: Option<&str>,
) -> Result<std::result::Result<Found, CliError>> {
    let all = list(host, namespace).await?;
    let mut found: Vec<Found> = all.iter().filter(|f| f.name == name).cloned().collect();
    match found.len() {
        1 => Ok(Ok(found.remove(0))),
        0 => Ok(Err(absent(host, name, namespace, &all))),
        _ => {
            let places: Vec<&str> = found.iter().map(|f| f.namespace.as_str()).collect();
            Err(CliError::usage(format!(
                "there is more than one virtual cluster {name:?}: in namespaces {}",
                places.join(", ")
            ))
            .hint(format!("choose one: -n {}", places[0])))
        }
    }
}

fn absent(host: &Host, name: &str, namespace: Option<&str>, all: &[Found]) -> CliError {
    let place = namespace.map_or(String::new(), |n| format!(" in namespace {n:?}"));
    let error = CliError::failure(format!(
        "there is no virtual cluster {name:?}{place} on {}",
        host.context
    ));
    if all.is_empty() {
        return error.hint(format!(
            "`coracle create {name}` makes it; `coracle list` lists all"
        ));
    }
    let names: Vec<String> = all
        .iter()
        .map(|f| format!("{}/{}", f.namespace, f.name))
        .collect();
    error.hint(format!("there are: {}", names.join(", ")))
}

/// The label on namespaces that `create` made and `delete` may remove.
pub const CREATED_NAMESPACE: &str = "coracle.dev/created-by";

/// True if `create` made this namespace.
pub fn is_own_namespace(namespace: &Namespace) -> bool {
    namespace
        .labels()
        .get(CREATED_NAMESPACE)
        .is_some_and(|by| by == "create")
}
