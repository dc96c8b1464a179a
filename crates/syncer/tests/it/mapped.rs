//! Objects that appear on the other side by the user's mapping.

use coracle_config::Config;
use coracle_machinery::object;
use serde_json::{Value, json};

use crate::clusters::World;

const INSIDE: &str = "/api/v1/namespaces/default/services";
const HOST: &str = "/api/v1/namespaces/default/services";
const DEMO: &str = "/api/v1/namespaces/demo/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

async fn world(values: &str) -> World {
    let mut world = World::new().await;
    world.config = Config::from_yaml(&[("values", values)]).unwrap().0;
    world.start(world.host.client()).await;
    world
}

async fn restart(world: &mut World, values: &str) {
    world.stop().await;
    world.config = Config::from_yaml(&[("values", values)]).unwrap().0;
    world.start(world.host.client()).await;
}

fn service(name: &str, port: u16) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": port, "targetPort": 8080}]},
    })
}

/// Waits for a warning about the object that says `part`.
async fn warned(world: &World, namespace: &str, name: &str, part: &str) {
    let path = format!("/api/v1/namespaces/{namespace}/events");
    let told = |list: &Value| {
        object::items(list, "/items").iter().any(|event| {
            object::text(event, "/involvedObject/name") == name
                && object::text(event, "/message").contains(part)
        })
    };
    world.inside.until(&path, "no warning", told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_the_host_appears_inside() {
    let mut world = world(
        "mapServices: {fromHost: [{from: default/hostsvc, to: default/virtualsvc}, \
                                  {from: default/hostsvc, to: shop/front}]}",
    )
    .await;
    let host = world.host.create(HOST, service("hostsvc", 80)).await;
    let address = object::text(&host, "/spec/clusterIP").to_owned();

    let inside = world.inside.appears(&format!("{INSIDE}/virtualsvc")).await;
    assert_eq!(inside["spec"]["clusterIP"], "None");
    assert_eq!(inside["spec"]["ports"][0]["port"], 80);
    let leads = |o: &Value| o["subsets"][0]["addresses"][0]["ip"] == address.as_str();
    let endpoints = "/api/v1/namespaces/default/endpoints/virtualsvc";
    world
        .inside
        .until(endpoints, "leads elsewhere", leads)
        .await;
    let leads = |o: &Value| o["endpoints"][0]["addresses"][0] == address.as_str();
    let slice = format!("{SLICES}/virtualsvc");
    world.inside.until(&slice, "leads elsewhere", leads).await;
    // The namespace is made.
    world
        .inside
        .appears("/api/v1/namespaces/shop/services/front")
        .await;
    // So that an ingress can lead there.
    world
        .host
        .appears(&format!("{DEMO}/virtualsvc-x-default-x-vc"))
        .await;

    let ports = json!({"spec": {"ports": [{"port": 81, "targetPort": 8080}]}});
    world.host.patch(&format!("{HOST}/hostsvc"), ports).await;
    let follows = |o: &Value| o["subsets"][0]["ports"][0]["port"] == 81;
    world.inside.until(endpoints, "the old port", follows).await;

    world
        .inside
        .delete(&format!("{INSIDE}/virtualsvc"), None)
        .await;
    let uid = object::uid(&inside).to_owned();
    let anew = |o: &Value| object::uid(o) != uid;
    world
        .inside
        .until(&format!("{INSIDE}/virtualsvc"), "not made anew", anew)
        .await;

    world.host.delete(&format!("{HOST}/hostsvc"), None).await;
    world
        .inside
        .disappears(&format!("{INSIDE}/virtualsvc"))
        .await;
    world.inside.disappears(&slice).await;

    // A mapping that is no longer there takes its service along.
    world.host.create(HOST, service("hostsvc", 80)).await;
    world.inside.appears(&format!("{INSIDE}/virtualsvc")).await;
    restart(&mut world, "").await;
    world
        .inside
        .disappears(&format!("{INSIDE}/virtualsvc"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_went_while_the_syncer_was_down_goes_inside() {
    let values = "mapServices: {fromHost: [{from: default/hostsvc, to: default/virtualsvc}]}";
    let mut world = world(values).await;
    world.host.create(HOST, service("hostsvc", 80)).await;
    world.inside.appears(&format!("{INSIDE}/virtualsvc")).await;
    world.stop().await;
    world.host.delete(&format!("{HOST}/hostsvc"), None).await;
    world.start(world.host.client()).await;
    world
        .inside
        .disappears(&format!("{INSIDE}/virtualsvc"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_own_service_is_no_target() {
    let mut world = World::new().await;
    let own = world
        .inside
        .create(INSIDE, service("virtualsvc", 5432))
        .await;
    world.config = Config::from_yaml(&[(
        "values",
        "mapServices: {fromHost: [{from: default/hostsvc, to: default/virtualsvc}]}",
    )])
    .unwrap()
    .0;
    world.host.create(HOST, service("hostsvc", 80)).await;
    world.start(world.host.client()).await;
    warned(&world, "default", "virtualsvc", "left alone").await;
    let now = world
        .inside
        .get(&format!("{INSIDE}/virtualsvc"))
        .await
        .unwrap();
    assert_eq!(object::uid(&now), object::uid(&own));
    assert_eq!(now["spec"]["ports"], own["spec"]["ports"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_service_appears_on_the_host_under_a_chosen_name() {
    let mut world = world(
        "mapServices: {fromVirtual: [{from: default/web, to: shop-web}, {from: default/web, to: taken}]}",
    )
    .await;
    let taken = world.host.create(DEMO, service("taken", 1)).await;
    world.inside.create(INSIDE, service("web", 80)).await;
    let path = format!("{DEMO}/shop-web");
    let alias = world.host.appears(&path).await;
    assert_eq!(
        alias["spec"]["selector"],
        json!({"app": "web", "coracle.dev/managed-by": "vc", "coracle.dev/namespace": "default"})
    );
    // The usual host Service is there as well.
    world
        .host
        .appears(&format!("{DEMO}/web-x-default-x-vc"))
        .await;
    // What is not ours stays as it is, and the user is told.
    warned(
        &world,
        "default",
        "web",
        "does not belong to this virtual cluster",
    )
    .await;
    let now = world.host.get(&format!("{DEMO}/taken")).await.unwrap();
    assert_eq!(
        now["metadata"]["resourceVersion"],
        taken["metadata"]["resourceVersion"]
    );

    let ports = json!({"spec": {"ports": [{"port": 81}]}});
    world.inside.patch(&format!("{INSIDE}/web"), ports).await;
    let follows = |o: &Value| o["spec"]["ports"][0]["port"] == 81;
    world.host.until(&path, "the old port", follows).await;
    // Deleted by someone on the host, it comes back.
    world.host.delete(&path, None).await;
    world.host.until(&path, "another one", follows).await;
    restart(&mut world, "").await;
    world.host.disappears(&path).await;
    assert!(world.host.get(&format!("{DEMO}/taken")).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn config_maps_and_secrets_of_the_host_appear_inside() {
    let values = "sync: {fromHost: {\
        configMaps: {enabled: true, mappings: {byName: {'default/settings': 'x/renamed'}}}, \
        secrets: {enabled: true, mappings: {byName: {'': 'own/*'}}}}}";
    let mut world = world(values).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for name in ["settings", "other"] {
        let map = json!({"metadata": {"name": name}, "data": {"k": "v"}});
        world.host.create(maps, map).await;
    }
    let inside = "/api/v1/namespaces/x/configmaps/renamed";
    let shown = world.inside.appears(inside).await;
    assert_eq!(shown["data"], json!({"k": "v"}));
    let change = json!({"data": {"k": "w"}});
    world.host.patch(&format!("{maps}/settings"), change).await;
    let follows = |o: &Value| o["data"]["k"] == "w";
    world.inside.until(inside, "old data", follows).await;
    // A change inside does not last.
    world
        .inside
        .patch(inside, json!({"data": {"k": "mine"}}))
        .await;
    world
        .inside
        .until(inside, "the tenant's data", follows)
        .await;

    let secrets = "/api/v1/namespaces/demo/secrets";
    let own = json!({"metadata": {"name": "registry"}, "type": "a/b", "data": {"k": "djE="}});
    world.host.create(secrets, own).await;
    let inside = "/api/v1/namespaces/own/secrets/registry";
    let shown = world.inside.appears(inside).await;
    assert_eq!(
        (&shown["type"], &shown["data"]),
        (&json!("a/b"), &json!({"k": "djE="}))
    );
    // The virtual cluster's own kubeconfig lies in that namespace too.
    world.host.appears(&format!("{secrets}/vc-vc")).await;
    let list = world.inside.get("/api/v1/namespaces/own/secrets").await;
    assert_eq!(object::items(&list.unwrap(), "/items").len(), 1);

    world.stop().await;
    world
        .host
        .delete(&format!("{secrets}/registry"), None)
        .await;
    world.start(world.host.client()).await;
    world.inside.disappears(inside).await;
    restart(&mut world, "").await;
    world
        .inside
        .disappears("/api/v1/namespaces/x/configmaps/renamed")
        .await;
}
