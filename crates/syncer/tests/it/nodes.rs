//! Real nodes of the host inside.

use coracle_config::Config;
use coracle_machinery::object;
use serde_json::{Value, json};

use crate::clusters::{PODS, World};

const NODES: &str = "/api/v1/nodes";

fn node(name: &str, labels: Value) -> Value {
    json!({
        "metadata": {"name": name, "labels": labels},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    })
}

async fn world(values: &str) -> World {
    let mut world = World::new().await;
    world.config = Config::from_yaml(&[("values", values)]).unwrap().0;
    for (name, env) in [("node-a", "dev"), ("node-b", "dev"), ("node-c", "test")] {
        let node = node(name, json!({"env": env}));
        world.host.create(NODES, node).await;
    }
    world.start(world.host.client()).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_the_chosen_labels_are_shown_and_pods_are_bound_to_them() {
    let world = world("sync: {nodes: {enabled: true, nodeSelector: env=dev}}").await;
    let shown = world.inside.appears(&format!("{NODES}/node-b")).await;
    assert_eq!(object::label(&shown, "env"), Some("dev"));
    world
        .inside
        .create(
            PODS,
            json!({
                "metadata": {"name": "a"},
                "spec": {"automountServiceAccountToken": false,
                         "containers": [{"name": "c", "image": "i"}]},
            }),
        )
        .await;
    let host = world
        .host
        .appears("/api/v1/namespaces/demo/pods/a-x-default-x-vc")
        .await;
    assert_eq!(host["spec"]["nodeSelector"], json!({"env": "dev"}));
    assert!(world.inside.get(&format!("{NODES}/node-c")).await.is_none());
    // A node that no longer has the labels goes, one that gets them comes.
    let label = |env: &str| json!({"metadata": {"labels": {"env": env}}});
    world
        .host
        .patch(&format!("{NODES}/node-b"), label("x"))
        .await;
    world.inside.disappears(&format!("{NODES}/node-b")).await;
    world
        .host
        .patch(&format!("{NODES}/node-c"), label("dev"))
        .await;
    world.inside.appears(&format!("{NODES}/node-c")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_set_inside_reach_the_host_only_by_choice() {
    let labels = json!({"metadata": {"labels": {"team": "x"}}});
    let own = format!("{NODES}/node-a");
    let relabel = json!({"metadata": {"labels": {"env": "prod"}}});
    let follows = |node: &Value| object::label(node, "env") == Some("prod");

    let plain = world("sync: {fromHost: {nodes: {enabled: true}}}").await;
    plain.inside.patch(&own, labels.clone()).await;
    plain.host.patch(&own, relabel.clone()).await;
    let inside = plain.inside.until(&own, "the old label", follows).await;
    assert_eq!(object::label(&inside, "team"), Some("x"));
    let host = plain.host.get(&own).await.unwrap();
    assert_eq!(object::label(&host, "team"), None);

    let back = world("sync: {fromHost: {nodes: {enabled: true, syncBackChanges: true}}}").await;
    back.inside.patch(&own, labels).await;
    let reached = |node: &Value| object::label(node, "team") == Some("x");
    back.host.until(&own, "not written", reached).await;
    back.host.patch(&own, relabel).await;
    back.inside.until(&own, "the old label", follows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_that_are_no_longer_shown_go() {
    let classes = "/apis/storage.k8s.io/v1/storageclasses";
    let mut world = World::new().await;
    let values = "sync: {fromHost: {storageClasses: {enabled: true}}}";
    world.config = Config::from_yaml(&[("values", values)]).unwrap().0;
    let class = json!({"metadata": {"name": "fast"}, "provisioner": "p"});
    world.host.create(classes, class.clone()).await;
    let own = json!({"metadata": {"name": "own"}, "provisioner": "p"});
    world.inside.create(classes, own).await;
    world.start(world.host.client()).await;
    world.inside.appears(&format!("{classes}/fast")).await;
    world.stop().await;
    world.config = Config::default();
    world.start(world.host.client()).await;
    world.inside.disappears(&format!("{classes}/fast")).await;
    assert!(world.inside.get(&format!("{classes}/own")).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_inside_is_shown_what_others_leave_of_a_node() {
    let world = world(
        "{sync: {fromHost: {nodes: {enabled: true, selector: {all: true}}}}, \
         controlPlane: {advanced: {virtualScheduler: {enabled: true}}}}",
    )
    .await;
    let node = format!("{NODES}/node-a");
    let allocatable = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
    let status = json!({"status": {"allocatable": allocatable}});
    world.host.patch(&format!("{node}/status"), status).await;
    let offered = async |cpu: &'static str| {
        world
            .inside
            .until(&node, "another part is offered", |node| {
                node["status"]["allocatable"]["cpu"] == cpu
            })
            .await;
    };
    offered("4").await;
    let namespace = json!({"metadata": {"name": "others"}});
    world.host.create("/api/v1/namespaces", namespace).await;
    let account = json!({"metadata": {"name": "default"}});
    let accounts = "/api/v1/namespaces/others/serviceaccounts";
    world.host.create(accounts, account).await;
    let pods = "/api/v1/namespaces/others/pods";
    let spec = json!({"nodeName": "node-a", "containers": [
        {"name": "c", "image": "i", "resources": {"requests": {"cpu": "1500m"}}}]});
    let neighbour = json!({"metadata": {"name": "neighbour"}, "spec": spec});
    world.host.create(pods, neighbour).await;
    offered("2500m").await;
    world
        .host
        .delete(&format!("{pods}/neighbour"), Some(0))
        .await;
    offered("4").await;
}
