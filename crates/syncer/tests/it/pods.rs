//! The life of a pod.

use std::time::Instant;

use coracle_machinery::object;
use serde_json::json;

use crate::clusters::{HOST_PODS, OWN_IP, PODS, World, pod};

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_lives_on_the_host_and_shows_it_inside() {
    let mut world = World::running().await;
    let (host, inside) = (world.host.clone(), world.inside.clone());
    let data = "/api/v1/namespaces/default";
    for (kind, name) in [("secrets", "settings"), ("secrets", "unused")] {
        let content =
            json!({"metadata": {"name": name, "namespace": "default"}, "data": {"ca.crt": "YQ=="}});
        inside.create(&format!("{data}/{kind}"), content).await;
    }
    let created = inside.create(PODS, pod("web-1")).await;
    let on_host = host
        .appears(&format!("{HOST_PODS}/web-1-x-default-x-vc"))
        .await;
    assert_eq!(
        object::label(&on_host, "coracle.dev/managed-by"),
        Some("vc")
    );
    assert_eq!(
        object::annotation(&on_host, "coracle.dev/object-uid"),
        Some(object::uid(&created))
    );
    assert_eq!(on_host["spec"]["serviceAccountName"], "vc-workload-vc");
    assert_eq!(on_host["metadata"]["ownerReferences"][0]["name"], "vc");

    // What it refers to follows, and nothing else.
    host.appears("/api/v1/namespaces/demo/configmaps/kube-root-ca.crt-x-default-x-vc")
        .await;
    host.appears("/api/v1/namespaces/demo/secrets/settings-x-default-x-vc")
        .await;
    let unused = host
        .get("/api/v1/namespaces/demo/secrets/unused-x-default-x-vc")
        .await;
    assert!(unused.is_none());
    let tokens = format!(
        "/api/v1/namespaces/demo/secrets/coracle-token-{}",
        object::uid(&created)
    );
    let secret = host.appears(&tokens).await;
    assert!(secret["data"]["token-0"].is_string());

    // The host runs it; inside it is bound to a node that exists, and runs.
    world.run_on_host("web-1-x-default-x-vc", "node-b").await;
    let running = inside
        .until(&format!("{PODS}/web-1"), "not running", |p| {
            p["status"]["phase"] == "Running"
        })
        .await;
    assert_eq!(running["spec"]["nodeName"], "node-b");
    assert_eq!(running["status"]["podIP"], "10.1.2.3");
    let node = inside.appears("/api/v1/nodes/node-b").await;
    assert_eq!(node["status"]["addresses"][0]["address"], OWN_IP);

    // Labels flow out, marks cannot be forged.
    let labels =
        json!({"metadata": {"labels": {"app": null, "tier": "front", "release": "other"}}});
    inside.patch(&format!("{PODS}/web-1"), labels).await;
    let relabelled = host
        .until(
            &format!("{HOST_PODS}/web-1-x-default-x-vc"),
            "not relabelled",
            |p| object::label(p, "tier") == Some("front"),
        )
        .await;
    assert_eq!(object::label(&relabelled, "app"), None);
    assert_eq!(object::label(&relabelled, "release"), None);

    // Deleted inside: the host stops it with the same grace, and its end there
    // is its end here.
    inside.delete(&format!("{PODS}/web-1"), Some(7)).await;
    let stopping = host
        .until(
            &format!("{HOST_PODS}/web-1-x-default-x-vc"),
            "not stopping",
            object::is_terminating,
        )
        .await;
    assert_eq!(stopping["metadata"]["deletionGracePeriodSeconds"], 7);
    assert!(inside.get(&format!("{PODS}/web-1")).await.is_some());
    host.delete(&format!("{HOST_PODS}/web-1-x-default-x-vc"), Some(0))
        .await;
    inside.disappears(&format!("{PODS}/web-1")).await;
    host.disappears(&tokens).await;
    host.disappears("/api/v1/namespaces/demo/secrets/settings-x-default-x-vc")
        .await;
    inside.disappears("/api/v1/nodes/node-b").await;
    assert!(inside.get("/api/v1/nodes/node-a").await.is_some());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pod_needs_is_on_the_host_before_it() {
    let world = World::running().await;
    let settings = json!({"metadata": {"name": "settings", "namespace": "default"}});
    let path = "/api/v1/namespaces/default/secrets";
    world.inside.create(path, settings).await;
    world.host.take_asked();
    world.inside.create(PODS, pod("a")).await;
    world
        .host
        .appears(&format!("{HOST_PODS}/a-x-default-x-vc"))
        .await;
    let asked = world.host.take_asked();
    let line = |plural: &str| format!("POST /api/v1/namespaces/demo/{plural}");
    let created = asked.iter().position(|l| *l == line("pods")).unwrap();
    let before = |plural: &str| {
        let lines = asked[..created].iter();
        lines.filter(|l| **l == line(plural)).count()
    };
    // The settings and the token.
    assert!(before("secrets") >= 2, "{asked:?}");
    assert!(before("configmaps") >= 1, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_in_a_new_namespace_waits_for_its_certificates() {
    let world = World::running().await;
    let namespace = json!({"metadata": {"name": "new"}});
    world.inside.create("/api/v1/namespaces", namespace).await;
    let account = json!({"metadata": {"name": "default", "namespace": "new"}});
    let path = "/api/v1/namespaces/new/serviceaccounts";
    world.inside.create(path, account).await;
    let mut early = pod("a");
    early["metadata"]["namespace"] = json!("new");
    world
        .inside
        .create("/api/v1/namespaces/new/pods", early)
        .await;
    let ca = json!({"metadata": {"name": "kube-root-ca.crt", "namespace": "new"}});
    let path = "/api/v1/namespaces/new/configmaps";
    world.inside.create(path, ca).await;
    world
        .host
        .appears(&format!("{HOST_PODS}/a-x-new-x-vc"))
        .await;
    let path = "/api/v1/namespaces/demo/configmaps/kube-root-ca.crt-x-new-x-vc";
    assert!(world.host.get(path).await.is_some(), "it came later");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_host_pod_is_gone_is_not_started_again() {
    let world = World::running().await;
    world.inside.create(PODS, pod("a")).await;
    let host_pod = format!("{HOST_PODS}/a-x-default-x-vc");
    world.host.appears(&host_pod).await;
    world.run_on_host("a-x-default-x-vc", "node-a").await;
    world
        .inside
        .until(&format!("{PODS}/a"), "not running", |p| {
            p["status"]["phase"] == "Running"
        })
        .await;
    // A graceful deletion on the host shows inside; the end of one likewise.
    world.host.delete(&host_pod, Some(5)).await;
    world
        .inside
        .until(&format!("{PODS}/a"), "not stopping", object::is_terminating)
        .await;
    world.host.delete(&host_pod, Some(0)).await;
    world.inside.disappears(&format!("{PODS}/a")).await;
    assert!(world.host.get(&host_pod).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_orphaned_while_the_syncer_was_down_goes() {
    let mut world = World::running().await;
    for name in ["a", "b", "c"] {
        world.inside.create(PODS, pod(name)).await;
        world
            .host
            .appears(&format!("{HOST_PODS}/{name}-x-default-x-vc"))
            .await;
    }
    world.stop().await;
    world.inside.delete(&format!("{PODS}/a"), Some(0)).await;
    // Deleted and created anew: the host pod is another's.
    world.inside.delete(&format!("{PODS}/b"), Some(0)).await;
    let new = world.inside.create(PODS, pod("b")).await;
    world.host.create(HOST_PODS, json!({
        "metadata": {"name": "foreign", "namespace": "demo", "labels": {"coracle.dev/managed-by": "vc"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    })).await;
    world.start(world.host.client()).await;
    world
        .host
        .disappears(&format!("{HOST_PODS}/a-x-default-x-vc"))
        .await;
    world
        .host
        .until(
            &format!("{HOST_PODS}/b-x-default-x-vc"),
            "still the old one",
            |p| object::annotation(p, "coracle.dev/object-uid") == Some(object::uid(&new)),
        )
        .await;
    assert!(
        world
            .host
            .get(&format!("{HOST_PODS}/c-x-default-x-vc"))
            .await
            .is_some()
    );
    assert!(
        world
            .host
            .get(&format!("{HOST_PODS}/foreign"))
            .await
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_pod_in_the_way_is_left_alone_and_the_user_is_told() {
    let world = World::running().await;
    let foreign = json!({
        "metadata": {"name": "a-x-default-x-vc", "namespace": "demo", "labels": {"who": "someone"}},
        "spec": {"containers": [{"name": "c", "image": "theirs"}]},
    });
    let before = world.host.create(HOST_PODS, foreign).await;
    world.inside.create(PODS, pod("a")).await;
    let events = "/api/v1/namespaces/default/events";
    world
        .inside
        .until(events, "no event", |list| {
            object::items(list, "/items")
                .iter()
                .any(|e| e["reason"] == "SyncError" && e["involvedObject"]["name"] == "a")
        })
        .await;
    world.inside.delete(&format!("{PODS}/a"), Some(0)).await;
    world.inside.disappears(&format!("{PODS}/a")).await;
    let after = world
        .host
        .get(&format!("{HOST_PODS}/a-x-default-x-vc"))
        .await
        .unwrap();
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pods_reach_the_host_quickly() {
    let world = World::running().await;
    let mut times = Vec::new();
    for i in 0..20 {
        let name = format!("p{i}");
        world.inside.create(PODS, pod(&name)).await;
        let start = Instant::now();
        world
            .host
            .appears(&format!("{HOST_PODS}/{name}-x-default-x-vc"))
            .await;
        times.push(start.elapsed());
    }
    times.sort();
    // The goal is a tenth of this, in a release build on an idle machine.
    assert!(times[times.len() / 2].as_millis() < 250, "{times:?}");
}
