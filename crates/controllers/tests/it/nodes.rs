//! Placement, and nodes that fail.

use std::time::Duration;

use coracle_controllers::{Options, SchedulerOptions};
use serde_json::json;

use crate::support::Cluster;

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn a_pod_waits_until_a_node_suits_it() {
    let mut cluster = Cluster::start().await;
    cluster
        .create(
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"metadata": {"name": "x"}}),
        )
        .await;
    cluster
        .until(
            "/api/v1/namespaces/default/serviceaccounts/default",
            Result::is_ok,
        )
        .await;
    cluster
        .create(
            PODS,
            json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "c", "image": "ok"}], "nodeSelector": {"disk": "fast"}}}),
        )
        .await;
    let told = |message: &'static str| {
        move |answer: &Result<serde_json::Value, u16>| {
            answer.as_ref().is_ok_and(|pod| {
                pod["status"]["conditions"]
                    .as_array()
                    .is_some_and(|conditions| {
                        conditions
                            .iter()
                            .any(|condition| condition["message"] == message)
                    })
            })
        }
    };
    let path = format!("{PODS}/p");
    cluster
        .until(&path, told("no nodes available to schedule pods"))
        .await;
    cluster.add_node("n").await;
    cluster
        .until(
            &path,
            told(
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
             preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
            ),
        )
        .await;
    cluster
        .patch(
            "/api/v1/nodes/n",
            json!({"metadata": {"labels": {"disk": "fast"}}}),
        )
        .await;
    cluster
        .until(&path, |answer| {
            answer
                .as_ref()
                .is_ok_and(|it| it["status"]["phase"] == "Running")
        })
        .await;
    let events = "/api/v1/namespaces/default/events";
    cluster
        .until(events, |answer| {
            let events = answer.as_ref().ok().and_then(|it| it["items"].as_array());
            events.is_some_and(|events| {
                events
                    .iter()
                    .any(|it| it["message"] == "Successfully assigned default/p to n")
            })
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_silent_node_is_tainted_and_loses_its_pods() {
    let mut cluster = Cluster::start_with(Options {
        node_monitor_grace: Duration::from_secs(1),
        scheduler: Some(SchedulerOptions::default()),
        ..Options::default()
    })
    .await;
    cluster.add_node("n").await;
    cluster
        .until(
            "/api/v1/namespaces/default/serviceaccounts/default",
            Result::is_ok,
        )
        .await;
    cluster
        .create(
            PODS,
            json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "c", "image": "ok"}], "tolerations": [
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists",
                 "effect": "NoExecute", "tolerationSeconds": 0},
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists",
                 "effect": "NoExecute", "tolerationSeconds": 300}]}}),
        )
        .await;
    cluster
        .until("/api/v1/nodes/n", |answer| {
            let node = answer.as_ref().unwrap();
            let unknown = node["status"]["conditions"]
                .as_array()
                .is_some_and(|conditions| {
                    conditions
                        .iter()
                        .any(|it| it["type"] == "Ready" && it["status"] == "Unknown")
                });
            let tainted = node["spec"]["taints"].as_array().is_some_and(|taints| {
                taints
                    .iter()
                    .any(|it| it["key"] == "node.kubernetes.io/unreachable")
            });
            unknown && tainted
        })
        .await;
    cluster.until_gone(&format!("{PODS}/p")).await;
    // A heartbeat makes it whole again.
    cluster
        .patch(
            "/api/v1/nodes/n/status",
            json!({"status": {"conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady",
            "lastHeartbeatTime": jiff::Timestamp::now().to_string(),
            "lastTransitionTime": jiff::Timestamp::now().to_string()}]}}),
        )
        .await;
    cluster
        .until("/api/v1/nodes/n", |answer| {
            let node = answer.as_ref().unwrap();
            node["spec"]["taints"].as_array().is_none_or(Vec::is_empty)
        })
        .await;
    cluster.stop().await;
}
