//! What the values choose beyond the usual kinds: classes of the tenant's on
//! the host, a security standard for pods, and further secrets with kubeconfigs.

use coracle_config::Config;
use coracle_machinery::object;
use serde_json::{Value, json};

use crate::clusters::{World, pod};

const PRIORITIES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";
const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";
const PODS: &str = "/api/v1/namespaces/default/pods";
const HOST_PODS: &str = "/api/v1/namespaces/demo/pods";

pub async fn world(yaml: &str) -> World {
    let mut world = World::new().await;
    world.config = Config::from_yaml(&[("values", yaml)]).unwrap().0;
    world.start(world.host.client()).await;
    world
}

fn class(name: &str, mut rest: Value) -> Value {
    rest["metadata"]["name"] = name.into();
    rest
}

/// Waits for an event inside about an object, and gives its message.
pub async fn told(world: &World, kind: &str, name: &str) -> String {
    let about = |event: &&Value| {
        object::text(event, "/involvedObject/kind") == kind
            && object::text(event, "/involvedObject/name") == name
            && object::text(event, "/type") == "Warning"
    };
    let events = world
        .inside
        .until("/api/v1/events", "no such event", |list| {
            object::items(list, "/items").iter().any(|e| about(&e))
        })
        .await;
    let found = object::items(&events, "/items").iter().find(about).cloned();
    object::text(&found.unwrap_or_default(), "/message").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_of_the_tenants_go_to_the_host_and_come_back_from_it() {
    let mut world = world(
        "sync: {toHost: {priorityClasses: {enabled: true}, storageClasses: {enabled: true}}}",
    )
    .await;
    let inside = &world.inside;
    inside
        .create(PRIORITIES, class("high", json!({"value": 1000})))
        .await;
    inside
        .create(CLASSES, class("fast", json!({"provisioner": "p.example"})))
        .await;
    let host_class = format!("{PRIORITIES}/coracle-high-x-demo-x-vc");
    let found = world.host.appears(&host_class).await;
    assert_eq!(found["value"], 1000);
    assert!(found["metadata"].get("ownerReferences").is_none());
    let storage = format!("{CLASSES}/coracle-fast-x-demo-x-vc");
    assert_eq!(
        world.host.appears(&storage).await["provisioner"],
        "p.example"
    );

    let mut prior = pod("prior");
    prior["spec"]["priorityClassName"] = "high".into();
    inside.create(PODS, prior).await;
    let found = world
        .host
        .appears(&format!("{HOST_PODS}/prior-x-default-x-vc"))
        .await;
    assert_eq!(
        found["spec"]["priorityClassName"],
        "coracle-high-x-demo-x-vc"
    );
    let claim = json!({"metadata": {"name": "data"}, "spec": {
        "storageClassName": "fast", "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    inside
        .create("/api/v1/namespaces/default/persistentvolumeclaims", claim)
        .await;
    let found = world
        .host
        .appears("/api/v1/namespaces/demo/persistentvolumeclaims/data-x-default-x-vc")
        .await;
    assert_eq!(
        found["spec"]["storageClassName"],
        "coracle-fast-x-demo-x-vc"
    );

    // What goes inside, goes on the host, also while nobody looks; what is
    // somebody else's stays.
    let foreign = format!("{PRIORITIES}/coracle-low-x-demo-x-vc");
    world
        .host
        .create(
            PRIORITIES,
            class("coracle-low-x-demo-x-vc", json!({"value": 7})),
        )
        .await;
    inside
        .create(PRIORITIES, class("low", json!({"value": 1})))
        .await;
    let message = told(&world, "PriorityClass", "low").await;
    assert!(
        message.contains("does not belong to this virtual cluster"),
        "{message}"
    );
    world.stop().await;
    for path in [
        format!("{PRIORITIES}/high"),
        format!("{PRIORITIES}/low"),
        format!("{CLASSES}/fast"),
    ] {
        world.inside.delete(&path, None).await;
    }
    world.start(world.host.client()).await;
    world.host.disappears(&host_class).await;
    world.host.disappears(&storage).await;
    assert_eq!(world.host.get(&foreign).await.unwrap()["value"], 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_class_that_names_a_secret_of_the_host_stays_inside() {
    let world = world("sync: {toHost: {storageClasses: {enabled: true}}}").await;
    let secret = json!({"provisioner": "p.example",
        "parameters": {"csi.storage.k8s.io/provisioner-secret-namespace": "kube-system"}});
    world.inside.create(CLASSES, class("sly", secret)).await;
    let message = told(&world, "StorageClass", "sly").await;
    assert!(message.contains("secret of the host"), "{message}");
    assert!(
        world
            .host
            .get(&format!("{CLASSES}/coracle-sly-x-demo-x-vc"))
            .await
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_below_the_standard_of_the_values_do_not_get_to_the_host() {
    let world = world("policies: {podSecurityStandard: baseline}").await;
    let mut bad = pod("bad");
    bad["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    world.inside.create(PODS, bad).await;
    world.inside.create(PODS, pod("good")).await;
    let message = told(&world, "Pod", "bad").await;
    assert!(
        message.contains("violates PodSecurity \"baseline:latest\""),
        "{message}"
    );
    assert!(message.contains("privileged"), "{message}");
    world
        .host
        .appears(&format!("{HOST_PODS}/good-x-default-x-vc"))
        .await;
    assert!(
        world
            .host
            .get(&format!("{HOST_PODS}/bad-x-default-x-vc"))
            .await
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_someone_else_is_not_overwritten_and_holds_up_no_other() {
    let mut world = World::new().await;
    let theirs = json!({"metadata": {"name": "theirs", "labels": {"app": "coracle", "release": "vc"}},
        "data": {"config": "dGhlaXJz"}});
    world
        .host
        .create("/api/v1/namespaces/demo/secrets", theirs)
        .await;
    world.additional = vec!["theirs".into(), "mine".into()];
    world.start(world.host.client()).await;
    let mine = world
        .host
        .appears("/api/v1/namespaces/demo/secrets/mine")
        .await;
    assert_eq!(
        object::label(&mine, "coracle.dev/kubeconfig"),
        Some("additional")
    );
    let theirs = world
        .host
        .get("/api/v1/namespaces/demo/secrets/theirs")
        .await
        .unwrap();
    assert_eq!(theirs["data"]["config"], "dGhlaXJz");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_tells_of_network_policies_that_are_too_many() {
    let world = world("sync: {toHost: {networkPolicies: {enabled: true}}}").await;
    let policies = "/apis/networking.k8s.io/v1/namespaces";
    let policy = json!({"metadata": {"name": "web"}, "spec": {"podSelector": {}}});
    world
        .inside
        .create(&format!("{policies}/default/networkpolicies"), policy)
        .await;
    let name = "web-x-default-x-vc";
    let host = format!("{policies}/demo/networkpolicies/{name}");
    let host = world.host.appears(&host).await;
    // The syncer tells of events from when it began to look, about what it
    // knows already.
    let told = async { told(&world, "NetworkPolicy", "web").await };
    let keep_telling = async {
        for n in 0.. {
            let event = json!({
                "metadata": {"name": format!("{name}.{n}"), "namespace": "demo"},
                "involvedObject": {"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1",
                    "name": name, "namespace": "demo", "uid": object::uid(&host)},
                "reason": "TooManyNetworkPolicies", "type": "Warning", "count": 1,
                "message": "There are too many.",
            });
            let events = "/api/v1/namespaces/demo/events";
            world.host.create(events, event).await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let message = tokio::select! {
        message = told => message,
        () = keep_telling => unreachable!(),
    };
    assert_eq!(message, "There are too many.");
}
