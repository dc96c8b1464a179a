//! Volumes of the tenant's on the host.

use coracle_machinery::object;
use serde_json::{Value, json};

use crate::clusters::World;
use crate::policies::{told, world};

const VOLUMES: &str = "/api/v1/persistentvolumes";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const HOST_CLAIMS: &str = "/api/v1/namespaces/demo/persistentvolumeclaims";
const ON: &str = "sync: {toHost: {persistentVolumes: {enabled: true}}}";

fn volume(name: &str, source: Value) -> Value {
    let mut volume = json!({"metadata": {"name": name}, "spec": {
        "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain"}});
    for (key, value) in source.as_object().unwrap() {
        volume["spec"][key] = value.clone();
    }
    volume
}

fn share() -> Value {
    json!({"nfs": {"server": "192.0.2.1", "path": "/a"}})
}

fn claim(name: &str, volume: &str) -> Value {
    let mut spec = json!({"storageClassName": "", "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}});
    if !volume.is_empty() {
        spec["volumeName"] = volume.into();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

fn host_volume(name: &str) -> String {
    format!("{VOLUMES}/coracle-{name}-x-demo-x-vc")
}

/// Does what the host's volume controller does.
async fn bind_on_host(world: &World, claim: &str, volume: &str) {
    let claim = format!("{HOST_CLAIMS}/{claim}-x-default-x-vc");
    let found = world.host.appears(&claim).await;
    let spec = json!({"spec": {"claimRef": {"uid": object::uid(&found)}}});
    world.host.patch(&host_volume(volume), spec).await;
    for path in [host_volume(volume), claim] {
        let bound = json!({"status": {"phase": "Bound"}});
        world.host.patch(&format!("{path}/status"), bound).await;
    }
}

async fn phase(world: &World, path: &str, phase: &str) -> Value {
    let reached = |object: &Value| object["status"]["phase"] == phase;
    world.inside.until(path, phase, reached).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_on_the_host_while_a_claim_has_it() {
    let world = world(ON).await;
    let inside = format!("{VOLUMES}/disk");
    world.inside.create(VOLUMES, volume("disk", share())).await;
    phase(&world, &inside, "Available").await;
    // Any claim of the host could have it.
    assert!(world.host.get(&host_volume("disk")).await.is_none());

    world.inside.create(CLAIMS, claim("data", "")).await;
    let host = world.host.appears(&host_volume("disk")).await;
    assert_eq!(host["spec"]["claimRef"]["namespace"], "demo");
    assert_eq!(host["spec"]["claimRef"]["name"], "data-x-default-x-vc");
    let host_claim = world
        .host
        .appears(&format!("{HOST_CLAIMS}/data-x-default-x-vc"))
        .await;
    assert_eq!(host_claim["spec"]["volumeName"], "coracle-disk-x-demo-x-vc");
    bind_on_host(&world, "data", "disk").await;
    let bound = phase(&world, &format!("{CLAIMS}/data"), "Bound").await;
    assert_eq!(bound["spec"]["volumeName"], "disk");
    let found = phase(&world, &inside, "Bound").await;
    assert_eq!(found["spec"]["claimRef"]["uid"], bound["metadata"]["uid"]);
    // Nothing else stands for it.
    let all = world.inside.get(VOLUMES).await.unwrap();
    assert_eq!(object::items(&all, "/items").len(), 1, "{all}");

    // Its claim goes: the host lets it go, and nobody gets it by chance.
    let finalizers = json!({"metadata": {"finalizers": null}});
    let leaving = format!("{CLAIMS}/data");
    world.inside.delete(&leaving, None).await;
    let claim = format!("{HOST_CLAIMS}/data-x-default-x-vc");
    world
        .host
        .until(&claim, "not deleted", object::is_terminating)
        .await;
    world.host.patch(&claim, finalizers.clone()).await;
    world.host.disappears(&claim).await;
    let released = json!({"status": {"phase": "Released"}});
    world
        .host
        .patch(&format!("{}/status", host_volume("disk")), released)
        .await;
    // Also while the claim inside is still on its way out.
    phase(&world, &inside, "Released").await;
    let host = world.host.get(&host_volume("disk")).await.unwrap();
    let kept = object::text(&host, "/spec/claimRef/uid");
    assert!(!kept.is_empty(), "reserved once more: {host}");
    world.inside.patch(&leaving, finalizers.clone()).await;
    world.inside.disappears(&leaving).await;
    world
        .inside
        .patch(&inside, json!({"spec": {"claimRef": null}}))
        .await;
    world.host.patch(&host_volume("disk"), finalizers).await;
    world.host.disappears(&host_volume("disk")).await;
    phase(&world, &inside, "Available").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_waits_for_the_volume_that_it_names() {
    let world = world(ON).await;
    world.inside.create(CLAIMS, claim("data", "disk")).await;
    let message = told(&world, "PersistentVolumeClaim", "data").await;
    assert!(message.contains("\"disk\""), "{message}");
    let host_claim = format!("{HOST_CLAIMS}/data-x-default-x-vc");
    assert!(world.host.get(&host_claim).await.is_none());
    world.inside.create(VOLUMES, volume("disk", share())).await;
    let found = world.host.appears(&host_claim).await;
    assert_eq!(found["spec"]["volumeName"], "coracle-disk-x-demo-x-vc");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_reaches_into_the_host_stays_inside_and_what_is_anothers_is_left_alone() {
    let world = world(ON).await;
    let sly = [
        ("path", json!({"hostPath": {"path": "/"}})),
        (
            "secret",
            json!({"csi": {"driver": "d", "volumeHandle": "h",
            "nodePublishSecretRef": {"name": "s", "namespace": "kube-system"}}}),
        ),
    ];
    for (name, source) in sly {
        world.inside.create(VOLUMES, volume(name, source)).await;
        let message = told(&world, "PersistentVolume", name).await;
        assert!(message.contains("not synced to the host"), "{message}");
        let wants = claim(&format!("of-{name}"), name);
        world.inside.create(CLAIMS, wants).await;
        told(&world, "PersistentVolumeClaim", &format!("of-{name}")).await;
        assert!(world.host.get(&host_volume(name)).await.is_none());
        let host_claim = format!("{HOST_CLAIMS}/of-{name}-x-default-x-vc");
        assert!(world.host.get(&host_claim).await.is_none());
    }
    // One of the host that has the very name.
    let mut foreign = volume("coracle-disk-x-demo-x-vc", share());
    foreign["metadata"]["labels"] = json!({"coracle.dev/managed-by": "vc"});
    world.host.create(VOLUMES, foreign).await;
    world.inside.create(VOLUMES, volume("disk", share())).await;
    world.inside.create(CLAIMS, claim("data", "disk")).await;
    let message = told(&world, "PersistentVolumeClaim", "data").await;
    assert!(
        message.contains("does not belong to this virtual cluster"),
        "{message}"
    );
    let foreign = world.host.get(&host_volume("disk")).await.unwrap();
    assert!(foreign["spec"].get("claimRef").is_none());
    let host_claim = format!("{HOST_CLAIMS}/data-x-default-x-vc");
    assert!(world.host.get(&host_claim).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_that_went_inside_leave_the_host_also_while_nobody_looks() {
    let mut world = world(ON).await;
    world.inside.create(VOLUMES, volume("disk", share())).await;
    world.inside.create(CLAIMS, claim("data", "disk")).await;
    world.host.appears(&host_volume("disk")).await;
    world.stop().await;
    let finalizers = json!({"metadata": {"finalizers": null}});
    world
        .inside
        .patch(&format!("{VOLUMES}/disk"), finalizers.clone())
        .await;
    world.inside.delete(&format!("{VOLUMES}/disk"), None).await;
    world.host.patch(&host_volume("disk"), finalizers).await;
    world.start(world.host.client()).await;
    world.host.disappears(&host_volume("disk")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_that_the_host_provides_for_work_beside_it() {
    let world = world(ON).await;
    let mut plain = claim("plain", "");
    plain["spec"]["storageClassName"] = "standard".into();
    world.inside.create(CLAIMS, plain).await;
    let host_claim = format!("{HOST_CLAIMS}/plain-x-default-x-vc");
    world.host.appears(&host_claim).await;
    world
        .host
        .patch(&host_claim, json!({"spec": {"volumeName": "pvc-1"}}))
        .await;
    let bound = json!({"status": {"phase": "Bound"}});
    world
        .host
        .patch(&format!("{host_claim}/status"), bound)
        .await;
    let claim = phase(&world, &format!("{CLAIMS}/plain"), "Bound").await;
    assert_eq!(claim["spec"]["volumeName"], "pvc-1");
    let mirror = world.inside.appears(&format!("{VOLUMES}/pvc-1")).await;
    assert_eq!(mirror["spec"]["claimRef"]["name"], "plain");
    // A free volume does not make it change its mind.
    world.inside.create(VOLUMES, volume("disk", share())).await;
    phase(&world, &format!("{VOLUMES}/disk"), "Available").await;
    assert!(world.host.get(&host_volume("disk")).await.is_none());
}
