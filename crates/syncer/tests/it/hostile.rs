//! What a tenant tries against the host and its neighbours through objects
//! inside: each is refused, and the tenant is told.

use coracle_config::Config;
use coracle_machinery::object;
use serde_json::{Value, json};

use crate::clusters::{HOST_PODS, PODS, World, pod};

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const SERVICES: &str = "/api/v1/namespaces/default/services";

/// Names of pods of `default` in `vc` that are cut off to the same host name:
/// the first 52 bytes are equal, and so are ten digits of the hashes.
const COLLIDING: [&str; 2] = [
    "truncated-names-of-pods-keep-their-first-fifty-two-bytes-1748250",
    "truncated-names-of-pods-keep-their-first-fifty-two-bytes-1911225",
];
const COLLISION: &str = "truncated-names-of-pods-keep-their-first-fifty-two-b-6de649d60b";

async fn world(values: &str) -> World {
    let mut world = World::new().await;
    world.config = Config::from_yaml(&[("values", values)]).unwrap().0;
    world.start(world.host.client()).await;
    world
}

/// Waits for a warning inside about an object whose message has that part.
async fn told(world: &World, kind: &str, name: &str, part: &str) {
    world
        .inside
        .until("/api/v1/events", part, |list| {
            object::items(list, "/items").iter().any(|event| {
                object::text(event, "/involvedObject/kind") == kind
                    && object::text(event, "/involvedObject/name") == name
                    && object::text(event, "/type") == "Warning"
                    && object::text(event, "/message").contains(part)
            })
        })
        .await;
}

fn host_pod(name: &str) -> String {
    format!("{HOST_PODS}/{name}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crafted_collision_of_cut_names_takes_nothing_over() {
    let world = World::running().await;
    let [first, second] = COLLIDING;
    world.inside.create(PODS, pod(first)).await;
    let before = world.host.appears(&host_pod(COLLISION)).await;
    world.inside.create(PODS, pod(second)).await;
    told(&world, "Pod", second, "does not belong").await;
    world
        .inside
        .delete(&format!("{PODS}/{second}"), Some(0))
        .await;
    // A pod of ours, as a sign that the syncer has come to the deletion.
    world.inside.create(PODS, pod("last")).await;
    world.host.appears(&host_pod("last-x-default-x-vc")).await;
    let now = world.host.get(&host_pod(COLLISION)).await.unwrap();
    assert_eq!(object::uid(&now), object::uid(&before));
    assert!(!object::is_terminating(&now));
    assert_eq!(
        object::annotation(&now, "coracle.dev/object-name"),
        Some(first)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_could_be_joined_alike_are_two_pods() {
    let world = World::running().await;
    for (name, namespace) in [("a-x-b", "c"), ("a", "b-x-c")] {
        let inside = &world.inside;
        let object = json!({"metadata": {"name": namespace}});
        inside.create("/api/v1/namespaces", object).await;
        let at = |resource: &str| format!("/api/v1/namespaces/{namespace}/{resource}");
        let account = json!({"metadata": {"name": "default"}});
        inside.create(&at("serviceaccounts"), account).await;
        let ca = json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "a"}});
        inside.create(&at("configmaps"), ca).await;
        let mut object = pod(name);
        object["metadata"]["namespace"] = namespace.into();
        inside.create(&at("pods"), object).await;
    }
    let both = world
        .host
        .until(HOST_PODS, "not two pods", |list| {
            // The third is the control plane's.
            object::items(list, "/items").len() == 3
        })
        .await;
    let mut found: Vec<(&str, &str)> = object::items(&both, "/items")
        .iter()
        .filter_map(|pod| {
            let annotation = |key| object::annotation(pod, key);
            Some((
                annotation("coracle.dev/object-name")?,
                annotation("coracle.dev/object-namespace")?,
            ))
        })
        .collect();
    found.sort_unstable();
    assert_eq!(found, [("a", "b-x-c"), ("a-x-b", "c")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_the_host_are_not_had_by_guessing_their_names() {
    let world = World::running().await;
    // The kubeconfig of the virtual cluster, and what its neighbour keeps.
    let theirs = ["vc-vc", "vc-config-vc", "key-x-default-x-other"];
    for name in &theirs[1..] {
        let secret = json!({"metadata": {"name": name}, "data": {"key": "dg=="}});
        let secrets = "/api/v1/namespaces/demo/secrets";
        world.host.create(secrets, secret).await;
    }
    let mut thief = pod("thief");
    let spec = &mut thief["spec"];
    for (index, name) in theirs.into_iter().enumerate() {
        for volume in [
            json!({"secret": {"secretName": name}}),
            json!({"projected": {"sources": [{"secret": {"name": name}}]}}),
            json!({"csi": {"driver": "d", "nodePublishSecretRef": {"name": name}}}),
            json!({"iscsi": {"targetPortal": "p", "iqn": "iqn.2026-01.x:y", "lun": 0,
                "chapAuthSession": true, "initiatorName": "iqn.2026-01.x:z",
                "secretRef": {"name": name}}}),
        ] {
            let volumes = spec["volumes"].as_array_mut().unwrap();
            let mut volume = volume;
            volume["name"] = format!("v{index}-{}", volumes.len()).into();
            volumes.push(volume);
        }
        let container = &mut spec["containers"][0];
        container["envFrom"]
            .as_array_mut()
            .unwrap()
            .push(json!({"secretRef": {"name": name}}));
    }
    spec["imagePullSecrets"] = theirs.iter().map(|name| json!({"name": name})).collect();
    spec["initContainers"] = json!([{"name": "i", "image": "i", "env": [{"name": "K",
        "valueFrom": {"secretKeyRef": {"name": "vc-vc", "key": "config"}}}]}]);
    world.inside.create(PODS, thief).await;
    let host = world.host.appears(&host_pod("thief-x-default-x-vc")).await;
    let mut named = Vec::new();
    texts(&host["spec"], &mut named);
    for name in theirs {
        assert!(!named.contains(&name), "{name} in {}", host["spec"]);
        assert!(named.iter().any(|text| text.starts_with(name)), "{name}");
    }
}

/// All texts in a value.
fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(map) => map.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_the_host_is_not_bound_by_name() {
    let world = World::running().await;
    let volume = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/"}}})
    };
    let volumes = "/api/v1/persistentvolumes";
    world.host.create(volumes, volume("root-of-a-node")).await;
    world.inside.create(volumes, volume("root-of-a-node")).await;
    let spec = json!({"volumeName": "root-of-a-node", "storageClassName": "",
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let claim = json!({"metadata": {"name": "root"}, "spec": spec});
    world.inside.create(CLAIMS, claim).await;
    let claims = "/api/v1/namespaces/demo/persistentvolumeclaims";
    let host = world
        .host
        .appears(&format!("{claims}/root-x-default-x-vc"))
        .await;
    assert!(host["spec"].get("volumeName").is_none(), "{host}");
    told(&world, "PersistentVolumeClaim", "root", "spec.volumeName").await;

    let snapshot = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot",
        "name": "of-a-neighbour"});
    let claim = json!({"metadata": {"name": "copy"}, "spec": {"dataSource": snapshot,
        "selector": {"matchLabels": {"owner": "neighbour"}},
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    world.inside.create(CLAIMS, claim).await;
    let host = world
        .host
        .appears(&format!("{claims}/copy-x-default-x-vc"))
        .await;
    for field in ["dataSource", "dataSourceRef", "selector"] {
        assert!(host["spec"].get(field).is_none(), "{field}: {host}");
    }
    for part in ["spec.dataSource ", "spec.selector"] {
        told(&world, "PersistentVolumeClaim", "copy", part).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_privileged_container_does_not_come_in_later() {
    let world = world("policies: {podSecurityStandard: baseline}").await;
    world.inside.create(PODS, pod("good")).await;
    let host = host_pod("good-x-default-x-vc");
    world.host.appears(&host).await;
    let privileged = json!({"spec": {"ephemeralContainers": [{
        "name": "root", "image": "i", "securityContext": {"privileged": true}}]}});
    world
        .inside
        .patch(&format!("{PODS}/good/ephemeralcontainers"), privileged)
        .await;
    told(&world, "Pod", "good", "privileged").await;
    // What else changes still flows, and the container does not come with it.
    let label = json!({"metadata": {"labels": {"changed": "yes"}}});
    world.inside.patch(&format!("{PODS}/good"), label).await;
    let changed = |pod: &Value| object::label(pod, "changed") == Some("yes");
    let now = world.host.until(&host, "no change", changed).await;
    assert!(object::items(&now, "/spec/ephemeralContainers").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_were_not_chosen_are_out_of_reach() {
    let mut world = World::new().await;
    let values = "sync: {nodes: {enabled: true, nodeSelector: env=dev}}";
    world.config = Config::from_yaml(&[("values", values)]).unwrap().0;
    for (name, env) in [("node-a", "dev"), ("infra", "infra")] {
        let node = json!({"metadata": {"name": name, "labels": {"env": env}}});
        world.host.create("/api/v1/nodes", node).await;
    }
    world.start(world.host.client()).await;
    let mut sly = pod("sly");
    sly["spec"]["nodeName"] = "infra".into();
    sly["spec"]["nodeSelector"] = json!({"env": "infra"});
    sly["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    world.inside.create(PODS, sly).await;
    let host = world.host.appears(&host_pod("sly-x-default-x-vc")).await;
    // The host's scheduler decides, among the chosen nodes.
    assert!(host["spec"].get("nodeName").is_none());
    assert_eq!(host["spec"]["nodeSelector"]["env"], "dev");
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_of_the_host_are_not_had_by_guessing_their_names() {
    let world = World::running().await;
    let priority = json!({"metadata": {"name": "first-of-all"}, "value": 1_000_000_000});
    let runtime = json!({"metadata": {"name": "unconfined"}, "handler": "unconfined"});
    let priorities = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let runtimes = "/apis/node.k8s.io/v1/runtimeclasses";
    for cluster in [&world.host, &world.inside] {
        cluster.create(priorities, priority.clone()).await;
        cluster.create(runtimes, runtime.clone()).await;
    }
    let mut sly = pod("sly");
    sly["spec"]["priorityClassName"] = "first-of-all".into();
    sly["spec"]["runtimeClassName"] = "unconfined".into();
    world.inside.create(PODS, sly).await;
    let host = world.host.appears(&host_pod("sly-x-default-x-vc")).await;
    for field in ["priorityClassName", "runtimeClassName"] {
        assert!(host["spec"].get(field).is_none(), "{field}: {host}");
        told(&world, "Pod", "sly", field).await;
    }
    assert!(host["spec"]["priority"].as_i64().unwrap_or_default() == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_not_claimed_later_either() {
    let world = World::running().await;
    let web = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 443}]}});
    world.inside.create(SERVICES, web).await;
    let host = "/api/v1/namespaces/demo/services/web-x-default-x-vc";
    world.host.appears(host).await;
    let claim = json!({"spec": {"externalIPs": ["192.0.2.1"]}});
    world.inside.patch(&format!("{SERVICES}/web"), claim).await;
    told(&world, "Service", "web", "spec.externalIPs is not synced").await;
    let now = world.host.get(host).await.unwrap();
    assert!(now["spec"].get("externalIPs").is_none(), "{now}");
}
