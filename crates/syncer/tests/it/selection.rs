//! Classes of the host of which only some may be used.

use serde_json::{Value, json};

use crate::clusters::{HOST_PODS, PODS, World, pod};
use crate::policies::{told, world};

const INGRESS_CLASSES: &str = "/apis/networking.k8s.io/v1/ingressclasses";
const STORAGE_CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";
const PRIORITY_CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";

/// A class that tenants may use, or not.
fn class(name: &str, open: bool, mut rest: Value) -> Value {
    rest["metadata"] =
        json!({"name": name, "labels": {"tenants": if open { "yes" } else { "no" }}});
    rest
}

async fn selecting(kind: &str, more: &str) -> World {
    world(&format!(
        "sync: {{fromHost: {{{kind}: {{enabled: true, selector: {{matchExpressions: \
         [{{key: tenants, operator: In, values: ['yes']}}]}}}}}}, toHost: {{{more}}}}}"
    ))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_flows_while_its_class_is_chosen() {
    let world = selecting("ingressClasses", "ingresses: {enabled: true}").await;
    let controller = json!({"spec": {"controller": "example.com/c"}});
    for (name, open) in [("public", true), ("internal", false)] {
        let object = class(name, open, controller.clone());
        world.host.create(INGRESS_CLASSES, object).await;
    }
    world
        .inside
        .appears(&format!("{INGRESS_CLASSES}/public"))
        .await;
    assert!(
        world
            .inside
            .get(&format!("{INGRESS_CLASSES}/internal"))
            .await
            .is_none()
    );
    let ingresses = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    for (name, class) in [("good", "public"), ("bad", "internal")] {
        let spec = json!({"ingressClassName": class, "defaultBackend": backend});
        let object = json!({"metadata": {"name": name}, "spec": spec});
        world.inside.create(ingresses, object).await;
    }
    let none = json!({"metadata": {"name": "none"}, "spec": {"defaultBackend": backend}});
    world.inside.create(ingresses, none).await;
    let host = "/apis/networking.k8s.io/v1/namespaces/demo/ingresses";
    world
        .host
        .appears(&format!("{host}/good-x-default-x-vc"))
        .await;
    let message = told(&world, "Ingress", "bad").await;
    assert!(
        message.contains(
            "IngressClass \"internal\" is none that sync.fromHost.ingressClasses.selector"
        ),
        "{message}"
    );
    let message = told(&world, "Ingress", "none").await;
    assert!(message.contains("it names no IngressClass"), "{message}");
    for name in ["bad", "none"] {
        let path = format!("{host}/{name}-x-default-x-vc");
        assert!(world.host.get(&path).await.is_none(), "{path}");
    }
    // The old annotation opens nothing that the field may not.
    let annotation =
        |class: Value| json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": class}}});
    let good = format!("{ingresses}/good");
    let on_host = format!("{host}/good-x-default-x-vc");
    world
        .inside
        .patch(&good, annotation("internal".into()))
        .await;
    world.host.disappears(&on_host).await;
    world.inside.patch(&good, annotation(Value::Null)).await;
    world.host.appears(&on_host).await;

    // The host's administrator has the last word, at any time.
    let label = |value: &str| json!({"metadata": {"labels": {"tenants": value}}});
    let path = format!("{INGRESS_CLASSES}/internal");
    world.host.patch(&path, label("yes")).await;
    world
        .host
        .appears(&format!("{host}/bad-x-default-x-vc"))
        .await;
    let path = format!("{INGRESS_CLASSES}/public");
    world.host.patch(&path, label("no")).await;
    world
        .host
        .disappears(&format!("{host}/good-x-default-x-vc"))
        .await;
    world.inside.disappears(&path).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_does_not_flow_with_another_storage_class() {
    let world = selecting("storageClasses", "").await;
    for (name, open) in [("standard", true), ("expensive", false)] {
        let object = class(name, open, json!({"provisioner": "p.example"}));
        world.host.create(STORAGE_CLASSES, object).await;
    }
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    for (name, class) in [("good", "standard"), ("bad", "expensive"), ("none", "")] {
        let claim = json!({"metadata": {"name": name}, "spec": {
            "storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}});
        world.inside.create(claims, claim).await;
    }
    let sly = json!({"metadata": {"name": "sly", "annotations":
        {"volume.beta.kubernetes.io/storage-class": "expensive"}}, "spec": {
        "storageClassName": "standard", "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    world.inside.create(claims, sly).await;
    let host = "/api/v1/namespaces/demo/persistentvolumeclaims";
    world
        .host
        .appears(&format!("{host}/good-x-default-x-vc"))
        .await;
    for name in ["bad", "none", "sly"] {
        let message = told(&world, "PersistentVolumeClaim", name).await;
        assert!(message.contains("storageClasses.selector"), "{message}");
        let path = format!("{host}/{name}-x-default-x-vc");
        assert!(world.host.get(&path).await.is_none(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_made_inside_with_the_name_of_a_hidden_one_does_not_open_it() {
    let world = selecting("priorityClasses", "").await;
    for (name, open) in [("usual", true), ("above-all", false)] {
        let object = class(name, open, json!({"value": 1000}));
        world.host.create(PRIORITY_CLASSES, object).await;
    }
    world
        .inside
        .appears(&format!("{PRIORITY_CLASSES}/usual"))
        .await;
    let own = json!({"metadata": {"name": "above-all"}, "value": 1});
    world.inside.create(PRIORITY_CLASSES, own).await;
    for (name, class) in [("good", "usual"), ("bad", "above-all")] {
        let mut pod = pod(name);
        pod["spec"]["priorityClassName"] = class.into();
        world.inside.create(PODS, pod).await;
    }
    let good = world
        .host
        .appears(&format!("{HOST_PODS}/good-x-default-x-vc"))
        .await;
    assert_eq!(good["spec"]["priorityClassName"], "usual");
    let message = told(&world, "Pod", "bad").await;
    assert!(message.contains("PriorityClass \"above-all\""), "{message}");
    let bad = format!("{HOST_PODS}/bad-x-default-x-vc");
    assert!(world.host.get(&bad).await.is_none());
}
