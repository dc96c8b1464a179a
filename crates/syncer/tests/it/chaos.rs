//! Random changes on both sides, with the syncer stopped and started in
//! between: in the end both sides agree.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use coracle_machinery::object;
use serde_json::{Value, json};

use crate::clusters::{HOST_PODS, PODS, World, pod};

/// A small generator: the same run for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

/// Pods by name: the UID, and for host pods that of the virtual pod.
async fn uids(world: &World, inside: bool) -> BTreeMap<String, String> {
    let (cluster, path) = if inside {
        (&world.inside, PODS)
    } else {
        (&world.host, HOST_PODS)
    };
    let list = cluster.get(path).await.unwrap();
    let uid = |pod: &Value| match object::annotation(pod, "coracle.dev/object-uid") {
        Some(uid) => uid.to_owned(),
        None => object::uid(pod).to_owned(),
    };
    object::items(&list, "/items")
        .iter()
        .filter(|pod| object::name(pod) != "vc-0")
        .map(|pod| {
            (
                object::name(pod)
                    .trim_end_matches("-x-default-x-vc")
                    .to_owned(),
                uid(pod),
            )
        })
        .collect()
}

/// What a kubelet does with a pod that is to stop.
async fn finish_stopping(world: &World) {
    let list = world.host.get(HOST_PODS).await.unwrap();
    for pod in object::items(&list, "/items") {
        if object::is_terminating(pod) {
            let path = format!("{HOST_PODS}/{}", object::name(pod));
            world.host.try_delete(&path, Some(0)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_agree_in_the_end() {
    let mut world = World::running().await;
    let mut random = Random(20261124);
    for step in 0..150 {
        let name = format!("p{}", random.below(6));
        let inside = format!("{PODS}/{name}");
        let host_name = format!("{name}-x-default-x-vc");
        match random.below(10) {
            0..=3 => world.inside.try_create(PODS, pod(&name)).await,
            4 | 5 => world.inside.try_delete(&inside, None).await,
            6 => world.inside.try_delete(&inside, Some(0)).await,
            7 => {
                let binding = json!({
                    "apiVersion": "v1", "kind": "Binding", "metadata": {"name": host_name},
                    "target": {"kind": "Node", "name": "node-a"},
                });
                world
                    .host
                    .try_create(&format!("{HOST_PODS}/{host_name}/binding"), binding)
                    .await;
                let status =
                    json!({"status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"}});
                world
                    .host
                    .try_patch(&format!("{HOST_PODS}/{host_name}/status"), status)
                    .await;
            }
            8 => {
                world
                    .host
                    .try_delete(&format!("{HOST_PODS}/{host_name}"), None)
                    .await
            }
            _ => finish_stopping(&world).await,
        }
        if step % 37 == 20 {
            world.stop().await;
        }
        if step % 37 == 30 {
            world.start(world.host.client()).await;
        }
        if random.below(4) == 0 {
            tokio::time::sleep(Duration::from_millis(random.below(8))).await;
        }
    }
    if !world.is_running() {
        world.start(world.host.client()).await;
    }
    let start = Instant::now();
    loop {
        finish_stopping(&world).await;
        let (inside, host) = (uids(&world, true).await, uids(&world, false).await);
        if inside == host {
            break;
        }
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "inside {inside:?}, host {host:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Nothing is left of pods that are gone.
    for name in uids(&world, true).await.keys() {
        world
            .inside
            .try_delete(&format!("{PODS}/{name}"), Some(0))
            .await;
    }
    let secrets = "/api/v1/namespaces/demo/secrets";
    loop {
        finish_stopping(&world).await;
        let list = world.host.get(secrets).await.unwrap();
        let tokens = object::items(&list, "/items")
            .iter()
            .filter(|s| object::name(s).starts_with("coracle-token-"))
            .count();
        if tokens == 0 && uids(&world, false).await.is_empty() {
            break;
        }
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{tokens} token secrets are left"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
