//! Namespaces and what they hold.

use serde_json::json;

use crate::support::Cluster;

#[tokio::test]
async fn namespaces_are_furnished_and_emptied() {
    let cluster = Cluster::start().await;
    cluster
        .create("/api/v1/namespaces", json!({"metadata": {"name": "a"}}))
        .await;
    cluster
        .until(
            "/api/v1/namespaces/a/serviceaccounts/default",
            Result::is_ok,
        )
        .await;
    let map = "/api/v1/namespaces/a/configmaps/kube-root-ca.crt";
    let found = cluster.until(map, Result::is_ok).await;
    assert_eq!(found["data"]["ca.crt"], "the authority");
    // Both come back.
    cluster.delete(map, json!({})).await.unwrap();
    cluster.until(map, Result::is_ok).await;
    // A finalizer holds the namespace up, and its status says so.
    let held = "/api/v1/namespaces/a/configmaps/held";
    cluster
        .create(
            "/api/v1/namespaces/a/configmaps",
            json!({
                "metadata": {"name": "held", "finalizers": ["example.com/hold"]},
            }),
        )
        .await;
    cluster
        .delete("/api/v1/namespaces/a", json!({}))
        .await
        .unwrap();
    let namespace = cluster
        .until("/api/v1/namespaces/a", |answer| {
            let conditions = answer
                .as_ref()
                .ok()
                .and_then(|it| it["status"]["conditions"].as_array());
            conditions.is_some_and(|conditions| {
                conditions.iter().any(|condition| {
                    condition["type"] == "NamespaceFinalizersRemaining"
                        && condition["status"] == "True"
                })
            })
        })
        .await;
    assert_eq!(namespace["status"]["phase"], "Terminating");
    cluster
        .patch(held, json!({"metadata": {"finalizers": null}}))
        .await;
    cluster.until_gone("/api/v1/namespaces/a").await;
    cluster.stop().await;
}
