//! Services, the control plane's own objects, claims and events.

use coracle_machinery::object;
use serde_json::json;

use crate::clusters::{DNS, HOST_PODS, OWN_IP, PODS, World, pod};

const SERVICES: &str = "/api/v1/namespaces/default/services";

#[tokio::test(flavor = "multi_thread")]
async fn the_control_planes_own_services_are_there() {
    let world = World::running().await;
    let own = world
        .host
        .get("/api/v1/namespaces/demo/services/vc")
        .await
        .unwrap();
    let ip = object::text(&own, "/spec/clusterIP").to_owned();
    world
        .inside
        .until(&format!("{SERVICES}/kubernetes"), "another address", |s| {
            s["spec"]["clusterIP"] == ip.as_str()
        })
        .await;
    let dns = world.host.get(DNS).await.unwrap();
    assert_eq!(
        dns["spec"]["selector"],
        json!({"app": "coracle", "release": "vc"})
    );
    world
        .inside
        .until(
            "/api/v1/namespaces/kube-system/services/kube-dns",
            "another address",
            |s| s["spec"]["clusterIP"] == dns["spec"]["clusterIP"],
        )
        .await;
    let endpoints = world
        .inside
        .appears("/api/v1/namespaces/kube-system/endpoints/kube-dns")
        .await;
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], OWN_IP);
    world
        .inside
        .appears("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes")
        .await;
    let secret = world
        .host
        .appears("/api/v1/namespaces/demo/secrets/vc-vc")
        .await;
    assert_eq!(object::label(&secret, "release"), Some("vc"));
    // Deleted by a tenant, they come back.
    world
        .inside
        .delete("/api/v1/namespaces/kube-system/services/kube-dns", None)
        .await;
    world
        .inside
        .until(
            "/api/v1/namespaces/kube-system/services/kube-dns",
            "no address",
            |s| s["spec"]["clusterIP"] == dns["spec"]["clusterIP"],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_gets_its_address_from_the_host() {
    let world = World::running().await;
    world.inside.create(SERVICES, json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}], "externalIPs": ["192.0.2.1"]},
    })).await;
    let host = world
        .host
        .appears("/api/v1/namespaces/demo/services/web-x-default-x-vc")
        .await;
    assert_eq!(
        host["spec"]["selector"],
        json!({
            "app": "web", "coracle.dev/managed-by": "vc", "coracle.dev/namespace": "default",
        })
    );
    assert!(host["spec"].get("externalIPs").is_none());
    let ip = object::text(&host, "/spec/clusterIP").to_owned();
    assert!(ip.starts_with("10.96."));
    world
        .inside
        .until(&format!("{SERVICES}/web"), "no address", |s| {
            s["spec"]["clusterIP"] == ip.as_str()
        })
        .await;
    world
        .inside
        .patch(
            &format!("{SERVICES}/web"),
            json!({"spec": {"selector": {"app": "other"}}}),
        )
        .await;
    let host = world
        .host
        .until(
            "/api/v1/namespaces/demo/services/web-x-default-x-vc",
            "not changed",
            |s| s["spec"]["selector"]["app"] == "other",
        )
        .await;
    assert_eq!(object::text(&host, "/spec/clusterIP"), ip);
    world.inside.delete(&format!("{SERVICES}/web"), None).await;
    world
        .host
        .disappears("/api/v1/namespaces/demo/services/web-x-default-x-vc")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_shows_the_volume_that_the_host_bound() {
    let world = World::running().await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    world
        .inside
        .create(
            claims,
            json!({
                "metadata": {"name": "data", "namespace": "default"},
                "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast",
                         "resources": {"requests": {"storage": "1Gi"}}},
            }),
        )
        .await;
    let host_claim = "/api/v1/namespaces/demo/persistentvolumeclaims/data-x-default-x-vc";
    world.host.appears(host_claim).await;
    world
        .host
        .patch(host_claim, json!({"spec": {"volumeName": "pvc-1"}}))
        .await;
    let status = json!({"status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}});
    world
        .host
        .patch(&format!("{host_claim}/status"), status)
        .await;
    let claim = world
        .inside
        .until(&format!("{claims}/data"), "not bound", |c| {
            c["status"]["phase"] == "Bound"
        })
        .await;
    assert_eq!(claim["spec"]["volumeName"], "pvc-1");
    let volume = world
        .inside
        .appears("/api/v1/persistentvolumes/pvc-1")
        .await;
    assert_eq!(volume["spec"]["claimRef"]["name"], "data");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_the_host_are_told_inside_under_the_names_inside() {
    let world = World::running().await;
    world.inside.create(PODS, pod("a")).await;
    let host_pod = world
        .host
        .appears(&format!("{HOST_PODS}/a-x-default-x-vc"))
        .await;
    world
        .host
        .create(
            "/api/v1/namespaces/demo/events",
            json!({
                "metadata": {"name": "a-x-default-x-vc.17", "namespace": "demo"},
                "involvedObject": {"kind": "Pod", "apiVersion": "v1", "name": "a-x-default-x-vc",
                                   "namespace": "demo", "uid": object::uid(&host_pod)},
                "reason": "Scheduled", "type": "Normal", "count": 1,
                "message": "Successfully assigned demo/a-x-default-x-vc to node-a",
            }),
        )
        .await;
    let told = world
        .inside
        .appears("/api/v1/namespaces/default/events/a.17")
        .await;
    assert_eq!(told["message"], "Successfully assigned default/a to node-a");
    assert_eq!(told["involvedObject"]["name"], "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_put_back_once_the_virtual_cluster_is_deleted() {
    let world = World::running().await;
    world.inside.create(PODS, pod("a")).await;
    let host_pod = format!("{HOST_PODS}/a-x-default-x-vc");
    world.host.appears(&host_pod).await;
    world
        .host
        .delete("/api/v1/namespaces/demo/services/vc", None)
        .await;
    // What is created from now on stays inside. The syncer has stopped working
    // when it no longer puts back what a tenant removes.
    let kubernetes = "/api/v1/namespaces/default/services/kubernetes";
    loop {
        world.inside.try_delete(kubernetes, None).await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        if world.inside.get(kubernetes).await.is_none() {
            break;
        }
    }
    world.host.delete(&host_pod, Some(0)).await;
    world.inside.create(PODS, pod("b")).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let list = world.host.get(HOST_PODS).await.unwrap();
    assert_eq!(object::items(&list, "/items").len(), 1, "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_ports_are_those_of_the_host_and_follow_the_type() {
    let world = World::running().await;
    world
        .inside
        .create(
            SERVICES,
            json!({
                "metadata": {"name": "web", "namespace": "default"},
                "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80}]},
            }),
        )
        .await;
    let path = format!("{SERVICES}/web");
    let port = |service: &serde_json::Value| service["spec"]["ports"][0]["nodePort"].as_i64();
    let inside = world
        .inside
        .until(&path, "no node port", |s| port(s).is_some_and(|p| p > 0))
        .await;
    let host_path = "/api/v1/namespaces/demo/services/web-x-default-x-vc";
    assert_eq!(
        port(&world.host.get(host_path).await.unwrap()),
        port(&inside)
    );
    world
        .inside
        .patch(&path, json!({"spec": {"type": "ClusterIP"}}))
        .await;
    world
        .host
        .until(host_path, "still a node port", |s| {
            s["spec"]["type"] == "ClusterIP" && port(s).is_none()
        })
        .await;
    world
        .inside
        .patch(&path, json!({"spec": {"type": "LoadBalancer"}}))
        .await;
    world
        .host
        .until(host_path, "no load balancer", |s| {
            s["spec"]["type"] == "LoadBalancer" && port(s).is_some()
        })
        .await;
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.80"}]}}});
    world
        .host
        .patch(&format!("{host_path}/status"), status)
        .await;
    world
        .inside
        .until(&path, "no address", |s| {
            s["status"]["loadBalancer"]["ingress"][0]["ip"] == "192.0.2.80"
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_selector_has_its_endpoints_on_the_host() {
    let world = World::running().await;
    world
        .inside
        .create(
            SERVICES,
            json!({
                "metadata": {"name": "db", "namespace": "default"},
                "spec": {"ports": [{"port": 5432}]},
            }),
        )
        .await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    world
        .inside
        .create(
            slices,
            json!({
                "metadata": {"name": "db-1", "namespace": "default",
                             "labels": {"kubernetes.io/service-name": "db"}},
                "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.7"]}],
                "ports": [{"port": 5432, "protocol": "TCP"}],
            }),
        )
        .await;
    let on_host = "/apis/discovery.k8s.io/v1/namespaces/demo/endpointslices/db-1-x-default-x-vc";
    let slice = world.host.appears(on_host).await;
    assert_eq!(
        object::label(&slice, "kubernetes.io/service-name"),
        Some("db-x-default-x-vc")
    );
    // With a selector the host makes its own.
    world
        .inside
        .patch(
            &format!("{SERVICES}/db"),
            json!({"spec": {"selector": {"app": "db"}}}),
        )
        .await;
    world.host.disappears(on_host).await;
}
