//! Storage of the embedded host: its default class, and what lets node agents
//! make volumes for it.

use coracle_node::LOCAL_PROVISIONER;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::PostParams;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::Error;

/// The name of the class.
const CLASS: &str = "standard";
/// The name of the role and of its binding.
const ROLE: &str = "coracle:local-path-provisioner";

/// Makes what is missing. What is there stays as it is: it may have been
/// changed on purpose.
///
/// # Errors
/// If the control plane refuses.
pub(super) async fn install(client: &kube::Client) -> Result<(), Error> {
    make::<StorageClass>(client, class()).await?;
    make::<ClusterRole>(client, role()).await?;
    make::<ClusterRoleBinding>(client, binding()).await
}

/// Makes an object of the cluster, unless it is there.
pub(super) async fn make<K>(client: &kube::Client, object: Value) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Serialize,
{
    let failed = |why: String| Error::Setting(format!("cannot make a {}: {why}", K::kind(&())));
    let object: K = serde_json::from_value(object).map_err(|e| failed(e.to_string()))?;
    let api: Api<K> = Api::all(client.clone());
    match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(failed(error.to_string())),
        Ok(_) => Ok(()),
    }
}

fn class() -> Value {
    json!({
        "metadata": {
            "name": CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": LOCAL_PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": false,
    })
}

fn role() -> Value {
    let read = ["get", "list", "watch"];
    json!({
        "metadata": {"name": ROLE},
        "rules": [
            {"apiGroups": [""], "resources": ["persistentvolumes"],
                "verbs": ["get", "list", "watch", "create", "patch", "delete"]},
            {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": read},
            {"apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": read},
        ],
    })
}

/// Node agents make the volumes themselves, each on its own node. They run as
/// root on this machine, so this gives them nothing that they could not take.
fn binding() -> Value {
    json!({
        "metadata": {"name": ROLE},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE},
        "subjects": [
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"},
        ],
    })
}
