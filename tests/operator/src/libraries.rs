//! The controller: a StatefulSet with a claim for each replica, and a headless
//! Service, for each Library.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Service;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::controller::Action;
use kube::runtime::{Controller, watcher};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::{Value, json};

const MANAGER: &str = "library-operator";

/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// The custom kind.
pub fn kind() -> ApiResource {
    let kind = GroupVersionKind::gvk("books.example.com", "v1", "Library");
    ApiResource::from_gvk_with_plural(&kind, "libraries")
}

/// Brings every Library about, for ever.
pub async fn control(client: Client) {
    let libraries: Api<DynamicObject> = Api::all_with(client.clone(), &kind());
    let sets: Api<StatefulSet> = Api::all(client.clone());
    Controller::new_with(libraries, watcher::Config::default(), kind())
        .owns(sets, watcher::Config::default())
        .run(
            reconcile,
            |_, _, _| Action::requeue(RETRY),
            Arc::new(client),
        )
        .for_each(async |done| {
            if let Err(error) = done {
                eprintln!("{error}");
            }
        })
        .await;
}

async fn reconcile(
    library: Arc<DynamicObject>,
    client: Arc<Client>,
) -> Result<Action, kube::Error> {
    if library.metadata.deletion_timestamp.is_some() {
        // The garbage collector removes the rest.
        return Ok(Action::await_change());
    }
    let (name, namespace) = (library.name_any(), library.namespace().unwrap_or_default());
    eprintln!("looking after {namespace}/{name}");
    let client = (*client).clone();
    let apply = PatchParams::apply(MANAGER).force();
    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    services
        .patch(&name, &apply, &Patch::Apply(service(&library)))
        .await?;
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &namespace);
    let set = sets
        .patch(&name, &apply, &Patch::Apply(stateful_set(&library)))
        .await?;

    let ready = set.status.and_then(|s| s.ready_replicas).unwrap_or(0);
    let wanted = library.data["spec"]["replicas"].as_i64().unwrap_or(1);
    let phase = if i64::from(ready) == wanted {
        "Open"
    } else {
        "Opening"
    };
    let status = json!({"ready": ready, "phase": phase});
    if library.data.get("status") != Some(&status) {
        let libraries: Api<DynamicObject> = Api::namespaced_with(client, &namespace, &kind());
        let patch = Patch::Merge(json!({"status": status}));
        libraries
            .patch_status(&name, &PatchParams::default(), &patch)
            .await?;
    }
    Ok(Action::await_change())
}

fn metadata(library: &DynamicObject) -> Value {
    json!({
        "name": library.name_any(),
        "namespace": library.namespace(),
        "labels": {"library": library.name_any()},
        "ownerReferences": [library.controller_owner_ref(&kind())],
    })
}

fn service(library: &DynamicObject) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": metadata(library),
        "spec": {
            "clusterIP": "None",
            "selector": {"library": library.name_any()},
            "ports": [{"name": "http", "port": 80}],
        },
    })
}

fn stateful_set(library: &DynamicObject) -> Value {
    let spec = &library.data["spec"];
    let mut template = match spec.get("podTemplate") {
        Some(template) if template.is_object() => template.clone(),
        _ => json!({}),
    };
    template["metadata"]["labels"]["library"] = json!(library.name_any());
    let own = json!({
        "name": "library",
        "image": "busybox",
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", "echo open > /books/index.html && exec httpd -f -p 80 -h /books"],
        "volumeMounts": [{"name": "books", "mountPath": "/books"}],
    });
    // What the user says about the container wins.
    let containers = &mut template["spec"]["containers"];
    match containers.as_array_mut().and_then(|all| {
        all.iter_mut()
            .find(|container| container["name"] == "library")
    }) {
        Some(container) => {
            for (key, value) in own.as_object().into_iter().flatten() {
                if container.get(key).is_none() {
                    container[key] = value.clone();
                }
            }
        }
        None => *containers = json!([own]),
    }
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": metadata(library),
        "spec": {
            "serviceName": library.name_any(),
            "replicas": spec["replicas"],
            "selector": {"matchLabels": {"library": library.name_any()}},
            "template": template,
            "volumeClaimTemplates": spec["volumeClaimTemplates"],
        },
    })
}
