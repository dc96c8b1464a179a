//! scale, binding, eviction, finalize and ephemeral containers.

use serde_json::json;

use crate::support::{Caller, server};

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn scale_shows_and_sets_replicas() {
    let c = Caller(server());
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let body = json!({"metadata": {"name": "d"}, "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "d"}},
        "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    }});
    c.post(path, &body).await.ok();
    let scale = format!("{path}/d/scale");
    let got = c.get(&scale).await.ok();
    assert_eq!(got["kind"], "Scale");
    assert_eq!(got["spec"]["replicas"], 2);
    assert_eq!(got["status"]["selector"], "app=d");
    let mut wanted = got.clone();
    wanted["spec"]["replicas"] = json!(5);
    assert_eq!(c.put(&scale, &wanted).await.ok()["spec"]["replicas"], 5);
    assert_eq!(c.put(&scale, &wanted).await.failed().0, 409);
    let merge = "application/merge-patch+json";
    let body = r#"{"spec":{"replicas":3}}"#;
    c.call("PATCH", &scale, merge, body).await.ok();
    let body = r#"{"spec":{"replicas":-1}}"#;
    assert_eq!(c.call("PATCH", &scale, merge, body).await.failed().0, 422);
    let got = c.get(&format!("{path}/d")).await.ok();
    assert_eq!(got["spec"]["replicas"], 3);
    assert_eq!(got["metadata"]["generation"], 3);
}

fn pod(name: &str) -> serde_json::Value {
    json!({
        "metadata": {"name": name, "labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    })
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let c = Caller(server());
    c.post(PODS, &pod("p")).await.ok();
    let bind = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let target = format!("{PODS}/p/binding");
    let done = c.post(&target, &bind).await;
    assert_eq!(done.status, 201);
    assert_eq!(done.ok()["status"], "Success");
    let got = c.get(&format!("{PODS}/p")).await.ok();
    assert_eq!(got["spec"]["nodeName"], "n");
    assert_eq!(got["status"]["conditions"][0]["type"], "PodScheduled");
    let (code, text) = c.post(&target, &bind).await.failed();
    assert_eq!(code, 409);
    assert!(
        text.contains("pod p is already assigned to node \"n\""),
        "{text}"
    );
    let (code, _) = c.post(&target, &json!({"target": {}})).await.failed();
    assert_eq!(code, 422);
}

#[tokio::test]
async fn evictions_respect_disruption_budgets() {
    let c = Caller(server());
    for name in ["a", "b"] {
        c.post(PODS, &pod(name)).await.ok();
        let status = json!({"metadata": {"name": name, "labels": {"app": "x"}}, "status": {
            "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        let told = c.put(&format!("{PODS}/{name}/status"), &status).await.ok();
        assert_eq!(told["status"]["phase"], "Running");
    }
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}});
    c.post(budgets, &budget).await.ok();
    let evict = |name: &str| {
        let c = c.clone();
        let target = format!("{PODS}/{name}/eviction");
        let body = json!({"metadata": {"name": name}});
        async move { c.post(&target, &body).await }
    };
    let (code, text) = evict("a").await.failed();
    assert_eq!(code, 429, "{text}");
    let status = json!({"metadata": {"name": "b"}, "status": {
        "observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2}});
    c.put(&format!("{budgets}/b/status"), &status).await.ok();
    let refused = evict("zz").await.failed();
    assert_eq!(refused.0, 404);
    assert_eq!(evict("a").await.status, 201);
    assert_eq!(c.get(&format!("{PODS}/a")).await.status, 404);
    let spent = c.get(&format!("{budgets}/b")).await.ok();
    assert_eq!(spent["status"]["disruptionsAllowed"], 0);
    assert!(spent["status"]["disruptedPods"]["a"].is_string());
    let answer = evict("b").await;
    assert_eq!(answer.status, 429);
    assert_eq!(
        answer.body["details"]["causes"][0]["message"],
        "The disruption budget b needs 1 healthy pods and has 2 currently"
    );
}

#[tokio::test]
async fn a_namespace_goes_when_its_last_finalizer_does() {
    let c = Caller(server());
    let body = json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}});
    c.post("/api/v1/namespaces", &body).await.ok();
    let marked = c.delete("/api/v1/namespaces/n").await.ok();
    assert_eq!(marked["status"]["phase"], "Terminating");
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let body = json!({"metadata": {"name": "n"}, "spec": {"finalizers": []}});
    c.put("/api/v1/namespaces/n/finalize", &body).await.ok();
    assert_eq!(c.get("/api/v1/namespaces/n").await.status, 404);
}

#[tokio::test]
async fn ephemeral_containers_are_added_and_stay() {
    let c = Caller(server());
    c.post(PODS, &pod("p")).await.ok();
    let target = format!("{PODS}/p/ephemeralcontainers");
    let body = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "i"}]}});
    let strategic = "application/strategic-merge-patch+json";
    let got = c
        .call("PATCH", &target, strategic, &body.to_string())
        .await
        .ok();
    assert_eq!(got["spec"]["ephemeralContainers"][0]["name"], "debug");
    assert_eq!(got["spec"]["containers"][0]["image"], "i");
    let merge = "application/merge-patch+json";
    let body = r#"{"spec":{"ephemeralContainers":[],"containers":[]}}"#;
    let (code, text) = c.call("PATCH", &target, merge, body).await.failed();
    assert_eq!(code, 422, "{text}");
}
