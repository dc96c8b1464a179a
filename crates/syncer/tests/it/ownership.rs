//! Whose host objects are whose: what is ours and has lost its virtual object
//! goes, what is not ours is neither taken nor changed.

use std::time::Instant;

use coracle_config::Config;
use coracle_machinery::object;
use serde_json::{Value, json};

use crate::clusters::{PATIENCE, World};

/// Everything that can flow to the host, flows.
const ALL: &str = "sync: {toHost: {configMaps: {all: true}, secrets: {all: true}, \
    ingresses: {enabled: true}, networkPolicies: {enabled: true}, \
    podDisruptionBudgets: {enabled: true}, serviceAccounts: {enabled: true}}}";

/// The host name of an object `web` in `default`.
const HOST_NAME: &str = "web-x-default-x-vc";

/// One object of each kind that flows: the path up to the namespace, the
/// resource, and the object.
fn objects() -> Vec<(&'static str, &'static str, Value)> {
    let ports = json!([{"port": 80}]);
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    vec![
        ("/api/v1", "services", json!({"spec": {"ports": ports}})),
        (
            "/api/v1",
            "endpoints",
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.9"}], "ports": ports}]}),
        ),
        (
            "/apis/discovery.k8s.io/v1",
            "endpointslices",
            json!({
                "metadata": {"labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": ["10.0.0.9"]}],
                "ports": ports,
            }),
        ),
        ("/api/v1", "configmaps", json!({"data": {"k": "v"}})),
        ("/api/v1", "secrets", json!({"data": {"k": "dg=="}})),
        (
            "/api/v1",
            "persistentvolumeclaims",
            json!({"spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}},
            }}),
        ),
        ("/api/v1", "serviceaccounts", json!({})),
        (
            "/api/v1",
            "pods",
            json!({"spec": {
                "serviceAccountName": "web",
                "automountServiceAccountToken": false,
                "containers": [{"name": "c", "image": "i"}],
            }}),
        ),
        (
            "/apis/networking.k8s.io/v1",
            "ingresses",
            json!({"spec": {"defaultBackend": backend}}),
        ),
        (
            "/apis/networking.k8s.io/v1",
            "networkpolicies",
            json!({"spec": {"podSelector": {}}}),
        ),
        (
            "/apis/policy/v1",
            "poddisruptionbudgets",
            json!({"spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}}),
        ),
    ]
}

fn named(mut object: Value, name: &str) -> Value {
    object["metadata"]["name"] = name.into();
    object
}

fn path(root: &str, namespace: &str, resource: &str, name: &str) -> String {
    format!("{root}/namespaces/{namespace}/{resource}/{name}")
}

async fn world() -> World {
    let mut world = World::new().await;
    world.config = Config::from_yaml(&[("values", ALL)]).unwrap().0;
    world
}

async fn create_inside(world: &World) {
    for (root, resource, object) in objects() {
        let path = format!("{root}/namespaces/default/{resource}");
        world.inside.create(&path, named(object, "web")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_inside_while_the_syncer_was_down_goes_on_the_host() {
    let mut world = world().await;
    world.start(world.host.client()).await;
    create_inside(&world).await;
    for (root, resource, _) in objects() {
        let path = path(root, "demo", resource, HOST_NAME);
        world.host.appears(&path).await;
    }
    world.stop().await;
    for (root, resource, _) in objects() {
        let path = path(root, "default", resource, "web");
        world.inside.delete(&path, Some(0)).await;
        // What protects a claim is the work of a controller.
        world
            .inside
            .try_patch(&path, json!({"metadata": {"finalizers": null}}))
            .await;
    }
    world.start(world.host.client()).await;
    all_go(&world).await;
}

/// Waits until the host has no object `web` of any kind that is not going.
async fn all_go(world: &World) {
    for (root, resource, _) in objects() {
        let what = format!("{resource} stay");
        let list = format!("{root}/namespaces/demo/{resource}");
        world
            .host
            .until(&list, &what, |list| {
                let left = object::items(list, "/items")
                    .iter()
                    .find(|o| object::name(o) == HOST_NAME && !object::is_terminating(o));
                left.is_none()
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_finalizers_kept_inside_goes_on_the_host_once_they_are_done() {
    let mut world = world().await;
    world.start(world.host.client()).await;
    create_inside(&world).await;
    let kept = json!({"metadata": {"finalizers": ["example.com/kept"]}});
    for (root, resource, _) in objects() {
        let inside = path(root, "default", resource, "web");
        world.inside.patch(&inside, kept.clone()).await;
        world
            .host
            .appears(&path(root, "demo", resource, HOST_NAME))
            .await;
        world.inside.delete(&inside, Some(0)).await;
    }
    world.stop().await;
    for (root, resource, _) in objects() {
        let inside = path(root, "default", resource, "web");
        let object = world.inside.get(&inside).await.unwrap();
        assert!(object::is_terminating(&object), "{resource}");
        let done = json!({"metadata": {"finalizers": null}});
        world.inside.try_patch(&inside, done).await;
        world.inside.disappears(&inside).await;
    }
    world.start(world.host.client()).await;
    all_go(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_namespace_that_is_taken_away_stays_empty() {
    let mut world = world().await;
    world.start(world.host.client()).await;
    create_inside(&world).await;
    for (root, resource, _) in objects() {
        let path = path(root, "demo", resource, HOST_NAME);
        world.host.appears(&path).await;
    }
    let namespace = "/api/v1/namespaces/demo";
    world.host.delete(namespace, None).await;
    // What is new inside meanwhile is refused on the host.
    let late = named(json!({"data": {}}), "late");
    world
        .inside
        .create("/api/v1/namespaces/default/configmaps", late)
        .await;
    // The host's namespace controller knows no order: the Service that owns
    // everything goes last here.
    let own = format!("{namespace}/services/vc");
    for (root, resource, _) in objects() {
        empty(&world, &format!("{root}/namespaces/demo/{resource}")).await;
    }
    world.host.delete(&own, None).await;
    world.host.disappears(&own).await;
    world.stop().await;
    for (root, resource, _) in objects() {
        let list = format!("{root}/namespaces/demo/{resource}");
        let list = world.host.get(&list).await.unwrap();
        assert!(object::items(&list, "/items").is_empty(), "{list}");
    }
}

/// Removes all objects of a list but the Service that owns everything, as often
/// as they come again.
async fn empty(world: &World, list: &str) {
    let started = Instant::now();
    loop {
        let found = world.host.get(list).await.unwrap();
        let names: Vec<&str> = object::items(&found, "/items")
            .iter()
            .map(object::name)
            .filter(|name| !(list.ends_with("/services") && *name == "vc"))
            .collect();
        if names.is_empty() {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{list}: {names:?}");
        for name in names {
            let path = format!("{list}/{name}");
            world.host.try_delete(&path, Some(0)).await;
            let done = json!({"metadata": {"finalizers": null}});
            world.host.try_patch(&path, done).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_is_neither_taken_nor_changed() {
    let mut world = world().await;
    let mut foreign = Vec::new();
    for (root, resource, object) in objects() {
        let mut object = named(object, HOST_NAME);
        // A label alone makes no object ours.
        object["metadata"]["labels"]["coracle.dev/managed-by"] = "vc".into();
        object["metadata"]["labels"]["coracle.dev/namespace"] = "default".into();
        if resource == "pods" {
            object["spec"]["serviceAccountName"] = "default".into();
        }
        let path = format!("{root}/namespaces/demo/{resource}");
        foreign.push(world.host.create(&path, object).await);
    }
    create_inside(&world).await;
    world.start(world.host.client()).await;
    let events = "/api/v1/namespaces/default/events";
    world
        .inside
        .until(events, "not everyone is told", |list| {
            let told = |kind: &str| {
                object::items(list, "/items").iter().any(|event| {
                    object::text(event, "/involvedObject/kind") == kind
                        && object::text(event, "/reason") == "SyncError"
                        && object::text(event, "/message").contains("does not belong")
                })
            };
            foreign.iter().all(|host| told(object::text(host, "/kind")))
        })
        .await;
    for (root, resource, _) in objects() {
        let path = path(root, "default", resource, "web");
        world.inside.try_delete(&path, Some(0)).await;
    }
    // Something of ours, as a sign that the syncer has come to what was deleted.
    let last = named(json!({"data": {}}), "last");
    let maps = "/api/v1/namespaces/default/configmaps";
    world.inside.create(maps, last).await;
    world
        .host
        .appears(&path(
            "/api/v1",
            "demo",
            "configmaps",
            "last-x-default-x-vc",
        ))
        .await;
    for ((root, resource, _), before) in objects().iter().zip(&foreign) {
        let path = path(root, "demo", resource, HOST_NAME);
        let now = world.host.get(&path).await.unwrap();
        assert_eq!(
            object::resource_version(&now),
            object::resource_version(before),
            "{resource}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_becomes_free_is_used() {
    let mut world = world().await;
    let path = path("/api/v1", "demo", "configmaps", HOST_NAME);
    let maps = |namespace: &str| format!("/api/v1/namespaces/{namespace}/configmaps");
    let foreign = named(json!({"data": {"k": "theirs"}}), HOST_NAME);
    world.host.create(&maps("demo"), foreign).await;
    world.start(world.host.client()).await;
    let ours = named(json!({"data": {"k": "ours"}}), "web");
    world.inside.create(&maps("default"), ours).await;
    let events = "/api/v1/namespaces/default/events";
    world
        .inside
        .until(events, "not told", |list| {
            !object::items(list, "/items").is_empty()
        })
        .await;
    world.host.delete(&path, None).await;
    world
        .host
        .until(&path, "not used", |map| map["data"]["k"] == "ours")
        .await;
}
