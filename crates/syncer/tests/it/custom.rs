//! Custom resources: their definitions come inside, their objects go to the
//! host and their status comes back.

use coracle_config::Config;
use coracle_machinery::object;
use serde_json::{Value, json};

use crate::clusters::World;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const DEFINITION: &str =
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/boats.sea.example.com";
const INSIDE: &str = "/apis/sea.example.com/v1/namespaces/default/boats";
const HOST: &str = "/apis/sea.example.com/v1/namespaces/demo/boats";
const TO_HOST: &str = "sync: {toHost: {customResources: {boats.sea.example.com: {enabled: true}}}}";

fn definition(scope: &str) -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }}});
    json!({
        "metadata": {"name": "boats.sea.example.com"},
        "spec": {
            "group": "sea.example.com", "scope": scope,
            "names": {"plural": "boats", "singular": "boat", "kind": "Boat"},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": schema,
                 "subresources": {"status": {}}},
                {"name": "v0", "served": true, "storage": false, "schema": schema},
            ],
        },
    })
}

async fn define(world: &World) {
    world
        .host
        .create(DEFINITIONS, definition("Namespaced"))
        .await;
    world.host.appears(HOST).await;
}

async fn world(values: &str) -> World {
    let mut world = World::new().await;
    define(&world).await;
    world.config = Config::from_yaml(&[("values", values)]).unwrap().0;
    world.start(world.host.client()).await;
    world.inside.appears(INSIDE).await;
    world
}

fn boat(name: &str, hull: &str) -> Value {
    json!({
        "apiVersion": "sea.example.com/v1", "kind": "Boat",
        "metadata": {"name": name, "labels": {"release": "x", "a": "b"}},
        "spec": {"hull": hull},
    })
}

/// Waits for a warning about the object that says `part`.
async fn warned(world: &World, name: &str, part: &str) {
    let told = |list: &Value| {
        object::items(list, "/items").iter().any(|event| {
            object::text(event, "/involvedObject/name") == name
                && object::text(event, "/message").contains(part)
        })
    };
    let path = "/api/v1/namespaces/default/events";
    world.inside.until(path, "no warning", told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_goes_to_the_host_and_its_status_comes_back() {
    let world = world(TO_HOST).await;
    let inside = world.inside.appears(DEFINITION).await;
    let versions = inside["spec"]["versions"].as_array().unwrap();
    assert_eq!(versions.len(), 1);

    world.inside.create(INSIDE, boat("a", "hide")).await;
    let host = world
        .host
        .appears(&format!("{HOST}/a-x-default-x-vc"))
        .await;
    assert_eq!(host["spec"]["hull"], "hide");
    assert_eq!(object::label(&host, "coracle.dev/managed-by"), Some("vc"));
    assert_eq!(object::label(&host, "release"), None);
    assert_eq!(object::label(&host, "a"), Some("b"));

    let status = json!({"status": {"afloat": true, "at": {"x": 1}}});
    world
        .host
        .patch(&format!("{HOST}/a-x-default-x-vc/status"), status)
        .await;
    let back = |o: &Value| o["status"]["at"]["x"] == 1;
    world
        .inside
        .until(&format!("{INSIDE}/a"), "no status", back)
        .await;
    let event = json!({
        "metadata": {"name": "e", "namespace": "demo"}, "type": "Warning", "reason": "Leak",
        "message": "a-x-default-x-vc leaks",
        "involvedObject": {"apiVersion": "sea.example.com/v1", "kind": "Boat", "namespace": "demo",
            "name": "a-x-default-x-vc", "uid": object::uid(&host)},
    });
    let events = "/api/v1/namespaces/demo/events";
    world.host.create(events, event).await;
    warned(&world, "a", "a leaks").await;

    let status = json!({"status": {"afloat": false, "at": null}});
    world
        .host
        .patch(&format!("{HOST}/a-x-default-x-vc/status"), status)
        .await;
    let back = |o: &Value| o["status"] == json!({"afloat": false});
    world
        .inside
        .until(&format!("{INSIDE}/a"), "an old status", back)
        .await;

    let change = json!({"spec": {"hull": "willow"}, "metadata": {"labels": {"a": null}}});
    world.inside.patch(&format!("{INSIDE}/a"), change).await;
    let follows = |o: &Value| o["spec"]["hull"] == "willow" && object::label(o, "a").is_none();
    let path = format!("{HOST}/a-x-default-x-vc");
    world.host.until(&path, "the old spec", follows).await;

    world.inside.delete(&format!("{INSIDE}/a"), None).await;
    world.host.disappears(&path).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_removes_it_on_the_host_removes_it_inside() {
    let world = world(TO_HOST).await;
    for name in ["a", "b"] {
        world.inside.create(INSIDE, boat(name, "hide")).await;
        world
            .host
            .appears(&format!("{HOST}/{name}-x-default-x-vc"))
            .await;
    }
    world
        .host
        .delete(&format!("{HOST}/a-x-default-x-vc"), None)
        .await;
    world.inside.disappears(&format!("{INSIDE}/a")).await;

    // What goes with its definition stays inside, and goes there again.
    world.host.delete(DEFINITION, None).await;
    world.host.disappears(HOST).await;
    define(&world).await;
    world
        .host
        .appears(&format!("{HOST}/b-x-default-x-vc"))
        .await;
    world.inside.appears(&format!("{INSIDE}/b")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_syncer_removes_what_went_inside_and_makes_what_came() {
    let mut world = world(TO_HOST).await;
    world.inside.create(INSIDE, boat("a", "hide")).await;
    world
        .host
        .appears(&format!("{HOST}/a-x-default-x-vc"))
        .await;
    // Somebody else's: neither taken nor removed.
    let foreign = world
        .host
        .create(HOST, boat("c-x-default-x-vc", "steel"))
        .await;
    world.stop().await;
    world.inside.delete(&format!("{INSIDE}/a"), None).await;
    world.inside.create(INSIDE, boat("b", "hide")).await;
    world.inside.create(INSIDE, boat("c", "hide")).await;
    world.start(world.host.client()).await;
    world
        .host
        .disappears(&format!("{HOST}/a-x-default-x-vc"))
        .await;
    world
        .host
        .appears(&format!("{HOST}/b-x-default-x-vc"))
        .await;
    warned(&world, "c", "does not belong to this virtual cluster").await;
    let path = format!("{HOST}/c-x-default-x-vc");
    let after = world.host.appears(&path).await;
    assert_eq!(
        object::resource_version(&after),
        object::resource_version(&foreign)
    );
    world.inside.delete(&format!("{INSIDE}/c"), None).await;

    // Made anew under its name: the host's copy of the first makes room.
    world.inside.create(INSIDE, boat("d", "hide")).await;
    let path = format!("{HOST}/d-x-default-x-vc");
    let first = object::uid(&world.host.appears(&path).await).to_owned();
    world.stop().await;
    world.inside.delete(&format!("{INSIDE}/d"), None).await;
    let second = world.inside.create(INSIDE, boat("d", "willow")).await;
    world.start(world.host.client()).await;
    let anew = |o: &Value| {
        object::uid(o) != first
            && object::annotation(o, "coracle.dev/object-uid") == Some(object::uid(&second))
    };
    world.host.until(&path, "the first one", anew).await;
    world.inside.appears(&format!("{INSIDE}/d")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_own_definition_is_left_as_it_is() {
    let mut world = World::new().await;
    let mut own = definition("Namespaced");
    own["spec"]["versions"].as_array_mut().unwrap().pop();
    own["spec"]["names"]["shortNames"] = json!(["bt"]);
    let own = world.inside.create(DEFINITIONS, own).await;
    world.config = Config::from_yaml(&[("values", TO_HOST)]).unwrap().0;
    world.start(world.host.client()).await;
    define(&world).await;
    warned(
        &world,
        "boats.sea.example.com",
        "is left as it is; its objects flow",
    )
    .await;
    // It is like the host's, so objects flow.
    world.inside.create(INSIDE, boat("a", "hide")).await;
    world
        .host
        .appears(&format!("{HOST}/a-x-default-x-vc"))
        .await;
    let after = world.inside.appears(DEFINITION).await;
    assert_eq!(after["spec"], own["spec"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_of_another_scope_brings_nothing() {
    let mut world = World::new().await;
    world.host.create(DEFINITIONS, definition("Cluster")).await;
    world.config = Config::from_yaml(&[("values", TO_HOST)]).unwrap().0;
    world.start(world.host.client()).await;
    // What is asked for after the definition was read: nothing but its watch.
    world
        .inside
        .create(
            "/api/v1/namespaces/default/configmaps",
            json!({"metadata": {"name": "x"}}),
        )
        .await;
    assert!(world.inside.get(DEFINITION).await.is_none());
}

const PATCHED: &str = "sync: {toHost: {customResources: {boats.sea.example.com: {enabled: true, patches: [\
    {path: spec.paint, reference: {apiVersion: v1, kind: Secret}}, \
    {path: spec.hull, expression: \"value == 'steel' ? 1 / 0 : value + '!'\"}, \
    {path: status.at, reverseExpression: \"'inside ' + value\"}]}}}}";

#[tokio::test(flavor = "multi_thread")]
async fn patches_change_what_goes_and_what_comes_back() {
    let mut world = world(PATCHED).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let paint = json!({"metadata": {"name": "red"}, "data": {"k": "dg=="}});
    world.inside.create(secrets, paint).await;
    let mut one = boat("a", "hide");
    one["spec"]["paint"] = "red".into();
    world.inside.create(INSIDE, one).await;
    let path = format!("{HOST}/a-x-default-x-vc");
    let host = world.host.appears(&path).await;
    assert_eq!(host["spec"]["hull"], "hide!");
    assert_eq!(host["spec"]["paint"], "red-x-default-x-vc");
    let secret = "/api/v1/namespaces/demo/secrets/red-x-default-x-vc";
    let first = object::uid(&world.host.appears(secret).await).to_owned();

    let status = json!({"status": {"at": "sea"}});
    world.host.patch(&format!("{path}/status"), status).await;
    let back = |o: &Value| o["status"]["at"] == "inside sea";
    world
        .inside
        .until(&format!("{INSIDE}/a"), "no status", back)
        .await;

    // One that no patch has a value for stays inside, and the user is told.
    world.inside.create(INSIDE, boat("b", "steel")).await;
    warned(&world, "b", "the patch of spec.hull").await;
    let there = world.host.get(&format!("{HOST}/b-x-default-x-vc")).await;
    assert!(there.is_none(), "{there:?}");

    // A restart does not take the secret away while nothing is known yet.
    world.stop().await;
    world.start(world.host.client()).await;
    world.inside.delete(&format!("{INSIDE}/b"), None).await;
    world.inside.create(INSIDE, boat("c", "hide")).await;
    world
        .host
        .appears(&format!("{HOST}/c-x-default-x-vc"))
        .await;
    assert_eq!(object::uid(&world.host.appears(secret).await), first);
    world.inside.delete(&format!("{INSIDE}/a"), None).await;
    world.host.disappears(&path).await;
    world.host.disappears(secret).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_of_built_in_kinds() {
    let values = "sync: {toHost: {configMaps: {all: true, patches: [{path: 'data[*]', expression: value.upperAscii()}, \
                  {path: 'metadata.annotations.secret', reference: {apiVersion: v1, kind: Secret}}]}}, \
                  fromHost: {configMaps: {enabled: true, mappings: {byName: {'default/shown': 'default/seen'}}, \
                  patches: [{path: data.k, reverseExpression: \"value + '?'\"}]}}}";
    let mut world = World::new().await;
    world.config = Config::from_yaml(&[("values", values)]).unwrap().0;
    world.start(world.host.client()).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let map =
        json!({"metadata": {"name": "a", "annotations": {"secret": "s"}}, "data": {"k": "v"}});
    world.inside.create(maps, map).await;
    let secret = json!({"metadata": {"name": "s"}});
    world
        .inside
        .create("/api/v1/namespaces/default/secrets", secret)
        .await;
    let path = "/api/v1/namespaces/demo/configmaps/a-x-default-x-vc";
    let host = world.host.appears(path).await;
    assert_eq!(host["data"]["k"], "V");
    assert_eq!(
        object::annotation(&host, "secret"),
        Some("s-x-default-x-vc")
    );
    world
        .host
        .appears("/api/v1/namespaces/demo/secrets/s-x-default-x-vc")
        .await;
    world
        .inside
        .patch(&format!("{maps}/a"), json!({"data": {"k": "w"}}))
        .await;
    world
        .host
        .until(path, "the old value", |o| o["data"]["k"] == "W")
        .await;

    let map = json!({"metadata": {"name": "shown"}, "data": {"k": "v"}});
    world.host.create(maps, map).await;
    let seen = format!("{maps}/seen");
    assert_eq!(world.inside.appears(&seen).await["data"]["k"], "v?");
    world
        .host
        .patch(&format!("{maps}/shown"), json!({"data": {"k": "w"}}))
        .await;
    world
        .inside
        .until(&seen, "the old value", |o| o["data"]["k"] == "w?")
        .await;
}

const SHOWN: &str = "sync: {fromHost: {customResources: {boats.sea.example.com: {enabled: true, scope: Namespaced, \
    mappings: {byName: {'default/a': 'port/b', 'other/*': 'default/*'}}, \
    patches: [{path: spec.hull, reverseExpression: \"value + '!'\"}]}}}}";
const OF_HOST: &str = "/apis/sea.example.com/v1/namespaces/default/boats";

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_the_host_are_shown_by_name() {
    let mut world = world(SHOWN).await;
    world.host.create(OF_HOST, boat("a", "hide")).await;
    let seen = "/apis/sea.example.com/v1/namespaces/port/boats/b";
    assert_eq!(world.inside.appears(seen).await["spec"]["hull"], "hide!");
    let status = json!({"status": {"afloat": true}});
    world
        .host
        .patch(&format!("{OF_HOST}/a/status"), status)
        .await;
    let back = |o: &Value| o["status"]["afloat"] == true;
    world.inside.until(seen, "no status", back).await;

    // What is changed inside is put right, and what is removed comes again.
    world
        .inside
        .patch(seen, json!({"spec": {"hull": "steel"}}))
        .await;
    let right = |o: &Value| o["spec"]["hull"] == "hide!";
    world.inside.until(seen, "changed", right).await;
    world
        .host
        .patch(&format!("{OF_HOST}/a"), json!({"spec": {"hull": "willow"}}))
        .await;
    let follows = |o: &Value| o["spec"]["hull"] == "willow!";
    world.inside.until(seen, "the old hull", follows).await;
    let first = object::uid(&world.inside.appears(seen).await).to_owned();
    world.inside.delete(seen, None).await;
    world
        .inside
        .until(seen, "not again", |o| object::uid(o) != first)
        .await;

    // The tenant's own stays; what is of a virtual cluster is not shown.
    world.inside.create(INSIDE, boat("own", "hide")).await;
    world
        .host
        .create("/api/v1/namespaces", json!({"metadata": {"name": "other"}}))
        .await;
    let other = "/apis/sea.example.com/v1/namespaces/other/boats";
    let mut foreign = boat("foreign", "hide");
    foreign["metadata"]["labels"]["coracle.dev/managed-by"] = "x".into();
    world.host.create(other, foreign).await;
    world.host.create(other, boat("own", "steel")).await;
    warned(&world, "own", "this one is left alone").await;
    world.host.create(other, boat("last", "hide")).await;
    world.inside.appears(&format!("{INSIDE}/last")).await;
    assert!(
        world
            .inside
            .get(&format!("{INSIDE}/foreign"))
            .await
            .is_none()
    );

    world.host.delete(&format!("{OF_HOST}/a"), None).await;
    world.inside.disappears(seen).await;

    // What is no longer shown goes, the definition stays.
    world.stop().await;
    world.config = Config::default();
    world.start(world.host.client()).await;
    world.inside.disappears(&format!("{INSIDE}/last")).await;
    assert_eq!(
        world.inside.appears(&format!("{INSIDE}/own")).await["spec"]["hull"],
        "hide"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_no_namespace_are_all_shown() {
    let mut world = World::new().await;
    world.host.create(DEFINITIONS, definition("Cluster")).await;
    let values = "sync: {fromHost: {customResources: {boats.sea.example.com: {enabled: true, scope: Cluster}}}}";
    world.config = Config::from_yaml(&[("values", values)]).unwrap().0;
    let boats = "/apis/sea.example.com/v1/boats";
    world.host.appears(boats).await;
    world.host.create(boats, boat("a", "hide")).await;
    world.start(world.host.client()).await;
    let seen = world.inside.appears(&format!("{boats}/a")).await;
    assert_eq!(seen["spec"]["hull"], "hide");
    world.stop().await;
    world.host.delete(&format!("{boats}/a"), None).await;
    world.host.create(boats, boat("b", "hide")).await;
    world.start(world.host.client()).await;
    world.inside.appears(&format!("{boats}/b")).await;
    world.inside.disappears(&format!("{boats}/a")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_stored_version_of_the_host_changes_nothing() {
    let world = world(TO_HOST).await;
    world.inside.create(INSIDE, boat("a", "hide")).await;
    let host = format!("{HOST}/a-x-default-x-vc");
    world.host.appears(&host).await;
    // As an operator's upgrade does it; the names tell when it was seen.
    let mut changed = definition("Namespaced")["spec"].clone();
    changed["versions"][0]["storage"] = false.into();
    changed["versions"][1]["storage"] = true.into();
    changed["names"]["shortNames"] = json!(["bt"]);
    world.host.patch(DEFINITION, json!({"spec": changed})).await;
    let seen = |definition: &Value| definition["spec"]["names"]["shortNames"][0] == "bt";
    let inside = world.inside.until(DEFINITION, "not seen", seen).await;
    let versions = inside["spec"]["versions"].as_array().unwrap();
    assert_eq!(versions.len(), 1);
    assert_eq!(versions[0]["name"], "v1");
    world.inside.create(INSIDE, boat("b", "oak")).await;
    let made = format!("{HOST}/b-x-default-x-vc");
    assert_eq!(world.host.appears(&made).await["spec"]["hull"], "oak");
    assert_eq!(world.host.get(&host).await.unwrap()["spec"]["hull"], "hide");
}
